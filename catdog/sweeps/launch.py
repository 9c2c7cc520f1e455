"""Leads a sweep: the plan, the checks before the first run starts, the runs, and the result."""

import json
import logging
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from catdog.config.command_lines import next_command, repeat_command
from catdog.config.composition import ComposedRun
from catdog.config.digest import hash_text
from catdog.config.schema import DEFAULT_STUDY, Config, TrackingConfig
from catdog.registry.champion import has_champion_to_test, promote
from catdog.sweeps.busy import busy_sweep
from catdog.sweeps.check import check_models, decode_images, load_datasets, plan_runtimes
from catdog.sweeps.display import Display
from catdog.sweeps.executors.local import LocalExecutor, start_server
from catdog.sweeps.fitting import fit_composed, fit_configs
from catdog.sweeps.jobs import JobState, Supervisor
from catdog.sweeps.options import LauncherOptions, RayOptions, SlurmOptions
from catdog.sweeps.parent import open_parent
from catdog.sweeps.plan import PlannedRun, close_dead, discard_entries, find_running, plan_runs, restore_commands
from catdog.sweeps.summary import describe_outcomes
from catdog.system.errors import UserError
from catdog.system.wording import plural
from catdog.tracking import tags as tag
from catdog.tracking.identity import hash_before_data, identify
from catdog.tracking.outbox import PAUSED
from catdog.tracking.ownership import Leader
from catdog.tracking.records import RUNNING, StoredRun, find_by_identity, find_latest_sweep, get_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.data.dataset import Dataset
    from catdog.sweeps.executors.executor import RemoteExecutor
    from catdog.tracking import OutboxRun
    from catdog.training.outcome import Outcome

log = logging.getLogger(__name__)

# Called with the names of the runs and how many run at once; returns the display that shows them.
MakeDisplay = Callable[[Sequence[str], int], Display]


@dataclass
class SweepResult:
    """The result of a sweep.

    Attributes:
        study: its study.
        tracking: where its runs are stored.
        sweep_id: run id of the sweep in MLflow.
        arguments: its arguments, as after `python -m catdog.train`, or another command.
        jobs: its runs, in order: the plan for each, and its outcome or error.
        interrupted: whether somebody stopped it.
        is_promoted: whether its best run competed for champion, and the study has a champion to be tested.
        undelivered: why the tracking store does not have all of it, in words; "" if the store has everything.
        is_latest: whether it is the study's latest sweep.
        command: the command that trained it.
    """

    study: str
    tracking: TrackingConfig
    sweep_id: str
    arguments: list[str]
    jobs: list[JobState] = field(repr=False)
    interrupted: bool = False
    is_promoted: bool = False
    undelivered: str = ""
    is_latest: bool = True
    command: str = "train"

    @property
    def outcomes(self) -> list["Outcome"]:
        """The outcomes of the runs that finished."""
        return [job.outcome for job in self.jobs if job.outcome]

    @property
    def is_complete(self) -> bool:
        """Whether all of its runs have finished."""
        return len(self.outcomes) == len(self.jobs)

    @property
    def left(self) -> int:
        """How many of its runs were left in the queue of a cluster."""
        return sum(job.is_left for job in self.jobs)

    @property
    def has_ended(self) -> bool:
        """Whether each of its runs has finished or failed by itself. Until then, nothing of it is promoted."""
        return all(job.has_ended for job in self.jobs)

    @property
    def lacks_promotion(self) -> bool:
        """Whether its best run would compete for champion, if the sweep had ended."""
        return self.jobs[0].config.promote.enabled and not self.has_ended

    def save(self, file: Path) -> None:
        """Writes study, sweep id and tracking to a JSON file, for the program that started the sweep."""
        content = {"study": self.study, "sweep_id": self.sweep_id, "tracking": asdict(self.tracking)}
        file.write_text(json.dumps(content), encoding="utf-8")

    def next_commands(self) -> list[str]:
        """Returns the commands to type next; the first is the same command again if something is left to do.

        For an incomplete sweep that is all: what is there so far is no reason to look at test images.
        """
        place = (self.study, self.tracking.uri)
        # What was discarded when the sweep began cannot be resumed any more.
        lost = [job.planned for job in self.jobs if not job.outcome and not job.planned.discard]
        again = [] if self.is_complete else [*restore_commands(lost), repeat_command(self.command, self.arguments)]
        if self.undelivered:
            return [next_command("deliver", DEFAULT_STUDY, self.tracking.uri), *([] if self.has_ended else again)]
        if not self.has_ended:
            return again
        commands = again
        if self.outcomes:
            # Without a name, compare uses the latest sweep.
            commands.append(next_command("compare", *place, *([] if self.is_latest else [f"sweep={self.sweep_id}"])))
        # A model from a quick look is not meant to be evaluated on the test split.
        is_whole = self.jobs[0].config.dataset.max_images_per_class is None
        return commands + ([next_command("evaluate", *place)] if self.is_promoted and is_whole else [])


