"""The command `tune`: searches for good settings, and checks that they are better. `python -m catdog.tune --help` explains it."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import fields

from omegaconf import DictConfig
from rich.text import Text

from catdog import cli
from catdog.config.commands import TuneConfig
from catdog.config.schema import load_config
from catdog.system.errors import EXIT_DEFECT, EXIT_USER_ERROR, UserError
from catdog.system.terminal import console, show_error, show_next, show_table

log = logging.getLogger(__name__)

USAGE = """Searches for good settings of one model, and checks with fresh seeds whether the best of them beat the default.
Most trials stop early, at a checkpoint; only those that do well go on. After an interruption the same command resumes.

  python -m catdog.tune model=cnn 'trainer.learning_rate=tag(log,interval(1e-4,1e-2))' head.units=64,128,256 trials=40
  python -m catdog.tune model=cnn head.dropout='interval(0,0.7)' budget_minutes=120 top=4 seeds=5
  python -m catdog.tune model=transfer augmentation=none,flip_rotate,strong sampler=grid

All keys except those below are passed on to python -m catdog.train. Keys with several values, or an interval, make the space; the
others hold for all trials. hydra.launcher.n_jobs=2 trains two trials at a time."""

OWN_KEYS = tuple(field.name for field in fields(TuneConfig))


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the arguments of this command, and those that are passed on to training.

    Raises:
        UserError: an argument sets a key that this command sets itself.
    """
    own: list[str] = []
    rest: list[str] = []
    for item in arguments:
        key = item.lstrip("+~").partition("=")[0]
        if item in ("-m", "--multirun"):
            continue
        if key in ("hydra.launcher.plan_only", "hydra.launcher.only", "hydra.launcher.result_file"):
            raise UserError(f"{key}: has no meaning in a search, received {item!r}. Leave it out.")
        (own if key in OWN_KEYS or item.startswith("-") else rest).append(item)
    return own, rest


def run(composed: DictConfig, overrides: Sequence[str], typed: Sequence[str]) -> None:
    """Searches, and prints the trials and the verdict, or with format=json one document at the end."""
    config = load_config(composed, TuneConfig)
    from catdog.search.decisions import IncompleteRoundError
    from catdog.search.decisions import build_table as build_race
    from catdog.search.tuned import PAGE, build_table
    from catdog.search.tuning import tune
    from catdog.sweeps.display import Display
    from catdog.sweeps.options import LauncherOptions
    from catdog.training_view import prepare, train_sweep

    prepare(LauncherOptions())
    # With JSON, stdout must contain nothing but the result.
    console.stderr = config.format == "json"
    try:
        tuning = tune(
            config,
            overrides,
            command=typed,
            make_display=Display,
            run=train_sweep,
            on_found=lambda found: show_table(build_table(found)),
            on_round=lambda words: console.print(Text(f"\nrace, {words}", style="bold")),
            on_look=lambda state: show_table(build_race(state)),
        )
    except IncompleteRoundError as error:
        show_error(str(error))
        sys.exit(EXIT_DEFECT)
    folder = tuning.save_folder(config.output)
    page, steps = folder / PAGE, tuning.next_commands()
    if config.format == "json":
        cli.show_json("tune", {**tuning.describe(), "page": str(page), "next": steps})
        return
    for sentence in tuning.sentences():
        console.print(Text(sentence), soft_wrap=True)
    log.info("page     %s\ntable    %s\nfigures  %s", page, folder / "trials.csv", folder / "figures")
    show_next(f"open {page} in a browser", *steps)


def main() -> None:
    """Runs the command."""
    typed = sys.argv[1:]
    # Hydra's plus sign adds a key to the config; here it adds keys to the space.
    arguments = [item.removeprefix("+") if item.startswith("+space=") else item for item in typed]
    try:
        if not {"--help", "-h", "--version"} & set(arguments):
            cli.check_arguments(arguments, "config", sweeps=True, taken=OWN_KEYS, intervals=True)
        own, overrides = split_arguments(cli.pass_config_dir(arguments))
    except UserError as error:
        show_error(str(error))
        sys.exit(EXIT_USER_ERROR)
    sys.argv[1:] = own
    cli.run_app("tune", lambda composed: run(composed, overrides, typed), usage=USAGE, typed=typed)


if __name__ == "__main__":
    main()
