"""Files that are there whole or not at all, and are on the disk when they are said to be."""

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# What a write answers when the disk, the quota or the largest file the process may write is used up.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What a file that is not whole yet ends in.
PARTIAL_SUFFIX = ".partial"
# What systems answer that cannot flush a folder: Windows, and some network file systems.
_CANNOT_SYNC = (errno.EINVAL, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Lends a new binary file that takes the place of `path` when the block ends well, and goes when it does not.

    A crash, at any moment, leaves the old content or the new one. Several threads and processes may do it at once: the last one
    stands. A process that is killed leaves a file behind that ends in PARTIAL_SUFFIX.

    Args:
        path: the file, there or not; its folder is there.
        sync: wait until the content is on the disk, so that a power cut leaves the old or the new content too. To be sure of the
            new one, call `sync_folder` afterwards.
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
    """Replaces a file's content at once; a text is written as UTF-8. The rest is as of `replacing`."""
    with replacing(path, sync=sync) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove_partial(folder: Path, pattern: str = "*") -> None:
    """Removes what processes that were killed while they replaced files left behind; nobody may be replacing them now."""
    for abandoned in folder.glob(pattern + PARTIAL_SUFFIX):
        abandoned.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Returns when the content of a file is on the disk."""
    _sync(path)


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk: else a power cut may take a new one back.

    Where the system cannot do that for folders there is nothing to be done about it.
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
