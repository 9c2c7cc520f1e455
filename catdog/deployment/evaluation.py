"""Entry: a registered model -> its figures on the test split. `python -m catdog.evaluate --help` explains it."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf
from rich import box
from rich.table import Table
from rich.text import Text

from catdog.config.commands import EvaluateConfig
from catdog.config.schema import CONF, Config, load_config
from catdog.system.errors import UserError
from catdog.system.terminal import console

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.data.dataset import Dataset
    from catdog.data.predictions import Predictions
    from catdog.registry.ledger import Look

log = logging.getLogger(__name__)

# MLflow allows 250 characters, prefix included; a folder's name may have 255.
MAX_METRIC_NAME = 200
MOST_LOOKS_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class TestResult:
    """A model's figures on a test split.

    Attributes:
        counts: int64 (C, C), images by true class (rows) and answer (columns).
        accuracy: in [0, 1].
        low: lower end of the accuracy's 95% Wilson interval.
        high: upper end.
        loss: mean cross-entropy in nats.
        precision: float64 (C,) in [0, 1], NaN where a class was never answered.
        recall: float64 (C,) in [0, 1].
    """

    counts: np.ndarray
    accuracy: float
    low: float
    high: float
    loss: float
    precision: np.ndarray
    recall: np.ndarray

    __test__ = False  # not a test, whatever pytest thinks of the name


def score_predictions(predictions: "Predictions") -> TestResult:
    """Returns the figures of predictions."""
    from catdog.statistics.proportions import precision_and_recall, wilson_interval

    counts, total = predictions.confusion, len(predictions)
    of_label = predictions.probabilities.astype(np.float64)[np.arange(total), predictions.label_indices]
    # A probability that underflowed to 0 would make the mean infinite: Keras clips at the same value.
    loss = -np.log(np.clip(of_label, 1e-7, 1)).mean()
    return TestResult(
        counts, predictions.accuracy, *wilson_interval(predictions.correct, total), float(loss),
        *precision_and_recall(counts),
    )  # fmt: skip


def evaluate(client: "MlflowClient", config: EvaluateConfig) -> TestResult:
    """Evaluates the model that the config names on its run's test split, logs the result to that run and prints it.

    It is a look at the test split, and is recorded as one in the ledger.

    Raises:
        UserError: no such model, or the data set is not the one the run was trained on.
    """
    from catdog.registry.champion import resolve_model
    from catdog.registry.ledger import describe_look, digest_test, open_look
    from catdog.training.run import predict_split

    # Before TensorFlow is imported: what cannot be had is said at once.
    uri, run_id, words = resolve_model(client, config.study, config.model)
    run_config = load_run_config(run_id)
    dataset = load_same_dataset(client, run_id, run_config, config)

    from catdog.training import preload  # noqa: F401  first of all: it keeps TensorFlow's import quiet

    # isort: split
    import keras

    keras.utils.disable_interactive_logging()
    name = client.get_run(run_id).info.run_name
    console.print(
        f"evaluating {words}" + ("" if words.endswith(name) else f", run {name}") + f" ({run_id})", highlight=False
    )
    model = load_keras_model(uri)
    digest = digest_test(dataset.manifest.images)
    study = run_config.study
    with open_look(client, digest, study=study, model=words, model_uri=uri, run_id=run_id) as look:
        split = dataset.load_split("test", run_config.preprocessing.image_size, look=look)
        predictions = predict_split(model, split, config.batch_size)
        result = score_predictions(predictions)
        look.record({"test/accuracy": result.accuracy, "test/loss": result.loss})
        _log_result(client, run_id, predictions, result)
    _print_result(result, list(dataset.classes))
    console.print(describe_look(look, run_id), highlight=False, soft_wrap=True)
    if look.earlier:
        console.print(_build_looks(look.earlier))
    return result


def _build_looks(looks: "list[Look]") -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="earlier looks", title_justify="left")
    for head in ("look", "when", "model", "test accuracy"):
        table.add_column(head, justify="right" if head == "test accuracy" else "left", overflow="fold")
    for earlier in looks[-MOST_LOOKS_SHOWN:]:
        accuracy = "no result" if earlier.accuracy is None else f"{earlier.accuracy:.3f}"
        table.add_row(str(earlier.number), f"{earlier.when:%Y-%m-%d %H:%M}", Text(earlier.model), accuracy)
    return table


def load_run_config(run_id: str) -> Config:
    """Returns the config that a run was trained with, from its artifacts."""
    import mlflow

    with explain_missing_artifacts(f"run {run_id}"):
        text = mlflow.artifacts.load_text(f"runs:/{run_id}/config/config.yaml")
    stored = OmegaConf.create(text)
    if "speed" not in stored:
        # Trained before there was a choice.
        stored["speed"] = OmegaConf.load(CONF / "speed" / "none.yaml")
        stored["speed"].pop("defaults")
    # Runs from before it was looked for.
    stored.setdefault("dataset", {}).setdefault("near_duplicates", "ignore")
    return load_config(OmegaConf.merge(OmegaConf.structured(Config), stored), Config)  # type: ignore[arg-type]


def load_same_dataset(client: "MlflowClient", run_id: str, run_config: Config, config: EvaluateConfig) -> "Dataset":
    """Returns the data set of a run, found again.

    Raises:
        UserError: it is not what the run was trained on, image by image and split by split.
    """
    from catdog.data.dataset import load_dataset

    archive = config.dataset.archive or run_config.dataset.archive
    dataset = load_dataset(dataclasses.replace(run_config.dataset, cache=config.dataset.cache, archive=archive))
    trained_on = client.get_run(run_id).data.tags["catdog.data_digest"]
    if dataset.manifest.digest != trained_on:
        raise UserError(
            f"dataset.archive: {dataset.manifest.root} is not the data that run {run_id} was trained on: its digest is "
            f"{dataset.manifest.digest[:12]}, the run's {trained_on[:12]}. A test image could have been trained on. Name the "
            "original data with dataset.archive=PATH, or train on this one."
        )
    return dataset


def load_keras_model(uri: str) -> Any:
    """Returns the Keras model of an MLflow model URI: uint8 (B, H, W, 3) in, float32 probabilities (B, classes) out."""
    import mlflow

    with explain_missing_artifacts(uri):
        return mlflow.tensorflow.load_model(uri)


@contextlib.contextmanager
def explain_missing_artifacts(what: str) -> Iterator[None]:
    """Turns what MLflow raises where the files of a run or a model are gone into a user's message."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise UserError(
            f"model: the files of {what} cannot be read: {str(error).splitlines()[0]} Were they moved or removed? The tracking "
            "store remembers where they were written; name another model (model=...), or train again."
        ) from error


