"""Confidence intervals for a variant's mean over seeds and images, and for the difference of two means; arrays in, numbers out.

A variant is trained with several seeds, and every run answers the same images. Both are samples: another seed would have
trained another model, another photographer would have taken other images. The intervals are about all seeds and all images of
the same kind, not only about those that happened to be used.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import special

from catdog.statistics.proportions import CONFIDENCE, Number, proportion_interval, wilson_interval

MOST_SEEDS = 100
# So many seeds that only the noise of the images is left.
MANY_SEEDS = 10_000
# If two variants differ on fewer images than this, the variance over images cannot be estimated.
FEW_IMAGES = 5
# With so few seeds, or where one variant has more than this many times the seeds of the other, a variance over seeds is uncertain.
FEWEST_SEEDS = 2
UNEQUAL_SEEDS = 2
# The most images times draws in a bootstrap.
MOST_WEIGHTS = 40_000_000


@dataclass(frozen=True)
class Contrast:
    """A mean, or the difference of two means, over seeds and images; every field may be an array over many studies.

    Attributes:
        estimate: the mean of the first variant, minus that of the second if there is one.
        seed_variances: for each variant, the variance of its runs' means from seed to seed.
        image_variance: the part of the estimate's variance that more seeds would not reduce.
        seeds: the number of seeds of each variant.
        images: the number of images, the same for all.
        groups: the number of groups of images, if images come in groups; None: every image stands for itself.
    """

    estimate: Number
    seed_variances: tuple[Number, ...]
    image_variance: Number
    seeds: tuple[int, ...]
    images: int
    _floor: Number = field(repr=False, default=0.0)
    groups: int | None = None

    @property
    def over_seeds(self) -> bool:
        """Whether every variant has several seeds. If not, the interval is over images alone and holds for these models only."""
        return min(self.seeds) > 1

    @property
    def units(self) -> int:
        """How many independent draws the images are: the number of groups, or of images."""
        return self.images if self.groups is None else self.groups

    def standard_error(self, seeds: tuple[int, ...] | None = None) -> Number:
        """The estimate's standard error, with the actual numbers of seeds or with hypothetical ones."""
        return np.sqrt(self._choose(seeds or self.seeds)[0])

    def freedom(self, seeds: tuple[int, ...] | None = None) -> Number:
        """The degrees of freedom of that standard error: few if most of it comes from few seeds.

        Source: Satterthwaite (1946), "An approximate distribution of estimates of variance components", Biometrics Bulletin
        2:110-114.
        """
        return self._choose(seeds or self.seeds)[1]

    def _choose(self, seeds: tuple[int, ...]) -> tuple[Number, Number]:
        """The variance of the estimate and its degrees of freedom; with few or unequal seeds those of the wider interval.

        The spread of two seeds is often too small by chance. Then hardly any of the variance seems to come from them, and the
        degrees of freedom are too many. The spread over the seeds of both variants is less uncertain, but it is right only if both
        spread alike. So the wider of the two intervals counts. With two seeds on a side, the degrees of freedom are also at most
        the number of runs less one: two against two have no third estimate. In simulated studies of 2 against 2 to 10 and
        3 against 10 seeds, intervals cover the truth in 95 to 98% (`benchmarks/fair_scores.md`).
        """
        variance, freedom = self._variance(self.seed_variances, [n - 1 for n in seeds], seeds)
        if len(seeds) < 2 or not self.over_seeds or not _are_few_or_unequal(seeds):
            return variance, freedom
        spent = sum(seeds) - len(seeds)
        pooled = sum(v * (n - 1) for v, n in zip(self.seed_variances, seeds, strict=True)) / spent
        shared = self._variance((pooled * sum(1 / n for n in seeds),), [spent], (1,))
        wider: Any = _half_width(*shared) > _half_width(variance, freedom)
        chosen: tuple[Any, Any] = (np.where(wider, shared[0], variance), np.where(wider, shared[1], freedom))
        most = sum(seeds) - 1 if min(seeds) == FEWEST_SEEDS else np.inf
        return chosen[0][()], np.minimum(chosen[1][()], most)

    def _variance(
        self, seed_variances: tuple[Number, ...], freedoms: Sequence[int], seeds: tuple[int, ...]
    ) -> tuple[Number, Number]:
        """The variance of the estimate from these variances over seeds, and its degrees of freedom."""
        terms = [v / n for v, n in zip(seed_variances, seeds, strict=True)]
        parts = [(self.image_variance, self.units - 1)]
        if self.over_seeds:
            parts += zip(terms, freedoms, strict=True)
        total = sum(variance for variance, _ in parts)
        squares = sum(variance**2 / freedom for variance, freedom in parts)
        safe = np.where(squares > 0, squares, 1.0)
        freedom = np.where(squares > 0, total**2 / safe, self.units - 1.0)[()]
        return np.maximum(sum([self.image_variance, *terms]), self._floor**2), freedom

    def interval(self, confidence: float = CONFIDENCE, seeds: tuple[int, ...] | None = None) -> tuple[Number, Number]:
        """Lower and upper bound at a confidence in (0, 1)."""
        variance, freedom = self._choose(seeds or self.seeds)
        half = special.stdtrit(freedom, 0.5 + confidence / 2) * np.sqrt(variance)
        return self.estimate - half, self.estimate + half

    def at_least(self, error: float) -> "Contrast":
        """Returns the same contrast with a standard error of at least this."""
        return replace(self, _floor=np.maximum(self._floor, error))

    @property
    def low(self) -> Number:
        """The lower bound of the 95% interval."""
        return self.interval()[0]

    @property
    def high(self) -> Number:
        """The upper bound of the 95% interval."""
        return self.interval()[1]

    @property
    def p(self) -> Number:
        """The two-sided p-value for the null hypothesis that the true value is 0; in [0, 1]."""
        return np.minimum(1.0, 2 * special.stdtr(self.freedom(), -np.abs(self.estimate) / self.standard_error()))[()]

    def seeds_to_decide(self, margin: float, confidence: float = CONFIDENCE, most: int = MOST_SEEDS) -> int | None:
        """Returns about how many seeds each variant needs until the interval excludes 0 or lies within the margin.

        Assumes that the estimate and the spread stay as they are now. So it is a guess, and a poor one after two seeds.

        Args:
            margin: differences up to this are as good as none, more than 0.
            confidence: of the interval.
            most: the largest number of seeds that is considered.

        Returns:
            The total number of seeds, larger than now; None if more seeds are not enough, because these images allow no narrower
            interval, or if seeds were not varied.
        """
        if not self.over_seeds:
            return None
        for count in range(max(self.seeds) + 1, most + 1):
            low, high = self.interval(confidence, (count,) * len(self.seeds))
            if low > 0 or high < 0 or max(-low, high) <= margin:
                return count
        return None

    def image_half_width(self, confidence: float = CONFIDENCE) -> float:
        """Half the width that the interval would have with unlimited seeds: the uncertainty due to these images."""
        low, high = self.interval(confidence, (MANY_SEEDS,) * len(self.seeds))
        return float(high - low) / 2

    def is_futile(self, margin: float, confidence: float = CONFIDENCE) -> bool:
        """Whether no number of seeds can be expected to decide the comparison on these images, wherever they move the estimate.

        This is unknown unless every variant has several seeds; then the answer is False.

        Args:
            margin: differences up to this are as good as none, more than 0.
            confidence: of the interval.
        """
        if not self.over_seeds:
            return False
        half = self.image_half_width(confidence)
        # How far more seeds could still move the estimate: two standard errors of the seeds' part.
        drift = 2 * np.sqrt(sum(v / n for v, n in zip(self.seed_variances, self.seeds, strict=True)))
        distance = abs(self.estimate)
        return bool(distance + drift < half and max(distance - drift, 0) + half > margin)


