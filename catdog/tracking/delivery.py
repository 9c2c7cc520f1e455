"""Delivery: sends what entries of the outbox hold to MLflow, in order, once each, whenever the store is available."""

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from catdog.config import schema
from catdog.tracking import tags as tag
from catdog.tracking.metric_names import rename_former
from catdog.tracking.outbox import Entry
from catdog.tracking.ownership import LostError, sign_of_life

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0
LIFE_EVERY_S = 300.0
# MLflow's error codes that another attempt cannot change.
FINAL_ERRORS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "PERMISSION_DENIED",
                "UNAUTHENTICATED", "BAD_REQUEST", "FEATURE_DISABLED", "ENDPOINT_NOT_FOUND")  # fmt: skip
ENDED = ("FINISHED", "FAILED", "KILLED")
# MLflow's name for an artifact that it is still copying to a local store; it renames the complete file.
PARTIAL_ARTIFACT = ".artifact.uploading.*"


class NotYetError(Exception):
    """The operation has to wait until other entries are delivered."""


class RefusedError(Exception):
    """MLflow refuses an operation permanently."""


class Promote(Protocol):
    """Registers the best of some finished runs, as `catdog.registry.champion.promote`. The caller passes it to delivery."""

    def __call__(
        self, client: "MlflowClient", config: schema.PromoteConfig, run_ids: list[str], sweep_id: str | None = None
    ) -> Sequence[Any]:
        """Returns the new model versions, as dataclasses."""


def deliver_next(client: "MlflowClient", entry: Entry, promote: Promote | None = None) -> bool:
    """Delivers the entry's next operation; returns whether there was one. Delivering it twice changes nothing.

    Args:
        client: of the tracking store.
        entry: owned by this process.
        promote: registers models; None if the entry never asks for that.

    Raises:
        RefusedError: MLflow will never accept the operation.
        LostError: another process has taken over the entry.
        Exception: any other failure, which may be temporary.
    """
    from mlflow.exceptions import MlflowException

    from catdog.tracking.store import DeletedStudyError

    entry.lease.require()
    state = entry.state
    count = int(state["count"])
    if count >= len(entry.operations):
        return False
    operation = entry.operations[count]
    try:
        if operation["op"] == "promote":
            learned: dict[str, Any] | None = _promote(client, entry, operation, state, promote)
        else:
            learned = OPERATIONS[operation["op"]](client, entry, operation, state)
    except DeletedStudyError as error:
        raise RefusedError(str(error)) from error
    except MlflowException as error:
        if error.error_code in FINAL_ERRORS and not _is_passing(error):
            raise RefusedError(str(error).splitlines()[0]) from error
        raise
    entry.save_state(count=count + 1, **(learned or {}))
    if "folder" in operation:
        shutil.rmtree(entry.folder / "files" / operation["folder"], ignore_errors=True)
    return True


def _is_passing(error: Exception) -> bool:
    # MLflow passes on what SQLite reports about a lock held by another process, or about a row that another process has just added,
    # such as the data set that two runs share. A proxy's answer has none of MLflow's error codes.
    return any(passing in str(error) for passing in ("database is locked", "OperationalError", "IntegrityError"))


