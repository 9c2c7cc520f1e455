"""Keeps the sha256 of the files of a data set, so that a later start reads only those that have changed."""

import contextlib
import hashlib
import logging
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from catdog.data.progress import reported_progress
from catdog.system.files import replacing
from catdog.system.wording import agree, plural

log = logging.getLogger(__name__)

_Part = TypeVar("_Part", bound=Sized)
_Found = TypeVar("_Found")

VERSION = 1
# So many files are read by one task of a thread: a task for each file costs more than reading it. The first tasks have fewer.
FILES_AT_ONCE, FIRST_FILES = 64, 16
BLOCK_BYTES = 2**20
# Seconds for a file that is in memory and small; as many parts in a row that take longer are followed by threads.
QUICK_S, SLOW_PARTS = 1e-4, 3
SEPARATOR = b"\0"
# Findings are saved this often, so that a command that is killed does not read everything again.
SAVE_EVERY_S = 20.0
# A file that changes again within the resolution of the clock has the same times: one that is as young as this is read again.
# FAT has the coarsest clock, of 2 s.
YOUNG_NS = 2_500_000_000
# What identifies a file without reading it: size, time of its last change of content, the same of its name, owner or content, and
# inode. The third cannot be set by a program, so a forged second is not believed.
SIGNS, DIGEST_BYTES = 4, 32
# Each start reads this share of the files that are believed to be unchanged, and at least so many of them.
SAMPLED_SHARE, LEAST_SAMPLED = 0.001, 4


def hash_files(root: Path, files: Sequence[str], *, cache: Path | None = None, verify: str = "changed") -> list[str]:
    """Returns the sha256 of each file's bytes, 64 hexadecimal digits; for a file that cannot be opened, a stand-in by its name.

    Args:
        root: the folder that the names are relative to.
        files: N names.
        cache: folder of the cache, whose `digests/` keeps what is found; None: all files are read and nothing is kept.
        verify: changed: a file is read if its size, its times or its inode are not those that are kept, and so is a sample of the
            others. full: all files are read.
    """
    every = np.arange(len(files))
    if cache is None:
        digests = np.zeros((len(files), DIGEST_BYTES), np.uint8)
        for places, found, _ in _hash_parts(root, files, every):
            digests[places] = found
        return _as_text(digests)
    started_ns = time.time_ns()
    kept = _KeptDigests(root, cache)
    signs = _read_signs(root, files)
    digests, is_known = kept.match(files, signs)
    believed = every[is_known]
    again = believed if verify == "full" else _draw_sample(believed)
    changed = _read_again(root, files, again, digests)
    if changed and len(again) < len(believed):
        changed += _read_again(root, files, np.setdiff1d(believed, again), digests)
    if changed:
        log.warning(
            "%s in %s %s changed although size, times and inode did not, as on a disk that fails: %r first. All were read again",
            plural(len(changed), "file"), root, agree(len(changed), "has", "have"), files[min(changed)],
        )  # fmt: skip
    # A file that was written a moment ago may change again and keep its times.
    is_old = np.all(signs[:, 1:3] < started_ns - YOUNG_NS, axis=1)
    saved_s = time.monotonic()
    missing = every[~is_known]
    for places, found, is_read in _hash_parts(root, files, missing):
        digests[places] = found
        is_known[places] = is_read & is_old[places]
        if time.monotonic() - saved_s > SAVE_EVERY_S:
            kept.save(files, signs, digests, is_known)
            saved_s = time.monotonic()
    if is_known[missing].any() or changed:
        kept.save(files, signs, digests, is_known)
    return _as_text(digests)


