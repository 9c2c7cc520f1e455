"""The command `evaluate`: evaluates a model on the test split. `python -m catdog.evaluate --help` explains it."""

import shlex
import sys

from omegaconf import DictConfig

from catdog import cli
from catdog.config.command_lines import next_command
from catdog.config.commands import EvaluateConfig
from catdog.config.schema import load_config
from catdog.system.terminal import console, show_next, show_table

USAGE = """Evaluates the champion on the test split, which training never reads, and logs the result to the run that trained it.
Every look at a test split is counted: the more looks, the less the best result means.

  python -m catdog.evaluate
  python -m catdog.evaluate study=quickstart
  python -m catdog.evaluate model=RUN_ID        or model=3, model=champion, model=flowers/3, model=flowers@champion
  python -m catdog.evaluate format=json         for scripts"""


def evaluate(composed: DictConfig) -> None:
    """Evaluates, prints the result, and says what to do next."""
    config = load_config(composed, EvaluateConfig)
    from catdog.deployment.evaluation import build_classes_table, build_looks_table
    from catdog.study import Study

    # With JSON, stdout must contain nothing but the result.
    console.stderr = config.format == "json"
    uri = config.tracking.uri
    study = Study.choose(config.study, config.model, tracking_uri=uri)
    model = study.model(config.model)
    name = "" if model.words.endswith(model.run_name) else f", run {model.run_name}"
    console.print(f"evaluating {model.words}{name} ({model.run_id})", highlight=False)
    evaluation = study.evaluate(
        model, archive=config.dataset.archive, cache=config.dataset.cache, batch_size=config.batch_size,
        command=shlex.join(["python", "-m", "catdog.evaluate", *sys.argv[1:]]),
    )  # fmt: skip
    named = [f"model={config.model}"] if config.model else []
    predict = next_command("predict", study.name, uri, "PHOTO.jpg", *named)
    if config.format == "json":
        cli.show_json("evaluate", {"study": study.name, **evaluation.to_dict(), "next": [predict]})
        return
    console.print(evaluation.summary, style="bold", highlight=False)
    console.print(evaluation.baseline_words, highlight=False)
    show_table(build_classes_table(evaluation))
    console.print(evaluation.words, highlight=False, soft_wrap=True)
    show_table(build_looks_table(evaluation))
    show_next(predict)


if __name__ == "__main__":
    cli.run_app("evaluate", evaluate, usage=USAGE)
