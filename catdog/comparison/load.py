"""Loads a comparison from runs in MLflow."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from catdog.comparison.names import name_by_differences
from catdog.comparison.records import DELETED, FINISHED, PAUSED, ComparedRuns, RunRecord, is_imbalanced
from catdog.config.schema import DEFAULT_STUDY, default_cache
from catdog.data.history import History
from catdog.data.predictions import Predictions
from catdog.registry.ledger import digest_test, read_looks
from catdog.statistics.metrics import ACCURACY, BALANCED, Metric
from catdog.system.errors import TRAIN_COMMAND, UserError
from catdog.system.wording import plural
from catdog.tracking import outbox
from catdog.tracking.artifacts import load_table
from catdog.tracking.records import (
    StoredRun,
    find_deleted_sweep,
    find_latest_sweep,
    find_newest_recorded,
    find_run,
    list_members,
    list_runs,
    read_history,
)
from catdog.tracking.scores import Score, load_scores
from catdog.tracking.store import store_command
from catdog.tracking.tags import SWEEP, WITH_MODEL

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

# Of many runs that are missing or have not finished, only so many are named.
MOST_NAMED = 4


def load_comparison(
    client: "MlflowClient",
    *,
    study: str = DEFAULT_STUDY,
    sweep_id: str | None = None,
    run_ids: Sequence[str] | None = None,
    stored_names: bool = False,
    metric: Metric = ACCURACY,
) -> ComparedRuns:
    """Returns the runs that are named, or those of a sweep; by default those of the study's latest sweep.

    If the study has no sweep, or a script recorded its newest run outside of one, these are all finished runs on its newest data.

    Args:
        client: a client of the tracking store.
        study: the study whose latest sweep is the default.
        sweep_id: another sweep.
        run_ids: single runs, instead of a sweep.
        stored_names: keep the names that the runs have in MLflow, however long; otherwise what varies among these runs.
        metric: what is compared.

    Raises:
        UserError: there is no such study, sweep or run, or no run has finished; or the metric is not possible for these classes.
    """
    sweep, runs = _find_runs(client, study, sweep_id, run_ids)
    records = [_load_record(client, run, sweep, metric) for run in runs]
    if not stored_names:
        records = name_by_differences(records, in_sweep=sweep is not None)
    finished = [(record, run) for record, run in zip(records, runs, strict=True) if record.finished]
    lost = [record.name for record in records if record.status == DELETED]
    if not finished and lost and sweep:
        raise UserError(
            f"sweep: no run of {sweep.name} ({sweep.run_id}) is left to compare: {plural(len(lost), 'run')} of it were deleted in "
            f"MLflow. Restore them: {store_command(client, 'restore', f'sweep={sweep.run_id}')}. Or type its command again."
        )
    if not finished:
        raise UserError(f"nothing to compare: {_describe_unfinished(runs, sweep)}")
    first, first_run = finished[0]
    # A sweep that was interrupted has runs that never started.
    removed = max(0, sweep.planned_runs - len(runs)) if sweep and sweep.is_finished else 0
    if sweep and lost:
        log.warning(
            "%s of this sweep %s deleted in MLflow: %s. There is no verdict on what is left. Restore what was deleted: %s",
            plural(len(lost), "run"), "was" if len(lost) == 1 else "were",
            ", ".join(lost[:MOST_NAMED]) + (", ..." if len(lost) > MOST_NAMED else ""),
            store_command(client, "restore", f"sweep={sweep.run_id}"),
        )  # fmt: skip
    if sweep and removed:
        log.warning(
            "%s of this sweep %s not in the store: removed for good, or not delivered yet. There is no verdict on what is left",
            plural(removed, "run"), "is" if removed == 1 else "are",
        )  # fmt: skip
    compared = _build_compared(client, sweep, records, first, first_run, removed, metric)
    if compared.untrained:
        log.warning("%s. There is no verdict on what is there", compared.describe_untrained())
    return compared


def _build_compared(
    client: "MlflowClient",
    sweep: StoredRun | None,
    records: list[RunRecord],
    first: RunRecord,
    first_run: StoredRun,
    removed: int,
    metric: Metric,
) -> ComparedRuns:
    split = first_run.load_splits()
    lost = sweep is not None and any(record.status == DELETED for record in records)
    groups, groups_by = _load_groups(records, first)
    return ComparedRuns(
        study=client.get_experiment(first_run.experiment_id).name,
        sweep_id=sweep.run_id if sweep else "",
        records=records,
        class_names=first.class_names,
        baseline=first_run.majority_fraction,
        train_images=first_run.train_images,
        val_images=len(first.predictions),
        data_digest=first_run.data_digest,
        command=(sweep or first_run).command,
        created=datetime.now().astimezone(),
        picture=find_pictures(first),
        sweep_status=sweep.status if sweep else FINISHED,
        looks=read_looks(client, digest_test(split)) if len(split) else [],
        removed=removed,
        planned=sweep.planned_runs if sweep else 0,
        restore=store_command(client, "restore", f"sweep={sweep.run_id}") if sweep and lost else "",
        groups=groups,
        groups_by=groups_by,
        decided=[
            f"{pair['first']} \N{MINUS SIGN} {pair['second']}: {pair['words']}"
            for pair in (sweep.tags.decision.get("pairs", ()) if sweep else ())
        ],
        decided_by=str(sweep.tags.decision.get("metric", ACCURACY.name)) if sweep else ACCURACY.name,
        metric=metric,
        of_search=bool(sweep and sweep.tags.search),
    )


def _load_groups(records: Sequence[RunRecord], first: RunRecord) -> tuple[dict[str, str], str]:
    """Returns the group of each image by file, and who named it; of the first finished run on the first one's data that knows it.

    Runs from before there were groups, which a sweep may reuse, do not know them.
    """
    for record in records:
        if record.finished and record.tags.groups and record.tags.data_digest == first.tags.data_digest:
            split = load_table(record.artifact_uri, "split.csv")
            if "group" in split:
                return dict(zip(split["file"], split["group"], strict=True)), record.tags.groups
    return {}, ""


def _find_named(client: "MlflowClient", run_ids: Sequence[str]) -> list[StoredRun]:
    found = []
    for run_id in dict.fromkeys([run_ids] if isinstance(run_ids, str) else run_ids):
        run = find_run(client, run_id)
        if run is None:
            raise UserError(f"runs: no run {run_id!r} in this tracking store. Give MLflow run ids of this store.")
        if run.is_deleted:
            raise UserError(
                f"runs: {run_id} ({run.name}) was deleted in MLflow. Leave it out, or restore it: "
                f"{store_command(client, 'restore', f'run={run_id}')}."
            )
        if run.kind not in WITH_MODEL:
            raise UserError(f"runs: {run_id} is not a training run. If it is a sweep, use sweep={run_id}")
        found.append(run)
    return found


def _find_runs(
    client: "MlflowClient", study: str, sweep_id: str | None, run_ids: Sequence[str] | None
) -> tuple[StoredRun | None, list[StoredRun]]:
    """Returns a sweep and its runs, or None and single runs."""
    if run_ids:
        return None, _find_named(client, run_ids)
    sweep = _find_sweep(client, sweep_id) if sweep_id else find_latest_sweep(client, study)
    newest = None if sweep_id else find_newest_recorded(client, study)
    deleted = None if sweep_id else find_deleted_sweep(client, study)
    if deleted and (sweep is None or deleted.start > sweep.start):
        log.info(
            "the study's latest sweep, %s (%s), was deleted, so it is left out. Restore it: %s",
            deleted.name, deleted.run_id, store_command(client, "restore", f"sweep={deleted.run_id}"),
        )  # fmt: skip
    if sweep and (newest is None or newest.start < sweep.start):
        return sweep, list_members(client, sweep)
    runs = list_runs(client, study)
    finished = [run for run in runs if run.is_finished and run.data_digest]
    if not finished:
        if any(not run.is_finished for run in runs):
            raise UserError(f"study: {study!r} has nothing to compare: {_describe_unfinished(runs)}")
        raise UserError(f"study: {study!r} has no sweep and no finished run yet. Train a sweep: {TRAIN_COMMAND}.")
    return None, [run for run in finished if run.data_digest == finished[-1].data_digest]


def _describe_unfinished(runs: Sequence[StoredRun], sweep: StoredRun | None = None) -> str:
    """Returns that none of these runs has finished, and the command that resumes the last of them, or their sweep."""
    states = ", ".join(f"{run.name} {run.status}" for run in runs[:MOST_NAMED])
    more = f" and {len(runs) - MOST_NAMED} more" if len(runs) > MOST_NAMED else ""
    command = (sweep or runs[-1]).command
    advice = f"The same command resumes {'the sweep' if sweep else 'a run'}: {command}" if command else "Train first."
    return f"no run has finished ({states or 'there is none'}{more}). {advice}"


def _find_sweep(client: "MlflowClient", sweep_id: str) -> StoredRun:
    sweep = find_run(client, sweep_id)
    if sweep is None:
        raise UserError(
            f"sweep: no run {sweep_id!r} in this tracking store. Give MLflow's id of a sweep, or leave it out for the latest."
        )
    if sweep.kind != SWEEP:
        raise UserError(f"sweep: {sweep_id!r} is a run, not a sweep. To see a single run, use runs={sweep_id}")
    if sweep.is_deleted:
        command = store_command(client, "restore", f"sweep={sweep_id}")
        raise UserError(f"sweep: {sweep.name} ({sweep_id}) was deleted in MLflow. Restore it: {command}.")
    return sweep


def _load_record(client: "MlflowClient", run: StoredRun, sweep: StoredRun | None, metric: Metric) -> RunRecord:
    # A run that this sweep reuses may have another name in the sweep that trained it.
    _, name, variant = run.membership(sweep.run_id if sweep else "")
    predictions = Predictions.empty() if run.is_deleted else run.load_predictions()
    scores: dict[str, Score] = {}
    if run.is_finished and len(predictions):
        counts = list(Counter(predictions.labels).values())
        wanted = {one.name: one for one in (ACCURACY, *([BALANCED] if is_imbalanced(counts) else []), metric)}
        scores = load_scores(client, run, predictions, list(wanted.values()))
    return RunRecord(
        run_id=run.run_id,
        artifact_uri=run.address,
        name=name,
        variant=variant,
        seed=run.seed,
        status=DELETED if run.is_deleted else PAUSED if run.status == outbox.PAUSED else run.status,
        params=run.params,
        tags=run.tags,
        metrics=run.metrics,
        history=History.from_points({}) if run.is_deleted else read_history(client, run),
        predictions=predictions,
        score=scores.pop(ACCURACY.name, None),
        measured=scores,
    )


def find_pictures(record: RunRecord) -> Callable[[str], np.ndarray | None]:
    """Returns a function from the name of a validation file to its picture, in the size that this run was trained with.

    The pictures come from the cache of decoded images, so the data set's files are not needed.
    """
    from catdog.data.cache import load_cached_images

    split = load_table(record.artifact_uri, "split.csv")
    size = int(record.params.get("preprocessing.image_size") or record.tags.image_size)
    rows = split[split["split"] == "val"] if len(split) else split
    index = {file: row for row, file in enumerate(rows["file"])} if len(rows) else {}
    # The run's cache, or else this machine's.
    for cache in dict.fromkeys([record.params.get("dataset.cache") or default_cache(), default_cache()]):
        decoded = (
            load_cached_images(list(rows["sha256"]), height=size, width=size, cache=Path(cache)) if index else None
        )
        if decoded is not None:
            images = decoded.images
            return lambda file: images[index[file]] if file in index else None
    log.warning("the validation images are not in the cache, %s: the page will have no pictures", cache)
    return lambda _: None
