"""Keeps decoded images on disk, so that a data set is decoded only once for each image size."""

import hashlib
import io
import json
import logging
import mmap
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from catdog.data.images import DECODER_VERSION, UnreadableImageError, decode_image
from catdog.data.progress import reported_progress
from catdog.data.staging import PROGRESS, locked, name_stage, require_free_space, staged
from catdog.data.stored_images import INDEX, QUALITY, CheckedPixels, JpegImages, encode_jpeg, read_codec_version
from catdog.system.cpus import count_cpus

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 16 * 2**20
# Larger files of pixels are not checked as a whole when they are opened, but block by block when they are read.
_LARGE_BYTES = 2 * 10**9
# What JPEGs of photos take at most, as a share of their pixels, for the check that the disk has room.
_JPEG_SHARE = 0.3
_PIXELS, _JPEGS, _INDEX, _META = "images.npy", "images.jpegs", "index", "meta.json"


@dataclass(frozen=True)
class DecodedImages:
    """Images at one size, in the order of the files they were decoded from.

    Attributes:
        images: uint8 (N, H, W, 3) in [0, 255], RGB, read-only and memory-mapped; the rows of unreadable files are zero. Very many
            images, and JPEGs, are no array: `images[rows]`, with rows int64 (B,), returns one, (B, H, W, 3).
        unreadable: the reason for each such row, by its index.
    """

    images: "np.ndarray | JpegImages | CheckedPixels"
    unreadable: dict[int, str]


class _DamagedCacheError(Exception):
    """The content of a cache folder is not what was written there."""


def load_images(
    files: Sequence[Path], digests: Sequence[str], *, height: int, width: int, cache: Path, as_jpeg: bool = False
) -> DecodedImages:
    """Returns the images of `files` from the cache; the first time, decodes them into it.

    It takes about 20 MB of memory for any number of images. If several processes want the same images at the same time, only
    one decodes them; after one that was killed, the next goes on where it stopped.

    Args:
        files: the image files.
        digests: the sha256 of each file's content; together with the size, they are the key in the cache.
        height: rows of every image.
        width: columns of every image.
        cache: the folder of the cache; the images are kept in its `decoded/`.
        as_jpeg: whether they are kept as JPEGs of this size, which take about a fifth of the space and change pixels a little.

    Returns:
        The images; row i belongs to `files[i]`.

    Raises:
        UserError: the cache cannot be written, or its disk is full.
    """
    if len(files) != len(digests):
        raise ValueError(f"{len(files)} files, but {len(digests)} digests")
    entry = _Entry(_cache_folder(digests, height, width, cache, as_jpeg), files, height, width, as_jpeg)
    decoded = _load_or_warn(entry)
    if decoded is None:
        with locked(entry.folder, "decoding these images"):
            decoded = _load_or_warn(entry)  # another process may have made it while this one waited
            if decoded is None:
                return _decode_into(entry)
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
    entry = _Entry(_cache_folder(digests, height, width, cache), (), height, width, False)
    try:
        return _load(entry)
    except _DamagedCacheError:
        return None


