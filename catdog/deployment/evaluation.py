"""Evaluation of a trained model on the test split. Each one is a look at the split, which the ledger counts."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from catdog.system.errors import UserError
from catdog.system.wording import in_groups
from catdog.tracking.records import explain_gone, find_run

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

    from catdog.data.predictions import Predictions
    from catdog.deployment.prediction import TrainedModel
    from catdog.registry.ledger import Look

# MLflow allows 250 characters, prefix included; a folder's name may have 255.
MAX_METRIC_NAME = 200
MOST_LOOKS_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class TestResult:
    """A model's results on a test split.

    Attributes:
        counts: int64 (C, C), images by true class (rows) and answer (columns).
        accuracy: in [0, 1].
        low: lower end of the accuracy's 95% interval (Wilson's, if every image is a group of its own); NaN for a single group.
        high: upper end.
        loss: mean cross-entropy in nats.
        precision: float64 (C,) in [0, 1], NaN for a class that was never predicted.
        recall: float64 (C,) in [0, 1].
        groups: the number of groups that the images come in, which the interval counts; None if each is a group of its own.
    """

    counts: np.ndarray
    accuracy: float
    low: float
    high: float
    loss: float
    precision: np.ndarray
    recall: np.ndarray
    groups: int | None = None

    __test__ = False  # not a test, whatever pytest thinks of the name


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """A look at a test split, and its result.

    Attributes:
        model: the model that was evaluated.
        result: the results as arrays.
        class_names: the classes, in the order of the arrays.
        look: the number of this look at these test images, from 1.
        earlier_looks: the looks before it, by any model, the oldest first.
        words: a sentence on which look it was, and what that means for the result.
    """

    model: "TrainedModel"
    result: TestResult
    class_names: tuple[str, ...]
    look: int
    earlier_looks: "tuple[Look, ...]"
    words: str

    @property
    def accuracy(self) -> float:
        """The test accuracy in [0, 1]."""
        return self.result.accuracy

    @property
    def interval(self) -> tuple[float, float]:
        """The accuracy's 95% Wilson interval."""
        return self.result.low, self.result.high

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return self.result.loss

    @property
    def images(self) -> int:
        """How many images the test split has."""
        return int(self.result.counts.sum())

    @property
    def correct(self) -> int:
        """How many of them the model got right."""
        return int(np.trace(self.result.counts))

    @property
    def baseline(self) -> float:
        """The test accuracy in [0, 1] of always answering the most common class."""
        return float(self.result.counts.sum(axis=1).max() / self.images)

    @property
    def classes(self) -> "pd.DataFrame":
        """One row per class: columns class, images, precision (NaN if the class was never predicted) and recall."""
        import pandas as pd

        columns = {
            "class": list(self.class_names), "images": self.result.counts.sum(axis=1),
            "precision": self.result.precision, "recall": self.result.recall,
        }  # fmt: skip
        return pd.DataFrame(columns)

    @property
    def confusion(self) -> "pd.DataFrame":
        """Images by true class (index) and answer (columns)."""
        import pandas as pd

        names = list(self.class_names)
        return pd.DataFrame(self.result.counts, pd.Index(names, name="class"), names)

    @property
    def looks(self) -> "pd.DataFrame":
        """One row per earlier look: columns look, when, model, run_id, accuracy (NaN if it did not finish)."""
        import pandas as pd

        columns = ["number", "when", "model", "run_id", "accuracy"]
        rows = [{name: getattr(look, name) for name in columns} for look in self.earlier_looks]
        return pd.DataFrame(rows, columns=columns).rename(columns={"number": "look"}).astype({"accuracy": float})

    def __repr__(self) -> str:
        return f"Evaluation({self.model.words}: {self.summary}; look {self.look})"

    @property
    def summary(self) -> str:
        """The result in one line."""
        low, high = self.interval
        return (
            f"test accuracy {self.accuracy:.3f}, 95% interval {low:.3f} to {high:.3f} "
            f"({self.correct} of {in_groups(self.images, self.result.groups)}), loss {self.loss:.3f}"
        )

    @property
    def baseline_words(self) -> str:
        """What the accuracy is to be compared with, in one line; says so where the model is not clearly better."""
        images = self.result.counts.sum(axis=1)
        most = [name for name, count in zip(self.class_names, images, strict=True) if count == images.max()]
        common = repr(most[0]) if len(most) == 1 else "one class"
        doubt = ""
        if self.result.high < self.baseline:
            doubt = ": more often than this model"
        elif self.result.low <= self.baseline:
            doubt = ", which the interval does not exclude"
        return f"always answering {common} is right on {self.baseline:.3f} of test{doubt}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the whole result as lists, numbers and texts, as `format=json` prints it."""
        return {
            "model": self.model.name,
            "version": self.model.version,
            "run_id": self.model.run_id,
            "run_name": self.model.run_name,
            "accuracy": self.accuracy,
            "low": self.result.low,
            "high": self.result.high,
            "images": self.images,
            "groups": self.result.groups,
            "correct": self.correct,
            "loss": self.loss,
            "baseline": self.baseline,
            "classes": self.classes.to_dict("records"),
            "confusion": self.result.counts.tolist(),
            "look": self.look,
            "earlier_looks": self.looks.to_dict("records"),
            "words": self.words,
        }