def is_gone(client: "MlflowClient", run_id: str) -> bool:
    """Returns whether a run was deleted in MLflow, or is no longer in this store."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage != "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return True
        raise


class DeliveryWorker:
    """A thread that delivers an entry's operations while the run continues.

    Args:
        client: of the tracking store.
        entry: claimed by this process.
        promote: as for `deliver_next`.

    Attributes:
        charge: called with "tracking" and the CPU seconds that a delivery took, if set.
    """

    def __init__(self, client: "MlflowClient", entry: Entry, promote: Promote | None = None) -> None:
        self.client = client
        self.entry = entry
        self.promote = promote
        self.problem = ""
        self.refused = False
        self.charge: Callable[[str, float], None] | None = None
        self._shown = time.monotonic()
        self._more = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="delivery")
        self._thread.start()

    def notify(self) -> None:
        """Tells the thread that there is something new to deliver."""
        self._more.set()

    def wait(self, patience_s: float, until: Callable[[], bool] | None = None) -> bool:
        """Waits until everything is delivered, or `until` is true; returns False if nothing arrives for `patience_s` seconds."""
        done = until or (lambda: self.entry.pending == 0)
        last, since = self.entry.pending, time.monotonic()
        told = False
        while not done():
            if self.refused or not self._thread.is_alive():
                return False
            pending = self.entry.pending
            if pending != last:
                last, since = pending, time.monotonic()
            waited_s = time.monotonic() - since
            if waited_s > patience_s:
                return False
            if waited_s > 3 and self.problem and not told:
                told = True
                log.warning("the tracking store accepts nothing (%s): waiting up to %.0f s", self.problem, patience_s)
            self._more.set()
            time.sleep(0.02)
        return True

    def stop(self, *, wait: bool = True) -> None:
        """Ends the thread after its current operation, and waits for that unless `wait` is false."""
        self._stop.set()
        self._more.set()
        if wait:
            self._thread.join()

    def _work(self) -> None:
        wait_s, warned = FIRST_WAIT_S, False
        while not self._stop.is_set():
            started = time.thread_time()
            try:
                if deliver_next(self.client, self.entry, self.promote):
                    if self.charge:
                        self.charge("tracking", time.thread_time() - started)
                    if warned:
                        log.info("the tracking store is available again")
                    self.problem, wait_s, warned = "", FIRST_WAIT_S, False
                    continue
            except LostError as error:
                self.problem = str(error)
                return
            except RefusedError as error:
                self.problem, self.refused = str(error), True
                self.entry.refusal = self.problem
                log.error(
                    "the tracking store refuses what was recorded (%s); it is kept in %s", error, self.entry.folder
                )
                return
            except NotYetError:
                self._stop.wait(FIRST_WAIT_S)
                continue
            except Exception as error:
                # A database driver or an HTTP library may raise anything. The journal keeps the operation, so try again.
                self.problem = _first_line(error)
                if not warned and wait_s > 4 * FIRST_WAIT_S:
                    warned = True
                    log.warning(
                        "the tracking store accepts nothing (%s): training continues, its results are kept in %s",
                        self.problem, self.entry.folder,
                    )  # fmt: skip
                self._stop.wait(wait_s)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
                continue
            self._show_life()
            self._more.wait(1.0)
            self._more.clear()

    def _show_life(self) -> None:
        """Tells the store now and then that this process works on the run, for hosts that do not share the outbox."""
        run_id = self.entry.state["run_id"]
        if run_id and time.monotonic() - self._shown > LIFE_EVERY_S and self.entry.lease.is_held:
            self._shown = time.monotonic()
            with contextlib.suppress(Exception):
                for key, value in sign_of_life().items():
                    self.client.set_tag(run_id, key, value)


def deliver_all(client: "MlflowClient", entry: Entry, patience_s: float, promote: Promote | None = None) -> bool:
    """Delivers an entry that this process owns; returns whether everything arrived.

    Args:
        client: of the tracking store.
        entry: owned by this process.
        patience_s: how long to wait for a store that does not answer.
        promote: as for `deliver_next`.
    """
    delivery = DeliveryWorker(client, entry, promote)
    try:
        return delivery.wait(patience_s)
    finally:
        delivery.stop()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


# One function per operation. An operation may have been done before: the process can die between doing it and recording that.


def _create(client: "MlflowClient", entry: Entry, operation: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    from catdog.tracking.store import open_study

    facts = entry.facts
    known = {each.name for each in fields(schema.TrackingConfig)}
    tracking = schema.TrackingConfig(**{key: value for key, value in facts["tracking"].items() if key in known})
    experiment_id = open_study(client, facts["study"], tracking)
    if state["run_id"]:
        return {}
    found = client.search_runs([experiment_id], f"tags.`{tag.KEY}` = '{facts['key']}'", max_results=1)
    if found:
        return {"run_id": found[0].info.run_id}
    tags = {**operation["tags"], tag.KEY: facts["key"]}
    if operation.get("sweep_id"):
        tags |= {tag.SWEEP_ID: operation["sweep_id"], MLFLOW_PARENT_RUN_ID: operation["sweep_id"]}
    run = client.create_run(experiment_id, start_time=operation["time_ms"], tags=tags, run_name=operation["name"])
    return {"run_id": run.info.run_id}


def _params(client: "MlflowClient", _entry: Entry, operation: dict[str, Any], state: dict[str, Any]) -> None:
    from mlflow.entities import Param

    params = [Param(key, value) for key, value in operation["values"].items()]
    for start in range(0, len(params), 100):
        client.log_batch(state["run_id"], params=params[start : start + 100])


def _tags(client: "MlflowClient", _entry: Entry, operation: dict[str, Any], state: dict[str, Any]) -> None:
    from mlflow.entities import RunTag

    run_id = operation.get("run_id") or state["run_id"]
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in operation["values"].items()])


def _metrics(client: "MlflowClient", _entry: Entry, operation: dict[str, Any], state: dict[str, Any]) -> None:
    from mlflow.entities import Metric

    # An older catdog may have left the operation.
    values, time_ms, step = rename_former(operation["values"]).items(), operation["time_ms"], operation["step"]
    # MLflow treats the same key, value, time and step, sent twice, as one point.
    client.log_batch(state["run_id"], metrics=[Metric(key, float(value), time_ms, step) for key, value in values])


def _file(client: "MlflowClient", entry: Entry, operation: dict[str, Any], state: dict[str, Any]) -> None:
    path = PurePosixPath(operation["path"])
    source = entry.folder / "files" / operation["folder"] / path.name
    if not source.exists():
        # The file is removed once it is delivered, and the delivery is recorded a moment later.
        return
    _remove_partial_copies(client.get_run(state["run_id"]).info.artifact_uri, path.parent)
    client.log_artifact(state["run_id"], str(source), str(path.parent) if path.parent != PurePosixPath() else None)


def _remove_partial_copies(artifact_uri: str, folder: PurePosixPath) -> None:
    """Removes partial copies that a killed process left in a local artifact store; MLflow never removes them."""
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    if is_local_uri(artifact_uri):
        for partial in (Path(local_file_uri_to_path(artifact_uri)) / folder).glob(PARTIAL_ARTIFACT):
            partial.unlink(missing_ok=True)


def _inputs(client: "MlflowClient", _entry: Entry, operation: dict[str, Any], state: dict[str, Any]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    inputs = [
        DatasetInput(Dataset.from_dictionary(item["dataset"]), [InputTag(MLFLOW_DATASET_CONTEXT, item["context"])])
        for item in operation["datasets"]
    ]
    client.log_inputs(state["run_id"], inputs)


def _model(client: "MlflowClient", entry: Entry, operation: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run = client.get_run(state["run_id"])
    experiment_id, name = run.info.experiment_id, operation["name"]
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run.info.run_id}' AND name = '{name}'")
    logged = found[0] if found else client.create_logged_model(
        experiment_id, name=name, source_run_id=run.info.run_id, params=run.data.params, tags=operation["tags"]
    )  # fmt: skip
    outputs = run.outputs.model_outputs if run.outputs else []
    if logged.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    folder = entry.folder / "files" / operation["folder"]
    described = Model.load(str(folder / "MLmodel"))
    described.run_id, described.model_id = run.info.run_id, logged.model_id
    described.artifact_path = logged.artifact_location
    described.save(str(folder / "MLmodel"))
    client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    uri = f"models:/{logged.model_id}"
    client.set_tag(run.info.run_id, tag.MODEL_URI, uri)
    return {"model_uri": uri}


def _status(client: "MlflowClient", _entry: Entry, operation: dict[str, Any], state: dict[str, Any]) -> None:
    if operation["status"] == "FINISHED" and tag.ERROR in client.get_run(state["run_id"]).data.tags:
        # The error of an interruption from which the run has recovered.
        client.delete_tag(state["run_id"], tag.ERROR)
    if operation["status"] in ENDED:
        client.set_terminated(state["run_id"], status=operation["status"], end_time=operation["time_ms"])
    else:
        client.update_run(state["run_id"], status=operation["status"])


def _promote(
    client: "MlflowClient", entry: Entry, operation: dict[str, Any], state: dict[str, Any], promote: "Promote | None"
) -> dict[str, Any]:
    if promote is None:
        raise NotYetError("this process does not register models")
    sweep_id = state["run_id"] if entry.facts["kind"] == "sweep" else None
    experiment_id = client.get_run(state["run_id"]).info.experiment_id
    run_ids = list(operation["run_ids"])
    for key in operation["keys"]:
        if key == entry.facts["key"]:
            run_ids.append(state["run_id"])
            continue
        found = client.search_runs([experiment_id], f"tags.`{tag.KEY}` = '{key}'", max_results=1)
        if not found or found[0].info.status != "FINISHED":
            raise NotYetError("its runs are not delivered yet")
        run_ids.append(found[0].info.run_id)
    promotions = promote(client, schema.PromoteConfig(**operation["config"]), run_ids, sweep_id)
    return {"promotions": [asdict(promotion) for promotion in promotions]}


OPERATIONS: dict[str, Callable[["MlflowClient", Entry, dict[str, Any], dict[str, Any]], dict[str, Any] | None]] = {
    "create": _create,
    "params": _params,
    "tags": _tags,
    "metrics": _metrics,
    "file": _file,
    "inputs": _inputs,
    "model": _model,
    "status": _status,
}  # fmt: skip
