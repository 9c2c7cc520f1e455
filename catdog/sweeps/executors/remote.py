"""The side of a run that is trained on another host: the leader and the run share a folder, and neither waits for the other.

The folder of a run lies in the outbox, `jobs/DIGEST`. It holds the order, which job has it, and what the run reports. It outlives
the leader, so that the same command finds the job again; the leader removes it once it has the run's result.
"""

import abc
import contextlib
import json
import logging
import os
import pickle
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from omegaconf import DictConfig, OmegaConf, open_dict

from catdog.config.digest import hash_text
from catdog.sweeps.executors.executor import Message, Retry, Task
from catdog.sweeps.options import ClusterOptions
from catdog.sweeps.worker import Link, WorkOrder, set_up_hydra, train_order
from catdog.system import interrupts
from catdog.system.errors import UserError
from catdog.system.files import write_atomically
from catdog.system.memory import own_process
from catdog.system.tempdir import open_scratch
from catdog.tracking import lease
from catdog.tracking.checkpoint import load_checkpoint
from catdog.tracking.outbox import Entry, entry_for
from catdog.tracking.ownership import JOB, Owner

_LENGTH = struct.Struct(">Q")
DIGITS = 20
# What ends a run's report.
FINAL = ("outcome", "pause", "error", "diverged", "busy")
PROGRESS_EVERY_S = 2.0
LOOK_EVERY_S = 0.5
# What a job wrote on another host may be seen here a moment after its end.
GRACE_S = 5.0
# How long a job may take to end after it has reported its result.
LINGER_S = 30.0
SHOWN_LINES = 30
# How often a job looks whether it is to stop, and how much more memory it tells the leader about.
WATCH_EVERY_S = 1.0
MEMORY_STEP_GB = 0.05


class Mailbox:
    """What a run reports, in a file that only grows: pickled messages, each after its length.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def post(self, message: Message) -> None:
        """Adds a message."""
        content = pickle.dumps(message)
        with self.path.open("ab") as file:
            file.write(_LENGTH.pack(len(content)) + content)

    def collect(self) -> list[Message]:
        """Returns the messages since the last call. One that is being written comes with the next call."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        messages: list[Message] = []
        place = 0
        while place + _LENGTH.size <= len(content):
            (length,) = _LENGTH.unpack_from(content, place)
            end = place + _LENGTH.size + length
            if end > len(content):
                break
            messages.append(pickle.loads(content[place + _LENGTH.size : end]))
            place = end
        self._offset += place
        return messages


class JobFolder:
    """The folder that a leader and a run on another host share.

    Args:
        root: the outbox.
        digest: the run's identity.
    """

    def __init__(self, root: Path, digest: str) -> None:
        self.path = root.absolute() / "jobs" / digest[:DIGITS]

    @classmethod
    def at(cls, path: str) -> "JobFolder":
        """Returns the folder at a path."""
        return cls(Path(path).parent.parent, Path(path).name)

    @property
    def key(self) -> str:
        """What distinguishes its job from all others of a cluster, also from those of the same run with another outbox."""
        return hash_text(str(self.path))[:DIGITS]

    @property
    def record(self) -> dict[str, Any]:
        """Which job has the run; {} if none."""
        try:
            return dict(json.loads((self.path / "job.json").read_bytes()))
        except (OSError, ValueError):
            return {}

    @property
    def mailbox(self) -> Mailbox:
        """What the run reports, from its beginning."""
        return Mailbox(self.path / "messages")

    @property
    def result(self) -> Message | None:
        """The message with the run's result; None if it has none yet."""
        found = [message for message in self.mailbox.collect() if message[0] in FINAL]
        return found[-1] if found else None

    @property
    def stop(self) -> Path:
        """A file that asks the run to close, once it is there."""
        return self.path / "stop"

    def prepare(self, task: Task, threads: int | None) -> None:
        """Writes the order, in an empty folder."""
        former = str(self.record.get("words", ""))
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        # On another host, a run is led by nobody: it goes on without the leader.
        order = WorkOrder(_resolve(task.composed), task.job.without_leader(), {}, threads)
        write_atomically(self.path / "order", pickle.dumps((order, former)))

    def save_record(self, **record: Any) -> None:
        """Notes which job has the run."""
        write_atomically(self.path / "job.json", json.dumps(record))

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        # The last one takes the folder of all with it.
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()


