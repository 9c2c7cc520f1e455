"""The input stream: every image once an epoch, an order fixed by seed and epoch, nothing crosses splits."""

import gc
import weakref
from itertools import chain

import numpy as np
import pytest

from catdog.data.dataset import SplitImages
from catdog.training.input_stream import build_eval_stream, build_train_stream, count_steps, order_epoch


@pytest.fixture
def split() -> SplitImages:
    """Ten images whose every pixel is their row's number; row 3 is unreadable."""
    decoded = np.repeat(np.arange(11, dtype=np.uint8), 4 * 4 * 3).reshape(11, 4, 4, 3)
    rows = np.delete(np.arange(11), 3)
    return SplitImages(
        decoded, rows, (rows % 2).astype(np.int32), tuple(f"{r}.jpg" for r in rows), ("a", "b"), {"3.jpg": "bad"}
    )


def numbers(batches) -> list[list[int]]:
    return [images.numpy()[:, 0, 0, 0].astype(int).tolist() for images, _ in batches]


def test_an_epoch_holds_every_readable_image_once(split: SplitImages) -> None:
    batches = numbers(build_train_stream(split, batch_size=4, seed=1).take(6))
    first, second = batches[:3], batches[3:]
    assert [len(batch) for batch in first] == [4, 4, 2]
    everything = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert sorted(chain(*first)) == everything
    assert sorted(chain(*second)) == everything
    assert first != second, "each epoch has an order of its own"


def test_the_order_depends_on_seed_and_epoch_alone(split: SplitImages) -> None:
    whole = numbers(build_train_stream(split, batch_size=4, seed=1).take(6))
    assert numbers(build_train_stream(split, batch_size=4, seed=1).take(6)) == whole
    assert numbers(build_train_stream(split, batch_size=4, seed=1, first_epoch=2).take(3)) == whole[3:]
    assert numbers(build_train_stream(split, batch_size=4, seed=2).take(6)) != whole
    assert not np.array_equal(order_epoch(100, 0, 1), order_epoch(100, 1, 0))


def test_labels_stay_with_their_images(split: SplitImages) -> None:
    for images, labels in build_train_stream(split, batch_size=3, seed=5).take(8):
        assert (images.numpy()[:, 0, 0, 0] % 2 == labels.numpy()).all()


def test_evaluation_is_in_order_and_ends(split: SplitImages) -> None:
    assert numbers(build_eval_stream(split, batch_size=4)) == [[0, 1, 2, 4], [5, 6, 7, 8], [9, 10]]


def test_only_the_training_stream_is_augmented(split: SplitImages) -> None:
    stream = build_train_stream(split, batch_size=10, seed=1, augment=lambda images, batch: images + 100)
    images, _ = next(iter(stream))
    assert images.dtype.name == "uint8"
    assert images.numpy().min() == 100
    assert next(iter(build_eval_stream(split, batch_size=10)))[0].dtype.name == "uint8"


@pytest.mark.parametrize(
    ("batch_size", "replicas", "sizes"),
    [
        (4, 1, [4, 4, 2]),
        (4, 2, [4, 4, 2]),
        (3, 2, [3, 3, 4]),
        (9, 2, [10]),
        (4, 4, [4, 6]),
        (5, 4, [5, 5]),
        (16, 2, [10]),
    ],
)
def test_no_device_is_left_without_an_image(
    split: SplitImages, batch_size: int, replicas: int, sizes: list[int]
) -> None:
    assert [len(b) for b in numbers(build_eval_stream(split, batch_size=batch_size, replicas=replicas))] == sizes
    steps = count_steps(len(split), batch_size, replicas)
    assert steps == len(sizes)
    epochs = numbers(build_train_stream(split, batch_size=batch_size, replicas=replicas, seed=1).take(2 * steps))
    assert [len(b) for b in epochs] == sizes * 2
    assert sorted(chain(*epochs[:steps])) == sorted(chain(*epochs[steps:]))


def test_a_stream_keeps_its_rows_and_nobody_else_does(split: SplitImages) -> None:
    """TensorFlow keeps the function that reads them until the process ends."""
    copy = SplitImages(split.decoded.copy(), split.rows, split.labels, split.files, split.classes, {})
    alive = weakref.ref(copy)
    stream = build_train_stream(copy, batch_size=4, seed=0)
    del copy
    assert sum(map(len, numbers(stream.take(3)))) == 10
    del stream
    gc.collect()
    assert alive() is None
