"""The life of one MLflow run: it records the config first, then metrics, artifacts and the model, and how the run ended."""

import contextlib
import io
import json
import logging
import shlex
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog.config.digest import flatten, hash_config
from catdog.config.schema import Config, DatasetConfig, TrackingConfig
from catdog.tracking import tags as tag
from catdog.tracking.artifacts import encode_table
from catdog.tracking.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from catdog.tracking.custom_objects import empty_registry, find_custom_objects
from catdog.tracking.delivery import DeliveryWorker, Promote
from catdog.tracking.identity import Identity, describe_origin, hash_before_data, read_git
from catdog.tracking.outbox import PAUSED, Entry, end_orphan, entry_for
from catdog.tracking.ownership import Leader, Owner

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

MODEL_ARTIFACT = "model"
# What `data.images.decode_image` does, for those who serve the model without catdog.
RESIZE = "RGB, turned upright by EXIF, stretched to image_size x image_size with antialiased bilinear resampling"
# If the store accepts nothing for this long, a run of a sweep leaves its delivery to the process that leads the sweep.
SWEEP_PATIENCE_S = 3.0
FIGURE_DPI = 120
DIFF = "code/uncommitted.diff"


@dataclass(frozen=True)
class Job:
    """A run's name, and where it belongs.

    Attributes:
        name: what distinguishes it from the other runs of its sweep, such as "cnn seed=1".
        variant: its name without the seed.
        overrides: the command line's, such as ["model=cnn"].
        output_dir: folder that contains its log.
        sweep_id: run id of its sweep, or None.
        number: its place in the sweep, from 0.
        variant_number: the place of its variant among the sweep's variants, from 0.
        retries: how often its process died before and was restarted.
        leader: the process that leads the sweep, or None.
        identity: its identity when the sweep was planned; None: computed when the run starts.
        until: the epoch after which it pauses at its checkpoint; None: it trains to its end.
    """

    name: str
    variant: str
    overrides: list[str]
    output_dir: Path
    sweep_id: str | None = None
    number: int = 0
    variant_number: int = 0
    retries: int = 0
    leader: Leader | None = None
    identity: Identity | None = None
    until: int | None = None

    def without_leader(self) -> "Job":
        """Returns it for a process that goes on without the process that leads the sweep."""
        return replace(self, leader=None)


