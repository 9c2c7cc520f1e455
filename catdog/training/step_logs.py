"""Keeps the losses of single steps on the device, so that no step waits until they are copied to the host."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from catdog.training.outcome import NonFiniteLossError

# On a GPU, the losses of so many steps are read together. On a CPU they are in the host's memory anyway.
GPU_STEPS = 100
TRAINING_STEPS = ("on_train_batch_end", "on_batch_end")


class StepCallbacks(keras.callbacks.CallbackList):
    """Keras' list of callbacks, which turns the logs of a step into numbers only for callbacks that look at steps.

    Keras does so for all at every step, which waits for the device. Callbacks with an attribute `takes_tensors` get the logs as
    they are.

    Args:
        callbacks: as `keras.Model.fit` takes them.
        options: further arguments of Keras' list.
    """

    def __init__(self, callbacks: list[keras.callbacks.Callback], **options: Any) -> None:
        super().__init__(callbacks, **options)
        self._async_train = self._async_test = self._async_predict = False

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Calls those that look at training steps."""
        for callback, shown in self._show(logs, *TRAINING_STEPS):
            callback.on_train_batch_end(batch, logs=shown)

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Calls those that look at validation steps."""
        for callback, shown in self._show(logs, "on_test_batch_end"):
            callback.on_test_batch_end(batch, logs=shown)

    def _show(
        self, logs: dict[str, Any] | None, *methods: str
    ) -> Iterator[tuple[keras.callbacks.Callback, dict[str, Any]]]:
        """Yields the callbacks that have one of these methods, each with the logs as it takes them."""
        numbers = None
        for callback in self.callbacks:
            if not has_own(callback, *methods):
                continue
            if getattr(callback, "takes_tensors", False):
                yield callback, logs or {}
                continue
            if numbers is None:
                numbers = to_numbers(logs or {})
            yield callback, numbers


def has_own(callback: keras.callbacks.Callback, *methods: str) -> bool:
    """Whether a callback has one of these methods of its own, from its class or, as a LambdaCallback, of the object alone."""
    # The mark of methods that do nothing, by which Keras itself goes.
    return not all(getattr(getattr(callback, name), "_is_default", False) for name in methods)


def to_numbers(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns logs as Keras gives them to callbacks: nested ones flat, in the order of their names, and numbers as float."""
    found: dict[str, Any] = {}
    for name, value in sorted(logs.items()):
        if isinstance(value, Mapping):
            found |= to_numbers(value)
            continue
        if keras.ops.is_tensor(value):
            value = keras.ops.convert_to_numpy(value)
        try:
            found[name] = float(value)
        except (TypeError, ValueError):
            found[name] = value
    return found


class FiniteLoss(keras.callbacks.Callback):
    """Stops the run at the first step whose loss is not finite.

    Args:
        steps: batches per epoch.
        every: how many steps' losses are read together; the rest of an epoch is read at its end.
    """

    takes_tensors = True

    def __init__(self, steps: int, every: int = 1) -> None:
        super().__init__()
        self.steps = steps
        self.every = every
        self.epoch = 0
        self.unread: list[tuple[int, Any]] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the number of the epoch, for the message."""
        del logs
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Raises NonFiniteLossError if a loss that is read now is not finite."""
        logs = logs or {}
        self.unread.append((batch, logs["loss"] if "loss" in logs else to_numbers(logs)["loss"]))
        if len(self.unread) >= self.every:
            self._read()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Does the same for the rest of an epoch that is validated."""
        del logs
        self._read()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Does the same for the rest of an epoch."""
        del epoch, logs
        self._read()

    def _read(self) -> None:
        unread, self.unread = self.unread, []
        if not unread:
            return
        # The logged loss is the mean since the start of the epoch: it becomes non-finite at the first step that is.
        together = unread[0][1] if len(unread) == 1 else keras.ops.stack([loss for _, loss in unread])
        losses = keras.ops.convert_to_numpy(together).reshape(-1).tolist()
        for (batch, _), loss in zip(unread, losses, strict=True):
            if not math.isfinite(loss):
                raise NonFiniteLossError(
                    f"the loss became {loss} at epoch {self.epoch}, step {batch + 1} of {self.steps}. Lower trainer.learning_rate, "
                    "or use trainer.precision=float32."
                )
