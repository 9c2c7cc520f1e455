"""Runs that diverge: found where they are, and not where seeds only spread; and what may be missing."""

from dataclasses import replace

import numpy as np
import pytest
from fair_scores import NINE, SEVEN, SURE, draw_images, draw_variant, fail
from scipy.stats import beta, binom

from catdog.statistics.contrasts import Contrast, contrast
from catdog.statistics.failures import (
    answer_noise,
    failure_bound,
    find_diverged,
    interquartile_mean,
    probability_of_beating,
    weigh_hidden_failure,
)
from catdog.statistics.judgements import Judgement


def draw(world, seeds, studies, generator):
    return draw_variant(world, draw_images(world, studies, generator), seeds, generator)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(
    "world", [SURE, replace(NINE, seed_spread=0.015), replace(SEVEN, images=48), replace(SEVEN, seed_spread=0.03)]
)
def test_ordinary_spread_is_hardly_ever_called_diverged(world, seeds):
    generator = np.random.default_rng([seeds, world.images])
    alarms = [find_diverged(draw(world, seeds, 100, generator), 0.5).count > 0 for _ in range(4)]
    assert np.mean(alarms) <= 0.02


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("world", [SURE, NINE, SEVEN])
def test_a_run_that_guesses_is_found_also_where_two_do(world, seeds):
    generator = np.random.default_rng(seeds)
    values = draw(world, seeds, 100, generator)
    for failed in ([0], [0, 1]):
        found = find_diverged(fail(values, np.isin(np.arange(seeds), failed)[None].repeat(100, axis=0), generator), 0.5)
        assert found.diverged[:, failed].mean() >= 0.94
        # If two of three guess, the third is what stands out, and it is not below.
        assert found.diverged[:, 2:].mean() <= 0.005
    assert not find_diverged(values, 0.5).diverged.any(axis=1).mean() > 0.01


def test_a_run_far_below_its_siblings_is_found_although_it_learned_something():
    generator = np.random.default_rng(0)
    values = generator.random((5, 800)) < np.array([0.98, 0.97, 0.98, 0.98, 0.8])[:, None]
    found = find_diverged(values, 0.5)
    assert found.diverged.tolist() == [False, False, False, False, True]
    assert not found.at_chance.any()
    # A few points are bad luck.
    slightly = generator.random((5, 800)) < np.array([0.98, 0.97, 0.98, 0.98, 0.93])[:, None]
    assert not find_diverged(slightly, 0.5).diverged.any()


def test_runs_that_all_learned_nothing_are_all_at_chance_and_one_alone_may_be():
    values = np.random.default_rng(1).random((3, 800)) < 0.5
    assert find_diverged(values, 0.5).at_chance.all()
    assert find_diverged(values[:1], 0.5).at_chance.all()
    assert not find_diverged(np.random.default_rng(1).random((1, 800)) < 0.9, 0.5).diverged.any()
    # Of ten classes, 0.5 is far from chance.
    assert not find_diverged(values, 0.1).diverged.any()


def test_the_noise_of_answers_is_that_of_independent_answers():
    values = np.random.default_rng(2).random((200, 4, 500)) < 0.8
    assert answer_noise(values).mean() == pytest.approx(np.sqrt(0.8 * 0.2 / 500), rel=0.02)
    assert answer_noise(values[0, :1]) == 0


def test_no_failure_in_five_leaves_up_to_45_percent():
    assert failure_bound(0, 5) == pytest.approx(0.4507, abs=1e-4)
    assert failure_bound(0, 5) == pytest.approx(1 - 0.05 ** (1 / 5))
    assert failure_bound(2, 10) == pytest.approx(beta.ppf(0.95, 3, 8))
    assert binom.cdf(2, 10, failure_bound(2, 10)) == pytest.approx(0.05)
    assert failure_bound(3, 3) == 1.0
    with pytest.raises(ValueError, match="failed"):
        failure_bound(4, 3)


def test_the_interquartile_mean_weighs_the_edges_in_part():
    assert interquartile_mean(np.array([0.0, 1.0, 2.0, 100.0])) == 1.5
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, 3.0, 0.0])) == 2.0
    assert interquartile_mean(np.array([0.0, 1.0, 5.0])) == pytest.approx((0.25 * 0 + 1 + 0.25 * 5) / 1.5)
    assert interquartile_mean(np.array([0.7])) == 0.7
    assert interquartile_mean(np.arange(24.0).reshape(3, 8)).tolist() == [3.5, 11.5, 19.5]


