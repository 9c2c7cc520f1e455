"""A sweep: its jobs checked before the first one starts, one process each, one MLflow parent, one summary."""

import contextlib
import copy
import logging
import multiprocessing
import signal
import sys
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
from catdog.cli import EXIT_DEFECT, EXIT_INTERRUPTED
from catdog.config import Config, load_config
from catdog.console import ConsoleHandler, console, show_error, show_next
from catdog.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.train import Outcome

log = logging.getLogger(__name__)

INTERRUPTED = "interrupted"


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
    jobs = []
    for number, overrides in enumerate(job_overrides):
        composed = context.config_loader.load_sweep_config(base, overrides)
        with open_dict(composed):
            composed.hydra.job.id = f"{number}"
            composed.hydra.job.num = number
        config = load_config(_task_config(composed), Config)
        jobs.append(JobState(composed, config, name_job(filter_overrides(overrides), varying)[0]))
    first = jobs[0].config
    client = track.connect(first.tracking)
    processes = _start_server()
    _check_jobs(processes, jobs)
    sweep_id = _open_sweep(client, first, len(jobs))
    interrupted = False
    try:
        for number, job in enumerate(jobs, 1):
            console.print(f"[bold]run {number} of {len(jobs)}: {job.name}[/bold]", highlight=False)
            _run(processes, client, job, sweep_id, varying)
    except KeyboardInterrupt:
        interrupted = True
    except BaseException:
        client.set_terminated(sweep_id, status="FAILED")
        raise
    _finish(client, jobs, sweep_id, interrupted)
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


def _check_jobs(processes: Any, jobs: list[JobState]) -> None:
    """Builds every job's data set and model once, so that what cannot run is said before anything has run.

    Raises:
        UserError: naming the job.
    """
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_check, args=([job.config for job in jobs], sender))
    process.start()
    sender.close()
    try:
        failed: tuple[int, str, bool] | None = receiver.recv()
    except EOFError:
        failed = (0, "the process that checks the runs died; its last words are above", False)
    finally:
        process.join()
    if failed:
        number, message, is_user_error = failed
        if not is_user_error:
            raise RuntimeError(f"checking {jobs[number].name}:\n{message}")
        raise UserError(f"{message}\n       In {jobs[number].name}; nothing was started.")


def _check(configs: list[Config], sender: Connection) -> None:
    from catdog.augment import build_augmentation
    from catdog.data.dataset import describe_dataset, load_dataset
    from catdog.model import build_model
    from catdog.precision import choose_precision

    logging.basicConfig(level=logging.INFO, handlers=[ConsoleHandler()])
    number = -1
    try:
        datasets: dict[str, int] = {}
        models = set()
        for config in configs:
            number += 1
            precision = choose_precision(config.trainer)
            key = str(config.dataset)
            if key not in datasets:
                dataset = load_dataset(config.dataset)
                log.info("%s", describe_dataset(dataset))
                datasets[key] = len(dataset.classes)
            model = str((config.preprocessing, config.backbone, config.head, config.augmentation, datasets[key]))
            if model not in models:
                build_model(config, datasets[key], precision.policy)
                build_augmentation(config.augmentation, config.seed)
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

    command = "python -m catdog.train " + " ".join(sys.argv[1:])
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
        # The terminal sent it to the job as well, which closes its own run.
        process.join(timeout=30)
        job.error = INTERRUPTED
        raise
    if job.outcome is None and not job.error:
        job.error = _describe_death(process.exitcode)
        show_error(f"{job.name}: {job.error}")
    if job.outcome is None and job.run_id and client.get_run(job.run_id).info.status == "RUNNING":
        client.set_tag(job.run_id, "catdog.error", job.error)
        client.set_terminated(job.run_id, status="FAILED")


def _describe_death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = "; out of memory?" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with code {exitcode}"


def _work(composed: DictConfig, sweep_id: str, varying: set[str], sender: Connection) -> None:
    """The job's process: runs it as Hydra would, and sends its MLflow run id, then its outcome or its error."""
    from catdog.train import run_job as train_job

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


def _finish(client: "MlflowClient", jobs: list[JobState], sweep_id: str, interrupted: bool) -> None:
    """Prints the summary, registers the best run, closes the sweep's MLflow run, and says what to do next."""
    from catdog import track
    from catdog.promote import promote

    config = jobs[0].config
    finished = [job for job in jobs if job.outcome]
    console.print(_summarize(jobs))
    for job in jobs:
        if job.error and job.error != INTERRUPTED:
            console.print(Text(f"{job.name} failed: {job.error}", style="red"), soft_wrap=True)
    promotions = promote(client, config, [job.outcome.run_id for job in finished if job.outcome], sweep_id)
    client.set_tag(sweep_id, "mlflow.note.content", _describe(jobs))
    done = len(finished) == len(jobs)
    client.set_terminated(sweep_id, status="KILLED" if interrupted else "FINISHED" if done else "FAILED")
    study = "" if config.study == "cats_vs_dogs" else f" study={config.study}"
    commands = [f"python -m catdog.compare{study}"] if finished else []
    commands += [f"python -m catdog.evaluate{study}"] if promotions else []
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