class TrackedRun:
    """An MLflow run that is written to directly, by commands that read runs and add their findings."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self.client = client
        self.run_id = run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Writes metrics in one call, all at one step; metrics of an epoch have the epoch, from 1, as their step."""
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

    def log_bytes(self, content: bytes, path: str) -> None:
        """Writes the artifact `path`."""
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / name
            file.write_bytes(content)
            self.log_file(file, folder)

    def log_table(self, table: "pd.DataFrame", path: str) -> None:
        """Writes a table as the CSV artifact `path`, or as a Parquet file if it has many rows."""
        self.log_bytes(*encode_table(table, path))

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Writes a figure as the PNG artifact `path`."""
        self.client.log_figure(self.run_id, figure, path, save_kwargs={"dpi": FIGURE_DPI})

    def log_file(self, file: Path, folder: str) -> None:
        """Copies a local file into the artifact folder."""
        self.client.log_artifact(self.run_id, str(file), folder or None)


class OutboxRun(TrackedRun):
    """An MLflow run that a training writes to the outbox; a thread delivers it to MLflow from there.

    Args:
        client: of the tracking store.
        entry: the run's folder in the outbox, claimed.
        checkpoint: the checkpoint that it resumes from; None: it starts from the beginning.
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
        self.is_paused = False

    def pause(self) -> None:
        """Makes the run close as PAUSED instead of FINISHED, at its last checkpoint."""
        self.is_paused = True

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Saves what it needs to resume after an epoch.

        Raises:
            UserError: the disk is full, or another process has taken over the run.
        """
        self.entry.lease.require()
        save_checkpoint(self.entry.checkpoints, checkpoint)

    def append(self, op: str, **content: Any) -> None:
        """Adds an operation for `catdog.tracking.delivery`."""
        self.entry.append(op, **content)
        self.delivery.notify()

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Adds metrics at a step, except those already recorded at this step."""
        self.entry.append_metrics({key: float(value) for key, value in metrics.items()}, step)
        self.delivery.notify()

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Adds tags."""
        self.append("tags", values={key: str(value) for key, value in tags.items()})

    def log_text(self, text: str, path: str) -> None:
        """Adds a text as the artifact `path`."""
        self.entry.append_file(text.encode(), path)
        self.delivery.notify()

    def log_bytes(self, content: bytes, path: str) -> None:
        """Adds the artifact `path`."""
        self.entry.append_file(content, path)
        self.delivery.notify()

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Adds a figure as the PNG artifact `path`."""
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=FIGURE_DPI)
        self.entry.append_file(content.getvalue(), path)
        self.delivery.notify()

    def log_file(self, file: Path, folder: str, name: str | None = None) -> None:
        """Copies a local file into the artifact folder, under `name` if that is given."""
        self.entry.append_file(file, f"{folder}/{name or file.name}")
        self.delivery.notify()

    @property
    def delivered_state(self) -> dict[str, Any]:
        """What delivery returned: run_id, model_uri, promotions. It stays available after the entry is removed."""
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
    """Opens a run, or resumes an interrupted one, and closes it as FINISHED, PAUSED, KILLED (Ctrl-C) or FAILED.

    An exception is re-raised to the caller; its traceback becomes an artifact.

    Args:
        client: of the tracking store.
        config: the run's.
        job: its name, and where it belongs.
        identity: what its result depends on.
        runtime: precision, device and number of devices; a checkpoint is used only if it was made with the same.
        promote: registers models, for a run that is not part of a sweep.

    Raises:
        BusyError: another process is training this run.
        UserError: the outbox cannot be written.
    """
    entry = entry_for(Path(config.tracking.outbox), config.tracking.uri, config.study, "run", identity.digest)
    end_orphan(entry)
    entry.claim(_describe(config, job, identity), job.leader)
    checkpoint = load_checkpoint(entry.checkpoints)
    if checkpoint and checkpoint.facts["runtime"] != runtime:
        log.warning("its checkpoint was made with %s, not %s: it starts again", checkpoint.facts["runtime"], runtime)
        checkpoint = None
    if checkpoint is None and entry.has_points:
        # MLflow's charts show its epochs already. Those of a new training must not mix with them.
        entry.supersede("its checkpoints are gone, or of another kind: the run was begun again")
        entry.claim(_describe(config, job, identity), job.leader)
    run = OutboxRun(client, entry, checkpoint, promote)
    attempt = 1 + sum(item["op"] == "status" and item["status"] == "RUNNING" for item in entry.operations)
    monitor = None

    def finish(status: str) -> None:
        _log_logs(run, job, attempt)
        if status == "FINISHED" and not job.sweep_id and config.promote.enabled:
            # Before the status FINISHED: nothing resumes a finished run.
            run.append("promote", run_ids=[], keys=[entry.facts["key"]], config=asdict(config.promote))

    with closed_at_end(run, SWEEP_PATIENCE_S if job.sweep_id else config.tracking.wait_s, finish):
        try:
            if entry.operations:
                attempt += 1
                run.append("status", status="RUNNING", time_ms=_now_ms())
                run.log_tags(Owner.current(job.leader).tags)
            _describe_in_mlflow(run, config, job, identity)
            if job.sweep_id:
                run.log_tags(member_tags(job.sweep_id, job))
            if job.retries:
                run.log_tags({tag.RETRIES: str(job.retries)})
            if config.tracking.system_metrics:
                monitor = _start_monitor(run)
            yield run
        except BaseException as error:
            # Logged before the log file is stored. The terminal gets the error from whoever catches the exception.
            log.error("%s", error or type(error).__name__, exc_info=True, extra={"file_only": True})
            raise
        finally:
            if monitor:
                monitor.finish()


