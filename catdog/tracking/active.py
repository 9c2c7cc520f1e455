"""The runs that somebody works on, or that were left open: from the tracking store, and from the outbox where it can be seen."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from catdog.tracking.outbox import PAUSED, Entry, list_entries
from catdog.tracking.records import RUNNING, StoredRun, list_studies, search
from catdog.tracking.store import is_same_store
from catdog.tracking.tags import SWEEP

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class ActiveRun:
    """A run or sweep that has not ended.

    Attributes:
        name: the run's.
        study: its study.
        kind: run or sweep.
        state: running, queued (a cluster's job that has not begun), paused, silent (its process has not been heard
            of for too long), or gone (its process has ended).
        who: the process that works on it, or did: its host and, on a cluster, its job.
        run_id: its id in MLflow; "" if MLflow does not have it yet.
        epoch: the last epoch that it has recorded; None before the first.
        epochs: how many it will train for; None if unknown.
        started: when it began, in seconds since 1970; None if unknown.
        last_heard: when its process last showed that it works on it, by its own clock; None if it never did.
    """

    name: str
    study: str
    kind: str
    state: str
    who: str
    run_id: str
    epoch: int | None
    epochs: int | None
    started: float | None
    last_heard: float | None


def list_active(client: "MlflowClient | None", outbox: Path, uri: str, study: str | None = None) -> list[ActiveRun]:
    """Returns the runs and sweeps of a store that have not ended, oldest first.

    Args:
        client: of the store; None if there is none yet.
        outbox: the outbox; what lies there for other stores is left out.
        uri: the store's address.
        study: only those of this study; None: all.
    """
    entries = {
        str(entry.state["run_id"]) or entry.folder.name: entry
        for entry in list_entries(outbox)
        if is_same_store(entry.uri, uri) and study in (None, entry.study)
    }
    found = []
    for name in [] if client is None else list_studies(client) if study is None else [study]:
        for status in (RUNNING, PAUSED):
            for run in search(client, name, f"attributes.status = '{status}'", oldest_first=True):
                found.append(_describe(name, run, entries.pop(run.run_id, None)))
    found += [run for run in _list_queued(outbox, uri) if study in (None, run.study)]
    waiting = [entry for entry in entries.values() if not entry.state["run_id"]]
    found += [_describe_unknown(entry) for entry in waiting if entry.find_living_owner()]
    return sorted(found, key=lambda run: run.started or 0.0)


def _list_queued(outbox: Path, uri: str) -> list[ActiveRun]:
    """Returns the runs whose jobs wait in a cluster's queue, as far as is known here: they have not reported anything."""
    found = []
    for path in sorted(outbox.glob("jobs/*/job.json")):
        try:
            record, submitted = json.loads(path.read_bytes()), path.stat().st_mtime
        except (OSError, ValueError):
            continue
        if is_same_store(str(record["uri"]), uri) and not (path.parent / "messages").exists():
            who = str(record["words"])
            found.append(
                ActiveRun(
                    str(record["run"]), str(record["study"]), "run", "queued", who, "", None, None, submitted, None
                )
            )
    return found


def _describe(study: str, run: StoredRun, entry: Entry | None) -> ActiveRun:
    owner = run.owner
    heard: float | None = run.last_sign_of_life if run.status == RUNNING else None
    if run.status == PAUSED:
        state, owner = "paused", None
    elif entry is not None:
        # The outbox knows at once what the store learns later.
        living = entry.find_living_owner()
        state, owner = ("running", living) if living else ("gone", entry.read_owner() or owner)
        heard = max(heard or 0.0, entry.last_renewed or 0.0)
    else:
        state = "running" if run.is_worked_on else "gone" if owner and owner.is_here else "silent"
    epochs = run.params.get("trainer.epochs", "")
    return ActiveRun(
        run.name, study, "sweep" if run.kind == SWEEP else "run", state, str(owner or ""), run.run_id, run.last_epoch,
        int(epochs) if epochs.isdigit() else None, run.run.info.start_time / 1000, heard,
    )  # fmt: skip


def _describe_unknown(entry: Entry) -> ActiveRun:
    facts = entry.facts
    owner = entry.find_living_owner()
    return ActiveRun(
        str(facts.get("name", entry.folder.name)), entry.study, str(facts.get("kind", "run")), "running", str(owner or ""), "",
        None, None, None, entry.last_renewed,
    )  # fmt: skip
