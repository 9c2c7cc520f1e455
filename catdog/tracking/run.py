"""The life of one MLflow run: its config first, its metrics and artifacts, its model, and how it ended."""

import contextlib
import io
import json
import logging
import shlex
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog.config import schema
from catdog.config.schema import Config, DatasetConfig, TrackingConfig
from catdog.tracking.checkpoint import Checkpoint, load_checkpoint
from catdog.tracking.delivery import DeliveryWorker, Promote
from catdog.tracking.identity import VARIANT_TAG, Identity, describe_origin, read_git
from catdog.tracking.outbox import Entry, end_orphan, entry_for
from catdog.tracking.ownership import Owner

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

MODEL_ARTIFACT = "model"
# What `data.images.decode_image` does, for whoever serves the model without it.
RESIZE = "RGB, turned upright by EXIF, stretched to image_size x image_size with antialiased bilinear resampling"
# A run of a sweep leaves what a silent store did not take in this time to the process that leads the sweep.
SWEEP_PATIENCE_S = 3.0
FIGURE_DPI = 120
DIFF = "code/uncommitted.diff"


@dataclass(frozen=True)
class Job:
    """What a run is called and where it belongs.

    Attributes:
        name: what tells it apart from the other runs of its sweep, such as "cnn seed=1".
        variant: the same without the seed.
        overrides: the command line's, such as ["model=cnn"].
        output_dir: folder with its log.
        sweep_id: run id of its sweep, or None.
        number: its place in the sweep, from 0.
        retries: how often its process died before.
        leader: (pid, start time) of the process that leads the sweep, or None.
        identity: as the sweep was planned; None: as it is now.
    """

    name: str
    variant: str
    overrides: list[str]
    output_dir: Path
    sweep_id: str | None = None
    number: int = 0
    retries: int = 0
    leader: tuple[int, float] | None = None
    identity: Identity | None = None


