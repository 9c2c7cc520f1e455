"""The side of a run that is trained on another host: the leader and the run share a folder, and neither waits for the other.

The folder of a run lies in the outbox, `jobs/DIGEST`. It holds the order, which job has it, and what the run reports. It outlives
the leader, so that the same command finds the job again; the leader removes it once it has the run's result.
"""

import contextlib
import json
import logging
import os
import pickle
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from catdog.sweeps.executors.executor import Message, Task
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

    def prepare(self, task: Task, threads: int | None) -> None:
        """Writes the order, in an empty folder."""
        former = str(self.record.get("words", ""))
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        # On another host, a run is led by nobody: it goes on without the leader.
        order = WorkOrder(task.composed, task.job.without_leader(), {}, threads)
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


def work_remotely(folder: str, job: str, limit_signal: int, requeue: "list[str]") -> None:
    """Trains the run whose order lies in a folder, on whatever host this is.

    Args:
        folder: of the run.
        job: which job this is, in words.
        limit_signal: the signal that comes before the job's time limit.
        requeue: the command that puts the job into the queue again.

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
    link.send("began", {"host": socket.gethostname(), "job": job, "pid": os.getpid()})
    interrupts.listen(once=True)
    has_limit = threading.Event()

    def meet_limit(_number: int, _frame: Any) -> None:
        has_limit.set()
        signal.raise_signal(signal.SIGINT)

    signal.signal(limit_signal, meet_limit)
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
        if has_limit.is_set():
            if _count_epochs(entry) == before:
                link.send(
                    "error", "the job's time limit came before the end of an epoch: raise hydra.launcher.timeout_min"
                )
            else:
                link.send("log", ("the job's time limit comes: it goes back into the queue", logging.INFO))
                subprocess.run(requeue, check=True, timeout=60)
        raise SystemExit(130) from None


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
