"""Folders of the cache that appear whole or not at all, and once, however many processes want them."""

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from catdog.system.errors import UserError
from catdog.system.files import DISK_FULL, PARTIAL_SUFFIX

logger = logging.getLogger(__name__)


@contextmanager
def disk_errors_named(folder: Path) -> Iterator[None]:
    """Turns the block's disk errors into messages about the cache.

    Args:
        folder: the folder of the cache that the block writes to.

    Raises:
        UserError: the disk is full, or the folder cannot be written. Other errors pass through.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            problem = f"the disk is full ({error.strerror}). Free some space"
        elif isinstance(error, PermissionError | FileExistsError | NotADirectoryError) or error.errno == errno.EROFS:
            problem = f"{error.strerror} ({error.filename}). Make it writable"
        else:
            raise
        message = (
            f"cannot write to the cache folder {folder}: {problem}, or set dataset.cache (CATDOG_CACHE) to another."
        )
        raise UserError(message) from error


def require_free_space(folder: Path, needed_bytes: int) -> None:
    """Raises unless the disk below `folder`, which exists, has `needed_bytes` left.

    Raises:
        UserError: it has not.
    """
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise UserError(
            f"the cache folder {folder} needs {needed_bytes / 1e6:,.0f} MB, but its disk has {free_bytes / 1e6:,.0f} MB"
            " left. Free some space, or set dataset.cache (CATDOG_CACHE) to a folder on another disk."
        )


@contextmanager
def locked(target: Path, work: str) -> Iterator[None]:
    """Holds the lock of `target` among all processes; logs when it has to wait for another.

    Args:
        target: the file or folder that is made under the lock; its parents are created.
        work: what the holder does, such as "decoding these images".

    Raises:
        UserError: the folder of the lock cannot be written, or the block filled the disk.
    """
    with disk_errors_named(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(target)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            logger.info("another process is %s: waiting for it", work)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Lends an empty folder that becomes `target` when the block ends well, and is removed when it does not.

    The caller holds `locked(target)`. What stood at `target` before is replaced.

    Args:
        target: the folder to make.

    Yields:
        The folder to fill, on the same disk.
    """
    _remove_abandoned(target.parent, but=target)
    stage = target.with_name(target.name + PARTIAL_SUFFIX)
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    try:
        yield stage
        if target.exists():
            shutil.rmtree(target)
        stage.replace(target)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def _lock(target: Path) -> FileLock:
    return FileLock(target.with_name(target.name + ".lock"))


def _remove_abandoned(parent: Path, but: Path) -> None:
    # A killed process leaves its stage behind; one whose lock is held is still being filled.
    for stage in parent.glob(f"*{PARTIAL_SUFFIX}"):
        target = stage.with_name(stage.name.removesuffix(PARTIAL_SUFFIX))
        if target != but:
            with suppress(Timeout, OSError), _lock(target).acquire(blocking=False):
                shutil.rmtree(stage, ignore_errors=True)