class TrackedRun:
    """An MLflow run that is written to at once: by commands that read runs and add what they found."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self.client = client
        self.run_id = run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Writes metrics in one call, at a step; per-epoch ones at their epoch, from 1."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[Metric(k, float(v), now_ms, step) for k, v in metrics.items()])

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Writes tags in one call."""
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def log_text(self, text: str, path: str) -> None:
        """Writes a text as the artifact `path`."""
        self.client.log_text(self.run_id, text, path)

    def log_table(self, table: "pd.DataFrame", path: str) -> None:
        """Writes a table as the CSV artifact `path`."""
        self.log_text(table.to_csv(index=False), path)

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Writes a figure as the PNG artifact `path`."""
        self.client.log_figure(self.run_id, figure, path, save_kwargs={"dpi": FIGURE_DPI})

    def log_file(self, file: Path, folder: str) -> None:
        """Copies a local file into the artifact folder."""
        self.client.log_artifact(self.run_id, str(file), folder)


class OutboxRun(TrackedRun):
    """An MLflow run that a training writes: to the outbox, from where a thread takes it to MLflow.

    Args:
        client: of the tracking store.
        entry: the run's folder in the outbox, claimed.
        checkpoint: where it goes on from; None begins it.
        promote: registers models, as `catdog.registry.champion.promote`.
    """

    def __init__(
        self,
        client: "MlflowClient",
        entry: Entry,
        checkpoint: Checkpoint | None = None,
        promote: Promote | None = None,
    ) -> None:
        super().__init__(client, "")
        self.entry = entry
        self.checkpoint = checkpoint
        self.delivery = DeliveryWorker(client, entry, promote)
        self.state: dict[str, Any] = {}
        self.has_arrived = False

    def append(self, op: str, **content: Any) -> None:
        """Adds an operation for `catdog.tracking.delivery`."""
        self.entry.append(op, **content)
        self.delivery.notify()

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        self.entry.append_metrics({key: float(value) for key, value in metrics.items()}, step)
        self.delivery.notify()

    def log_tags(self, tags: Mapping[str, str]) -> None:
        self.append("tags", values={key: str(value) for key, value in tags.items()})

    def log_text(self, text: str, path: str) -> None:
        self.entry.append_file(text.encode(), path)
        self.delivery.notify()

    def log_figure(self, figure: "Figure", path: str) -> None:
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=FIGURE_DPI)
        self.entry.append_file(content.getvalue(), path)
        self.delivery.notify()

    def log_file(self, file: Path, folder: str, name: str | None = None) -> None:
        """Copies a local file into the artifact folder, under another name where one is given."""
        self.entry.append_file(file, f"{folder}/{name or file.name}")
        self.delivery.notify()

    @property
    def delivered_state(self) -> dict[str, Any]:
        """What delivery learned: run_id, model_uri, promotions; kept when the entry has gone."""
        return self.state or self.entry.state


@contextlib.contextmanager
def open_run(
    client: "MlflowClient",
    config: Config,
    job: Job,
    identity: Identity,
    runtime: Mapping[str, Any],
    promote: Promote | None = None,
) -> Iterator[OutboxRun]:
    """Opens a run, or goes on with one that was interrupted, and closes it as FINISHED, KILLED (Ctrl-C) or FAILED.

    The exception, whose traceback becomes an artifact, goes on to the caller.

    Args:
        client: of the tracking store.
        config: the run's.
        job: what it is called and where it belongs.
        identity: what its result depends on.
        runtime: what a checkpoint must have been made with to go on from it: precision, device and number of devices.
        promote: registers models, for a run that is no part of a sweep.

    Raises:
        BusyError: another process trains this very run.
        UserError: the outbox cannot be written.
    """
    entry = entry_for(Path(config.tracking.outbox), config.tracking.uri, config.study, "run", identity.digest)
    end_orphan(entry)
    entry.claim(_describe(config, job, identity), job.leader)
    checkpoint = load_checkpoint(entry.checkpoints)
    if checkpoint and checkpoint.facts["runtime"] != runtime:
        log.warning("its checkpoint was made with %s, not %s: it begins again", checkpoint.facts["runtime"], runtime)
        checkpoint = None
    if checkpoint is None and entry.has_points:
        # Its epochs are in MLflow's charts: another training must not mix with them.
        entry.supersede("its checkpoints are gone, or of another kind: the run was begun again")
        entry.claim(_describe(config, job, identity), job.leader)
    run = OutboxRun(client, entry, checkpoint, promote)
    attempt = 1 + sum(item["op"] == "status" and item["status"] == "RUNNING" for item in entry.operations)
    monitor = None

    def finish(status: str) -> None:
        _log_logs(run, job, attempt)
        if status == "FINISHED" and not job.sweep_id and config.promote.enabled:
            # Before it is FINISHED: from then on, nothing goes on with it.
            run.append("promote", run_ids=[], keys=[entry.facts["key"]], config=asdict(config.promote))

    with closed_at_end(run, SWEEP_PATIENCE_S if job.sweep_id else config.tracking.wait_s, finish):
        try:
            if entry.operations:
                attempt += 1
                run.append("status", status="RUNNING", time_ms=_now_ms())
                run.log_tags(Owner.current(job.leader).tags)
            _describe_in_mlflow(run, config, job, identity)
            if job.sweep_id:
                run.log_tags(member_tag(job.sweep_id, job))
            if job.retries:
                run.log_tags({"catdog.retries": str(job.retries)})
            if config.tracking.system_metrics:
                monitor = _start_monitor(run)
            yield run
        except BaseException as error:
            # Before the log is taken; the terminal gets it from whoever catches the exception.
            log.error("%s", error or type(error).__name__, exc_info=True, extra={"file_only": True})
            raise
        finally:
            if monitor:
                monitor.finish()


@contextlib.contextmanager
def closed_at_end(run: OutboxRun, patience_s: float, finish: Callable[[str], None]) -> Iterator[None]:
    """Closes a run as FINISHED, KILLED (Ctrl-C) or FAILED when the block ends, and delivers it.

    The exception, whose traceback becomes an artifact, goes on to the caller.

    Args:
        run: open.
        patience_s: how long to wait for a store that does not answer.
        finish: called with the status before it is recorded, for what is left to write.
    """
    status = "FINISHED"
    try:
        yield
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        with contextlib.suppress(Exception):
            if status == "FAILED":
                run.log_text(traceback.format_exc(), "traceback.txt")
            run.log_tags({"catdog.error": _summarize(error)})
        raise
    finally:
        # Closing a run that failed, perhaps for want of disk, must not hide why.
        with contextlib.nullcontext() if status == "FINISHED" else contextlib.suppress(Exception):
            finish(status)
            run.append("status", status=status, time_ms=_now_ms())
        hand_in(run, patience_s)


def member_tag(sweep_id: str, job: Job) -> dict[str, str]:
    """Returns the tag that makes a run a member of a sweep: its place there, and what it is called there.

    A run may belong to several: to its own, and to those that reuse it, perhaps under another name.
    """
    return member_tag_of(sweep_id, job.number, job.name, job.variant)


def member_tag_of(sweep_id: str, number: int, name: str, variant: str) -> dict[str, str]:
    """Returns that tag of a run that is no job."""
    return {f"catdog.member.{sweep_id}": json.dumps([number, name, variant])}


def _describe(config: Config, job: Job, identity: Identity) -> dict[str, Any]:
    """Returns what a new entry of the outbox says of its run."""
    return {"kind": "run", "name": job.name, "study": config.study, "tracking": asdict(config.tracking),
            "identity": identity.digest}  # fmt: skip


def _describe_in_mlflow(run: OutboxRun, config: Config, job: Job, identity: Identity) -> None:
    """Creates the run in MLflow with its tags, params and the code's uncommitted changes, as far as that is not journaled."""
    journaled = {(item["op"], item.get("path")) for item in run.entry.operations}
    if ("create", None) not in journaled:
        tags = {
            "catdog.kind": "run",
            "catdog.variant": job.variant,
            VARIANT_TAG: schema.hash_config(config, with_seed=False),
            **identity.tags,
            **Owner.current(job.leader).tags,
            **describe_origin(shlex.join(["python", "-m", "catdog.train", *job.overrides])),
        }
        run.append("create", name=job.name, tags=tags, sweep_id=job.sweep_id, time_ms=_now_ms())
    if ("params", None) not in journaled:
        run.append("params", values={key: str(value) for key, value in schema.flatten(config).items()})
    diff = read_git("diff", "HEAD")
    if diff and ("file", DIFF) not in journaled:
        run.log_text(diff, DIFF)


