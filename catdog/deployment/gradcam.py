"""Grad-CAM: the parts of an image that count as evidence for a class, according to a kept model."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from catdog.training.fast.feature_extraction import find_bottlenecks, list_nodes
from catdog.training.own_models import is_graph
from catdog.training.views import list_views

BATCH = 32
# If probabilities differ by more than this, the layers called one by one do not compute the same function as the model.
TOLERANCE = 0.05


class NoMapError(Exception):
    """Grad-CAM cannot be computed for this model; the message says why, in terms that a user knows."""


class Explainer:
    """Grad-CAM of a model, which is cut in two once, for any number of images. Threads may share it.

    Where the model averages the answers of several views, such as an image and its mirror image, or the members of an ensemble, the
    map is the mean of theirs.

    Assumes that everything after the feature maps is the head. What early layers respond to is not shown.

    Args:
        model: a kept model, uint8 (B, H, W, 3) in [0, 255] -> probabilities (B, C).

    Raises:
        NoMapError: the model has no convolution, has no feature maps that everything passes through, or Keras does not run on
            TensorFlow.

    Source: Selvaraju et al. (2017), "Grad-CAM: visual explanations from deep networks via gradient-based localization", ICCV.
    """

    def __init__(self, model: Any) -> None:
        import keras

        if keras.backend.backend() != "tensorflow":
            raise NoMapError(f"Grad-CAM needs Keras' TensorFlow backend, and this is {keras.backend.backend()}")
        self._views = [(view, *split_model(view.model)) for view in list_views(model)]

    def compute(self, images: np.ndarray, classes: np.ndarray, side: int) -> np.ndarray:
        """Returns Grad-CAM maps; arguments, result and exceptions are those of `compute_cams`."""
        found = []
        for view, extract, finish in self._views:
            seen = images[:, :, ::-1] if view.mirrored else images
            _check(view.model, extract, finish, seen[:1])
            cams = _cams_of_view(extract, finish, seen, classes, side)
            found.append(cams[..., ::-1] if view.mirrored else cams)
        return found[0] if len(found) == 1 else _average(found, side)


def compute_cams(model: Any, images: np.ndarray, classes: np.ndarray, side: int) -> np.ndarray:
    """Returns Grad-CAM maps: where each image contains evidence for each of some classes.

    The last convolution's feature maps are weighted by the mean gradient of the class's logit and summed; negative values are set
    to 0. Each map is divided by its own maximum: maps show where the evidence is, not how strong it is, so their strengths cannot
    be compared.

    Args:
        model: as for `Explainer`, which spares the preparation where maps are computed again and again.
        images: uint8 (N, H, W, 3) in [0, 255].
        classes: int (N, K), the classes of interest for each image.
        side: the largest height and width of a map; larger feature maps are averaged down to it.

    Returns:
        float32 (N, K, h, w) in [0, 1], all 0 if there is no evidence for the class.

    Raises:
        NoMapError: as `Explainer` does.
    """
    return Explainer(model).compute(images, classes, side)


def _cams_of_view(
    extract: Callable[[Any], Any], finish: Callable[[Any], Any], images: np.ndarray, classes: np.ndarray, side: int
) -> np.ndarray:
    found = []
    for start in range(0, len(images), BATCH):
        found.append(_cams_of_batch(extract, finish, images[start : start + BATCH], classes[start : start + BATCH]))
    return _shrink(np.concatenate(found), side)


def _average(found: Sequence[np.ndarray], side: int) -> np.ndarray:
    """Returns the mean of several views' maps, in the size of the largest."""
    import cv2

    height, width = max(cams.shape[2:] for cams in found)
    scaled = [
        cams if cams.shape[2:] == (height, width)
        else np.stack([[cv2.resize(cam, (width, height)) for cam in maps] for maps in cams])
        for cams in found
    ]  # fmt: skip
    return _shrink(np.mean(scaled, axis=0), side)


def split_model(model: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Returns a kept model as two functions: pixels -> the last convolution's feature maps, and feature maps -> logits.

    Raises:
        NoMapError: it has no convolution, or is neither a chain of layers nor a graph with feature maps that all must pass.
    """
    layers = _open_last(_flatten(model))
    last = max((place for place, layer in enumerate(layers) if _convolves(layer)), default=None)
    if last is None:
        raise NoMapError("the model has no convolution")
    # catdog trains with the ReLU after the max-pooling, which is the same function. The feature maps are the ReLU's output.
    behind = last + 1
    while behind < len(layers) and _kind(layers[behind]) in ("Dropout", "MaxPooling2D"):
        behind += 1
    if behind < len(layers) and _kind(layers[behind]) == "ReLU":
        layers.insert(last + 1, layers.pop(behind))
    # Element-wise layers that follow belong to the feature maps, above all their activation.
    while last + 1 < len(layers) and _kind(layers[last + 1]) in ("ReLU", "Activation", "BatchNormalization"):
        last += 1
    # A confident model's probabilities are saturated and have almost no gradient, but its logits do.
    end = len(layers) - (_kind(layers[-1]) == "Softmax")
    return _chain(layers[: last + 1]), _chain(layers[last + 1 : end])


def _flatten(model: Any) -> list[Any]:
    """Returns a model's layers in order. A nested model is replaced by its layers if it is a chain too."""
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
    """Returns the layers; if the last nested model is a graph that ends in logits, it is cut in two after its feature maps."""
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
    # As a model of its own, it ends the search for layers that belong to the feature maps.
    rest = keras.Model(maps, graph.outputs[0])
    return [*layers[:place], first, rest, *layers[place + 1 :]]


def _find_maps(graph: Any) -> Any:
    """Returns the last feature maps before pooling that every path to a graph's output passes through, or None."""
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
    """Whether a model is a sequence of layers, each called once."""
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
            # Some layers, such as Rescaling, have no argument `training`.
            values = layer(values, training=False) if getattr(layer, "_call_has_training_arg", False) else layer(values)
        return values

    return call


def _check(model: Any, extract: Callable[[Any], Any], finish: Callable[[Any], Any], image: np.ndarray) -> None:
    """Raises NoMapError unless the two halves together compute the same as the model."""
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
        # Keras has no API for gradients.
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
