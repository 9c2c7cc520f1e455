"""A sweep: its jobs checked before the first one starts, one process each, one MLflow parent, one summary."""

import contextlib
import copy
import logging
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict
from rich import box
from rich.table import Table
from rich.text import Text

from catdog import config as schema
from catdog.cli import EXIT_DEFECT, EXIT_INTERRUPTED, next_command
from catdog.config import Config, load_config
from catdog.console import ConsoleHandler, console, show_error, show_next
from catdog.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.data.dataset import Dataset
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


def launch(context: HydraContext, base: DictConfig, job_overrides: list[list[str]]) -> Sequence[JobReturn]:
    """Runs a sweep's jobs one after the other, each in a process of its own, and exits with its outcome.

    Raises:
        UserError: a job that cannot run, found before any of them starts.
        SystemExit: a job failed, or Ctrl-C.
    """
    from catdog import track
    from catdog.train import name_job

    setup_globals()
    varying = find_varying(job_overrides)
    _require_one_study(varying)
    jobs = []
    for number, overrides in enumerate(job_overrides):
        composed = context.config_loader.load_sweep_config(base, overrides)
        with open_dict(composed):
            composed.hydra.job.id = f"{number}"
            composed.hydra.job.num = number
        config = load_config(_task_config(composed), Config)
        jobs.append(
            JobState(
                composed,
                config,
                name_job(composed.hydra.runtime.choices["model"], filter_overrides(overrides), varying)[0],
            )
        )
    first = jobs[0].config
    track.check_store(first.tracking)
    log.info("checking %d runs before the first one starts", len(jobs))
    datasets = _load_datasets(jobs)
    processes = _start_server()
    _check_models(processes, jobs, [len(dataset.classes) for dataset in datasets])
    _decode_images(jobs, datasets)
    client = track.connect(first.tracking)
    sweep_id = _open_sweep(client, first, len(jobs))
    # A scheduler's polite end is one: the running job is stopped and recorded, the sweep summarised.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    interrupted = False
    try:
        for number, job in enumerate(jobs, 1):
            console.print(f"[bold]run {number} of {len(jobs)}: {job.name}[/bold]", highlight=False)
            _run(processes, client, job, sweep_id, varying)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        _close_sweep(client, jobs, sweep_id, interrupted)
    _finish(client, jobs, sweep_id)
    if interrupted:
        sys.exit(EXIT_INTERRUPTED)
    if any(job.outcome is None for job in jobs):
        sys.exit(EXIT_DEFECT)
    return [JobReturn(cfg=job.composed, status=JobStatus.COMPLETED, _return_value=job.outcome) for job in jobs]


def find_varying(job_overrides: list[list[str]]) -> set[str]:
    """Returns the keys whose values are not the same in all jobs."""
    values: dict[str, set[str]] = {}
    for overrides in job_overrides:
        for item in overrides:
            key, _, value = item.lstrip("+~").partition("=")
            values.setdefault(key, set()).add(value)
    return {key for key, found in values.items() if len(found) > 1}


def _require_one_study(varying: set[str]) -> None:
    for key in sorted(varying):
        if key == "study" or key.partition(".")[0] in ("tracking", "promote"):
            raise UserError(f"{key}: must be the same for all runs of a sweep; give each its own command.")


def _task_config(composed: DictConfig) -> DictConfig:
    task = copy.deepcopy(composed)
    with open_dict(task):
        del task["hydra"]
    return task


