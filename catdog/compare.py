"""The command `compare`: puts runs side by side. `python -m catdog.compare --help` explains it."""

import gc
import logging

from omegaconf import DictConfig

from catdog import cli
from catdog.config.command_lines import next_command
from catdog.config.commands import CompareConfig
from catdog.config.schema import load_config
from catdog.system.terminal import console, show_next

log = logging.getLogger(__name__)

USAGE = """Puts runs side by side: a table here and as CSV, and one HTML page with every figure.

  python -m catdog.compare                      the latest sweep of the study cats_vs_dogs
  python -m catdog.compare study=quickstart
  python -m catdog.compare sweep=RUN_ID         or runs=RUN_ID,RUN_ID
  python -m catdog.compare metric=log_loss      or balanced_accuracy, brier, auc, f1, top_5, cost:FILE, your own
  python -m catdog.compare format=json          for scripts"""


def compare(composed: DictConfig) -> None:
    """Writes tables, figures and the page, prints the result, and says what to do next."""
    config = load_config(composed, CompareConfig)
    # Imports and thousands of runs are a million objects that are never freed. Scanning them for garbage took half the time.
    gc.disable()
    # Imported here so that --help and config errors are fast.
    from catdog.comparison.page.tables import print_tables
    from catdog.study import Study

    # With JSON, stdout must contain nothing but the result.
    console.stderr = config.format == "json"
    study = Study(config.study, tracking_uri=config.tracking.uri)
    comparison = study.compare(
        metric=config.metric, margin=config.margin, sweep=config.sweep, runs=config.runs, gradcam=config.gradcam
    )
    folder = comparison.save_folder(config.output)
    page = folder / "comparison.html"
    place = (comparison.study, config.tracking.uri)
    # Another look at the same test images would tell nothing new.
    is_tested = bool(comparison.analysis.comparison.looks)
    steps = [next_command("predict", *place, "PHOTO.jpg") if is_tested else next_command("evaluate", *place)]
    compared = Study(comparison.study, tracking_uri=config.tracking.uri)
    if not compared.has_champion_to_test() or not (is_tested or study.is_writable):
        steps = []
    found = comparison.analysis.comparison
    # Restoring is cheaper than training again.
    restore = [found.restore] if found.restore else []
    resume = [found.command] if found.sweep_id and found.command and not found.complete and not found.of_search else []
    # What is left of an incomplete sweep is no reason to look at test images, or to train other variants.
    more = [*comparison.suggest_partners(config.tracking.uri), *comparison.suggest_decision(config.tracking.uri)]
    further = [] if found.is_partial else [*more, *steps]
    steps = [*restore, *resume, *further]
    # Otherwise Python would scan all objects once more when the process ends.
    gc.freeze()
    if config.format == "json":
        cli.show_json("compare", {**comparison.to_dict(), "page": str(page), "next": steps})
        return
    print_tables(comparison.analysis, console)
    log.info(
        "page     %s\ntables   %s\nfigures  %s", page, folder / "{table,variants,pairs,classes}.csv", folder / "figures"
    )
    show_next(f"open {page} in a browser", *steps)


if __name__ == "__main__":
    cli.run_app("compare", compare, usage=USAGE)
