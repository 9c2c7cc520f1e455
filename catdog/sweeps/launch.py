"""Leading a sweep: plan, checks before the first run starts, the runs, the summary."""

import copy
import json
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobStatus, filter_overrides, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict
from rich.text import Text

from catdog.config import schema
from catdog.config.command_lines import next_command, this_command, ui_command
from catdog.config.schema import DEFAULT_STUDY, Config, load_config
from catdog.registry.champion import REGISTERED_TAG, promote
from catdog.sweeps.check import check_models, decode_images, load_datasets
from catdog.sweeps.display import Display
from catdog.sweeps.jobs import INTERRUPTED, JobState, Supervisor, start_server
from catdog.sweeps.options import LauncherOptions
from catdog.sweeps.plan import PlannedRun, build_table, close_dead_runs, discard_entries, plan_runs
from catdog.sweeps.summary import build_summary, describe_outcomes
from catdog.system import interrupts
from catdog.system.errors import EXIT_DEFECT, EXIT_INTERRUPTED, UserError
from catdog.system.tempdir import open_scratch
from catdog.system.terminal import console, show_error, show_next
from catdog.system.wording import plural
from catdog.tracking.identity import describe_origin, identify
from catdog.tracking.outbox import entry_for
from catdog.tracking.ownership import BusyError, Owner

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from catdog.tracking import SpooledRun
    from catdog.tracking.delivery import Postman

log = logging.getLogger(__name__)


def launch(
    context: HydraContext, base: DictConfig, job_overrides: list[list[str]], options: LauncherOptions
) -> Sequence[JobReturn]:
    """Runs a sweep: what is finished is reused, what was interrupted goes on, the rest is trained. Exits with its outcome.

    Raises:
        UserError: a job that cannot run, found before any of them starts.
        SystemExit: a job failed, or Ctrl-C, or the plan was all that was asked for.
    """
    from catdog import tracking
    from catdog.tracking.settlement import settle_entries

    open_scratch()
    # A scheduler's polite end is Ctrl-C.
    interrupts.listen(once=False)
    setup_globals()
    varying = find_varying(job_overrides)
    _require_one_study(varying)
    configs = _compose(context, base, job_overrides)
    names = [
        _name_job(composed, overrides, varying) for (composed, _), overrides in zip(configs, job_overrides, strict=True)
    ]
    if options.only is not None:
        kept = _select([variant for _, variant in names], options.only)
        job_overrides, configs = [job_overrides[index] for index in kept], [configs[index] for index in kept]
        names = [names[index] for index in kept]
    first = configs[0][1]
    tracking.check_store(first.tracking)
    datasets = load_datasets([(name, config) for (name, _), (_, config) in zip(names, configs, strict=True)])
    jobs = [
        JobState(
            composed,
            PlannedRun(name, config, identify(config, dataset.manifest.digest), images=dataset.manifest.images),
        )
        for (composed, config), (name, _), dataset in zip(configs, names, datasets, strict=True)
    ]
    client = tracking.connect_existing(first.tracking)
    identity = schema.hash_text("\n".join(job.planned.identity.digest for job in jobs))
    earlier = None
    if client and not options.plan_only:
        settle_entries(client, Path(first.tracking.spool), first.tracking.uri, first.tracking.wait_s)
        close_dead_runs(client, first)
    if client:
        earlier = _find_sweep(client, first.study, identity)
    if earlier and earlier.info.status == "RUNNING" and not options.plan_only:
        # What a kill left open is closed by now: this one has a leader, with another spool or on another host.
        raise _busy(Owner.from_tag(earlier.data.tags.get("catdog.owner")))
    unregistered = earlier is not None and first.promote.enabled and REGISTERED_TAG not in earlier.data.tags
    goes_on = earlier is not None and (earlier.info.status != "FINISHED" or unregistered)
    plan_runs(client, [job.planned for job in jobs], earlier.info.run_id if earlier and goes_on else "")
    console.print(build_table([job.planned for job in jobs]))
    if options.plan_only:
        show_next(this_command(without="hydra.launcher.plan_only="))
        sys.exit(0)
    wanted = [(job, data) for job, data in zip(jobs, datasets, strict=True) if job.planned.state in ("run", "resume")]
    todo = [job for job, _ in wanted]
    if todo:
        log.info("checking %s before the first one starts", plural(len(todo), "run"))
        processes = start_server()
        gpus = check_models(processes, todo, [len(data.classes) for _, data in wanted])
        decode_images(todo, [data for _, data in wanted])
    client = tracking.connect(first.tracking)
    discard_entries([job.planned for job in jobs])
    _take_reused(client, jobs)
    if not todo and earlier and not goes_on:
        # Nothing is new: the finished sweep stands.
        sweep_id = earlier.info.run_id
        _share_outcomes(jobs)
        # Other runs may have come since, or promote.force.
        run_ids = [job.outcome.run_id for job in jobs if job.outcome and job.planned.same_as is None]
        promotions = promote(client, first.promote, run_ids, sweep_id)
        return _finish(client, jobs, options, sweep_id, promoted=bool(promotions))
    sweep = _open_sweep(client, first, identity, len(jobs), earlier if goes_on else None)
    sweep_id = sweep.delivered_state["run_id"]
    leader = (Owner.current().pid, Owner.current().started)
    for number, (job, (name, variant), overrides) in enumerate(zip(jobs, names, job_overrides, strict=True)):
        output = Path(str(job.composed.hydra.sweep.dir), str(job.composed.hydra.sweep.subdir))
        job.job = tracking.Job(
            name, variant, filter_overrides(overrides), output, sweep_id, number, leader=leader,
            identity=job.planned.identity,
        )  # fmt: skip
        if job.planned.state == "reuse" and job.planned.run_id:
            sweep.append("tags", run_id=job.planned.run_id, values=tracking.member_tag(sweep_id, job.job))
        elif job.planned.state == "busy":
            job.error = job.planned.why
    supervisor = None
    interrupted = False
    arrived = True
    try:
        if todo:
            with Display([job.name for job in jobs], min(options.n_jobs, len(jobs))) as display:
                for number, job in enumerate(jobs):
                    if job.planned.state != "run" and job.planned.state != "resume":
                        display.finish(number, "reused" if job.planned.state == "reuse" else job.planned.state)
                supervisor = Supervisor(processes, client, jobs, options, gpus, display)
                supervisor.run()
            interrupted = supervisor.interrupts > 0
        _share_outcomes(jobs)
        arrived = _close_sweep(sweep, supervisor, jobs, interrupted)
    except KeyboardInterrupt:
        # The second Ctrl-C: nothing more is recorded; the next command closes what is open.
        sweep.postman.stop(wait=False)
        console.print(
            f"stopped at once. Go on with the same command:\n{this_command()}", soft_wrap=True, highlight=False
        )
        sys.exit(EXIT_INTERRUPTED)
    promoted = bool(sweep.delivered_state.get("promotions"))
    return _finish(
        client, jobs, options, sweep_id, promoted, interrupted=interrupted, arrived=arrived, postman=sweep.postman
    )


