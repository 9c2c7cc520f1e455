"""Keeps a frozen backbone's features: they depend only on the image, so unchanged images need them computed only once."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from catdog.training.fast.feature_extraction import build_extractor, find_bottlenecks, list_nodes
from catdog.training.input_stream import Rows, build_eval_stream

log = logging.getLogger(__name__)

# The first layer of the head.
HEAD_STARTS = "dropout"
# Layers whose statistics change in training if they train.
STATEFUL = ("BatchNormalization", "FusedNorm", "SpectralNormalization")


@dataclass(frozen=True)
class SplitFeatures:
    """The features of a split's images, in the split's order; a stream can read them like images.

    Attributes:
        values: float32, float16 or bfloat16 (M, h, w, channels), as the backbone computes them.
        labels: int32 (M,), class indices.
    """

    values: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image's features: (h, w, channels)."""
        return self.values.shape[1:]

    @property
    def dtype(self) -> str:
        """The name of the features' type."""
        return self.values.dtype.name

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns features (B, h, w, channels) and labels, int32 (B,), at indices, int64 (B,) in [0, M)."""
        return self.values[indices], self.labels[indices]


class Head(keras.Model):
    """The part of a model that trains on frozen layers: features in, logits out. Given images, it extracts features first.

    It is the model's head, on a frozen backbone, or the part of the backbone that trains and the head.

    Attributes:
        extract: images (B, H, W, 3) -> features, in inference mode; a function, because Keras would treat a model as a part of
            the head.
        trains_on_images: whether `train_step` gets images instead of features.
        tests_on_images: whether `test_step` gets images instead of features.
    """

    extract: Callable[[Any], Any]
    trains_on_images: bool = True
    tests_on_images: bool = True

    def train_step(self, data: Any) -> Any:
        """Trains on one batch of images or features, and returns Keras' metrics."""
        # The rest: labels and, if classes have weights, the weights of the images.
        inputs, *rest = data
        return super().train_step((self.extract(inputs) if self.trains_on_images else inputs, *rest))

    def test_step(self, data: Any) -> Any:
        """Evaluates one batch of images or features, and returns Keras' metrics."""
        inputs, *rest = data
        return super().test_step((self.extract(inputs) if self.tests_on_images else inputs, *rest))


def cut_head(model: Any, *, fast: bool = False) -> Head:
    """Returns the head of a model with a frozen backbone; it shares its layers and weights with the model.

    Args:
        model: the model that `catdog.training.model.build_model` returned, with its backbone's weights loaded.
        fast: extract features with `catdog.training.fast.feature_extraction`, which is made for CPUs.
    """
    features = model.get_layer(HEAD_STARTS).input
    if fast:
        extract = build_extractor(model.get_layer("preprocessing"), features._keras_history.operation)
    else:
        extractor = keras.Model(model.input, features)

        def extract(images: Any) -> Any:
            return extractor(images, training=False)

    head = Head(features, model.output, name=f"{model.name}_head")
    head.extract = extract
    return head


def cut_trained(model: Any, *, fast: bool = False) -> Head | None:
    """Returns what trains of a model with a partly frozen backbone, the backbone's upper part and the head.

    It shares its layers and weights with the model. None: there are no feature maps that only frozen layers made and that all
    layers that train depend on.

    Args:
        model: as in `cut_head`.
        fast: as in `cut_head`.
    """
    features = model.get_layer(HEAD_STARTS).input
    backbone = features._keras_history.operation
    boundary = find_boundary(backbone)
    if boundary is None:
        return None
    preprocessing = model.get_layer("preprocessing")
    lower = keras.Model(backbone.inputs[0], boundary, name=f"{backbone.name}_frozen")
    upper = keras.Model(boundary, backbone.outputs[0], name=f"{backbone.name}_trained")
    rest = keras.Model(features, model.output, name=f"{model.name}_head")
    if fast:
        extract = build_extractor(preprocessing, lower)
    else:

        def extract(images: Any) -> Any:
            return lower(preprocessing(images), training=False)

    inputs = keras.Input(boundary.shape[1:], dtype=boundary.dtype, name="features")
    head = Head(inputs, rest(upper(inputs)), name=f"{model.name}_trained")
    head.extract = extract
    return head


