"""Runs in MLflow -> a comparison."""

import json
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from catdog.comparison.records import FINISHED, Comparison, RunRecord
from catdog.config.commands import CompareConfig
from catdog.config.schema import default_cache
from catdog.data.history import HISTORY_KEYS, History
from catdog.registry.ledger import digest_test, read_looks
from catdog.system.errors import TRAIN_COMMAND, UserError
from catdog.tracking.artifacts import load_history, load_predictions, load_table

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

# MLflow's own limit to what a search returns at once.
MAX_RUNS = 50_000


def load_comparison(client: "MlflowClient", config: CompareConfig) -> Comparison:
    """Returns the runs that the config names: `runs`, or a sweep's, by default those of the study's latest sweep.

    Raises:
        UserError: no such study, sweep or run, or none of them finished.
    """
    sweep, runs = _find_runs(client, config)
    records = [_load_record(client, run, sweep.info.run_id if sweep else "") for run in runs]
    finished = [(record, run) for record, run in zip(records, runs, strict=True) if record.finished]
    if not finished:
        states = ", ".join(f"{record.name} {record.status}" for record in records) or "none"
        raise UserError(f"nothing to compare: no finished run among {states}. Train first: {TRAIN_COMMAND}")
    first, first_run = finished[0]
    tags = first_run.data.tags
    split = load_table(first.artifact_uri, "split.csv")
    return Comparison(
        study=client.get_experiment(first_run.info.experiment_id).name,
        sweep_id=sweep.info.run_id if sweep else "",
        records=records,
        class_names=first.class_names,
        baseline=float(tags["catdog.majority_fraction"]),
        train_images=int(tags["catdog.train_images"]),
        val_images=len(first.predictions),
        data_digest=tags.get("catdog.data_digest", ""),
        command=sweep.data.tags.get("catdog.command", "") if sweep else tags.get("mlflow.source.name", ""),
        created=datetime.now().astimezone(),
        picture=find_pictures(first),
        sweep_status=sweep.info.status if sweep else FINISHED,
        looks=read_looks(client, digest_test(split)) if len(split) else [],
    )


def _find_runs(client: "MlflowClient", config: CompareConfig) -> "tuple[Run | None, list[Run]]":
    from mlflow.exceptions import MlflowException

    if config.runs:
        try:
            named = [client.get_run(run_id) for run_id in dict.fromkeys(config.runs)]
        except MlflowException as error:
            raise UserError(
                f"runs: {str(error).splitlines()[0]}. Give MLflow run ids of this tracking store."
            ) from error
        for run in named:
            if run.data.tags.get("catdog.kind") != "run":
                raise UserError(
                    f"runs: {run.info.run_id} is no training run. If it is a sweep: sweep={run.info.run_id}"
                )
        return None, named
    if config.sweep:
        try:
            sweep = client.get_run(config.sweep)
        except MlflowException as error:
            raise UserError(f"sweep: no run {config.sweep!r} in this tracking store.") from error
        if sweep.data.tags.get("catdog.kind") != "sweep":
            raise UserError(
                f"sweep: {config.sweep!r} is a run, not a sweep. To see a single run: runs=[{config.sweep}]"
            )
    else:
        sweep = _latest_sweep(client, config.study)
    # Its own and those that it reused, in the order of the command line.
    member = f"catdog.member.{sweep.info.run_id}"  # "" on a run that was begun again
    runs = client.search_runs([sweep.info.experiment_id], f"tags.`{member}` != ''", max_results=MAX_RUNS)
    return sweep, sorted(runs, key=lambda run: json.loads(run.data.tags[member])[0])


def _latest_sweep(client: "MlflowClient", study: str) -> "Run":
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        known = ", ".join(sorted(e.name for e in client.search_experiments() if e.name != "Default")) or "none"
        raise UserError(
            f"study: no study {study!r} in this tracking store; studies: {known}. Train first: {TRAIN_COMMAND}"
        )
    sweeps = client.search_runs(
        [experiment.experiment_id],
        "tags.`catdog.kind` = 'sweep'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    if not sweeps:
        raise UserError(
            f"study: {study!r} has no sweep yet. Train one: {TRAIN_COMMAND}, or name single runs: runs=[RUN_ID,RUN_ID]."
        )
    return sweeps[0]


def _load_record(client: "MlflowClient", run: "Run", sweep_id: str) -> RunRecord:
    data = run.data
    # A run that a sweep reuses may be called otherwise in the one that trained it.
    own = [0, run.info.run_name, data.tags.get("catdog.variant", run.info.run_name)]
    _, name, variant = json.loads(data.tags.get(f"catdog.member.{sweep_id}", "null")) or own
    artifacts = run.info.artifact_uri
    return RunRecord(
        run_id=run.info.run_id,
        artifact_uri=artifacts,
        name=name,
        variant=variant,
        seed=int(data.params.get("seed", 0)),
        status=run.info.status,
        params=dict(data.params),
        tags=dict(data.tags),
        metrics=dict(data.metrics),
        history=_load_history(client, run),
        predictions=load_predictions(artifacts),
    )


def _load_history(client: "MlflowClient", run: "Run") -> History:
    """Returns a run's metrics by epoch: from its table, which it has once it is finished, or metric by metric."""
    stored = load_history(run.info.artifact_uri)
    if stored is not None:
        return stored
    return History.from_points({
        key: {point.step: point.value for point in client.get_metric_history(run.info.run_id, key)}
        for key in HISTORY_KEYS
        if key in run.data.metrics
    })  # fmt: skip


def find_pictures(record: RunRecord) -> Callable[[str], np.ndarray | None]:
    """Returns a function from the name of a validation file to its picture, in the size that this run was trained at.

    The pictures are in the cache of decoded images; the data set's files are needed no more.
    """
    from catdog.data.cache import load_cached_images

    split = load_table(record.artifact_uri, "split.csv")
    size = int(record.params.get("preprocessing.image_size", 0))
    rows = split[split["split"] == "val"] if len(split) else split
    index = {file: row for row, file in enumerate(rows["file"])} if len(rows) else {}
    # Where the run had its cache, or where this machine has it.
    for cache in dict.fromkeys([record.params.get("dataset.cache") or default_cache(), default_cache()]):
        decoded = (
            load_cached_images(list(rows["sha256"]), height=size, width=size, cache=Path(cache)) if index else None
        )
        if decoded is not None:
            images = decoded.images
            return lambda file: images[index[file]] if file in index else None
    log.warning("the validation images are not in the cache, %s: the page goes without pictures", cache)
    return lambda file: None
