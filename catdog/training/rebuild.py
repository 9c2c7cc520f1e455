"""Rebuilds a model in float32: CPUs are slow in float16, and other runtimes have no kernels for bfloat16."""

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from catdog.system.errors import UserError
from catdog.training.own_code import quote_error
from catdog.training.precision import use_policy

HALF = ("bfloat16", "float16")
# The parts of a Keras config that say which type a tensor has when it enters the model.
TENSORS = ("InputLayer", "__keras_tensor__")


def rebuild_in_float32(model: Any, *, float_pixels: bool = False) -> Any:
    """Returns a copy of a model that computes in float32 throughout, with the same weights; itself if it does so already.

    Weights are float32 in every mixed precision, so nothing is rounded; only what is computed with them is more precise.

    Args:
        model: a graph of layers.
        float_pixels: whether the copy takes float32 pixels instead of uint8.

    Raises:
        UserError: Keras cannot build the model again from its config.
    """
    policies = {layer.dtype_policy.name for layer in model._flatten_layers()}
    if policies <= {"float32", "uint8"} and not float_pixels:
        return model
    try:
        # A layer of the user's may not say its precision in its config; it then has the one that is in force.
        with use_policy("float32"), keras.saving.custom_object_scope(dict(_find_own_objects(model))):
            fresh = type(model).from_config(_convert(model.get_config(), float_pixels))
        fresh.set_weights(model.get_weights())
    except Exception as error:
        # The layers may be the user's, and raise anything.
        half = sorted(policies - {"float32", "uint8"})
        why = f"computes in {', '.join(half)} and cannot be built again in float32" if half else "cannot be built again"
        other = "train the model with trainer.precision=float32" if half else "leave int8 out"
        raise UserError(
            f"model: it {why}: {type(error).__name__}: {quote_error(error)}. A layer of your own needs get_config() with all "
            f"arguments of its __init__; or {other}."
        ) from error
    finalize_states(fresh._flatten_layers())
    return fresh


def finalize_states(layers: Iterable[Any]) -> None:
    """Lets layers whose weights were set compute what they derive from them: a Normalization layer caches such values."""
    for layer in layers:
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def _find_own_objects(model: Any) -> Iterator[tuple[str, Any]]:
    """Yields the classes and functions that are not Keras' own, by the names that Keras saves: layers, and what they hold.

    They are taken from the model itself: after it was loaded, their modules may not be importable any more.
    """
    for layer in model._flatten_layers():
        for value in (layer, *vars(layer).values()):
            if not (hasattr(value, "get_config") or inspect.isfunction(value)):
                continue
            kind = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
            if kind.__module__.partition(".")[0] != "keras":
                yield keras.saving.get_registered_name(kind), kind


def _convert(config: Any, float_pixels: bool) -> Any:
    """Returns a Keras config in which all policies and tensors are float32; where pixels stay whole numbers, their type stays."""
    if isinstance(config, list | tuple):
        return type(config)(_convert(item, float_pixels) for item in config)
    if not isinstance(config, dict):
        return config
    found = {key: _convert(value, float_pixels) for key, value in config.items()}
    if found.get("class_name") == "DTypePolicy":
        found["config"] = {**found["config"], "name": "float32"}
    kind = found.get("dtype")
    if isinstance(kind, str) and kind.removeprefix("mixed_") in HALF:
        found["dtype"] = "float32"
    if float_pixels and found.get("class_name") in TENSORS and found["config"].get("dtype") == "uint8":
        found["config"] = {**found["config"], "dtype": "float32"}
    return found
