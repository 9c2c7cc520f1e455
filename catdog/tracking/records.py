"""Typed access to the runs in the store: no other room knows the names of tags, params and metrics."""

import ast
import contextlib
import json
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from catdog.config.command_lines import quote
from catdog.config.digest import complete_params
from catdog.config.schema import DEFAULT_STUDY
from catdog.config.suggestions import ask, suggest
from catdog.data.history import EPOCH, HISTORY_KEYS, History
from catdog.system.errors import TRAIN_COMMAND, UserError
from catdog.tracking import metric_names
from catdog.tracking import tags as tag
from catdog.tracking.artifacts import load_epoch_answers, load_history, load_predictions, load_table, resolve_address
from catdog.tracking.identity import DIGITS
from catdog.tracking.ownership import Owner
from catdog.tracking.store import check_study, store_command
from catdog.tracking.tags import ENSEMBLE, RUN, SWEEP, WITH_MODEL, Tags

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from catdog.data.epoch_answers import EpochAnswers
    from catdog.data.predictions import Predictions

FINISHED, RUNNING = "FINISHED", "RUNNING"
# MLflow's own limit on the number of search results.
MOST_RUNS = 50_000
# Metrics of the machine, recorded over time: their last value is of no use in a table of runs.
MACHINE = "system/"
# A run of another host that is RUNNING counts as dead after this long without a sign of life, which comes every five minutes. The
# hosts' clocks may differ by the rest.
SILENT_AFTER_S = 20 * 60
# The same for a run of an older catdog, which gave no signs of life but its metrics.
FORMER_SILENT_AFTER_S = 24 * 3600


