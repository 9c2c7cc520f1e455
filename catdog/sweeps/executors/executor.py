"""What a sweep asks of the place where its runs are trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from omegaconf import DictConfig

if TYPE_CHECKING:
    from catdog.tracking import Job

Message = tuple[str, Any]
# Whether a job that ended without a result is started again: as often as `hydra.launcher.retries` says, always (its host
# was lost, which says nothing about the run), or never (somebody has cancelled it).
Retry = Literal["counted", "free", "never"]


@dataclass(frozen=True)
class Task:
    """What is to be trained.

    Attributes:
        composed: the config, as Hydra composed it.
        job: the name of the run, and where that belongs.
        devices: `trainer.devices`.
    """

    composed: DictConfig
    job: "Job"
    devices: str


class Handle(Protocol):
    """A job that an executor has.

    Attributes:
        started: when its process began, by the monotonic clock; None if it has not.
        retry: whether it is started again, once it has ended without a result.
    """

    started: float | None
    retry: Retry

    def receive(self) -> list[Message]:
        """Returns what the job has reported since the last call, as `catdog.sweeps.worker.work` reports it."""

    def poll(self) -> str | None:
        """Returns how the job's process ended, in words; None if it may still report something."""

    def stop(self) -> None:
        """Asks the job to close its run, like Ctrl-C."""

    def kill(self) -> None:
        """Ends the job at once."""

    def memory_gb(self) -> float:
        """Returns how much memory it uses; 0 if unknown."""


class Executor(Protocol):
    """The place where runs are trained.

    Attributes:
        n_jobs: how many train at once, or wait in its queue.
        detaches: whether the sweep only starts the jobs, and leaves them.
    """

    n_jobs: int
    detaches: bool

    def submit(self, task: Task) -> Handle:
        """Starts a job, or puts it into a queue."""

    def adopt(self, task: Task, *, ended: bool) -> Handle | None:
        """Returns the job that an earlier leader has started for a run; None if there is none.

        Args:
            task: the run.
            ended: whether a job that has ended with a result will do.
        """

    def wait(self, handles: Sequence[Any], timeout_s: float) -> None:
        """Waits until one of the jobs may have something to report, but not longer than the timeout."""


class RemoteExecutor(Executor, Protocol):
    """A cluster, whose jobs outlive the leader."""

    def find(self, digest: str) -> str:
        """Returns in words the job that an earlier leader has started for the run with an identity; "" if there is none."""

    def forget(self, digest: str) -> None:
        """Removes what an earlier leader's job has left of the run with an identity, whose result is in the store."""
