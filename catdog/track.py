"""Tracking: the store, and the life of one MLflow run from its config to its registered model."""

import contextlib
import hashlib
import logging
import re
import shlex
import sqlite3
import subprocess
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from catdog import config as schema
from catdog.config import Config, TrackingConfig
from catdog.errors import TRAIN_COMMAND, UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

MODEL_ARTIFACT = "model"
SERVER_TIMEOUT_S = 10
DATABASES = ("postgresql", "mysql", "mssql")
NAME_ANOTHER = "Run in a folder you may write to, or name another file: tracking.uri=sqlite:///PATH/mlflow.db."
# What `data.images.decode_image` does, for whoever serves the model without it.
RESIZE = "RGB, turned upright by EXIF, stretched to image_size x image_size with antialiased bilinear resampling"
PARAMS_PER_CALL = 100
# Modules whose code decides what a trained model is; the others read, show or move results.
TRAINING_MODULES = ("augment.py", "config.py", "fit.py", "model.py", "precision.py", "train.py", "data")


@dataclass(frozen=True)
class Job:
    """What a run is called and where it belongs.

    Attributes:
        name: what tells it apart from the other runs of its sweep, such as "cnn seed=1".
        variant: the same without the seed.
        sweep_id: run id of its sweep, or None.
        overrides: the command line's, such as ["model=cnn"].
        output_dir: folder with its log.
    """

    name: str
    variant: str
    sweep_id: str | None
    overrides: list[str]
    output_dir: Path


def check_store(config: TrackingConfig) -> None:
    """Raises unless runs can be tracked; creates nothing, so that a mistake found later leaves no empty database behind.

    Raises:
        UserError: as `connect`, or the folder for artifacts cannot be written.
    """
    database = _database_file(config.uri)
    if database is None or database.exists():
        connect(config)
    else:
        _require_writable("tracking.uri", database)
    if config.artifacts and not config.uri.startswith("http"):
        _require_writable("tracking.artifacts", Path(config.artifacts) / "study")


def connect(config: TrackingConfig, *, create: bool = True) -> "MlflowClient":
    """Returns a client of the tracking store and makes it MLflow's current one.

    Args:
        config: the tracking section.
        create: whether a database that does not exist is made; without one there is nothing to read.

    Raises:
        UserError: the store cannot be written, reached or read.
    """
    uri = config.uri
    kind = urlparse(uri).scheme.partition("+")[0]
    database = _database_file(uri)
    if kind in ("http", "https"):
        _require_server(uri)
    elif database:
        _require_place(database, create)
    elif kind not in DATABASES:
        problem = (
            "plain folders are being retired by MLflow" if kind in ("", "file") else "no store of this kind is known"
        )
        raise UserError(f"tracking.uri: {problem}, received {uri!r}. Use sqlite:///PATH/mlflow.db or http://HOST:PORT.")
    import mlflow
    from filelock import FileLock
    from mlflow.exceptions import MlflowException

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        # Its first use makes MLflow create the tables: two at once would each fail on the other's.
        with FileLock(f"{database}.lock") if database else contextlib.nullcontext():
            if database and database.exists():
                _require_database(database)
            client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except UserError:
        raise
    except MlflowException as error:
        raise UserError(_explain_store(uri, str(error))) from error
    except Exception as error:
        # Databases other than SQLite come with drivers of their own, whose exceptions have no common class.
        raise UserError(
            f"tracking.uri: {uri!r} cannot be opened: {str(error).splitlines()[0]}. {NAME_ANOTHER}"
        ) from error
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return client


def _require_server(uri: str) -> None:
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=SERVER_TIMEOUT_S).raise_for_status()
    except requests.RequestException as error:
        raise UserError(
            f"tracking.uri: no MLflow server answers at {uri!r} ({type(error).__name__}). Start one with `mlflow server`, or "
            "use tracking=local."
        ) from error


def _database_file(uri: str) -> Path | None:
    """Returns the file of an SQLite address, or None for another kind of store."""
    if not uri.startswith("sqlite:"):
        return None
    name = uri.removeprefix("sqlite:").removeprefix("///").partition("?")[0]
    if name in ("", "//", ":memory:"):
        raise UserError(f"tracking.uri: must name a file, as in sqlite:///PATH/mlflow.db, received {uri!r}.")
    return Path(name)


