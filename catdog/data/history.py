"""The metrics that a training measured after each epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

EPOCH = "epoch"
# The metrics of every catdog training, in this order.
HISTORY_KEYS = (
    "train/loss",
    "train/accuracy",
    "val/loss",
    "val/accuracy",
    "gap/accuracy",
    "epoch_seconds",
    "images_per_second",
    "learning_rate",
)


@dataclass(frozen=True, eq=False)
class History:
    """The metrics of a run by epoch.

    Args:
        epochs: int (E,), increasing, from 1.
        columns: metric -> float64 (E,), NaN where it was not measured; usually the metrics of HISTORY_KEYS.

    Raises:
        ValueError: a column has more or fewer values than there are epochs.
    """

    epochs: np.ndarray
    columns: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        for key, values in self.columns.items():
            if values.shape != self.epochs.shape:
                raise ValueError(f"needs {len(self.epochs)} values of {key}, one per epoch, got shape {values.shape}")

    @classmethod
    def empty(cls) -> "History":
        """Returns the history of a run that has not completed an epoch."""
        return cls(np.zeros(0, dtype=int), {})

    @classmethod
    def from_epochs(cls, epochs: Sequence[Mapping[str, float]]) -> "History":
        """Returns the history of epochs that are given as mappings metric -> value, each with the key `epoch`."""
        keys = dict.fromkeys(key for epoch in epochs for key in epoch if key != EPOCH)
        columns = {key: np.array([epoch.get(key, np.nan) for epoch in epochs], dtype=float) for key in keys}
        return cls(np.array([epoch[EPOCH] for epoch in epochs], dtype=int), columns)

    @classmethod
    def from_points(cls, points: Mapping[str, Mapping[int, float]]) -> "History":
        """Returns the history of metrics that are given as metric -> epoch -> value."""
        epochs = sorted({epoch for series in points.values() for epoch in series})
        columns = {
            key: np.array([series.get(epoch, np.nan) for epoch in epochs], dtype=float)
            for key, series in points.items()
        }
        return cls(np.array(epochs, dtype=int), columns)

    @classmethod
    def from_csv(cls, content: bytes) -> "History":
        """Returns the history in a CSV file with a column `epoch` and one column for each metric.

        Raises:
            ValueError: the file is not such a table.
        """
        # All columns are numbers, so pandas' reader is not needed; it takes eight times as long.
        head, *lines = content.decode().splitlines() or [""]
        keys = head.split(",")
        values = np.array([[float(cell or "nan") for cell in line.split(",")] for line in lines]).reshape(-1, len(keys))
        columns = dict(zip(keys, values.T, strict=True))
        if EPOCH not in columns:
            raise ValueError(f"it has no column {EPOCH}")
        return cls(columns.pop(EPOCH).astype(int), columns)

    def to_frame(self) -> "pd.DataFrame":
        """Returns a table with the index `epoch` and one float64 column for each metric."""
        import pandas as pd

        return pd.DataFrame(dict(self.columns), index=pd.Index(self.epochs, name=EPOCH))

    def to_csv(self) -> str:
        """Returns the table as the text of a CSV file, from which `from_csv` reads the same numbers."""
        return self.to_frame().to_csv()

    def __len__(self) -> int:
        """The number of epochs."""
        return len(self.epochs)

    def __contains__(self, key: str) -> bool:
        """Whether there are values of a metric."""
        return key in self.columns

    def __getitem__(self, key: str) -> np.ndarray:
        """The values of a metric: float64 (E,).

        Raises:
            KeyError: it was not measured.
        """
        return self.columns[key]

    def last(self, key: str) -> float:
        """The last epoch's value of a metric, NaN where there is none."""
        return float(self.columns[key][-1]) if key in self.columns and len(self) else float("nan")

    def at(self, epoch: int, key: str) -> float:
        """The value of a metric after an epoch, NaN where there is none."""
        if key not in self.columns or epoch not in self.epochs:
            return float("nan")
        return float(self.columns[key][self.epochs == epoch][0])