def score_predictions(predictions: "Predictions", groups: np.ndarray | None = None) -> TestResult:
    """Returns the results that follow from predictions; groups are those of the images, int (N,), if they come in groups."""
    from catdog.statistics.contrasts import count_groups, single_interval
    from catdog.statistics.proportions import precision_and_recall

    counts, total = predictions.confusion, len(predictions)
    of_label = predictions.probabilities.astype(np.float64)[np.arange(total), predictions.label_indices]
    # A probability that underflowed to 0 would make the mean infinite. Keras clips at the same value.
    loss = -np.log(np.clip(of_label, 1e-7, 1)).mean()
    return TestResult(
        counts, predictions.accuracy, *single_interval(predictions.right, groups), float(loss),
        *precision_and_recall(counts), count_groups(groups),
    )  # fmt: skip


def evaluate(
    model: "TrainedModel", *, archive: str | None = None, cache: str | None = None, batch_size: int = 32, command: str
) -> Evaluation:
    """Evaluates a model on its run's test split, logs the result to that run, and records the look in the ledger.

    Args:
        model: the model to evaluate.
        archive: where the run's data set is now; None: it has not moved.
        cache: folder for decoded images; None: this machine's default.
        batch_size: images per step.
        command: the command or call that asks for the look; the ledger records it.

    Raises:
        UserError: the run was deleted, or the data set is not the one it was trained on.
    """
    from catdog.registry.card import write_cards_of
    from catdog.registry.ledger import describe_look, digest_test, open_look
    from catdog.tracking.study_data import load_run_dataset
    from catdog.training.predicting import predict_split

    client, run_id = model.client, model.run_id
    # Before TensorFlow is imported, so that missing data is reported at once.
    run = find_run(client, run_id)
    gone = explain_gone(client, run_id, run)
    if run is None or gone:
        raise UserError(
            f"model: {model.words} cannot be evaluated, because its result is stored with its run: {gone} Or name another model: "
            "model=RUN_ID."
        )
    dataset = load_run_dataset(
        run, "Name the original data with dataset.archive=PATH, or train on this one.", archive=archive, cache=cache
    )
    kept = model.loaded
    with open_look(
        client, digest_test(dataset.manifest.images), study=client.get_experiment(run.experiment_id).name, model=model.words,
        model_uri=model.found.uri, run_id=run_id, command=command,
    ) as look:  # fmt: skip
        look.give_images()
        split = dataset.load_split("test", model.image_size, look=look)
        predictions = predict_split(kept, split, batch_size)
        result = score_predictions(predictions, dataset.manifest.code_groups(predictions.files))
        look.record({"test/accuracy": result.accuracy, "test/loss": result.loss})
        _log_result(client, run_id, predictions, result)
    # The look and the result are part of what is on record.
    write_cards_of(client, run_id)
    words = describe_look(look, run_id)
    return Evaluation(model, result, tuple(dataset.classes), look.number, tuple(look.earlier), words)


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
    run.log_table(predictions.to_frame(), "predictions/test.csv")
    confusion = plots.plot_confusion(result.counts, classes, "Confusion, test images")
    run.log_figure(plots.make_legible(confusion), "figures/confusion_test.png")


def metric_names(classes: list[str]) -> list[str]:
    """Returns unique names for metrics: class names with underscores for the characters that MLflow does not allow.

    Names that become equal get their class index, such as 猫 and 狗, which both become an underscore.
    """
    names = [
        "".join(c if c.isascii() and (c.isalnum() or c in "_-. ") else "_" for c in name[:MAX_METRIC_NAME])
        for name in classes
    ]
    return [f"{name}_{index}" if names.count(name) > 1 else name for index, name in enumerate(names)]


def build_classes_table(evaluation: Evaluation) -> Table:
    """The results by class, for a terminal."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    for title in ("images", "precision", "recall"):
        table.add_column(title, justify="right")
    result = evaluation.result
    for index, name in enumerate(evaluation.class_names):
        precision = result.precision[index]
        table.add_row(
            name,
            f"{result.counts[index].sum():,}",
            "-" if np.isnan(precision) else f"{precision:.3f}",
            f"{result.recall[index]:.3f}",
        )
    return table


def build_looks_table(evaluation: Evaluation) -> Table:
    """The earlier looks, for a terminal; if there are many, only the last ones."""
    table = Table(box=box.SIMPLE_HEAD, title="earlier looks", title_justify="left")
    for head in ("look", "when", "model", "test accuracy"):
        table.add_column(head, justify="right" if head == "test accuracy" else "left", overflow="fold")
    for earlier in evaluation.earlier_looks[-MOST_LOOKS_SHOWN:]:
        accuracy = "no result" if earlier.accuracy is None else f"{earlier.accuracy:.3f}"
        table.add_row(str(earlier.number), f"{earlier.when:%Y-%m-%d %H:%M}", Text(earlier.model), accuracy)
    return table
