"""Who works on an unfinished run: a process, identified uniquely by its kernel, pid and start time."""

import functools
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from catdog.system.errors import UserError
from catdog.system.tempdir import is_alive
from catdog.tracking import tags as tag

# The environment variable that says, in the processes of a cluster's job, which job that is.
JOB = "CATDOG_JOB"


@functools.cache
def read_kernel() -> str:
    """Returns what identifies the processes that this one can see by their pids: this boot of the kernel, and the pid namespace.

    Two containers of one computer have namespaces of their own, so a pid of one means nothing in the other. Without Linux' /proc it
    is the host's name.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115  no path, but a name
    except OSError:
        return socket.gethostname()


@dataclass(frozen=True)
class Leader:
    """The process that leads a sweep, for the processes of its runs.

    Attributes:
        pid: its process id.
        started: when it started, in seconds since 1970.
        kernel: where its pid is valid, as `read_kernel` returns it.
    """

    pid: int
    started: float
    kernel: str

    @classmethod
    def current(cls) -> "Leader":
        """Returns this process."""
        return cls(os.getpid(), psutil.Process().create_time(), read_kernel())


@dataclass(frozen=True)
class Owner:
    """The process that works on an entry.

    Attributes:
        host: the name of its computer.
        pid: its process id.
        started: when the process started, in seconds since 1970. Together with the pid it identifies one process for good.
        leader_pid: the process that leads its sweep; the process itself if there is no sweep.
        leader_started: when the leader started.
        booted: when the host booted. Adjusting the clock shifts this and all start times alike.
        kernel: where its pid is valid; "" if an older catdog recorded it.
        leader_kernel: where the leader's pid is valid.
        job: the cluster's job that it is part of, in words; "" without a cluster.
    """

    host: str
    pid: int
    started: float
    leader_pid: int
    leader_started: float
    booted: float | None = None
    kernel: str = ""
    leader_kernel: str = ""
    job: str = ""

    @classmethod
    def current(cls, leader: Leader | None = None) -> "Owner":
        """Returns this process as an owner.

        Args:
            leader: the process that leads its sweep; None: it leads itself.
        """
        me = Leader.current()
        leader = leader or me
        return cls(
            socket.gethostname(), me.pid, me.started, leader.pid, leader.started, psutil.boot_time(), me.kernel, leader.kernel,
            os.environ.get(JOB, ""),
        )  # fmt: skip

    @classmethod
    def from_tag(cls, text: str | None) -> "Owner | None":
        """Returns the owner that a run's tag `catdog.owner` names."""
        try:
            return cls(**json.loads(text or "{}"))
        except (ValueError, TypeError):
            return None

    @property
    def tags(self) -> dict[str, str]:
        """The tags that record the owner on an MLflow run, so that a run left RUNNING by a dead process can be recognised."""
        return {tag.OWNER: json.dumps(asdict(self)), **sign_of_life()}

    @property
    def is_here(self) -> bool:
        """Whether this process can see the owner by its pid, if it is alive. Two hosts may have the same name."""
        return self.kernel == read_kernel() if self.kernel else self.host == socket.gethostname()

    @property
    def is_orphan(self) -> bool:
        """Whether its leader, which this process could see, is gone, so that the owner is about to stop."""
        leader_kernel = self.leader_kernel or self.kernel
        led_here = leader_kernel == self.kernel and self.is_here
        return led_here and not is_alive(self.leader_pid, self.leader_started, self.booted)

    @property
    def lives(self) -> bool:
        """Whether its process, which is here, is alive."""
        return is_alive(self.pid, self.started, self.booted)

    @property
    def is_stopped(self) -> bool:
        """Whether its process, which is here, was stopped, as by Ctrl-Z: it does nothing until somebody lets it go on."""
        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)
        except psutil.Error:
            return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}{f' ({self.job})' if self.job else ''}"


def sign_of_life() -> dict[str, str]:
    """Returns the tag that says when a process last worked on an MLflow run, by its own clock."""
    return {tag.SIGN_OF_LIFE: f"{time.time():.0f}"}


class BusyError(Exception):
    """The entry is owned by another process that is still alive."""

    def __init__(self, owner: Owner | None) -> None:
        super().__init__(f"owned by {owner or 'another process'}")
        self.owner = owner


class LostError(UserError, BusyError):
    """This process owned the entry, was silent for too long, and another one has taken over since."""

    def __init__(self, owner: Owner | None) -> None:
        BusyError.__init__(self, owner)
        UserError.__init__(
            self,
            f"{owner or 'another process'} has taken over, because this process was stopped, or cut off from the outbox, for too "
            "long. Nothing more is recorded here; what was recorded before is kept.",
        )
