"""Simulated studies whose truth is known: what is called 95% has to be 95%."""

import numpy as np
import pytest
from studies import draw_grouped_studies, draw_studies, find_shift, true_accuracy

from catdog.statistics.contrasts import (
    accuracy_interval,
    bootstrap_interval,
    bootstrap_means,
    contrast,
    mean,
)
from catdog.statistics.proportions import wilson_interval

CASES = [(200, 0.6, 0.2), (800, 0.6, 0.06), (800, 4.0, 0.1)]


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(("images", "level", "seed_spread"), CASES)
def test_intervals_cover_the_truth_in_95_percent(seeds, images, level, seed_spread):
    generator = np.random.default_rng([seeds, images, int(10 * level)])
    covered, better, alone = [], [], []
    for _ in range(10):
        first, second = draw_studies(
            200, seeds, images, generator=generator, level=level, seed_spread=seed_spread
        )  # fmt: skip
        found = contrast(first, second)
        covered += list((found.low <= 0) & (found.high >= 0))
        better += list(found.low > 0)
        low, high = accuracy_interval(first)
        alone += list((low <= true_accuracy(level, seed_spread)) & (true_accuracy(level, seed_spread) <= high))
    assert 0.93 <= np.mean(covered) <= 0.97
    assert 0.92 <= np.mean(alone) <= 0.97
    # "Better" is one side of what is not covered.
    assert np.mean(better) <= 0.04


def test_a_difference_is_covered_where_there_is_one_and_seeds_are_not_equally_many():
    truth = 0.04
    first, second = draw_studies(
        1500, 8, 300, generator=np.random.default_rng(3), better=find_shift(truth, 0.6, 0.1), seed_spread=0.1
    )
    found = contrast(first[:, :3], second)
    assert 0.93 <= ((found.low <= truth) & (truth <= found.high)).mean() <= 0.97
    assert np.mean(found.estimate) == pytest.approx(truth, abs=0.003)


@pytest.mark.parametrize("seeds", [(2, 2), (2, 3), (2, 10), (10, 2), (3, 10)])
@pytest.mark.parametrize("seed_spread", [0.06, 0.3])
def test_with_few_or_unequal_seeds_intervals_cover_the_truth_in_at_least_95_percent(seeds, seed_spread):
    generator = np.random.default_rng([*seeds, int(100 * seed_spread)])
    covered = []
    for _ in range(5):
        first, second = draw_studies(400, max(seeds), 200, generator=generator, seed_spread=seed_spread)
        found = contrast(first[:, : seeds[0]], second[:, : seeds[1]])
        covered += list((found.low <= 0) & (found.high >= 0))
    # The standard error of a share of 2,000 is half a percent.
    assert np.mean(covered) >= 0.945


@pytest.mark.parametrize("seeds", [(3, 3), (3, 6), (10, 5)])
def test_with_enough_seeds_the_variances_of_two_variants_are_kept_apart(seeds):
    first, second = draw_studies(50, max(seeds), 100, generator=np.random.default_rng(4))
    found = contrast(first[:, : seeds[0]], second[:, : seeds[1]])
    parts = [found.image_variance, *(v / n for v, n in zip(found.seed_variances, seeds, strict=True))]
    squares = sum(part**2 / freedom for part, freedom in zip(parts, (99, seeds[0] - 1, seeds[1] - 1), strict=True))
    assert np.array_equal(found.freedom(), sum(parts) ** 2 / squares)
    assert np.array_equal(found.standard_error(), np.sqrt(sum(parts)))


def test_many_studies_at_once_are_as_one_by_one():
    first, second = draw_studies(3, 4, 50, generator=np.random.default_rng(0))
    for fewer in (4, 2):
        _are_as_one_by_one(first[:, :fewer], second)


def _are_as_one_by_one(first, second):
    found = contrast(first, second)
    for k in range(3):
        single = contrast(first[k], second[k])
        assert single.estimate == pytest.approx(first[k].mean() - second[k].mean())
        for key in ("low", "high", "p"):
            assert getattr(single, key) == pytest.approx(getattr(found, key)[k])


