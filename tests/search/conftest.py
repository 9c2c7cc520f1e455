"""Searches that never were, with scores that follow from their settings."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from catdog.config.commands import DecideConfig
from catdog.search.decisions import Decision, Pair
from catdog.search.space import Dimension, Space
from catdog.search.trials import Trial, TrialState
from catdog.search.tuned import Tuning
from catdog.statistics.contrasts import contrast
from catdog.statistics.judgements import Judgement
from catdog.statistics.metrics import ACCURACY, NAMED, Metric
from catdog.statistics.optimism import Correction

RUNGS = (2, 7, 20)
SPACE = Space(
    (
        Dimension("trainer.learning_rate", low=1e-4, high=1e-2, log=True),
        Dimension("head.dropout", low=0.0, high=0.7),
        Dimension("head.units", ("64", "128", "256")),
        Dimension("augmentation", ("none", "flip_rotate", "strong")),
    )
)


def draw_settings(space: Space, generator: np.random.Generator) -> dict[str, str]:
    settings: dict[str, str] = {}
    for dimension in space:
        if dimension.choices:
            settings[dimension.key] = str(generator.choice(dimension.choices))
        elif dimension.log:
            settings[dimension.key] = dimension.show(
                10 ** generator.uniform(np.log10(dimension.low), np.log10(dimension.high))
            )
        else:
            settings[dimension.key] = dimension.show(generator.uniform(dimension.low, dimension.high))
    return settings


@pytest.fixture
def make_tuning() -> Callable[..., Tuning]:
    """Builds a search of `count` trials: each came to a rung, and one of three of each rung went on."""

    def make(
        count: int = 6, *, space: Space = SPACE, metric: Metric = ACCURACY, raced: bool = True, wins: bool = True,
        states: Mapping[int, TrialState] | None = None, seed: int = 0,
    ) -> Tuning:  # fmt: skip
        generator = np.random.default_rng(seed)
        trials, values = [], {}
        for number in range(count):
            state = (states or {}).get(number)
            reached = RUNGS[min(2, sum(number % 3**power == 0 for power in (1, 2)))] if state is None else RUNGS[0]
            if state is None:
                state = TrialState.FINISHED if reached == RUNGS[-1] else TrialState.PAUSED
            level = generator.uniform(0.62, 0.75)
            curve = np.maximum.accumulate(level - 0.2 / np.arange(1, reached + 1) + generator.normal(0, 0.01, reached))
            if not metric.higher_is_better:
                curve = curve - 1.1
            trial = Trial(
                number, draw_settings(space, generator), state, reached,
                {epoch + 1: float(value) for epoch, value in enumerate(curve)}, seconds=4.0 * reached,
                origin="default" if number == 0 else "sampler",
            )  # fmt: skip
            if state == TrialState.FINISHED:
                answers = generator.random(400) < level
                values[number] = (
                    metric.orient(np.where(answers, 1.0, 0.0)) if metric.higher_is_better else curve[-1] + answers * 0
                )
                trial.score, trial.run_id = float(values[number].mean()), f"{number:032x}"
            elif state in (TrialState.DIVERGED, TrialState.FAILED):
                trial.why, trial.curve = "the loss of epoch 2 is not a number", {}
            trials.append(trial)
        finished = [trial for trial in trials if trial.score is not None]
        tuning = Tuning(
            "flowers", "sqlite:///mlruns/mlflow.db", "5ea7c4" * 5 + "00", "learning_rate dropout", space,
            ["model=cnn", "trainer.epochs=20"], trials, RUNGS, metric, 5, 600.0, curve_metric=metric,
        )  # fmt: skip
        if finished:
            best = np.maximum.accumulate([trial.score for trial in finished])
            tuning.traced = best - 0.02 * np.arange(len(best)) / len(best)
            worth = float(tuning.traced[-1])
            tuning.correction = _correct(float(best[-1]), worth)
        if raced and finished:
            tuning.decision = _race([trial.name for trial in finished][-2:], metric, generator, wins)
        return tuning

    return make


def _correct(found: float, worth: float) -> Correction:
    return Correction(found, worth, worth - 0.03, worth + 0.03, 0)


def _race(names: list[str], metric: Metric, generator: np.random.Generator, wins: bool) -> Decision:
    pairs = []
    for place, name in enumerate(names):
        gain = 0.05 if wins and place == 0 else 0.0
        first, second = (generator.random((5, 400)) < 0.7 + gain, generator.random((5, 400)) < 0.7)
        found = contrast(first.astype(float), second.astype(float))
        outcome = Judgement.BETTER if wins and place == 0 else Judgement.UNDECIDED
        bounds = (0.012, 0.081) if outcome == Judgement.BETTER else (-0.041, 0.039)
        pairs.append(Pair(name, "default", outcome, 5, found, bounds, metric))
    return Decision(pairs, DecideConfig(), 0.02, 5, "dec1de" * 5 + "00", "flowers", "sqlite:///mlruns/mlflow.db", 0.05)


@pytest.fixture
def log_loss() -> Metric:
    return NAMED["log_loss"]
