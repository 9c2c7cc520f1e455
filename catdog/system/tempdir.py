"""A process's own folder for temporary files, which never outlives the process for long.

TensorFlow's autograph leaves a file in the temporary folder for every function that it traces, and removes it by atexit
alone, which neither a killed process nor a child of multiprocessing runs.
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

# Linux counts a process's start from a boot time in whole seconds, which moves by one when the clock is set by less than that.
# Another process with the same pid starts far later: all other pids are given out before one comes again.
START_TOLERANCE_S = 2.0
# A folder has no owner for the moment between its making and the writing of its owner.json.
UNOWNED_S = 60.0
_SCRATCH_NAME = re.compile(r"catdog-\d+(-\d+)?")
_OWNER_FILE = "owner.json"


@dataclass(frozen=True)
class _Owner:
    # The temporary folder of a cluster may be one for all hosts, and a pid says nothing about another's processes.
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
    """Returns the folder that this process and those it starts put their temporary files in; makes it where there is none.

    It is `catdog-PID` in the temporary folder, for this user alone: TMPDIR and `tempfile.tempdir` name it from then on. It goes
    when the process ends; what killed processes have left goes too. The name is short because multiprocessing puts its
    sockets below it, and their paths end at 104 characters on macOS. A process whose parent has such a folder shares it.

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
        # It was the folder of a process that has ended, and whoever cleans up next takes all that is below it.
        os.environ["TMPDIR"] = str(named.parent)
        tempfile.tempdir = None
    try:
        base = Path(tempfile.gettempdir())
        for left in base.glob("catdog-*"):
            if _SCRATCH_NAME.fullmatch(left.name) and _is_left_over(left):
                shutil.rmtree(left, ignore_errors=True)
        folder = _make_folder(base)
    except OSError as error:
        raise UserError(
            f"cannot make a folder for temporary files: {error.strerror} ({error.filename or 'TMPDIR'}). Free some space there, "
            "or set TMPDIR to a folder you may write to."
        ) from error
    _opened = _Opened(os.getpid(), folder, os.environ.get("TMPDIR"), tempfile.tempdir)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    # After multiprocessing's own folder below it, whose priority is -100.
    Finalize(None, close_scratch, exitpriority=-200)
    return folder


def close_scratch() -> None:
    """Removes the folder that `open_scratch` made in this very process, and makes the former temporary folder the one in use."""
    global _opened
    # A fork inherits the hook, but not the folder.
    if _opened is None or _opened.pid != os.getpid():
        return
    opened, _opened = _opened, None
    if os.environ.get("TMPDIR") == str(opened.folder):
        del os.environ["TMPDIR"]
        if opened.former_variable is not None:
            os.environ["TMPDIR"] = opened.former_variable
    if tempfile.tempdir == str(opened.folder):
        tempfile.tempdir = opened.former_tempdir
    # What cannot be removed now, such as a file that a process writes this instant, goes with the next clean-up.
    shutil.rmtree(opened.folder, ignore_errors=True)


def is_alive(pid: int, started: float, booted: float | None = None) -> bool:
    """Returns whether a process of this host runs, and is not another one that got its pid.

    Args:
        pid: its process id.
        started: its `psutil.Process.create_time()`, in seconds since 1970.
        booted: `psutil.boot_time()` when `started` was asked for. On Linux, setting the clock moves both, as happens when a
            laptop's virtual machine (WSL, Docker Desktop) wakes up: with this the process is known again, without it not.
    """
    try:
        process = psutil.Process(pid)
        # A zombie does nothing any more: it waits for its parent to ask how it ended.
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return False
        later_s = process.create_time() - started
        if booted is not None and abs(later_s - (psutil.boot_time() - booted)) < START_TOLERANCE_S:
            return True
        return abs(later_s) < START_TOLERANCE_S
    except psutil.AccessDenied:  # it is there, and tells this user no more
        return True
    except (psutil.NoSuchProcess, ValueError, OverflowError):  # the last two: no pid at all
        return False


def _make_folder(base: Path) -> Path:
    name = f"catdog-{os.getpid()}"
    # The name may be taken by a folder that is not ours to remove: another user's, or another host's.
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
    except OSError:  # another user's
        return False
    return owner.is_here and not owner.is_alive


def _read_owner(folder: Path) -> _Owner | None:
    """Returns who made the folder; None where that is not written there, or not yet to the end."""
    try:
        content = json.loads((folder / _OWNER_FILE).read_bytes())
        return _Owner(content["host"], int(content["pid"]), float(content["started"]), float(content["booted"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError):
        return None