def _log_logs(run: OutboxRun, job: Job, attempt: int) -> None:
    _flush_logs()
    with contextlib.suppress(OSError):
        for file in sorted(job.output_dir.glob("*.log")):
            # An interrupted run has a log for each of its processes.
            run.log_file(file, "log", file.name if attempt == 1 else f"{file.stem}-{attempt}{file.suffix}")


def hand_in(run: OutboxRun, patience_s: float) -> bool:
    """Ends a run's delivery and gives its entry up; returns whether everything has arrived.

    The entry goes if the run has ended well; that of another keeps its checkpoints.
    """
    arrived = False
    try:
        arrived = run.delivery.wait(patience_s)
    finally:
        run.delivery.stop()
        run.state = run.entry.state
        run.has_arrived = arrived
        if arrived and run.entry.last_status == "FINISHED":
            run.entry.remove()
        else:
            run.entry.release()
    return arrived


def describe_undelivered(config: TrackingConfig, delivery: DeliveryWorker | None) -> str:
    """Returns what a user is told when a command ends before everything has arrived."""
    if delivery and delivery.refused:
        return (
            f"tracking.uri: {config.uri} refuses a part of what was recorded ({delivery.problem}). It is kept in "
            f"{delivery.entry.folder}; remove that folder to give it up."
        )
    problem = delivery.problem if delivery and delivery.problem else "no answer"
    return (
        f"tracking.uri: {config.uri} took nothing for {config.wait_s:g} s ({problem}). Nothing is lost: what it "
        f"does not have is in {config.outbox}, and `catdog.deliver`, or the same command, delivers it."
    )


def _now_ms() -> int:
    return int(time.time() * 1000)


