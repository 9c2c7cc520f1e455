"""Keeps decoded images on disk, so that a data set is decoded only once for each image size."""

import hashlib
import json
import logging
import mmap
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catdog.data.images import DECODER_VERSION, UnreadableImageError, decode_image
from catdog.data.progress import reported_progress
from catdog.data.staging import locked, require_free_space, staged
from catdog.system.cpus import count_cpus

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class DecodedImages:
    """Images at one size, in the order of the files they were decoded from.

    Attributes:
        images: uint8 (N, H, W, 3) in [0, 255], RGB, read-only and memory-mapped; the rows of unreadable files are zero.
        unreadable: the reason for each such row, by its index.
    """

    images: np.ndarray
    unreadable: dict[int, str]


class _DamagedCacheError(Exception):
    """The content of a cache folder is not what was written there."""


def load_images(
    files: Sequence[Path], digests: Sequence[str], *, height: int, width: int, cache: Path
) -> DecodedImages:
    """Returns the images of `files` from the cache; the first time, decodes them into it.

    It takes about 20 MB of memory for any number of images. If several processes want the same images at the same time, only
    one decodes them.

    Args:
        files: the image files.
        digests: the sha256 of each file's content; together with the size, they are the key in the cache.
        height: rows of every image.
        width: columns of every image.
        cache: the folder of the cache; the images are kept in its `decoded/`.

    Returns:
        The images; row i belongs to `files[i]`.

    Raises:
        UserError: the cache cannot be written, or its disk is full.
    """
    if len(files) != len(digests):
        raise ValueError(f"{len(files)} files, but {len(digests)} digests")
    folder = _cache_folder(digests, height, width, cache)
    decoded = _load_or_warn(folder)
    if decoded is None:
        with locked(folder, "decoding these images"):
            decoded = _load_or_warn(folder)  # another process may have made it while this one waited
            if decoded is None:
                return _decode_into(folder, files, height, width)
    logger.info("%s decoded images from the cache, nothing decoded", f"{len(files):,}")
    return decoded


def load_cached_images(digests: Sequence[str], *, height: int, width: int, cache: Path) -> DecodedImages | None:
    """Returns images that were decoded earlier, or None; it does not need the files.

    Args:
        digests: the sha256 of each file's content, in the order in which they were decoded.
        height: rows of every image.
        width: columns of every image.
        cache: the folder of the cache.

    Returns:
        The images, or None if they are not in the cache or are damaged.
    """
    try:
        return _load(_cache_folder(digests, height, width, cache))
    except _DamagedCacheError:
        return None


def _cache_folder(digests: Sequence[str], height: int, width: int, cache: Path) -> Path:
    key = json.dumps([list(digests), height, width, DECODER_VERSION])
    return cache / "decoded" / hashlib.sha256(key.encode()).hexdigest()[:32]


def _decode_into(folder: Path, files: Sequence[Path], height: int, width: int) -> DecodedImages:
    """Decodes `files` into `folder`, whose lock the caller holds, and returns the images."""
    start_s = time.monotonic()
    with staged(folder) as stage:
        require_free_space(folder.parent, len(files) * height * width * 3)
        failures = _write_images(stage / "images.npy", files, height, width)
        _write_meta(stage / "meta.json", _checksum(stage / "images.npy"), failures)
    decoded = _open(folder, {index: str(error) for index, error in failures.items()})
    logger.info(
        "decoded %s images to %d x %d in %.1f s%s; kept in %s",
        f"{len(files):,}",
        height,
        width,
        time.monotonic() - start_s,
        f", {len(failures):,} of them unreadable" if failures else "",
        folder,
    )
    return decoded


def _write_images(path: Path, files: Sequence[Path], height: int, width: int) -> dict[int, UnreadableImageError]:
    """Writes the .npy file of `files` block by block, and returns the error of each unreadable file by row."""
    block_rows = max(1, _BLOCK_BYTES // (height * width * 3))
    block = np.empty((min(block_rows, len(files)), height, width, 3), np.uint8)
    failures = {}

    def decode_row(row: int, file: Path) -> UnreadableImageError | None:
        try:
            block[row] = decode_image(file, height, width)
        except UnreadableImageError as error:
            block[row] = 0
            return error
        return None

    # Plain writes, not a writable memory map: on a full disk a map kills the process with a bus error.
    with (
        path.open("wb") as output,
        ThreadPoolExecutor(count_cpus()) as pool,  # threads suffice: Pillow decodes and resizes without the GIL
        reported_progress("decoding", len(files), "images") as advance,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), height, width, 3)}
        np.lib.format.write_array_header_1_0(output, header)
        for start in range(0, len(files), block_rows):
            chunk = files[start : start + block_rows]
            for row, error in enumerate(pool.map(decode_row, range(len(chunk)), chunk)):
                if error is not None:
                    failures[start + row] = error
                advance(1)
            output.write(block[: len(chunk)].data)
    return failures


def _write_meta(path: Path, images_crc32: int, failures: dict[int, UnreadableImageError]) -> None:
    content = {
        "images_crc32": images_crc32,
        "unreadable": {str(index): str(error) for index, error in failures.items()},
        "complete": all(error.lasting for error in failures.values()),
    }
    path.write_text(json.dumps({"content": content, "content_crc32": _content_checksum(content)}, indent=1), "utf-8")


def _load_or_warn(folder: Path) -> DecodedImages | None:
    try:
        return _load(folder, complete=True)
    except _DamagedCacheError as damage:
        logger.warning("the decoded images in %s are damaged (%s): decoding them again", folder, damage)
        return None


def _load(folder: Path, complete: bool = False) -> DecodedImages | None:
    """Returns the images in `folder`; None if it does not exist, or if it must be complete and is not.

    A cache is incomplete if files were unreadable for a reason that may be gone by now.
    """
    if not folder.exists():
        return None
    try:
        meta: Any = json.loads((folder / "meta.json").read_text("utf-8"))
        content = meta["content"]
        if meta["content_crc32"] != _content_checksum(content):
            raise _DamagedCacheError("meta.json has changed")
        if _checksum(folder / "images.npy") != content["images_crc32"]:
            raise _DamagedCacheError("images.npy has changed")
    except OSError as error:
        raise _DamagedCacheError(f"{error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _DamagedCacheError("meta.json is not what was written") from error
    if complete and not content["complete"]:
        return None
    return _open(folder, {int(index): reason for index, reason in content["unreadable"].items()})


def _open(folder: Path, unreadable: dict[int, str]) -> DecodedImages:
    return DecodedImages(np.load(folder / "images.npy", mmap_mode="r"), unreadable)


def release(images: np.ndarray) -> None:
    """Removes the pages of a memory-mapped file from this process' memory; they stay in the system's page cache."""
    mapped = getattr(images, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _checksum(path: Path) -> int:
    """Returns the CRC-32 of a file, at several GB/s; it detects accidental damage, and a cache needs no more."""
    checksum = 0
    buffer = bytearray(2**20)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            checksum = zlib.crc32(memoryview(buffer)[:count], checksum)
    return checksum


def _content_checksum(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