class RemoteHandle(abc.ABC):
    """A job on another host.

    Args:
        folder: of its run.
    """

    def __init__(self, folder: JobFolder) -> None:
        self.folder = folder
        self.mailbox = folder.mailbox
        self.started: float | None = None
        self.retry: Retry = "counted"
        self.node = ""
        self._memory_gb = 0.0
        self._is_done = False
        self._reported: float | None = None
        self._gone: float | None = None

    @abc.abstractmethod
    def ask_end(self) -> str | None:
        """Returns how the job ended, in words, and sets `retry`; None if it has not, as far as can be known."""

    @abc.abstractmethod
    def read_output(self) -> str:
        """Returns what the job has printed."""

    def receive(self) -> list[Message]:
        """Returns what the run has reported since the last call."""
        messages = []
        for kind, value in self.mailbox.collect():
            if kind == "memory":
                self._memory_gb = value
                continue
            if kind == "began":
                self.started, self.node = time.monotonic(), value["node"]
            elif kind in FINAL:
                self._reported, self._is_done = time.monotonic(), kind == "outcome"
            messages.append((kind, value))
        return messages

    def poll(self) -> str | None:
        """Returns how the job ended, in words; None if it may still report something."""
        how = self.ask_end()
        if self._reported is not None:
            # The job needs its folder until it has ended.
            if how is None and time.monotonic() - self._reported < LINGER_S:
                return None
            if self._is_done:
                self.folder.remove()
            return "it has ended"
        if how is None:
            self._gone = None
            return None
        if self._gone is None:
            self._gone = time.monotonic()
        if time.monotonic() - self._gone < GRACE_S:
            return None
        if self.retry == "never":
            return how
        if self.started is None:
            how += f" before it began: its host must see {self.folder.path}, and have catdog"
        lines = self.read_output().splitlines()
        return "\n".join([how, *lines[-SHOWN_LINES:]])

    def memory_gb(self) -> float:
        """Returns how much memory its process uses, as it has reported."""
        return self._memory_gb


class ClusterExecutor(abc.ABC):
    """What executors on other hosts have in common.

    Args:
        options: the launcher's.
        outbox: the folder that all hosts see.
    """

    def __init__(self, options: ClusterOptions, outbox: Path) -> None:
        self.outbox = outbox
        self.n_jobs = options.n_jobs
        self.detaches = options.detach

    @abc.abstractmethod
    def find_id(self, digest: str) -> str:
        """Returns the id of the job that has the run with an identity and has not ended; "" if there is none."""

    @abc.abstractmethod
    def describe(self, digest: str, job_id: str) -> str:
        """Returns a job in words, and whether it has begun."""

    @abc.abstractmethod
    def build_handle(self, folder: JobFolder, job_id: str) -> Any:
        """Returns the handle of a job."""

    def folder_of(self, digest: str) -> JobFolder:
        """Returns the folder of the run with an identity."""
        return JobFolder(self.outbox, digest)

    def adopt(self, task: Task, *, ended: bool) -> Any:
        """Returns the job that an earlier leader has started for a run; None if there is none.

        Args:
            task: the run.
            ended: whether a job that has ended with a result will do.
        """
        assert task.job.identity is not None
        folder = self.folder_of(task.job.identity.digest)
        job_id = self._find_open(task.job.identity.digest)
        if not job_id and ended and folder.result:
            job_id = str(folder.record.get("id", ""))
        return self.build_handle(folder, job_id) if job_id else None

    def find(self, digest: str) -> str:
        """Returns in words the job that has a run, and has not ended; "" if there is none."""
        job_id = self._find_open(digest)
        return self.describe(digest, job_id) if job_id else ""

    def _find_open(self, digest: str) -> str:
        folder = self.folder_of(digest)
        return "" if not folder.path.exists() or folder.result else self.find_id(digest)

    def forget(self, digest: str) -> None:
        """Removes what an earlier leader's job has left of the run with an identity, whose result is in the store."""
        self.folder_of(digest).remove()

    def wait(self, handles: Sequence[Any], timeout_s: float) -> None:
        """Waits a moment."""
        del handles, timeout_s
        time.sleep(LOOK_EVERY_S)


def _resolve(composed: DictConfig) -> DictConfig:
    """Returns a composed config with the values that it has from variables of this process: the host of the run may have others.

    Other references stay, such as that to the cache, which each host may have in a place of its own.
    """
    resolved = composed.copy()
    with open_dict(resolved):
        _replace_variables(resolved, [key for key in resolved if key != "hydra"])
    return resolved


def _replace_variables(node: Any, keys: Sequence[Any]) -> None:
    raw = OmegaConf.to_container(node, resolve=False)
    for key in keys:
        value = raw[key]  # type: ignore[index]
        if isinstance(value, dict | list):
            _replace_variables(node[key], list(value) if isinstance(value, dict) else range(len(value)))
        elif isinstance(value, str) and "${oc.env:" in value:
            found = node[key]
            # What reads like a reference is text.
            node[key] = re.sub(r"(\\*)\$\{", r"\1\1\\${", found) if isinstance(found, str) else found


