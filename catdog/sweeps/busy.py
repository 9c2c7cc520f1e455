"""The early look for a process that trains the same already: before images are read and MLflow is imported, which takes seconds.

The plan looks again, exactly. What this look misses, such as a process that has not begun its first run, the plan finds.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from catdog.config.schema import Config, DatasetConfig
from catdog.system.errors import UserError
from catdog.tracking.identity import hash_before_data
from catdog.tracking.outbox import Entry
from catdog.tracking.ownership import Owner
from catdog.tracking.store import is_same_store


def require_idle(configs: Sequence[Config], *, sweep: bool) -> None:
    """Raises if a living process trains the same run, or runs the same sweep, on images that have not changed since it began.

    Args:
        configs: those of the sweep's runs, in order; or that of the one run.
        sweep: whether it is a sweep.

    Raises:
        UserError: it names the process.
    """
    tracking = configs[0].tracking
    known = ""
    for folder in sorted(Path(tracking.outbox).glob("sweep-*" if sweep else "run-*")):
        entry = Entry(folder)
        owner = _find_owner(entry)
        facts = entry.facts
        if owner is None or facts.get("study") != configs[0].study or not is_same_store(entry.uri, tracking.uri):
            continue
        try:
            known = known or hash_before_data(configs)
        except UserError:
            # Such as a missing module; the plan says which run it belongs to.
            return
        if facts.get("before_data") == known and not _has_changed([config.dataset for config in configs], entry):
            raise (
                busy_sweep(owner) if sweep else busy_run(str(facts["name"]), f"{owner} trains it right now", configs[0])
            )


def busy_run(name: str, why: str, config: Config) -> UserError:
    """Returns the error for a run that a living process trains."""
    return UserError(f"{name}: {why}. Wait for it, or train another seed: seed={config.seed + 1}.")


def busy_sweep(owner: Owner | None, kind: str = "sweep") -> UserError:
    """Returns the error for a sweep, or a search, that a living process runs."""
    return UserError(f"{owner or 'another process'} is running this {kind} right now. Wait for it, or stop it.")


def _find_owner(entry: Entry) -> Owner | None:
    owner = entry.find_living_owner()
    return None if owner is None or owner.is_orphan else owner


def _has_changed(datasets: Sequence[DatasetConfig], entry: Entry) -> bool:
    """Returns whether a local file or folder of the data sets was changed after the entry was made, by the times on the disk."""
    try:
        made = (entry.folder / "entry.json").stat().st_mtime
        for archive in {dataset.archive or "" for dataset in datasets if dataset.source != "drawn"}:
            places = [archive] if Path(archive).exists() else []
            for parent, folders, files in os.walk(archive):
                places += [os.path.join(parent, name) for name in (*folders, *files)]  # noqa: PTH118  faster for many files
            if any(os.lstat(place).st_mtime > made for place in places):
                return True
    except OSError:
        # Something was removed a moment ago.
        return True
    return False
