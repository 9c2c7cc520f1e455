"""What each trial of a search answered at each rung, image by image: on which the correction of the best score is computed."""

from typing import TYPE_CHECKING

import numpy as np

from catdog.data.epoch_answers import EpochAnswers
from catdog.search.trials import Trial, TrialState
from catdog.statistics.metrics import NAMED
from catdog.tracking.checkpoint import load_checkpoint
from catdog.tracking.records import get_run

if TYPE_CHECKING:
    from catdog.search.leader import Leader

# How the names of a checkpoint's arrays begin that hold the answers of each epoch.
ANSWERS = "answers/"


def collect_final(leader: "Leader") -> np.ndarray:
    """Returns what each trial's kept model counts for on each validation image: float64 (K, N), NaN if it did not finish."""
    images = len(leader.files)
    unknown = np.full(images, np.nan)
    return np.stack([leader.values.get(trial.number, unknown) for trial in leader.trials])


def collect_rungs(leader: "Leader") -> list[np.ndarray]:
    """Returns what the best epoch so far of each trial counts for at each rung below the last: float64 (K, N) each.

    The rows of trials that did not come so far, that diverged or failed are NaN. The list is empty if the answers of single epochs
    are not enough for the metric.
    """
    rungs = leader.planned.halving.rungs[:-1]
    found = [np.full((len(leader.trials), len(leader.files)), np.nan) for _ in rungs]
    for trial in leader.trials:
        if trial.state not in (TrialState.FINISHED, TrialState.PAUSED):
            continue
        answers = _load_answers(leader, trial)
        if answers is None or answers.images != len(leader.files):
            return []
        measured = _measure(leader, answers)
        if measured is None:
            return []
        values, criterion = measured
        for level, rung in zip(found, rungs, strict=True):
            before = np.flatnonzero(answers.epochs <= rung)
            if trial.epochs >= rung and len(before):
                level[trial.number] = values[before[np.argmax(criterion[before])]]
    return found


def _measure(leader: "Leader", answers: EpochAnswers) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns what each epoch counts for on each image, (E, N), and what the best epoch is chosen by, (E,); higher is better."""
    metric = leader.planned.metric
    keep = NAMED[leader.planned.base_config.trainer.keep_metric]
    values, criterion = (answers.measure(one, leader.labels, leader.class_names) for one in (metric, keep))
    if values is None or criterion is None:
        return None
    return np.asarray(metric.orient(values)), np.asarray(keep.orient(criterion.mean(axis=1)))


def _load_answers(leader: "Leader", trial: Trial) -> EpochAnswers | None:
    if trial.state == TrialState.FINISHED:
        return get_run(leader.client, trial.run_id).load_epoch_answers()
    checkpoint = load_checkpoint(leader.jobs[trial.number].planned.entry.checkpoints)
    arrays = checkpoint.arrays if checkpoint else {}
    stored = {key.removeprefix(ANSWERS): array for key, array in arrays.items() if key.startswith(ANSWERS)}
    return EpochAnswers.from_arrays(stored) if stored else None
