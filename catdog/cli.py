"""The frame around the four entry points: help, composition by Hydra, and errors a user can act on.

Hydra composes and runs; this module turns what goes wrong into one message and an exit code: 2 for a user's mistake,
130 for Ctrl-C, 1 for a defect of ours, whose traceback is logged in full.
"""

import dataclasses
import difflib
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable

import hydra
import yaml
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from catdog import commands
from catdog import config as schema
from catdog.console import console, show_error
from catdog.errors import InterruptedRunError, UserError
from catdog.sweep import options as launcher

log = logging.getLogger(__name__)

EXIT_DEFECT = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

SWEEP_HELP = """Sweeps:
  -m KEY=A,B,C    one run for each value; several such keys give every combination
{options}
Look first:
  --cfg job       print the composed config and stop
  --help          this text"""


def run_app(root: str, task: Callable[[DictConfig], None], *, usage: str, sweeps: bool = False) -> None:
    """Composes the config named `root`, calls `task` with it, and exits with the code that says how it went.

    Args:
        root: name of the primary config in `conf/`, `config` or a key of `commands.ROOTS`.
        task: called with the composed config; it may raise `UserError`.
        usage: the first lines of `--help`.
        sweeps: whether `-m` makes sense here.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        console.print(build_help(root, usage, sweeps), soft_wrap=True, highlight=False, markup=False)
        sys.exit(0)
    sys.argv[1:] = [_expand_home(argument) for argument in sys.argv[1:]]
    schema.register()
    # Otherwise Hydra prints its own, longer text for every exception and exits before we can say anything.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    folder = schema.CONF
    if root != "config":
        commands.register()
        folder = schema.CONF / "command"
    try:
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
        # Hydra's way to say that model=1 or dataset=null names no choice of a group.
        if "Config group override" not in str(error):
            raise
        show_error(f"{error}. A GROUP=CHOICE takes the name of a choice; --help lists them.")
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        # Before any of our code runs, Hydra makes the folder for logs; a job's own errors do not come here.
        if "catdog.sweep.launch" in sys.modules:
            raise
        advice = (
            "Run in a folder you may write to, or name one for logs: hydra.run.dir=PATH, with -m hydra.sweep.dir=PATH."
        )
        show_error(f"cannot write {error.filename} ({error.strerror}). {advice}")
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        show_error("interrupted.")
        sys.exit(EXIT_INTERRUPTED)


def _expand_home(argument: str) -> str:
    """Returns KEY=~/PATH with the home folder in it: shells expand ~ only at the start of a word, and Hydra refuses it."""
    key, separator, value = argument.partition("=~")
    return f"{key}={os.path.expanduser('~' + value)}" if separator and value.startswith("/") else argument  # noqa: PTH111


def _guard(task: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Returns `task` with its exceptions turned into exits: Hydra prints noise of its own around an exception in a job."""

    def guarded(composed: DictConfig) -> None:
        try:
            task(composed)
        except UserError as error:
            log.debug("user error", exc_info=True)
            show_error(str(error))
            sys.exit(EXIT_USER_ERROR)
        except InterruptedRunError:
            show_error("interrupted; the same command goes on with it.")
            sys.exit(EXIT_INTERRUPTED)
        except KeyboardInterrupt:
            show_error("interrupted.")
            sys.exit(EXIT_INTERRUPTED)
        except Exception:
            import traceback

            log.exception("this is a defect of catdog, not a mistake of yours; the traceback follows")
            show_error(traceback.format_exc())
            sys.exit(EXIT_DEFECT)

    return guarded


