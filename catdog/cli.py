"""What all commands share: help, composition by Hydra, and errors that a user can act on.

Hydra composes the config and runs the command. This module turns every error into one message and an exit code: 2 for a user's
mistake, 130 for Ctrl-C, 1 for a defect of catdog, whose full traceback is logged.
"""

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from catdog import __version__
from catdog.config import commands, schema
from catdog.config.command_lines import repeat_command
from catdog.config.composition import bracket_list
from catdog.config.mistakes import (
    explain,
    explain_choice,
    explain_flag,
    list_choices,
    list_groups,
    require_valid,
    schema_of,
)
from catdog.config.sweep_base import tolerant_sweeps
from catdog.sweeps import options as launcher
from catdog.system import terminal
from catdog.system.documents import to_plain
from catdog.system.errors import EXIT_DEFECT, EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from catdog.system.memory import own_process
from catdog.system.terminal import console, show_error, show_next, show_table

if TYPE_CHECKING:
    from rich.table import Table

    from catdog.sweeps.plan import PlannedRun

log = logging.getLogger(__name__)

# The version of the JSON documents. It changes if a field is removed or changes its meaning.
FORMAT_VERSION = 1


SWEEP_HELP = """Sweeps:
  -m KEY=A,B,C    one run for each value; several such keys give every combination
{options}
Look first:
  --cfg job       print the composed config and stop
  --help          this text"""


# Commands that, typed again after an interrupt, continue where they stopped: the name of each by that of its primary config.
RESUMABLE = {"config": "train", "decide": "decide", "tune": "tune", "deliver": "deliver", "predict": "predict"}


def run_app(
    root: str,
    task: Callable[[DictConfig], None],
    *,
    usage: str,
    sweeps: bool = False,
    typed: Sequence[str] | None = None,
) -> None:
    """Composes the config named `root` and calls `task` with it. Exits with a code other than 0 if that fails.

    Args:
        root: name of the primary config in `conf/`, `config` or a key of `commands.ROOTS`.
        task: called with the composed config; it may raise `UserError`.
        usage: the first lines of `--help`.
        sweeps: whether `-m` makes sense here.
        typed: the arguments as the user typed them, if the command has removed some from `sys.argv`.
    """
    typed = list(sys.argv[1:] if typed is None else typed)
    if {"--help", "-h", "--version"} & set(sys.argv[1:]):
        text = f"catdog {__version__}" if "--version" in sys.argv[1:] else build_help(root, usage, sweeps)
        console.print(text, soft_wrap=True, highlight=False, markup=False)
        sys.exit(0)
    # The stable sort puts -m first: after it, Python's parser refuses what follows KEY=VALUE.
    given = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    sys.argv[1:] = [bracket_list(_expand_home(argument), root) for argument in given]
    own_process()
    terminal.shows_progress = True
    # Read when MLflow is imported. Its informational messages are of no use to a user.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    schema.register()
    # Otherwise Hydra prints a longer text of its own for every exception, and exits before we can print ours.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    folder = schema.CONF
    if root != "config":
        commands.register()
        folder = schema.CONF / "command"
    try:
        check_arguments(sys.argv[1:], root, sweeps=sweeps)
        with tolerant_sweeps():
            hydra.main(config_path=str(folder), config_name=root, version_base="1.3")(_guard(task))()
    except UserError as error:
        show_error(str(error))
        sys.exit(EXIT_USER_ERROR)
    except (HydraException, OmegaConfBaseException) as error:
        show_error(explain(error, root))
        sys.exit(EXIT_USER_ERROR)
    except yaml.YAMLError as error:
        show_error(f"a file in {schema.CONF} is not YAML: {' '.join(str(error).split())}")
        sys.exit(EXIT_USER_ERROR)
    except ValueError as error:
        if "Only one of" in str(error):
            show_error("--cfg shows one run, so it cannot be combined with -m. Leave one of them out.")
            sys.exit(EXIT_USER_ERROR)
        # Hydra raises this if model=1 or dataset=null does not name a choice of the group.
        if "Config group override" not in str(error):
            raise
        show_error(explain_choice(error))
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        # Hydra creates the folder for logs before any of our code runs. Errors of the task itself do not reach this line.
        if "catdog.sweeps.launch" in sys.modules:
            raise
        advice = "Run in a folder you may write to, or name one for logs: hydra.run.dir=PATH, or with -m hydra.sweep.dir=PATH."
        show_error(f"cannot write {error.filename} ({error.strerror}). {advice}")
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        # Also from within the task: Hydra passes it on.
        show_error(_describe_interrupt(root, typed))
        sys.exit(EXIT_INTERRUPTED)


def _describe_interrupt(root: str, typed: Sequence[str]) -> str:
    if root not in RESUMABLE or (root == "predict" and not any(word.startswith("output=") for word in typed)):
        return "interrupted."
    return f"interrupted. The same command resumes:\n  {repeat_command(RESUMABLE[root], typed)}"