def test_a_run_beats_another_as_often_as_pairs_say():
    found = probability_of_beating(np.array([0.9, 0.8, 0.7]), np.array([0.8, 0.6]))
    assert found.probability == pytest.approx((2 + 1.5 + 1) / 6)
    always = probability_of_beating(np.array([5.0, 6, 7, 8, 9]), np.array([0.0, 1, 2, 3, 4]))
    assert always.probability == always.high == 1
    # A bootstrap would have no width here.
    assert 0.5 < always.low < 0.6
    alone = probability_of_beating(np.array([1.0]), np.array([0.0]))
    assert (alone.probability, alone.low, alone.high) == pytest.approx((1, 0, 1))
    turned = probability_of_beating(np.array([0.0, 1, 2, 3, 4]), np.array([5.0, 6, 7, 8, 9]))
    assert (turned.low, turned.high) == pytest.approx((0, 1 - always.low))


@pytest.mark.parametrize("seeds", [(3, 3), (5, 5), (5, 10)])
@pytest.mark.parametrize(("gap", "truth"), [(0.0, 0.5), (0.9539, 0.75), (1.8124, 0.9)])
def test_the_interval_of_beating_covers_the_truth_in_95_percent(seeds, gap, truth):
    generator = np.random.default_rng([*seeds, int(100 * truth)])
    first, second = (generator.normal(shift, 1, (4000, n)) for shift, n in zip((gap, 0), seeds, strict=True))
    found = probability_of_beating(first, second)
    assert found.probability.mean() == pytest.approx(truth, abs=0.01)
    assert ((found.low <= truth) & (truth <= found.high)).mean() >= 0.94


def test_one_hidden_failure_in_ten_overturns_a_small_difference_and_not_a_large_one():
    small = Contrast(0.02, (1e-6, 1e-6), 1e-6, (5, 5), 800)
    told = weigh_hidden_failure(small, (0.98, 0.96), (0, 0), 0.5, Judgement.BETTER, 0.005)
    assert told.loss == pytest.approx(0.048)
    assert (told.credible, told.overturned) == (True, True)
    large = replace(small, estimate=0.2)
    assert not weigh_hidden_failure(large, (0.98, 0.78), (0, 0), 0.5, Judgement.BETTER, 0.005).overturned
    # From the other side.
    assert weigh_hidden_failure(
        replace(small, estimate=-0.02), (0.96, 0.98), (0, 0), 0.5, Judgement.WORSE, 0.005
    ).overturned


def test_hidden_failures_are_excluded_by_29_seeds_and_not_hidden_once_seen():
    many = Contrast(0.02, (1e-6, 1e-6), 1e-6, (29, 29), 800)
    assert not weigh_hidden_failure(many, (0.98, 0.96), (0, 0), 0.5, Judgement.BETTER, 0.005).credible
    seen = Contrast(0.02, (1e-6, 1e-6), 1e-6, (5, 5), 800)
    assert not weigh_hidden_failure(seen, (0.98, 0.96), (1, 0), 0.5, Judgement.BETTER, 0.005).overturned


def test_a_hidden_failure_overturns_equivalence_and_nothing_that_is_undecided():
    same = Contrast(0.0005, (1e-8, 1e-8), 1e-8, (5, 5), 800)
    assert same.low > 0
    assert weigh_hidden_failure(same, (0.9, 0.9), (0, 0), 0.5, Judgement.EQUIVALENT, 0.02).overturned
    assert not weigh_hidden_failure(same, (0.9, 0.9), (0, 0), 0.5, Judgement.EQUIVALENT, 0.05).overturned
    nothing = weigh_hidden_failure(same, (0.9, 0.9), (0, 0), 0.5, Judgement.UNDECIDED, 0.02)
    assert (nothing.loss, nothing.overturned) == (0.0, False)


def test_where_failures_hide_wrong_verdicts_come_with_a_warning():
    """A variant that is 0.5 points better where it does not fail, and fails in a tenth: its mean is 4.3 points lower."""
    generator = np.random.default_rng(3)
    world = replace(SURE, accuracy=0.975)
    images = draw_images(world, 200, generator)
    first = draw_variant(world, images, 5, generator, world.find_shift(0.01))
    second = draw_variant(world, images, 5, generator)
    first = fail(first, generator.random((200, 5)) < 0.1, generator)
    wrong = warned = 0
    for one, other in zip(first, second, strict=True):
        found = contrast(one, other)
        if found.low > 0:
            failed = int(find_diverged(one, 0.5).count)
            told = weigh_hidden_failure(found, (one.mean(), other.mean()), (failed, 0), 0.5, Judgement.BETTER, 0.005)
            wrong, warned = wrong + 1, warned + told.overturned
    assert wrong > 20
    assert warned == wrong
