"""Entry: a registered model -> its figures on the test split. `python -m catdog.evaluate --help` explains it."""

from omegaconf import DictConfig

from catdog import cli
from catdog.config.command_lines import next_command
from catdog.config.commands import EvaluateConfig
from catdog.config.schema import load_config
from catdog.deployment.evaluation import evaluate
from catdog.system.terminal import show_next

USAGE = """Evaluates the champion on the test split, which training never reads, and logs the result to the run it came from.
Every look at a test split is counted: the more looks, the less its best result means.

  python -m catdog.evaluate
  python -m catdog.evaluate study=quickstart
  python -m catdog.evaluate model=RUN_ID        or model=3, model=champion, model=catdog/3, model=catdog@champion"""


def main(composed: DictConfig) -> None:
    """Evaluates and says what to do next."""
    from catdog import tracking

    config = load_config(composed, EvaluateConfig)
    client = tracking.connect(config.tracking, create=False)
    evaluate(client, config)
    model = [f"model={config.model}"] if config.model else []
    show_next(next_command("predict", config.study, config.tracking.uri, "PHOTO.jpg", *model))


if __name__ == "__main__":
    cli.run_app("evaluate", main, usage=USAGE)
