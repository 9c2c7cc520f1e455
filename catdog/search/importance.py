"""How much each key of a space matters: the share of the variance of the scores that it explains, with an interval."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.search.space import Dimension, Space
from catdog.search.trials import Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# With fewer trials a forest has little to learn from.
FEWEST_TRIALS = 15
RESAMPLES = 30
TREES = 32


@dataclass(frozen=True)
class Importance:
    """The importance of a key.

    Attributes:
        value: the share of the variance of the scores that it explains by itself, in [0, 1].
        low: the lower bound of its 95% interval.
        high: the upper bound.
    """

    value: float
    low: float
    high: float


def measure_importances(space: Space, trials: Sequence[Trial], rungs: Sequence[int]) -> dict[str, Importance]:
    """Returns the importance of each key that all of the compared trials have, in the order of the space.

    The trials are compared at one epoch, because scores of different epochs do not compare: the last rung that at least 15 of them
    reached. A forest of trees predicts these scores from the settings, and its variance is divided among the keys (functional
    ANOVA); what only several keys together explain is left out. The interval is over the trials and the seed of the forest: each
    of 30 forests learns from trials drawn with replacement. The search itself favours some regions, and no interval knows what
    lies elsewhere.

    Args:
        space: what was varied.
        trials: all trials.
        rungs: the epochs at which trials were compared, increasing.

    Returns:
        Empty if fewer than 15 trials came to the first rung, or all have the same score.

    Source: Hutter, Hoos and Leyton-Brown (2014), "An efficient approach for assessing hyperparameter importance", ICML, by Optuna.
    """
    for rung in reversed(rungs):
        known = [
            (trial, score) for trial in trials if (score := trial.score_at(rung)) is not None and np.isfinite(score)
        ]
        if len(known) >= FEWEST_TRIALS:
            break
    else:
        return {}
    keys = [each.key for each in space if all(each.key in trial.settings for trial, _ in known)]
    if not keys or len({score for _, score in known}) < 2:
        return {}
    whole = _explain(space, known, keys, 0)
    generator = np.random.default_rng(0)
    drawn = [
        _explain(space, [known[place] for place in generator.integers(len(known), size=len(known))], keys, number + 1)
        for number in range(RESAMPLES)
    ]
    found = {}
    for key in keys:
        low, high = np.quantile([each[key] for each in drawn], (0.025, 0.975))
        found[key] = Importance(whole[key], min(float(low), whole[key]), max(float(high), whole[key]))
    return found


def _explain(space: Space, known: Sequence[tuple[Trial, float]], keys: Sequence[str], seed: int) -> dict[str, float]:
    """Returns the share of the variance that each key explains in a forest; 0 for a key with one value."""
    import optuna
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.trial import create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sides = {each.key: each for each in space if each.key in keys}
    varied = [key for key in keys if len({trial.settings[key] for trial, _ in known}) > 1]
    if not varied or len({score for _, score in known}) < 2:
        return dict.fromkeys(keys, 0.0)
    study = optuna.create_study(direction="maximize")
    study.add_trials([
        create_trial(
            params={key: _place(sides[key], trial.settings[key]) for key in varied},
            distributions={key: _spread(sides[key]) for key in varied}, value=score,
        )
        for trial, score in known
    ])  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = FanovaImportanceEvaluator(n_trees=TREES, seed=seed).evaluate(study, params=varied)
    return {key: float(found.get(key, 0.0)) for key in keys}


def _place(side: Dimension, text: str) -> Any:
    """Returns a value as the forest sees it: its logarithm where values are spread evenly in that, or low decades hardly count."""
    value = side.read(text)
    return math.log10(float(value)) if side.log and value is not None else value


def _spread(side: Dimension) -> "BaseDistribution":
    from optuna.distributions import FloatDistribution

    return FloatDistribution(math.log10(side.low), math.log10(side.high)) if side.log else side.distribution
