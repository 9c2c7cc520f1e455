"""Grad-CAM: which parts of an image speak for a class, in the eyes of a kept model."""

from collections.abc import Callable
from typing import Any

import numpy as np

from catdog.training.fast.feature_extraction import find_bottlenecks, list_nodes
from catdog.training.own_models import is_graph

BATCH = 32
# Relative to the largest logit: beyond it, the layers called one by one are not the model.
TOLERANCE = 0.05


class NoMapError(Exception):
    """Grad-CAM cannot be computed for this model; the text says why, in a user's words."""


def compute_cams(model: Any, images: np.ndarray, classes: np.ndarray, side: int) -> np.ndarray:
    """Returns where each image speaks for each of some classes.

    The last convolution's feature maps are weighted by the mean gradient of the class' logit, summed, and what speaks against
    the class is cut off. Each map is divided by its own maximum: maps show where, not how strongly, and cannot be compared in
    strength.

    Assumes that what follows the feature maps is the head; what an early layer sees is not shown.

    Args:
        model: a kept model, uint8 (B, H, W, 3) in [0, 255] -> probabilities (B, C).
        images: uint8 (N, H, W, 3) in [0, 255].
        classes: int (N, K), the classes of interest of each image.
        side: the maps' largest height and width; larger feature maps are averaged down to it.

    Returns:
        float32 (N, K, h, w) in [0, 1], all 0 where nothing speaks for the class.

    Raises:
        NoMapError: the model has no convolution, has no feature maps that everything passes through, or Keras runs on another
            backend than TensorFlow.

    Source: Selvaraju et al. (2017), "Grad-CAM: visual explanations from deep networks via gradient-based localization", ICCV.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise NoMapError(f"Grad-CAM needs Keras' TensorFlow backend, and this is {keras.backend.backend()}")
    extract, finish = split_model(model)
    _check(model, extract, finish, images[:1])
    found = []
    for start in range(0, len(images), BATCH):
        found.append(_cams_of_batch(extract, finish, images[start : start + BATCH], classes[start : start + BATCH]))
    return _shrink(np.concatenate(found), side)


def split_model(model: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Returns a kept model in two: pixels -> the last convolution's feature maps, and from there to logits.

    Raises:
        NoMapError: it has no convolution, or is neither a chain of layers nor a graph with feature maps that all must pass.
    """
    layers = _open_last(_flatten(model))
    last = max((place for place, layer in enumerate(layers) if _convolves(layer)), default=None)
    if last is None:
        raise NoMapError("the model has no convolution")
    # catdog trains with the ReLU behind the max-pooling, which is the same function; the maps are what it leaves.
    behind = last + 1
    while behind < len(layers) and _kind(layers[behind]) in ("Dropout", "MaxPooling2D"):
        behind += 1
    if behind < len(layers) and _kind(layers[behind]) == "ReLU":
        layers.insert(last + 1, layers.pop(behind))
    # What follows position by position belongs to the maps: their activation, above all.
    while last + 1 < len(layers) and _kind(layers[last + 1]) in ("ReLU", "Activation", "BatchNormalization"):
        last += 1
    # The probabilities of a sure model are flat, and so have no gradient; its logits do.
    end = len(layers) - (_kind(layers[-1]) == "Softmax")
    return _chain(layers[: last + 1]), _chain(layers[last + 1 : end])


def _flatten(model: Any) -> list[Any]:
    """Returns a model's layers in order, those of models inside it in their place if they are a chain as well."""
    import keras

    layers: list[Any] = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if isinstance(layer, keras.Model) and _is_chain(layer):
            layers += _flatten(layer)
        else:
            layers.append(layer)
    return layers


def _open_last(layers: list[Any]) -> list[Any]:
    """Returns the layers with the last model among them that is a graph down to logits in two: to its feature maps, and on."""
    import keras

    place = max((place for place, layer in enumerate(layers) if _convolves(layer)), default=None)
    if place is None or not isinstance(layers[place], keras.Model):
        return layers
    graph = layers[place]
    if not is_graph(graph):
        raise NoMapError(f"{type(graph).__name__} is code whose layers Keras does not know")
    if len(graph.outputs[0].shape) == 4:
        return layers
    maps = _find_maps(graph)
    if maps is None:
        raise NoMapError("the model has no feature maps that everything passes through")
    first = keras.Model(graph.inputs[0], maps)
    # With a linear layer behind, which ends what belongs to the maps, whatever comes next.
    rest = keras.Model(maps, graph.outputs[0])
    return [*layers[:place], first, rest, *layers[place + 1 :]]


