"""The command `audit`: looks for data problems that would spoil a comparison. `python -m catdog.audit --help` explains it."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from catdog import cli
from catdog.config.checks import require
from catdog.config.commands import AuditConfig
from catdog.config.schema import DEFAULT_STUDY, load_config
from catdog.system.terminal import console, show_next

if TYPE_CHECKING:
    from catdog.auditing.result import Findings

log = logging.getLogger(__name__)

EXIT_FINDINGS = 3
# What of a data set may be typed with photos=: where it is now, not which one.
PHOTOS_KEYS = ("dataset.archive", "dataset.cache")

USAGE = """Looks for problems in the data that would spoil a comparison: unreadable files, copies and near-copies within and across
splits and classes, near-copies with different labels, imbalance, odd images. Changes no file.

  python -m catdog.audit                                            the default data set
  python -m catdog.audit dataset=folder dataset.archive=path/to/images
  python -m catdog.audit labels=mobilenet_v2                        also labels that a pre-trained backbone contradicts
  python -m catdog.audit pipeline=module:function                   any function that returns (train, val, test), of tf.data,
                                                                    PyTorch or as lists: finds images that move between them
  python -m catdog.audit pipeline=catdog.auditing.notebook:build    an example: the original notebook's pipeline
  python -m catdog.audit photos=FOLDER against=champion             new photos without labels: do they differ from the model's
                                                                    validation images, and what may its accuracy on them be?
  python -m catdog.audit format=json                                for scripts"""


def audit(composed: DictConfig) -> None:
    """Audits, prints the findings, and exits with code 3 if a finding is as severe as `fail_on`."""
    config = load_config(composed, AuditConfig)
    # With JSON, stdout must contain nothing but the result.
    console.stderr = config.format == "json"
    check = _audit_pipeline if config.pipeline else _audit_photos if config.photos else _audit_dataset
    found, page = check(config)
    if config.format == "json":
        cli.show_json("audit", {**found.to_dict(), **({"page": str(page)} if page else {}), "next": []})
    elif page:
        show_next(f"open {page} in a browser")
    failing = {"never": set(), "error": {"error"}, "warning": {"error", "warning"}}[config.fail_on]
    if found.severities & failing:
        sys.exit(EXIT_FINDINGS)


def _audit_pipeline(config: AuditConfig) -> "tuple[Findings, Path | None]":
    from catdog.auditing.report import print_pipeline
    from catdog.study import Study

    assert config.pipeline is not None
    # So that modules in the current folder can be imported, however this command was started.
    sys.path.insert(0, str(Path.cwd()))
    found = Study().audit_pipeline(config.pipeline, config.epochs)
    print_pipeline(found, console)
    return found, None


def _audit_dataset(config: AuditConfig) -> "tuple[Findings, Path | None]":
    from catdog.auditing.report import print_dataset
    from catdog.study import Study

    study = Study(config.study or DEFAULT_STUDY, tracking_uri=config.tracking.uri)
    found = study.audit(config.dataset, labels=config.labels)
    folder = found.save_folder(config.output)
    print_dataset(found, console)
    page = folder / "audit.html"
    tables = "{images,pairs,suspects}.csv" if found.labels else "{images,pairs}.csv"
    log.info("page     %s\ntables   %s", page, folder / tables)
    return found, page


def _audit_photos(config: AuditConfig) -> "tuple[Findings, Path | None]":
    from catdog.auditing.drift_report import print_photos
    from catdog.study import Study

    assert config.photos is not None
    typed = HydraConfig.get().overrides.task
    _require_own_options(typed)
    study = Study.choose(config.study, config.against, tracking_uri=config.tracking.uri)
    # The run says which data set it is; what was typed says where that is now.
    moved = any(word.lstrip("+").startswith("dataset.archive=") for word in typed)
    archive = config.dataset.archive if moved else None
    found = study.audit_photos(
        config.photos, config.against, margin=config.margin, archive=archive, cache=config.dataset.cache
    )
    folder = found.save_folder(config.output)
    print_photos(found, console)
    page = folder / "drift.html"
    log.info("page     %s\ntables   %s", page, folder / "{photos,traits,classes,label_first}.csv")
    return found, page


def _require_own_options(typed: Sequence[str]) -> None:
    """Raises a UserError if an option was typed that has no effect on photos."""
    for word in typed:
        key, _, value = word.lstrip("+~").partition("=")
        if key.partition("@")[0].partition(".")[0] == "dataset" and key not in PHOTOS_KEYS:
            advice = (
                f"The model's run says which data set it is. Of its keys, {' and '.join(PHOTOS_KEYS)} may be given."
            )
            require(False, key, "left out where photos are named", value, advice)
        require(key != "epochs", key, "left out where photos are named", value, "It is an option of pipeline=.")


if __name__ == "__main__":
    cli.run_app("audit", audit, usage=USAGE)