class _KeptDigests:
    """The digests that are kept of the files below a folder.

    Args:
        root: the folder.
        cache: folder of the cache.
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self._root = os.fsencode(root.resolve()) + b"/"
        key = hashlib.sha256(self._root).hexdigest()[:32]
        self._path = cache / "digests" / f"{key}.npz"
        self._names, self._signs = b"", np.zeros((0, SIGNS), np.int64)
        self._digests = np.zeros((0, DIGEST_BYTES), np.uint8)
        # A file that is damaged or of another version is as good as none.
        with (
            contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
            self._path.open("rb") as file,
            np.load(file) as stored,
        ):
            if int(stored["version"]) == VERSION:
                names, signs, digests = stored["names"].tobytes(), stored["signs"], stored["digests"]
                self._names, self._signs, self._digests = names, signs, digests

    def match(self, files: Sequence[str], signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the digest of each file, uint8 (N, 32), and whether it is known and believed, bool (N,).

        Args:
            files: N names.
            signs: as `_read_signs` returns them.
        """
        digests, is_known = np.zeros((len(files), DIGEST_BYTES), np.uint8), np.zeros(len(files), bool)
        if not len(self._signs):
            return digests, is_known
        if _join(files) == self._names:
            places = rows = np.arange(len(files))
        else:
            row_of = {name: row for row, name in enumerate(self._names.split(SEPARATOR))}
            found = [(place, row_of.get(os.fsencode(file), -1)) for place, file in enumerate(files)]
            places, rows = np.array([pair for pair in found if pair[1] >= 0], np.int64).reshape(-1, 2).T
        same = (self._signs[rows] == signs[places]).all(axis=1)
        digests[places[same]] = self._digests[rows[same]]
        is_known[places[same]] = True
        return digests, is_known

    def save(self, files: Sequence[str], signs: np.ndarray, digests: np.ndarray, is_known: np.ndarray) -> None:
        """Keeps the digests that are known, and those of other files below the folder that are still there."""
        places = np.flatnonzero(is_known)
        asked = set(map(os.fsencode, files))
        former = self._names.split(SEPARATOR) if len(self._signs) else []
        others = [
            row
            for row, name in enumerate(former)
            if name not in asked and os.path.lexists(os.path.join(self._root, name))  # noqa: PTH118  bytes
        ]
        names = SEPARATOR.join(
            [os.fsencode(files[place]) for place in places.tolist()] + [former[row] for row in others]
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as file:
                np.savez(
                    file, version=VERSION, names=np.frombuffer(names, np.uint8),
                    signs=np.concatenate([signs[places], self._signs[np.array(others, int)]]),
                    digests=np.concatenate([digests[places], self._digests[np.array(others, int)]]),
                )  # fmt: skip
        except OSError as error:
            log.warning("the digests of the files below %s cannot be kept, so the next start reads all of them again: %s",
                        self._root.decode(errors="replace"), error.strerror)  # fmt: skip


def _join(files: Sequence[str]) -> bytes:
    # Encoded at once: much faster than each name alone.
    return os.fsencode(SEPARATOR.decode().join(files))


def _as_text(digests: np.ndarray) -> list[str]:
    text = digests.tobytes().hex()
    return [text[start : start + 2 * DIGEST_BYTES] for start in range(0, len(text), 2 * DIGEST_BYTES)]


def _draw_sample(places: np.ndarray) -> np.ndarray:
    """Returns some of the places, other ones at each start."""
    size = min(len(places), max(LEAST_SAMPLED, round(SAMPLED_SHARE * len(places))))
    return np.random.default_rng().choice(places, size, replace=False)


def _read_again(root: Path, files: Sequence[str], places: np.ndarray, digests: np.ndarray) -> list[int]:
    """Puts the digests of files in the place of those that are kept; returns the places of those that differ."""
    changed: list[int] = []
    for part, found, _ in _hash_parts(root, files, places):
        changed += part[(found != digests[part]).any(axis=1)].tolist()
        digests[part] = found
    return changed


def _read_signs(root: Path, files: Sequence[str]) -> np.ndarray:
    """Returns what identifies each file without reading it: int64 (N, SIGNS); zeros for one that is not there."""
    top = str(root)

    def read(part: Sequence[str]) -> np.ndarray:
        return np.array([_read_sign(_locate(top, file)) for file in part], np.int64)

    return np.concatenate(
        [np.zeros((0, SIGNS), np.int64), *_map_parts(read, [files[part] for part in _divide(len(files))])]
    )


def _locate(top: str, file: str) -> str:
    # Much faster than os.path.join.
    return file if file.startswith("/") else f"{top}/{file}"


def _read_sign(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)  # noqa: PTH116  faster for many files
    except OSError:
        return (0,) * SIGNS
    # An inode may need all 64 bits.
    inode = status.st_ino - (1 << 64) * (status.st_ino >> 63)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode


def _divide(count: int) -> list[slice]:
    bounds = [*range(0, 2 * FILES_AT_ONCE, FIRST_FILES), *range(2 * FILES_AT_ONCE, count, FILES_AT_ONCE)]
    return [slice(start, end) for start, end in zip(bounds, [*bounds[1:], count], strict=True) if start < count]


def _map_parts(read: Callable[[_Part], _Found], parts: Sequence[_Part]) -> Iterator[_Found]:
    """Yields what is read of each part, in order: in threads where the files are large, or their disk answers slowly.

    Small files in memory take a single thread less than half of the CPU time: many would mostly wait for each other.

    Args:
        read: reads a part.
        parts: of one or more files each.
    """
    slow = done = 0
    while done < len(parts) and slow < SLOW_PARTS:
        started = time.perf_counter()
        found = read(parts[done])
        slow = slow + 1 if time.perf_counter() - started > QUICK_S * len(parts[done]) else 0
        done += 1
        yield found
    with ThreadPoolExecutor() as threads:
        yield from threads.map(read, parts[done:])


def _hash_parts(
    root: Path, files: Sequence[str], places: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields places, their files' digests, uint8 (P, 32), and whether they could be read, bool (P,); some files at a time."""
    top = str(root)

    def hash_part(part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = [hash_file(_locate(top, files[place])) for place in part]
        digests = np.frombuffer(b"".join(digest for digest, _ in found), np.uint8).reshape(-1, DIGEST_BYTES)
        return part, digests, np.array([is_read for _, is_read in found], bool)

    parts = [places[part] for part in _divide(len(places))]
    with reported_progress("reading files", len(places), "files") as advance:
        for done in _map_parts(hash_part, parts):
            yield done
            advance(len(done[0]))


def hash_file(path: str) -> tuple[bytes, bool]:
    """Returns the sha256 of a file's bytes, and whether it could be read; if not, the sha256 of the error and the file's name."""
    try:
        digest = hashlib.sha256()
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  faster for many files
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
        return digest.digest(), True
    except OSError as error:
        # A file that cannot be opened counts as unreadable when it is decoded; it still needs a stable identity.
        stand_in = f"unreadable: {type(error).__name__}: {path.rpartition('/')[2]}"
        return hashlib.sha256(stand_in.encode(errors="surrogateescape")).digest(), False
