"""Trains runs in processes of this machine, each a fork of a server that has everything imported."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import types
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import psutil

from catdog.sweeps.executors.executor import Message, Retry, Task
from catdog.sweeps.worker import WorkOrder, work
from catdog.system.cpus import count_cpus
from catdog.tracking.identity import list_training_modules


class LocalHandle:
    """A process that trains a job.

    Args:
        process: the process.
        receiver: the end of the pipe on which it reports.
        slot: its place among the jobs that run at once, from 0.
    """

    retry: Retry = "counted"

    def __init__(self, process: Any, receiver: Connection, slot: int) -> None:
        self.process = process
        self.receiver = receiver
        self.slot = slot
        self.has_ended = False
        self.started: float | None = time.monotonic()

    def receive(self) -> list[Message]:
        """Returns what it has reported since the last call."""
        messages: list[Message] = []
        try:
            # Everything that is there: a job that logs a lot must not be slowed down by the supervision of others.
            while not self.has_ended and self.receiver.poll():
                messages.append(self.receiver.recv())
        except (EOFError, OSError):
            self.has_ended = True
            self.process.join()
            self.receiver.close()
        return messages

    def poll(self) -> str | None:
        """Returns how the process ended, in words; None if it has not."""
        return describe_death(self.process.exitcode) if self.has_ended else None

    def stop(self) -> None:
        """Sends SIGINT. A terminal has sent Ctrl-C already; other senders have not. A second signal has no effect there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """Ends the process at once."""
        self.process.kill()

    def memory_gb(self) -> float:
        """Returns how much memory the process uses."""
        try:
            return float(psutil.Process(self.process.pid).memory_info().rss / 1e9)
        except psutil.Error:
            return 0.0


class LocalExecutor:
    """Trains runs in processes of this machine, which share its CPU threads and GPUs.

    Args:
        processes: the context that starts processes.
        n_jobs: how many train at once.
        gpus: names of the GPUs to give one each to the jobs, as CUDA_VISIBLE_DEVICES has them; empty: do not assign GPUs.
    """

    detaches = False

    def __init__(self, processes: Any, n_jobs: int, gpus: list[str]) -> None:
        self.processes = processes
        self.n_jobs = n_jobs
        self.gpus = gpus
        self._handles: list[LocalHandle] = []

    def submit(self, task: Task) -> LocalHandle:
        """Starts a process for a job."""
        self._handles = [handle for handle in self._handles if not handle.has_ended]
        slot = min(set(range(self.n_jobs)) - {handle.slot for handle in self._handles})
        order = WorkOrder(task.composed, task.job, *share_machine(slot, self.n_jobs, self.gpus, task.devices))
        receiver, sender = self.processes.Pipe(duplex=False)
        process = start_process(self.processes, work, order, sender)
        sender.close()
        handle = LocalHandle(process, receiver, slot)
        self._handles.append(handle)
        return handle

    def adopt(self, task: Task, *, ended: bool) -> LocalHandle | None:
        """Returns None: a process ends with its leader."""
        del task, ended
        return None

    def wait(self, handles: Sequence[LocalHandle], timeout_s: float) -> None:
        """Waits until one of the jobs has something to report, but not longer than the timeout."""
        wait([handle.receiver for handle in handles], timeout=timeout_s)


def list_preloaded() -> list[str]:
    """Returns the modules that the server imports for all jobs: some libraries, and all of catdog's code that trains.

    A run then uses the code that was planned, even if the files change during the sweep.
    """
    libraries = ["catdog.training.process", "mlflow", "mlflow.tensorflow"]
    return [*libraries, *list_training_modules(), "catdog.plots", "catdog.training.run_logging", "catdog.sweeps.worker"]


def start_server() -> Any:
    """Returns the context that starts processes: forks of a server that has TensorFlow imported, if the system can fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    processes = multiprocessing.get_context("forkserver")
    # A job then starts in well under a second. Otherwise each job would import TensorFlow again, which takes five CPU seconds.
    processes.set_forkserver_preload(list_preloaded())
    return processes


def start_process(processes: Any, target: Callable[..., None], *args: Any) -> Any:
    """Starts a process that calls a function in the current folder; returns the process.

    Unlike multiprocessing by default, the process does not import the main program: a script without `if __name__ == "__main__"`
    would train again there. Nothing sent to such a process may be defined in the main program.
    """
    process = processes.Process(target=_call_in, args=(Path.cwd(), target, args))
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = main
    return process


def _call_in(folder: Path, target: Callable[..., None], args: tuple[Any, ...]) -> None:
    # Multiprocessing uses the folder that was current when it was imported.
    os.chdir(folder)
    target(*args)


# How the names of variables begin that a process of a job has as this process has them now.
PASSED = ("CATDOG_", "MLFLOW_TRACKING_")


def share_machine(slot: int, n_jobs: int, gpus: list[str], devices: str) -> tuple[dict[str, str], int | None]:
    """Returns a job's share of the machine: environment variables, and its CPU threads (None: TensorFlow's choice).

    Args:
        slot: the job's place among those that run at once, from 0.
        n_jobs: how many run at once.
        gpus: the GPUs to give one each to the jobs, as CUDA_VISIBLE_DEVICES names them.
        devices: `trainer.devices`; a job that uses all devices is not given one of its own.
    """
    # The server that forks the processes of jobs may have started before these were set, as in a notebook.
    environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
    if gpus and devices == "one":
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return environment, max(1, count_cpus() // n_jobs) if n_jobs > 1 else None


def describe_death(exitcode: int | None) -> str:
    """Returns in words how a process ended, given its exit code; a negative one is the number of a signal."""
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = "; out of memory?" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with code {exitcode}"