def _require_writable(key: str, path: Path) -> None:
    """Raises unless `path`, which need not exist, could be made; nothing is."""
    try:
        existing = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        advice = NAME_ANOTHER if key == "tracking.uri" else f"Set {key}=PATH to a folder you may write to."
        raise UserError(f"{key}: cannot write to {path.parent} ({error.strerror}). {advice}") from error


def _require_place(path: Path, create: bool) -> None:
    if path.exists():
        return
    if not create:
        raise UserError(
            f"tracking.uri: there is no tracking database {path}, so nothing has been trained here. Train first: "
            f"{TRAIN_COMMAND}. Or run in the folder where you trained, or name its database: "
            "tracking.uri=sqlite:///PATH/mlflow.db."
        )
    _require_writable("tracking.uri", path)
    path.parent.mkdir(parents=True, exist_ok=True)


def _require_database(path: Path) -> None:
    try:
        with path.open("r+b") as file:
            empty = not file.read(1)
        with contextlib.closing(sqlite3.connect(path)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not empty and "alembic_version" not in tables:
            raise UserError(f"tracking.uri: {path} is an SQLite database, but not MLflow's. {NAME_ANOTHER}")
    except OSError as error:
        raise UserError(f"tracking.uri: cannot write {path} ({error.strerror}). {NAME_ANOTHER}") from error
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"tracking.uri: {path} is no SQLite database, or is damaged ({error}). {NAME_ANOTHER}"
        ) from error


def _explain_store(uri: str, message: str) -> str:
    """Returns what the user can do about MLflow's refusal to open a store; it tells old and new schemas alike "out-of-date"."""
    found = re.search(r"database schema \(found version (\w+)", message)
    if found is None:
        return f"tracking.uri: {uri!r} cannot be opened: {message.splitlines()[0]}. {NAME_ANOTHER}"
    import mlflow

    revisions = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if any(revisions.glob(f"{found[1]}_*.py")):
        return (
            f"tracking.uri: {uri!r} was written by an older version of MLflow than this one, {mlflow.__version__}. Back it "
            f"up, then bring it up to date: mlflow db upgrade {uri}. Or name another file: tracking.uri=sqlite:///PATH/mlflow.db."
        )
    return (
        f"tracking.uri: {uri!r} was written by a newer version of MLflow than this one, {mlflow.__version__} (its schema, "
        f"{found[1]}, is not known here). Install that version or a later one: pip install --upgrade mlflow. Or name another "
        "file: tracking.uri=sqlite:///PATH/mlflow.db."
    )


def open_study(client: "MlflowClient", study: str, config: TrackingConfig) -> str:
    """Returns the experiment id of a study, created by first use.

    Raises:
        UserError: the study was deleted, or its artifact folder cannot be written.
    """
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        location = None
        if config.artifacts and not config.uri.startswith("http"):
            folder = Path(config.artifacts).resolve() / study
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"tracking.artifacts: cannot write {folder} ({error.strerror}).") from error
            location = folder.as_uri()
        from mlflow.exceptions import MlflowException

        try:
            # Without the kind, MLflow's pages take the study for one about language models and hide its charts.
            return client.create_experiment(
                study, artifact_location=location, tags={"mlflow.experimentKind": "custom_model_development"}
            )
        except MlflowException:
            # Another process may have been faster.
            experiment = client.get_experiment_by_name(study)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"study: {study!r} was deleted in MLflow. Restore it with `mlflow experiments restore --experiment-id "
            f"{experiment.experiment_id}`, or choose another study=NAME."
        )
    return experiment.experiment_id


def describe_code() -> dict[str, str]:
    """Returns tags for the code: `catdog.code_digest`, and the commit where it lies in a git checkout."""
    package = Path(__file__).parent
    files = sorted(
        file
        for name in TRAINING_MODULES
        for file in ([package / name] if name.endswith(".py") else (package / name).rglob("*.py"))
    )
    digest = hashlib.sha256(
        b"".join(f.relative_to(package).as_posix().encode() + b"\0" + f.read_bytes() for f in files)
    )
    tags = {"catdog.code_digest": digest.hexdigest()}
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit.strip()
    return tags


def _git(*arguments: str) -> str:
    """Returns what git prints in the project's checkout; nothing without git or a checkout of its own."""
    if not (schema.PROJECT / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(schema.PROJECT), *arguments], capture_output=True, text=True, timeout=30, check=False,
            errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


