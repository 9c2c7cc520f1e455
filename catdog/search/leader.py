"""Leads a search: trains its trials step by step as `Halving` says, and records in MLflow what cannot be read from their runs.

Each trial is a run like any other. What it tries is recorded on the search's own MLflow run before it begins. How far it has come
is read from its checkpoint while it is unfinished, and from its run in MLflow afterwards. So the same command goes on where the
search stopped, whatever stopped it.
"""

import json
import logging
import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.config.names import shorten_keys
from catdog.search.halving import Step
from catdog.search.planning import DEFAULT, PlannedSearch
from catdog.search.sampling import suggest
from catdog.search.trials import Trial, TrialState, find_best
from catdog.search.tuned import PAGE
from catdog.statistics.metrics import NAMED
from catdog.sweeps.check import check_models, decode_images
from catdog.sweeps.executors.local import LocalExecutor, start_server
from catdog.sweeps.jobs import INTERRUPTED, JobState, Supervisor
from catdog.sweeps.launch import build_remote
from catdog.sweeps.parent import open_parent
from catdog.sweeps.plan import PlannedRun, plan_run
from catdog.system.errors import UserError
from catdog.system.wording import plural
from catdog.tracking import tags as tag
from catdog.tracking.checkpoint import load_checkpoint
from catdog.tracking.identity import hash_before_data
from catdog.tracking.records import get_run, read_history
from catdog.tracking.scores import load_score
from catdog.training.outcome import choice_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.search.tuned import Tuning
    from catdog.sweeps.display import Display
    from catdog.sweeps.executors.executor import Executor
    from catdog.sweeps.launch import MakeDisplay
    from catdog.tracking import OutboxRun

log = logging.getLogger(__name__)

# The folder of the page and its figures among the artifacts of the search's run.
ARTIFACTS = "search"


def lead_search(planned: PlannedSearch, make_display: "MakeDisplay", command: Sequence[str]) -> "Leader":
    """Trains the trials of a search, and returns what is known of them; the search's run in MLflow stays open.

    Args:
        planned: the search.
        make_display: returns the display, given names and how many run at once.
        command: the arguments of the command, to be typed again.

    Raises:
        UserError: another process leads it, or a store does not answer.
        KeyboardInterrupt: Ctrl-C.
    """
    from catdog import tracking

    log.info("checking the default run before the first trial starts")
    config, processes = planned.base_config, start_server()
    job = planned.build_job(Trial(-1, {}), DEFAULT)
    remote = build_remote(planned.options, Path(config.tracking.outbox))
    gpus = check_models(processes, [job], [len(planned.dataset.classes)], elsewhere=remote is not None)
    if remote is None:
        decode_images([job], [planned.dataset])
    executor = remote or LocalExecutor(processes, planned.options.n_jobs, gpus)
    client = tracking.connect(config.tracking)
    parent = open_parent(
        client, config.tracking, config.study, identity=planned.search_identity, name=f"search {planned.name}",
        command=shlex.join(["python", "-m", "catdog.tune", *command]), tags={tag.SEARCH: json.dumps(planned.describe())},
        before_data=hash_before_data([config]), earlier=planned.earlier,
    )  # fmt: skip
    leader = Leader(planned, client, parent)
    try:
        if planned.most_trials < planned.config.trials:
            log.info("the space has %s", plural(planned.most_trials, "configuration"))
        log.info("%s", planned.halving.describe(planned.most_trials))
        leader.restore()
        with make_display([], planned.options.n_jobs) as display:
            leader.train(executor, display)
    except BaseException as error:
        leader.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", wait=not leader.was_given_up)
        raise
    return leader