def _compose(
    context: HydraContext, base: DictConfig, job_overrides: list[list[str]]
) -> list[tuple[DictConfig, Config]]:
    composed_jobs = []
    for number, overrides in enumerate(job_overrides):
        composed = context.config_loader.load_sweep_config(base, overrides)
        with open_dict(composed):
            composed.hydra.job.id = f"{number}"
            composed.hydra.job.num = number
        composed_jobs.append((composed, load_config(_task_config(composed), Config)))
    return composed_jobs


def _name_job(composed: DictConfig, overrides: list[str], varying: set[str]) -> tuple[str, str]:
    from catdog.training.run import name_job

    return name_job(composed.hydra.runtime.choices["model"], filter_overrides(overrides), varying)


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
        if key in ("study", "reuse") or key.partition(".")[0] in ("tracking", "promote"):
            raise UserError(f"{key}: must be the same for all runs of a sweep; give each its own command.")


def _task_config(composed: DictConfig) -> DictConfig:
    task = copy.deepcopy(composed)
    with open_dict(task):
        del task["hydra"]
    return task


def _find_sweep(client: "MlflowClient", study: str, identity: str) -> "Run | None":
    """Returns the newest sweep of exactly these runs, in this order."""
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        return None
    where = f"tags.`catdog.identity` = '{identity}' AND tags.`catdog.kind` = 'sweep'"
    found = client.search_runs([experiment.experiment_id], where, max_results=1, order_by=["start_time DESC"])
    return found[0] if found else None


def _take_reused(client: "MlflowClient", jobs: list[JobState]) -> None:
    from catdog.training.run import read_outcome

    for job in jobs:
        if job.planned.state == "reuse" and job.planned.run_id:
            job.outcome = replace(read_outcome(client.get_run(job.planned.run_id)), name=job.name)


def _share_outcomes(jobs: list[JobState]) -> None:
    for job in jobs:
        if job.planned.same_as is not None:
            twin = jobs[job.planned.same_as]
            job.outcome = twin.outcome
            job.error = "" if twin.outcome else f"{twin.name}, which is the same, has no result"


def _busy(owner: Owner | None) -> UserError:
    return UserError(f"this very sweep is being run by {owner or 'another process'}. Wait for it, or stop it.")


