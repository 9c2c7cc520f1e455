"""The outbox: what a run has produced and MLflow does not have yet, one folder per unfinished run or sweep.

A run writes its metrics, tags and artifacts here, in order and safe from a crash. `catdog.tracking.delivery` sends them to MLflow,
so a slow or unavailable tracking server neither stops nor slows training. The folder also holds the run's checkpoints. It has one
owner at a time. It is removed when the run has finished and everything is delivered: MLflow remains the only permanent record.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import psutil

from catdog.system.errors import UserError
from catdog.system.files import DISK_FULL, sync_file, sync_folder, write_atomically
from catdog.system.interrupts import held
from catdog.system.wording import plural
from catdog.tracking import tags as tag
from catdog.tracking.lease import Lease
from catdog.tracking.ownership import BusyError, Leader, Owner
from catdog.tracking.store import relative_uri

ORPHAN_PATIENCE_S = 30.0
# MLflow's statuses of a run that no process works on. A paused run waits at its checkpoint until somebody resumes it.
PAUSED = "SCHEDULED"
# The key of a journal's line for the generation of the lease under which it was written.
GENERATION = "generation"
# The beginning of the name of a folder that is being removed.
GONE = "gone-"
CLOSED = ("FINISHED", "FAILED", "KILLED", PAUSED)

log = logging.getLogger(__name__)


class Entry:
    """One run's or sweep's folder in the outbox, and the journal of what it has to deliver.

    Reading needs no ownership; `append` and delivery do.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lease = Lease(folder)
        self._journal: Any = None
        self._write = threading.Lock()
        self._points: set[tuple[str, int]] = set()
        self.operations: list[dict[str, Any]] = []
        # Why the store will never accept the next operation; "" if it may.
        self.refusal = ""

    # Its content.

    @property
    def facts(self) -> dict[str, Any]:
        """What was written when the entry was created: kind, key, name, study, tracking, identity, tags ..."""
        return _read_json(self.folder / "entry.json")

    @property
    def study(self) -> str:
        """The study that its run or sweep belongs to."""
        return str(self.facts.get("study", ""))

    @property
    def uri(self) -> str:
        """The address of the store that it is for."""
        return str(self.facts.get("tracking", {}).get("uri", ""))

    def describe(self) -> str:
        """Returns in words what it is, and how much it still has to deliver."""
        name = self.facts.get("name", self.folder.name)
        return f"{name} of the study {self.study!r}, {plural(self.pending, 'record')} in {self.folder}"

    @property
    def state(self) -> dict[str, Any]:
        """The progress of delivery: count of operations delivered, run_id, and what delivery has returned."""
        return {"count": 0, "run_id": "", **_read_json(self.folder / "delivered.json")}

    def save_state(self, **changes: Any) -> dict[str, Any]:
        """Replaces parts of `state` on disk; returns the new state.

        Raises:
            LostError: another process has taken over the entry.
        """
        self.lease.require()
        state = {**self.state, **changes}
        write_atomically(self.folder / "delivered.json", json.dumps(state).encode())
        return state

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.folder / "checkpoints"

    @property
    def pending(self) -> int:
        """The number of operations that MLflow does not have yet."""
        return max(0, len(self.operations) - int(self.state["count"]))

    @property
    def last_status(self) -> str:
        """The last status that was journaled: RUNNING, FINISHED, FAILED, KILLED or PAUSED; "" before the first."""
        found = [item["status"] for item in self.operations if item["op"] == "status"]
        return found[-1] if found else ""

    @property
    def has_points(self) -> bool:
        """Whether the journal holds metrics of epochs."""
        return any(item["op"] == "metrics" and item["step"] > 0 for item in self.operations)

    def supersede(self, why: str) -> None:
        """Sets aside the entry, which this process owns: the next delivery closes its run as KILLED, and another run begins.

        The entry's name becomes free. What it still has to deliver stays in the outbox under another name.
        """
        tags = {key for item in self.operations if item["op"] == "tags" for key in item["values"]}
        members = {key: "" for key in tags if key.startswith(tag.MEMBER)}
        self.append("tags", values={tag.ERROR: why, **members})
        self.append("status", status="KILLED", time_ms=int(time.time() * 1000))
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        aside = self.folder.with_name(f"{self.folder.name}-{self.facts['key'][:8]}")
        former, self.lease.folder = self.folder, aside
        former.rename(aside)
        self.release()
        self.lease = Lease(former)

    @property
    def is_aside(self) -> bool:
        """Whether it was superseded, so that it is removed once it is delivered."""
        return self.folder.name.count("-") == 2

    # Its owner.

    def claim(self, facts: dict[str, Any] | None = None, leader: Leader | None = None) -> "Entry":
        """Makes this process the owner, creating the entry if needed; returns the entry with its journal read.

        Args:
            facts: those of a new entry; an existing entry keeps its own.
            leader: the process that leads the sweep; None: this process.

        Raises:
            BusyError: another living process owns it.
            FileNotFoundError: there is no such entry, and no facts are given.
            UserError: the outbox cannot be written.
        """
        with _disk_errors_named(self.folder.parent):
            if facts is None and not (self.folder / "entry.json").exists():
                raise _no_such_entry(self.folder)
            while True:
                (self.folder / "files").mkdir(parents=True, exist_ok=True)
                try:
                    self.lease.acquire(leader)
                    break
                except FileNotFoundError:
                    # Its owner has removed it this moment.
                    if facts is None:
                        raise
            try:
                if not (self.folder / "entry.json").exists():
                    if facts is None:
                        raise _no_such_entry(self.folder)
                    self._clear()
                    content = {"key": uuid.uuid4().hex, **facts}
                    write_atomically(self.folder / "entry.json", json.dumps(content).encode())
                self._open_journal()
            except BaseException:
                self.lease.release()
                raise
        return self

    def _clear(self) -> None:
        """Removes what an owner that was killed while creating the entry has left."""
        self._points.clear()
        for path in self.folder.iterdir():
            if path.name == "files":
                for staged in path.iterdir():
                    shutil.rmtree(staged, ignore_errors=True)
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path != self.lease.path:
                path.unlink(missing_ok=True)

    def release(self) -> None:
        """Gives up ownership, so that another process may claim the entry."""
        self._close_journal()
        self.lease.release()

    def remove(self) -> None:
        """Removes the entry, if this process owns it."""
        self._close_journal()
        self.lease.end()
        if self.lease.is_held:
            # In one step: whoever wants an entry of this name meanwhile begins a new one.
            gone = self.folder.with_name(f"{GONE}{uuid.uuid4().hex}")
            with contextlib.suppress(FileNotFoundError):
                self.folder.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
        self.lease = Lease(self.folder)

    def read_owner(self) -> Owner | None:
        """Returns the process that claimed the entry last and did not release it, dead or alive."""
        return self.lease.read_owner()

    def find_living_owner(self) -> Owner | None:
        """Returns the owner if it is alive: judged by its process where that can be seen, by its lease elsewhere."""
        return self.lease.find_living_owner()

    @property
    def last_renewed(self) -> float | None:
        """When its owner last renewed the lease, by the file system's clock, in seconds since 1970; None if nobody owns it."""
        return self.lease.last_renewed

    # The journal: what the entry has to deliver.

    def read_journal(self) -> "Entry":
        """Reads the journal without owning the entry; returns the entry."""
        self.operations, _ = _parse_journal(self.folder / "journal")
        return self

    def _close_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _open_journal(self) -> None:
        path = self.folder / "journal"
        self.operations, length = _parse_journal(path)
        for item in self.operations:
            if item["op"] == "metrics":
                self._points |= {(key, item["step"]) for key in item["values"]}
        self._journal = path.open("ab", buffering=0)
        # A line that a crash or a full disk cut short was never reported as written.
        self._journal.truncate(length)

    def append(self, op: str, **content: Any) -> None:
        """Adds an operation to the journal; it is on the disk when this returns.

        Raises:
            UserError: the disk is full.
            LostError: another process has taken over the entry.
        """
        item = {"op": op, **content}
        text = json.dumps({**item, GENERATION: self.lease.generation})
        # An interrupt between writing the line and adding the item in memory would make the two counts differ.
        with held(), self._write, _disk_errors_named(self.folder):
            self.lease.require()
            size = self._journal.seek(0, os.SEEK_END)
            line = f"{zlib.crc32(text.encode()):08x} {text}\n".encode()
            try:
                written = self._journal.write(line)
                if written != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._journal.fileno())
            except OSError:
                self._journal.truncate(size)
                raise
            self.operations.append(item)
            if op == "metrics":
                self._points |= {(key, item["step"]) for key in item["values"]}

    def append_metrics(self, values: dict[str, float], step: int) -> None:
        """Adds metrics, except those already in the journal at this step: a resumed run repeats none."""
        fresh = {key: value for key, value in values.items() if (key, step) not in self._points}
        if fresh:
            # The time is part of the operation: if it is delivered twice, MLflow still sees one point.
            self.append("metrics", values=fresh, step=step, time_ms=int(time.time() * 1000))

    def next_step(self, prefix: str) -> int:
        """Returns the step after the last one journaled of metrics whose names begin with `prefix`; 0 before the first."""
        return max((step + 1 for key, step in self._points if key.startswith(prefix)), default=0)

    def append_file(self, content: bytes | Path, path: str) -> None:
        """Adds the artifact `path`, given its bytes or a local file, which is copied."""
        self.lease.require()
        with self.staged_folder() as folder:
            # MLflow names artifacts after their local file.
            target = folder / PurePosixPath(path).name
            if isinstance(content, Path):
                shutil.copyfile(content, target)
            else:
                target.write_bytes(content)
        self.append("file", folder=folder.name, path=path)

    @contextlib.contextmanager
    def staged_folder(self) -> Iterator[Path]:
        """Yields an empty folder below the entry's files; removes it if the block raises."""
        folder = self.folder / "files" / uuid.uuid4().hex
        with _disk_errors_named(self.folder):
            folder.mkdir()
            try:
                yield folder
                # The journal will refer to these files, so they must be on the disk first.
                for path in [*folder.rglob("*"), folder, folder.parent]:
                    (sync_folder if path.is_dir() else sync_file)(path)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise


