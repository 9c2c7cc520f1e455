"""A process's own folder for temporary files, which is removed when the process ends or soon afterwards.

TensorFlow's autograph writes a file to the temporary folder for every function that it traces. It removes the files only in an
atexit hook, which neither a killed process nor a child of multiprocessing runs.
"""

import itertools
import json
import os
import re
import shutil
import socket
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.util import Finalize
from pathlib import Path

import psutil

from catdog.system.errors import UserError

# Linux computes a process's start time from a boot time in whole seconds, which can move by one second when the clock is adjusted.
# Another process with the same pid starts much later: a pid is reused only after all others have been used.
START_TOLERANCE_S = 2.0
# A new folder has no owner until its owner.json is written. After this time, one without an owner is considered abandoned.
UNOWNED_S = 60.0
_SCRATCH_NAME = re.compile(r"catdog-\d+(-\d+)?")
_OWNER_FILE = "owner.json"


@dataclass(frozen=True)
class _Owner:
    # The hosts of a cluster may share one temporary folder, and a pid is only valid on its own host.
    host: str
    pid: int
    started: float
    booted: float

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        return is_alive(self.pid, self.started, self.booted)


@dataclass(frozen=True)
class _Opened:
    pid: int
    folder: Path
    former_variable: str | None
    former_tempdir: str | None


_opened: _Opened | None = None


def open_scratch() -> Path:
    """Returns the folder for temporary files of this process and of those it starts; creates it if there is none.

    It is called `catdog-PID`, in the system's temporary folder, and only this user can read it. From then on TMPDIR and
    `tempfile.tempdir` name it. It is removed when the process ends; folders that killed processes left behind are removed now. The
    name is short because multiprocessing puts its sockets in it, and on macOS a socket's path may have at most 104 characters. A
    process whose parent has such a folder shares it.

    Raises:
        UserError: there is no temporary folder that can be written.

    Source: autograph's temporary files: tensorflow/python/autograph/pyct/loader.py, `load_source`.
    """
    global _opened
    if _opened and _opened.pid == os.getpid() and _opened.folder.is_dir():
        return _opened.folder
    named = Path(os.environ.get("TMPDIR", ""))
    if _SCRATCH_NAME.fullmatch(named.name):
        if _is_in_use(named):
            tempfile.tempdir = str(named)
            return named
        # It belonged to a process that has ended, so the next clean-up will remove it with everything in it.
        os.environ["TMPDIR"] = str(named.parent)
        tempfile.tempdir = None
    try:
        base = Path(tempfile.gettempdir())
        for left in list_left_over():
            shutil.rmtree(left, ignore_errors=True)
        folder = _make_folder(base)
    except OSError as error:
        raise UserError(
            f"cannot make a folder for temporary files: {error.strerror} ({error.filename or 'TMPDIR'}). Free some space there, "
            "or set TMPDIR to a folder you may write to."
        ) from error
    _opened = _Opened(os.getpid(), folder, os.environ.get("TMPDIR"), tempfile.tempdir)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    # It must go after multiprocessing's own folder, which is inside it and has priority -100.
    Finalize(None, close_scratch, exitpriority=-200)
    return folder


def list_left_over() -> list[Path]:
    """Returns the folders for temporary files that killed processes left behind."""
    found = Path(tempfile.gettempdir()).glob("catdog-*")
    return [folder for folder in found if _SCRATCH_NAME.fullmatch(folder.name) and _is_left_over(folder)]


def close_scratch() -> None:
    """Removes the folder that `open_scratch` made in this process, and puts the former temporary folder back in use."""
    global _opened
    # A fork inherits the exit hook, but does not own the folder.
    if _opened is None or _opened.pid != os.getpid():
        return
    opened, _opened = _opened, None
    if os.environ.get("TMPDIR") == str(opened.folder):
        del os.environ["TMPDIR"]
        if opened.former_variable is not None:
            os.environ["TMPDIR"] = opened.former_variable
    if tempfile.tempdir == str(opened.folder):
        tempfile.tempdir = opened.former_tempdir
    # What cannot be removed now, such as a file that is being written, is left for the next clean-up.
    shutil.rmtree(opened.folder, ignore_errors=True)


def is_alive(pid: int, started: float, booted: float | None = None) -> bool:
    """Returns whether a process of this host is still running, and its pid has not been reused by another one.

    Args:
        pid: its process id.
        started: its `psutil.Process.create_time()`, in seconds since 1970.
        booted: `psutil.boot_time()` at the moment `started` was read. On Linux, setting the clock moves both. This happens when a
            laptop's virtual machine (WSL, Docker Desktop) wakes up: the process is then recognised only if this is given.
    """
    try:
        process = psutil.Process(pid)
        # A zombie has ended; it only waits for its parent to read its exit code.
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return False
        later_s = process.create_time() - started
        if booted is not None and abs(later_s - (psutil.boot_time() - booted)) < START_TOLERANCE_S:
            return True
        return abs(later_s) < START_TOLERANCE_S
    except psutil.AccessDenied:  # it exists, but this user may not read more about it
        return True
    except (psutil.NoSuchProcess, ValueError, OverflowError):  # the last two: not a valid pid
        return False


def _make_folder(base: Path) -> Path:
    name = f"catdog-{os.getpid()}"
    # The name may be taken by a folder that we must not remove: another user's, or another host's.
    for candidate in itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2))):
        folder = base / candidate
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        break
    owner = _Owner(socket.gethostname(), os.getpid(), psutil.Process().create_time(), psutil.boot_time())
    try:
        (folder / _OWNER_FILE).write_text(json.dumps(asdict(owner)), encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _is_in_use(folder: Path) -> bool:
    try:
        owner = _read_owner(folder)
    except OSError:
        return False
    return owner is not None and owner.is_here and owner.is_alive


def _is_left_over(folder: Path) -> bool:
    try:
        owner = _read_owner(folder)
        if owner is None:
            return time.time() - folder.stat().st_mtime > UNOWNED_S
    except OSError:  # it belongs to another user
        return False
    return owner.is_here and not owner.is_alive


def _read_owner(folder: Path) -> _Owner | None:
    """Returns the folder's owner; None if its owner.json is missing or incomplete."""
    try:
        content = json.loads((folder / _OWNER_FILE).read_bytes())
        return _Owner(content["host"], int(content["pid"]), float(content["started"]), float(content["booted"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError):
        return None
