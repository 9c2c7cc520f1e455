"""The jobs of a sweep: gives them to an executor, supervises them, retries them and, if necessary, kills them."""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from omegaconf import DictConfig

from catdog.config.schema import Config
from catdog.sweeps.display import Display
from catdog.sweeps.executors.executor import Executor, Handle, Task
from catdog.sweeps.options import LauncherOptions
from catdog.sweeps.plan import PlannedRun
from catdog.sweeps.worker import OUTPUT
from catdog.system.errors import UserError
from catdog.tracking import tags as tag
from catdog.tracking.outbox import CLOSED, Entry
from catdog.tracking.ownership import BusyError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.tracking import Job
    from catdog.tracking.delivery import DeliveryWorker
    from catdog.training.outcome import Outcome, Pause

log = logging.getLogger(__name__)

INTERRUPTED = "interrupted"
LOOK_EVERY_S = 0.25
# How long a job may take to close its run after it has been told to stop.
STOP_WAIT_S = 30.0
OUTPUT_SHOWN_LINES = 30


@dataclass
class JobState:
    """One job of a sweep, and its result.

    Attributes:
        composed: its config, as Hydra composed it.
        overrides: the command line's, such as ["model=cnn"].
        planned: the plan for its run: name, config, identity, and whether it is reused, resumed or trained.
        job: the name of its run, and where that belongs; set once the sweep has its MLflow run.
        outcome: the result, if the run has finished, now or earlier.
        pause: where it waits, if it was to pause.
        error: the message, if it has not.
        has_diverged: whether the error is a loss that is not finite.
        has_crashed: whether the error is no message for the user: its process died, or there was an exception.
        retries: how often its process died and was restarted.
        is_left: whether it was started, and left to itself.
    """

    composed: DictConfig = field(repr=False)
    overrides: list[str]
    planned: PlannedRun
    job: "Job | None" = None
    outcome: "Outcome | None" = None
    pause: "Pause | None" = None
    error: str = ""
    has_diverged: bool = False
    has_crashed: bool = False
    retries: int = 0
    is_left: bool = False

    @property
    def name(self) -> str:
        """The name of its run."""
        return self.planned.name

    @property
    def config(self) -> Config:
        """The config of its run."""
        return self.planned.config

    def describe_state(self) -> str:
        """Returns its state in a word or two: finished, reused, interrupted, busy, failed, in the queue or not started."""
        if self.outcome:
            return "reused" if self.planned.state == "reuse" else "finished"
        if not self.error:
            return "in the queue" if self.is_left else "not started"
        if self.error == INTERRUPTED:
            return INTERRUPTED
        return "busy" if self.planned.state == "busy" else "failed"

    @property
    def has_failed(self) -> bool:
        """Whether it has no result for a reason other than an interrupt."""
        return bool(self.error) and self.error != INTERRUPTED

    @property
    def has_ended(self) -> bool:
        """Whether it has finished, or failed by itself; not if it was interrupted, not started, or is another process's."""
        return self.outcome is not None or (self.has_failed and self.planned.state != "busy")

    @property
    def is_to_train(self) -> bool:
        """Whether it needs a process."""
        return self.planned.state in ("run", "resume", "running")


@dataclass
class Worker:
    """A job that an executor has.

    Attributes:
        number: the job's place in the sweep, from 0.
        handle: the executor's.
        stopped: when it was told to stop; None if it was not.
        verdict: why it was killed; "" if it was not.
    """

    number: int
    handle: Handle
    stopped: float | None = None
    verdict: str = ""


class Feed(Protocol):
    """Decides during the run which jobs are trained, and adds to the list of jobs; called from one thread."""

    def next_job(self) -> int | None:
        """Returns the place of a job to start now; None if there is none until a running one ends."""

    def ended(self, number: int) -> None:
        """Learns that the process of a job has ended: its outcome, pause or error is set."""


