"""Losses of single steps that stay on the device."""

from typing import Any

import keras
import numpy as np
import pytest

from catdog.training.outcome import NonFiniteLossError
from catdog.training.step_logs import FiniteLoss, StepCallbacks


class Recorder(keras.callbacks.Callback):
    """A user's callback, which looks at steps."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def on_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.seen.append((batch, dict(logs or {})))

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.seen.append(("test", batch, dict(logs or {})))


def test_a_method_of_the_object_alone_is_called_and_odd_logs_are_shown_as_by_keras() -> None:
    seen: list[Any] = []
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: seen.append(dict(logs)))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    vector = keras.ops.convert_to_tensor([1.0, 2.0])
    logs = {"z": vector, "nested": {"loss": keras.ops.convert_to_tensor(3.0)}}
    for kind in (StepCallbacks, keras.callbacks.CallbackList):
        kind([callback], model=model).on_train_batch_end(0, logs)
    ours, theirs = seen
    assert list(ours) == list(theirs) == ["loss", "z"]
    assert ours["loss"] == theirs["loss"] == 3.0
    np.testing.assert_array_equal(ours["z"], theirs["z"])
    assert type(ours["z"]) is type(theirs["z"])
    FiniteLoss(1).on_train_batch_end(0, logs)


class OnDevice:
    """A loss that must not be read."""

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise AssertionError("a step waited for its loss")

    def __float__(self) -> float:
        raise AssertionError("a step waited for its loss")


def fit(*callbacks: keras.callbacks.Callback, plain: bool = False) -> tuple[list[Any], dict[str, list[float]]]:
    """Returns the final weights and the history of a small training, 4 steps an epoch."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("adam", "mse", metrics=["mae"])
    x = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    every = list(callbacks)
    listed = every if plain else StepCallbacks(every, add_history=True, model=model, verbose=0, epochs=2, steps=4)
    history = model.fit(
        x, x[:, :2], batch_size=8, epochs=2, verbose=0, shuffle=False, validation_data=(x, x[:, :2]), callbacks=listed
    )
    return model.get_weights(), history.history


def test_training_and_what_callbacks_see_are_as_with_keras_own_list() -> None:
    ours, theirs = Recorder(), Recorder()
    weights, history = fit(ours, FiniteLoss(4, every=3))
    expected_weights, expected_history = fit(theirs, plain=True)
    assert all(np.array_equal(one, other) for one, other in zip(weights, expected_weights, strict=True))
    assert history == expected_history
    assert ours.seen == theirs.seen
    assert len(ours.seen) == 2 * (4 + 4)
    assert isinstance(ours.seen[0][1]["loss"], float)


def test_no_step_waits_for_its_loss() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    finite = FiniteLoss(50, every=100)
    callbacks = StepCallbacks(
        [finite, keras.callbacks.EarlyStopping()], add_history=True, model=model, epochs=1, steps=50
    )
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    for step in range(50):
        callbacks.on_train_batch_begin(step)
        callbacks.on_train_batch_end(step, {"loss": OnDevice(), "accuracy": OnDevice()})
    assert len(finite.unread) == 50
    for step in range(5):
        callbacks.on_test_batch_end(step, {"loss": OnDevice()})
    with pytest.raises(AssertionError, match="waited"):
        StepCallbacks([Recorder()], model=model).on_train_batch_end(0, {"loss": OnDevice()})


@pytest.mark.parametrize("every", [1, 3, 4, 100])
@pytest.mark.parametrize("at", ["on_test_begin", "on_epoch_end"])
def test_the_first_loss_that_is_not_finite_is_named(every: int, at: str) -> None:
    finite = FiniteLoss(6, every)
    finite.on_epoch_begin(1)

    def train() -> None:
        for step in range(6):
            finite.on_train_batch_end(step, {"loss": keras.ops.convert_to_tensor(np.nan if step >= 4 else 1.0)})
        finite.on_test_begin() if at == "on_test_begin" else finite.on_epoch_end(1)

    with pytest.raises(NonFiniteLossError, match=r"the loss became nan at epoch 2, step 5 of 6\."):
        train()
