"""Delivers to the tracking store what earlier processes left in the outbox, and closes their runs."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from catdog.system.errors import UserError
from catdog.system.wording import plural
from catdog.tracking import tags as tag
from catdog.tracking.outbox import CLOSED, PAUSED, Entry, clear_remains, end_orphan, list_entries
from catdog.tracking.ownership import BusyError
from catdog.tracking.store import is_same_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.config.schema import TrackingConfig
    from catdog.tracking.delivery import Promote

log = logging.getLogger(__name__)


# Checkpoints of an interrupted run that is not resumed are removed after this time.
FORGOTTEN_AFTER_S = 30 * 24 * 3600


def settle_earlier(client: "MlflowClient", tracking: "TrackingConfig", promote: "Promote | None" = None) -> None:
    """Does what `settle_entries` does before a training, and warns of what can never be delivered."""
    _, left = settle_entries(client, Path(tracking.outbox), tracking.uri, tracking.wait_s, promote)
    for study in dict.fromkeys(entry.study for entry in left if entry.refusal):
        count = sum(entry.pending for entry in left if entry.study == study)
        log.warning(
            "%s of the study %r stay in the outbox, because the store refuses them; `catdog.deliver` says why, and how to end that",
            plural(count, "record"), study,
        )  # fmt: skip


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
        How many runs were delivered, and the entries that were not; `refusal` says which of them can never be as things are.
    """
    delivered = 0
    left: list[Entry] = []
    # If one entry has waited in vain for the store, the others do not wait again.
    has_waited = False
    deleted: dict[str, str] = {}
    clear_remains(root)
    for entry in list_entries(root):
        facts = entry.facts
        if not is_same_store(entry.uri, uri):
            continue
        if entry.pending and entry.study not in deleted:
            deleted[entry.study] = _explain_deleted(client, entry.study)
        if entry.pending and deleted[entry.study]:
            # The study may be restored, so what belongs to it is kept; nothing can be delivered until then.
            entry.refusal = deleted[entry.study]
            left.append(entry)
            continue
        if not entry.pending and entry.last_status in ("FAILED", "KILLED", PAUSED) and facts["kind"] == "run":
            _forget(entry)
            continue
        end_orphan(entry)
        if entry.find_living_owner():
            continue
        try:
            entry.claim()
        except (BusyError, FileNotFoundError):
            continue
        if settle(client, entry, 0.0 if has_waited else patience_s, promote=promote):
            delivered += facts["kind"] == "run"
        else:
            left.append(entry)
            has_waited = has_waited or not entry.refusal
    return delivered, left


def _explain_deleted(client: "MlflowClient", study: str) -> str:
    """Returns what to do about a study that was deleted in MLflow; "" if it was not."""
    from catdog.tracking.store import DeletedStudyError, check_study

    try:
        check_study(client, study)
    except DeletedStudyError as error:
        return str(error)
    except Exception:
        # The store does not answer: delivery finds that out as well, and waits for it.
        log.debug("study %r: not known whether it was deleted", study, exc_info=True)
    return ""


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
        if entry.operations and entry.last_status not in CLOSED:
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


def discard_entries_of(root: Path, uri: str, wanted: str) -> list[str]:
    """Removes what the outbox holds for a study, or one entry of it, and returns in words what is gone.

    Args:
        root: the outbox.
        uri: the store's address; entries for other stores are left alone.
        wanted: a study's name, or the name of an entry's folder.

    Raises:
        UserError: there is no such entry, or a living process works on one; nothing is removed then.
    """
    mine = [entry for entry in list_entries(root) if is_same_store(entry.uri, uri)]
    chosen = [entry for entry in mine if wanted in (entry.study, entry.folder.name)]
    if not chosen:
        known = ", ".join(sorted({entry.study for entry in mine} | {entry.folder.name for entry in mine})) or "nothing"
        raise UserError(
            f"discard: must be a study, or an entry's folder, of the outbox {root}, received {wanted!r}. It holds {known}."
        )
    words = [entry.describe() for entry in chosen]
    with claimed_entries(chosen):
        pass
    return words


@contextlib.contextmanager
def claimed_entries(entries: Sequence[Entry]) -> Iterator[None]:
    """Owns entries of the outbox while the block runs, and removes them with all they hold afterwards.

    Raises:
        UserError: a living process works on one of them.
    """
    held = []
    try:
        for entry in entries:
            try:
                held.append(entry.claim())
            except BusyError as busy:
                owner = busy.owner or "another process"
                name = entry.facts.get("name", entry.folder.name)
                raise UserError(
                    f"{owner} works on {name} of the study {entry.study!r}. Wait for it, or stop it."
                ) from busy
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