def explain(error: Exception, root: str) -> str:
    """Returns one message for an error of composition: the key, what is allowed, what was received."""
    text = str(error)
    cause = error.__cause__
    ambiguous = re.search(r"Ambiguous value for argument '(.*)'", text)
    if ambiguous:
        return f"{ambiguous.group(1)}: several values make a sweep: add -m. For one list, write KEY=[A,B]."
    unknown = re.search(r"Could not override '([^']+)'", text) or re.search(
        r"Key '[^']+' not in .*full_key: (\S+)", text, re.S
    )
    if unknown and unknown.group(1) in schema.MOVED_KEYS:
        return f"{unknown.group(1)}: is called {schema.MOVED_KEYS[unknown.group(1)]}."
    if unknown and "Could not override" in text and (cause is None or "not in" in str(cause)):
        return _explain_unknown(unknown.group(1), root)
    if "Could not find" in text and "Available options in" in text:
        missing = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
        if missing:
            allowed = list_choices(missing.group(1))
            return f"{missing.group(1)}={missing.group(2)}: no such option; allowed: {', '.join(allowed)}."
    if "Could not append" in text or "Could not delete" in text:
        return text.splitlines()[0]
    if isinstance(error, OverrideParseException):
        advice = "Write KEY=VALUE, and quote a value with special characters: 'KEY=\"VALUE\"'."
        return f"cannot read {error.override!r}. {advice}"
    value = re.search(r"Value '(.*)' of type '(\w+)' could not be converted to (\w+)", f"{text}\n{cause}")
    key = re.search(r"full_key: (\S+)", f"{text}\n{cause}")
    if value and key:
        wanted = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}.get(
            value.group(3), value.group(3)
        )
        return f"{key.group(1)}: must be {wanted}, received {value.group(1)!r}."
    lines = [line.strip() for line in (text if cause is None else f"{text}\n{cause}").splitlines() if line.strip()]
    kept = [
        line for line in lines if not line.startswith(("See https", "object_type", "reference_type", "Config search"))
    ]
    return "\n       ".join(dict.fromkeys(kept))


def _explain_unknown(key: str, root: str) -> str:
    known = [name for name, _, _ in schema.list_options(_schema(root))]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    parent = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    if not siblings:
        siblings = list(dict.fromkeys(name.partition(".")[0] for name in known))
        parent = ""
    hint = f" Did you mean {close[0]}?" if close else ""
    return (
        f"{key}: no such key.{hint}\n       Allowed{f' in {parent}' if parent else ''}: {', '.join(siblings)}; "
        "--help explains them."
    )


def list_choices(group: str) -> list[str]:
    """Returns the names of a config group's files, such as ["cnn", ...] for `model`."""
    return sorted(path.stem for path in (schema.CONF / group).glob("*.yaml"))


def build_help(root: str, usage: str, sweeps: bool) -> str:
    """Returns the text of `--help`: usage, groups with their choices, keys with defaults and meanings."""
    held = {field.name: schema.nested_schema(_schema(root), field.name) for field in dataclasses.fields(_schema(root))}
    groups = [group for group, kind in schema.GROUPS.items() if held.get(group) is kind]
    if root == "config":
        groups = ["model", *groups, "experiment"]
    lines = [usage.strip()]
    if groups:
        lines += ["", "Groups, GROUP=CHOICE:"]
    for group in groups:
        for number, name in enumerate(list_choices(group)):
            lines.append(f"  {group if number == 0 else '':14} {name:18} {_describe(group, name)}".rstrip())
    lines += ["", "Keys, KEY=VALUE:"]
    for key, default, help in schema.list_options(_schema(root)):
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


def next_command(command: str, study: str, uri: str, *arguments: str) -> str:
    """Returns a catdog command to be copied into a shell: it works on the same study in the same store.

    Args:
        command: train, compare, evaluate or predict.
        study: left out where it is the default.
        uri: tracking address, left out where it is the default.
        arguments: further ones.
    """
    options = [*arguments]
    if study != schema.DEFAULT_STUDY:
        options.append(f"study={study}")
    if uri != schema.DEFAULT_URI:
        options.append(f"tracking.uri={uri}")
    return shlex.join([python_command(), "-m", f"catdog.{command}", *options])


def this_command(*, without: str = "") -> str:
    """Returns the command line that is running, to be typed again; arguments that begin with `without` are left out."""
    hidden = ("hydra.launcher.result_file=", *([without] if without else []))
    arguments = [item for item in sys.argv[1:] if not item.startswith(hidden)]
    return shlex.join([python_command(), "-m", "catdog.train", *arguments])


def python_command() -> str:
    """Returns how this Python is called: by its path where it is a virtual environment's that is not activated."""
    if sys.prefix == sys.base_prefix or os.environ.get("VIRTUAL_ENV") == sys.prefix:
        return "python"
    relative = os.path.relpath(sys.executable)
    return sys.executable if relative.startswith("..") else relative


def _schema(root: str) -> type:
    return schema.Config if root == "config" else commands.ROOTS[root]


def _describe(group: str, name: str) -> str:
    with (schema.CONF / group / f"{name}.yaml").open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("# ") and not line.startswith("# @package"):
                return line[2:].strip()
    return ""
