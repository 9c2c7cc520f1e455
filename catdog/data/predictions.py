"""A model's predictions for images: one probability for each class, with the image's file and label."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from catdog.statistics.metrics import LEAST_PROBABILITY, ModelAnswers
from catdog.statistics.proportions import confusion_counts

if TYPE_CHECKING:
    import pandas as pd

# The columns of the table before those of the classes.
COLUMNS = ("file", "label")
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's predictions for N images, with probabilities for C classes.

    As a table, and in the CSV files that runs store, it has the columns file and label, and then one for each class. A class may
    itself be called "file" or "label".

    Args:
        files: object (N,), the images' names, str.
        labels: object (N,), the names of their true classes, str. The model need not know all of them.
        class_names: the names of the C classes that the model knows, in its order, without repetition.
        probabilities: float (N, C) in [0, 1]. The type is kept: a float32 is written with a float32's digits.

    Raises:
        ValueError: the lengths do not fit, or a class is named twice.
    """

    files: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    probabilities: np.ndarray

    def __post_init__(self) -> None:
        images, classes = len(self.files), len(self.class_names)
        if len(self.labels) != images or self.probabilities.shape != (images, classes):
            raise ValueError(
                f"needs a label and {classes} probabilities for each of {images} files, got {len(self.labels)} labels and "
                f"probabilities of shape {self.probabilities.shape}"
            )
        if len(set(self.class_names)) != classes:
            raise ValueError(f"needs classes of different names, got {', '.join(self.class_names)}")

    @classmethod
    def build(
        cls, files: Iterable[str], labels: Iterable[str], class_names: Iterable[str], probabilities: np.ndarray
    ) -> "Predictions":
        """Returns the predictions for these files, labels and classes, given as any iterables."""
        return cls(_as_text(files), _as_text(labels), tuple(map(str, class_names)), probabilities)

    @classmethod
    def empty(cls) -> "Predictions":
        """Returns predictions without classes and images, for a run without stored predictions."""
        return cls.build((), (), (), np.zeros((0, 0)))

    @classmethod
    def from_frame(cls, frame: "pd.DataFrame") -> "Predictions":
        """Returns the predictions in a table with the columns file and label, then one per class."""
        if tuple(frame.columns[: len(COLUMNS)]) != COLUMNS:
            raise ValueError(f"needs the columns {', '.join(COLUMNS)} first, got {', '.join(map(str, frame.columns))}")
        classes = frame.iloc[:, len(COLUMNS) :]
        return cls.build(frame.iloc[:, 0], frame.iloc[:, 1], list(classes.columns), classes.to_numpy(dtype=float))

    @classmethod
    def from_csv(cls, content: bytes) -> "Predictions":
        """Returns the predictions in a CSV file, with float64 probabilities.

        Raises:
            ValueError: the file is not a table of predictions, or a probability is missing.
        """
        import pandas as pd

        # The header is read separately: pandas would rename a class called "file", because it is a second column of that name.
        head = _read_head(content)
        if tuple(head[: len(COLUMNS)]) != COLUMNS:
            raise ValueError(f"it does not begin with the columns {', '.join(COLUMNS)}")
        # Names are not converted: a label or file called "NA" or "007" is neither a missing value nor a number. They are objects,
        # because making pandas' own strings takes longer than everything else.
        text = dict.fromkeys(range(len(COLUMNS)), object)
        frame = pd.read_csv(io.BytesIO(content), header=0, names=range(len(head)), dtype=text, keep_default_na=False)
        probabilities = frame.iloc[:, len(COLUMNS) :].to_numpy(dtype=float)
        if not isinstance(frame.index, pd.RangeIndex) or np.isnan(probabilities).any():
            raise ValueError("a row has too many or too few numbers")
        return cls(frame[0].to_numpy(), frame[1].to_numpy(), tuple(head[len(COLUMNS) :]), probabilities)

    def to_frame(self) -> "pd.DataFrame":
        """Returns a table with the columns file and label, then one per class."""
        import pandas as pd

        named = pd.DataFrame(dict(zip(COLUMNS, (self.files, self.labels), strict=True)))
        return pd.concat([named, pd.DataFrame(self.probabilities, columns=list(self.class_names))], axis=1)

    def to_csv(self) -> str:
        """Returns the table as the text of a CSV file, from which `from_csv` reads the same probabilities."""
        return self.to_frame().to_csv(index=False)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.files)

    @cached_property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image: int (N,), indices into `class_names`; the first one of equals."""
        return self.probabilities.argmax(axis=1) if self.class_names else np.full(len(self), UNKNOWN)

    @cached_property
    def label_indices(self) -> np.ndarray:
        """The true class of each image: int (N,), indices into `class_names`, UNKNOWN if the model does not know the class."""
        places = {name: place for place, name in enumerate(self.class_names)}
        return np.fromiter((places.get(label, UNKNOWN) for label in self.labels), dtype=int, count=len(self))

    @cached_property
    def right(self) -> np.ndarray:
        """Whether each prediction is right, its most probable class being the true one: bool (N,)."""
        return (self.predicted == self.label_indices) & (self.label_indices != UNKNOWN)

    @cached_property
    def correct(self) -> int:
        """The number of right predictions."""
        return int(self.right.sum())

    @property
    def accuracy(self) -> float:
        """The fraction of right predictions, in [0, 1]; NaN without images."""
        return self.correct / len(self) if len(self) else float("nan")

    @property
    def mean_loss(self) -> float:
        """The mean cross-entropy in nats; NaN without images."""
        of_label = self.probabilities[np.arange(len(self)), self.label_indices]
        return float(-np.log(np.clip(of_label, LEAST_PROBABILITY, 1)).mean()) if len(self) else float("nan")

    @cached_property
    def answers(self) -> ModelAnswers:
        """The answers as metrics need them.

        Raises:
            ValueError: the model does not know one of the labels.
        """
        if (self.label_indices == UNKNOWN).any():
            raise ValueError("an image has a class that the model does not know")
        return ModelAnswers.from_probabilities(self.label_indices, self.class_names, self.probabilities)

    @property
    def confusion(self) -> np.ndarray:
        """The confusion matrix: int64 (C, C), rows are true classes, columns predicted ones, in the order of `class_names`.

        Raises:
            ValueError: the model does not know one of the labels.
        """
        return confusion_counts(self.label_indices, self.predicted, len(self.class_names))


def _read_head(content: bytes) -> list[str]:
    try:
        return next(csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8", newline="")), [])
    except csv.Error as error:
        raise ValueError(str(error)) from error


def _as_text(values: Iterable[object]) -> np.ndarray:
    return np.array([str(value) for value in values], dtype=object)
