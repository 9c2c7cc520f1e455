"""Replaces catdog's faster layers in a model with Keras' own, so that a saved model can be loaded without catdog."""

from typing import Any

import keras
import numpy as np

from catdog.training.fast.dropout import FastDropout
from catdog.training.fast.fused_norm import FusedNorm
from catdog.training.fast.scaled_convolution import SCALED, restore_convolution

FAST = (FastDropout, FusedNorm, *SCALED.values())


def replace_fast_layers(model: Any) -> Any:
    """Returns a copy of a model with Keras' own layers instead of the faster ones; it shares all other layers with the model.

    Args:
        model: functional, or sequential without faster layers.
    """
    weights: dict[str, list[np.ndarray]] = {}

    def swap(layer: Any) -> Any:
        if isinstance(layer, keras.Model) and any(isinstance(part, FAST) for part in layer._flatten_layers()):
            return replace_fast_layers(layer)
        if isinstance(layer, FastDropout):
            return keras.layers.Dropout.from_config(layer.get_config())
        if isinstance(layer, FusedNorm):
            weights[layer.name] = layer.get_weights()
            return keras.layers.BatchNormalization.from_config(layer.get_config())
        if type(layer) in SCALED.values():
            plain, weights[layer.name] = restore_convolution(layer)
            return plain
        return layer

    copy = keras.models.clone_model(model, clone_function=swap)
    for name, values in weights.items():
        copy.get_layer(name).set_weights(values)
    return copy