class TrackedRun:
    """One MLflow run that is open: what a training writes goes through here."""

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
        self.client.log_figure(self.run_id, figure, path, save_kwargs={"dpi": 120})

    def log_file(self, file: Path, folder: str) -> None:
        """Copies a local file into the artifact folder."""
        self.client.log_artifact(self.run_id, str(file), folder)


@contextlib.contextmanager
def start_run(client: "MlflowClient", config: Config, job: Job) -> Iterator[TrackedRun]:
    """Opens a run, logs its config first, and closes it as FINISHED, KILLED (Ctrl-C) or FAILED, traceback attached.

    The exception goes on to the caller.
    """
    import mlflow
    from mlflow.entities import Param

    experiment_id = open_study(client, config.study, config.tracking)
    tags = {
        "catdog.kind": "run",
        "catdog.variant": job.variant,
        "catdog.variant_digest": schema.hash_config(config, with_seed=False),
        "catdog.config_digest": schema.hash_config(config, with_seed=True),
        "mlflow.source.name": shlex.join(["python", "-m", "catdog.train", *job.overrides]),
        **({"catdog.sweep": job.sweep_id} if job.sweep_id else {}),
        **describe_code(),
    }
    active = mlflow.start_run(
        experiment_id=experiment_id,
        run_name=job.name,
        parent_run_id=job.sweep_id,
        tags=tags,
        log_system_metrics=config.tracking.system_metrics,
    )
    run = TrackedRun(client, active.info.run_id)
    status = "FINISHED"
    try:
        params = [Param(key, str(value)) for key, value in schema.flatten(config).items()]
        for start in range(0, len(params), PARAMS_PER_CALL):
            client.log_batch(run.run_id, params=params[start : start + PARAMS_PER_CALL])
        diff = _git("diff", "HEAD")
        if diff:
            run.log_text(diff, "code/uncommitted.diff")
        yield run
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        # Before the log is uploaded; the terminal gets it from whoever catches the exception.
        log.error("%s", error or type(error).__name__, exc_info=True, extra={"file_only": True})
        with contextlib.suppress(Exception):
            run.log_text(traceback.format_exc(), "traceback.txt")
            run.log_tags({"catdog.error": _summarize(error)})
        raise
    finally:
        _flush_logs()
        with contextlib.suppress(OSError):
            for file in sorted(job.output_dir.glob("*.log")):
                run.log_file(file, "log")
        mlflow.end_run(status)


def _summarize(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _flush_logs() -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()


def log_inputs(run: TrackedRun, config: Config, images: "pd.DataFrame", digest: str) -> None:
    """Attaches the data set to the run as MLflow dataset inputs, one for train and one for val.

    Args:
        images: the manifest's rows: file, label, split, sha256.
        digest: the manifest's digest.
    """
    import mlflow
    from mlflow.data.code_dataset_source import CodeDatasetSource

    # The archive is a param too; as a source, MLflow would guess what kind of address it is.
    source = CodeDatasetSource({"catdog.dataset": config.dataset.name, "archive": config.dataset.archive or "drawn"})
    for split, context in (("train", "training"), ("val", "validation")):
        rows = images[images["split"] == split].drop(columns="split")
        # MLflow's limit for a digest is 36 characters.
        data = mlflow.data.from_pandas(rows, source=source, name=f"{config.dataset.name} {split}", digest=digest[:36])
        mlflow.log_input(data, context=context)


def log_kept_model(model: Any, *, example: "np.ndarray", class_names: tuple[str, ...]) -> str:
    """Saves the kept model in the current run, with signature, input example and class names; returns its MLflow URI.

    Args:
        model: uint8 (B, H, W, 3) -> float32 (B, classes).
        example: uint8 (1, H, W, 3).
        class_names: in the order of the model's outputs.
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
    requirements = [f"tensorflow=={tf.__version__}", f"keras=={keras.__version__}", f"numpy=={np.__version__}"]
    # Not mlflow.keras: given an input example, it writes it to a folder that it has not made yet (MLflow 3.17).
    logged = mlflow.tensorflow.log_model(
        model,
        name=MODEL_ARTIFACT,
        signature=signature,
        input_example=example,
        pip_requirements=requirements,
        metadata={"class_names": list(class_names), "image_size": int(height), "resize": RESIZE},
    )
    return logged.model_uri


def set_status(client: "MlflowClient", run_id: str, status: str) -> None:
    """Closes a run that its own process could not close."""
    client.set_terminated(run_id, status=status)


def ui_command(uri: str) -> str:
    """Returns the command, or the address, that shows the store in a browser."""
    return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"
