"""Differences over training sets that are drawn anew from the same images."""

import numpy as np
import pytest
from scipy import stats

from catdog.statistics.training_sets import contrast_over_sets

POOL, VAL = 700, 200


def draw_difference(rng: np.random.Generator, sets: int, spread: float, seeds: int = 2) -> np.ndarray:
    """Returns what two variants differ by on each set; the true difference, over all pools, is 0.

    Every image has an influence on the difference if it is trained on, and a difficulty if it is answered. The training sets of a
    pool share most of their images.
    """
    influence = spread * np.sqrt(POOL - VAL) * rng.standard_normal(POOL)
    difficulty = 0.45 * rng.standard_normal(POOL)
    found = []
    for _ in range(sets):
        order = rng.permutation(POOL)
        val, train = order[:VAL], order[VAL:]
        seed_noise = 0.01 * rng.standard_normal(seeds).mean()
        found.append(influence[train].mean() + difficulty[val].mean() + seed_noise)
    return np.array(found)


@pytest.mark.parametrize("sets", [3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.01, 0.02])
def test_the_interval_covers_other_training_sets(sets: int, spread: float) -> None:
    rng = np.random.default_rng([sets, int(1000 * spread)])
    studies, covered, plain = 600, 0, 0
    images, of_seeds = np.full(sets, 0.45**2 / VAL), np.full(sets, 0.01**2 / 2)
    for _ in range(studies):
        differences = draw_difference(rng, sets, spread)
        low, high = contrast_over_sets(differences, images, of_seeds, POOL - VAL, VAL).interval()
        covered += low <= 0 <= high
        plain += stats.ttest_1samp(differences, 0).pvalue >= 0.05
    assert covered / studies >= 0.93
    assert plain / studies < 0.93


def test_sets_that_agree_by_chance_are_not_believed() -> None:
    found = contrast_over_sets(np.array([0.02, 0.02, 0.02]), np.full(3, 0.01**2), np.full(3, 0.005**2), 400, 100)
    assert found.standard_error == pytest.approx(np.sqrt(0.01**2 * (0.2 + 0.8 / 3) + 0.005**2 / 3))
    assert found.interval()[0] < 0


def test_one_set_is_not_enough() -> None:
    with pytest.raises(ValueError, match="at least 2 training sets, got 1"):
        contrast_over_sets(np.array([0.1]), np.zeros(1), np.zeros(1), 400, 100)