def _start_server() -> Any:
    """Returns the context that starts processes: forks of a server with TensorFlow imported, where the system has forks."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    processes = multiprocessing.get_context("forkserver")
    # A job then starts in well under a second; without this each one imports TensorFlow again, for five CPU seconds.
    processes.set_forkserver_preload(["catdog.preload", "mlflow", "catdog.fit", "catdog.plots"])
    return processes


def _load_datasets(jobs: list[JobState]) -> list["Dataset"]:
    """Returns every job's data set, each fetched once.

    It runs here, before TensorFlow is imported anywhere: without a network the user hears of it at once.

    Raises:
        UserError: naming the job.
    """
    from catdog.data.dataset import describe_dataset, load_dataset

    loaded: dict[str, Dataset] = {}
    for job in jobs:
        key = str(job.config.dataset)
        if key not in loaded:
            try:
                loaded[key] = load_dataset(job.config.dataset)
            except UserError as error:
                raise UserError(_in_job(str(error), job)) from error
            log.info("%s", describe_dataset(loaded[key]))
    return [loaded[str(job.config.dataset)] for job in jobs]


def _decode_images(jobs: list[JobState], datasets: list["Dataset"]) -> None:
    """Decodes what the jobs train on, once for each data set and size: too many unreadable images are found here.

    Raises:
        UserError: naming the job.
    """
    done = set()
    for job, dataset in zip(jobs, datasets, strict=True):
        size = job.config.preprocessing.image_size
        if (id(dataset), size) not in done:
            done.add((id(dataset), size))
            try:
                for split in ("train", "val"):
                    dataset.load_split(split, size)
            except UserError as error:
                raise UserError(_in_job(str(error), job)) from error


def _in_job(message: str, job: JobState) -> str:
    return f"{message}\n       In {job.name}; nothing was started."


def _check_models(processes: Any, jobs: list[JobState], classes: list[int]) -> None:
    """Builds every job's model once, so that what cannot run is said before anything has run.

    Args:
        processes: the context that starts processes.
        jobs: the sweep's.
        classes: each job's number of classes.

    Raises:
        UserError: naming the job.
    """
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_check, args=([job.config for job in jobs], classes, sender))
    process.start()
    sender.close()
    try:
        failed: tuple[int, str, bool] | None = receiver.recv()
    except EOFError:
        process.join()
        raise UserError(f"checking the runs: {_describe_death(process.exitcode)}; nothing was started.") from None
    finally:
        process.join()
    if failed:
        number, message, is_user_error = failed
        if not is_user_error:
            raise RuntimeError(f"checking {jobs[number].name}:\n{message}")
        raise UserError(_in_job(message, jobs[number]))


def _check(configs: list[Config], classes: list[int], sender: Connection) -> None:
    from catdog.augment import build_augmentation
    from catdog.model import build_model
    from catdog.precision import build_strategy, choose_precision

    logging.basicConfig(level=logging.INFO, handlers=[ConsoleHandler()])
    number = 0
    try:
        models = set()
        for number, (config, count) in enumerate(zip(configs, classes, strict=True)):  # noqa: B007
            precision = choose_precision(config.trainer)
            model = str((config.preprocessing, config.backbone, config.head, config.augmentation, count))
            if model not in models:
                build_strategy(config.trainer)
                build_model(config, count, precision.policy)
                build_augmentation(config.augmentation, config.seed, config.preprocessing.image_size)
                models.add(model)
        sender.send(None)
    except UserError as error:
        sender.send((number, str(error), True))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception:
        sender.send((number, traceback.format_exc(), False))


def _open_sweep(client: "MlflowClient", config: Config, count: int) -> str:
    from catdog import track

    command = shlex.join(["python", "-m", "catdog.train", *sys.argv[1:]])
    run = client.create_run(
        track.open_study(client, config.study, config.tracking),
        run_name=f"sweep of {count}",
        tags={
            "catdog.kind": "sweep",
            "catdog.command": command,
            "mlflow.source.name": command,
            "mlflow.source.type": "LOCAL",
            **track.describe_code(),
        },
    )
    return run.info.run_id


def _run(processes: Any, client: "MlflowClient", job: JobState, sweep_id: str, varying: set[str]) -> None:
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
            job.error = _describe_death(process.exitcode)
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


def _describe_death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = "; out of memory?" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with code {exitcode}"


def _work(composed: DictConfig, sweep_id: str, varying: set[str], sender: Connection) -> None:
    """The job's process: runs it as Hydra would, and sends its MLflow run id, then its outcome or its error."""
    from catdog.train import run_job as train_job

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


def _close_sweep(client: "MlflowClient", jobs: list[JobState], sweep_id: str, interrupted: bool) -> None:
    done = all(job.outcome for job in jobs)
    client.set_tag(sweep_id, "mlflow.note.content", _describe(jobs))
    client.set_terminated(sweep_id, status="KILLED" if interrupted else "FINISHED" if done else "FAILED")


def _finish(client: "MlflowClient", jobs: list[JobState], sweep_id: str) -> None:
    """Prints the summary, registers the best run, and says what to do next."""
    from catdog import track
    from catdog.promote import promote

    config = jobs[0].config
    finished = [job for job in jobs if job.outcome]
    console.print(_summarize(jobs))
    for job in jobs:
        if job.error and job.error != INTERRUPTED:
            console.print(Text(f"{job.name} failed: {job.error}", style="red"), soft_wrap=True)
    promotions = promote(client, config, [job.outcome.run_id for job in finished if job.outcome], sweep_id)
    place = (config.study, config.tracking.uri)
    commands = [next_command("compare", *place)] if finished else []
    commands += [next_command("evaluate", *place)] if promotions else []
    show_next(*commands, track.ui_command(config.tracking.uri))


def _describe(jobs: list[JobState]) -> str:
    """Returns the summary in Markdown, for the description on the sweep's page in MLflow."""
    lines = [
        "| run | last train accuracy | last val accuracy | best val accuracy | at epoch |",
        "|---|---|---|---|---|",
    ]
    for job in jobs:
        o = job.outcome
        figures = (
            [
                f"{o.last_train_accuracy:.3f}",
                f"{o.last_val_accuracy:.3f}",
                f"{o.best_val_accuracy:.3f}",
                str(o.best_epoch),
            ]
            if o
            else [job.error.replace("|", "/").replace("\n", " ") or "not started", "", "", ""]
        )
        lines.append("| " + " | ".join([job.name, *figures]) + " |")
    return "\n".join(lines)


def _summarize(jobs: list[JobState]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("run")
    table.add_column("outcome", overflow="fold")
    for title in ("train", "val", "gap", "best val", "at epoch", "minutes"):
        table.add_column(title, justify="right")
    for job in jobs:
        o = job.outcome
        if o is None:
            state = "not started" if not job.error else INTERRUPTED if job.error == INTERRUPTED else "[red]failed[/red]"
            table.add_row(job.name, state)
            continue
        table.add_row(
            job.name, "finished", f"{o.last_train_accuracy:.3f}", f"{o.last_val_accuracy:.3f}",
            f"{o.last_train_accuracy - o.last_val_accuracy:+.3f}", f"{o.best_val_accuracy:.3f}", str(o.best_epoch),
            f"{o.seconds / 60:.1f}",
        )  # fmt: skip
    return table
