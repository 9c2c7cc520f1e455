"""A sweep: its jobs checked before the first one starts, one process each, one MLflow parent, one summary."""

import copy
import logging
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobStatus, filter_overrides, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict
from rich.text import Text

from catdog.cli import EXIT_DEFECT, EXIT_INTERRUPTED, next_command
from catdog.config import Config, load_config
from catdog.console import console, show_next
from catdog.errors import UserError
from catdog.sweep.check import check_models, decode_images, load_datasets
from catdog.sweep.jobs import INTERRUPTED, JobState, follow_job, start_server
from catdog.sweep.summary import build_summary, describe_outcomes

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)


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
    datasets = load_datasets(jobs)
    processes = start_server()
    check_models(processes, jobs, [len(dataset.classes) for dataset in datasets])
    decode_images(jobs, datasets)
    client = track.connect(first.tracking)
    sweep_id = _open_sweep(client, first, len(jobs))
    # A scheduler's polite end is one: the running job is stopped and recorded, the sweep summarised.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    interrupted = False
    try:
        for number, job in enumerate(jobs, 1):
            console.print(f"[bold]run {number} of {len(jobs)}: {job.name}[/bold]", highlight=False)
            follow_job(processes, client, job, sweep_id, varying)
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


def _close_sweep(client: "MlflowClient", jobs: list[JobState], sweep_id: str, interrupted: bool) -> None:
    done = all(job.outcome for job in jobs)
    client.set_tag(sweep_id, "mlflow.note.content", describe_outcomes(jobs))
    client.set_terminated(sweep_id, status="KILLED" if interrupted else "FINISHED" if done else "FAILED")


def _finish(client: "MlflowClient", jobs: list[JobState], sweep_id: str) -> None:
    """Prints the summary, registers the best run, and says what to do next."""
    from catdog import track
    from catdog.promote import promote

    config = jobs[0].config
    finished = [job for job in jobs if job.outcome]
    console.print(build_summary(jobs))
    for job in jobs:
        if job.error and job.error != INTERRUPTED:
            console.print(Text(f"{job.name} failed: {job.error}", style="red"), soft_wrap=True)
    promotions = promote(client, config, [job.outcome.run_id for job in finished if job.outcome], sweep_id)
    place = (config.study, config.tracking.uri)
    commands = [next_command("compare", *place)] if finished else []
    commands += [next_command("evaluate", *place)] if promotions else []
    show_next(*commands, track.ui_command(config.tracking.uri))
