"""Entry: seeds are trained until a comparison is decided. `python -m catdog.decide --help` explains it."""

import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from catdog import cli
from catdog.config.commands import DecideConfig
from catdog.config.schema import load_config
from catdog.search.decisions import decide
from catdog.system.errors import EXIT_USER_ERROR, UserError

USAGE = """Trains seed after seed of some variants until each pair of them is decided: one is better, or they are as good as equal.
It looks after every round, and is wrong no more often for it. Runs that exist already are reused; the same command goes on.

  python -m catdog.decide model=cnn,augmented margin=0.02 error=0.05 max_seeds=12
  python -m catdog.decide model=cnn trainer.learning_rate=0.001,0.0003 max_seeds=8

Everything but the keys below is handed on to python -m catdog.train, as for a sweep: what varies makes the variants."""


OWN_KEYS = ("margin", "error", "first_seeds", "max_seeds")


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns what is for this command, and what is for training.

    Raises:
        UserError: a key that this command sets itself.
    """
    own: list[str] = []
    rest: list[str] = []
    for item in arguments:
        key = item.lstrip("+~").partition("=")[0]
        if item in ("-m", "--multirun"):
            continue
        if key in ("seed", "hydra.launcher.plan_only", "hydra.launcher.only", "hydra.launcher.result_file"):
            raise UserError(
                f"{key}: set by this command, received {item!r}. Leave it out; first_seeds and max_seeds say how many seeds."
            )
        (own if key in OWN_KEYS or item.startswith("-") else rest).append(item)
    return own, rest


def main() -> None:
    """Runs the command."""
    from catdog.system.terminal import show_error

    try:
        own, overrides = split_arguments(sys.argv[1:])
    except UserError as error:
        show_error(str(error))
        sys.exit(EXIT_USER_ERROR)

    def run(composed: DictConfig) -> None:
        config = load_config(composed, DecideConfig)
        decide(config, overrides)

    sys.argv[1:] = own
    cli.run_app("decide", run, usage=USAGE)


if __name__ == "__main__":
    main()
