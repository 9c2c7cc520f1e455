"""How far a variant's mean over seeds and images can be trusted, and the difference of two; arrays in, numbers out.

A variant is trained with several seeds, and every run answers the same images. Both are samples: another seed would have
trained another model, another photographer would have taken other images. What is said here is said about all seeds and all
images of the same kind, not about the ones that happened to be used.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import special

from catdog.statistics.proportions import CONFIDENCE, Number, proportion_interval

MOST_SEEDS = 100
# More seeds than anybody has: what is left is the noise of the images.
MANY_SEEDS = 10_000
# Fewer than this many images that tell two variants apart say nothing of how far that varies.
FEW_IMAGES = 5
# Of a bootstrap: images times draws.
MOST_WEIGHTS = 40_000_000


@dataclass(frozen=True)
class Contrast:
    """A mean, or the difference of two means, over seeds and images; every field may be an array over many studies.

    Attributes:
        estimate: the mean of the first variant, less that of the second where there is one.
        seed_variances: for each variant, the variance of its runs' means from seed to seed.
        image_variance: the part of the estimate's variance that more seeds would not reduce.
        seeds: for each variant, how many.
        images: how many, the same for all.
    """

    estimate: Number
    seed_variances: tuple[Number, ...]
    image_variance: Number
    seeds: tuple[int, ...]
    images: int
    _floor: Number = field(repr=False, default=0.0)

    @property
    def over_seeds(self) -> bool:
        """Whether seeds were varied for every variant; if not, the interval speaks of images alone, and of these very models."""
        return min(self.seeds) > 1

    def standard_error(self, seeds: tuple[int, ...] | None = None) -> Number:
        """The estimate's standard error with the seeds there are, or as it would be with others."""
        parts = [self.image_variance, *(v / n for v, n in zip(self.seed_variances, seeds or self.seeds, strict=True))]
        return np.sqrt(np.maximum(sum(parts), self._floor**2))

    def freedom(self, seeds: tuple[int, ...] | None = None) -> Number:
        """Degrees of freedom of that standard error: few where few seeds make most of it.

        Source: Satterthwaite (1946), "An approximate distribution of estimates of variance components", Biometrics Bulletin
        2:110-114.
        """
        seeds = seeds or self.seeds
        parts = [(self.image_variance, self.images - 1)]
        if self.over_seeds:
            parts += [(v / n, n - 1) for v, n in zip(self.seed_variances, seeds, strict=True)]
        total = sum(variance for variance, _ in parts)
        squares = sum(variance**2 / freedom for variance, freedom in parts)
        safe = np.where(squares > 0, squares, 1.0)
        return np.where(squares > 0, total**2 / safe, self.images - 1.0)[()]

    def interval(self, confidence: float = CONFIDENCE, seeds: tuple[int, ...] | None = None) -> tuple[Number, Number]:
        """Lower and upper bound at a confidence in (0, 1)."""
        half = special.stdtrit(self.freedom(seeds), 0.5 + confidence / 2) * self.standard_error(seeds)
        return self.estimate - half, self.estimate + half

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
        """The two-sided p value of an estimate this far from 0, were the truth 0; in [0, 1]."""
        return np.minimum(1.0, 2 * special.stdtr(self.freedom(), -np.abs(self.estimate) / self.standard_error()))[()]

    def seeds_to_decide(self, margin: float, confidence: float = CONFIDENCE, most: int = MOST_SEEDS) -> int | None:
        """About how many seeds each variant needs until the interval excludes 0 or lies within the margin.

        Assumes that the estimate and the spread stay what they are now, so it is a guess, and a poor one after two seeds.

        Args:
            margin: differences up to this are as good as none, more than 0.
            confidence: of the interval.
            most: seeds beyond which nobody will go.

        Returns:
            Seeds in all, more than there are; None where more seeds will not do, because these images allow no narrower
            interval, or where seeds were not varied.
        """
        if not self.over_seeds:
            return None
        for count in range(max(self.seeds) + 1, most + 1):
            low, high = self.interval(confidence, (count,) * len(self.seeds))
            if low > 0 or high < 0 or max(-low, high) <= margin:
                return count
        return None

    def image_half_width(self, confidence: float = CONFIDENCE) -> float:
        """Half of the width that the interval would have with as many seeds as anybody likes: what these images leave."""
        low, high = self.interval(confidence, (MANY_SEEDS,) * len(self.seeds))
        return float(high - low) / 2

    def is_futile(self, margin: float, confidence: float = CONFIDENCE) -> bool:
        """Whether no number of seeds can be expected to decide it on these images, wherever they move the estimate.

        Without several seeds of every variant that is not known, and the answer is no.

        Args:
            margin: differences up to this are as good as none, more than 0.
            confidence: of the interval.
        """
        if not self.over_seeds:
            return False
        half = self.image_half_width(confidence)
        # Where more seeds could still move the estimate: two standard errors of theirs.
        drift = 2 * np.sqrt(sum(v / n for v, n in zip(self.seed_variances, self.seeds, strict=True)))
        distance = abs(self.estimate)
        return bool(distance + drift < half and max(distance - drift, 0) + half > margin)