@dataclass(frozen=True, eq=False)
class StoredRun:
    """A training run, an ensemble or a sweep in the store.

    Args:
        run: MLflow's.
        address: where its artifacts are, as `resolve_address` returns it.
    """

    run: "Run"
    address: str

    @property
    def run_id(self) -> str:
        """MLflow's run id."""
        return str(self.run.info.run_id)

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the study that it belongs to."""
        return str(self.run.info.experiment_id)

    @property
    def kind(self) -> str:
        """RUN, ENSEMBLE, SWEEP, or another word for anything else."""
        return self.tags.kind

    @property
    def name(self) -> str:
        """Its name in the sweep that trained it."""
        return str(self.run.info.run_name)

    @property
    def status(self) -> str:
        """MLflow's status: FINISHED, FAILED, KILLED or RUNNING."""
        return str(self.run.info.status)

    @property
    def is_finished(self) -> bool:
        """Whether it ended as FINISHED."""
        return self.status == FINISHED

    @property
    def is_deleted(self) -> bool:
        """Whether it was deleted in MLflow; until `mlflow gc` removes it, it can be restored."""
        return bool(self.run.info.lifecycle_stage == "deleted")

    @property
    def start(self) -> datetime:
        """When it began, in the time zone of this machine."""
        return datetime.fromtimestamp(self.run.info.start_time / 1000).astimezone()

    @property
    def end(self) -> datetime | None:
        """When it ended, in the time zone of this machine; None if it runs, or if nobody knows."""
        ended = self.run.info.end_time
        return datetime.fromtimestamp(ended / 1000).astimezone() if ended else None

    @cached_property
    def tags(self) -> Tags:
        """Its tags; those that serve as more than text have a property."""
        return Tags(self.run.data.tags)

    @cached_property
    def params(self) -> dict[str, str]:
        """The leaves of its config as text, such as "trainer.epochs": "20"; an older run also has the keys added since."""
        return dict(complete_params(self.run.data.params))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The leaves of its config, with numbers, booleans and None converted from text."""
        return {key: _parse_param(value) for key, value in self.params.items()}

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric; those of an older run have today's names."""
        return metric_names.rename_former(self.run.data.metrics)

    @property
    def variant(self) -> str:
        """Its name without the seed."""
        return self.tags.get(tag.VARIANT, self.name)

    @property
    def seed(self) -> int:
        """The seed of its initial weights, of the order of images and so on."""
        return int(self.params.get("seed", 0))

    @property
    def sweep_id(self) -> str:
        """The run id of the sweep that trained it; "" for a single run."""
        return self.tags.get(tag.SWEEP_ID, "")

    @property
    def planned_runs(self) -> int:
        """How many different runs a sweep was started with; 0 if unknown."""
        return int(self.tags.get(tag.RUNS, 0))

    @property
    def registered_model(self) -> str:
        """The name of the registered model that it competed for; "" for none."""
        return self.tags.get(tag.REGISTERED_MODEL, "")

    @property
    def precision(self) -> str:
        """The precision that it trained with; "" if unknown."""
        return self.tags.get(tag.PRECISION, "")

    @property
    def code_digest(self) -> str:
        """The digest of the code that trained it; "" if unknown."""
        return self.tags.code_digest

    @property
    def data_digest(self) -> str:
        """The digest of its images and their splits; "" if unknown."""
        return self.tags.data_digest

    @property
    def model_uri(self) -> str | None:
        """MLflow's address of its kept model; None if it has none."""
        return self.tags.model_uri

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the images that its model takes; 0 if unknown."""
        return int(self.params.get("preprocessing.image_size") or self.tags.image_size)

    @property
    def class_names(self) -> list[str]:
        """Its classes; empty if unknown."""
        return self.tags.get(tag.CLASSES, "").split(",") if tag.CLASSES in self.tags else []

    @property
    def majority_fraction(self) -> float:
        """The share of the most common class among its validation images."""
        return float(self.tags[tag.MAJORITY_FRACTION])

    @property
    def train_images(self) -> int:
        """How many images it was trained on."""
        return int(self.tags[tag.IMAGES.format(split="train")])

    @property
    def groups(self) -> str:
        """Who named the groups of its images: a pattern, a file, or near_duplicates; "" if its images come in no groups."""
        return self.tags.groups

    @property
    def command(self) -> str:
        """The command line that started it; "" if unknown."""
        return self.tags.get(tag.COMMAND) or self.tags.get(tag.SOURCE, "")

    @property
    def owner(self) -> Owner | None:
        """The process that works, or worked, on it; None if unknown."""
        return Owner.from_tag(self.tags.get(tag.OWNER))

    @property
    def is_worked_on(self) -> bool:
        """Whether a living process works on it, as far as is known."""
        return self.status == RUNNING and self.owner is not None and not self.is_dead

    @property
    def last_epoch(self) -> int | None:
        """The last epoch whose metrics it has recorded; None before the first."""
        steps = [metric.step for metric in self.run.data._metric_objs if metric.key == "train/loss"]
        return max(steps, default=None)

    @property
    def last_sign_of_life(self) -> float:
        """When its process last recorded that it works on it, in seconds since 1970, by its own clock."""
        times_ms = [self.run.info.start_time, *(metric.timestamp for metric in self.run.data._metric_objs)]
        return max(self.tags.sign_of_life, *(time_ms / 1000 for time_ms in times_ms))

    @property
    def is_dead(self) -> bool:
        """Whether its process is gone, although it is RUNNING.

        Where the process can be seen, its pid and start time decide; elsewhere, the time of its last sign of life.
        """
        owner = self.owner
        if owner is None:
            return False
        if owner.is_here:
            return not owner.lives
        limit_s = SILENT_AFTER_S if self.tags.sign_of_life else FORMER_SILENT_AFTER_S
        return time.time() - self.last_sign_of_life > limit_s

    @property
    def is_quick_look(self) -> bool:
        """Whether it saw only some of the images: `dataset.max_images_per_class`."""
        return self.run.data.params.get("dataset.max_images_per_class", "None") != "None"

    @property
    def kept_score(self) -> tuple[float, float]:
        """The validation accuracy and loss of its kept model."""
        if metric_names.KEPT_VAL_ACCURACY in self.metrics:
            # Measured on its stored predictions, whatever its epochs report: a run of another tool, an ensemble, or a model that
            # averages over mirror images, which the validation after each epoch does not.
            return self.metrics[metric_names.KEPT_VAL_ACCURACY], self.metrics[metric_names.KEPT_VAL_LOSS]
        if self.run.data.params.get("trainer.keep") == "best":
            return self.metrics[metric_names.BEST_VAL_ACCURACY], self.metrics[metric_names.BEST_VAL_LOSS]
        return self.metrics[metric_names.FINAL["val/accuracy"]], self.metrics[metric_names.FINAL["val/loss"]]

    def is_member_of(self, sweep_id: str) -> bool:
        """Returns whether it belongs to a sweep: the one that trained it, or one that reuses it."""
        return tag.member_tag(sweep_id) in self.tags

    @property
    def sweep_ids(self) -> list[str]:
        """The sweeps that it belongs to: the one that trained it, and those that reuse it."""
        return [
            key.removeprefix(tag.MEMBER) for key, value in self.tags.items() if key.startswith(tag.MEMBER) and value
        ]

    def membership(self, sweep_id: str) -> tuple[int, str, str]:
        """Returns its place in a sweep, and its name and variant there: a sweep may reuse a run under another name."""
        found = json.loads(self.tags.get(tag.member_tag(sweep_id)) or "null")
        place, name, variant = found or (0, self.name, self.variant)
        return int(place), str(name), str(variant)

    def load_predictions(self, split: str = "val") -> "Predictions":
        """Returns its stored predictions for the images of a split; see `catdog.tracking.artifacts.load_predictions`."""
        return load_predictions(self.address, split)

    @property
    def chose_on_val(self) -> bool:
        """Whether its kept model is that of the epoch with the best results on the validation images."""
        return self.run.data.params.get("trainer.keep") == "best"

    @property
    def fair_score(self) -> tuple[float, float]:
        """The validation accuracy of its kept model without the advantage of having been chosen on val, and its loss."""
        accuracy, loss = self.kept_score
        return self.metrics.get(metric_names.FAIR_VAL_ACCURACY, accuracy), loss

    def load_epoch_answers(self) -> "EpochAnswers | None":
        """Returns its answers to the validation images after each epoch; None if it has stored none."""
        return load_epoch_answers(self.address)

    def load_splits(self) -> "pd.DataFrame":
        """Returns the split of each image: columns file, label, split, sha256 and, if any, group; empty if nothing is stored."""
        return load_table(self.address, "split.csv")

    def load_groups(self, files: Iterable[str]) -> "np.ndarray | None":
        """Returns the groups of images, int (N,) in the order of `files`; None if each is a group of its own, or none is known."""
        if not self.groups:
            return None
        from catdog.data.groups import code_groups

        splits = self.load_splits()
        names = dict(zip(splits["file"], splits["group"], strict=True)) if "group" in splits else {}
        return code_groups([names.get(file, file) for file in files])


@lru_cache(maxsize=4096)
def _parse_param(text: str) -> Any:
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text


def store_run(client: "MlflowClient", run: "Run") -> StoredRun:
    """Returns an MLflow run as a StoredRun."""
    return StoredRun(run, resolve_address(client, run.info.artifact_uri or ""))


def get_run(client: "MlflowClient", run_id: str) -> StoredRun:
    """Returns a run or a sweep by its id.

    Raises:
        MlflowException: the store has none with this id.
    """
    return store_run(client, client.get_run(run_id))


def find_run(client: "MlflowClient", run_id: str) -> StoredRun | None:
    """Returns a run or a sweep by its id; None if the store has none with this id."""
    from mlflow.exceptions import MlflowException

    try:
        return store_run(client, client.get_run(run_id))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def explain_gone(client: "MlflowClient", run_id: str, run: StoredRun | None) -> str:
    """Returns a sentence about the run of a model if it was deleted, and how to restore it; "" if it is there.

    Args:
        client: of the store.
        run_id: the run's id.
        run: the run, as `find_run` returns it.
    """
    if not run_id:
        # A version that somebody registered by hand.
        return ""
    if run is None:
        return f"the run that trained it, {run_id}, was removed from the tracking store for good."
    if not run.is_deleted:
        return ""
    experiment = client.get_experiment(run.experiment_id)
    whole = experiment.lifecycle_stage == "deleted"
    wanted = f"study={quote(experiment.name)}" if whole else f"run={run_id}"
    return (
        f"the run that trained it, {run.name} ({run_id}), was deleted in MLflow{' with its study' if whole else ''}. Restore it: "
        f"{store_command(client, 'restore', wanted)}."
    )


def find_study(client: "MlflowClient", study: str) -> str:
    """Returns the experiment id of a study.

    Raises:
        UserError: there is no study of this name, or it was deleted in MLflow.
    """
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        known = sorted(e.name for e in client.search_experiments() if e.name not in ("Default", tag.LEDGER))
        place = "" if study == DEFAULT_STUDY else f" study={quote(study)}"
        raise UserError(
            f"study: no study {study!r} in this tracking store; studies: {', '.join(known) or 'none'}."
            f"{ask([suggest(study, known)])} Train first: {TRAIN_COMMAND}{place}"
        )
    check_study(client, study)
    return str(experiment.experiment_id)


def find_study_of(client: "MlflowClient", run_id: str, key: str) -> str:
    """Returns the name of the study that a run or a sweep belongs to, even if that was deleted.

    Args:
        client: of the store.
        run_id: MLflow's.
        key: what an error calls the id.

    Raises:
        UserError: there is no such run or sweep.
    """
    run = find_run(client, run_id)
    if run is None or run.kind not in (*WITH_MODEL, SWEEP):
        raise UserError(
            f"{key}: no run or sweep {run_id!r} in this tracking store. MLflow's pages list them; what `catdog.clean` or `mlflow "
            "gc` removed is gone for good."
        )
    return str(client.get_experiment(run.experiment_id).name)


def list_studies(client: "MlflowClient", *, deleted: bool = False) -> list[str]:
    """Returns the names of all studies in alphabetical order; or only of those that were deleted in MLflow."""
    from mlflow.entities import ViewType

    view = ViewType.DELETED_ONLY if deleted else ViewType.ALL
    return sorted(experiment.name for experiment in client.search_experiments(view, MOST_RUNS))


def search(
    client: "MlflowClient",
    study: str,
    where: str,
    *,
    most: int = MOST_RUNS,
    oldest_first: bool = False,
    deleted: bool = False,
) -> list[StoredRun]:
    """Returns the runs and sweeps of a study that meet a condition, newest first; empty if there is no such study.

    Args:
        client: of the store.
        study: its name.
        where: in MLflow's language for searches.
        most: how many at most.
        oldest_first: the other order.
        deleted: return those that were deleted in MLflow, instead of the others.
    """
    from mlflow.entities import ViewType

    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        return []
    order = [f"attributes.start_time {'ASC' if oldest_first else 'DESC'}"]
    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    found = client.search_runs([experiment.experiment_id], where, view, most, order)
    return [store_run(client, run) for run in found]


def find_by_identity(client: "MlflowClient", study: str, identity: str, kind: str = RUN) -> list[StoredRun]:
    """Returns the runs, or the sweeps, of a study with an identity, whatever their status, newest first."""
    return search(client, study, f"tags.`{tag.IDENTITY}` = '{identity}' AND {_is(kind)}", most=20)


def find_newest_study(client: "MlflowClient") -> str:
    """Returns the name of the study that was trained last.

    Raises:
        UserError: nothing has been trained.
    """
    names = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
    found = client.search_runs(
        [*names], f"tags.`{tag.KIND}` != ''", order_by=["attributes.start_time DESC"], max_results=1
    )
    if not found:
        raise UserError(f"study: this tracking store has no run. Train first: {TRAIN_COMMAND}")
    return str(names[found[0].info.experiment_id])


def find_latest_sweep(client: "MlflowClient", study: str) -> StoredRun | None:
    """Returns the sweep of a study that started last; None if it has no sweep.

    Raises:
        UserError: there is no such study.
    """
    find_study(client, study)
    found = search(client, study, _is(SWEEP), most=1)
    return found[0] if found else None


def find_deleted_sweep(client: "MlflowClient", study: str) -> StoredRun | None:
    """Returns the sweep that started last of those of a study that were deleted in MLflow; None if there is none."""
    return next(iter(search(client, study, _is(SWEEP), most=1, deleted=True)), None)


def find_deleted_runs(client: "MlflowClient", study: str) -> list[StoredRun]:
    """Returns the finished training runs of a study that were deleted in MLflow, newest first."""
    return search(client, study, f"{_is(RUN)} AND attributes.status = '{FINISHED}'", deleted=True)


def find_newest_recorded(client: "MlflowClient", study: str) -> StoredRun | None:
    """Returns the newest finished run of a study if a script recorded it outside a sweep; otherwise None.

    Raises:
        UserError: there is no such study.
    """
    find_study(client, study)
    newest = next(iter(search(client, study, f"{_is(RUN)} AND attributes.status = '{FINISHED}'", most=1)), None)
    return newest if newest and newest.tags.is_recorded and not newest.sweep_id else None


def find_seeds(client: "MlflowClient", run: StoredRun, most: int) -> list[StoredRun]:
    """Returns a run and the other finished runs of its variant in its study on the same data, one for each seed."""
    runs = [run]
    if run.tags.variant_digest:
        where = f"tags.`{tag.VARIANT_DIGEST}` = '{run.tags.variant_digest}' AND attributes.status = '{FINISHED}'"
        runs += [store_run(client, other) for other in client.search_runs([run.experiment_id], where, max_results=most)]
    chosen: dict[str, StoredRun] = {}
    for other in runs:
        if other is run or other.tags.is_same_variant(run.tags):
            chosen.setdefault(other.run.data.params.get("seed", other.run_id), other)
    return list(chosen.values())


def list_runs(client: "MlflowClient", study: str) -> list[StoredRun]:
    """Returns the training runs of a study, whatever their status, oldest first.

    Raises:
        UserError: there is no such study.
    """
    find_study(client, study)
    return search(client, study, _is(RUN), oldest_first=True)


def list_ensembles(client: "MlflowClient", study: str) -> list[StoredRun]:
    """Returns the ensembles of a study, whatever their status, newest first; empty if there is no such study."""
    return search(client, study, _is(ENSEMBLE))


def list_sweeps(client: "MlflowClient", study: str) -> list[StoredRun]:
    """Returns the sweeps of a study, whatever their status, newest first; empty if there is no such study."""
    return search(client, study, _is(SWEEP))


def list_recent_runs(client: "MlflowClient", study: str, most: int) -> list[StoredRun]:
    """Returns the newest training runs of a study, whatever their status; empty if there is no such study."""
    return search(client, study, _is(RUN), most=most)


def list_members(client: "MlflowClient", sweep: StoredRun) -> list[StoredRun]:
    """Returns the runs of a sweep, including those that it reused, in the order of its command line.

    Runs that were deleted in MLflow are included: `is_deleted` says which.
    """
    from mlflow.entities import ViewType

    # The tag is "" on a run that was superseded by a new attempt.
    where = f"tags.`{tag.member_tag(sweep.run_id)}` != ''"
    found = client.search_runs([sweep.experiment_id], where, ViewType.ALL, MOST_RUNS)
    return sorted((store_run(client, run) for run in found), key=lambda run: run.membership(sweep.run_id)[0])


def list_promoted_runs(client: "MlflowClient", study: str) -> list[StoredRun]:
    """Returns the runs of a study that competed for a registered model, the newest first; empty if there is no such study.

    Runs that were deleted in MLflow come last: their models may still be registered.
    """
    where = f"tags.`{tag.REGISTERED_MODEL}` != ''"
    found = [run for deleted in (False, True) for run in search(client, study, where, most=1000, deleted=deleted)]
    return [run for run in found if run.kind != SWEEP]


def close_dead_runs(client: "MlflowClient", study: str, kept: Collection[str]) -> list[StoredRun]:
    """Marks runs of a study as KILLED that are RUNNING although their process is gone, and returns them.

    Args:
        client: of the store.
        study: its name.
        kept: keys of the outbox's entries: the runs that belong to one are left alone.
    """
    running = search(client, study, f"attributes.status = '{RUNNING}'", most=1000)
    dead = [run for run in running if run.tags.get(tag.KEY) not in kept and run.is_dead]
    for run in dead:
        client.set_tag(run.run_id, tag.ERROR, "its process is gone")
        client.set_terminated(run.run_id, status="KILLED")
    return dead


def log_decision(client: "MlflowClient", sweep_id: str, state: dict[str, Any]) -> None:
    """Stores the state of a sequential decision on its sweep, where MLflow shows it."""
    client.set_tag(sweep_id, tag.DECISION, json.dumps(state))


def log_compared(client: "MlflowClient", run_id: str, looks: int) -> None:
    """Stores on a run at how many looks of `compare` it has been judged with its siblings."""
    client.set_tag(run_id, tag.COMPARED, str(looks))


def log_registered_model(client: "MlflowClient", run_id: str, name: str) -> None:
    """Stores on a run, or a sweep, the name of the registered model that it competed for."""
    client.set_tag(run_id, tag.REGISTERED_MODEL, name)


def _is(kind: str) -> str:
    return f"tags.`{tag.KIND}` = '{kind}'"


def read_history(client: "MlflowClient", run: StoredRun) -> History:
    """Returns a run's metrics by epoch: from its table if it has finished, otherwise metric by metric."""
    stored = load_history(run.address)
    if stored is not None:
        return stored
    return History.from_points({
        key: {point.step: point.value for point in client.get_metric_history(run.run_id, key)}
        for key in HISTORY_KEYS
        if key in run.metrics
    })  # fmt: skip