def end_orphan(entry: Entry) -> None:
    """Waits for the owner of an entry to end if the owner's leader is gone; kills an owner that does not stop by itself."""
    told = False
    deadline = time.monotonic() + ORPHAN_PATIENCE_S
    while (owner := entry.find_living_owner()) is not None and owner.is_orphan:
        if not told:
            told = True
            log.info("%s belongs to a sweep that was killed; waiting for it to stop", owner)
        if time.monotonic() > deadline:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(owner.pid).kill()
        time.sleep(0.1)


def entry_for(root: Path, uri: str, study: str, kind: str, identity: str) -> Entry:
    """Returns the entry of a run or sweep, which may not exist yet; the same identity in the same study gives the same entry."""
    uri = relative_uri(uri)
    name = hashlib.sha256("\n".join([uri, study, kind, identity]).encode()).hexdigest()[:20]
    return Entry(root / f"{kind}-{name}")


def list_entries(root: Path) -> list[Entry]:
    """Returns all entries of an outbox, runs before sweeps, with their journals read."""
    # An earlier version called the outbox "spool", and may have left entries there.
    roots = [root, *([root.parent / "spool"] if root.name == "outbox" else [])]
    folders = [folder for kind in ("run-*", "sweep-*") for each in roots for folder in sorted(each.glob(kind))]
    return [Entry(folder).read_journal() for folder in folders if (folder / "entry.json").exists()]