def _open_sweep(
    client: "MlflowClient", config: Config, identity: str, count: int, earlier: "Run | None"
) -> "SpooledRun":
    """Returns the sweep's MLflow run, new or that of the interrupted one, once MLflow has it."""
    from catdog.tracking import SpooledRun

    said = [item for item in sys.argv[1:] if not item.startswith("hydra.launcher.result_file=")]
    command = shlex.join(["python", "-m", "catdog.train", *said])
    entry = entry_for(Path(config.tracking.spool), config.tracking.uri, config.study, "sweep", identity)
    facts = {"kind": "sweep", "name": f"sweep of {count}", "study": config.study,
             "tracking": asdict(config.tracking), "identity": identity}  # fmt: skip
    try:
        entry.claim(facts)
    except BusyError as busy:
        raise _busy(busy.owner) from None
    if earlier and not entry.state["run_id"]:
        entry.save_state(run_id=earlier.info.run_id)
    sweep = SpooledRun(client, entry)
    if earlier:
        sweep.append("status", status="RUNNING", time_ms=int(time.time() * 1000))
        sweep.log_tags({"catdog.command": command, **Owner.current().tags})
    else:
        tags = {
            "catdog.kind": "sweep",
            "catdog.command": command,
            "catdog.identity": identity,
            **Owner.current().tags,
            **describe_origin(command),
        }
        sweep.append("create", name=f"sweep of {count}", tags=tags, time_ms=int(time.time() * 1000))
    if not sweep.postman.wait(config.tracking.wait_s, until=lambda: bool(entry.state["run_id"]) and not entry.pending):
        sweep.postman.stop()
        entry.remove()
        raise UserError(
            f"tracking.uri: {config.tracking.uri!r} stopped answering ({sweep.postman.problem}). Nothing was started."
        )
    return sweep


def _close_sweep(sweep: "SpooledRun", supervisor: Supervisor | None, jobs: list[JobState], interrupted: bool) -> bool:
    """Records how the sweep went, registers its best run, and delivers what is left; returns whether all has arrived."""
    from catdog.tracking.run import hand_in

    config = jobs[0].config
    done = all(job.outcome for job in jobs)
    sweep.log_tags({"mlflow.note.content": describe_outcomes(jobs)})
    status = "KILLED" if interrupted else "FINISHED" if done else "FAILED"
    finished = [job for job in jobs if job.outcome and job.planned.same_as is None]
    if finished and config.promote.enabled:
        known = [job.outcome.run_id for job in finished if job.outcome and job.outcome.has_arrived]
        keys = [job.planned.entry.facts["key"] for job in finished if job.outcome and not job.outcome.has_arrived
                and job.planned.entry.facts]  # fmt: skip
        sweep.append("promote", run_ids=known, keys=keys, config=asdict(config.promote))
    # Last: a sweep that is FINISHED is not gone on with.
    sweep.append("status", status=status, time_ms=int(time.time() * 1000))
    left = supervisor.hand_in(config.tracking.wait_s) if supervisor else 0
    return hand_in(sweep, 1.0 if left else config.tracking.wait_s) and not left


def _select(variants: list[str], wanted: list[str]) -> list[int]:
    """Returns the places of the wanted variants' runs."""
    unknown = [name for name in wanted if name not in variants]
    if unknown or not wanted:
        raise UserError(
            f"hydra.launcher.only: must be names of this sweep's variants ({', '.join(dict.fromkeys(variants))}), received "
            f"{wanted}."
        )
    return [index for index, variant in enumerate(variants) if variant in wanted]


def _is_latest(client: "MlflowClient", study: str, sweep_id: str) -> bool:
    experiment = client.get_experiment_by_name(study)
    where = "tags.`catdog.kind` = 'sweep'"
    found = client.search_runs([experiment.experiment_id], where, max_results=1, order_by=["start_time DESC"])
    return bool(found) and found[0].info.run_id == sweep_id


def _finish(
    client: "MlflowClient", jobs: list[JobState], options: LauncherOptions, sweep_id: str, promoted: bool, *,
    interrupted: bool = False, arrived: bool = True, postman: "Postman | None" = None,
) -> Sequence[JobReturn]:  # fmt: skip
    """Prints the summary and what to do next; exits unless all is well."""
    from catdog import tracking

    config = jobs[0].config
    finished = [job for job in jobs if job.outcome]
    console.print(build_summary(jobs))
    for job in jobs:
        if job.error and job.error != INTERRUPTED:
            console.print(Text(f"{job.name} failed: {job.error}", style="red"), soft_wrap=True)
    place = (config.study, config.tracking.uri)
    if not arrived:
        show_error(tracking.describe_undelivered(config.tracking, postman))
        show_next(next_command("deliver", DEFAULT_STUDY, config.tracking.uri))
        sys.exit(EXIT_DEFECT)
    # Without a name, compare takes the latest.
    named = [] if _is_latest(client, config.study, sweep_id) else [f"sweep={sweep_id}"]
    commands = [next_command("compare", *place, *named)] if finished else []
    # The model of a quick look is no model to test.
    whole = config.dataset.max_images_per_class is None
    commands += [next_command("evaluate", *place)] if promoted and whole else []
    if interrupted or len(finished) < len(jobs):
        # It reuses what is finished, goes on where runs were interrupted, and tries again what failed.
        commands.insert(0, this_command())
    if options.result_file and len(finished) == len(jobs):
        # Whoever asked for this file says what comes next.
        result = {"study": config.study, "sweep_id": sweep_id, "tracking": asdict(config.tracking)}
        Path(options.result_file).write_text(json.dumps(result), encoding="utf-8")
    else:
        show_next(*commands, ui_command(config.tracking.uri))
    if interrupted:
        sys.exit(EXIT_INTERRUPTED)
    if len(finished) < len(jobs):
        sys.exit(EXIT_DEFECT)
    return [JobReturn(cfg=job.composed, status=JobStatus.COMPLETED, _return_value=job.outcome) for job in jobs]