def _are_few_or_unequal(seeds: tuple[int, ...]) -> bool:
    return min(seeds) <= FEWEST_SEEDS or max(seeds) > UNEQUAL_SEEDS * min(seeds)


def _half_width(variance: Number, freedom: Number) -> Number:
    return special.stdtrit(freedom, 0.5 + CONFIDENCE / 2) * np.sqrt(variance)


def mean(values: np.ndarray, groups: np.ndarray | None = None) -> Contrast:
    """The mean of one variant over seeds and images.

    Args:
        values: float or bool (S, N), a run's score on an image, such as whether it is right; (..., S, N) for many studies.
        groups: int (N,), the group of each image, as for `contrast`; None: every image stands for itself.

    Raises:
        ValueError: there are fewer than two images, or groups.

    Source: as for `contrast`.
    """
    return _build(*_split(values, groups))


def accuracy_interval(
    right: np.ndarray, confidence: float = CONFIDENCE, groups: np.ndarray | None = None
) -> tuple[Number, Number]:
    """The interval of a variant's accuracy over seeds and images. It stays inside [0, 1] even if hardly any answer is wrong.

    It is the interval of a proportion (`proportions.proportion_interval`) at the effective sample size: the number of independent
    answers that would have the same standard error. The answers to one image are not independent, nor are those of one seed.

    Args:
        right: bool (S, N), runs by images; (..., S, N) for many studies at once.
        confidence: in (0, 1).
        groups: int (N,), the group of each image, as for `contrast`; None: every image stands for itself.

    Raises:
        ValueError: there are fewer than two images, or groups.

    Source: Korn and Graubard (1998), "Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data", Survey Methodology 24:193-201, for the effective sample size.
    """
    found = mean(right, groups)
    quantile = special.stdtrit(found.freedom(), 0.5 + confidence / 2)
    spread = found.estimate * (1 - found.estimate)
    # If all are right or all wrong, the variance is unknown, so each image, or group, counts once. The effective sample size never
    # exceeds the number of answers: the errors of one seed may offset those of another, but that may be luck.
    answers = np.where(spread > 0, spread / found.standard_error() ** 2, found.units)
    answers = np.minimum(answers, found.images * found.seeds[0])
    return proportion_interval(found.estimate, answers, quantile)