@dataclass
class PlannedSweep:
    """A sweep whose runs are all composed, checked and planned.

    Attributes:
        jobs: its runs, in order.
        options: the launcher's.
        arguments: its arguments, as after `python -m catdog.train`.
        datasets: the data set of each run.
        names: each run's name, with and without its seed.
        client: of the tracking store; None if there is none yet.
        earlier: the newest sweep of exactly these runs; None if there is none.
        resumes: whether to resume that one: it was interrupted, or its best run is not registered.
        command: the command that trains it: train, or tune.
        remote: the cluster that trains its runs; None: this machine.
    """

    jobs: list[JobState]
    options: LauncherOptions
    arguments: list[str]
    datasets: list["Dataset"] = field(repr=False)
    names: list[tuple[str, str]]
    client: "MlflowClient | None" = field(repr=False)
    earlier: StoredRun | None = field(repr=False)
    resumes: bool
    command: str = "train"
    remote: "RemoteExecutor | None" = field(default=None, repr=False)

    @property
    def config(self) -> Config:
        """The config of the first run; study, tracking and promotion are the same for all runs."""
        return self.jobs[0].config

    @property
    def identity(self) -> str:
        """The sweep's identity: its runs, in this order."""
        return _identify_sweep(self.jobs)

    def run(self, make_display: MakeDisplay) -> SweepResult:
        """Runs the sweep: finished runs are reused, interrupted ones are resumed, the rest are trained.

        After the first Ctrl-C, running jobs close their runs, and no other job starts.

        Raises:
            UserError: a run cannot be trained; this is found before any run starts.
            KeyboardInterrupt: the second Ctrl-C, or one before the first run has started.
        """
        from catdog import tracking
        from catdog.tracking.run import hand_in

        todo = [(job, data) for job, data in zip(self.jobs, self.datasets, strict=True) if job.is_to_train]
        processes, gpus = None, []
        new = [(job, data) for job, data in todo if job.planned.state != "running"]
        if new:
            log.info("checking %s before the first one starts", plural(len(new), "run"))
            processes = start_server()
            gpus = check_models(
                processes,
                [job for job, _ in new],
                [len(data.classes) for _, data in new],
                elsewhere=self.remote is not None,
            )
        if new and self.remote is None:
            decode_images([job for job, _ in new], [data for _, data in new])
        client = tracking.connect(self.config.tracking)
        discard_entries([job.planned for job in self.jobs])
        _take_reused(client, self.jobs)
        if not todo and self.earlier and not self.resumes:
            return self._confirm(client, self.earlier)
        sweep = self._open(client)
        sweep_id = str(sweep.delivered_state["run_id"])
        self._prepare_jobs(sweep, sweep_id)
        supervisor = None
        try:
            if todo:
                with make_display([job.name for job in self.jobs], min(self.options.n_jobs, len(self.jobs))) as display:
                    for number, job in enumerate(self.jobs):
                        if not job.is_to_train:
                            display.finish(number, "reused" if job.planned.state == "reuse" else job.planned.state)
                    # Counted over all jobs of the sweep, not over those left to train: a resumed run then has as many CPU
                    # threads as before.
                    executor = self.remote or LocalExecutor(processes, min(self.options.n_jobs, len(self.jobs)), gpus)
                    supervisor = Supervisor(executor, client, self.jobs, self.options, display)
                    supervisor.run()
            _share_outcomes(self.jobs)
            interrupted = supervisor is not None and supervisor.interrupts > 0
            arrived = _close_sweep(sweep, supervisor, self.jobs, interrupted)
        except KeyboardInterrupt:
            # After the second Ctrl-C nothing more is recorded. The next command closes what is open.
            sweep.delivery.stop(wait=False)
            raise
        except UserError:
            # Such as a cluster that refuses the jobs.
            sweep.append("status", status="FAILED", time_ms=int(time.time() * 1000))
            hand_in(sweep, self.config.tracking.wait_s)
            raise
        undelivered = "" if arrived else tracking.describe_undelivered(self.config.tracking, sweep.delivery)
        return self._conclude(client, sweep_id, interrupted=interrupted, undelivered=undelivered)

    def _confirm(self, client: "MlflowClient", earlier: StoredRun) -> SweepResult:
        """Returns the result of a sweep that has finished before; its best run is compared with the champion again."""
        _share_outcomes(self.jobs)
        # There may be a new champion since, or promote.force may be set.
        run_ids = [job.outcome.run_id for job in self.jobs if job.outcome and job.planned.same_as is None]
        if all(job.has_ended for job in self.jobs):
            promote(client, self.config.promote, run_ids, earlier.run_id)
        return self._conclude(client, earlier.run_id)

    def _conclude(
        self, client: "MlflowClient", sweep_id: str, *, interrupted: bool = False, undelivered: str = ""
    ) -> SweepResult:
        config = self.config
        # Asked, not concluded from a promotion: in a registered model that studies share, the champion may be of another study.
        promoted = not undelivered and config.promote.enabled and has_champion_to_test(client, config.study)
        latest = not undelivered and _is_latest(client, config.study, sweep_id)
        return SweepResult(
            config.study,
            config.tracking,
            sweep_id,
            self.arguments,
            self.jobs,
            interrupted,
            promoted,
            undelivered,
            latest,
            self.command,
        )

    def _open(self, client: "MlflowClient") -> "OutboxRun":
        """Returns the sweep's MLflow run, a new one or that of the interrupted sweep, once MLflow has it."""
        return open_parent(
            client, self.config.tracking, self.config.study, identity=self.identity, name=f"sweep of {len(self.jobs)}",
            command=shlex.join(["python", "-m", f"catdog.{self.command}", *self.arguments]),
            tags={tag.RUNS: str(sum(job.planned.same_as is None for job in self.jobs))},
            before_data=hash_before_data([job.config for job in self.jobs]),
            earlier=self.earlier if self.resumes else None,
        )  # fmt: skip

    def _prepare_jobs(self, sweep: "OutboxRun", sweep_id: str) -> None:
        """Sets where each job's run belongs, and tags each reused run as a member of this sweep."""
        from catdog import tracking

        leader = Leader.current()
        variants = [*dict.fromkeys(variant for _, variant in self.names)]
        for number, (job, (name, variant)) in enumerate(zip(self.jobs, self.names, strict=True)):
            output = Path(str(job.composed.hydra.sweep.dir), str(job.composed.hydra.sweep.subdir))
            job.job = tracking.Job(
                name, variant, job.overrides, output, sweep_id, number, variants.index(variant), leader=leader,
                identity=job.planned.identity,
            )  # fmt: skip
            if job.planned.state == "reuse" and job.planned.run_id:
                sweep.append("tags", run_id=job.planned.run_id, values=tracking.member_tags(sweep_id, job.job))
            elif job.planned.state == "busy":
                job.error = job.planned.why


