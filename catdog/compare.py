"""Entry: many runs -> table, figures, one page. `python -m catdog.compare --help` explains it."""

import gc
import logging
import shutil
from pathlib import Path

from omegaconf import DictConfig

from catdog import cli
from catdog.config.command_lines import next_command
from catdog.config.commands import CompareConfig
from catdog.config.schema import hash_text, load_config
from catdog.system.errors import UserError
from catdog.system.files import remove_partial, write_atomically
from catdog.system.terminal import console, show_next

log = logging.getLogger(__name__)

USAGE = """Puts runs side by side: a table here and as CSV, and one HTML page with every figure.

  python -m catdog.compare                      the latest sweep of the study cats_vs_dogs
  python -m catdog.compare study=quickstart
  python -m catdog.compare sweep=RUN_ID         or runs=[RUN_ID,RUN_ID]"""


def compare(composed: DictConfig) -> None:
    """Writes the table and the page, stores the page on the sweep's MLflow run, and says what to do next."""
    # Imports and thousands of runs are a million objects that stay: looking through them for garbage, again and again, took
    # half the time.
    gc.disable()
    # Imported here, for --help and a mistake in the config to be quick.
    from catdog import tracking
    from catdog.comparison.analysis import analyse
    from catdog.comparison.atlas import build_atlas
    from catdog.comparison.cams import collect_cams
    from catdog.comparison.load import load_comparison
    from catdog.comparison.page.figures import build_figures
    from catdog.comparison.page.render import render_page
    from catdog.comparison.page.tables import build_frame, build_pairs_frame, build_variants_frame, print_tables

    config = load_config(composed, CompareConfig)
    client = tracking.connect(config.tracking, create=False)
    comparison = load_comparison(client, config)
    analysis = analyse(comparison, config.margin)
    atlas = build_atlas(analysis)
    cams = collect_cams(client, atlas, config.gradcam)
    figures = build_figures(analysis, atlas)
    run_ids = [record.run_id for record in comparison.records]
    folder = Path(config.output) / (
        comparison.sweep_id or (run_ids[0] if len(run_ids) == 1 else hash_text(" ".join(run_ids))[:32])
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_partial(folder)
        page = folder / "comparison.html"
        tables = {
            "table": build_frame(comparison),
            "variants": build_variants_frame(analysis),
            "pairs": build_pairs_frame(analysis),
        }
        for name, frame in tables.items():
            # Without a pair there is no table of them, nor one of an earlier comparison.
            (folder / f"{name}.csv").unlink(missing_ok=True)
            if len(frame):
                write_atomically(folder / f"{name}.csv", frame.to_csv(index=False), sync=False)
        write_atomically(page, render_page(analysis, atlas, cams, figures), sync=False)
        # An earlier comparison may have had others.
        shutil.rmtree(folder / "figures", ignore_errors=True)
        (folder / "figures").mkdir(exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(folder / "figures" / f"{name}.png", dpi=150)
    except OSError as error:
        raise UserError(
            f"output: cannot write {folder} ({error.strerror}). Name another folder: output=PATH."
        ) from error
    print_tables(analysis, console)
    if comparison.sweep_id:
        run = tracking.TrackedRun(client, comparison.sweep_id)
        run.client.log_artifacts(run.run_id, str(folder), "comparison")
    log.info("page     %s\ntables   %s\nfigures  %s", page, folder / "{table,variants,pairs}.csv", folder / "figures")
    # The process ends: Python would look through all of them once more.
    gc.freeze()
    show_next(f"open {page} in a browser", next_command("evaluate", comparison.study, config.tracking.uri))


if __name__ == "__main__":
    cli.run_app("compare", compare, usage=USAGE)
