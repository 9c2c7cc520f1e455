"""Models whose answer is a mean of probabilities: over the image and its mirror image, or over the members of an ensemble.

Probabilities are averaged, not logits: a logit has no upper bound, so one view that is very sure, and wrong, could outvote all
others. Each answer then counts as the probability that it claims, and the cross-entropy of the mean is never more than the mean of
the cross-entropies.

They are graphs of Keras' own layers, so they load without catdog.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from catdog.training.own_models import is_graph

WIDTH = 2


class View(NamedTuple):
    """One of the answers that a model averages.

    Attributes:
        model: uint8 (B, H, W, 3) -> float32 probabilities (B, classes).
        mirrored: whether it gets the mirror image.
    """

    model: Any
    mirrored: bool


def average_flips(model: Any, name: str) -> Any:
    """Returns a model that answers with the mean of a model's probabilities for the image and for its mirror image.

    Args:
        model: uint8 (B, H, W, 3) in [0, 255] -> float32 probabilities (B, classes).
        name: the name of the new model in Keras.
    """
    pixels = keras.Input(model.input_shape[1:], dtype="uint8", name="pixels")
    return _average(pixels, [model(pixels), model(keras.ops.flip(pixels, axis=WIDTH))], name)


def average_members(members: Sequence[Any], name: str) -> Any:
    """Returns a model that answers with the mean of several models' probabilities.

    Args:
        members: two or more, uint8 (B, H, W, 3) in [0, 255] -> float32 probabilities (B, classes), all of one image size.
        name: the name of the new model in Keras.
    """
    pixels = keras.Input(members[0].input_shape[1:], dtype="uint8", name="pixels")
    # New models of the same layers: the names of kept models are all the same.
    parts = [keras.Model(one.inputs[0], one.outputs[0], name=f"member_{number}") for number, one in enumerate(members)]
    return _average(pixels, [part(pixels) for part in parts], name)


def _average(pixels: Any, answers: Sequence[Any], name: str) -> Any:
    mean = keras.layers.Average(dtype="float32", name="probabilities")(list(answers))
    return keras.Model(pixels, mean, name=name)


def list_views(model: Any) -> list[View]:
    """Returns the answers that a saved model averages; the model itself if it averages none."""
    parts = find_parts(model)
    if not parts:
        return [View(model, False)]
    return [View(inner.model, inner.mirrored != part.mirrored) for part in parts for inner in list_views(part.model)]


def find_parts(model: Any) -> list[View]:
    """Returns the models whose answers a saved model averages, which may average themselves; empty if it averages none."""
    if not is_graph(model):
        return []
    end = model.outputs[0]._keras_history
    if not isinstance(end.operation, keras.layers.Average):
        return []
    parts = []
    for answer in end.operation._inbound_nodes[end.node_index].input_tensors:
        part, place, _ = answer._keras_history
        if not isinstance(part, keras.Model):
            return []
        (taken,) = part._inbound_nodes[place].input_tensors
        before, place, _ = taken._keras_history
        # Keras has no public name for the operation that `keras.ops.flip` makes.
        mirrored = type(before).__name__ == "Flip" and before.axis == WIDTH
        if mirrored:
            (taken,) = before._inbound_nodes[place].input_tensors
        if taken is not model.inputs[0]:
            return []
        parts.append(View(part, mirrored))
    return parts