class Supervisor:
    """Trains the jobs that need training, as many at a time as the executor takes, until all have ended or somebody stops it.

    Args:
        executor: where they are trained.
        client: of the tracking store.
        jobs: all of the sweep's, in order.
        options: the launcher's.
        display: shows the jobs.
        feed: decides what is trained next, instead of the order of the jobs.
    """

    def __init__(
        self,
        executor: Executor,
        client: "MlflowClient",
        jobs: list[JobState],
        options: LauncherOptions,
        display: Display,
        feed: Feed | None = None,
    ) -> None:
        self.executor = executor
        self.client = client
        self.jobs = jobs
        self.options = options
        self.feed = feed
        self.display = display
        self.interrupts = 0
        self.running: list[Worker] = []
        self.waiting = deque[int]()
        if feed is None:
            self.waiting.extend(number for number, job in enumerate(jobs) if job.is_to_train and not job.outcome)
        # Deliveries that a run's own process could not finish, each with its entry.
        self.delivery_workers: list[tuple[Entry, DeliveryWorker]] = []
        self.stopping = False
        self.given_up = False

    def run(self) -> None:
        """Runs the jobs.

        After the first KeyboardInterrupt, running jobs close their runs and no other job starts; the second ends everything at
        once. A separate thread supervises the jobs. An interrupt reaches only the main thread, which just waits, so it leaves no
        step half done. No signal handler has to be changed for that.
        """
        failure: list[BaseException] = []
        # Not Thread.join: in Python 3.11, an interrupted join may treat a thread that still runs as ended.
        ended = threading.Event()
        threading.Thread(target=self._work, args=(failure, ended), name="sweep", daemon=True).start()
        while not ended.is_set():
            try:
                ended.wait(LOOK_EVERY_S)
                self.display.refresh()
            except KeyboardInterrupt:
                self.stopping = True
                self.interrupts += 1
                if self.interrupts > 1:
                    # Nothing is closed: the runs stay open in MLflow until the same command resumes them.
                    self.given_up = True
                    ended.wait()
                    raise
        if failure:
            raise failure[0]

    def _work(self, failure: list[BaseException], ended: threading.Event) -> None:
        try:
            while not self.given_up:
                while (
                    not self.stopping
                    and len(self.running) < self.executor.n_jobs
                    and (number := self._take_next()) is not None
                ):
                    self._start(number)
                if self.executor.detaches:
                    for worker in self.running:
                        self.jobs[worker.number].is_left = True
                        self.display.finish(worker.number, "in the queue")
                    self.running.clear()
                if not self.running:
                    break
                self.executor.wait([worker.handle for worker in self.running], LOOK_EVERY_S)
                for worker in list(self.running):
                    self._receive(worker)
                    death = worker.handle.poll()
                    if death is None:
                        self._look_after(worker)
                    else:
                        self._end(worker, death)
        except BaseException as error:
            failure.append(error)
        finally:
            for worker in self.running:
                worker.handle.kill()
            ended.set()

    def _take_next(self) -> int | None:
        if self.waiting:
            return self.waiting.popleft()
        return self.feed.next_job() if self.feed else None

    def _start(self, number: int) -> None:
        job = self.jobs[number]
        assert job.job is not None
        self._stop_delivering(number)
        self.display.start(number, "resuming" if job.planned.state == "resume" else "starting")
        task = Task(job.composed, job.job, job.config.trainer.devices)
        handle = self.executor.adopt(task, ended=job.planned.state == "running") or self.executor.submit(task)
        self.running.append(Worker(number, handle))

    def _receive(self, worker: Worker) -> None:
        job = self.jobs[worker.number]
        for kind, value in worker.handle.receive():
            if kind == "began":
                self.display.message(worker.number, f"{value['job']} on {value['host']}", logging.INFO)
            elif kind == "progress":
                self.display.progress(worker.number, value)
            elif kind == "log":
                self.display.message(worker.number, *value)
            elif kind == "outcome":
                job.outcome = value
            elif kind == "pause":
                job.pause = value
            elif kind == "busy":
                job.planned.state, job.error = "busy", value
            elif kind == "traceback":
                job.has_crashed = True
                self.display.error(worker.number, f"\n{value}")
            else:
                job.error, job.has_diverged = value, kind == "diverged"

    def _look_after(self, worker: Worker) -> None:
        """Kills a process that exceeds its limits, or does not stop when told to."""
        now = time.monotonic()
        if self.interrupts and worker.stopped is None:
            worker.stopped = now
            worker.handle.stop()
        elif worker.stopped is not None and now - worker.stopped > STOP_WAIT_S:
            worker.handle.kill()
        elif (
            self.options.timeout_s is not None
            and worker.handle.started is not None
            and now - worker.handle.started > self.options.timeout_s
            and not worker.verdict
        ):
            worker.verdict = f"it took longer than hydra.launcher.timeout_s={self.options.timeout_s:g}"
            worker.handle.kill()
        elif self.options.memory_gb is not None and not worker.verdict:
            used_gb = worker.handle.memory_gb()
            if used_gb > self.options.memory_gb:
                worker.verdict = (
                    f"its process used {used_gb:.1f} GB, more than hydra.launcher.memory_gb={self.options.memory_gb:g}"
                )
                worker.handle.kill()

    def _end(self, worker: Worker, how: str) -> None:
        job = self.jobs[worker.number]
        self.running.remove(worker)
        if job.outcome:
            self.display.finish(worker.number, "finished")
        elif job.pause:
            self.display.finish(worker.number, f"paused at {len(job.pause.epochs)}")
        elif self.interrupts:
            job.error = INTERRUPTED
            self.display.finish(worker.number, "stopped")
        elif job.error:
            self.display.finish(worker.number, "busy" if job.planned.state == "busy" else "failed")
        else:
            assert job.job is not None
            death = worker.verdict or how
            retry = "never" if worker.verdict else worker.handle.retry
            if retry == "free" or (retry == "counted" and job.retries < self.options.retries):
                self._retry(worker.number, death, is_counted=retry == "counted")
                return
            job.error, job.has_crashed = death, True
            self.display.error(worker.number, f"{death}{_read_tail(job.job.output_dir / OUTPUT)}")
            self.display.finish(worker.number, "timed out" if "timeout_s" in death else "failed")
        if job.error and self.options.on_error == "stop":
            self.stopping = True
        self._take_over(worker.number)
        if self.feed:
            self.feed.ended(worker.number)

    def _retry(self, number: int, death: str, *, is_counted: bool) -> None:
        from dataclasses import replace

        job = self.jobs[number]
        assert job.job is not None
        # What the job has left is not the result of another one.
        job.planned.state = "resume"
        count = ""
        if is_counted:
            job.retries += 1
            job.job = replace(job.job, retries=job.retries)
            count = f", {job.retries} of {self.options.retries}"
        message = f"{death}: starting it again from its last checkpoint{count}"
        self.display.message(number, f"{message}{_read_tail(job.job.output_dir / OUTPUT)}", logging.WARNING)
        self.waiting.appendleft(number)

    def _take_over(self, number: int) -> None:
        """Closes the run of a process that could not do it, and starts delivering what is left."""
        from catdog.tracking.delivery import DeliveryWorker

        job = self.jobs[number]
        entry = job.planned.entry
        if not entry.facts:
            return
        try:
            entry.claim()
        except (BusyError, FileNotFoundError, UserError):
            return
        try:
            if not entry.operations:
                entry.remove()
                return
            if entry.last_status not in CLOSED:
                assert job.job is not None
                for file in [*sorted(job.job.output_dir.glob("*.log")), job.job.output_dir / OUTPUT]:
                    if file.exists() and file.stat().st_size:
                        entry.append_file(file, f"log/{file.name}")
                entry.append("tags", values={tag.ERROR: job.error})
                status = "KILLED" if job.error == INTERRUPTED else "FAILED"
                entry.append("status", status=status, time_ms=int(time.time() * 1000))
        except (UserError, OSError) as error:
            # The disk may be full. The next command closes the run.
            self.display.error(number, str(error))
            entry.release()
            return
        if entry.pending:
            self.delivery_workers.append((entry, DeliveryWorker(self.client, entry)))
        else:
            entry.release()

    def _stop_delivering(self, number: int) -> None:
        """Gives up an entry that was taken over, because its run goes on: its own process delivers what is left."""
        folder = self.jobs[number].planned.entry.folder
        for entry, delivery in [pair for pair in self.delivery_workers if pair[0].folder == folder]:
            delivery.stop()
            entry.release()
            self.delivery_workers.remove((entry, delivery))

    def hand_in(self, patience_s: float) -> int:
        """Waits for the deliveries that were taken over; returns how many entries remain undelivered."""
        left = 0
        for entry, delivery in self.delivery_workers:
            # If one entry has waited in vain for the store, the others do not wait again.
            arrived = delivery.wait(0.0 if left else patience_s)
            delivery.stop()
            left += not arrived
            if arrived and entry.last_status == "FINISHED":
                entry.remove()
            else:
                entry.release()
        return left


def _read_tail(path: Path) -> str:
    """Returns the last lines that a dead process printed, starting on a new line; "" if it printed nothing."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n" + "\n".join(lines[-OUTPUT_SHOWN_LINES:]) if lines else ""
