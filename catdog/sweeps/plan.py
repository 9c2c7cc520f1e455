"""The plan: what will happen to each run before any of them starts - reuse, resume, run - and why."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.table import Table

from catdog.config import schema
from catdog.config.schema import Config
from catdog.system.wording import plural
from catdog.tracking.identity import (
    Identity,
    describe_code_change,
    describe_config_change,
    describe_libraries_change,
    describe_runtime_change,
)
from catdog.tracking.outbox import Entry, entry_for, list_entries
from catdog.tracking.ownership import Owner
from catdog.tracking.records import StoredRun, store_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

# How many recent runs are searched for the one most similar to a new run, to say what changed.
RECENT_RUNS = 100
# A run of another host that is RUNNING counts as dead after this long without a sign of life.
SILENT_AFTER_S = 24 * 3600
DATA_CHANGED = "data changed"
STYLES = {"reuse": "green", "resume": "cyan", "run": "", "busy": "yellow"}


@dataclass
class PlannedRun:
    """The plan for one run of a command.

    Attributes:
        name: the run's.
        config: the run's.
        identity: what its result depends on.
        state: reuse (a finished run has the result), resume (an interrupted run is resumed), run, or busy (another process
            is training it right now).
        why: the reason, in words.
        run_id: the MLflow run that is reused or resumed; "" for a new one.
        same_as: number of an earlier run of the same command with the same identity, whose result it will share.
        images: its data set's manifest: file, label, split, sha256.
        discard: whether the outbox holds data of it for a run that was deleted in MLflow.
    """

    name: str
    config: Config
    identity: Identity
    state: str = "run"
    why: str = "no such run"
    run_id: str = ""
    same_as: int | None = None
    images: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    discard: bool = False

    @property
    def entry(self) -> Entry:
        """Its folder in the outbox, which may not exist."""
        tracking = self.config.tracking
        return entry_for(Path(tracking.outbox), tracking.uri, self.config.study, "run", self.identity.digest)


def plan_runs(client: "MlflowClient | None", runs: Sequence[PlannedRun], own_sweep: str = "") -> None:
    """Sets state, why and run id of runs of one study.

    Args:
        client: of the tracking store; None if there is none yet, so that nothing can be reused.
        runs: the runs, in order.
        own_sweep: run id of the interrupted sweep that is resumed: its finished runs count whatever `reuse` says.
    """
    experiment = client.get_experiment_by_name(runs[0].config.study) if client else None
    recent: list[Run] | None = None
    first: dict[str, int] = {}
    for number, planned in enumerate(runs):
        digest = planned.identity.digest
        if digest in first:
            planned.same_as = first[digest]
            planned.state, planned.why = "reuse", f"the same as {runs[first[digest]].name}"
            continue
        first.setdefault(digest, number)
        found = _find_by_identity(client, experiment.experiment_id, digest) if client and experiment else []
        if (
            _plan_reuse(planned, found, own_sweep)
            or _plan_resume(planned, client)
            or client is None
            or experiment is None
        ):
            continue
        if planned.discard:
            planned.why = "interrupted before, but its run was deleted in MLflow"
            continue
        if found:
            planned.why = _explain_again(planned, found)
            continue
        if recent is None:
            recent = client.search_runs(
                [experiment.experiment_id], "tags.`catdog.kind` = 'run'", max_results=RECENT_RUNS,
                order_by=["attributes.start_time DESC"],
            )  # fmt: skip
        planned.why = _explain_new(planned, [store_run(client, run) for run in recent])


def discard_entries(runs: Sequence[PlannedRun]) -> None:
    """Removes outbox entries of runs that were deleted in MLflow."""
    for planned in runs:
        if planned.discard:
            log.info("%s: %s; its checkpoints are removed", planned.name, planned.why)
            planned.entry.claim().remove()


def _find_by_identity(client: "MlflowClient", experiment_id: str, digest: str) -> "list[Run]":
    # One query on the tags' index; newest first.
    where = f"tags.`catdog.identity` = '{digest}' AND tags.`catdog.kind` = 'run'"
    return list(client.search_runs([experiment_id], where, max_results=20, order_by=["attributes.start_time DESC"]))


def _plan_reuse(planned: PlannedRun, found: "list[Run]", own_sweep: str) -> bool:
    for run in found:
        mine = bool(own_sweep) and f"catdog.member.{own_sweep}" in run.data.tags
        if (
            run.info.status == "FINISHED"
            and "catdog.model_uri" in run.data.tags
            and (planned.config.reuse == "exact" or mine)
        ):
            planned.state, planned.run_id = "reuse", run.info.run_id
            planned.why = f"finished {_describe_time(run.info.end_time)}"
            return True
    return False


def _plan_resume(planned: PlannedRun, client: "MlflowClient | None") -> bool:
    from catdog.tracking.checkpoint import load_checkpoint
    from catdog.tracking.delivery import is_gone

    entry = planned.entry
    if not entry.facts:
        return False
    run_id = str(entry.state["run_id"])
    owner = entry.find_living_owner()
    if owner and not owner.is_orphan:
        planned.state, planned.why = "busy", f"{owner} trains it right now"
        return True
    if run_id and (client is None or is_gone(client, run_id)):
        planned.discard = True
        return False
    planned.run_id = run_id
    word = "failed" if entry.read_journal().last_status == "FAILED" else "interrupted"
    checkpoint = load_checkpoint(entry.checkpoints)
    planned.state = "resume"
    if checkpoint is None:
        planned.why = f"{word} before the end of its first epoch"
    elif checkpoint.epoch >= planned.config.trainer.epochs:
        planned.why = f"{word} after its last epoch, {checkpoint.epoch}"
    else:
        planned.why = f"{word} after epoch {checkpoint.epoch} of {planned.config.trainer.epochs}"
    return True


def _explain_again(planned: PlannedRun, found: "list[Run]") -> str:
    run = found[0]
    status = run.info.status
    if status == "FINISHED":
        return f"finished {_describe_time(run.info.end_time)}, but reuse=never"
    if status == "RUNNING" and not is_dead(run):
        planned.state, planned.run_id = "busy", run.info.run_id
        return f"{Owner.from_tag(run.data.tags.get('catdog.owner')) or 'another process'} trains it right now"
    return f"{'failed' if status == 'FAILED' else 'interrupted'} before, and its checkpoints are gone"


def _explain_new(planned: PlannedRun, recent: Sequence[StoredRun]) -> str:
    """Returns how a run differs from the most similar recent run; only runs with the same main choices are considered."""
    mine = _relevant_params(planned.config)
    alike = [run for run in recent if all(run.params.get(key) == mine.get(key) for key in
             ("seed", "backbone.name", "augmentation.name", "preprocessing.name", "dataset.name"))]  # fmt: skip
    if not alike:
        return "no such run"
    reasons = [(_compare(planned, mine, run), run) for run in alike]
    words, nearest = min(reasons, key=lambda pair: (len(pair[0]), sum(map(len, pair[0]))))
    if DATA_CHANGED in words:
        count = count_changed_files(nearest, planned.images)
        words[words.index(DATA_CHANGED)] += f": {plural(count, 'file')}"
    return "; ".join(words) or "no such run"


def _compare(planned: PlannedRun, mine: dict[str, str], run: StoredRun) -> list[str]:
    tags = run.tags
    identity = planned.identity
    words = []
    if tags.get("catdog.config_digest") != identity.config:
        theirs = {key: value for key, value in run.params.items() if key in mine}
        words.append(
            describe_config_change(theirs, mine)
            or "config changed: the order of layers, or what backbone.weights holds"
        )
    if tags.get("catdog.data_digest") != identity.data:
        words.append(DATA_CHANGED)
    if tags.get("catdog.code_digest") != identity.code:
        words.append(describe_code_change(_read_json(tags.get("catdog.code_files")), identity.files) or "code changed")
    libraries = describe_libraries_change(_read_json(tags.get("catdog.libraries")), identity.libraries)
    runtime = describe_runtime_change(tags, identity.tags)
    return words + [each for each in (libraries, runtime) if each]


def count_changed_files(run: StoredRun, images: pd.DataFrame) -> int:
    """Returns how many files are new, missing, changed or in another split since a run; 0 if the run recorded no files.

    Args:
        run: in the store.
        images: the current manifest's rows: file, label, split, sha256.
    """
    before = run.load_splits()
    if before.empty:
        return 0
    rows = [set(map(tuple, table[["file", "label", "split", "sha256"]].to_numpy())) for table in (before, images)]
    return len({row[0] for row in rows[0] ^ rows[1]})


def _relevant_params(config: Config) -> dict[str, str]:
    groups = (*(f"{group}." for group in schema.RESULT_GROUPS), "dataset.name")
    # The resolved precision is described as part of the runtime, not of the config.
    same_result = {"trainer.precision", *(f"speed.{key}" for key in schema.SAME_RESULT)}
    leaves = {key: value for key, value in schema.flatten(config).items() if key not in same_result}
    return {key: str(value) for key, value in leaves.items() if key == "seed" or key.startswith(groups)}


def is_dead(run: "Run") -> bool:
    """Returns whether the process of an MLflow run that is RUNNING is gone.

    On this host, the process is checked by its pid and start time; on another host, the time of the last metric decides.
    """
    owner = Owner.from_tag(run.data.tags.get("catdog.owner"))
    if owner is None:
        return False
    if owner.is_here:
        return not owner.lives
    last_ms = max([run.info.start_time, *(metric.timestamp for metric in run.data._metric_objs)])
    return time.time() - last_ms / 1000 > SILENT_AFTER_S


def close_dead_runs(client: "MlflowClient", config: Config) -> int:
    """Marks runs of a study as KILLED that are RUNNING although their process is gone and no outbox entry belongs to them.

    Returns:
        How many runs were closed.
    """
    experiment = client.get_experiment_by_name(config.study)
    if experiment is None:
        return 0
    kept = {entry.facts.get("key") for entry in list_entries(Path(config.tracking.outbox))}
    running = client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'", max_results=1000)
    dead = [run for run in running if run.data.tags.get("catdog.key") not in kept and is_dead(run)]
    for run in dead:
        client.set_tag(run.info.run_id, "catdog.error", "its process is gone")
        client.set_terminated(run.info.run_id, status="KILLED")
        log.info("%s, run %s, was left RUNNING by a process that is gone: closed", run.info.run_name, run.info.run_id)
    return len(dead)


def _read_json(text: str | None) -> dict[str, Any]:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return {}


def _describe_time(time_ms: int | None) -> str:
    if not time_ms:
        return "at an unknown time"
    return datetime.fromtimestamp(time_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def describe_plan(runs: Sequence[PlannedRun]) -> list[dict[str, Any]]:
    """Returns the plan as one mapping per run: run (its name), plan, why, run_id (None for a new one) and seed."""
    return [
        {
            "run": planned.name,
            "plan": planned.state,
            "why": planned.why,
            "run_id": planned.run_id or None,
            "seed": planned.config.seed,
        }
        for planned in runs
    ]


def build_table(runs: Sequence[PlannedRun]) -> Table:
    """Returns the plan as a table for the terminal."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("run")
    table.add_column("plan")
    table.add_column("why", overflow="fold")
    for planned in runs:
        style = STYLES[planned.state]
        table.add_row(planned.name, f"[{style}]{planned.state}[/{style}]" if style else planned.state, planned.why)
    return table