def build_runs_frame(runs: Sequence[StoredRun], config: str = "varying") -> "pd.DataFrame":
    """Returns a table of runs, one row each, in their order.

    Args:
        runs: the runs.
        config: "varying": the config keys whose values differ between these runs; "all": all config keys.

    Returns:
        Columns run_id, name, variant, seed, status, start (with time zone), one for each config key ("trainer.epochs"), one for
        each metric ("val/accuracy": its last value), sweep, registered_model, precision, code ("" if unknown).
    """
    import pandas as pd

    keys = dict.fromkeys(key for run in runs for key in run.params if key != "seed")
    if config == "varying":
        keys = dict.fromkeys(key for key in keys if len({run.params.get(key) for run in runs}) > 1)
    metrics = sorted({key for run in runs for key in run.metrics if not key.startswith(MACHINE)})
    columns: dict[str, list[Any]] = {
        "run_id": [run.run_id for run in runs],
        "name": [run.name for run in runs],
        "variant": [run.variant for run in runs],
        "seed": [run.seed for run in runs],
        "status": [run.status for run in runs],
        "start": [run.start for run in runs],
        **{key: [run.config.get(key) for run in runs] for key in keys},
        **{key: [run.metrics.get(key, float("nan")) for run in runs] for key in metrics},
        "sweep": [run.sweep_id for run in runs],
        "registered_model": [run.registered_model for run in runs],
        "precision": [run.precision for run in runs],
        "code": [run.code_digest[:DIGITS] for run in runs],
    }
    return pd.DataFrame(columns)


def build_history_frame(client: "MlflowClient", runs: Sequence[StoredRun]) -> "pd.DataFrame":
    """Returns the metrics of runs after each epoch, one row for each run, epoch and metric.

    Returns:
        Columns run_id, name, epoch (int, from 1), metric ("val/accuracy"), value (float64).
    """
    import pandas as pd

    columns = ["run_id", "name", EPOCH, "metric", "value"]
    tables = []
    for run in runs:
        table = read_history(client, run).to_frame().reset_index().melt(EPOCH, var_name="metric", value_name="value")
        tables.append(table.assign(run_id=run.run_id, name=run.name)[columns])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
