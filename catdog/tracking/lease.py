"""Leases: which process works on a folder that several hosts may share, without locks and without trust in clocks.

The holder of a folder has the file `lease-N` in it, which says who it is. N, the lease's generation, grows with every holder. The
holder touches the file regularly; one that has not done so for a while may be replaced. To take over is to create `lease-N+1`: of
several processes that try, one succeeds, on any file system. The former holder sees that file, or misses its own, before it writes
anything again. A holder that gives up its lease renames the file to `free-N`.

The age of a file is measured by the file system's own clock, so the hosts' clocks may differ. Where the holder's pid means
something to the process that asks, the kernel knows better than any clock: a process that has ended holds nothing.
"""

import contextlib
import errno
import json
import os
import re
import threading
import time
import uuid
from dataclasses import asdict
from pathlib import Path

from catdog.tracking.ownership import BusyError, Leader, LostError, Owner

# A network file system may show another host a file's time a minute late.
LEASE_S = float(os.environ.get("CATDOG_LEASE_S", "120"))
BEAT_S = LEASE_S / 8
UNKNOWN = Owner("an unknown host", 0, 0.0, 0, 0.0, kernel="unknown")
_FILE = re.compile(r"(lease|free)-(\d+)")
# What an earlier version wrote instead of a lease.
_FORMER = "owner.json"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Lease:
    """The lease of one folder, held or not.

    Args:
        folder: the folder, which must exist before `acquire`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # 0: this process does not hold it.
        self.generation = 0
        self._file: tuple[int, int] = (0, 0)
        self._stop_beating = threading.Event()

    @property
    def path(self) -> Path:
        """The file of the lease that this process holds, or held."""
        return self.folder / f"lease-{self.generation}"

    def read_owner(self) -> Owner | None:
        """Returns the process that holds the lease, dead or alive; None if nobody does."""
        path, _ = self._find_last()
        return None if path is None else _read_owner(path)

    def find_living_owner(self) -> Owner | None:
        """Returns the process that holds the lease, unless it has ended, or has been silent for too long."""
        path, _ = self._find_last()
        return None if path is None else self._find_living(path)

    @property
    def last_renewed(self) -> float | None:
        """When the holder last renewed it, by the file system's clock, in seconds since 1970; None if nobody holds it."""
        path, _ = self._find_last()
        try:
            return None if path is None else path.stat().st_mtime
        except OSError:
            return None

    def acquire(self, leader: Leader | None = None) -> None:
        """Makes this process the holder.

        Args:
            leader: the process that leads its sweep; None: it leads itself.

        Raises:
            BusyError: another process holds it, or this one does already.
            OSError: the folder cannot be written.
        """
        while True:
            path, last = self._find_last()
            owner = None if path is None else self._find_living(path)
            if owner is not None:
                raise BusyError(owner)
            mine = self.folder / f"lease-{last + 1}"
            self._create(mine, json.dumps(asdict(Owner.current(leader))).encode())
            # Somebody may have held a lease of this generation, or of a later one, since the look: then this file is in vain.
            if all(generation <= last for file, generation in self._list() if file != mine):
                break
            mine.unlink(missing_ok=True)
        found = mine.stat()
        self.generation, self._file = last + 1, (found.st_dev, found.st_ino)
        for older, generation in self._list():
            if generation <= last:
                older.unlink(missing_ok=True)
        (self.folder / _FORMER).unlink(missing_ok=True)
        self._stop_beating = threading.Event()
        threading.Thread(target=self._beat, args=(self._stop_beating,), daemon=True, name="heartbeat").start()

    @property
    def is_held(self) -> bool:
        """Whether this process holds it still: nobody has taken over."""
        if not self.generation or (self.folder / f"lease-{self.generation + 1}").exists():
            return False
        try:
            found = self.path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._file

    def require(self) -> None:
        """Raises a LostError if this process does not hold it any more."""
        if not self.is_held:
            raise LostError(self.read_owner())

    def release(self) -> None:
        """Gives it up, if this process holds it."""
        self.end()
        if self.is_held:
            with contextlib.suppress(OSError):
                self.path.rename(self.folder / f"free-{self.generation}")
        self.generation = 0

    def end(self) -> None:
        """Stops renewing it."""
        self._stop_beating.set()

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_S):
            if self.is_held:
                # Without times: the file system sets its own.
                with contextlib.suppress(OSError):
                    os.utime(self.path)

    def _create(self, path: Path, content: bytes) -> None:
        """Creates a file with its content, or raises BusyError if it exists."""
        temporary = self.folder / f".lease-{uuid.uuid4().hex}"
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                path.hardlink_to(temporary)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # Without links the content comes a moment after the file.
                with path.open("xb") as file:
                    file.write(content)
        except FileExistsError:
            raise BusyError(_read_owner(path)) from None
        finally:
            temporary.unlink(missing_ok=True)

    def _list(self) -> list[tuple[Path, int]]:
        try:
            names = os.listdir(self.folder)  # noqa: PTH208  names are enough
        except OSError:
            return []
        found = ((_FILE.fullmatch(name), name) for name in names)
        return [(self.folder / name, int(match[2])) for match, name in found if match]

    def _find_last(self) -> tuple[Path | None, int]:
        """Returns the file of the present holder, None if there is none, and the last generation."""
        path, last = max(self._list(), key=lambda pair: pair[1], default=(None, 0))
        if path is None:
            former = self.folder / _FORMER
            return (former if former.exists() else None), 0
        return (path if path.name.startswith("lease") else None), last

    def _find_living(self, path: Path) -> Owner | None:
        owner = _read_owner(path)
        if owner is not None and owner.is_here:
            if not owner.lives:
                return None
            # A process that is merely slow, or slept with the whole machine, goes on by itself and renews its lease.
            return None if owner.is_stopped and self._is_expired(path) else owner
        return None if self._is_expired(path) else owner or UNKNOWN

    def _is_expired(self, path: Path) -> bool:
        """Returns whether a lease has not been renewed for too long, by the clock of the file system."""
        try:
            renewed = path.stat().st_mtime
        except OSError:
            return True
        return self._read_clock() - renewed > LEASE_S

    def _read_clock(self) -> float:
        """Returns the time of the folder's file system, in seconds since 1970."""
        probe = self.folder / f".clock-{uuid.uuid4().hex}"
        try:
            probe.touch(exist_ok=False)
            os.utime(probe)
            return probe.stat().st_mtime
        except OSError:
            # The folder can only be read: this host's clock must do.
            return time.time()
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)


def _read_owner(path: Path) -> Owner | None:
    """Returns the owner that a lease's file names; None if it is gone, or names none."""
    try:
        return Owner(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
