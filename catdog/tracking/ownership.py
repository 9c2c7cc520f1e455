"""Whose work an unfinished run is: a process, named for good by host, pid and start time."""

import json
import os
import socket
from dataclasses import asdict, dataclass

import psutil

from catdog.system.tempdir import is_alive


@dataclass(frozen=True)
class Owner:
    """The process that works on an entry.

    Attributes:
        host: its computer.
        pid: its process id.
        started: when that process started, in seconds since 1970: with the pid, it names one process for good.
        leader_pid: the process that leads its sweep; its own where there is no sweep.
        leader_started: when the leader started.
        booted: when the host was: a clock that is set moves it and all start times alike.
    """

    host: str
    pid: int
    started: float
    leader_pid: int
    leader_started: float
    booted: float | None = None

    @classmethod
    def current(cls, leader: "tuple[int, float] | None" = None) -> "Owner":
        """Returns this process as an owner; `leader` is (pid, start time) of the process that leads its sweep."""
        me = (os.getpid(), psutil.Process().create_time())
        return cls(socket.gethostname(), *me, *(leader or me), psutil.boot_time())

    @classmethod
    def from_tag(cls, text: str | None) -> "Owner | None":
        """Returns the owner that a run's tag `catdog.owner` names."""
        try:
            return cls(**json.loads(text or "{}"))
        except (ValueError, TypeError):
            return None

    @property
    def tags(self) -> dict[str, str]:
        """What a run in MLflow carries of it, so that one left RUNNING can be told to be dead."""
        return {"catdog.owner": json.dumps(asdict(self))}

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def is_orphan(self) -> bool:
        """Whether its leader, on this host, is gone, so that it is about to stop."""
        return self.is_here and not is_alive(self.leader_pid, self.leader_started, self.booted)

    @property
    def lives(self) -> bool:
        """Whether its process, which is on this host, is there."""
        return is_alive(self.pid, self.started, self.booted)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class BusyError(Exception):
    """The entry has a living owner."""

    def __init__(self, owner: Owner | None) -> None:
        super().__init__(f"owned by {owner or 'another process'}")
        self.owner = owner
