"""Delivers to the tracking store what earlier processes left in the outbox, and closes their runs."""

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from catdog.system.errors import UserError
from catdog.tracking import tags as tag
from catdog.tracking.outbox import Entry, clear_remains, end_orphan, list_entries
from catdog.tracking.ownership import BusyError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.tracking.delivery import Promote

log = logging.getLogger(__name__)


# Checkpoints of an interrupted run that is not resumed are removed after this time.
FORGOTTEN_AFTER_S = 30 * 24 * 3600


def settle_entries(
    client: "MlflowClient", root: Path, uri: str, patience_s: float, promote: "Promote | None" = None
) -> tuple[int, list[Entry]]:
    """Delivers what the outbox holds for a store, except for runs and sweeps that a living process works on.

    Runs that a killed process left open are closed as KILLED. Their checkpoints stay, so that the same command can resume them.

    Args:
        client: of the store at `uri`.
        root: the outbox.
        uri: the store's address; entries for other stores are left alone.
        patience_s: how long to wait for a store that does not answer.
        promote: registers models, as `catdog.registry.champion.promote`; without it, entries that ask for promotion stay.

    Returns:
        How many runs were delivered, and the entries that were not.
    """
    delivered = 0
    left: list[Entry] = []
    clear_remains(root)
    for entry in list_entries(root):
        facts = entry.facts
        if facts.get("tracking", {}).get("uri") != uri:
            continue
        if not entry.pending and entry.last_status in ("FAILED", "KILLED") and facts["kind"] == "run":
            _forget(entry)
            continue
        end_orphan(entry)
        if entry.find_living_owner():
            continue
        try:
            entry.claim()
        except (BusyError, FileNotFoundError):
            continue
        # If one entry has waited in vain for the store, the others do not wait again.
        if settle(client, entry, 0.0 if left else patience_s, promote=promote):
            delivered += facts["kind"] == "run"
        else:
            left.append(entry)
    return delivered, left


def settle(
    client: "MlflowClient",
    entry: Entry,
    patience_s: float,
    error: str = "its process is gone",
    promote: "Promote | None" = None,
) -> bool:
    """Delivers an entry that this process owns, and releases it; a run that is still open is closed as KILLED.

    Returns:
        Whether everything has arrived.
    """
    from catdog.tracking.delivery import deliver_all, is_gone

    arrived = False
    name, run_id = entry.facts["name"], entry.state["run_id"]
    if run_id and entry.pending and is_gone(client, run_id):
        log.warning("%s, run %s, was deleted in MLflow: what was left to deliver is discarded", name, run_id)
        entry.remove()
        return True
    try:
        if entry.operations and entry.last_status not in ("FINISHED", "FAILED", "KILLED"):
            entry.append("tags", values={tag.ERROR: error})
            entry.append("status", status="KILLED", time_ms=int(time.time() * 1000))
        arrived = deliver_all(client, entry, patience_s, promote)
    finally:
        whole = entry.last_status == "FINISHED" or not entry.operations or entry.is_aside
        if arrived and (whole or entry.facts["kind"] == "sweep"):
            entry.remove()
        else:
            entry.release()
    return arrived


@contextlib.contextmanager
def claimed_entry(root: Path, run_id: str) -> Iterator[None]:
    """Owns the outbox entries of a run while the block deletes the run, and removes them afterwards.

    Args:
        root: the outbox.
        run_id: MLflow's.

    Raises:
        UserError: a living process works on it.
    """
    held = []
    try:
        for entry in list_entries(root):
            if entry.state["run_id"] == run_id:
                try:
                    held.append(entry.claim())
                except BusyError as busy:
                    owner = busy.owner or "another process"
                    raise UserError(f"run_id: {owner} works on {run_id}. Wait for it, or stop it.") from busy
        yield
    except BaseException:
        for entry in held:
            entry.release()
        raise
    for entry in held:
        entry.remove()


def _forget(entry: Entry) -> None:
    with contextlib.suppress(OSError, BusyError):
        if time.time() - entry.folder.stat().st_mtime > FORGOTTEN_AFTER_S:
            entry.claim()
            entry.remove()
