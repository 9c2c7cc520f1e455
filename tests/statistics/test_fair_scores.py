"""Short forms of benchmarks/fair_scores.py: what goes wrong under each condition, and that its fix mends it."""

from dataclasses import replace

import numpy as np
import pytest
from fair_scores import (
    NINE,
    SEVEN,
    SURE,
    Tally,
    clean,
    divergence,
    draw_epochs,
    draw_images,
    draw_odds,
    follow_advice,
    groups,
    moves_not_worse,
    run_chain,
    selection,
    sentences,
    training_sets,
    unequal,
    warn,
)

FEW = replace(NINE, images=200)


def draw_generator(number: int) -> np.random.Generator:
    return np.random.default_rng([14, number])


@pytest.mark.parametrize("world", [NINE, SEVEN, SURE])
def test_the_truth_of_the_generator_is_what_it_says(world):
    generator = draw_generator(0)
    odds, true = draw_odds(world, draw_images(world, 200, generator), 5, generator)
    right = 1 / (1 + np.exp(-odds))
    assert right.mean() == pytest.approx(world.mean_accuracy(0.0), abs=0.006)
    assert true.std() == pytest.approx(world.seed_spread, rel=0.25)
    shift = world.find_shift(-0.01)
    assert world.mean_accuracy(shift) == pytest.approx(world.mean_accuracy(0.0) - 0.01)


def test_all_epochs_are_equally_good_and_answers_flip_as_often_as_said():
    generator = draw_generator(1)
    odds, _ = draw_odds(SEVEN, draw_images(SEVEN, 20, generator), 5, generator)
    epochs = draw_epochs(odds, 1.0, generator)
    assert np.ptp(epochs.mean(axis=(1, 2, 3))) < 0.01
    assert (epochs[1:] != epochs[:-1]).mean() == pytest.approx(0.12, abs=0.01)
    assert (np.diff(draw_epochs(odds, 0.15, generator), axis=0)).mean() == pytest.approx(0.02, abs=0.004)


def test_clean_studies_hold_what_they_promise():
    found = Tally.of(clean(FEW, 5, 600, draw_generator(2))[0])
    assert 0.93 <= found.covered <= 0.97
    assert 0.93 <= found.alone <= 0.975
    assert max(found.better, found.worse) <= 0.04
    assert found.holm <= 0.07
    assert found.decide <= 0.07
    assert abs(found.bias) < 0.002


def test_an_epoch_kept_on_the_images_that_are_compared_flatters_answers_that_flip():
    before, after = selection(FEW, 5, (1.0, 0.0), 100, draw_generator(3))
    found = Tally.of(before)
    assert found.bias > 0.015
    assert found.better > 0.2
    found = Tally.of(after)
    assert abs(found.bias) < 0.005
    assert found.better <= 0.07


def test_failures_that_do_not_show_are_not_covered():
    found = Tally.of(divergence(replace(SURE, images=200), 5, 300, draw_generator(4))[0])
    assert found.covered < 0.5


def test_where_failures_hide_every_wrong_verdict_comes_with_a_warning():
    found = warn(SURE, 5, 100, draw_generator(5), better=0.01)
    assert found.wrong.mean() > 0.4
    assert not (found.wrong & ~found.shown & ~found.overturned).any()


def test_near_identical_images_are_counted_too_often():
    before, after = groups(replace(SEVEN, images=200, group=4), 10, 400, draw_generator(6))
    assert Tally.of(before).covered < 0.9
    assert 0.93 <= Tally.of(after).covered <= 0.975


@pytest.mark.parametrize("seeds", [(2, 2), (2, 10)])
def test_few_or_unequal_seeds_are_covered_in_at_least_95_percent(seeds):
    before, after = unequal(replace(SEVEN, images=200, seed_spread=0.03), seeds, 1500, draw_generator(7))
    assert Tally.of(before).covered < 0.94
    assert Tally.of(after).covered >= 0.95


def test_a_training_set_is_a_factor_that_seeds_and_images_do_not_hold():
    before, _ = training_sets(FEW, 5, 300, draw_generator(8), spread=0.02)
    assert Tally.of(before).covered < 0.9


def test_who_trains_the_advised_seeds_and_compares_again_is_wrong_more_often():
    first, ever, counted, then, instead = follow_advice(FEW, 3, 50, draw_generator(9), most=20)
    assert first.sum() < ever.sum()
    assert counted.sum() <= first.sum() + 1
    assert then.sum() <= first.sum() + 1
    assert instead.mean() <= 0.1


def test_a_pairs_own_interval_claims_what_no_verdict_does():
    claimed, wrong = sentences(FEW, 5, 400, draw_generator(10))
    assert claimed.mean() > 0.08
    assert wrong.mean() <= 0.07


def test_a_champion_that_need_only_be_not_worse_drifts():
    found = run_chain(replace(FEW, images=800), 5, 60, draw_generator(11), 0.005, moves_not_worse)
    assert (found.moves > 0).mean() > 0.2
    assert found.drift.mean() < -0.001
    assert found.flattery.mean() > 0.005
