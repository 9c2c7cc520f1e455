"""The plan: what will happen to each run before any of them starts - reuse, resume, run - and why."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from catdog.config.command_lines import next_command
from catdog.config.digest import RESULT_GROUPS, SAME_RESULT, flatten
from catdog.config.schema import DEFAULT_STUDY, Config
from catdog.config.suggestions import MOVED_KEYS
from catdog.system.terminal import add_name_column, name_text
from catdog.system.wording import plural
from catdog.tracking.identity import (
    Identity,
    describe_code_change,
    describe_config_change,
    describe_libraries_change,
    describe_runtime_change,
)
from catdog.tracking.outbox import PAUSED, Entry, entry_for, list_entries
from catdog.tracking.records import (
    RUNNING,
    StoredRun,
    close_dead_runs,
    find_by_identity,
    find_deleted_runs,
    find_run,
    list_recent_runs,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.sweeps.executors.executor import RemoteExecutor

log = logging.getLogger(__name__)

# How many recent runs are searched for the one most similar to a new run, to say what changed.
RECENT_RUNS = 100
DATA_CHANGED = "data changed"
STYLES = {"reuse": "green", "resume": "cyan", "run": "", "running": "cyan", "busy": "yellow"}


@dataclass
class PlannedRun:
    """The plan for one run of a command.

    Attributes:
        name: the run's.
        config: the run's.
        identity: what its result depends on.
        state: reuse (a finished run has the result), resume (an interrupted run is resumed), run, running (a job that an earlier
            command left in a cluster's queue trains it), or busy (another process is training it right now).
        why: the reason, in words.
        run_id: the MLflow run that is reused or resumed; "" for a new one.
        same_as: number of an earlier run of the same command with the same identity, whose result it will share.
        images: its data set's manifest: file, label, split, sha256.
        discard: whether the outbox holds data of it for a run that was deleted in MLflow.
        restore: what restores a deleted run that it would be reused or resumed from, such as "run=ID"; "" if there is none.
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
    restore: str = ""

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
    recent: list[StoredRun] | None = None
    deleted: dict[str, StoredRun] | None = None
    first: dict[str, int] = {}
    gone: list[tuple[PlannedRun, StoredRun]] = []
    for number, planned in enumerate(runs):
        digest = planned.identity.digest
        if digest in first:
            planned.same_as = first[digest]
            planned.state, planned.why = "reuse", f"the same as {runs[first[digest]].name}"
            continue
        first.setdefault(digest, number)
        found = find_by_identity(client, planned.config.study, digest) if client else []
        if _plan_reuse(planned, found, own_sweep) or _plan_resume(planned, client) or client is None:
            continue
        if planned.discard:
            planned.why = "interrupted before, but its run was deleted in MLflow"
            run = find_run(client, str(planned.entry.state["run_id"]))
            gone += [(planned, run)] if run else []
            continue
        if found:
            planned.why = _explain_again(planned, found)
            continue
        if deleted is None:
            deleted = {run.tags.identity: run for run in find_deleted_runs(client, planned.config.study)}
        if digest in deleted:
            planned.why = "finished, but deleted"
            gone.append((planned, deleted[digest]))
            continue
        if recent is None:
            recent = list_recent_runs(client, planned.config.study, RECENT_RUNS)
        planned.why = _explain_new(planned, recent)
    if client:
        _offer_restoration(client, gone)


def plan_run(client: "MlflowClient", planned: PlannedRun, own_sweep: str = "") -> None:
    """Sets state, why and run id of one run, without a comparison with other runs that would explain why it is new.

    Args:
        client: of the tracking store.
        planned: the run.
        own_sweep: run id of the sweep or search that it belongs to: its finished runs count whatever `reuse` says.
    """
    found = find_by_identity(client, planned.config.study, planned.identity.digest)
    if not _plan_reuse(planned, found, own_sweep):
        _plan_resume(planned, client)


def find_running(executor: "RemoteExecutor", runs: Sequence[PlannedRun]) -> None:
    """Sets the state of the runs for which an earlier command has left a job in the queue of a cluster."""
    for planned in runs:
        if planned.state == "reuse":
            executor.forget(planned.identity.digest)
            continue
        found = executor.find(planned.identity.digest)
        if found:
            planned.state, planned.why = "running", found


def _offer_restoration(client: "MlflowClient", gone: Sequence[tuple[PlannedRun, StoredRun]]) -> None:
    """Sets what restores deleted runs: each by its id, or several of one sweep with that sweep."""
    by_sweep = Counter(run.sweep_id for _, run in gone)
    sweeps = {sweep_id for sweep_id, count in by_sweep.items() if sweep_id and count > 1 and find_run(client, sweep_id)}
    for planned, run in gone:
        planned.why += f": `catdog.restore run={run.run_id}` restores it"
        planned.restore = f"sweep={run.sweep_id}" if run.sweep_id in sweeps else f"run={run.run_id}"


def restore_commands(runs: Sequence[PlannedRun]) -> list[str]:
    """Returns the commands that restore deleted runs, which then need not be trained again."""
    wanted = {planned.restore: planned.config.tracking.uri for planned in runs if planned.restore}
    return [next_command("restore", DEFAULT_STUDY, uri, item) for item, uri in wanted.items()]


def discard_entries(runs: Sequence[PlannedRun]) -> None:
    """Removes outbox entries of runs that were deleted in MLflow."""
    for planned in runs:
        if planned.discard:
            log.info("%s: %s; its checkpoints are removed", planned.name, planned.why)
            planned.entry.claim().remove()


def _plan_reuse(planned: PlannedRun, found: Sequence[StoredRun], own_sweep: str) -> bool:
    for run in found:
        mine = bool(own_sweep) and run.is_member_of(own_sweep)
        if run.is_finished and run.model_uri is not None and (planned.config.reuse == "exact" or mine):
            planned.state, planned.run_id = "reuse", run.run_id
            planned.why = f"finished {_describe_time(run.end)}"
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
    word = {"FAILED": "failed", PAUSED: "paused"}.get(entry.read_journal().last_status, "interrupted")
    checkpoint = load_checkpoint(entry.checkpoints)
    planned.state = "resume"
    if checkpoint is None:
        planned.why = f"{word} before the end of its first epoch"
    elif checkpoint.epoch >= planned.config.trainer.epochs:
        planned.why = f"{word} after its last epoch, {checkpoint.epoch}"
    else:
        planned.why = f"{word} after epoch {checkpoint.epoch} of {planned.config.trainer.epochs}"
    return True


def _explain_again(planned: PlannedRun, found: Sequence[StoredRun]) -> str:
    run = found[0]
    if run.is_finished:
        return f"finished {_describe_time(run.end)}, but reuse=never"
    if run.status == RUNNING and not run.is_dead:
        planned.state, planned.run_id = "busy", run.run_id
        return f"{run.owner or 'another process'} trains it right now"
    return f"{'failed' if run.status == 'FAILED' else 'interrupted'} before, and its checkpoints are gone"


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
        # With all files as they were, it is the groups that changed.
        regrouped = not count and (bool(nearest.groups) or "group" in planned.images)
        changed = "groups of images" if regrouped else plural(count, "file")
        words[words.index(DATA_CHANGED)] += f": {changed}"
    return "; ".join(words) or "no such run"


def _compare(planned: PlannedRun, mine: dict[str, str], run: StoredRun) -> list[str]:
    tags = run.tags
    identity = planned.identity
    words = []
    if tags.config_digest != identity.config:
        words.append(
            describe_config_change(_choose_relevant(run.params), mine)
            or "config changed: the order of layers, or what backbone.weights holds"
        )
    if tags.data_digest != identity.data:
        words.append(DATA_CHANGED)
    if tags.code_digest != identity.code:
        words.append(describe_code_change(tags.code_files, identity.files) or "code changed")
    libraries = describe_libraries_change(tags.libraries, identity.libraries)
    runtime = describe_runtime_change(tags.runtime, identity.runtime)
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
    return _choose_relevant({key: str(value) for key, value in flatten(config).items()})


def _choose_relevant(params: Mapping[str, str]) -> dict[str, str]:
    """Returns the params on which a result depends."""
    groups = (*(f"{group}." for group in RESULT_GROUPS), "dataset.name")
    # The resolved precision is described as part of the runtime, not of the config.
    same_result = {"trainer.precision", *(f"speed.{key}" for key in SAME_RESULT)}
    return {
        key: value for key, value in params.items()
        if (key == "seed" or key.startswith(groups)) and key not in same_result and key not in MOVED_KEYS
    }  # fmt: skip


def close_dead(client: "MlflowClient", config: Config) -> int:
    """Marks runs of a study as KILLED that are RUNNING although their process is gone and no outbox entry belongs to them.

    Returns:
        How many runs were closed.
    """
    kept = {str(entry.facts.get("key")) for entry in list_entries(Path(config.tracking.outbox))}
    dead = close_dead_runs(client, config.study, kept)
    for run in dead:
        log.info("%s, run %s, was left RUNNING by a process that is gone: closed", run.name, run.run_id)
    return len(dead)


def _describe_time(time: datetime | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M") if time else "at an unknown time"


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
    add_name_column(table, "run", [planned.name for planned in runs])
    table.add_column("plan")
    table.add_column("why", overflow="fold")
    for planned in runs:
        table.add_row(
            name_text(planned.name),
            Text(planned.state, style=STYLES[planned.state]),
            Text(planned.why),
        )
    return table