def test_variance_components_are_those_of_a_table_worked_by_hand():
    # Runs 1 and 2 on images 1 to 3: means by run 2 and 4, by image 2, 3, 4; the residuals are -1, 0, 1 and 1, 0, -1.
    values = np.array([[0.0, 2.0, 4.0], [4.0, 4.0, 4.0]])
    found = mean(values)
    noise = 4 / ((2 - 1) * (3 - 1)) / (2 * 3)
    assert found.estimate == 3
    assert found.seed_variances == (2.0,)
    assert found.image_variance == pytest.approx(1 / 3 - noise)
    assert found.standard_error() == pytest.approx(np.sqrt(2 / 2 + max(1 / 3 - noise, 0)))


def test_the_pairing_of_images_narrows_the_interval():
    generator = np.random.default_rng(5)
    first, second = (answers[0] for answers in draw_studies(1, 5, 400, generator=generator))
    shuffled = second[:, generator.permutation(400)]
    assert contrast(first, second).standard_error() < 0.8 * contrast(first, shuffled).standard_error()


def test_one_seed_speaks_of_images_alone_and_more_of_both():
    first, second = (a[0] for a in draw_studies(1, 5, 400, generator=np.random.default_rng(7), seed_spread=0.3))
    alone, both = contrast(first[:1], second[:1]), contrast(first, second)
    assert (alone.over_seeds, both.over_seeds) == (False, True)
    difference = first[0].astype(float) - second[0]
    assert alone.standard_error() == pytest.approx(difference.std(ddof=1) / 20)
    assert alone.seeds_to_decide(0.02) is None
    assert not contrast(first[:1], second).over_seeds


def test_equal_answers_are_equal_up_to_one_image():
    answers = np.random.default_rng(0).random((3, 100)) < 0.7
    found = contrast(answers, answers[:1].repeat(3, axis=0) * 0 + answers)
    same = contrast(answers[:1], answers[:1])
    assert found.estimate == same.estimate == 0
    assert same.low < -0.01 < 0.01 < same.high
    low, high = accuracy_interval(np.ones((2, 100), bool))
    assert 0.9 < low < high <= 1


def test_seeds_to_decide_are_more_than_there_are_and_enough_if_nothing_changes():
    first, second = (
        a[0] for a in draw_studies(1, 3, 2000, generator=np.random.default_rng(11), better=0.2, seed_spread=0.2)
    )
    found = contrast(first, second)
    assert found.low < 0 < found.high
    needed = found.seeds_to_decide(0.005)
    assert needed is not None
    assert needed > 3
    assert not _decided(found.interval(seeds=(needed - 1, needed - 1)), 0.005)
    assert _decided(found.interval(seeds=(needed, needed)), 0.005)
    # So few images that no number of seeds could do.
    assert contrast(first[:, :40], second[:, :40]).seeds_to_decide(0.001) is None


def _decided(interval: tuple[float, float], margin: float) -> bool:
    return interval[0] > 0 or max(-interval[0], interval[1]) <= margin


def test_the_bootstrap_counts_single_answers_noise_three_times():
    # Neither seeds nor images differ here: all is noise of single answers, in 20 runs on 200 images.
    generator = np.random.default_rng(2)
    first, second = generator.random((2, 20, 200)) < 0.5
    low, high = bootstrap_interval(*bootstrap_means([first, second]))
    found = contrast(first, second)
    assert (high - low) / (found.high - found.low) == pytest.approx(np.sqrt(3), rel=0.15)
    assert (low + high) / 2 == pytest.approx(found.estimate, abs=0.01)


@pytest.mark.parametrize("shapes", [((3, 10), (3, 11)), ((2, 1), (2, 1)), ((0, 10), (2, 10))])
def test_what_cannot_be_compared_is_refused(shapes):
    with pytest.raises(ValueError, match="needs"):
        contrast(np.ones(shapes[0]), np.ones(shapes[1]))