def _log_result(client: "MlflowClient", run_id: str, predictions: "Predictions", result: TestResult) -> None:
    from catdog import plots
    from catdog.tracking import TrackedRun

    run = TrackedRun(client, run_id)
    classes = list(predictions.class_names)
    names = metric_names(classes)
    run.log_metrics({
        "test/accuracy": result.accuracy, "test/accuracy_low": result.low, "test/accuracy_high": result.high,
        "test/loss": result.loss,
        **{f"test/precision_{c}": v for c, v in zip(names, result.precision, strict=True) if np.isfinite(v)},
        **{f"test/recall_{c}": v for c, v in zip(names, result.recall, strict=True)},
    })  # fmt: skip
    run.log_text(predictions.to_csv(), "predictions/test.csv")
    run.log_figure(plots.plot_confusion(result.counts, classes, "Confusion, test images"), "figures/confusion_test.png")


def metric_names(classes: list[str]) -> list[str]:
    """Returns class names with what MLflow does not allow in a metric's name replaced by underscores, each its own.

    Names that would then be the same get their class index: of 猫 and 狗 nothing else is left.
    """
    names = [
        "".join(c if c.isascii() and (c.isalnum() or c in "_-. ") else "_" for c in name[:MAX_METRIC_NAME])
        for name in classes
    ]
    return [f"{name}_{index}" if names.count(name) > 1 else name for index, name in enumerate(names)]


def _print_result(result: TestResult, classes: list[str]) -> None:
    total = int(result.counts.sum())
    console.print(
        f"test accuracy {result.accuracy:.3f}, 95% interval {result.low:.3f} to {result.high:.3f} "
        f"({np.trace(result.counts)} of {total:,} images), loss {result.loss:.3f}",
        style="bold", highlight=False,
    )  # fmt: skip
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    for title in ("images", "precision", "recall"):
        table.add_column(title, justify="right")
    for index, name in enumerate(classes):
        precision = result.precision[index]
        table.add_row(
            name,
            f"{result.counts[index].sum():,}",
            "-" if np.isnan(precision) else f"{precision:.3f}",
            f"{result.recall[index]:.3f}",
        )
    console.print(table)
