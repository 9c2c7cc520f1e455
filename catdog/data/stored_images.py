"""Images of the cache that are too many to be checked or decoded at once: each is, when it is read."""

import logging
import threading
import zlib
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from catdog.data.images import UnreadableImageError, decode_image
from catdog.system.cpus import count_cpus
from catdog.system.errors import UserError

log = logging.getLogger(__name__)

# Of JPEGs, with the colours of every pixel. Photos of 160 x 160 pixels differ by 1.4 of 255 on average from what is encoded.
QUALITY = 95
# One for each JPEG: where it ends in the file with all of them, and its checksum. That of a file that cannot be read is empty.
INDEX = np.dtype([("end", "<i8"), ("crc32", "<u4")])


def encode_jpeg(image: np.ndarray) -> bytes:
    """Returns an image, uint8 (H, W, 3), as a JPEG."""
    import cv2

    options = (
        cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    )  # fmt: skip
    _, content = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return content.tobytes()


def read_codec_version() -> str:
    """Returns the version of the library that encodes and decodes JPEGs here."""
    import cv2

    return str(cv2.__version__)


def decode_jpeg(content: Any, image: np.ndarray) -> None:
    """Decodes what `encode_jpeg` returned into an image, uint8 (H, W, 3)."""
    import cv2

    cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB, dst=image)


class _Stored:
    """Images in a file of the cache. What is damaged in it is decoded again from the images' own files.

    `images[rows]`, with rows int64 (B,), returns uint8 (B, H, W, 3); `images[row]` returns one.

    Attributes:
        shape: (N, H, W, 3).
        dtype: uint8.
        failure: why an image could not be read, or None. TensorFlow turns the error itself into one of its own.

    Args:
        path: the file.
        shape: as above.
        files: the N files that the images were decoded from.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path, shape: tuple[int, ...], files: Sequence[Path]) -> None:
        self.shape = shape
        self._path = path
        self._files = files
        # An empty file cannot be mapped.
        self._content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        self._warned = threading.Event()
        self.failure: UserError | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: "np.ndarray | int") -> np.ndarray:
        return self._gather(rows) if isinstance(rows, np.ndarray) else self._gather(np.array([rows]))[0]

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    @property
    def _mmap(self) -> Any:
        # What `catdog.data.cache.release` looks for.
        return getattr(self._content, "_mmap", None)

    def _decode_again(self, row: int) -> np.ndarray:
        if not self._warned.is_set():
            self._warned.set()
            log.warning(
                "images in %s are damaged, and decoded again from their files whenever they are needed; remove that folder to have "
                "it made again", self._path.parent,
            )  # fmt: skip
        try:
            return decode_image(self._files[row], *self.shape[1:3])
        except UnreadableImageError as error:
            self.failure = UserError(
                f"the cache {self._path.parent} is damaged, and the image {self._files[row]} cannot be read again: {error}. Bring "
                "the image back."
            )
            raise self.failure from error


class JpegImages(_Stored):
    """Images as JPEGs, decoded by several threads when they are read.

    Args:
        path: the file with all JPEGs, one after the other.
        shape: (N, H, W, 3).
        files: the N files that the images were decoded from.
        index: INDEX (N,).
        unreadable: the rows of files that could not be read; their images are black.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], files: Sequence[Path], index: np.ndarray, unreadable: Collection[int]
    ) -> None:
        super().__init__(path, shape, files)
        self._index = index
        self._unreadable = unreadable

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(count_cpus(), thread_name_prefix="jpeg")

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        parts = np.array_split(np.arange(len(rows)), count_cpus())
        for _ in self._threads.map(lambda part: self._read(rows, part, images), parts):
            pass
        return images

    def _read(self, rows: np.ndarray, part: np.ndarray, images: np.ndarray) -> None:
        for place in part:
            row = int(rows[place])
            if row in self._unreadable:
                images[place] = 0
                continue
            content: Any = self._content[self._index["end"][row - 1] if row else 0 : self._index["end"][row]]
            if not len(content) or zlib.crc32(content) != self._index["crc32"][row]:
                content = encode_jpeg(self._decode_again(row))
            decode_jpeg(content, images[place])


class CheckedPixels(_Stored):
    """Pixels in a file that is checked block by block, each when it is first read.

    Args:
        path: the file.
        shape: (N, H, W, 3).
        files: the N files that the images were decoded from.
        offset: bytes before the first pixel.
        block_rows: images of a block.
        checksums: CRC-32 of each block.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], files: Sequence[Path], offset: int, block_rows: int,
        checksums: Sequence[int],
    ) -> None:  # fmt: skip
        super().__init__(path, shape, files)
        self._images = self._content[offset:].reshape(shape)
        self._block_rows = block_rows
        self._checksums = checksums
        self._sound: dict[int, bool] = {}

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        images: np.ndarray = self._images[rows]
        blocks = rows // self._block_rows
        for block in np.unique(blocks):
            if not self._is_sound(int(block)):
                for place in np.flatnonzero(blocks == block):
                    images[place] = self._decode_again(int(rows[place]))
        return images

    def _is_sound(self, block: int) -> bool:
        if block not in self._sound:
            pixels = self._images[block * self._block_rows : (block + 1) * self._block_rows]
            self._sound[block] = zlib.crc32(pixels.data) == self._checksums[block]
        return self._sound[block]
