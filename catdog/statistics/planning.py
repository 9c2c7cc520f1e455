"""What more seeds or more images would find, from a study so far; arrays in, numbers out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from catdog.statistics.contrasts import Contrast
from catdog.statistics.proportions import CONFIDENCE

SEEDS = (5, 10, 20)
# As many images as now, and twice as many.
IMAGES = (1, 2)
POWER = 0.8


@dataclass(frozen=True)
class Plan:
    """What a comparison of two variants can be expected to find.

    Attributes:
        seeds: of each variant.
        images: the number of validation images.
        half_width: half the width of the interval, in accuracy.
        detectable: the smallest true difference that is found with the wanted power.
        cautious: the same if seeds spread more than they seem to: the spread is at its upper 80% bound. After two or three
            seeds that is far from `detectable`, because a spread from so few seeds says little.
    """

    seeds: int
    images: int
    half_width: float
    detectable: float
    cautious: float


def plan_comparison(
    found: Contrast, noise: Sequence[float] = (0.0, 0.0), seeds: Sequence[int] = SEEDS, images: Sequence[float] = IMAGES,
    *, power: float = POWER, confidence: float = CONFIDENCE,
) -> list[Plan]:  # fmt: skip
    """Returns what more seeds and more images would find, with the variance components of the study so far.

    More seeds reduce what comes from seeds, more images what comes from images. The noise of single answers is reduced by
    both. The smallest difference that is found is where the interval excludes 0 with probability `power`: the sum of two
    quantiles of Student's t, times the standard error.

    Args:
        found: the difference of two variants, each with several seeds.
        noise: each variant's standard deviation of a run's score by the noise of its answers, from `failures.answer_noise`;
            without it, more images seem to help less than they do.
        seeds: numbers of seeds of each variant.
        images: how many times as many images as now.
        power: the probability to find the difference, in (0, 1).
        confidence: of the interval.

    Returns:
        One plan for each number of images and of seeds, in that order.

    Raises:
        ValueError: a variant has one seed only, so its spread is unknown.

    Source: for the smallest difference, Bloom (1995), "Minimum detectable effects: a simple way to report the statistical
    power of experimental designs", Evaluation Review 19:547-556.
    """
    if not found.over_seeds:
        raise ValueError(f"needs at least 2 seeds of each variant, got {found.seeds}")
    # The upper bound of a variance from n seeds, as a factor.
    factors = [float((n - 1) / special.chdtri(n - 1, POWER)) for n in found.seeds]
    plans = []
    for times in images:
        for count in seeds:
            expected = _more(found, noise, times, [1.0] * len(factors))
            careful = _more(found, noise, times, factors)
            half = _half_width(expected, count, confidence, 0.5)
            detectable = _half_width(expected, count, confidence, power)
            most = _half_width(careful, count, confidence, power)
            plans.append(Plan(count, expected.images, half, detectable, most))
    return plans


def _more(found: Contrast, noise: Sequence[float], times: float, factors: Sequence[float]) -> Contrast:
    """Returns the contrast as it may be with more images, and with its variances over seeds larger by factors."""
    variances = [
        max(float(variance) * factor - float(part) ** 2, 0.0) + min(float(part) ** 2, float(variance) * factor) / times
        for variance, part, factor in zip(found.seed_variances, noise, factors, strict=True)
    ]
    return replace(
        found, seed_variances=tuple(variances), image_variance=found.image_variance / times,
        images=round(found.images * times), groups=None if found.groups is None else round(found.groups * times),
        _floor=found._floor / times,
    )  # fmt: skip


def _half_width(found: Contrast, count: int, confidence: float, power: float) -> float:
    """Returns half the interval's width with `count` seeds, and what must be added to it to find a difference with this power."""
    seeds = (count,) * len(found.seeds)
    quantiles = special.stdtrit(found.freedom(seeds), np.array([0.5 + confidence / 2, power]))
    return float(quantiles.sum() * found.standard_error(seeds))
