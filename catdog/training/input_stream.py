"""Streams of batches: an endless one for training, in an order fixed by seed and epoch, and one that evaluates each image once."""

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

    from catdog.training.mixing import Mix


class Rows(Protocol):
    """The source of a stream: arrays of one shape and type, such as images, each with a label."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""

    @property
    def dtype(self) -> str:
        """The name of the rows' type, which NumPy and TensorFlow share."""

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows and labels, int32 (B,), at indices, int64 (B,)."""


def order_epoch(count: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of an epoch: int64 (count,), a permutation that depends only on seed and epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def count_steps(count: int, batch_size: int, replicas: int = 1) -> int:
    """Returns the number of batches that the streams below make of one pass over `count` images."""
    full = _count_full(count, batch_size, replicas)
    return full + (full * batch_size < count)


def _count_full(count: int, batch_size: int, replicas: int) -> int:
    full, rest = divmod(count, batch_size)
    # If the last batch had fewer images than there are devices, one device would get none, which TensorFlow's convolutions
    # refuse. These images join the batch before.
    return full - 1 if 0 < rest < replicas and full else full


def build_train_stream(
    split: Rows,
    *,
    batch_size: int,
    seed: int,
    replicas: int = 1,
    first_epoch: int = 1,
    augment: Callable[[Any, Any], Any] | None = None,
    mix: "Mix | None" = None,
    classes: int = 0,
) -> "tf.data.Dataset":
    """Returns an endless stream of batches (images, labels), `count_steps` of them per epoch.

    Each epoch's order comes from `order_epoch`, not from `Dataset.shuffle`: it needs no buffer of images, and an
    interrupted run can resume at any epoch. The last batch of an epoch holds what is left; no batch spans two epochs.

    Args:
        split: the images of one split, or their features.
        batch_size: images per batch.
        seed: the run's seed.
        replicas: number of devices that share each batch.
        first_epoch: epoch of the first batch, from 1.
        augment: maps images uint8 (B, H, W, 3) and the number of the batch since epoch 1, an int64 scalar from 0, to images
            in [0, 255]; None leaves the images as they are.
        mix: mixes augmented images, and their labels, which become float32 (B, classes); None leaves both as they are.
        classes: number of classes; only needed for mixing.
    """
    import tensorflow as tf

    count = len(split)

    def order(epoch: Any) -> np.ndarray:
        return order_epoch(count, seed, int(epoch))

    def expand(epoch: "tf.Tensor") -> "tf.data.Dataset":
        rows = tf.numpy_function(order, [epoch], tf.int64)
        return _batch(tf.data.Dataset.from_tensor_slices(tf.ensure_shape(rows, [count])), count, batch_size, replicas)

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    stream = _gather(epochs.flat_map(expand), split)
    first_batch = (first_epoch - 1) * count_steps(count, batch_size, replicas)
    if augment is not None:
        # One call at a time: random layers have a state, so with parallel calls the result would depend on timing.
        stream = stream.enumerate(start=first_batch).map(
            lambda batch, pair: (augment(pair[0], batch), pair[1]), num_parallel_calls=1
        )
    if mix is not None:
        stream = stream.enumerate(start=first_batch).map(_wrap_mix(mix, classes), num_parallel_calls=1)
    return _finish(stream, split)


def _wrap_mix(mix: "Mix", classes: int) -> Callable[[Any, Any], Any]:
    import tensorflow as tf

    def apply(batch: Any, pair: Any) -> Any:
        images, labels = pair
        mixed, targets = tf.numpy_function(mix, [images, labels, batch], (images.dtype, tf.float32))
        return tf.ensure_shape(mixed, images.shape), tf.ensure_shape(targets, (None, classes))

    return apply


def build_eval_stream(split: Rows, *, batch_size: int, replicas: int = 1, one_hot: int = 0) -> "tf.data.Dataset":
    """Returns a stream of batches (images or features, labels) with every image of the split once, in the manifest's order.

    Args:
        split: the images of one split, or their features.
        batch_size: images per batch.
        replicas: number of devices that share each batch.
        one_hot: number of classes, to make the labels float32 (B, classes), as mixing does in training; 0 leaves them int32 (B,).
    """
    import tensorflow as tf

    count = len(split)
    stream = _gather(_batch(tf.data.Dataset.range(count), count, batch_size, replicas), split)
    if one_hot:
        stream = stream.map(lambda images, labels: (images, tf.one_hot(labels, one_hot)))
    return _finish(stream, split)


def _batch(rows: "tf.data.Dataset", count: int, batch_size: int, replicas: int) -> "tf.data.Dataset":
    full = _count_full(count, batch_size, replicas) * batch_size
    batches = rows.take(full).batch(batch_size)
    return batches.concatenate(rows.skip(full).batch(count - full)) if full < count else batches


def _gather(rows: "tf.data.Dataset", split: Rows) -> "tf.data.Dataset":
    import tensorflow as tf

    shape, dtype = (None, *split.shape), tf.as_dtype(split.dtype)
    # TensorFlow keeps a `numpy_function` until the process ends. The weak reference lets go of hundreds of megabytes of features.
    source = weakref.ref(split)

    def gather(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return source().gather(indices)  # type: ignore[union-attr]

    def load(indices: "tf.Tensor") -> tuple["tf.Tensor", "tf.Tensor"]:
        images, labels = tf.numpy_function(gather, [indices], (dtype, tf.int32))
        return tf.ensure_shape(images, shape), tf.ensure_shape(labels, (None,))

    return rows.map(load, num_parallel_calls=1)


def _finish(stream: "tf.data.Dataset", split: Rows) -> "tf.data.Dataset":
    import tensorflow as tf

    options = tf.data.Options()
    # Replicas share one pipeline on the host: sharding by file is impossible, and sharding by row would drop part of a batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.deterministic = True
    finished = stream.prefetch(2).with_options(options)
    # Keeps the rows alive as long as the stream.
    finished.catdog_rows = split
    return finished