@contextlib.contextmanager
def closed_at_end(run: OutboxRun, patience_s: float, finish: Callable[[str], None]) -> Iterator[None]:
    """Closes a run as FINISHED, PAUSED, KILLED (Ctrl-C) or FAILED when the block ends, and delivers it.

    An exception is re-raised to the caller; its traceback becomes an artifact.

    Args:
        run: open.
        patience_s: how long to wait for a store that does not answer.
        finish: called with the status before that is recorded, to write what is left to write.
    """
    status = "FINISHED"
    try:
        yield
        status = PAUSED if run.is_paused else status
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        with contextlib.suppress(Exception):
            if status == "FAILED":
                run.log_text(traceback.format_exc(), "traceback.txt")
            run.log_tags({tag.ERROR: _summarize(error)})
        raise
    finally:
        # If closing a failed run fails too, perhaps on a full disk, that must not hide the first error.
        with contextlib.nullcontext() if status in ("FINISHED", PAUSED) else contextlib.suppress(Exception):
            finish(status)
            run.append("status", status=status, time_ms=_now_ms())
        hand_in(run, patience_s)


def member_tags(sweep_id: str, job: Job) -> dict[str, str]:
    """Returns the tags that make a run a member of a sweep, with its place, its name and the color of its variant there.

    A run may belong to several sweeps: to its own, and to those that reuse it, perhaps under another name.
    """
    return member_tags_of(sweep_id, job.number, job.name, job.variant, job.variant_number)


def member_tags_of(sweep_id: str, number: int, name: str, variant: str, variant_number: int) -> dict[str, str]:
    """Returns the same tags as `member_tags`, for a run that has no Job."""
    from catdog.plots.style import PALETTE

    return {
        tag.member_tag(sweep_id): json.dumps([number, name, variant]),
        # On MLflow's pages, as in the figures: by default, any two variants may have nearly the same color.
        tag.COLOR: PALETTE[variant_number % len(PALETTE)],
    }


def _describe(config: Config, job: Job, identity: Identity) -> dict[str, Any]:
    """Returns the facts that a new entry of the outbox holds about its run."""
    return {"kind": "run", "name": job.name, "study": config.study, "tracking": asdict(config.tracking),
            "identity": identity.digest, "before_data": hash_before_data([config])}  # fmt: skip


def _describe_in_mlflow(run: OutboxRun, config: Config, job: Job, identity: Identity) -> None:
    """Creates the run in MLflow with its tags, params and uncommitted code changes, except for what is already in the journal."""
    journaled = {(item["op"], item.get("path")) for item in run.entry.operations}
    if ("create", None) not in journaled:
        tags = {
            tag.KIND: tag.RUN,
            tag.VARIANT: job.variant,
            tag.VARIANT_DIGEST: hash_config(config, with_seed=False),
            **identity.tags,
            **Owner.current(job.leader).tags,
            **describe_origin(shlex.join(["python", "-m", "catdog.train", *job.overrides])),
        }
        run.append("create", name=job.name, tags=tags, sweep_id=job.sweep_id, time_ms=_now_ms())
    if ("params", None) not in journaled:
        run.append("params", values={key: str(value) for key, value in flatten(config).items()})
    diff = read_git("diff", "HEAD")
    if diff and ("file", DIFF) not in journaled:
        run.log_text(diff, DIFF)


def _log_logs(run: OutboxRun, job: Job, attempt: int) -> None:
    _flush_logs()
    with contextlib.suppress(OSError):
        for file in sorted(job.output_dir.glob("*.log")):
            # A run that was resumed has one log for each of its processes.
            run.log_file(file, "log", file.name if attempt == 1 else f"{file.stem}-{attempt}{file.suffix}")


