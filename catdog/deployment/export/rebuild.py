"""Rebuilds a kept model in float32: other runtimes have no kernels for bfloat16, and hardly any for float16."""

from typing import Any

import keras

from catdog.deployment.export.conversion import name_error
from catdog.system.errors import UserError

HALF = ("bfloat16", "float16")
# The parts of a Keras config that say which type a tensor has when it enters the model.
TENSORS = ("InputLayer", "__keras_tensor__")


def rebuild_in_float32(model: Any, *, float_pixels: bool = False) -> Any:
    """Returns a copy of a model that computes in float32 throughout, with the same weights.

    Weights are float32 in every mixed precision, so nothing is rounded; only what is computed with them is more precise.

    Args:
        model: uint8 (B, H, W, 3) in [0, 255] -> float32 probabilities (B, classes).
        float_pixels: whether the copy takes float32 pixels, (B, H, W, 3) in [0, 255], instead of uint8.

    Raises:
        UserError: Keras cannot build the model again from its config.
    """
    policies = {layer.dtype_policy.name for layer in model._flatten_layers()}
    if policies <= {"float32", "uint8"} and not float_pixels:
        return model
    custom = {type(layer).__name__: type(layer) for layer in model._flatten_layers() if not _is_own_of_keras(layer)}
    try:
        with keras.saving.custom_object_scope(custom):
            fresh = type(model).from_config(_convert(model.get_config(), float_pixels))
        fresh.set_weights(model.get_weights())
    except Exception as error:
        # The layers may be the user's, and raise anything.
        raise UserError(
            f"model: it computes in {', '.join(sorted(policies - {'float32', 'uint8'})) or 'float32'} and cannot be built again in "
            f"float32, as an export needs it: {name_error(error)}. A layer of your own needs get_config() with all arguments of "
            "its __init__, dtype included; or train the model with trainer.precision=float32."
        ) from error
    for layer in fresh._flatten_layers():
        if hasattr(layer, "finalize_state"):
            # A Normalization layer caches values derived from its weights.
            layer.finalize_state()
    return fresh


def _is_own_of_keras(layer: Any) -> bool:
    return type(layer).__module__.partition(".")[0] == "keras"


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
