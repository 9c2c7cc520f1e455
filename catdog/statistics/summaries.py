"""What a page can say about a variant's seeds, and about a pair beside its verdict; arrays in, numbers out.

This gathers `failures` and `posterior` for whoever shows a comparison: one call for each variant, one for each pair.
"""

from dataclasses import dataclass

import numpy as np

from catdog.statistics.contrasts import Contrast
from catdog.statistics.failures import (
    HiddenFailure,
    Superiority,
    failure_bound,
    find_diverged,
    interquartile_mean,
    probability_of_beating,
    weigh_hidden_failure,
)
from catdog.statistics.judgements import Judgement
from catdog.statistics.posterior import Posterior, posterior


@dataclass(frozen=True, eq=False)
class SeedSummary:
    """A variant's runs in numbers of which a few diverged runs govern only the mean.

    Attributes:
        scores: float64 (S,), each run's mean score.
        diverged: bool (S,), whether it diverged; see `failures.find_diverged`.
        mean: of all runs; diverged ones are never dropped.
        median: of all runs.
        interquartile_mean: of all runs.
        failure_bound: the upper bound of the rate of diverged runs; 0 of 5: 0.45.
    """

    scores: np.ndarray
    diverged: np.ndarray
    mean: float
    median: float
    interquartile_mean: float
    failure_bound: float

    @property
    def failed(self) -> int:
        """The number of diverged runs."""
        return int(self.diverged.sum())

    @property
    def healthy_mean(self) -> float:
        """The mean of the runs that did not diverge; of all, if all did."""
        return self.mean if self.diverged.all() else float(self.scores[~self.diverged].mean())


@dataclass(frozen=True)
class PairSummary:
    """What stands beside the verdict on a pair; the verdict stays the test's.

    Attributes:
        posterior: the probabilities of better, equivalent and worse, for the bar.
        superiority: how probable it is that a run of the first variant beats a run of the second.
        hidden: what one hidden failure in ten seeds would do to the verdict.
    """

    posterior: Posterior
    superiority: Superiority
    hidden: HiddenFailure


def summarize_seeds(values: np.ndarray, chance: float) -> SeedSummary:
    """Returns a variant's runs in numbers.

    Args:
        values: float or bool (S, N), a run's score on an image, such as whether it is right.
        chance: the mean score of a model that learned nothing, in [0, 1).
    """
    scores = np.asarray(values, dtype=float).mean(axis=-1)
    diverged = find_diverged(values, chance).diverged
    return SeedSummary(
        scores,
        diverged,
        float(scores.mean()),
        float(np.median(scores)),
        float(interquartile_mean(scores)),
        failure_bound(int(diverged.sum()), len(scores)),
    )


def summarize_pair(
    found: Contrast, first: SeedSummary, second: SeedSummary, verdict: Judgement, chance: float, margin: float
) -> PairSummary:
    """Returns what stands beside the verdict on a pair.

    Args:
        found: the difference in accuracy, first minus second, from which the verdict comes.
        first: the first variant's runs.
        second: the second's.
        verdict: what was decided, from the first variant's point of view.
        chance: the accuracy of a model that learned nothing, in [0, 1).
        margin: differences up to this are as good as none.
    """
    means, failed = (first.healthy_mean, second.healthy_mean), (first.failed, second.failed)
    return PairSummary(
        posterior(found, margin),
        probability_of_beating(first.scores, second.scores),
        weigh_hidden_failure(found, means, failed, chance, verdict, margin),
    )
