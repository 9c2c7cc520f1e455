"""Decodes many image files ahead of whoever uses them: threads decode the next batches while a model works on this one."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from catdog.data.images import UnreadableImageError, decode_image
from catdog.system.cpus import count_cpus

# Batches that are decoded, or being decoded, before they are asked for; fewer if they would need more memory than this.
MOST_AHEAD, AHEAD_BYTES = 4, 256 * 2**20

Decoded = np.ndarray | UnreadableImageError


def decode_ahead(files: Sequence[Path], height: int, width: int, batch_size: int) -> Iterator[list[Decoded]]:
    """Yields what `decode_image` returns for each file, in order, a batch at a time.

    As many threads as there are CPUs decode; memory does not grow with the number of files.

    Args:
        files: image files.
        height: rows of every image.
        width: columns of every image.
        batch_size: files per batch; the last one may have fewer.

    Yields:
        For each file of the batch: uint8 (height, width, 3) in [0, 255], or the error if it cannot be read.
    """
    ahead = max(1, min(MOST_AHEAD, AHEAD_BYTES // (batch_size * height * width * 3)))
    pool = ThreadPoolExecutor(count_cpus())  # threads suffice: Pillow decodes and resizes without the GIL
    waiting: deque[list[Future[Decoded]]] = deque()
    try:
        for start in range(0, len(files), batch_size):
            waiting.append([
                pool.submit(_decode, file, height, width) for file in files[start : start + batch_size]
            ])  # fmt: skip
            if len(waiting) > ahead:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        # Also if the one who asked has stopped asking.
        pool.shutdown(cancel_futures=True)


def _decode(file: Path, height: int, width: int) -> Decoded:
    try:
        return decode_image(file, height, width)
    except UnreadableImageError as error:
        return error
