"""The process of one run of a sweep: it trains the run, and reports to the process that leads the sweep."""

import contextlib
import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from catdog.config import schema
from catdog.config.schema import Config, load_config
from catdog.system import interrupts, terminal
from catdog.system.errors import UserError
from catdog.system.memory import own_process

if TYPE_CHECKING:
    from catdog.tracking import Job

log = logging.getLogger(__name__)

STEPS_EVERY_S = 0.25
# A process whose leader is gone closes its run. If it cannot do that within this time, it ends all the same.
LAST_WORDS_S = 20.0
OUTPUT = "output.txt"


@dataclass(frozen=True)
class WorkOrder:
    """The instructions for a job's process.

    Attributes:
        composed: its config, as Hydra composed it.
        job: the name of its run, and where that belongs.
        environment: variables to set before anything is computed.
        threads: number of CPU threads; None: TensorFlow decides.
    """

    composed: DictConfig
    job: "Job"
    environment: dict[str, str] = field(default_factory=dict)
    threads: int | None = None


def work(order: WorkOrder, sender: Connection) -> None:
    """Trains the run in a process that the leader has started, and reports through a pipe, as `train_order` does."""
    own_process()
    # While a run closes, only SIGKILL interrupts it.
    interrupts.listen(once=True)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    order.job.output_dir.mkdir(parents=True, exist_ok=True)
    take_output(order.job.output_dir / OUTPUT)
    with contextlib.suppress(KeyboardInterrupt):
        train_order(order, Link(sender.send))


def train_order(order: WorkOrder, link: "Link") -> None:
    """Trains the run, and sends (kind, value) pairs.

    These are progress and log, and at the end outcome, pause, error, diverged, busy or traceback.

    Raises:
        KeyboardInterrupt: the run was stopped, and is closed.
    """
    os.environ.update(order.environment)
    if order.threads:
        _use_threads(order.threads)
    terminal.relay = link.log
    set_up_hydra(order)

    def task(composed: DictConfig) -> None:
        from catdog.tracking import BusyError
        from catdog.training.outcome import NonFiniteLossError, Pause
        from catdog.training.run import train

        try:
            outcome = train(
                load_config(composed, Config), order.job, lambda _name, *figures: PipedProgress(link, *figures)
            )
            link.send("pause" if isinstance(outcome, Pause) else "outcome", outcome)
        except UserError as error:
            # The leader shows the error; here it goes to the run's log only.
            log.error("%s", error, extra={"file_only": True})
            link.send("diverged" if isinstance(error, NonFiniteLossError) else "error", str(error))
        except BusyError as busy:
            link.send("busy", f"{busy.owner or 'another process'} trains it right now")
        except Exception as error:
            # Shown and logged at once: Hydra would report it only at the end, and only on the terminal.
            log.exception("%s", error, extra={"file_only": True})
            link.send("traceback", traceback.format_exc())
            link.send("error", f"{type(error).__name__}: {error}".splitlines()[0])

    run_job(
        task_function=task, config=order.composed, job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir", hydra_context=HydraContext(config_loader=None, callbacks=Callbacks()),
    )  # fmt: skip


def set_up_hydra(order: WorkOrder) -> None:
    """Makes this process read the order's config as the process that composed it did."""
    schema.register()
    setup_globals()
    hydra.version.setbase("1.3")
    HydraConfig.instance().set_config(order.composed)


class Link:
    """The way to the leader.

    Args:
        transmit: sends one message, a (kind, value) pair.
        steps_every_s: how often the progress within an epoch is reported.
    """

    def __init__(self, transmit: Callable[[tuple[str, Any]], None], steps_every_s: float = STEPS_EVERY_S) -> None:
        self.transmit = transmit
        self.steps_every_s = steps_every_s
        self.lock = threading.Lock()

    def send(self, kind: str, value: Any) -> None:
        """Sends one message."""
        try:
            with self.lock:
                self.transmit((kind, value))
        except OSError:
            # The leader is gone. If the run is to end with it, another thread of this process does that.
            return

    def log(self, text: str, level: int) -> None:
        """Sends a log line for the terminal."""
        self.send("log", (text, level))


class PipedProgress:
    """Reports a training's progress to the leader, and each epoch to the log file; a `catdog.training.progress.Progress`."""

    def __init__(self, link: Link, epochs: int, steps: int, first_epoch: int) -> None:
        self.link = link
        self.epochs = epochs
        self.steps = steps
        self.first_epoch = self.epoch = first_epoch
        self.done = 0
        self.best: float | None = None
        self.metrics: Mapping[str, float] | None = None
        self.started = self.told = time.monotonic()

    def __enter__(self) -> "PipedProgress":
        self.started = time.monotonic()
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def step(self, steps: int) -> None:
        """Counts training steps, and reports the progress if the last report was a while ago."""
        self.done += steps
        if time.monotonic() - self.told > self.link.steps_every_s:
            self._tell(epoch_ended=False)

    def finish_epoch(self, epoch: int, metrics: dict[str, float], best: float | None) -> None:
        """Reports an epoch's metrics to the leader, and logs them to the file."""
        from catdog.training.progress import log_epoch

        self.metrics, self.best, self.done = metrics, best, self.steps
        self._tell(epoch_ended=True)
        left_s = (time.monotonic() - self.started) / (epoch - self.first_epoch + 1) * (self.epochs - epoch)
        log_epoch(epoch, self.epochs, metrics, best, left_s, file_only=True)
        self.epoch, self.done = epoch + 1, 0

    def _tell(self, *, epoch_ended: bool) -> None:
        self.told = time.monotonic()
        self.link.send("progress", {
            "epoch": self.epoch, "epochs": self.epochs, "step": self.done, "steps": self.steps, "metrics": self.metrics,
            "best": self.best, "epoch_ended": epoch_ended, "seconds": self.told - self.started,
            "first_epoch": self.first_epoch,
        })  # fmt: skip


def _stop_with_parent() -> None:
    """Ends this process like Ctrl-C once the leader of the sweep is gone, since nobody would wait for its result."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(LAST_WORDS_S)
        os._exit(1)


def take_output(path: Path) -> None:
    """Redirects the output of this process, native code included, to a file, together with the Python stack if it crashes."""
    output = path.open("ab", buffering=0)
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    faulthandler.enable(file=sys.__stderr__ or output)


def _use_threads(count: int) -> None:
    import tensorflow as tf

    os.environ["OMP_NUM_THREADS"] = str(count)
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(count)