def clear_remains(root: Path) -> None:
    """Removes what is left of entries whose owner was killed while creating or removing them."""
    for path in root.glob(f"{GONE}*"):
        shutil.rmtree(path, ignore_errors=True)
    for folder in [*root.glob("run-*"), *root.glob("sweep-*")]:
        if folder.suffix == ".lock":
            # An earlier version's.
            folder.unlink(missing_ok=True)
        elif not (folder / "entry.json").exists():
            entry = Entry(folder)
            with contextlib.suppress(BusyError, UserError, OSError):
                entry.claim({}).remove()


def _no_such_entry(folder: Path) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "no such entry", str(folder))


def _read_json(path: Path) -> dict[str, Any]:
    """Returns the content of a file that is written atomically; {} if it does not exist."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _parse_journal(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Returns the intact operations of a journal and their length in bytes; reading stops at the first damaged line."""
    try:
        content = path.read_bytes()
    except OSError:
        return [], 0
    operations = []
    length = newest = 0
    for line in content.splitlines(keepends=True):
        checksum, _, text = line[:-1].partition(b" ")
        if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
            break
        item = json.loads(text)
        length += len(line)
        # What a former owner wrote in the moment in which another one took over does not count.
        generation = item.pop(GENERATION, newest)
        if generation >= newest:
            newest = generation
            operations.append(item)
    return operations, length


@contextlib.contextmanager
def _disk_errors_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            problem = f"the disk is full ({error.strerror}). Free some space; the same command then resumes"
        elif isinstance(error, PermissionError | NotADirectoryError | FileExistsError) or error.errno == errno.EROFS:
            problem = f"{error.strerror}. Set tracking.outbox=PATH to a folder you may write to"
        else:
            raise
        raise UserError(f"tracking.outbox: cannot write {folder}: {problem}.") from error