class Leader:
    """Decides what a supervisor trains next, and learns what came of it; a `catdog.sweeps.jobs.Feed`.

    Attributes:
        planned: the search.
        client: of the tracking store.
        parent: the search's run in MLflow.
        trials: all trials so far; the place of each is its number.
        jobs: the job of each trial.
        seconds: how long the search has been led, by all processes that led it.
        undelivered: why the tracking store does not have all of a finished trial; "" if it has.
    """

    def __init__(self, planned: PlannedSearch, client: "MlflowClient", parent: "OutboxRun") -> None:
        self.planned = planned
        self.client = client
        self.parent = parent
        self.trials: list[Trial] = []
        self.jobs: list[JobState] = []
        # What each finished trial counts for on each validation image; the higher the better.
        self.values: dict[int, np.ndarray] = {}
        # The validation images, their true classes, and the names of the classes.
        self.files = np.zeros(0, dtype=str)
        self.labels = np.zeros(0, dtype=int)
        self.class_names: tuple[str, ...] = ()
        self.undelivered = ""
        self.was_given_up = False
        self._running: set[int] = set()
        self._crashed: set[int] = set()
        self._is_exhausted = False
        self._display: Display | None = None
        self._supervisor: Supervisor | None = None
        self._began = time.monotonic()
        self._before_s = planned.earlier.tags.search_seconds if planned.earlier else 0.0
        self._lock = threading.Lock()

    @property
    def run_id(self) -> str:
        """The id of the search's run in MLflow."""
        return str(self.parent.delivered_state["run_id"])

    @property
    def seconds(self) -> float:
        """How long the search has been led, by all processes that led it."""
        return self._before_s + time.monotonic() - self._began

    # Going on after an interruption.

    def restore(self) -> None:
        """Reads the trials of an earlier process.

        Raises:
            UserError: another process trains one of them.
        """
        if self.planned.earlier is None:
            return
        stored = get_run(self.client, self.run_id)
        for number, record in sorted(stored.tags.trials.items()):
            if number != len(self.trials):
                # A trial is recorded before it begins, so there are no gaps; a later one was begun by a search that is lost.
                break
            state = TrialState(record.get("state", TrialState.RUNNING))
            trial = Trial(number, record["settings"], state, origin=record["origin"])
            trial.why, trial.epochs = record.get("why", ""), int(record.get("epochs", 0))
            self.trials.append(trial)
            self.jobs.append(self._rebuild(trial))
        counts = {state: sum(trial.state == state for trial in self.trials) for state in TrialState}
        words = ", ".join(
            f"{count} {state}" for state, count in counts.items() if count and state != TrialState.RUNNING
        )
        log.info("%s from before%s", plural(len(self.trials), "trial"), f": {words}" if words else "")

    def _rebuild(self, trial: Trial) -> JobState:
        job = self.planned.build_job(trial)
        if trial.is_over:
            return job
        plan_run(self.client, job.planned, self.run_id)
        job.job = self._place(job, trial)
        if job.planned.state == "busy":
            raise UserError(f"{trial.name}: {job.planned.why}. Wait for it, or stop it.")
        if job.planned.state == "reuse":
            self._finish(trial, job.planned.run_id)
        elif job.planned.state == "resume":
            trial.run_id = job.planned.run_id
            checkpoint = load_checkpoint(job.planned.entry.checkpoints)
            if checkpoint is not None:
                self._advance(trial, checkpoint.facts["epochs"])
                trial.seconds = sum(float(wall_s) for wall_s, *_ in checkpoint.facts["spent"].values())
                if trial.epochs in self.planned.halving.rungs[:-1]:
                    trial.state = TrialState.PAUSED
        return job

    # Deciding.

    def train(self, executor: "Executor", display: "Display") -> None:
        """Trains until there is nothing left to do.

        Raises:
            UserError: the tracking store does not have all of a finished trial.
            KeyboardInterrupt: Ctrl-C; running trials have saved their state.
        """
        self._display = display
        display.summary = self.summarize
        for trial in self.trials:
            display.add(f"{trial.name}: {self.word_settings(trial)}", trial.name)
            if trial.state != TrialState.RUNNING:
                display.finish(trial.number, _word_state(trial))
        self._supervisor = Supervisor(executor, self.client, self.jobs, self.planned.options, display, self)
        try:
            self._supervisor.run()
        except KeyboardInterrupt:
            self.was_given_up = True
            raise
        self._supervisor.hand_in(self.planned.base_config.tracking.wait_s)
        if self._supervisor.interrupts:
            raise KeyboardInterrupt
        if self.undelivered:
            raise UserError(self.undelivered)

    def next_job(self) -> int | None:
        """Returns the number of a trial to start now; None if there is nothing to do until a running one ends."""
        while not self.undelivered:
            step = self._choose_step()
            if step is None:
                return None
            number = self._begin(step)
            if number is not None:
                self._running.add(number)
                return number
        return None

    def _choose_step(self) -> Step | None:
        halving = self.planned.halving
        for trial in self.trials:
            if trial.state == TrialState.RUNNING and trial.number not in self._running:
                return Step(halving.target_of(trial), trial.number)
        is_late = self._is_late()
        may_add = len(self.trials) < self.planned.config.trials and not self._is_exhausted and not is_late
        if is_late and find_best(self.trials):
            return None
        if is_late:
            halving = replace(halving, finishers=1)
        return halving.next_step(self.trials, may_add=may_add, may_go_on=not is_late)

    def _is_late(self) -> bool:
        minutes = self.planned.config.budget_minutes
        return minutes is not None and self.seconds > 60 * minutes

    def _begin(self, step: Step) -> int | None:
        """Makes a trial ready to train to a rung; returns its number, or None if it needs no process."""
        if step.trial is None:
            trial = self._add_trial()
            if trial is None or trial.is_over:
                return None
        else:
            trial = self.trials[step.trial]
        job = self.jobs[trial.number]
        assert job.job is not None
        last = self.planned.halving.rungs[-1]
        trial.state = TrialState.RUNNING
        job.pause, job.error, job.has_crashed, job.has_diverged = None, "", False, False
        job.planned.state = "resume" if trial.epochs or trial.number in self._crashed else job.planned.state
        job.job = replace(job.job, until=step.until if step.until < last else None)
        return trial.number

    def _add_trial(self) -> Trial | None:
        """Returns a new trial, planned; None if the space has no more."""
        number = len(self.trials)
        defaults = self.planned.read_defaults() if number == 0 else None
        config = self.planned.config
        if defaults is not None:
            trial = Trial(number, defaults, origin=DEFAULT)
        else:
            found = suggest(
                self.planned.space, self.trials, number=number, sampler=config.sampler, seed=self.planned.base_config.seed,
                random_share=config.random_share,
            )  # fmt: skip
            if found is None:
                self._is_exhausted = True
                log.info("the space has no more than %s", plural(number, "configuration"))
                return None
            trial = Trial(number, found.settings, origin=found.origin)
        self._record(trial)
        self.trials.append(trial)
        assert self._display is not None
        self._display.add(f"{trial.name}: {self.word_settings(trial)}", trial.name)
        try:
            job = self.planned.build_job(trial)
        except UserError as error:
            # Such as two values that do not go together.
            job = JobState(
                self.planned.base_run.run.composed,
                [],
                PlannedRun(trial.name, self.planned.base_config, self.planned.identity),
            )
            self.jobs.append(job)
            self._give_up(trial, TrialState.FAILED, str(error))
            return trial
        self.jobs.append(job)
        plan_run(self.client, job.planned, self.run_id)
        job.job = self._place(job, trial)
        if job.planned.state == "reuse":
            self._finish(trial, job.planned.run_id)
            trial.origin = "reused" if trial.origin != DEFAULT else DEFAULT
            self.parent.append("tags", run_id=job.planned.run_id, values=_member_tags(self.run_id, job))
            self._display.finish(number, _word_state(trial))
        elif job.planned.state == "busy":
            self._give_up(trial, TrialState.FAILED, job.planned.why)
        return trial

    def _place(self, job: JobState, trial: Trial) -> Any:
        from catdog import tracking
        from catdog.tracking.ownership import Leader

        output = Path(str(job.composed.hydra.sweep.dir), str(job.composed.hydra.sweep.subdir))
        return tracking.Job(
            trial.name, trial.name, job.overrides, output, self.run_id, trial.number, trial.number, leader=Leader.current(),
            identity=job.planned.identity,
        )  # fmt: skip

    # Learning.

    def ended(self, number: int) -> None:
        """Learns what came of a trial's step."""
        self._running.discard(number)
        job, trial = self.jobs[number], self.trials[number]
        if job.outcome:
            if job.outcome.has_arrived:
                self._finish(trial, job.outcome.run_id)
                self._show(trial)
            else:
                self.undelivered = job.outcome.undelivered
        elif job.pause:
            self._advance(trial, job.pause.epochs)
            trial.seconds, trial.state = job.pause.seconds, TrialState.PAUSED
        elif job.has_diverged:
            self._give_up(trial, TrialState.DIVERGED, job.error)
        elif job.error == INTERRUPTED or not job.error:
            pass
        elif job.has_crashed and not job.retries and number not in self._crashed:
            self._crashed.add(number)
            log.warning("%s: %s: it is tried once more", trial.name, job.error)
        else:
            self._give_up(trial, TrialState.FAILED, job.error)
        self.parent.log_tags({tag.SEARCH_SECONDS: f"{self.seconds:.0f}"})

    def _finish(self, trial: Trial, run_id: str) -> None:
        """Reads the results of a finished trial from its run."""
        run = get_run(self.client, run_id)
        metric = self.planned.metric
        predictions = run.load_predictions()
        self.files, self.labels = predictions.files, predictions.label_indices
        self.class_names = predictions.class_names
        score = load_score(self.client, run, predictions, metric)
        history = read_history(self.client, run)
        epochs = [
            {"epoch": float(epoch), **{key: float(values[place]) for key, values in history.columns.items()}}
            for place, epoch in enumerate(history.epochs)
        ]
        self._advance(trial, epochs)
        self.values[trial.number] = np.asarray(metric.orient(score.values))
        trial.score, trial.run_id, trial.state = float(metric.orient(score.mean)), run_id, TrialState.FINISHED
        trial.seconds = run.metrics.get("run_seconds", 0.0)

    def _advance(self, trial: Trial, epochs: Sequence[Mapping[str, float]]) -> None:
        """Sets how far a trial has come, and the best score up to each epoch."""
        by = self.planned.base_config.trainer.keep_metric
        best, curve = float("-inf"), {}
        for metrics in epochs:
            if metrics.get("val/accuracy") is not None and metrics["val/accuracy"] == metrics["val/accuracy"]:
                best = max(best, float(NAMED[by].orient(choice_of(metrics, by))))
                curve[int(metrics["epoch"])] = best
        trial.epochs, trial.curve = len(epochs), curve

    def _give_up(self, trial: Trial, state: TrialState, why: str) -> None:
        trial.state, trial.why = state, " ".join(why.split())
        self._record(trial)
        log.warning("%s %s: %s", trial.name, state, trial.why)
        self._show(trial)

    def _show(self, trial: Trial) -> None:
        if self._display is not None:
            self._display.finish(trial.number, _word_state(trial))

    def _record(self, trial: Trial) -> None:
        """Records what a trial tries, or that it has failed, so that it is on the disk before anything follows from it."""
        content: dict[str, Any] = {"settings": dict(trial.settings), "origin": trial.origin}
        if trial.state in (TrialState.DIVERGED, TrialState.FAILED):
            content |= {"state": str(trial.state), "why": trial.why[:500], "epochs": trial.epochs}
        self.parent.log_tags({tag.trial_tag(trial.number): json.dumps(content)})

    def word_settings(self, trial: Trial) -> str:
        """Returns a trial's settings in short: "learning_rate=0.0021 dropout=0.31"."""
        short = shorten_keys(self.planned.space.keys)
        return " ".join(f"{short[key]}={value}" for key, value in trial.settings.items())

    def summarize(self) -> str:
        """Returns the last line of the display."""
        trials = list(self.trials)
        wanted = max(self.planned.most_trials, len(trials))
        ended = sum(trial.state == TrialState.FINISHED for trial in trials)
        best = find_best(trials)
        found = f", best {self.planned.metric.show(best.score or 0.0)} ({best.name})" if best else ""
        return f"search  {len(trials)} of {wanted} trials, {ended} trained to the end{found}{self._word_eta(trials, wanted)}"

    def _word_eta(self, trials: Sequence[Trial], wanted: int) -> str:
        """Returns about how long the search will take, once an epoch has shown its time."""
        known = [trial for trial in trials if trial.seconds and trial.epochs]
        if not known:
            return ""
        epoch_s = sum(trial.seconds for trial in known) / sum(trial.epochs for trial in known)
        left = max(0, self.planned.halving.expect_epochs(wanted) - sum(trial.epochs for trial in trials))
        minutes = left * epoch_s / self.planned.options.n_jobs / 60
        budget = self.planned.config.budget_minutes
        if budget is not None:
            minutes = min(minutes, max(0.0, budget - self.seconds / 60))
        return f", about {minutes:.0f} min left"

    # Ending.

    def close(self, status: str, *, wait: bool = True) -> bool:
        """Closes the search's run in MLflow; returns whether the store has everything."""
        from catdog.tracking.run import hand_in

        if not wait:
            self.parent.delivery.stop(wait=False)
            return False
        self.parent.append("status", status=status, time_ms=int(time.time() * 1000))
        return hand_in(self.parent, self.planned.base_config.tracking.wait_s)

    def describe_undelivered(self) -> str:
        """Returns why the tracking store does not have everything."""
        from catdog.tracking import describe_undelivered

        return describe_undelivered(self.planned.base_config.tracking, self.parent.delivery)

    def log_result(self, tuning: "Tuning") -> None:
        """Records what the search has found on its run in MLflow."""
        best, winner = tuning.best, tuning.winner
        self.parent.log_tags({tag.NOTE: "\n\n".join([*tuning.sentences(), self._link_page()])})
        metrics = {"search_epochs": float(tuning.epochs)}
        if best is not None:
            self.parent.log_tags(
                {tag.SEARCH_BEST: best.run_id, tag.SEARCH_WINNER: winner.run_id if winner else DEFAULT}
            )
            metrics["search_best_score"] = float(tuning.metric.orient(best.score or 0.0))
        if tuning.correction is not None:
            metrics["search_corrected_score"] = float(tuning.metric.orient(tuning.correction.corrected))
        # A finished search that is typed again finds the same.
        known = get_run(self.client, self.run_id).metrics
        self.parent.log_metrics({key: value for key, value in metrics.items() if known.get(key) != value})
        for path, content in tuning.files.items():
            self.parent.log_bytes(content, f"{ARTIFACTS}/{path}")

    def _link_page(self) -> str:
        """Returns a link, in Markdown, to the page of the search on MLflow's pages."""
        experiment = get_run(self.client, self.run_id).experiment_id
        return f"[The page of the search](#/experiments/{experiment}/runs/{self.run_id}/artifacts/{ARTIFACTS}/{PAGE})"


def _word_state(trial: Trial) -> str:
    return f"paused at {trial.epochs}" if trial.state == TrialState.PAUSED else str(trial.state)


def _member_tags(run_id: str, job: JobState) -> dict[str, str]:
    from catdog import tracking

    assert job.job is not None
    return tracking.member_tags(run_id, job.job)
