"""Records of runs that never were, with answers that can be counted by hand."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import numpy as np
import pytest

from catdog.comparison.analysis import Analysis, analyse
from catdog.comparison.records import ComparedRuns, RunRecord
from catdog.data.history import History
from catdog.data.predictions import Predictions
from catdog.tracking.tags import Tags

FILES = [f"{'cats' if index % 2 else 'dogs'}/{index}.jpg" for index in range(100)]


def build_history(epochs: int, train: float, val: float) -> History:
    rise = np.linspace(-0.1, 0, epochs) if epochs > 1 else np.zeros(epochs)
    return History(
        np.arange(1, epochs + 1),
        {
            "train/loss": -np.log(train + rise), "train/accuracy": train + rise,
            "val/loss": -np.log(val + rise), "val/accuracy": val + rise, "gap/accuracy": np.full(epochs, train - val),
            "epoch_seconds": np.r_[9.0, np.full(max(0, epochs - 1), 2.0)][:epochs],
            "images_per_second": np.full(epochs, 100.0), "learning_rate": np.full(epochs, 0.001),
        },
    )  # fmt: skip


def build_predictions(
    wrong: Sequence[int], files: Sequence[str], classes: Sequence[str], sure: float = 0.9, decades: float | None = None
) -> Predictions:
    """Answers that are right except at the positions `wrong`, which take the next class; later images are surer.

    With `decades`, the probability of being wrong falls from a half to this many powers of ten less.
    """
    labels = [file.partition("/")[0] for file in files]
    rows = []
    for position, label in enumerate(labels):
        answer = (classes.index(label) + (position in wrong)) % len(classes)
        probability = sure + 0.09 * position / len(files)
        if decades is not None:
            probability = 1 - 0.5 * 10 ** (-decades * position / len(files))
        probabilities = [(1 - probability) / (len(classes) - 1)] * len(classes)
        probabilities[answer] = probability
        rows.append(probabilities)
    return Predictions.build(files, labels, classes, np.array(rows))


@pytest.fixture
def make_record() -> Callable[..., RunRecord]:
    def make(
        name: str = "cnn", variant: str | None = None, seed: int = 1, status: str = "FINISHED", epochs: int = 3,
        wrong: Sequence[int] = (), files: Sequence[str] = FILES, classes: Sequence[str] = ("cats", "dogs"),
        params: dict[str, str] | None = None, tags: dict[str, str] | None = None, decades: float | None = None, **overrides,
    ) -> RunRecord:  # fmt: skip
        accuracy = 1 - len(wrong) / len(files)
        fields = {
            "run_id": f"{name}-{seed}".encode().hex().ljust(32, "0")[-32:],
            "history": build_history(epochs, 0.98, accuracy),
            "predictions": build_predictions(wrong, files, classes, decades=decades),
            "metrics": {
                "best_epoch": float(epochs), "kept_epoch": float(epochs), "clean_train_accuracy": 0.99,
                "model_parameters": 2257984.0, "model_trainable_parameters": 128210.0, "run_seconds": 13.0,
            },
        }  # fmt: skip
        return RunRecord(
            name=name, variant=variant or name, seed=seed, status=status,
            params=params or {"seed": str(seed), "trainer.epochs": str(epochs)}, tags=Tags(tags or {}),
            **(fields | overrides),
        )  # fmt: skip

    return make


@pytest.fixture
def make_comparison() -> Callable[..., ComparedRuns]:
    def make(*records: RunRecord, **overrides) -> ComparedRuns:
        fields = {
            "study": "cats_vs_dogs", "sweep_id": "5eed" * 8, "class_names": ["cats", "dogs"], "baseline": 0.5,
            "train_images": 400, "val_images": 100, "data_digest": "d1ge57" * 10,
            "command": "python -m catdog.train -m model=cnn,mobilenet",
            "created": datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "picture": drawn_picture,
        }  # fmt: skip
        return ComparedRuns(records=records, **(fields | overrides))

    return make


@pytest.fixture
def make_analysis(make_comparison) -> Callable[..., Analysis]:
    def make(*records: RunRecord, margin: float | None = 0.02, **overrides) -> Analysis:
        return analyse(make_comparison(*records, **overrides), margin)

    return make


def drawn_picture(file: str) -> np.ndarray:
    """A picture that differs from file to file: uint8 (40, 60, 3)."""
    return np.random.default_rng(abs(sum(map(ord, file)))).integers(0, 256, (40, 60, 3), dtype=np.uint8)
