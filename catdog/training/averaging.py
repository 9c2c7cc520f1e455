"""Averaged weights: an exponential moving average (EMA) of a model's variables, which validation and the kept model use."""

from typing import Any

import keras
import numpy as np


class WeightAverage(keras.callbacks.Callback):
    """Averages the variables that training changes, after each step; validation sees the averages.

    The average after step t is `d * average + (1 - d) * variable` with d = min(decay, (1 + t) / (10 + t)): so that the first steps,
    which are far from the result, are soon forgotten. The statistics of batch norms are averaged as well, since they belong to the
    weights. Training itself goes on with the weights as they are.

    Args:
        decay: the largest d, more than 0 and less than 1. The average covers about 1 / (1 - decay) steps.

    Source: Polyak and Juditsky (1992), "Acceleration of stochastic approximation by averaging"; the warm-up of the decay is that of
    TensorFlow's `tf.train.ExponentialMovingAverage(num_updates)`.
    """

    takes_tensors = True

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.steps = 0
        self.averages: list[Any] = []
        self.trained: list[np.ndarray] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Starts with the weights as they are."""
        import tensorflow as tf

        del logs
        self.averages = [tf.Variable(variable.value, trainable=False) for variable in self._list_variables()]
        pairs = list(zip(self.averages, self._list_variables(), strict=True))

        # One graph: called variable by variable, it would cost more than a small model's step.
        def update(share: Any) -> None:
            for average, variable in pairs:
                average.assign_add(tf.cast(share, average.dtype) * (variable.value - average))

        self._update = tf.function(update, autograph=False)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Includes the weights after this step."""
        import tensorflow as tf

        del batch, logs
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self._update(tf.constant(1 - decay, tf.float32))

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Gives validation the averages."""
        del logs
        self.trained = [keras.ops.convert_to_numpy(variable.value) for variable in self._list_variables()]
        for variable, average in zip(self._list_variables(), self.averages, strict=True):
            variable.assign(average)

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives training its own weights back."""
        del logs
        for variable, value in zip(self._list_variables(), self.trained, strict=True):
            variable.assign(value)
        self.trained = []

    def get_state(self) -> dict[str, Any]:
        """Returns what a checkpoint saves: the number of steps, and the averages."""
        averages = {f"average/{number}": average.numpy() for number, average in enumerate(self.averages)}
        return {"steps": self.steps, **averages}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues with what `get_state` returned."""
        self.steps = int(state["steps"])
        for number, average in enumerate(self.averages):
            average.assign(state[f"average/{number}"])

    def _list_variables(self) -> list[Any]:
        from catdog.training.loop import list_changing

        # The states of random layers are whole numbers.
        return [variable for variable in list_changing(self.model) if "float" in str(variable.dtype)]
