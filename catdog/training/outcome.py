"""The outcome of a finished run, and of one that has paused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from catdog.config.metrics import LOG_LOSS
from catdog.system.errors import UserError
from catdog.tracking import metric_names

if TYPE_CHECKING:
    from catdog.tracking.records import StoredRun


class NonFiniteLossError(UserError):
    """The loss became NaN or infinite: further training would be meaningless."""


@dataclass(frozen=True)
class Pause:
    """Where a run has paused; it can be resumed there.

    Attributes:
        epochs: the metrics of each epoch so far, as `catdog.training.loop.Fit.epochs`.
        seconds: wall time so far, of all processes that trained it.
        has_arrived: whether all of it is in MLflow; if not, the outbox has the rest.
    """

    epochs: Sequence[Mapping[str, float]]
    seconds: float
    has_arrived: bool = True


@dataclass(frozen=True)
class Outcome:
    """The main facts of a finished run.

    Attributes:
        run_id: MLflow's run id.
        name: the run's name.
        best_epoch: epoch of the highest val accuracy, from 1.
        best_val_accuracy: that accuracy, in [0, 1].
        last_train_accuracy: the last epoch's training accuracy, in [0, 1].
        last_val_accuracy: the last epoch's validation accuracy, in [0, 1].
        seconds: wall time of the whole run.
        has_arrived: whether all of the run is in MLflow; if not, the outbox has the rest.
        undelivered: if not, the reason in words.
        promotions: new versions in the registry, for a run outside a sweep: the fields of `catdog.registry.champion.Promotion`.
    """

    run_id: str
    name: str
    best_epoch: int
    best_val_accuracy: float
    last_train_accuracy: float
    last_val_accuracy: float
    seconds: float
    has_arrived: bool = True
    undelivered: str = ""
    promotions: list[dict[str, Any]] = field(default_factory=list)


def read_outcome(run: "StoredRun") -> Outcome:
    """Returns the outcome of a finished run in MLflow."""
    metrics = run.metrics
    return Outcome(
        run.run_id, run.name, int(metrics[metric_names.BEST_EPOCH]), metrics[metric_names.BEST_VAL_ACCURACY],
        metrics[metric_names.FINAL["train/accuracy"]], metrics[metric_names.FINAL["val/accuracy"]], metrics.get("run_seconds", 0.0),
    )  # fmt: skip


def choice_of(metrics: Mapping[str, float], by: str) -> float:
    """Returns the value of the metric that `trainer.keep_metric` names, given those of an epoch."""
    return metrics["val/loss" if by == LOG_LOSS else f"val/{by}"]
