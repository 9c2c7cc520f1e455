"""The answers of a run's models after each validated epoch, to all validation images: right or wrong, and the loss."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from catdog.data.predictions import UNKNOWN, Predictions
from catdog.statistics.metrics import ACCURACY, Metric, ModelAnswers
from catdog.statistics.selection import cross_fit


@dataclass(frozen=True, eq=False)
class EpochAnswers:
    """The answers of the models after E validated epochs to N validation images, in the order of the run's predictions.

    Args:
        epochs: int (E,), the numbers of the epochs, increasing, from 1.
        right: bool (E, N), whether the most probable class is the true one.
        losses: float16 (E, N), the cross-entropy of each image in nats.
        probabilities: float16 (E, N, C) in [0, 1]; None if the run did not store them.

    Raises:
        ValueError: the shapes do not fit.
    """

    epochs: np.ndarray
    right: np.ndarray
    losses: np.ndarray
    probabilities: np.ndarray | None = None

    def __post_init__(self) -> None:
        whole = self.right.ndim == 2 and self.right.shape == self.losses.shape and len(self.epochs) == len(self.right)
        if not whole or (self.probabilities is not None and self.probabilities.shape[:2] != self.right.shape):
            raise ValueError(
                f"needs answers for {len(self.epochs)} epochs, got shapes {self.right.shape} and {self.losses.shape}"
            )

    @property
    def images(self) -> int:
        """The number of images."""
        return int(self.right.shape[1])

    def append(
        self, epoch: int, right: np.ndarray, losses: np.ndarray, probabilities: np.ndarray | None
    ) -> "EpochAnswers":
        """Returns the answers with those of one more epoch: bool (N,), float (N,), and float (N, C) or None."""
        largest = np.finfo(np.float16).max
        row = EpochAnswers(
            np.array([epoch]), right[None], np.minimum(losses, largest).astype(np.float16)[None],
            None if probabilities is None else probabilities.astype(np.float16)[None],
        )  # fmt: skip
        if not len(self.epochs):
            return row
        both = None
        if self.probabilities is not None and row.probabilities is not None:
            both = np.concatenate([self.probabilities, row.probabilities])
        return EpochAnswers(
            np.concatenate([self.epochs, row.epochs]), np.concatenate([self.right, row.right]),
            np.concatenate([self.losses, row.losses]), both,
        )  # fmt: skip

    @classmethod
    def empty(cls) -> "EpochAnswers":
        """Returns the answers of a run before its first validation."""
        return cls(np.zeros(0, int), np.zeros((0, 0), bool), np.zeros((0, 0), np.float16))

    def __len__(self) -> int:
        """The number of epochs."""
        return len(self.epochs)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns arrays by name, from which `from_arrays` builds the same; right or wrong takes one bit."""
        arrays: dict[str, np.ndarray] = {"epochs": self.epochs.astype(np.int32), "images": np.array(self.images, np.int64),
                  "right": np.packbits(self.right, axis=1), "losses": self.losses}  # fmt: skip
        return arrays if self.probabilities is None else {**arrays, "probabilities": self.probabilities}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "EpochAnswers":
        """Returns the answers that `to_arrays` took apart."""
        right = np.unpackbits(arrays["right"], axis=1, count=int(arrays["images"])).astype(bool)
        return cls(arrays["epochs"].astype(int), right, arrays["losses"], arrays.get("probabilities"))

    def place_of(self, epoch: int | None) -> int | None:
        """Returns the row of an epoch; None if it was not validated."""
        found = np.flatnonzero(self.epochs == epoch)
        return int(found[0]) if len(found) else None

    def last(self) -> "EpochAnswers":
        """Returns the answers of the last epoch alone."""
        kept = None if self.probabilities is None else self.probabilities[-1:]
        return EpochAnswers(self.epochs[-1:], self.right[-1:], self.losses[-1:], kept)

    def measure(self, metric: Metric, labels: np.ndarray, class_names: tuple[str, ...]) -> np.ndarray | None:
        """Returns the values of a metric for each epoch and image: float64 (E, N).

        Args:
            metric: the metric.
            labels: int (N,), the true classes.
            class_names: the names of the classes.

        Returns:
            None if it needs probabilities that were not stored, or gives one number for all images.
        """
        found = []
        for place in range(len(self)):
            kept = None if self.probabilities is None else self.probabilities[place].astype(float)
            answers = ModelAnswers(labels, class_names, self.right[place], self.losses[place].astype(float), kept)
            values = metric.values_by_image(answers) if metric.is_known(answers) else None
            if values is None:
                return None
            found.append(values)
        return np.array(found)

    def cross_fit(
        self,
        kept: Predictions,
        kept_epoch: int,
        *,
        metric: Metric = ACCURACY,
        keep_metric: Metric = ACCURACY,
        patience: int | None = None,
        groups: np.ndarray | None = None,
    ) -> np.ndarray | None:
        """Returns the kept model's values of a metric, without the advantage that these images chose its epoch.

        They are the kept model's own values, plus the cross-fitted values less those of the kept epoch. The last two differ from
        the first only if the saved model is not quite that of the epoch: if it averages over mirror images.

        Args:
            kept: the kept model's answers to the images.
            kept_epoch: the best epoch by `keep_metric`, of equals the one with the lower loss.
            metric: what is measured.
            keep_metric: what the epoch was chosen by.
            patience: the training's `trainer.patience`.
            groups: int (N,), the group of each image; None: each is its own.

        Returns:
            float64 (N,); None if the answers are not those of this model's training, or if what is measured or what the epoch was
            chosen by needs probabilities that were not stored.

        Source: `catdog.statistics.selection.cross_fit`.
        """
        place = self.place_of(kept_epoch)
        if groups is not None and len(np.unique(groups)) < 2:
            # There are no other images to choose by.
            return None
        if place is None or self.images != len(kept) or self.images < 2 or (kept.label_indices == UNKNOWN).any():
            return None
        measured = [self.measure(one, kept.label_indices, kept.class_names) for one in (metric, keep_metric)]
        own = metric.values_by_image(kept.answers)
        if measured[0] is None or measured[1] is None or own is None:
            return None
        criteria = (keep_metric.orient(measured[1]), -self.losses.astype(float))
        fitted = cross_fit(measured[0], criteria, patience=patience, epochs=self.epochs, groups=groups)
        return own + (fitted - measured[0][place])

    def to_bytes(self) -> bytes:
        """Returns the content of the artifact: the arrays as a compressed NumPy archive."""
        written = io.BytesIO()
        np.savez_compressed(written, **self.to_arrays())  # type: ignore[arg-type]
        return written.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "EpochAnswers":
        """Returns what `to_bytes` wrote.

        Raises:
            ValueError: the content is not such an archive.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return cls.from_arrays(dict(arrays))
        except (KeyError, ValueError, OSError, EOFError, IndexError, zipfile.BadZipFile) as error:
            raise ValueError(f"it is no archive of answers ({error})") from error
