"""Callbacks that change the training, catdog's and the user's: built from the config, with their state saved in checkpoints."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from catdog.config.schema import TrainerConfig, list_callbacks
from catdog.system.errors import UserError
from catdog.system.own_objects import explain
from catdog.training.own_code import call, load_class

log = logging.getLogger(__name__)

PREFIX = "callback"


@dataclass(frozen=True)
class OwnCallback:
    """A custom callback, with its name in the config.

    A callback can save its state if it has two methods: `get_state()` returns a dict of arrays and numbers, and
    `set_state(state)` gets that dict when an interrupted run resumes, after `on_train_begin`.

    Attributes:
        key: its config key.
        name: the name of a Keras callback, or module:class.
        callback: the callback.
    """

    key: str
    name: str
    callback: keras.callbacks.Callback

    @property
    def has_state(self) -> bool:
        """Whether checkpoints can save its state."""
        return hasattr(self.callback, "get_state") and hasattr(self.callback, "set_state")


def build_callbacks(config: TrainerConfig) -> list[OwnCallback]:
    """Returns the averaging of weights, if `trainer.ema` is set, and the callbacks that `trainer.callbacks` names, in order.

    Raises:
        UserError: there is no such class, or it does not take the options.
    """
    built = []
    if config.ema is not None:
        from catdog.training.averaging import WeightAverage

        built.append(OwnCallback("trainer.ema", "WeightAverage", WeightAverage(config.ema)))
    for key, name, options in list_callbacks(config.callbacks):
        kind = load_class(key, name, keras.callbacks, keras.callbacks.Callback)
        built.append(OwnCallback(key, name, call(key, name, kind, {}, options, f"the other keys of {key}")))
    return built


def capture_states(callbacks: Sequence[OwnCallback]) -> dict[str, np.ndarray]:
    """Returns the states of callbacks as arrays for a checkpoint, under names that `restore_states` reads.

    Raises:
        UserError: a state is not a dict of arrays and numbers.
    """
    arrays = {}
    for number, own in enumerate(callbacks):
        if not own.has_state:
            continue
        with explain(own.key, own.name, "reading its state by get_state()"):
            state = own.callback.get_state()
        if not isinstance(state, Mapping):
            raise UserError(
                f"{own.key}: get_state() of {own.name} must return a dict, but returned {type(state).__name__}."
            )
        for name, value in state.items():
            array = np.asarray(keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value)
            if array.dtype.kind not in "biufc":
                raise UserError(
                    f"{own.key}: get_state() of {own.name} must return arrays and numbers, but {name!r} is {value!r:.60}."
                )
            # The mark restores a number as a number, and an array without dimensions as an array.
            mark = "number" if isinstance(value, int | float | complex) else "array"
            arrays[f"{PREFIX}/{number}/{mark}/{name}"] = array
    return arrays


def restore_states(callbacks: Sequence[OwnCallback], arrays: Mapping[str, np.ndarray]) -> None:
    """Restores callbacks' states from a checkpoint, and warns about callbacks that restart with a fresh state."""
    for number, own in enumerate(callbacks):
        if not own.has_state:
            log.warning(
                "%s: %s has no get_state() and set_state(), so its state begins anew: the result is not bit for bit that of an "
                "uninterrupted run", own.key, own.name,
            )  # fmt: skip
            continue
        state: dict[str, Any] = {}
        for key, array in arrays.items():
            prefix, _, rest = key.partition("/")
            place, _, rest = rest.partition("/")
            mark, _, name = rest.partition("/")
            if prefix == PREFIX and place == str(number):
                state[name] = array.item() if mark == "number" else array
        with explain(own.key, own.name, "taking its state by set_state()"):
            own.callback.set_state(state)
