"""Seeds that fail: which runs diverged, how many more may, and numbers that a few of them do not govern; arrays in, numbers out.

A single diverged run governs a mean over seeds. A variant that diverges in one seed of ten shows no diverged run in 59% of
studies of five seeds, and then no interval can know of it. Nothing here drops a run: it says what is there, and what may be
missing.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from catdog.statistics.contrasts import Contrast
from catdog.statistics.judgements import Judgement, judge
from catdog.statistics.proportions import CONFIDENCE, Number

# Near chance: within two standard errors of it, and within this share of the way from chance to 1.
NEAR_CHANCE = 0.1
# Far below the siblings: by this share of what they learned above chance, and by this many robust standard deviations.
LOST = 0.25
DEVIATIONS = 8.0
# The scores of two equally good runs differ by no more than this many standard deviations of the noise of their answers.
NOISE = 3.0
# The standard deviation of a normal distribution, divided by its median absolute deviation.
MAD = 1.4826
# How often a variant may fail without anybody having seen it: one seed in ten.
HIDDEN_RATE = 0.1


@dataclass(frozen=True, eq=False)
class Divergence:
    """Which runs of a variant diverged; every field may have further axes in front, for many studies.

    Attributes:
        at_chance: bool (S,), the run is at or near chance.
        far_below: bool (S,), the run is far below its siblings.
    """

    at_chance: np.ndarray
    far_below: np.ndarray

    @property
    def diverged(self) -> np.ndarray:
        """Whether either holds: bool (S,)."""
        return self.at_chance | self.far_below

    @property
    def count(self) -> Number:
        """The number of diverged runs."""
        return self.diverged.sum(axis=-1)


def find_diverged(values: np.ndarray, chance: float) -> Divergence:
    """Returns which runs diverged.

    A run is at or near chance if its score is at most two standard errors above it, and at most a tenth of the way from chance
    to 1. If most of its siblings are not near chance, its score must also be below theirs by more than the noise of the
    answers. A run is far below its siblings if it falls short of the variant's median by more than a quarter of what the median
    is above chance, and by more than eight robust standard deviations. These come from the median absolute deviation of the
    scores, and are at least the noise of the answers, because two or three scores may lie close together by chance.

    In simulated variants of 3, 5 and 10 runs without a diverged one, a false alarm comes in at most 1% of variants with 200
    images or more, and in 1.5% with 48. Where the seeds of a variant of 98% spread by a whole point, some lose a quarter of
    what the others learned, and 2 to 6% are flagged. A run that guesses is found in 92 to 100% with 200 images or more, and in
    half of the cases with 48 (`benchmarks/fair_scores.md`).

    Args:
        values: float or bool (S, N), a run's score on an image, such as whether it is right; (..., S, N) for many studies.
        chance: the mean score of a model that learned nothing, in [0, 1), such as the share of the most common class.

    Source: Leys et al. (2013), "Detecting outliers: do not use standard deviation around the mean, use absolute deviation
    around the median", Journal of Experimental Social Psychology 49:764-766, for the robust standard deviation. The limits are
    our own.
    """
    values = np.asarray(values, dtype=float)
    seeds, images = values.shape[-2:]
    scores = values.mean(axis=-1)
    median = np.median(scores, axis=-1, keepdims=True)
    noise = answer_noise(values)[..., None]
    below = median - scores
    allowed = min(2 * np.sqrt(chance * (1 - chance) / images), NEAR_CHANCE * (1 - chance))
    near, median_near = scores <= chance + allowed, median <= chance + allowed
    spread = np.maximum(MAD * np.median(np.abs(below), axis=-1, keepdims=True), noise)
    far = (below > LOST * (median - chance)) & (below > DEVIATIONS * spread) & (seeds > 2)
    return Divergence(near & (median_near | (below > NOISE * noise)), far & ~median_near)


def answer_noise(values: np.ndarray) -> Any:
    """Returns the standard deviation of a run's score that comes from the noise of single answers, without that from seed to seed.

    Args:
        values: float or bool (S, N); (..., S, N) for many studies.

    Returns:
        float64 (...); 0 for a single run, where it is unknown.
    """
    values = np.asarray(values, dtype=float)
    seeds, images = values.shape[-2:]
    if seeds < 2 or images < 2:
        return np.zeros(values.shape[:-2])
    overall = values.mean(axis=(-2, -1), keepdims=True)
    left = values - values.mean(axis=-1, keepdims=True) - values.mean(axis=-2, keepdims=True) + overall
    return np.sqrt((left**2).sum(axis=(-2, -1)) / ((seeds - 1) * (images - 1)) / images)


def failure_bound(failed: int, runs: int, confidence: float = CONFIDENCE) -> float:
    """Returns the exact upper bound of the rate of failures: 0 of 5 runs leave up to 0.45.

    Args:
        failed: runs that failed, 0 <= failed <= runs.
        runs: all runs, at least 1.
        confidence: that the rate is no higher, one-sided, in (0, 1).

    Raises:
        ValueError: the counts are out of range.

    Source: Clopper and Pearson (1934), "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 26:404-413.
    """
    if runs < 1 or not 0 <= failed <= runs:
        raise ValueError(f"needs 0 <= failed <= runs and runs >= 1, got failed={failed}, runs={runs}")
    return 1.0 if failed == runs else float(special.betaincinv(failed + 1, runs - failed, confidence))


def interquartile_mean(scores: np.ndarray) -> Any:
    """Returns the mean of the middle half of the scores, which a diverged run in four does not move.

    Where a quarter of the runs is no whole number, the runs at the edges count in part: of five, the middle three with weights
    0.75, 1 and 0.75; of three, all, with 0.25, 1 and 0.25.

    Args:
        scores: float (S,); (..., S) for many studies.

    Source: Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical precipice", NeurIPS 34.
    """
    ordered = np.sort(np.asarray(scores, dtype=float), axis=-1)
    runs = ordered.shape[-1]
    place = np.arange(runs)
    # The share of each run's place that lies within the middle half.
    weights = np.clip(np.minimum(place + 1, 0.75 * runs) - np.maximum(place, 0.25 * runs), 0, 1)
    return (ordered * weights).sum(axis=-1) / weights.sum()


@dataclass(frozen=True)
class Superiority:
    """How probable it is that a run of the first variant beats a run of the second on these images; ties count half.

    Attributes:
        probability: the share of pairs of runs, in [0, 1].
        low: the lower bound of its 95% interval, over seeds.
        high: the upper bound.
    """

    probability: Number
    low: Number
    high: Number


def probability_of_beating(first: np.ndarray, second: np.ndarray, confidence: float = CONFIDENCE) -> Superiority:
    """Returns how probable it is that a run of the first variant scores higher than a run of the second.

    This is about single runs, so a difference in the mean that seeds drown gives a value near 0.5, and a rare diverged run
    lowers it only by its rate. Bouthillier et al. call a variant meaningfully better if the lower bound is above 0.5 and the
    upper above 0.75. Their interval is a bootstrap, which is too short for five runs and has no width where all runs of one
    side win. This one is Newcombe's, with Student's instead of the normal quantile: it covers the truth in 94 to 100% of
    simulated studies of 2 to 10 runs. It is over seeds alone: all runs answer the same images.

    Args:
        first: float (S1,), the runs' scores; (..., S1) for many studies.
        second: float (S2,); (..., S2).
        confidence: of the interval, in (0, 1).

    Source: Bouthillier et al. (2021), "Accounting for variance in machine learning benchmarks", Proceedings of Machine Learning and
    Systems 3:747-769, for the criterion; Newcombe (2006), "Confidence intervals for an effect size measure based on the
    Mann-Whitney statistic. Part 2", Statistics in Medicine 25:559-573, method 5, for the interval.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    differences = first[..., :, None] - second[..., None, :]
    share: Any = ((differences > 0) + 0.5 * (differences == 0)).mean(axis=(-2, -1))
    low, high = superiority_interval(share, first.shape[-1], second.shape[-1], confidence)
    return Superiority(share[()], low, high)