def single_interval(right: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float]:
    """The 95% interval of one model's accuracy: Wilson's, or over groups if images come in groups; NaN for a single group.

    Args:
        right: bool (N,), whether each answer is right; or float (N,), what it counts for.
        groups: int (N,), the group of each image; None: every image stands for itself.
    """
    if groups is None and np.isin(right, (0, 1)).all():
        return wilson_interval(int(right.sum()), len(right))
    if (len(right) if groups is None else count_groups(groups)) == 1:
        return float("nan"), float("nan")
    low, high = accuracy_interval(right[np.newaxis], groups=groups)
    return float(low), float(high)


def count_groups(groups: np.ndarray | None) -> int | None:
    """How many groups there are, given the group of each image; None for None."""
    return None if groups is None else len(np.unique(groups))


def contrast(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None) -> Contrast:
    """The difference of two variants, first minus second, each with its own seeds, on the same images.

    The standard error is that of Owen's pigeonhole bootstrap, which resamples both seeds and images. Here it is computed in closed
    form, without two errors of the bootstrap: the bootstrap counts the noise of single answers three times, and it ignores that a
    variance from 3 seeds is itself uncertain (here it is estimated with n - 1, and the interval is Student's). In simulated studies
    of 3 to 10 seeds and 200 to 800 images the interval covers the truth in 94 to 96%, the bootstrap's own percentiles in 90 to 99%
    (`tests/statistics/test_contrasts.py`).

    Assumes that seeds are independent draws, in both variants, and that images are too, or groups of images. Frames of one film are
    not: with groups, the films are the draws. The estimate stays the mean over images; its variance is that of a ratio of sums over
    groups, which may differ in size.

    Args:
        first: float or bool (S1, N), runs by images; (..., S1, N) for many studies at once.
        second: (S2, N) or (..., S2, N), the same images in the same order.
        groups: int (N,), the same number for images of one group; None: every image stands for itself.

    Raises:
        ValueError: the shapes do not fit, or there are fewer than two images, or groups.

    Source: Owen (2007), "The pigeonhole bootstrap", Annals of Applied Statistics 1:386-411, for the bootstrap and its bias;
    Cornfield and Tukey (1956), Annals of Mathematical Statistics 27:907-949, for the variance components of crossed factors;
    Cochran (1977), "Sampling Techniques", 3rd edition, sections 9A.2 and 6.4, for groups of unequal size (the linearized ratio).
    """
    a, b = _split(first, groups), _split(second, groups)
    if a[1].shape != b[1].shape:
        raise ValueError(f"needs the same images on both sides, got {first.shape} and {second.shape}")
    grouped = None if a[5] is None else (a[5][0], a[5][1] - b[5][1])
    return _build(a[0] - b[0], a[1] - b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], grouped)


def _split(values: np.ndarray, groups: np.ndarray | None = None) -> tuple[Any, ...]:
    """Returns mean, image means, (variance over seeds,), noise of the mean, (seeds,), and (images, group means) if grouped.

    If images come in groups, a group takes the place of an image everywhere but in the last item.
    """
    values = np.asarray(values, dtype=float)
    values, grouped = _average_groups(values, groups)
    return *_split_units(values), grouped


def _average_groups(values: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, tuple[int, np.ndarray] | None]:
    """Returns each run's score on each group, with its mean over groups equal to its mean over images; and (images, group means).

    The score is the linearized ratio: the run's mean, plus what the group adds to it. If all groups have the same size, it is the
    group's mean. If every group has one image, the values are returned as they are, and None.
    """
    images = values.shape[-1]
    if groups is None:
        return values, None
    groups = np.asarray(groups)
    if groups.shape != (images,):
        raise ValueError(f"needs a group for each of {images} images, got {groups.shape}")
    codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    if len(sizes) == images:
        return values, None
    order = np.argsort(codes, kind="stable")
    sums = np.add.reduceat(values[..., order], np.r_[0, np.cumsum(sizes)[:-1]], axis=-1)
    own = values.mean(axis=-1, keepdims=True)
    scores = own + (sums - own * sizes) * (len(sizes) / images)
    return scores, (images, sums.mean(axis=-2) / sizes)


