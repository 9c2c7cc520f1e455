"""The command `audit`: looks for data problems that would spoil a comparison. `python -m catdog.audit --help` explains it."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from catdog import cli
from catdog.config.commands import AuditConfig
from catdog.config.schema import load_config
from catdog.system.terminal import console, show_next

if TYPE_CHECKING:
    from catdog.auditing.result import Findings

log = logging.getLogger(__name__)

EXIT_FINDINGS = 3

USAGE = """Looks for problems in the data that would spoil a comparison: unreadable files, copies and near-copies within and across
splits and classes, near-copies with different labels, imbalance, odd images. Changes no file.

  python -m catdog.audit                                            the default data set
  python -m catdog.audit dataset=folder dataset.archive=path/to/images
  python -m catdog.audit labels=mobilenet_v2                        also labels that a pre-trained backbone contradicts
  python -m catdog.audit pipeline=module:function                   any function that returns (train, val, test), of tf.data,
                                                                    PyTorch or as lists: finds images that move between them
  python -m catdog.audit pipeline=catdog.auditing.notebook:build    an example: the original notebook's pipeline
  python -m catdog.audit format=json                                for scripts"""


def audit(composed: DictConfig) -> None:
    """Audits, prints the findings, and exits with code 3 if a finding is as severe as `fail_on`."""
    config = load_config(composed, AuditConfig)
    from catdog.auditing.report import print_dataset, print_pipeline
    from catdog.study import Study

    # With JSON, stdout must contain nothing but the result.
    console.stderr = config.format == "json"
    content: dict[str, object] = {}
    found: Findings
    if config.pipeline:
        # So that modules in the current folder can be imported, however this command was started.
        sys.path.insert(0, str(Path.cwd()))
        found = pipeline = Study().audit_pipeline(config.pipeline, config.epochs)
        print_pipeline(pipeline, console)
        steps = []
    else:
        found = dataset = Study(config.study, tracking_uri=config.tracking.uri).audit(
            config.dataset, labels=config.labels
        )
        folder = dataset.save_folder(config.output)
        print_dataset(dataset, console)
        page = folder / "audit.html"
        log.info(
            "page     %s\ntables   %s",
            page,
            folder / ("{images,pairs,suspects}.csv" if dataset.labels else "{images,pairs}.csv"),
        )
        content, steps = {"page": str(page)}, [f"open {page} in a browser"]
    if config.format == "json":
        cli.show_json("audit", {**found.to_dict(), **content, "next": []})
    elif steps:
        show_next(*steps)
    failing = {"never": set(), "error": {"error"}, "warning": {"error", "warning"}}[config.fail_on]
    if found.severities & failing:
        sys.exit(EXIT_FINDINGS)


if __name__ == "__main__":
    cli.run_app("audit", audit, usage=USAGE)
