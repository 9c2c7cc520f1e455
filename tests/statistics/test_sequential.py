"""However often one looks, the error stays what it was promised to be: simulated, and against published boundaries."""

import numpy as np
import pytest
from scipy.stats import norm
from studies import decide_all, draw_studies, find_shift

from catdog.statistics.judgements import Judgement
from catdog.statistics.sequential import level_of_looks, plan_looks, spend_error


def test_looks_are_fixed_by_the_first_and_the_last_alone():
    assert plan_looks(3, 12) == [3, 4, 6, 8, 11, 12]
    assert plan_looks(2, 2) == [2]
    assert plan_looks(5, 6) == [5, 6]


def test_one_look_spends_all_and_several_share():
    assert level_of_looks([8], 0.05) == [pytest.approx(0.05)]
    assert spend_error(1.0, 0.05) == pytest.approx(0.05)
    levels = level_of_looks([2, 4, 6, 8], 0.05)
    assert max(levels) < 0.05 < sum(levels)


def test_the_boundaries_are_the_published_ones():
    # Five equal looks, Pocock-type spending, 5% two-sided: Reboussin, DeMets, Kim and Lan (2000), program LD98.
    bounds = norm.isf(np.array(level_of_looks([1, 2, 3, 4, 5], 0.05)) / 2)
    assert bounds == pytest.approx([2.438, 2.427, 2.410, 2.397, 2.386], abs=0.003)


def test_the_boundaries_hold_the_error_in_a_random_walk():
    looks = np.array([3, 4, 6, 8, 11, 12])
    bounds = norm.isf(np.array(level_of_looks(looks.tolist(), 0.05)) / 2)
    walk = np.random.default_rng(0).normal(size=(40_000, 12)).cumsum(axis=1)[:, looks - 1] / np.sqrt(looks)
    assert (np.abs(walk) > bounds).any(axis=1).mean() == pytest.approx(0.05, abs=0.004)


def share(outcome: np.ndarray, *names: str) -> float:
    return float(np.isin(outcome, names).mean())


@pytest.mark.parametrize(("images", "level", "seed_spread"), [(200, 0.6, 0.2), (800, 0.6, 0.06), (800, 4.0, 0.1)])
def test_without_a_difference_one_is_claimed_in_at_most_5_percent(images, level, seed_spread):
    generator = np.random.default_rng(images)
    wrong = []
    for _ in range(8):
        first, second = draw_studies(250, 12, images, generator=generator, level=level, seed_spread=seed_spread)
        wrong.append(
            share(
                decide_all(first, second, plan_looks(3, 12), 0.05, margin=0.005)[0], Judgement.BETTER, Judgement.WORSE
            )
        )
    assert np.mean(wrong) <= 0.05


def test_a_difference_beyond_the_margin_is_called_none_in_at_most_5_percent():
    generator = np.random.default_rng(1)
    margin = 0.03
    better = find_shift(margin + 0.001, 4.0, 0.1)
    first, second = draw_studies(1500, 12, 800, generator=generator, level=4.0, seed_spread=0.1, better=-better)
    assert share(decide_all(first, second, plan_looks(3, 12), 0.05, margin)[0], Judgement.EQUIVALENT) <= 0.05


def test_a_clear_difference_is_found_and_its_direction_is_right():
    generator = np.random.default_rng(2)
    first, second = draw_studies(400, 12, 800, generator=generator, better=find_shift(0.06, 0.6, 0.06))
    outcome, seeds = decide_all(first, second, plan_looks(3, 12), 0.05, margin=0.02)
    assert share(outcome, Judgement.BETTER) > 0.95
    assert share(outcome, Judgement.WORSE) <= 0.005
    assert seeds.mean() < 8
