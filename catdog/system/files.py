"""Atomic and durable writes: a file has its old content or its complete new content, and is really on the disk."""

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import numpy as np

# The errors of a write if the disk, the quota or the process's limit on file sizes is exhausted.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The suffix of a file that is not complete yet.
PARTIAL_SUFFIX = ".partial"
# The errors of systems that cannot flush a folder: Windows, and some network file systems.
_CANNOT_SYNC = (errno.EINVAL, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Yields a new binary file. It replaces `path` if the block succeeds, and is removed if the block raises.

    A crash at any moment leaves either the old content or the new content. Several threads and processes may do this at once: the
    last one wins. A process that is killed leaves a file behind whose name ends in PARTIAL_SUFFIX.

    Args:
        path: the file, which may exist already; its folder must exist.
        sync: wait until the content is on the disk, so that even a power cut leaves either the old or the new content. Call
            `sync_folder` afterwards to be sure that it is the new one.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}{PARTIAL_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes | str, *, sync: bool = True) -> None:
    """Replaces a file's content atomically, as `replacing` does. A text is written as UTF-8."""
    with replacing(path, sync=sync) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove_partial(folder: Path, pattern: str = "*") -> None:
    """Removes the partial files of processes that were killed while replacing files. No process may be replacing them now."""
    for abandoned in folder.glob(pattern + PARTIAL_SUFFIX):
        abandoned.unlink(missing_ok=True)


def measure_size(path: Path) -> int:
    """Returns the size of a file, or of all files below a folder, in bytes; 0 if there is none."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    size = 0
    for file in files:
        # Another process may remove it meanwhile.
        with contextlib.suppress(OSError):
            size += file.lstat().st_size if not file.is_dir() else 0
    return size


def sync_file(path: Path) -> None:
    """Waits until the content of a file is on the disk."""
    _sync(path)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk. Otherwise a power cut may undo the creation of a file.

    Some systems cannot do this for folders; there it does nothing.
    """
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_array(file: BinaryIO, array: "np.ndarray") -> None:
    """Writes an array as a .npy file, as `numpy.save` does; a full disk raises an OSError that says so, as NumPy's has no errno."""
    import numpy as np

    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.reshape(-1).view(np.uint8).data)