def hand_in(run: OutboxRun, patience_s: float) -> bool:
    """Ends a run's delivery and gives up its entry; returns whether everything has arrived.

    The entry of a finished run is removed; that of any other run keeps its checkpoints.
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
    """Returns the message for a command that ends before everything has arrived."""
    if delivery and delivery.refused:
        return (
            f"tracking.uri: {config.uri} refuses a part of what was recorded ({delivery.problem}). It is kept in "
            f"{delivery.entry.folder}; remove that folder to give it up."
        )
    problem = delivery.problem if delivery and delivery.problem else "no answer"
    return (
        f"tracking.uri: {config.uri} accepted nothing for {config.wait_s:g} s ({problem}). Nothing is lost: the missing part "
        f"is kept in {config.outbox}, and `catdog.deliver`, or the same command, delivers it."
    )


def _now_ms() -> int:
    return int(time.time() * 1000)


def _summarize(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _flush_logs() -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()


def _start_monitor(run: OutboxRun) -> Any:
    """Starts MLflow's monitor of CPU, memory, network and GPU; its measurements go through the outbox as well."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    class Monitor(SystemMetricsMonitor):
        def monitor(self) -> None:
            # MLflow's own loop asks the server at each sample whether the run is alive, and ends if the server does not answer.
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
        config: the config of the data set.
        images: the manifest's rows: file, label, split, sha256.
        digest: the manifest's digest.
    """
    import mlflow
    from mlflow.data.code_dataset_source import CodeDatasetSource

    # The archive is recorded as a param, too. Given the bare address, MLflow would guess its kind.
    source = CodeDatasetSource({"catdog.dataset": config.name, "archive": config.archive or "drawn"})
    datasets = []
    for split, context in (("train", "training"), ("val", "validation")):
        rows = images[images["split"] == split].drop(columns="split")
        # MLflow limits a digest to 36 characters.
        data = mlflow.data.from_pandas(rows, source=source, name=f"{config.name} {split}", digest=digest[:36])
        datasets.append({"dataset": data._to_mlflow_entity().to_dictionary(), "context": context})
    run.append("inputs", datasets=datasets)


def log_kept_model(
    run: OutboxRun,
    model: Any,
    *,
    example: "np.ndarray",
    class_names: tuple[str, ...],
    code_paths: Sequence[str] = (),
    requirements: Sequence[str] = (),
    needs: Sequence[str] = (),
) -> None:
    """Saves the kept model with the run, with signature, input example and class names.

    Once the model is delivered, the run's tag `catdog.model_uri` holds its MLflow address. A graph of Keras' own layers loads
    anywhere. Other classes and functions are found where they were imported from: give their files or packages.

    Args:
        run: the run.
        model: uint8 (B, H, W, 3) -> float32 (B, classes).
        example: uint8 (1, H, W, 3).
        class_names: in the order of the model's outputs.
        code_paths: files and folders of custom classes and functions that the model needs; they are copied with it.
        requirements: the packages that it needs, such as "my-layers==1.2".
        needs: the modules that define its custom classes and functions.
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
    # The requirements are given because inferring them would import TensorFlow in another process, which takes ten seconds.
    libraries = [f"tensorflow=={tf.__version__}", f"keras=={keras.__version__}", f"numpy=={np.__version__}"]
    metadata = {"class_names": list(class_names), "image_size": int(height), "resize": RESIZE}
    if needs:
        metadata["needs"] = needs
    # MLflow pickles the place that each is imported from, or the class itself if a notebook or script defines it.
    custom = find_custom_objects(model)
    with run.entry.staged_folder() as folder, empty_registry():
        # Not mlflow.keras: with an input example, it writes to a folder that it has not created yet (MLflow 3.17).
        mlflow.tensorflow.save_model(
            model, path=str(folder), signature=signature, input_example=example,
            pip_requirements=[*libraries, *requirements], metadata=metadata,
            custom_objects=custom or None, code_paths=list(code_paths) or None,
        )  # fmt: skip
    run.append("model", folder=folder.name, name=MODEL_ARTIFACT, tags={})
