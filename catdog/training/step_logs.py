"""Keeps the losses of single steps on the device, so that no step waits until they are copied to the host."""

import math
from typing import Any

import keras

from catdog.training.outcome import NonFiniteLossError

# On a GPU, the losses of so many steps are read together. On a CPU they are in the host's memory anyway.
GPU_STEPS = 100


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
        self._of_training = [each for each in self.callbacks if _looks_at(each, "on_train_batch_end", "on_batch_end")]
        self._of_testing = [each for each in self.callbacks if _looks_at(each, "on_test_batch_end")]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Calls those that look at training steps."""
        for callback in self._of_training:
            callback.on_train_batch_end(batch, logs=_show(logs, callback))

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Calls those that look at validation steps."""
        for callback in self._of_testing:
            callback.on_test_batch_end(batch, logs=_show(logs, callback))


def _looks_at(callback: keras.callbacks.Callback, *methods: str) -> bool:
    """Whether a callback has one of these methods of its own."""
    return any(getattr(type(callback), name) is not getattr(keras.callbacks.Callback, name) for name in methods)


def _show(logs: dict[str, Any] | None, callback: keras.callbacks.Callback) -> dict[str, Any]:
    logs = logs or {}
    if getattr(callback, "takes_tensors", False):
        return logs
    return {name: float(keras.ops.convert_to_numpy(value)) for name, value in logs.items()}


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
        self.unread.append((batch, (logs or {})["loss"]))
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
