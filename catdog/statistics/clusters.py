"""How alike images are that belong together or follow each other: errors that come in clusters; arrays in, numbers out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# The test of likeness draws so many permutations, from a fixed seed.
PERMUTATIONS = 1999
# Neighbours farther apart than this are not looked at.
MOST_STEPS = 50
# In very large splits the permutations take the first images only.
MOST_IMAGES = 20_000


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
    blocks = _centre(values, strata)
    total = sum(float(block @ block) for block in blocks)
    images = sum(map(len, blocks))
    if total == 0:
        return Likeness(0.0, 1.0, 1.0, images)
    by_step = [
        sum(float(block[:-step] @ block[step:]) for block in blocks if len(block) > step) / total
        for step in range(1, MOST_STEPS + 1)
    ]
    noise = 2 / np.sqrt(images)
    lost = next((place for place, found in enumerate(by_step) if found <= noise), MOST_STEPS)
    effect = 1 + 2 * sum(by_step[:lost])
    seen = [block[:MOST_IMAGES] for block in blocks]
    p = _permute(seen, lambda drawn: sum(float(one[:-1] @ one[1:]) for one in drawn))
    return Likeness(by_step[0], effect, p, images)


def compare_within_clusters(values: np.ndarray, strata: np.ndarray, clusters: np.ndarray) -> Likeness:
    """Returns how alike images of one cluster are, such as near-copies of one picture.

    Args:
        values: float (N,), as for `compare_neighbours`.
        strata: int (N,), as there.
        clusters: int (N,), the same number for images of one cluster.

    Source: Kish (1965), "Survey Sampling", chapter 5, for the design effect of clusters.
    """
    blocks = _centre(values, strata)
    order = np.argsort(strata, kind="stable")
    codes, sizes = np.unique(clusters[order], return_inverse=True, return_counts=True)[1:]
    joined = np.concatenate(blocks)
    total, images = float(joined @ joined), len(joined)
    pairs = float((sizes * (sizes - 1)).sum())
    if total == 0 or pairs == 0:
        return Likeness(0.0, 1.0, 1.0, images)

    def products(drawn: list[np.ndarray]) -> float:
        """The sum of the products of all pairs of images of one cluster."""
        one = np.concatenate(drawn)
        return float((np.bincount(codes, one) ** 2).sum() - one @ one)

    correlation = products(blocks) / pairs / (total / images)
    # Of clusters of unequal size the large ones weigh more.
    effect = 1 + max(0.0, correlation) * pairs / images
    return Likeness(correlation, effect, _permute(blocks, products), images)


def _centre(values: np.ndarray, strata: np.ndarray) -> list[np.ndarray]:
    """Returns the values of each stratum less their mean, in their order."""
    values = np.asarray(values, dtype=float)
    return [values[strata == one] - values[strata == one].mean() for one in np.unique(strata)]


def _permute(blocks: list[np.ndarray], measure: Callable[[list[np.ndarray]], float]) -> float:
    """Returns the share of permutations, within each block, that measure as much as the blocks themselves."""
    generator = np.random.default_rng(0)
    seen = measure(blocks)
    # Sums in another order differ by rounding.
    least = seen - 1e-9 * max(1.0, abs(seen))
    above = sum(measure([generator.permutation(block) for block in blocks]) >= least for _ in range(PERMUTATIONS))
    return (above + 1) / (PERMUTATIONS + 1)
