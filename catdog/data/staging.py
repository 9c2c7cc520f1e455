"""Makes folders of the cache atomically, and only once even if several processes want them."""

import errno
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from catdog.system.errors import UserError
from catdog.system.files import DISK_FULL, PARTIAL_SUFFIX

logger = logging.getLogger(__name__)

# In a stage, the name of the file that says how far a process has come, and how long it may be before it goes on.
PROGRESS = "progress.jsonl"
GOES_ON_S = 7 * 86_400.0
# Beside what searches for near-duplicates have found: the folder for what a killed one has left for the next.
PARTS = "parts"


@contextmanager
def disk_errors_named(folder: Path) -> Iterator[None]:
    """Turns disk errors in the block into UserErrors about the cache.

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
    """Raises UserError unless the disk of `folder`, which must exist, has `needed_bytes` free."""
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise UserError(
            f"the cache folder {folder} needs {needed_bytes / 1e6:,.0f} MB, but its disk has {free_bytes / 1e6:,.0f} MB"
            " left. Free some space, or set dataset.cache (CATDOG_CACHE) to a folder on another disk."
        )


@contextmanager
def locked(target: Path, work: str) -> Iterator[None]:
    """Holds the lock of `target` among all processes; logs if it has to wait for another process.

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
def staged(target: Path, *, goes_on: bool = False) -> Iterator[Path]:
    """Yields an empty folder that becomes `target` if the block succeeds, and is removed if it fails.

    The caller holds `locked(target)`. An existing `target` is replaced.

    Args:
        target: the folder to make.
        goes_on: the folder may hold what a process has left that was killed, and stays if the block fails, unless its disk does.
            A file PROGRESS in it keeps it from being removed for some days.

    Yields:
        The folder to fill, on the same disk.
    """
    _remove_abandoned(target.parent, but=target)
    stage = name_stage(target)
    if not goes_on:
        shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(exist_ok=goes_on)
    try:
        yield stage
        if target.exists():
            shutil.rmtree(target)
        stage.replace(target)
    except BaseException as error:
        # On a full disk, others need the space.
        if not goes_on or isinstance(error, OSError):
            shutil.rmtree(stage, ignore_errors=True)
        raise


def name_stage(target: Path) -> Path:
    """Returns the folder that `staged(target)` yields."""
    return target.with_name(target.name + PARTIAL_SUFFIX)


def remove_staged(target: Path) -> bool:
    """Removes a file or folder of the cache, or a stage, unless a process is making it; returns whether it is gone."""
    if target.name.endswith(PARTIAL_SUFFIX):
        _remove_unlocked(target)
        return not target.exists()
    doomed = name_stage(target)
    with suppress(Timeout, OSError), _lock(target).acquire(blocking=False):
        # Under its own name, a folder that is half removed could be taken for a complete one.
        shutil.rmtree(doomed, ignore_errors=True)
        target.replace(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return not target.exists()


def _lock(target: Path) -> FileLock:
    return FileLock(target.with_name(target.name + ".lock"))


def _remove_abandoned(parent: Path, but: Path) -> None:
    # A killed process leaves its folder behind. A folder whose lock is held is still being filled.
    for stage in parent.glob(f"*{PARTIAL_SUFFIX}"):
        if stage != name_stage(but) and not _may_go_on(stage):
            _remove_unlocked(stage)


def _remove_unlocked(stage: Path) -> None:
    target = stage.with_name(stage.name.removesuffix(PARTIAL_SUFFIX))
    with suppress(Timeout, OSError), _lock(target).acquire(blocking=False):
        shutil.rmtree(stage, ignore_errors=True)


def _may_go_on(stage: Path) -> bool:
    try:
        return time.time() - (stage / PROGRESS).stat().st_mtime < GOES_ON_S
    except OSError:
        return False