def _find_maps(graph: Any) -> Any:
    """Returns the last feature maps of a graph that all must pass on the way to its output, before they are pooled, or None."""
    nodes = list_nodes(graph)
    convolved = False
    found = None
    for node, passes_all in zip(nodes, find_bottlenecks(nodes), strict=True):
        operation = node.operation
        if hasattr(operation, "_flatten_layers") and _convolves(operation):
            convolved, found = True, None
        pools = any(word in _kind(operation) for word in ("Pooling", "Dropout", "Reshape", "Flatten"))
        if passes_all and convolved and not pools and len(node.outputs[0].shape) == 4:
            found = node.outputs[0]
    return found


def _is_chain(model: Any) -> bool:
    """Whether a model is layers one after the other, each called once."""
    import keras

    if not is_graph(model):
        return False
    if isinstance(model, keras.Sequential):
        return True
    called = [node for node in list_nodes(model) if node.input_tensors]
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    single = all(len(node.input_tensors) == 1 and len(node.outputs) == 1 for node in called)
    return single and [node.operation for node in called] == layers


def _convolves(layer: Any) -> bool:
    return any("Conv2D" in _kind(one) for one in layer._flatten_layers())


def _kind(layer: Any) -> str:
    return type(layer).__name__


def _chain(layers: list[Any]) -> Callable[[Any], Any]:
    def call(values: Any) -> Any:
        for layer in layers:
            # A layer such as Rescaling takes no such argument.
            values = layer(values, training=False) if getattr(layer, "_call_has_training_arg", False) else layer(values)
        return values

    return call


def _check(model: Any, extract: Callable[[Any], Any], finish: Callable[[Any], Any], image: np.ndarray) -> None:
    """Raises NoMapError unless the two halves make the model."""
    from keras import ops

    try:
        maps = extract(image)
        found = ops.convert_to_numpy(ops.softmax(ops.cast(finish(maps), "float32")))
    except (TypeError, ValueError) as error:
        raise NoMapError("the model is not a chain of layers") from error
    expected = ops.convert_to_numpy(model(image, training=False))
    if len(maps.shape) != 4 or found.shape != expected.shape or np.abs(found - expected).max() > TOLERANCE:
        raise NoMapError("the model is not a chain of layers up to its probabilities")


def _cams_of_batch(
    extract: Callable[[Any], Any], finish: Callable[[Any], Any], images: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    import tensorflow as tf
    from keras import ops

    maps = extract(images)
    cams = []
    for column in classes.T:
        # Keras has no gradients of its own.
        with tf.GradientTape() as tape:
            tape.watch(maps)
            logits = ops.cast(finish(maps), "float32")
            score = ops.sum(ops.take_along_axis(logits, ops.convert_to_tensor(column[:, None], "int32"), axis=1))
        weights = ops.mean(ops.cast(tape.gradient(score, maps), "float32"), axis=(1, 2), keepdims=True)
        cams.append(ops.convert_to_numpy(ops.relu(ops.sum(weights * ops.cast(maps, "float32"), axis=-1))))
    return np.stack(cams, axis=1)


def _shrink(cams: np.ndarray, side: int) -> np.ndarray:
    """Returns maps of at most `side` by `side`, each with maximum 1 or all 0."""
    import cv2

    height, width = (min(side, size) for size in cams.shape[2:])
    flat = cams.reshape(-1, *cams.shape[2:]).astype(np.float32)
    if (height, width) != cams.shape[2:]:
        flat = np.stack([cv2.resize(cam, (width, height), interpolation=cv2.INTER_AREA) for cam in flat])
    peaks = flat.max(axis=(1, 2), keepdims=True)
    flat = np.divide(flat, peaks, out=np.zeros_like(flat), where=peaks > 1e-9)
    return flat.reshape(*cams.shape[:2], height, width)
