"""The life of one MLflow run: its config first, its metrics and artifacts, its model, and how it ended."""

import contextlib
import hashlib
import logging
import shlex
import subprocess
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog import config as schema
from catdog.config import Config
from catdog.track.store import open_study

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

MODEL_ARTIFACT = "model"
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


def describe_code() -> dict[str, str]:
    """Returns tags for the code: `catdog.code_digest`, and the commit where it lies in a git checkout."""
    package = Path(__file__).parents[1]
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
