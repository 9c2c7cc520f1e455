"""The processes of a sweep: one for each job, started, followed and, where need be, ended."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from catdog import config as schema
from catdog.config import Config
from catdog.console import show_error
from catdog.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.train import Outcome

log = logging.getLogger(__name__)

INTERRUPTED = "interrupted"
STOP_WAIT_S = 5


@dataclass
class JobState:
    """One job of a sweep and how it went.

    Attributes:
        composed: its config, as Hydra composed it.
        config: the same, checked.
        name: what tells it apart in the sweep.
        outcome: of a job that finished.
        error: the message of one that did not.
        run_id: its MLflow run, once there is one.
    """

    composed: DictConfig
    config: Config
    name: str
    outcome: "Outcome | None" = None
    error: str = ""
    run_id: str = ""


def start_server() -> Any:
    """Returns the context that starts processes: forks of a server with TensorFlow imported, where the system has forks."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    processes = multiprocessing.get_context("forkserver")
    # A job then starts in well under a second; without this each one imports TensorFlow again, for five CPU seconds.
    processes.set_forkserver_preload(["catdog.preload", "mlflow", "catdog.fit", "catdog.plots"])
    return processes


def follow_job(processes: Any, client: "MlflowClient", job: JobState, sweep_id: str, varying: set[str]) -> None:
    """Runs one job in a process of its own and records how it went; a job that dies does not end the sweep."""
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(
        target=_work, args=(job.composed, sweep_id, varying, sender)
    )  # fmt: skip
    process.start()
    sender.close()
    try:
        while True:
            kind, value = receiver.recv()
            if kind == "run":
                job.run_id = value
            elif kind == "outcome":
                job.outcome = value
            else:
                job.error = value
    except EOFError:
        process.join()
    except KeyboardInterrupt:
        job.error = INTERRUPTED
        _stop(process)
        raise
    finally:
        if job.outcome is None and not job.error:
            job.error = describe_death(process.exitcode)
            show_error(f"{job.name}: {job.error}")
        if job.outcome is None and job.run_id and client.get_run(job.run_id).info.status == "RUNNING":
            client.set_tag(job.run_id, "catdog.error", job.error)
            client.set_terminated(job.run_id, status="KILLED" if job.error == INTERRUPTED else "FAILED")


def _stop(process: Any) -> None:
    """Ends a job's process, gently first: it closes its own run. A terminal has told it already, other senders have not."""
    process.join(timeout=STOP_WAIT_S)
    for end in (lambda: os.kill(process.pid, signal.SIGINT), process.terminate, process.kill):
        if process.is_alive():
            end()
            process.join(timeout=STOP_WAIT_S)


def describe_death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = "; out of memory?" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with code {exitcode}"


def _work(composed: DictConfig, sweep_id: str, varying: set[str], sender: Connection) -> None:
    """The job's process: runs it as Hydra would, and sends its MLflow run id, then its outcome or its error."""
    from catdog.train import run_job as train_job

    # Under nohup or in a shell's background SIGINT comes ignored; here it is how a job is told to close its run.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    schema.register()
    setup_globals()
    hydra.version.setbase("1.3")
    HydraConfig.instance().set_config(composed)

    def task(config: DictConfig) -> None:
        try:
            outcome = train_job(
                config, sweep_id=sweep_id, varying=varying, on_start=lambda run_id: sender.send(("run", run_id))
            )
            sender.send(("outcome", outcome))
        except UserError as error:
            log.error("%s", error)
            sender.send(("error", str(error)))
        except Exception as error:
            # Shown when it happens, and in the job's log: Hydra would keep it for the end, and for the terminal alone.
            log.exception("%s", error)
            show_error(traceback.format_exc())
            sender.send(("error", f"{type(error).__name__}: {error}".splitlines()[0]))

    with contextlib.suppress(KeyboardInterrupt):
        run_job(
            task_function=task, config=composed, job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
            hydra_context=HydraContext(config_loader=None, callbacks=Callbacks()),
        )  # fmt: skip


def _stop_with_parent() -> None:
    """Ends this process as Ctrl-C would when the one that leads the sweep is gone: nobody would wait for its result."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
