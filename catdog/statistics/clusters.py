"""How alike images are that belong together or follow each other: errors that come in clusters; arrays in, numbers out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

# The test of likeness draws so many permutations, from a fixed seed.
PERMUTATIONS = 1999
# A likeness that is fewer standard deviations from none is not tested by permutations.
LEAST_DEVIATION = 2.0
# Neighbours farther apart than this are not looked at.
MOST_STEPS = 50
# In very large splits the permutations take the first images only.
MOST_IMAGES = 5_000


@dataclass(frozen=True)
class Likeness:
    """How alike the scores of neighbouring images are.

    Attributes:
        correlation: between an image and the next, or two images of one cluster; 0 if images are independent.
        design_effect: how many times the variance of a mean is what it would be if images were independent; at least 1.
        p: the probability of a correlation this large if images are independent, in (0, 1].
        images: how many images were looked at.
    """

    correlation: float
    design_effect: float
    p: float
    images: int

    @property
    def independent(self) -> float:
        """The number of independent images that would say as much."""
        return self.images / self.design_effect


def compare_neighbours(values: np.ndarray, strata: np.ndarray) -> Likeness:
    """Returns how alike images are that follow each other, such as the frames of a film in the order of their names.

    Args:
        values: float (N,), a score for each image, such as the share of runs that are right, in the order of the images.
        strata: int (N,), such as the class; its images are neighbours only of each other, and their mean score plays no part.

    Source: Wald and Wolfowitz (1943), Annals of Mathematical Statistics 14:378-388, for the permutation test of serial
    correlation; Geyer (1992), "Practical Markov chain Monte Carlo", Statistical Science 7:473-483, for the sum of correlations
    up to the first that is lost in the noise.
    """
    scores, codes = _centre(values, strata)
    total, images = float(scores @ scores), len(scores)
    if total == 0:
        return Likeness(0.0, 1.0, 1.0, images)
    by_step = [
        float((scores[:-step] * scores[step:])[codes[:-step] == codes[step:]].sum()) / total
        for step in range(1, min(MOST_STEPS, images - 1) + 1)
    ]
    noise = 2 / np.sqrt(images)
    lost = next((place for place, found in enumerate(by_step) if found <= noise), len(by_step))
    effect = 1 + 2 * sum(by_step[:lost])
    first, other = scores[:MOST_IMAGES], codes[:MOST_IMAGES]
    same = other[:-1] == other[1:]
    p = _permute(first, other, lambda drawn: float(drawn[:-1][same] @ drawn[1:][same]), by_step[0] * np.sqrt(images))
    return Likeness(by_step[0], effect, p, images)


def compare_within_clusters(values: np.ndarray, strata: np.ndarray, clusters: np.ndarray) -> Likeness:
    """Returns how alike images of one cluster are, such as near-copies of one picture.

    Args:
        values: float (N,), as for `compare_neighbours`.
        strata: int (N,), as there.
        clusters: int (N,), the same number for images of one cluster.

    Source: Kish (1965), "Survey Sampling", chapter 5, for the design effect of clusters.
    """
    scores, codes = _centre(values, strata)
    members, sizes = np.unique(clusters[np.argsort(strata, kind="stable")], return_inverse=True, return_counts=True)[1:]
    total, images = float(scores @ scores), len(scores)
    pairs = float((sizes * (sizes - 1)).sum())
    if total == 0 or pairs == 0:
        return Likeness(0.0, 1.0, 1.0, images)

    def sum_products(drawn: np.ndarray) -> float:
        """Returns the sum of the products of all pairs of images of one cluster."""
        return float((np.bincount(members, drawn) ** 2).sum() - drawn @ drawn)

    correlation = sum_products(scores) / pairs / (total / images)
    # Of clusters of unequal size the large ones weigh more.
    effect = 1 + max(0.0, correlation) * pairs / images
    p = _permute(scores, codes, sum_products, correlation * np.sqrt(pairs / 2))
    return Likeness(correlation, effect, p, images)


def _centre(values: np.ndarray, strata: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values less the mean of their stratum, one stratum after the other, and each one's stratum: float, int (N,)."""
    order = np.argsort(strata, kind="stable")
    codes = np.unique(np.asarray(strata)[order], return_inverse=True)[1]
    values = np.asarray(values, dtype=float)[order]
    return values - (np.bincount(codes, values) / np.bincount(codes))[codes], codes


def _permute(scores: np.ndarray, strata: np.ndarray, measure: Callable[[np.ndarray], float], deviation: float) -> float:
    """Returns the share of permutations, within each stratum, that measure as much as the scores themselves.

    Args:
        scores: float (N,).
        strata: int (N,), not decreasing.
        measure: of such scores.
        deviation: roughly how many standard deviations the measure is above that of independent scores. If it is so small that
            there is nothing to find, it gives p, and nothing is permuted.
    """
    if deviation < LEAST_DEVIATION:
        return float(special.ndtr(-deviation))
    generator = np.random.default_rng(0)
    seen = measure(scores)
    # Sums in another order differ by rounding.
    least = seen - 1e-9 * max(1.0, abs(seen))
    drawn = (scores[np.lexsort((generator.random(len(scores)), strata))] for _ in range(PERMUTATIONS))
    above = sum(measure(one) >= least for one in drawn)
    return (above + 1) / (PERMUTATIONS + 1)
