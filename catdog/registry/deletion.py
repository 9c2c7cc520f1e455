"""Deletion: what hangs on a run, a sweep or a study; marks it as deleted in MLflow, and restores it."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from catdog.config.command_lines import quote
from catdog.registry.aliases import CHAMPION, find_version
from catdog.registry.champion import remove_alias, set_alias
from catdog.registry.ledger import EXPERIMENT
from catdog.system.errors import UserError
from catdog.system.wording import plural
from catdog.tracking import tags as tag
from catdog.tracking.outbox import Entry, list_entries
from catdog.tracking.records import (
    StoredRun,
    find_run,
    find_study,
    list_ensembles,
    list_members,
    list_runs,
    list_studies,
    list_sweeps,
)
from catdog.tracking.settlement import claimed_entries
from catdog.tracking.store import absolute_uri, store_command
from catdog.tracking.tags import ENSEMBLE, RUN, SWEEP, WITH_MODEL

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

MOST_NAMES = 8


@dataclass(frozen=True)
class Deletion:
    """What would be deleted, and what hangs on it. Nothing is deleted before `carry_out`.

    Attributes:
        study: the study's name.
        what: what is deleted, in words.
        runs: the runs and sweeps that are marked as deleted.
        kept: runs of the sweep that stay, because another sweep has them too.
        sweeps: other sweeps that lose a run.
        ensembles: ensembles that were built from these runs; they stay, as they need no member.
        versions: the versions of registered models that these runs trained; they stay registered.
        champions: those of them that are champions, and lose the alias.
        entries: what the outbox holds for these runs; it is removed for good.
        restore: the command that undoes it.
        experiment_id: MLflow's id of the study, if the whole study is deleted.
    """

    client: "MlflowClient"
    study: str
    what: str
    runs: Sequence[StoredRun]
    kept: Sequence[StoredRun]
    sweeps: Sequence[StoredRun]
    ensembles: Sequence[StoredRun]
    versions: "Sequence[ModelVersion]"
    champions: "Sequence[ModelVersion]"
    entries: Sequence[Entry]
    restore: str
    experiment_id: str | None = None

    def __repr__(self) -> str:
        return "\n".join(["Deletion, not carried out:", *self.describe()])

    def describe(self) -> list[str]:
        """Returns what is deleted and what hangs on it, as lines for a terminal."""
        lines = [f"{self.what} of the study {self.study!r}" if self.experiment_id is None else self.what]
        trained = [run.name for run in self.runs if run.kind != SWEEP]
        if len(trained) > 1 and self.experiment_id is None:
            lines.append(f"  {plural(len(trained), 'run')}: {_some(trained)}")
        if self.kept:
            lines.append(f"  stays, because another sweep has it too: {_some([run.name for run in self.kept])}")
        for version in self.champions:
            lines.append(
                f"  {version.name} version {version.version} is the champion: the alias is removed, no other takes its place"
            )
        others = [f"{v.name} version {v.version}" for v in self.versions if v not in self.champions]
        if others:
            lines.append(f"  stays registered, with a warning when it is used: {_some(others)}")
        for sweep in self.sweeps:
            lines.append(f"  {sweep.name} ({sweep.run_id}) loses a run: compare gives no verdict on it")
        for ensemble in self.ensembles:
            lines.append(f"  {ensemble.name} ({ensemble.run_id}) was built from it, and stays")
        for entry in self.entries:
            lines.append(f"  removed for good: {entry.describe()}, with its checkpoints")
        return lines

    def carry_out(self) -> None:
        """Deletes it. The champions lose their alias first, so that nothing deleted is served if this is interrupted.

        Raises:
            UserError: a process works on one of the runs; nothing is deleted then.
        """
        for run in self.runs:
            if run.is_worked_on:
                raise UserError(f"{run.owner} works on {run.name} ({run.run_id}). Stop it first.")
        with claimed_entries(self.entries):
            for version in self.champions:
                remove_alias(self.client, version)
            if self.experiment_id is not None:
                self.client.delete_experiment(self.experiment_id)
                return
            for run in self.runs:
                self.client.delete_run(run.run_id)


def plan_run_deletion(client: "MlflowClient", study: str, run_id: str, outbox: Path) -> Deletion:
    """Returns the deletion of a training run, or of an ensemble.

    Args:
        client: of the tracking store.
        study: the study that it must belong to.
        run_id: MLflow's.
        outbox: the outbox's folder.

    Raises:
        UserError: it is no training run and no ensemble of this study, or is deleted already.
    """
    run = _require(client, study, run_id, RUN, "run_id")
    words = run.name if run.kind == ENSEMBLE else f"run {run.name}"
    return _plan(client, study, f"{words} ({run_id})", [run], outbox, f"run={run_id}")


def plan_sweep_deletion(client: "MlflowClient", study: str, sweep_id: str, outbox: Path) -> Deletion:
    """Returns the deletion of a sweep with its runs; runs that another sweep has too are kept.

    Raises:
        UserError: it is no sweep of this study, or is deleted already.
    """
    sweep = _require(client, study, sweep_id, SWEEP, "sweep_id")
    living = {other.run_id for other in list_sweeps(client, study)} - {sweep_id}
    members = [run for run in list_members(client, sweep) if not run.is_deleted]
    kept = [run for run in members if living & set(run.sweep_ids)]
    runs = [sweep, *(run for run in members if run not in kept)]
    return _plan(client, study, f"{sweep.name} ({sweep_id})", runs, outbox, f"sweep={sweep_id}", kept)


def plan_study_deletion(client: "MlflowClient", study: str, outbox: Path) -> Deletion:
    """Returns the deletion of a study with all its sweeps and runs.

    Raises:
        UserError: there is no such study, or it is deleted already.
    """
    if study == EXPERIMENT:
        raise UserError(
            f"study: {study!r} is the ledger of looks at test splits, which counts for all studies. It stays."
        )
    experiment_id = find_study(client, study)
    sweeps, runs = list_sweeps(client, study), [*list_runs(client, study), *list_ensembles(client, study)]
    what = f"the study {study!r}: {plural(len(sweeps), 'sweep')}, {plural(len(runs), 'run')}"
    return _plan(client, study, what, [*sweeps, *runs], outbox, f"study={quote(study)}", experiment_id=experiment_id)


def _require(client: "MlflowClient", study: str, run_id: str, kind: str, key: str) -> StoredRun:
    run = find_run(client, run_id)
    if run is None or run.experiment_id != find_study(client, study):
        raise UserError(
            f"{key}: study {study!r} has no {kind} {run_id!r}. Its runs and sweeps are in the table of runs."
        )
    if run.is_deleted:
        command = store_command(client, "restore", f"{kind}={run_id}")
        raise UserError(f"{key}: {run.name} ({run_id}) is deleted already. Restore it: {command}.")
    if run.kind not in (WITH_MODEL if kind == RUN else (kind,)):
        found = {RUN: "training run", ENSEMBLE: "ensemble", SWEEP: "sweep"}
        raise UserError(
            f"{key}: {run_id} ({run.name}) is no {found[kind]}, but a {found.get(run.kind, 'run of another tool')}."
        )
    return run


def _plan(
    client: "MlflowClient",
    study: str,
    what: str,
    runs: Sequence[StoredRun],
    outbox: Path,
    restored_by: str,
    kept: Sequence[StoredRun] = (),
    experiment_id: str | None = None,
) -> Deletion:
    run_ids = {run.run_id for run in runs}
    versions = list(_list_versions(client, run_ids))
    champions = [version for version in versions if _is_champion(client, version)]
    losing = {sweep_id for run in runs for sweep_id in run.sweep_ids} - run_ids
    sweeps = [sweep for sweep in list_sweeps(client, study) if sweep.run_id in losing]
    ensembles = [
        one for one in list_ensembles(client, study) if run_ids & {*one.tags.ensemble_of} and one.run_id not in run_ids
    ]
    entries = [entry for entry in list_entries(outbox) if entry.state["run_id"] in run_ids
               or (experiment_id is not None and entry.study == study and _same_store(client, entry))]  # fmt: skip
    return Deletion(
        client, study, what, runs, kept, sweeps, ensembles, versions, champions, entries,
        store_command(client, "restore", restored_by), experiment_id,
    )  # fmt: skip


def _same_store(client: "MlflowClient", entry: Entry) -> bool:
    return absolute_uri(entry.uri) == str(client.tracking_uri)


def _list_versions(client: "MlflowClient", run_ids: Collection[str]) -> "Iterator[ModelVersion]":
    """Yields the registered versions that some runs have trained."""
    token = None
    while True:
        page = client.search_model_versions(page_token=token)
        yield from (version for version in page if version.run_id in run_ids)
        token = page.token
        if not token:
            return


def _is_champion(client: "MlflowClient", version: "ModelVersion") -> bool:
    standing = find_version(client, version.name, CHAMPION)
    return standing is not None and standing.version == version.version


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def restore_run(client: "MlflowClient", run_id: str) -> list[str]:
    """Restores a training run, or an ensemble, that was deleted in MLflow; returns what was restored, in words.

    Raises:
        UserError: there is no such run, it is not deleted, or its whole study is.
    """
    run = _require_deleted(client, run_id, RUN)
    client.restore_run(run_id)
    return [f"run {run.name} ({run_id})", *_restore_champions(client, {run_id})]


def restore_sweep(client: "MlflowClient", sweep_id: str) -> list[str]:
    """Restores a sweep that was deleted in MLflow, or runs of it; returns what was restored, in words.

    Raises:
        UserError: there is no such sweep, nothing of it is deleted, or its whole study is.
    """
    sweep = _require_deleted(client, sweep_id, SWEEP)
    runs = [run for run in list_members(client, sweep) if run.is_deleted]
    if not runs and not sweep.is_deleted:
        raise UserError(f"sweep: {sweep.name} ({sweep_id}) is not deleted, nor are its runs. Nothing was changed.")
    for run in [sweep, *runs]:
        client.restore_run(run.run_id)
    words = f"{sweep.name} ({sweep_id}){': ' if runs else ''}{_some([run.name for run in runs])}"
    return [words, *_restore_champions(client, {run.run_id for run in runs})]


def restore_study(client: "MlflowClient", study: str) -> list[str]:
    """Restores a study that was deleted in MLflow, with all its runs; returns what was restored, in words.

    MLflow then restores every run of the study, including those that were deleted before it.

    Raises:
        UserError: there is no such study, or it is not deleted.
    """
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        deleted = ", ".join(list_studies(client, deleted=True)) or "none"
        raise UserError(f"study: no study {study!r} in this tracking store; deleted studies: {deleted}.")
    if experiment.lifecycle_stage != "deleted":
        raise UserError(f"study: {study!r} is not deleted. A run or a sweep of it is restored with run=ID or sweep=ID.")
    client.restore_experiment(experiment.experiment_id)
    runs = list_runs(client, study)
    return [
        f"the study {study!r}: {plural(len(list_sweeps(client, study)), 'sweep')}, {plural(len(runs), 'run')}",
        *_restore_champions(client, {run.run_id for run in runs}),
    ]


def _require_deleted(client: "MlflowClient", run_id: str, kind: str) -> StoredRun:
    run = find_run(client, run_id)
    if run is None or run.kind not in (WITH_MODEL if kind == RUN else (kind,)):
        raise UserError(
            f"{kind}: no {kind} {run_id!r} in this tracking store. What `catdog.clean` or `mlflow gc` removed is gone for good."
        )
    experiment = client.get_experiment(run.experiment_id)
    if experiment.lifecycle_stage == "deleted":
        command = store_command(client, "restore", f"study={quote(experiment.name)}")
        raise UserError(
            f"{kind}: {run.name} ({run_id}) was deleted with its study {experiment.name!r}. Restore that: {command}."
        )
    if kind == RUN and not run.is_deleted:
        raise UserError(f"run: {run.name} ({run_id}) is not deleted. Nothing was changed.")
    return run


def _restore_champions(client: "MlflowClient", run_ids: Collection[str]) -> list[str]:
    """Gives the alias `champion` back to versions that lost it when these runs were deleted, unless another has it by now."""
    words = []
    for version in _list_versions(client, run_ids):
        if client.get_registered_model(version.name).tags.get(tag.FORMER_CHAMPION) != str(version.version):
            continue
        standing = find_version(client, version.name, CHAMPION)
        if standing is None:
            set_alias(client, version)
            words.append(f"{version.name} version {version.version}, the champion")
        else:
            log.info("%s has another champion by now, version %s; it stays", version.name, standing.version)
    return words
