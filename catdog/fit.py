"""Fitting: one model, its streams and its epochs; what is logged, shown and kept on the way."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from catdog.config import TrainerConfig
from catdog.console import console
from catdog.errors import UserError

log = logging.getLogger(__name__)

# Narrower terminals have the figures, but neither bar nor speed, and the beginning of the name.
WIDE_COLUMNS = 120
NARROW_NAME = 12


class NonFiniteLossError(UserError):
    """The loss became NaN or infinite, so that nothing learned from there on would mean anything."""


@dataclass
class Fit:
    """What a fit leaves.

    Attributes:
        epochs: one mapping per epoch, metric name -> value, with the key `epoch` from 1.
        best_epoch: the epoch with the highest val accuracy, ties to the lower val loss.
        weights: the model's weights at that epoch.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    weights: list[np.ndarray] = field(default_factory=list)

    @property
    def best(self) -> dict[str, float]:
        return self.epochs[self.best_epoch - 1]

    @property
    def last(self) -> dict[str, float]:
        return self.epochs[-1]


def compile_model(model: Any, config: TrainerConfig, policy: str) -> None:
    """Compiles for training: the config's optimizer, sparse cross-entropy on logits, accuracy; float16 with loss scaling."""
    classes = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW,
               "sgd": keras.optimizers.SGD, "rmsprop": keras.optimizers.RMSprop}  # fmt: skip
    optimizer = classes[config.optimizer](learning_rate=config.learning_rate)
    if policy == "mixed_float16":
        # Gradients below 6e-8 vanish in float16: scale the loss up, and the gradients down again in float32.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        auto_scale_loss=False,
    )


def fit(
    model: Any,
    train: Any,
    val: Any,
    config: TrainerConfig,
    *,
    steps: int,
    train_count: int,
    name: str,
    on_epoch: Callable[[int, dict[str, float]], None],
) -> Fit:
    """Trains a compiled model and returns its history; the model is left with the weights that `trainer.keep` names.

    Args:
        model: compiled by `compile_model`.
        train: endless batches, `steps` an epoch.
        val: batches of every validation image once.
        config: the trainer's section.
        steps: batches an epoch.
        train_count: training images.
        name: the run's, for the progress display.
        on_epoch: called after each epoch with its number, from 1, and its metrics.

    Raises:
        NonFiniteLossError: naming the epoch and step.
    """
    result = Fit()
    progress = Progress(name, config.epochs, steps)
    callbacks = [FiniteLoss(steps), Record(result, train_count, on_epoch, progress)]
    with progress:
        # shuffle=False: the stream has its order already.
        model.fit(
            train, validation_data=val, epochs=config.epochs, steps_per_epoch=steps, callbacks=callbacks, shuffle=False,
            verbose=0,
        )  # fmt: skip
    if config.keep == "best":
        model.set_weights(result.weights)
    return result


class FiniteLoss(keras.callbacks.Callback):
    """Stops the run at the first step whose loss is not finite."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # The logged loss is the mean since the epoch began: it turns non-finite at the first step that does.
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"the loss became {loss} at epoch {self.epoch}, step {batch + 1} of {self.steps}. Lower trainer.learning_rate, "
                "or use trainer.precision=float32."
            )


class Record(keras.callbacks.Callback):
    """Names each epoch's metrics as catdog does, passes them on, and remembers the best epoch's weights."""

    def __init__(
        self, result: Fit, train_count: int, on_epoch: Callable[[int, dict[str, float]], None], progress: "Progress"
    ) -> None:
        super().__init__()
        self.result = result
        self.train_count = train_count
        self.on_epoch = on_epoch
        self.progress = progress
        self.started = self.trained = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.progress.step()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.trained = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        ended = time.perf_counter()
        metrics = {
            "train/loss": float(logs["loss"]),
            "train/accuracy": float(logs["accuracy"]),
            "val/loss": float(logs["val_loss"]),
            "val/accuracy": float(logs["val_accuracy"]),
            "gap/accuracy": float(logs["accuracy"]) - float(logs["val_accuracy"]),
            "epoch_seconds": ended - self.started,
            "images_per_second": self.train_count / (self.trained - self.started),
            "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
        }
        if not math.isfinite(metrics["val/loss"]):
            raise NonFiniteLossError(
                f"the validation loss became {metrics['val/loss']} at epoch {epoch + 1}. Lower trainer.learning_rate, or use "
                "trainer.precision=float32."
            )
        self.result.epochs.append({"epoch": epoch + 1, **metrics})
        if not self.result.best_epoch or _score(metrics) > _score(self.result.best):
            self.result.best_epoch = epoch + 1
            self.result.weights = self.model.get_weights()
        self.on_epoch(epoch + 1, metrics)
        self.progress.finish_epoch(epoch + 1, metrics, self.result)


def _score(metrics: dict[str, float]) -> tuple[float, float]:
    return metrics["val/accuracy"], -metrics["val/loss"]


class Progress:
    """One live line in a terminal; one plain line per epoch where output is piped, and always in the log file."""

    def __init__(self, name: str, epochs: int, steps: int) -> None:
        from rich import progress

        self.wide = console.width >= WIDE_COLUMNS
        self.epochs = epochs
        self.started = time.perf_counter()
        self.bar = progress.Progress(
            progress.TextColumn("[bold]{task.description}"),
            progress.TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            *([progress.BarColumn(bar_width=24), progress.TextColumn("{task.fields[speed]}")] if self.wide else []),
            progress.TextColumn("ETA"),
            progress.TimeRemainingColumn(compact=True),
            progress.TextColumn("{task.fields[accuracies]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        shown = name if self.wide else name[:NARROW_NAME]
        self.task = self.bar.add_task(shown, total=epochs * steps, epoch=1, speed="", accuracies="compiling")

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def step(self) -> None:
        """Counts a training step."""
        self.bar.advance(self.task)

    def finish_epoch(self, epoch: int, metrics: dict[str, float], result: Fit) -> None:
        """Shows an epoch's figures."""
        left_s = (time.perf_counter() - self.started) / epoch * (self.epochs - epoch)
        accuracies = (
            f"train {metrics['train/accuracy']:.3f} val {metrics['val/accuracy']:.3f} gap {metrics['gap/accuracy']:+.3f} "
            f"best {result.best['val/accuracy']:.3f}"
        )
        speed = f"{metrics['images_per_second']:,.0f} images/s"
        self.bar.update(self.task, epoch=min(epoch + 1, self.epochs), speed=speed, accuracies=accuracies)
        width = len(str(self.epochs))
        eta = f"ETA {int(left_s) // 60}:{int(left_s) % 60:02d}"
        # A terminal has the live line instead; the log file gets every epoch.
        log.info(
            "epoch %*d/%d  %s  %s  %s",
            width,
            epoch,
            self.epochs,
            accuracies,
            speed,
            eta,
            extra={"file_only": console.is_terminal},
        )