def superiority_interval(
    share: Number, first: int, second: int, confidence: float = CONFIDENCE
) -> tuple[Number, Number]:
    """Returns the interval of how probable it is that a value of one sample is larger than one of another.

    Args:
        share: of all pairs of a value of either sample, those in which the first one's is larger; equal ones count half. In [0, 1].
        first: values of the first sample, at least 1.
        second: values of the second.
        confidence: of the interval, in (0, 1).

    Returns:
        Lower and upper bound in [0, 1].

    Source: Newcombe (2006), as for `probability_of_beating`.
    """
    share = np.asarray(share, dtype=float)
    pairs, others = first * second, (first + second) / 2 - 1
    # One value against one says nothing: the interval is all of [0, 1].
    freedom = first + second - 2
    quantile = special.stdtrit(freedom, 0.5 + confidence / 2) if freedom else 1e9

    def reaches(theta: np.ndarray) -> np.ndarray:
        variance = theta * (1 - theta) * (1 + others * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / pairs
        return np.abs(theta - share) <= quantile * np.sqrt(variance)

    bounds = []
    for edge in (0.0, 1.0):
        inside, outside = np.array(share, dtype=float), np.full_like(share, edge, dtype=float)
        # Bisection: 50 halvings are as exact as a float64.
        for _ in range(50):
            middle = (inside + outside) / 2
            good = reaches(middle)
            inside, outside = np.where(good, middle, inside), np.where(good, outside, middle)
        bounds.append(outside[()])
    return bounds[0], bounds[1]


@dataclass(frozen=True)
class HiddenFailure:
    """What a rate of failures that nobody has seen would do to a verdict about means.

    Attributes:
        loss: how much lower the mean of the variant that fails is then, in accuracy.
        credible: whether the runs so far leave room for that rate: the exact upper bound of their failure rate is at least as
            high, and fewer failed than that. 29 runs without a failure exclude one in ten.
        overturned: whether it is credible, and the verdict would be another one.
    """

    loss: float
    credible: bool
    overturned: bool


def weigh_hidden_failure(
    found: Contrast, scores: tuple[float, float], failed: tuple[int, int], chance: float, verdict: Judgement, margin: float,
    rate: float = HIDDEN_RATE,
) -> HiddenFailure:  # fmt: skip
    """Returns whether one hidden failure in ten seeds would overturn a verdict.

    The definition: the variant that the verdict favours (for "equivalent", either) is supposed to end at chance in `rate` of
    its seeds, none of which is among those that were run. Then its true mean is lower by `rate` times its distance from chance.
    The verdict is overturned if the 95% interval of this pair alone, moved by that loss, no longer says the same by `judge`.

    Args:
        found: the difference in accuracy, first minus second.
        scores: the two variants' mean accuracies over the runs that did not diverge.
        failed: how many runs of each diverged.
        chance: the accuracy of a model that learned nothing, in [0, 1).
        verdict: what was decided; nothing overturns what is undecided.
        margin: differences up to this are as good as none.
        rate: of the hidden failures, in (0, 1).
    """
    favoured = {Judgement.BETTER: (0,), Judgement.WORSE: (1,), Judgement.EQUIVALENT: (0, 1)}.get(verdict, ())
    loss, credible, overturned = 0.0, False, False
    for side in favoured:
        less = rate * max(scores[side] - chance, 0.0)
        runs = found.seeds[side]
        possible = failed[side] < rate * runs or not failed[side]
        possible = possible and failure_bound(failed[side], runs) >= rate
        moved = replace(found, estimate=found.estimate - less if side == 0 else found.estimate + less)
        loss, credible = max(loss, less), credible or possible
        # The pair's own interval may exclude 0 and still lie within the margin.
        differs = False if verdict == Judgement.EQUIVALENT else None
        overturned = overturned or (possible and judge(moved, margin, differs=differs) != verdict)
    return HiddenFailure(loss, credible, overturned)
