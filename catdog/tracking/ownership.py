"""Who works on an unfinished run: a process, identified uniquely by host, pid and start time."""

import json
import os
import socket
from dataclasses import asdict, dataclass

import psutil

from catdog.system.tempdir import is_alive
from catdog.tracking import tags as tag


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
        """The tags that record the owner on an MLflow run, so that a run left RUNNING by a dead process can be recognised."""
        return {tag.OWNER: json.dumps(asdict(self))}

    @property
    def is_here(self) -> bool:
        """Whether the owner is on this host."""
        return self.host == socket.gethostname()

    @property
    def is_orphan(self) -> bool:
        """Whether its leader on this host is gone, so that the process is about to stop."""
        return self.is_here and not is_alive(self.leader_pid, self.leader_started, self.booted)

    @property
    def lives(self) -> bool:
        """Whether its process, which is on this host, is alive."""
        return is_alive(self.pid, self.started, self.booted)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class BusyError(Exception):
    """The entry is owned by another process that is still alive."""

    def __init__(self, owner: Owner | None) -> None:
        super().__init__(f"owned by {owner or 'another process'}")
        self.owner = owner
