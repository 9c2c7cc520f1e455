"""Decoded images -> batches: an endless training stream in an order fixed by seed and epoch, and an exact evaluation one."""

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


class Rows(Protocol):
    """What a stream is made of: arrays of one shape and type, such as images, with a label each."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""

    @property
    def dtype(self) -> str:
        """Of the rows, by NumPy's and TensorFlow's name."""

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows and labels, int32 (B,), at indices, int64 (B,)."""


def order_epoch(count: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of an epoch: int64 (count,), a permutation that depends on seed and epoch alone."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def count_steps(count: int, batch_size: int, replicas: int = 1) -> int:
    """Returns the batches of one pass over `count` images, as the streams below make them."""
    full = _count_full(count, batch_size, replicas)
    return full + (full * batch_size < count)


def _count_full(count: int, batch_size: int, replicas: int) -> int:
    full, rest = divmod(count, batch_size)
    # A last batch with fewer images than devices would leave one without any, which TensorFlow's convolutions refuse: the
    # batch before takes those images in.
    return full - 1 if 0 < rest < replicas and full else full


def build_train_stream(
    split: Rows,
    *,
    batch_size: int,
    seed: int,
    replicas: int = 1,
    first_epoch: int = 1,
    augment: Callable[[Any, Any], Any] | None = None,
) -> "tf.data.Dataset":
    """Returns endless batches of (images, labels), `count_steps` of them an epoch.

    Each epoch's order comes from `order_epoch`, not from `Dataset.shuffle`: it needs no buffer of images, and an
    interrupted run can start again at any epoch. The last batch of an epoch holds what is left; none spans two epochs.

    Args:
        split: the images of one split, or their features.
        batch_size: images per batch.
        seed: the run's seed.
        replicas: devices that each batch is divided among.
        first_epoch: epoch of the first batch, from 1.
        augment: maps images uint8 (B, H, W, 3) and the number of the batch since epoch 1, an int64 scalar from 0, to images
            in [0, 255]; None: the stream has the images as they are.
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
    if augment is not None:
        # One call at a time: random layers keep a state, so calls in parallel would make the result depend on timing.
        first_batch = (first_epoch - 1) * count_steps(count, batch_size, replicas)
        stream = stream.enumerate(start=first_batch).map(
            lambda batch, pair: (augment(pair[0], batch), pair[1]), num_parallel_calls=1
        )
    return _finish(stream, split)


def build_eval_stream(split: Rows, *, batch_size: int, replicas: int = 1) -> "tf.data.Dataset":
    """Returns batches of (images or features, labels) that hold every image of the split once, in the manifest's order."""
    import tensorflow as tf

    count = len(split)
    return _finish(_gather(_batch(tf.data.Dataset.range(count), count, batch_size, replicas), split), split)


def _batch(rows: "tf.data.Dataset", count: int, batch_size: int, replicas: int) -> "tf.data.Dataset":
    full = _count_full(count, batch_size, replicas) * batch_size
    batches = rows.take(full).batch(batch_size)
    return batches.concatenate(rows.skip(full).batch(count - full)) if full < count else batches


def _gather(rows: "tf.data.Dataset", split: Rows) -> "tf.data.Dataset":
    import tensorflow as tf

    shape, dtype = (None, *split.shape), tf.as_dtype(split.dtype)
    # TensorFlow keeps such a function as long as the process lives; hundreds of megabytes of features must not stay with it.
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
    # Replicas share one host pipeline: sharding by file is impossible, and by row it would drop part of a batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.deterministic = True
    finished = stream.prefetch(2).with_options(options)
    # The rows live as long as the stream.
    finished.catdog_rows = split
    return finished