@dataclass(frozen=True)
class _Entry:
    """A folder of the cache, and what it holds.

    Attributes:
        folder: its path.
        files: the images; empty if they are not known.
        height: in pixels.
        width: in pixels.
        as_jpeg: whether they are kept as JPEGs.
    """

    folder: Path
    files: Sequence[Path]
    height: int
    width: int
    as_jpeg: bool

    @property
    def image_bytes(self) -> int:
        """Of the pixels of one image."""
        return self.height * self.width * 3

    @property
    def block_rows(self) -> int:
        """How many images are decoded and checked at a time."""
        return max(1, _BLOCK_BYTES // self.image_bytes)

    @property
    def content(self) -> str:
        """The name of the file with all images."""
        return _JPEGS if self.as_jpeg else _PIXELS


def _cache_folder(digests: Sequence[str], height: int, width: int, cache: Path, as_jpeg: bool = False) -> Path:
    # Another version of OpenCV may make other JPEGs, and other pixels of them.
    kept = ["jpeg", QUALITY, read_codec_version()] if as_jpeg else []
    key = json.dumps([list(digests), height, width, DECODER_VERSION, *kept])
    return cache / "decoded" / hashlib.sha256(key.encode()).hexdigest()[:32]


def _decode_into(entry: _Entry) -> DecodedImages:
    """Decodes the files of an entry, whose lock the caller holds, and returns the images."""
    start_s = time.monotonic()
    done = _Progress.read(name_stage(entry.folder), entry)
    needed = (len(entry.files) - done.rows) * entry.image_bytes * (_JPEG_SHARE if entry.as_jpeg else 1)
    # What is done stays when there is no room for the rest.
    require_free_space(entry.folder.parent, int(needed))
    with staged(entry.folder, goes_on=True) as stage:
        went_on = done.rows
        with (
            (stage / entry.content).open("r+b" if went_on else "wb") as output,
            (stage / _INDEX).open("r+b" if went_on else "wb") as index,
            (stage / PROGRESS).open("r+" if went_on else "w", encoding="utf-8") as log,
        ):
            _write_images(entry, done, output, index, log)
        _write_meta(stage, entry, done)
        (stage / PROGRESS).unlink()
        if not entry.as_jpeg:
            (stage / _INDEX).unlink()
    decoded = _open(entry, json.loads((entry.folder / _META).read_text("utf-8"))["content"])
    logger.info(
        "decoded %s images to %d x %d in %.1f s%s%s; kept in %s",
        f"{len(entry.files) - went_on:,}",
        entry.height,
        entry.width,
        time.monotonic() - start_s,
        f", after {went_on:,} of a command that was stopped" if went_on else "",
        f", {len(done.unreadable):,} of them unreadable" if done.unreadable else "",
        entry.folder,
    )
    return decoded


@dataclass
class _Progress:
    """How far the decoding of an entry has come.

    Attributes:
        rows: images done.
        size: bytes of the file with all images.
        crc32: checksum of that file.
        blocks: the checksum of each block of images, without the header of the file.
        unreadable: the reason for each file that cannot be read, by its row.
        lasting: whether all reasons remain until a file changes.
        lines: how long the file of this progress is, in bytes.
    """

    rows: int = 0
    size: int = 0
    crc32: int = 0
    blocks: list[int] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    lasting: bool = True
    lines: int = 0

    @classmethod
    def read(cls, stage: Path, entry: _Entry) -> "_Progress":
        """Returns the progress of a process that was killed, as far as what it wrote is there and sound."""
        found = cls()
        with (
            suppress(OSError, ValueError, KeyError, TypeError),
            (stage / entry.content).open("rb") as content,
            (stage / _INDEX).open("rb") as index,
        ):
            for line in (stage / PROGRESS).read_text("utf-8").splitlines(keepends=True):
                block = json.loads(line)
                # Files that could not be read then, for a reason that may have passed, are read again.
                if block["block_rows"] != entry.block_rows or not block["lasting"]:
                    break
                written = index.read((block["rows"] - found.rows) * INDEX.itemsize if entry.as_jpeg else 0)
                if zlib.crc32(written) != block["index_crc32"]:
                    break
                crc32 = zlib.crc32(content.read(block["size"] - found.size), found.crc32)
                if content.tell() != block["size"] or crc32 != block["crc32"]:
                    break
                found.add(block)
                found.lines += len(line.encode())
        return found

    def add(self, block: Mapping[str, Any]) -> None:
        """Adds a block: rows, size and crc32 after it; its own checksum, block_crc32; unreadable and lasting of its images."""
        self.rows, self.size, self.crc32 = block["rows"], block["size"], block["crc32"]
        self.blocks.append(block["block_crc32"])
        self.unreadable |= {int(row): str(reason) for row, reason in block["unreadable"].items()}
        self.lasting = self.lasting and block["lasting"]


def _write_images(entry: _Entry, done: _Progress, output: BinaryIO, index: BinaryIO, log: TextIO) -> None:
    """Writes the images block by block, and after each what a process needs that goes on after this one is killed.

    Args:
        entry: the files, and how they are kept.
        done: what is written already; it is kept up to date.
        output: the file with all images.
        index: INDEX, for JPEGs.
        log: a line of JSON for each block.
    """
    files, block_rows = entry.files, entry.block_rows
    output.truncate(done.size)
    output.seek(done.size)
    index.truncate(done.rows * INDEX.itemsize * entry.as_jpeg)
    index.seek(0, os.SEEK_END)
    log.truncate(done.lines)
    log.seek(done.lines)
    if not done.rows and not entry.as_jpeg:
        header = io.BytesIO()
        shape = (len(files), entry.height, entry.width, 3)
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        done.size = output.write(header.getvalue())
        done.crc32 = zlib.crc32(header.getvalue())
    block = np.empty((min(block_rows, len(files)), entry.height, entry.width, 3), np.uint8)

    def decode_row(row: int, file: Path) -> tuple[bytes, UnreadableImageError | None]:
        try:
            block[row] = decode_image(file, entry.height, entry.width)
        except UnreadableImageError as error:
            block[row] = 0
            return b"", error
        return encode_jpeg(block[row]) if entry.as_jpeg else b"", None

    # Plain writes, not a writable memory map: on a full disk a map kills the process with a bus error.
    with (
        ThreadPoolExecutor(count_cpus()) as pool,  # threads suffice: Pillow decodes and resizes without the GIL
        reported_progress("decoding", len(files), "images", done.rows) as advance,
    ):
        for start in range(done.rows, len(files), block_rows):
            chunk = files[start : start + block_rows]
            jpegs, errors = [], {}
            for row, (jpeg, error) in enumerate(pool.map(decode_row, range(len(chunk)), chunk)):
                jpegs.append(jpeg)
                if error is not None:
                    errors[start + row] = error
                advance(1)
            content = b"".join(jpegs) if entry.as_jpeg else block[: len(chunk)].data
            output.write(content)
            indexed = _index_jpegs(jpegs, done.size).tobytes() if entry.as_jpeg else b""
            index.write(indexed)
            output.flush()
            index.flush()
            written = {
                "rows": start + len(chunk), "size": done.size + memoryview(content).nbytes,
                "crc32": zlib.crc32(content, done.crc32), "block_crc32": zlib.crc32(content), "block_rows": block_rows,
                "index_crc32": zlib.crc32(indexed), "unreadable": {str(row): str(error) for row, error in errors.items()},
                "lasting": all(error.lasting for error in errors.values()),
            }  # fmt: skip
            log.write(json.dumps(written) + "\n")
            log.flush()
            done.add(written)


def _index_jpegs(jpegs: Sequence[bytes], start: int) -> np.ndarray:
    """Returns the INDEX of JPEGs that are written one after the other, the first at `start`."""
    index = np.empty(len(jpegs), INDEX)
    index["end"] = start + np.cumsum([len(jpeg) for jpeg in jpegs], dtype=np.int64)
    index["crc32"] = [zlib.crc32(jpeg) for jpeg in jpegs]
    return index


def _write_meta(stage: Path, entry: _Entry, done: _Progress) -> None:
    content = {
        "images_crc32": done.crc32,
        "unreadable": {str(index): reason for index, reason in done.unreadable.items()},
        "complete": done.lasting,
        **({"index_crc32": _checksum(stage / _INDEX)} if entry.as_jpeg else {}),
        **({} if entry.as_jpeg else {"block_rows": entry.block_rows, "blocks_crc32": done.blocks}),
    }
    meta = {"content": content, "content_crc32": _content_checksum(content)}
    (stage / _META).write_text(json.dumps(meta, indent=1), "utf-8")


def _load_or_warn(entry: _Entry) -> DecodedImages | None:
    try:
        return _load(entry, complete=True)
    except _DamagedCacheError as damage:
        logger.warning("the decoded images in %s are damaged (%s): decoding them again", entry.folder, damage)
        return None


def _load(entry: _Entry, complete: bool = False) -> DecodedImages | None:
    """Returns the images of an entry; None if it does not exist, or if it must be complete and is not.

    A cache is incomplete if files were unreadable for a reason that may be gone by now.
    """
    if not entry.folder.exists():
        return None
    path = entry.folder / entry.content
    try:
        meta: Any = json.loads((entry.folder / _META).read_text("utf-8"))
        content = meta["content"]
        if meta["content_crc32"] != _content_checksum(content):
            raise _DamagedCacheError(f"{_META} has changed")
        if not _is_large(entry, content) and _checksum(path) != content["images_crc32"]:
            raise _DamagedCacheError(f"{path.name} has changed")
        if entry.as_jpeg and _checksum(entry.folder / _INDEX) != content["index_crc32"]:
            raise _DamagedCacheError(f"{_INDEX} has changed")
        if complete and not content["complete"]:
            return None
        return _open(entry, content)
    except OSError as error:
        raise _DamagedCacheError(f"{error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _DamagedCacheError(f"{_META} is not what was written") from error


def _is_large(entry: _Entry, content: Mapping[str, Any]) -> bool:
    """Whether the images are checked when they are read, not when they are opened."""
    size = (entry.folder / entry.content).stat().st_size
    return bool(entry.files) and (entry.as_jpeg or (size > _LARGE_BYTES and "blocks_crc32" in content))


def _open(entry: _Entry, content: Mapping[str, Any]) -> DecodedImages:
    path = entry.folder / entry.content
    unreadable = {int(index): reason for index, reason in content["unreadable"].items()}
    shape = (len(entry.files), entry.height, entry.width, 3)
    images: np.ndarray | JpegImages | CheckedPixels
    if entry.as_jpeg:
        index = np.fromfile(entry.folder / _INDEX, INDEX)
        if len(index) != len(entry.files) or (len(index) and path.stat().st_size != index["end"][-1]):
            raise _DamagedCacheError(f"{path.name} has another size")
        images = JpegImages(path, shape, entry.files, index, frozenset(unreadable))
    elif _is_large(entry, content):
        offset = path.stat().st_size - len(entry.files) * entry.image_bytes
        if offset != _measure_header(path):
            raise _DamagedCacheError(f"{path.name} has another size")
        images = CheckedPixels(path, shape, entry.files, offset, content["block_rows"], content["blocks_crc32"])
    else:
        images = np.load(path, mmap_mode="r")
    return DecodedImages(images, unreadable)


def _measure_header(path: Path) -> int:
    """Returns the bytes before the first pixel of a file of pixels."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()


def release(images: "np.ndarray | JpegImages | CheckedPixels") -> None:
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