def plan_sweep(
    runs: Sequence[ComposedRun],
    options: LauncherOptions,
    arguments: Sequence[str],
    *,
    command: str = "train",
    names: Sequence[tuple[str, str]] | None = None,
) -> PlannedSweep:
    """Returns the plan for each run of a sweep (reuse, resume or run) and the reason.

    What earlier processes have left behind is delivered and closed, unless only the plan is wanted.

    Args:
        runs: the composed runs.
        options: the launcher's.
        arguments: the sweep's arguments, as after `python -m catdog.train`; stored with it, and used in suggested commands.
        command: the command that these are arguments of.
        names: each run's name, with and without its seed; None: what distinguishes it in the sweep.

    Raises:
        UserError: a run cannot be trained, or a store or data set is not available.
    """
    from catdog import tracking
    from catdog.tracking.settlement import settle_earlier

    names = _name_runs(runs) if names is None else list(names)
    if options.only is not None:
        kept = _select([variant for _, variant in names], options.only)
        runs, names = [runs[index] for index in kept], [names[index] for index in kept]
    first = runs[0].config
    remote = build_remote(options, Path(first.tracking.outbox))
    tracking.check_store(first.tracking)
    client = tracking.connect_existing(first.tracking)
    if client:
        tracking.check_study(client, first.study)
    named = [(name, run.config) for (name, _), run in zip(names, runs, strict=True)]
    datasets = load_datasets(named)
    named = [(name, config) for (name, _), config in zip(named, fit_configs(named, datasets), strict=True)]
    identities = [
        identify(config, dataset.manifest.digest, runtime)
        for (_, config), dataset, runtime in zip(named, datasets, plan_runtimes(named, options), strict=True)
    ]
    jobs = [
        JobState(
            fit_composed(run.composed, config),
            run.overrides,
            PlannedRun(name, config, identity, images=dataset.manifest.images),
        )
        for run, (name, config), identity, dataset in zip(runs, named, identities, datasets, strict=True)
    ]
    earlier = None
    if client and not options.plan_only:
        settle_earlier(client, first.tracking, promote)
        close_dead(client, first)
    if client:
        # The newest sweep of exactly these runs, in this order.
        earlier = next(iter(find_by_identity(client, first.study, _identify_sweep(jobs), tag.SWEEP)), None)
    if earlier and earlier.status == RUNNING and not options.plan_only:
        # Sweeps of dead processes are closed by now, so this one has a living leader: with another outbox, or on another host.
        raise busy_sweep(earlier.owner)
    unregistered = earlier is not None and first.promote.enabled and not earlier.registered_model
    resumes = earlier is not None and (not earlier.is_finished or unregistered)
    plan_runs(client, [job.planned for job in jobs], earlier.run_id if earlier and resumes else "")
    if remote is not None:
        find_running(remote, [job.planned for job in jobs])
    return PlannedSweep(jobs, options, list(arguments), datasets, names, client, earlier, resumes, command, remote)