def name_job(task: Task, folder: JobFolder) -> str:
    """Returns the name of a run's job: the run's, with the key of its folder at the end."""
    words = "".join(character if character.isalnum() or character in "=._-" else "_" for character in task.job.name)
    return f"{words[:80]}-{folder.key}"


@dataclass(frozen=True)
class TimeLimit:
    """The time limit of a job.

    Attributes:
        signal: the signal that comes before it.
        requeue: the command that puts the job into the queue again.
    """

    signal: int
    requeue: Sequence[str]


def work_remotely(folder: str, job: str, *, limit: TimeLimit | None = None, node: str = "") -> None:
    """Trains the run whose order lies in a folder, on whatever host this is.

    Args:
        folder: of the run.
        job: which job this is, in words.
        limit: the job's time limit, if it has one.
        node: the host, as the executor names it.

    Raises:
        SystemExit: the run was stopped, and is closed.
    """
    place = Path(folder)
    own_process()
    # The leader's folder for temporary files, which TMPDIR may name, is not here.
    open_scratch()
    os.environ[JOB] = job
    link = Link(Mailbox(place / "messages").post, PROGRESS_EVERY_S)
    order, former = pickle.loads((place / "order").read_bytes())
    # submitit's lines belong to the job's own log.
    logging.getLogger("submitit").propagate = False
    link.send("began", {"host": socket.gethostname(), "job": job, "pid": os.getpid(), "node": node})
    interrupts.listen(once=True)
    threading.Thread(target=_watch, args=(place / "stop", link), daemon=True).start()
    has_limit = threading.Event()

    def meet_limit(_number: int, _frame: Any) -> None:
        has_limit.set()
        signal.raise_signal(signal.SIGINT)

    if limit is not None:
        signal.signal(limit.signal, meet_limit)
    set_up_hydra(order)
    try:
        entry = _find_entry(order)
        _await_former(entry, {job, former} - {""})
        before = _count_epochs(entry)
        _require_planned_code(order)
        train_order(order, link)
    except UserError as error:
        link.send("error", str(error))
    except KeyboardInterrupt:
        if limit is not None and has_limit.is_set():
            if _count_epochs(entry) == before:
                link.send(
                    "error", "the job's time limit came before the end of an epoch: raise hydra.launcher.timeout_min"
                )
            else:
                link.send("log", ("the job's time limit comes: it goes back into the queue", logging.INFO))
                subprocess.run(limit.requeue, check=True, timeout=60)
        raise SystemExit(130) from None


def _watch(stop: Path, link: Link) -> None:
    """Stops this process like Ctrl-C once a file is there, and reports how much memory it uses."""
    process, told_gb = psutil.Process(), 0.0
    while not stop.exists():
        used_gb = process.memory_info().rss / 1e9
        if used_gb > told_gb + MEMORY_STEP_GB:
            link.send("memory", used_gb)
            told_gb = used_gb
        time.sleep(WATCH_EVERY_S)
    os.kill(os.getpid(), signal.SIGINT)


def _find_entry(order: WorkOrder) -> Entry:
    composed, identity = order.composed, order.job.identity
    assert identity is not None
    tracking = composed.tracking
    return entry_for(Path(tracking.outbox), str(tracking.uri), str(composed.study), "run", identity.digest)


def _await_former(entry: Entry, jobs: set[str]) -> None:
    """Waits for the lease of a former attempt to end, of this job or an earlier one: its node may have died, or been cut off."""
    deadline = time.monotonic() + 2 * lease.LEASE_S
    while time.monotonic() < deadline:
        owner = entry.find_living_owner()
        if owner is None or owner.job not in jobs or owner == Owner.current():
            return
        time.sleep(lease.BEAT_S / 4)


def _count_epochs(entry: Entry) -> int:
    checkpoint = load_checkpoint(entry.checkpoints)
    return checkpoint.epoch if checkpoint else 0


def _require_planned_code(order: WorkOrder) -> None:
    """Raises a UserError if this host's code, or a library that counts, is not what the run was planned with."""
    from catdog.config.composition import without_hydra
    from catdog.config.schema import Config, load_config
    from catdog.tracking.identity import describe_code_change, describe_libraries_change, identify

    planned = order.job.identity
    assert planned is not None
    mine = identify(load_config(without_hydra(order.composed), Config), planned.data, planned.runtime)
    changed = [
        describe_code_change(planned.files, mine.files) if planned.code != mine.code else "",
        describe_libraries_change(planned.libraries, mine.libraries),
    ]
    if any(changed):
        raise UserError(
            f"the code on {socket.gethostname()} is not what was planned: {'; '.join(filter(None, changed))}. Install the same on "
            "all hosts, or use a folder that all of them see; then run the command again."
        )
