"""The user's own Keras callbacks: built from the config, with a state that checkpoints keep."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from catdog.config.schema import TrainerConfig, list_callbacks
from catdog.system.errors import UserError
from catdog.training.own_code import call, explain, load_class

log = logging.getLogger(__name__)

PREFIX = "callback"


@dataclass(frozen=True)
class OwnCallback:
    """A callback of the user, and what the config calls it.

    It has a state if it has the methods `get_state()`, which returns a dict of arrays and numbers, and `set_state(state)`,
    which takes that dict when an interrupted run goes on, after `on_train_begin`.

    Attributes:
        key: its config key.
        name: NAME of Keras, or module:class.
        callback: the callback.
    """

    key: str
    name: str
    callback: keras.callbacks.Callback

    @property
    def has_state(self) -> bool:
        return hasattr(self.callback, "get_state") and hasattr(self.callback, "set_state")


def build_callbacks(config: TrainerConfig) -> list[OwnCallback]:
    """Returns the callbacks that `trainer.callbacks` names, in order.

    Raises:
        UserError: no such class, or options that it does not take.
    """
    built = []
    for key, name, options in list_callbacks(config.callbacks):
        kind = load_class(key, name, keras.callbacks, keras.callbacks.Callback)
        built.append(OwnCallback(key, name, call(key, name, kind, {}, options, f"the other keys of {key}")))
    return built


def capture_states(callbacks: Sequence[OwnCallback]) -> dict[str, np.ndarray]:
    """Returns the states of callbacks as arrays for a checkpoint, each by a name that `restore_states` knows.

    Raises:
        UserError: a state that is no dict of arrays and numbers.
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
            # A number comes back as a number: an array of no dimensions is told apart by this mark.
            mark = "number" if isinstance(value, int | float | complex) else "array"
            arrays[f"{PREFIX}/{number}/{mark}/{name}"] = array
    return arrays


def restore_states(callbacks: Sequence[OwnCallback], arrays: Mapping[str, np.ndarray]) -> None:
    """Gives callbacks the states that a checkpoint has; warns of those that begin anew."""
    for number, own in enumerate(callbacks):
        if not own.has_state:
            log.warning(
                "%s: %s has no get_state() and set_state(), so its state begins anew: the result is not that of a run that was "
                "never interrupted, bit for bit", own.key, own.name,
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