def _summarize(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _flush_logs() -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()


def _start_monitor(run: OutboxRun) -> Any:
    """Starts MLflow's monitor of CPU, memory, network and GPU; what it measures goes through the outbox as well."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    class Monitor(SystemMetricsMonitor):
        def monitor(self) -> None:
            # MLflow's own loop asks the server at each sample whether the run is alive, and ends when none answers.
            while not self._shutdown_event.is_set():
                self.collect_metrics()
                if not self._shutdown_event.wait(self.sampling_interval):
                    self.publish_metrics(self.aggregate_metrics())

        def publish_metrics(self, metrics: dict[str, float]) -> None:
            run.log_metrics({f"system/{key}": value for key, value in metrics.items()}, step=self._logging_step)
            self._logging_step += 1
            for part in self.monitors:
                part.clear_metrics()

    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    monitor = Monitor("", tracking_uri=run.entry.facts["tracking"]["uri"])
    monitor._logging_step = run.entry.next_step("system/")
    monitor.start()
    return monitor


def log_inputs(run: OutboxRun, config: DatasetConfig, images: "pd.DataFrame", digest: str) -> None:
    """Attaches the data set to the run as MLflow dataset inputs, one for train and one for val.

    Args:
        run: the run.
        config: of the data set.
        images: the manifest's rows: file, label, split, sha256.
        digest: the manifest's digest.
    """
    import mlflow
    from mlflow.data.code_dataset_source import CodeDatasetSource

    # The archive is a param too; as a source, MLflow would guess what kind of address it is.
    source = CodeDatasetSource({"catdog.dataset": config.name, "archive": config.archive or "drawn"})
    datasets = []
    for split, context in (("train", "training"), ("val", "validation")):
        rows = images[images["split"] == split].drop(columns="split")
        # MLflow's limit for a digest is 36 characters.
        data = mlflow.data.from_pandas(rows, source=source, name=f"{config.name} {split}", digest=digest[:36])
        datasets.append({"dataset": data._to_mlflow_entity().to_dictionary(), "context": context})
    run.append("inputs", datasets=datasets)


def log_kept_model(
    run: OutboxRun,
    model: Any,
    *,
    example: "np.ndarray",
    class_names: tuple[str, ...],
    custom_objects: Mapping[str, Any] | None = None,
    code_paths: Sequence[str] = (),
    requirements: Sequence[str] = (),
    needs: Sequence[str] = (),
) -> None:
    """Saves the kept model with the run, with signature, input example and class names.

    Delivered, its MLflow address is the run's tag `catdog.model_uri`. A model with layers of the user's own carries their code;
    a graph of Keras' own layers is loaded without it.

    Args:
        run: the run.
        model: uint8 (B, H, W, 3) -> float32 (B, classes).
        example: uint8 (1, H, W, 3).
        class_names: in the order of the model's outputs.
        custom_objects: the user's classes and functions that it needs, by Keras' name of each.
        code_paths: their files and folders, copied with the model.
        requirements: of what they need, such as "my-layers==1.2".
        needs: the modules that they are in.
    """
    import keras
    import mlflow
    import numpy as np
    import tensorflow as tf
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    height, width = example.shape[1:3]
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, height, width, 3))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, len(class_names)))]),
    )
    # Requirements are given: inferring them would import TensorFlow in another process, for ten seconds.
    libraries = [f"tensorflow=={tf.__version__}", f"keras=={keras.__version__}", f"numpy=={np.__version__}"]
    metadata = {"class_names": list(class_names), "image_size": int(height), "resize": RESIZE}
    if needs:
        metadata["needs"] = needs
    with run.entry.staged_folder() as folder:
        # Not mlflow.keras: given an input example, it writes it to a folder that it has not made yet (MLflow 3.17).
        mlflow.tensorflow.save_model(
            model, path=str(folder), signature=signature, input_example=example,
            pip_requirements=[*libraries, *requirements], metadata=metadata,
            custom_objects=dict(custom_objects or {}) or None, code_paths=list(code_paths) or None,
        )  # fmt: skip
    run.append("model", folder=folder.name, name=MODEL_ARTIFACT, tags={})