def _split_units(values: np.ndarray) -> tuple[Any, ...]:
    """Returns what `_split` does, but for the last item."""
    seeds, images = values.shape[-2:]
    if images < 2 or seeds < 1:
        raise ValueError(f"needs at least 1 seed and 2 images or groups, got {values.shape}")
    by_seed, by_image = values.mean(axis=-1), values.mean(axis=-2)
    overall = by_seed.mean(axis=-1)
    if seeds == 1:
        return overall, by_image, (np.zeros_like(overall),), np.full_like(overall, np.nan), (1,)
    # The residuals' sum of squares is the rest of the total, so no array of residuals is needed.
    squares = (values**2).sum(axis=(-2, -1)) - seeds * images * overall**2
    left = (
        squares
        - images * ((by_seed - overall[..., None]) ** 2).sum(axis=-1)
        - seeds * ((by_image - overall[..., None]) ** 2).sum(axis=-1)
    )
    noise = np.maximum(left, 0) / ((seeds - 1) * (images - 1)) / (seeds * images)
    return overall, by_image, (by_seed.var(axis=-1, ddof=1),), noise, (seeds,)


def _build(
    estimate: np.ndarray,
    by_image: np.ndarray,
    seed_variances: tuple[Any, ...],
    noise: np.ndarray,
    seeds: tuple[int, ...],
    grouped: tuple[int, np.ndarray] | None = None,
) -> Contrast:
    images = by_image.shape[-1]
    image_variance = by_image.var(axis=-1, ddof=1) / images
    if min(seeds) > 1:
        # The spread over seeds contains the noise of single answers already.
        image_variance = np.maximum(image_variance - noise, 0)
    else:
        seed_variances = tuple(np.zeros_like(variance) for variance in seed_variances)
    # If the variants differ on hardly any image, the variance over images is unknown: a rare kind of image may not have come up.
    # The scores of groups depend on their sizes, their means do not; they are rounded, as sums of fractions may differ by a bit.
    shown = by_image if grouped is None else np.round(grouped[1], 9)
    telling = (shown != np.median(shown, axis=-1, keepdims=True)).sum(axis=-1)
    floor = np.where(telling < FEW_IMAGES, 2.0, 1 / max(seeds)) / images
    variances = tuple(variance[()] for variance in seed_variances)
    if grouped is not None:
        return Contrast(estimate[()], variances, image_variance[()], seeds, grouped[0], floor, groups=images)
    return Contrast(estimate[()], variances, image_variance[()], seeds, images, floor)


def bootstrap_means(variants: Sequence[np.ndarray], draws: int = 2000, seed: int = 0) -> np.ndarray:
    """The variants' means in draws of Owen's pigeonhole bootstrap, which resamples images (the same for all) and each one's seeds.

    It is only a comparison for `contrast`, whose interval is the one to use; see there for the errors of this one.

    Args:
        variants: V arrays, float or bool (S, N), runs by images; the same images for all.
        draws: the number of bootstrap draws.
        seed: seed of the random numbers.

    Returns:
        float64 (V, draws); NaN beyond 20,000 images at 2,000 draws, where it would take gigabytes.

    Source: Owen (2007), "The pigeonhole bootstrap", Annals of Applied Statistics 1:386-411.
    """
    means = np.full((len(variants), draws), np.nan)
    images = variants[0].shape[-1] if variants else 0
    if not images or images * draws > MOST_WEIGHTS:
        return means
    generator = np.random.default_rng(seed)
    weights = (generator.multinomial(images, np.full(images, 1 / images), draws).T / images).astype(np.float32)
    # All runs at once: with many variants of one seed each, one product per variant takes ten times as long.
    by_run = np.concatenate(variants).astype(np.float32) @ weights
    first = 0
    for row, values in zip(means, variants, strict=True):
        seeds = len(values)
        drawn = generator.integers(seeds, size=(draws, seeds)) + seeds * np.arange(draws)[:, None]
        times = np.bincount(drawn.ravel(), minlength=draws * seeds).reshape(draws, seeds).T
        row[:] = (by_run[first : first + seeds] * times).sum(axis=0) / seeds
        first += seeds
    return means


def bootstrap_interval(first: np.ndarray, second: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The percentiles of the difference of two variants' bootstrapped means, first minus second.

    Args:
        first: float64 (draws,), from `bootstrap_means`.
        second: float64 (draws,), from the same call.
        confidence: in (0, 1).
    """
    low, high = np.quantile(first - second, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)