def check_arguments(
    arguments: list[str], root: str, *, sweeps: bool, taken: Iterable[str] = (), intervals: bool = False
) -> None:
    """Raises UserError for the first mistake that can be seen before Hydra reads the arguments.

    Args:
        arguments: the command's.
        root: as in `run_app`.
        sweeps: whether `-m` makes sense here.
        taken: further keys that the command knows.
        intervals: whether a key may be given an interval.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        # argparse's own words: "argument --cfg/-c: expected one argument".
        flag, _, problem = message.removeprefix("argument ").partition(": ")
        raise UserError(f"{flag}: {problem}. --help lists what this command takes.")

    parser.error = refuse
    given, unknown = parser.parse_known_args(arguments)
    flag = next((item for item in unknown if item.startswith("-")), None)
    if flag:
        # What is known of several flags in one word, such as -mx, is not in the arguments.
        position = arguments.index(flag) if flag in arguments else len(arguments)
        raise UserError(
            explain_flag(flag, "".join(arguments[position + 1 : position + 2]), root, sweeps=sweeps, taken=taken)
        )
    if given.multirun and not sweeps:
        raise UserError(
            f"-m: {root} makes no sweep; leave it out. Sweeps are trained: python -m catdog.train -m KEY=A,B."
        )
    if not (given.config_path or given.config_name or given.hydra_help or given.experimental_rerun):
        folders = [Path(given.config_dir)] if given.config_dir else []
        require_valid([*given.overrides, *unknown], root, folders=folders, taken=taken, intervals=intervals)


def pass_config_dir(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with `--config-dir DIR` as an override, for a command that composes the runs itself."""
    parser = get_args_parser()
    given, _ = parser.parse_known_args(arguments)
    if not given.config_dir:
        return list(arguments)
    words = [item for item in arguments if not item.startswith(("--config-dir=", "-cd="))]
    for flag in {"--config-dir", "-cd"} & set(words):
        place = words.index(flag)
        del words[place : place + 2]
    return [*words, f"hydra.searchpath=['{Path(given.config_dir).absolute()}']"]


def _expand_home(argument: str) -> str:
    """Returns KEY=~/PATH with ~ replaced by the home folder: shells expand ~ only at the start of a word, and Hydra refuses it."""
    key, separator, value = argument.partition("=~")
    return f"{key}={os.path.expanduser('~' + value)}" if separator and value.startswith("/") else argument  # noqa: PTH111


def _guard(task: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Returns `task` with its exceptions turned into exits, because Hydra surrounds an exception in a task with text of its own."""

    def guarded(composed: DictConfig) -> None:
        try:
            task(composed)
        except UserError as error:
            log.debug("user error", exc_info=True)
            show_error(str(error))
            sys.exit(EXIT_USER_ERROR)
        except Exception:
            import traceback

            log.exception("this is a defect of catdog, not a mistake of yours; the traceback follows")
            show_error(traceback.format_exc())
            sys.exit(EXIT_DEFECT)

    return guarded


def build_help(root: str, usage: str, sweeps: bool) -> str:
    """Returns the text of `--help`: usage, groups with their choices, keys with defaults and meanings."""
    groups = list_groups(root)
    lines = [usage.strip()]
    if groups:
        lines += ["", "Groups, GROUP=CHOICE:"]
    for group in groups:
        for number, name in enumerate(list_choices(group)):
            lines.append(f"  {group if number == 0 else '':14} {name:18} {_describe(group, name)}".rstrip())
    lines += ["", "Keys, KEY=VALUE:"]
    for key, default, help in schema.list_options(schema_of(root)):
        value = "null" if default is None else str(default).lower() if isinstance(default, bool) else default
        lines.append(f"  {key}={value}".ljust(44) + f" {help}")
    if sweeps:
        options = [
            f"  hydra.launcher.{f.name}={'null' if f.default is None else str(f.default).lower()}".ljust(44)
            + f" {launcher.HELP[f.name]}"
            for f in dataclasses.fields(launcher.LauncherOptions)
        ]
        lines += ["", SWEEP_HELP.format(options="\n".join(options))]
    return "\n".join(lines)


def finish_plan(runs: "Sequence[PlannedRun]", again: str, format: str) -> NoReturn:
    """Shows a plan and exits, for `plan_only`.

    Args:
        runs: the plan.
        again: the command that trains these runs.
        format: table or json.
    """
    from catdog.sweeps.plan import build_table, describe_plan, restore_commands

    # Restoring is cheaper than training again.
    steps = [*restore_commands(runs), again]
    if format == "json":
        show_json("plan", {"runs": describe_plan(runs), "next": steps})
    else:
        show_table(build_table(runs))
        show_next(*steps)
    sys.exit(0)


def show_result(table: "Table") -> None:
    """Prints a table of results to stdout, even if the console writes to stderr; nothing if it has no rows."""
    if table.row_count:
        Console(width=console.width, markup=False).print(table)


def show_json(command: str, content: Mapping[str, Any]) -> None:
    """Prints a command's result as one JSON document: the version of the format, the command, and the content. NaN becomes null."""
    document = to_plain({"format_version": FORMAT_VERSION, "command": command, **content})
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _describe(group: str, name: str) -> str:
    with (schema.CONF / group / f"{name}.yaml").open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("# ") and not line.startswith("# @package"):
                return line[2:].strip()
    return ""
