"""Typed access to the runs in the store: no other room knows the names of tags, params and metrics."""

import ast
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from catdog.config.schema import complete_params
from catdog.config.suggestions import ask, suggest
from catdog.data.history import EPOCH, HISTORY_KEYS, History
from catdog.system.errors import TRAIN_COMMAND, UserError
from catdog.tracking.artifacts import load_history, load_predictions, load_table, resolve_address
from catdog.tracking.identity import DIGITS, RECORDED_TAG
from catdog.tracking.ownership import Owner

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from catdog.data.predictions import Predictions

RUN, SWEEP = "run", "sweep"
FINISHED, RUNNING = "FINISHED", "RUNNING"
KIND = "catdog.kind"
REGISTERED_TAG = "catdog.registered_model"
# MLflow's own limit on the number of search results.
MOST_RUNS = 50_000
# Metrics of the machine, recorded over time: their last value is of no use in a table of runs.
MACHINE = "system/"


@dataclass(frozen=True, eq=False)
class StoredRun:
    """A training run or a sweep in the store.

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
        """RUN, SWEEP, or another word for anything else."""
        return self.tags.get(KIND, "")

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
    def start(self) -> datetime:
        """When it began, in the time zone of this machine."""
        return datetime.fromtimestamp(self.run.info.start_time / 1000).astimezone()

    @cached_property
    def tags(self) -> dict[str, str]:
        """All tags, for those that have no property of their own."""
        return dict(self.run.data.tags)

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
        """The last value of each metric."""
        return dict(self.run.data.metrics)

    @property
    def variant(self) -> str:
        """Its name without the seed."""
        return self.tags.get("catdog.variant", self.name)

    @property
    def seed(self) -> int:
        """The seed of its initial weights, of the order of images and so on."""
        return int(self.params.get("seed", 0))

    @property
    def sweep_id(self) -> str:
        """The run id of the sweep that trained it; "" for a single run."""
        return self.tags.get("catdog.sweep", "")

    @property
    def registered_model(self) -> str:
        """The name of the registered model that it competed for; "" for none."""
        return self.tags.get(REGISTERED_TAG, "")

    @property
    def precision(self) -> str:
        """The precision that it trained with; "" if unknown."""
        return self.tags.get("catdog.precision", "")

    @property
    def code_digest(self) -> str:
        """The digest of the code that trained it; "" if unknown."""
        return self.tags.get("catdog.code_digest", "")

    @property
    def data_digest(self) -> str:
        """The digest of its images and their splits; "" if unknown."""
        return self.tags.get("catdog.data_digest", "")

    @property
    def model_uri(self) -> str | None:
        """MLflow's address of its kept model; None if it has none."""
        return self.tags.get("catdog.model_uri")

    @property
    def majority_fraction(self) -> float:
        """The share of the most common class among its validation images."""
        return float(self.tags["catdog.majority_fraction"])

    @property
    def train_images(self) -> int:
        """How many images it was trained on."""
        return int(self.tags["catdog.train_images"])

    @property
    def command(self) -> str:
        """The command line that started it; "" if unknown."""
        return self.tags.get("catdog.command") or self.tags.get("mlflow.source.name", "")

    @property
    def owner(self) -> Owner | None:
        """The process that works, or worked, on it; None if unknown."""
        return Owner.from_tag(self.tags.get("catdog.owner"))

    @property
    def is_running_here(self) -> bool:
        """Whether it is being trained: by a living process of this machine, or possibly by one of another machine."""
        owner = self.owner
        return self.status == RUNNING and owner is not None and (not owner.is_here or owner.lives)

    def membership(self, sweep_id: str) -> tuple[int, str, str]:
        """Returns its place in a sweep, and its name and variant there: a sweep may reuse a run under another name."""
        found = json.loads(self.tags.get(_member_tag(sweep_id)) or "null")
        place, name, variant = found or (0, self.name, self.variant)
        return int(place), str(name), str(variant)

    def load_predictions(self, split: str = "val") -> "Predictions":
        """Returns its stored predictions for the images of a split; see `catdog.tracking.artifacts.load_predictions`."""
        return load_predictions(self.address, split)

    def load_splits(self) -> "pd.DataFrame":
        """Returns the split of each image: columns file, label, split, sha256; empty if nothing is stored."""
        return load_table(self.address, "split.csv")


def _member_tag(sweep_id: str) -> str:
    return f"catdog.member.{sweep_id}"


@lru_cache(maxsize=4096)
def _parse_param(text: str) -> Any:
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text


def store_run(client: "MlflowClient", run: "Run") -> StoredRun:
    """Returns an MLflow run as a StoredRun."""
    return StoredRun(run, resolve_address(client, run.info.artifact_uri or ""))


def find_run(client: "MlflowClient", run_id: str) -> StoredRun | None:
    """Returns a run or a sweep by its id; None if the store has none with this id."""
    from mlflow.exceptions import MlflowException

    try:
        return store_run(client, client.get_run(run_id))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def find_study(client: "MlflowClient", study: str) -> str:
    """Returns the experiment id of a study.

    Raises:
        UserError: there is no study of this name.
    """
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        known = sorted(e.name for e in client.search_experiments() if e.name != "Default")
        raise UserError(
            f"study: no study {study!r} in this tracking store; studies: {', '.join(known) or 'none'}."
            f"{ask([suggest(study, known)])} Train first: {TRAIN_COMMAND}"
        )
    return str(experiment.experiment_id)


def find_latest_sweep(client: "MlflowClient", study: str) -> StoredRun | None:
    """Returns the sweep of a study that started last; None if it has no sweep.

    Raises:
        UserError: there is no such study.
    """
    found = client.search_runs(
        [find_study(client, study)],
        f"tags.`{KIND}` = '{SWEEP}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return store_run(client, found[0]) if found else None


def find_newest_recorded(client: "MlflowClient", study: str) -> StoredRun | None:
    """Returns the newest finished run of a study if a script recorded it outside a sweep; otherwise None."""
    found = client.search_runs(
        [find_study(client, study)], f"tags.`{KIND}` = '{RUN}' AND attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"], max_results=1,
    )  # fmt: skip
    newest = store_run(client, found[0]) if found else None
    return newest if newest and RECORDED_TAG in newest.tags and not newest.sweep_id else None


def list_runs(client: "MlflowClient", study: str) -> list[StoredRun]:
    """Returns the training runs of a study, whatever their status, oldest first.

    Raises:
        UserError: there is no such study.
    """
    found = client.search_runs(
        [find_study(client, study)], f"tags.`{KIND}` = '{RUN}'", order_by=["attributes.start_time ASC"],
        max_results=MOST_RUNS,
    )  # fmt: skip
    return [store_run(client, run) for run in found]


def list_members(client: "MlflowClient", sweep: StoredRun) -> list[StoredRun]:
    """Returns the runs of a sweep, including those that it reused, in the order of its command line."""
    # The tag is "" on a run that was superseded by a new attempt.
    found = client.search_runs(
        [sweep.experiment_id], f"tags.`{_member_tag(sweep.run_id)}` != ''", max_results=MOST_RUNS
    )
    return sorted((store_run(client, run) for run in found), key=lambda run: run.membership(sweep.run_id)[0])


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