def test_the_order_of_images_changes_nothing():
    """Where few images tell two variants apart, the first may be one of them."""
    answers = np.ones((3, 200), dtype=bool)
    other = answers.copy()
    other[:, 0] = False
    swapped = other[:, ::-1]
    assert contrast(answers, other).interval() == contrast(answers, swapped).interval()


def test_errors_that_make_up_for_each_other_are_no_more_answers():
    """Two seeds that learned nothing, one always says cat and one always dog: 1,600 answers, not a million."""
    cats = np.arange(800) % 2 == 0
    low, high = accuracy_interval(np.stack([cats, ~cats]))
    independent = wilson_interval(800, 1600)
    assert low <= independent[0] + 1e-3
    assert high >= independent[1] - 1e-3


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("sizes", [[4] * 100, [1] * 60 + [4] * 30 + [10] * 12])
def test_intervals_cover_the_truth_where_images_come_in_groups_that_are_named(seeds, sizes):
    generator = np.random.default_rng([seeds, len(sizes)])
    named, unnamed, alone = [], [], []
    truth = true_accuracy(0.6, 0.06)
    for _ in range(5):
        first, second, groups = draw_grouped_studies(200, seeds, np.array(sizes), generator=generator)
        found, wrong = contrast(first, second, groups), contrast(first, second)
        named += list((found.low <= 0) & (found.high >= 0))
        unnamed += list((wrong.low <= 0) & (wrong.high >= 0))
        low, high = accuracy_interval(first, groups=groups)
        alone += list((low <= truth) & (truth <= high))
    assert 0.93 <= np.mean(named) <= 0.97
    assert 0.93 <= np.mean(alone) <= 0.97
    assert np.mean(unnamed) < 0.92


def test_groups_of_one_image_change_no_bit():
    first, second = (a[0] for a in draw_studies(1, 4, 60, generator=np.random.default_rng(0)))
    names = np.random.default_rng(1).permutation(60)
    plain, grouped = contrast(first, second), contrast(first, second, names)
    assert grouped == plain
    assert grouped.interval() == plain.interval()
    assert accuracy_interval(first, groups=names) == accuracy_interval(first)
    assert mean(first, names) == mean(first)


def test_groups_leave_the_estimate_and_count_as_one_draw_each():
    generator = np.random.default_rng(4)
    groups = generator.permutation(np.repeat(np.arange(30), generator.integers(1, 6, 30)))
    first, second = generator.random((2, 3, len(groups))) < 0.7
    found = contrast(first, second, groups)
    assert found.estimate == pytest.approx(first.mean() - second.mean())
    assert found.seed_variances == pytest.approx(contrast(first, second).seed_variances)
    assert (found.images, found.groups, found.units) == (len(groups), 30, 30)
    # Four copies of every image say no more than one.
    once, copied = (
        contrast(first, second),
        contrast(
            *(np.repeat(a, 4, axis=1) for a in (first, second)), groups := np.repeat(np.arange(first.shape[1]), 4)
        ),
    )
    assert copied.interval() == pytest.approx(once.interval())
    assert copied.freedom() == pytest.approx(once.freedom())
    right = np.ones((2, len(groups)), dtype=bool)
    assert accuracy_interval(right, groups=groups)[0] == pytest.approx(accuracy_interval(right[:, ::4])[0])


def test_few_groups_that_differ_leave_the_spread_unknown_whatever_their_sizes():
    groups = np.repeat(np.arange(60), np.tile([1, 3], 30))
    answers = np.ones((3, 120), dtype=bool)
    other = answers.copy()
    other[:, groups == 7] = False
    found = contrast(answers, other, groups)
    assert found.standard_error() >= 2 / 60


def test_groups_that_do_not_fit_are_refused():
    answers = np.ones((2, 10))
    for groups in (np.zeros(9), np.zeros(10)):
        with pytest.raises(ValueError, match="needs"):
            contrast(answers, answers, groups)
