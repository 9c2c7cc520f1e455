"""Entry: a data set, or anyone's input pipeline -> what would spoil a comparison. `python -m catdog.audit --help` explains it."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.text import Text

from catdog import cli
from catdog.config.commands import AuditConfig
from catdog.config.schema import DatasetConfig, load_config
from catdog.system.errors import UserError
from catdog.system.files import remove_partial, write_atomically
from catdog.system.terminal import console, show_next
from catdog.system.wording import plural

if TYPE_CHECKING:
    from catdog.auditing.inspection import Audit

log = logging.getLogger(__name__)

EXIT_FINDINGS = 3
FILES_SHOWN = 5
STYLES = {"error": "bold red", "warning": "yellow", "note": ""}

USAGE = """Looks for what would spoil a comparison: unreadable files, copies and near-copies within and across splits and classes,
wrong labels, imbalance, odd images. Trains nothing.

  python -m catdog.audit                                            the default data set
  python -m catdog.audit dataset=folder dataset.archive=path/to/images
  python -m catdog.audit pipeline=module:function                   any function that returns (train, val, test) tf.data sets:
                                                                    what moves between them from epoch to epoch
  python -m catdog.audit pipeline=catdog.auditing.notebook:build       for example the notebook's own, on the default data set"""


def audit_dataset(config: DatasetConfig) -> "Audit":
    """Returns what a data set holds, as it lies, and what the splitter makes of it.

    Raises:
        UserError: it cannot be had, or is no data set.
    """
    from catdog.auditing.inspection import ERROR, Finding, inspect_images
    from catdog.data.dataset import fetch_images, load_dataset
    from catdog.data.splits import assign_splits, hash_files

    root = fetch_images(config)
    rows = assign_splits(
        root, holdout_fraction=config.holdout_fraction, test_fraction=config.test_fraction, split_seed=config.split_seed,
        shown=config.archive or str(root),
    )  # fmt: skip
    problems = []
    try:
        used = load_dataset(config).manifest.images.set_index("file")["split"]
    except UserError as error:
        # What training would refuse is what has to be looked at.
        used = rows.set_index("file")["split"]
        problems = [Finding(ERROR, "refused", f"training refuses this data set: {error}")]
    rows = rows.sort_values("file", kind="stable").reset_index(drop=True)
    rows["sha256"] = hash_files(root, list(rows["file"]))
    # What the splitter moved is where it moved it to; what it left out, where it was.
    rows["split"] = rows["file"].map(used).fillna(rows["split"])
    rows["used"] = rows["file"].isin(used.index)
    found = inspect_images(rows[["file", "label", "split", "sha256", "used"]], root, Path(config.cache))
    return replace(found, findings=[*problems, *found.findings])


def report_dataset(config: AuditConfig) -> set[str]:
    """Audits the data set that the config names, writes page and tables, and prints the findings; returns their severities."""
    from catdog.auditing.page import build_pairs_frame, render_page

    audit = audit_dataset(config.dataset)
    folder = Path(config.output) / config.dataset.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_partial(folder)
        write_atomically(folder / "images.csv", audit.images.to_csv(index=False), sync=False)
        write_atomically(folder / "pairs.csv", build_pairs_frame(audit).to_csv(index=False), sync=False)
        write_atomically(folder / "audit.html", render_page(audit, config.dataset.name), sync=False)
    except OSError as error:
        raise UserError(
            f"output: cannot write {folder} ({error.strerror}). Name another folder: output=PATH."
        ) from error
    counts = audit.images.groupby("split")["file"].count()
    sizes = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    console.print(
        f"looked at {plural(len(audit.images), 'image')} ({sizes}) in {audit.root}", highlight=False, soft_wrap=True
    )
    for finding in audit.findings:
        _print_finding(finding.severity, finding.words, finding.files)
    if not audit.findings:
        console.print("nothing found")
    log.info("page     %s\ntables   %s", folder / "audit.html", folder / "{images,pairs}.csv")
    show_next(f"open {folder / 'audit.html'} in a browser")
    return {finding.severity for finding in audit.findings}


def report_pipeline(config: AuditConfig) -> set[str]:
    """Watches the pipeline that the config names and prints what moves; returns "error" where it leaks."""
    from catdog.auditing.pipeline import describe_traffic, load_pipeline, watch_pipeline

    assert config.pipeline is not None
    build = load_pipeline(config.pipeline)
    from catdog.training import preload  # noqa: F401  before the function makes TensorFlow do anything: it keeps it quiet

    traffic = watch_pipeline(build, config.pipeline, config.epochs)
    for split, counts in traffic.counts.items():
        console.print(
            f"{split:5} {counts[0]:,} images an epoch, {len(traffic.seen[split][0]):,} different; "
            f"{len(traffic.ever(split)):,} different in {config.epochs} epochs",
            highlight=False,
        )  # fmt: skip
    verdict, *more = describe_traffic(traffic)
    _print_finding("error" if traffic.leaks else "note", verdict)
    for words in more:
        console.print(Text(f"  {words}"), soft_wrap=True)
    return {"error"} if traffic.leaks else set()


def _print_finding(severity: str, words: str, files: Sequence[str] = ()) -> None:
    console.print(Text(f"{severity}: ", style=STYLES[severity]) + Text(words), soft_wrap=True)
    for file in files[:FILES_SHOWN]:
        console.print(Text(f"  {file}"), soft_wrap=True)
    if len(files) > FILES_SHOWN:
        console.print(f"  and {len(files) - FILES_SHOWN:,} more", highlight=False)


def audit(composed: DictConfig) -> None:
    """Audits, and exits with code 3 where the config wants that for what was found."""
    config = load_config(composed, AuditConfig)
    found = report_pipeline(config) if config.pipeline else report_dataset(config)
    failing = {"never": set(), "error": {"error"}, "warning": {"error", "warning"}}[config.fail_on]
    if found & failing:
        sys.exit(EXIT_FINDINGS)


if __name__ == "__main__":
    cli.run_app("audit", audit, usage=USAGE)
