"""The MLflow run that the runs of a sweep, or the trials of a search, belong to."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from catdog.config.schema import TrackingConfig
from catdog.registry.champion import promote
from catdog.sweeps.busy import busy_sweep
from catdog.system.errors import UserError
from catdog.tracking import tags as tag
from catdog.tracking.identity import describe_origin
from catdog.tracking.outbox import entry_for
from catdog.tracking.ownership import BusyError, Owner

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.tracking import OutboxRun
    from catdog.tracking.records import StoredRun


def open_parent(
    client: "MlflowClient",
    tracking: TrackingConfig,
    study: str,
    *,
    identity: str,
    name: str,
    command: str,
    tags: Mapping[str, str],
    before_data: str,
    earlier: "StoredRun | None" = None,
) -> "OutboxRun":
    """Returns the parent run, a new one or an earlier one that goes on, once MLflow has it.

    Args:
        client: of the tracking store.
        tracking: that store.
        study: the study.
        identity: by which the same command finds it again.
        name: of a new run.
        command: the command line that leads it.
        tags: further tags of a new run.
        before_data: what is known of its runs before images are read, as `hash_before_data` returns it.
        earlier: the run that goes on.

    Raises:
        UserError: another process leads it, or the store does not answer.
    """
    from catdog.tracking import OutboxRun

    entry = entry_for(Path(tracking.outbox), tracking.uri, study, "sweep", identity)
    facts = {"kind": "sweep", "name": name, "study": study, "tracking": asdict(tracking), "identity": identity,
             "before_data": before_data}  # fmt: skip
    try:
        entry.claim(facts)
    except BusyError as busy:
        raise busy_sweep(busy.owner, name.split()[0]) from None
    if earlier and not entry.state["run_id"]:
        entry.save_state(run_id=earlier.run_id)
    parent = OutboxRun(client, entry, promote=promote)
    now_ms = int(time.time() * 1000)
    if earlier:
        parent.append("status", status="RUNNING", time_ms=now_ms)
        parent.log_tags({tag.COMMAND: command, **Owner.current().tags})
    else:
        own = {
            tag.KIND: tag.SWEEP,
            tag.COMMAND: command,
            tag.IDENTITY: identity,
            **tags,
            **Owner.current().tags,
            **describe_origin(command),
        }
        parent.append("create", name=name, tags=own, time_ms=now_ms)
    if not parent.delivery.wait(tracking.wait_s, until=lambda: bool(entry.state["run_id"]) and not entry.pending):
        parent.delivery.stop()
        entry.remove()
        raise UserError(
            f"tracking.uri: {tracking.uri!r} stopped answering ({parent.delivery.problem}). Nothing was started."
        )
    return parent
