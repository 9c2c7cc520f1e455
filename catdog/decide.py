"""The command `decide`: trains seeds until a comparison is decided. `python -m catdog.decide --help` explains it."""

import sys
from collections.abc import Sequence

from omegaconf import DictConfig
from rich.text import Text

from catdog import cli
from catdog.config.commands import DecideConfig, require_left_to_decide
from catdog.config.schema import load_config
from catdog.system.errors import EXIT_DEFECT, EXIT_USER_ERROR, UserError
from catdog.system.terminal import console, show_error, show_next, show_table

USAGE = """Trains more and more seeds of some variants until each pair of them is decided: one is better, or they are equivalent.
It looks at the results after every round; the error rate allows for these looks. Runs that exist already are reused, and after an
interruption the same command resumes.

  python -m catdog.decide model=cnn,augmented margin=0.02 error=0.05 max_seeds=12
  python -m catdog.decide model=cnn trainer.learning_rate=0.001,0.0003 max_seeds=8
  python -m catdog.decide model=cnn,augmented metric=log_loss

All keys except those below are passed on to python -m catdog.train, as for a sweep. Keys with several values make the variants."""

OWN_KEYS = ("metric", "margin", "error", "first_seeds", "max_seeds", "plan", "format")


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
        require_left_to_decide(item)
        (own if key in OWN_KEYS or item.startswith("-") else rest).append(item)
    return own, rest


def run(composed: DictConfig, overrides: Sequence[str]) -> None:
    """Decides, and prints a table after each round, or with format=json the decision at the end."""
    config = load_config(composed, DecideConfig)
    from catdog.search.decisions import IncompleteRoundError, SweepTrainer, build_plans_table, build_table, decide
    from catdog.training_view import train_sweep

    # With JSON, stdout must contain nothing but the result.
    console.stderr = config.format == "json"
    try:
        decision = decide(
            config,
            SweepTrainer(overrides, train_sweep, config.metric),
            on_round=lambda words: console.print(Text(f"\n{words}", style="bold")),
            on_look=lambda state: show_table(build_table(state)),
        )
        if decision.plans and config.format != "json":
            show_table(build_plans_table(decision))
    except IncompleteRoundError as error:
        show_error(str(error))
        sys.exit(EXIT_DEFECT)
    if config.format == "json":
        content = {
            "study": decision.study,
            "sweep": decision.sweep_id,
            "metric": config.metric,
            "margin": decision.margin,
            "error": decision.error,
        }
        plans = {"plans": decision.describe_plans()} if config.plan else {}
        cli.show_json("decide", {**content, "pairs": decision.describe(), **plans, "next": decision.next_commands()})
    else:
        show_next(*decision.next_commands())


def main() -> None:
    """Runs the command."""
    typed = sys.argv[1:]
    try:
        if not {"--help", "-h", "--version"} & set(sys.argv[1:]):
            cli.check_arguments(sys.argv[1:], "config", sweeps=True, taken=OWN_KEYS)
        own, overrides = split_arguments(cli.pass_config_dir(sys.argv[1:]))
    except UserError as error:
        show_error(str(error))
        sys.exit(EXIT_USER_ERROR)
    sys.argv[1:] = own
    cli.run_app("decide", lambda composed: run(composed, overrides), usage=USAGE, typed=typed)


if __name__ == "__main__":
    main()