def mean(values: np.ndarray) -> Contrast:
    """The mean of one variant over seeds and images.

    Args:
        values: float or bool (S, N), a run's score on an image, such as whether it is right; (..., S, N) for many studies.

    Source: as of `contrast`.
    """
    return _build(*_split(values))


def accuracy_interval(right: np.ndarray, confidence: float = CONFIDENCE) -> tuple[Number, Number]:
    """The interval of a variant's accuracy over seeds and images, inside [0, 1] also where hardly an answer is wrong.

    It is the interval of a proportion (`statistics.proportion_interval`) of as many independent answers as would have the standard
    error that was found: answers to one image, and those of one seed, are not independent.

    Args:
        right: bool (S, N), runs by images; (..., S, N) for many studies at once.
        confidence: in (0, 1).

    Source: Korn and Graubard (1998), "Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data", Survey Methodology 24:193-201, for the effective sample size.
    """
    found = mean(right)
    quantile = special.stdtrit(found.freedom(), 0.5 + confidence / 2)
    spread = found.estimate * (1 - found.estimate)
    # All right or all wrong: no spread to see, so each image counts once. And no more answers than were given, however well the
    # errors of one seed make up for those of another: that may be luck.
    answers = np.where(spread > 0, spread / found.standard_error() ** 2, found.images)
    answers = np.minimum(answers, found.images * found.seeds[0])
    return proportion_interval(found.estimate, answers, quantile)


def contrast(first: np.ndarray, second: np.ndarray) -> Contrast:
    """The difference of two variants, first less second, each with seeds of its own, on the same images.

    The standard error is that of Owen's pigeonhole bootstrap, which draws seeds and images both, computed without drawing and
    without the two errors that the bootstrap makes: it counts the noise of single answers three times, and it forgets that
    the spread of 3 seeds is known from 3 seeds only (their variance is estimated with n - 1, the interval is Student's). In
    simulated studies of 3 to 10 seeds and 200 to 800 images the interval covers the truth in 94 to 96%, the bootstrap's own
    percentiles in 90 to 99% (`tests/test_contrast.py`).

    Assumes that seeds are independent draws, in both variants, and that images are; frames of one film are not.

    Args:
        first: float or bool (S1, N), runs by images; (..., S1, N) for many studies at once.
        second: (S2, N) or (..., S2, N), the same images in the same order.

    Raises:
        ValueError: the shapes do not fit, or there are fewer than two images.

    Source: Owen (2007), "The pigeonhole bootstrap", Annals of Applied Statistics 1:386-411, for the bootstrap and its bias;
    Cornfield and Tukey (1956), Annals of Mathematical Statistics 27:907-949, for the variance components of crossed factors.
    """
    a, b = _split(first), _split(second)
    if a[1].shape != b[1].shape:
        raise ValueError(f"needs the same images on both sides, got {first.shape} and {second.shape}")
    return _build(a[0] - b[0], a[1] - b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4])


def _split(values: np.ndarray) -> tuple[Any, ...]:
    """Returns mean, image means, (variance over seeds,), noise of the mean, (seeds,)."""
    values = np.asarray(values, dtype=float)
    seeds, images = values.shape[-2:]
    if images < 2 or seeds < 1:
        raise ValueError(f"needs at least 1 seed and 2 images, got {values.shape}")
    by_seed, by_image = values.mean(axis=-1), values.mean(axis=-2)
    overall = by_seed.mean(axis=-1)
    if seeds == 1:
        return overall, by_image, (np.zeros_like(overall),), np.full_like(overall, np.nan), (1,)
    # Without an array of residuals: their sum of squares is what is left of the total.
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
) -> Contrast:
    images = by_image.shape[-1]
    image_variance = by_image.var(axis=-1, ddof=1) / images
    if min(seeds) > 1:
        # The noise of single answers is in the spread over seeds already.
        image_variance = np.maximum(image_variance - noise, 0)
    else:
        seed_variances = tuple(np.zeros_like(variance) for variance in seed_variances)
    # Where hardly an image tells the two apart, their spread is not known: a kind of image that is rare may not have come up.
    telling = (by_image != np.median(by_image, axis=-1, keepdims=True)).sum(axis=-1)
    floor = np.where(telling < FEW_IMAGES, 2.0, 1 / max(seeds)) / images
    return Contrast(
        estimate[()], tuple(variance[()] for variance in seed_variances), image_variance[()], seeds, images, floor
    )


def bootstrap_means(variants: Sequence[np.ndarray], draws: int = 2000, seed: int = 0) -> np.ndarray:
    """The variants' means in draws of Owen's pigeonhole bootstrap: images are drawn anew, the same for all, and each one's seeds.

    For comparison with `contrast`, whose interval is the one to go by; see there what this one gets wrong.

    Args:
        variants: V arrays, float or bool (S, N), runs by images; the same images for all.
        draws: of the bootstrap.
        seed: of its random numbers.

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
    # All runs at once: of many variants with one seed each, one product after the other takes ten times as long.
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
    """The percentiles of the difference of two variants' bootstrapped means, first less second.

    Args:
        first: float64 (draws,), of `bootstrap_means`.
        second: float64 (draws,), from the same call.
        confidence: in (0, 1).
    """
    low, high = np.quantile(first - second, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)