def build_remote(options: LauncherOptions, outbox: Path) -> "RemoteExecutor | None":
    """Returns the cluster that the options name; None if this machine trains.

    Raises:
        UserError: it is not available here.
    """
    if isinstance(options, SlurmOptions):
        from catdog.sweeps.executors.slurm import SlurmExecutor

        return SlurmExecutor(options, outbox)
    if isinstance(options, RayOptions):
        from catdog.sweeps.executors.ray import RayExecutor

        return RayExecutor(options, outbox)
    return None


def _identify_sweep(jobs: Sequence[JobState]) -> str:
    return hash_text("\n".join(job.planned.identity.digest for job in jobs))


def _name_runs(runs: Sequence[ComposedRun]) -> list[tuple[str, str]]:
    """Returns the name and the variant of each run: what distinguishes it in its sweep, with and without its seed."""
    from catdog.config.names import name_job

    varying = find_varying([run.overrides for run in runs])
    _require_one_study(varying)
    return [name_job(run.model, run.overrides, varying) for run in runs]


def find_varying(job_overrides: Sequence[Sequence[str]]) -> set[str]:
    """Returns the keys whose values differ between jobs."""
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


def _take_reused(client: "MlflowClient", jobs: list[JobState]) -> None:
    from catdog.training.outcome import read_outcome

    for job in jobs:
        if job.planned.state == "reuse" and job.planned.run_id:
            job.outcome = replace(read_outcome(get_run(client, job.planned.run_id)), name=job.name)


def _share_outcomes(jobs: list[JobState]) -> None:
    for job in jobs:
        if job.planned.same_as is not None:
            twin = jobs[job.planned.same_as]
            job.outcome = twin.outcome
            if twin.has_failed:
                job.error = f"{twin.name}, which is the same, has no result"
            else:
                job.error = twin.error
            if twin.planned.state == "busy":
                job.planned.state = "busy"


def _close_sweep(sweep: "OutboxRun", supervisor: Supervisor | None, jobs: list[JobState], interrupted: bool) -> bool:
    """Records how the sweep ended and delivers what is left; returns whether everything has arrived.

    Its best run is registered only if every run has ended: the best of those that an interruption left is not the sweep's best.
    """
    from catdog.tracking.run import hand_in

    config = jobs[0].config
    done = all(job.outcome for job in jobs)
    sweep.log_tags({tag.NOTE: describe_outcomes(jobs, str(sweep.delivered_state["run_id"]))})
    # An interruption may come after the last run has finished.
    left = any(job.is_left for job in jobs)
    status = "FINISHED" if done else "KILLED" if interrupted else PAUSED if left else "FAILED"
    finished = [job for job in jobs if job.outcome and job.planned.same_as is None]
    if finished and config.promote.enabled and all(job.has_ended for job in jobs):
        known = [job.outcome.run_id for job in finished if job.outcome and job.outcome.has_arrived]
        keys = [job.planned.entry.facts["key"] for job in finished if job.outcome and not job.outcome.has_arrived
                and job.planned.entry.facts]  # fmt: skip
        sweep.append("promote", run_ids=known, keys=keys, config=asdict(config.promote))
    # Last: nothing resumes a sweep that is FINISHED.
    sweep.append("status", status=status, time_ms=int(time.time() * 1000))
    undelivered = supervisor.hand_in(config.tracking.wait_s) if supervisor else 0
    return hand_in(sweep, 1.0 if undelivered else config.tracking.wait_s) and not undelivered


def _select(variants: list[str], wanted: list[str]) -> list[int]:
    """Returns the indices of the wanted variants' runs."""
    unknown = [name for name in wanted if name not in variants]
    if unknown or not wanted:
        raise UserError(
            f"hydra.launcher.only: must be names of this sweep's variants ({', '.join(dict.fromkeys(variants))}), received "
            f"{wanted}."
        )
    return [index for index, variant in enumerate(variants) if variant in wanted]


def _is_latest(client: "MlflowClient", study: str, sweep_id: str) -> bool:
    latest = find_latest_sweep(client, study)
    return latest is not None and latest.run_id == sweep_id
