"""Answers images that wait at the same time together, where that changes no bit of an answer."""

import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from catdog.deployment.prediction import answer_images

log = logging.getLogger(__name__)

# The largest batch. Twice as large gains little on a CPU, and takes twice as long to test.
MOST = 16
# So many images are tested alone as well.
ALONE = 4
SQUARES = 5


def find_largest_batch(loaded: Any, size: int) -> int:
    """Returns how many images the model may answer together: `MOST`, or 1 if any bit of an answer depends on it.

    On most machines the libraries compute an image the same way in each of these batches, but nothing promises it. So drawn images
    are answered in batches of each size.

    Args:
        loaded: what `TrainedModel.loaded` is.
        size: height and width in pixels of the images that it takes.
    """
    images = np.stack(list(_draw_images(MOST, size)))
    # A model that answers no single image cannot be served.
    _answer_in_batches(loaded, images[:1], 1)
    try:
        return MOST if _answers_the_same(loaded, images) else 1
    except Exception:
        # Such as a lack of memory, or a model of the user's own.
        log.warning("the model does not answer %d images at once, and so answers them one by one", MOST, exc_info=True)
        return 1


def _answers_the_same(loaded: Any, images: np.ndarray) -> bool:
    expected = _answer_in_batches(loaded, images, MOST)
    sizes = [(batch, MOST) for batch in _powers_of_two(MOST // 2) if batch > 1] + [(1, ALONE)]
    return all(
        np.array_equal(_answer_in_batches(loaded, images[:count], batch), expected[:count]) for batch, count in sizes
    )


def _draw_images(count: int, size: int) -> Iterator[np.ndarray]:
    """Yields images of soft colours: uint8 (size, size, 3)."""
    import cv2

    rng = np.random.default_rng(0)
    for _ in range(count):
        squares = rng.integers(0, 256, (SQUARES, SQUARES, 3), np.uint8)
        yield cv2.resize(squares, (size, size), interpolation=cv2.INTER_CUBIC)


def _answer_in_batches(loaded: Any, images: np.ndarray, batch: int) -> np.ndarray:
    return np.concatenate([
        answer_images(loaded, images[start : start + batch]) for start in range(0, len(images), batch)
    ])  # fmt: skip


def _powers_of_two(most: int) -> Iterator[int]:
    """Yields the powers of two up to a number, the largest first."""
    power = 1 << (most.bit_length() - 1)
    while power:
        yield power
        power //= 2


class _Waiting(NamedTuple):
    """An image that waits, the model that is to answer it, and where the answer goes."""

    loaded: Any
    image: np.ndarray
    answer: "Future[np.ndarray]"


class Batcher:
    """Answers images with one thread, as many at a time as wait, in batches of the sizes that `find_largest_batch` tests."""

    def __init__(self) -> None:
        # A thread that decodes waits while two batches do, so that few decoded images are in memory.
        self._waiting: queue.Queue[_Waiting | None] = queue.Queue(2 * MOST)
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def submit(self, loaded: Any, image: np.ndarray) -> "Future[np.ndarray]":
        """Returns the probabilities to come, float32 (C,). If that is cancelled before its batch begins, nothing is computed.

        Args:
            loaded: what `TrainedModel.loaded` is.
            image: uint8 (image_size, image_size, 3).
        """
        answer: Future[np.ndarray] = Future()
        self._waiting.put(_Waiting(loaded, image, answer))
        return answer

    def close(self) -> None:
        """Answers what waits, and ends. Nothing may be submitted after."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            taken = [self._waiting.get()]
            while len(taken) < MOST:
                try:
                    taken.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            ended = taken[-1] is None
            wanted = [each for each in taken if each and each.answer.set_running_or_notify_cancel()]
            # While one model takes over from another, both are asked.
            for _, group in groupby(wanted, key=lambda each: id(each.loaded)):
                _answer_group(list(group))


def _answer_group(group: Sequence[_Waiting]) -> None:
    """Answers images of one model."""
    while group:
        batch = next(power for power in _powers_of_two(MOST) if power <= len(group))
        _answer_batch(group[:batch])
        group = group[batch:]


def _answer_batch(batch: Sequence[_Waiting]) -> None:
    try:
        answers = answer_images(batch[0].loaded, np.stack([each.image for each in batch]))
    except Exception as error:
        if len(batch) == 1:
            batch[0].answer.set_exception(error)
            return
        # Perhaps because of one of them; the others have answers.
        for each in batch:
            _answer_batch([each])
        return
    for each, answer in zip(batch, answers, strict=True):
        each.answer.set_result(answer)