def find_boundary(backbone: Any) -> Any:
    """Returns the last feature maps of a backbone that depend only on the image, and that all later layers depend on, or None.

    The layers before them do not train, and do the same in training as in inference mode: none of them draws random numbers.

    Args:
        backbone: functional or sequential model of Keras' own layers.
    """
    boundary = None
    nodes = list_nodes(backbone)
    for node, passes_all in zip(nodes, find_bottlenecks(nodes), strict=True):
        layer = node.operation
        if not isinstance(layer, keras.Layer):
            continue
        if layer.trainable_variables or any(part._seed_generators for part in layer._flatten_layers()):
            break
        # A batch norm without scale and offset has no variables that train, but statistics that change.
        if any(part.trainable and type(part).__name__ in STATEFUL for part in layer._flatten_layers()):
            break
        if passes_all and node.input_tensors and len(node.outputs[0].shape) == 4:
            boundary = node.outputs[0]
    return boundary


def keep_features(
    head: Head, train: Rows, val: Rows, *, augmented: bool, budget_mb: int, batch_size: int, replicas: int = 1
) -> tuple[Rows, Rows]:
    """Returns the sources for training and validation of the head: features, computed now, or images.

    Validation images never change; training images change if they are augmented. On 2 cores, a frozen MobileNetV2's epoch takes
    0.73 of the CPU time with the features of 800 validation images kept, and 0.06 with those of 2,000 training images as well
    (from the steps' times in benchmarks/README.md).

    Args:
        head: its attributes `trains_on_images` and `tests_on_images` are set.
        train: training images.
        val: validation images.
        augmented: whether training images change from epoch to epoch.
        budget_mb: memory for features; the features of a split that does not fit are computed every epoch.
        batch_size: images per step, the same as in validation. Features are then the same bit for bit. The exception are training
            images that would otherwise have been alone in a batch: theirs may differ by about 1e-6 of their size.
        replicas: number of devices that share each batch.
    """
    import tensorflow as tf

    bytes_each = int(np.prod(head.input.shape[1:])) * tf.as_dtype(head.input.dtype).size
    left = budget_mb * 2**20
    kept = []
    for name, split, changes in (("val", val, False), ("train", train, augmented)):
        needed = len(split) * bytes_each
        if changes:
            kept.append(split)
        elif needed > left:
            log.info(
                "the features of %s need %.0f MB, more than is left of speed.keep_features_mb=%d: they are computed every epoch",
                name, needed / 2**20, budget_mb,
            )  # fmt: skip
            kept.append(split)
        else:
            left -= needed
            kept.append(compute_features(head, split, batch_size, replicas))
    val, train = kept
    head.tests_on_images = not isinstance(val, SplitFeatures)
    head.trains_on_images = not isinstance(train, SplitFeatures)
    return train, val


def compute_features(head: Head, split: Rows, batch_size: int, replicas: int = 1) -> SplitFeatures:
    """Returns the features of every image of a split, computed in batches as in training."""
    import tensorflow as tf

    # The same function as in the training step, so that it is traced only once.
    extract = head.extract if hasattr(head.extract, "get_concrete_function") else tf.function(head.extract)
    # Written in place, batch by batch: joining a list of batches would need twice the memory.
    values: np.ndarray | None = None
    labels = np.empty(len(split), np.int32)
    start = 0
    for images, batch_labels in build_eval_stream(split, batch_size=batch_size, replicas=replicas):
        batch = extract(images).numpy()
        if values is None:
            values = np.empty((len(split), *batch.shape[1:]), batch.dtype)
        values[start : start + len(batch)] = batch
        labels[start : start + len(batch)] = batch_labels.numpy()
        start += len(batch)
    assert values is not None
    return SplitFeatures(values, labels)
