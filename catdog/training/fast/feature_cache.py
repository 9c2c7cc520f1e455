"""A frozen backbone's features: a function of the image alone, so that those of unchanged images are computed once."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from catdog.training.fast.feature_extraction import build_extractor
from catdog.training.input_stream import Rows, build_eval_stream

log = logging.getLogger(__name__)

# The layer that the head begins with.
HEAD_STARTS = "dropout"


@dataclass(frozen=True)
class SplitFeatures:
    """The features of a split's images, in its order; a stream takes them as it takes images.

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
        return self.values.shape[1:]

    @property
    def dtype(self) -> str:
        return self.values.dtype.name

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns features (B, h, w, channels) and labels, int32 (B,), at indices, int64 (B,) in [0, M)."""
        return self.values[indices], self.labels[indices]


class Head(keras.Model):
    """What trains on a frozen backbone: features in, logits out. Where its steps get images, they extract features first.

    Attributes:
        extract: images (B, H, W, 3) -> features, in inference mode; a function, so that Keras does not take the backbone for
            a part of the head.
        trains_on_images: what `train_step` gets.
        tests_on_images: what `test_step` gets.
    """

    extract: Callable[[Any], Any]
    trains_on_images: bool = True
    tests_on_images: bool = True

    def train_step(self, data: Any) -> Any:
        # Labels, and where classes have weights, those of the images.
        inputs, *rest = data
        return super().train_step((self.extract(inputs) if self.trains_on_images else inputs, *rest))

    def test_step(self, data: Any) -> Any:
        inputs, *rest = data
        return super().test_step((self.extract(inputs) if self.tests_on_images else inputs, *rest))


def cut_head(model: Any, *, fast: bool = False) -> Head:
    """Returns the head of a model whose backbone is frozen; its layers and weights are the model's own.

    Args:
        model: as `catdog.training.model.build_model` returns it, with the weights that its backbone will keep.
        fast: extract by `catdog.training.fast.feature_extraction`, which is made for CPUs.
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


def keep_features(
    head: Head, train: Rows, val: Rows, *, augmented: bool, budget_mb: int, batch_size: int, replicas: int = 1
) -> tuple[Rows, Rows]:
    """Returns what the head's training and its validation read: features, computed here and now, or images.

    Validation images never change, training images do where they are augmented. On 2 cores, a frozen MobileNetV2's epoch takes
    0.73 of the CPU time with the features of 800 validation images kept, and 0.06 with those of 2,000 training images as well
    (from the steps' times in benchmarks/README.md).

    Args:
        head: told here what its steps will get.
        train: training images.
        val: validation images.
        augmented: whether training images change from epoch to epoch.
        budget_mb: memory for features; a split that does not fit is computed every epoch.
        batch_size: images per step, as they will be validated. Features are then the same bit for bit, but for those of training
            images that would else have been alone in a batch: these may differ by some 1e-6 of their size.
        replicas: devices that each batch is divided among.
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
                "the features of %s need %.0f MB, speed.keep_features_mb=%d: they are computed every epoch",
                name, needed / 2**20, budget_mb,
            )  # fmt: skip
            kept.append(split)
        else:
            left -= needed
            kept.append(_compute(head, split, batch_size, replicas))
    val, train = kept
    head.tests_on_images = not isinstance(val, SplitFeatures)
    head.trains_on_images = not isinstance(train, SplitFeatures)
    return train, val


def _compute(head: Head, split: Rows, batch_size: int, replicas: int) -> SplitFeatures:
    import tensorflow as tf

    # As the training step takes images: what was traced for one serves the other.
    extract = head.extract if hasattr(head.extract, "get_concrete_function") else tf.function(head.extract)
    # In place, batch by batch: a list of batches to be joined would need the memory twice.
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
