"""The luck of being chosen: what the best of many is worth, and what a race on the same images leaves of it."""

import numpy as np
import pytest
import tuning

from catdog.statistics.contrasts import Contrast, contrast
from catdog.statistics.optimism import allow_for_selection, correct_selection, expect_highest, trace_selection


def draw_equal(count: int, images: int = 800, seed: int = 0) -> np.ndarray:
    """Right or wrong answers of configurations that are all right on 70 % of images."""
    return np.random.default_rng(seed).random((count, images)) < 0.7


def test_the_best_of_equals_is_worth_what_all_are_worth() -> None:
    corrected, found = [], []
    for seed in range(30):
        result = correct_selection(draw_equal(40, seed=seed), draws=200)
        corrected.append(result.corrected)
        found.append(result.found)
    assert np.mean(found) > 0.73
    assert np.mean(corrected) == pytest.approx(0.7, abs=0.005)


def test_one_configuration_needs_no_correction() -> None:
    values = draw_equal(1)
    result = correct_selection(values)
    assert result.corrected == pytest.approx(values.mean(), abs=0.002)
    assert result.low < values.mean() < result.high
    assert result.leader == 0


def test_a_clear_leader_loses_little() -> None:
    values = draw_equal(10)
    values[3] |= np.random.default_rng(9).random(800) < 0.5
    result = correct_selection(values)
    assert result.leader == 3
    assert 0 <= result.optimism < 0.005


def test_groups_are_drawn_as_a_whole() -> None:
    few = np.repeat(draw_equal(20, 100), 8, axis=1)
    groups = np.repeat(np.arange(100), 8)
    whole, single = correct_selection(few, groups), correct_selection(few)
    assert whole.optimism > 1.5 * single.optimism
    assert whole.high - whole.low > 1.5 * (single.high - single.low)


def test_the_corrected_curve_ends_where_the_correction_is() -> None:
    values = draw_equal(12).astype(float)
    values[[2, 5]] = np.nan
    found, corrected = trace_selection(values)
    result = correct_selection(values)
    assert found[-1] == pytest.approx(result.found)
    assert corrected[-1] == pytest.approx(result.corrected, abs=0.004)
    assert (np.diff(found) >= 0).all()
    assert corrected[0] == pytest.approx(found[0], abs=0.004)


def test_before_a_configuration_is_known_there_is_no_score() -> None:
    values = draw_equal(3).astype(float)
    values[0] = np.nan
    found, corrected = trace_selection(values)
    assert np.isnan([found[0], corrected[0]]).all()
    assert np.isfinite([found[1:], corrected[1:]]).all()


@pytest.mark.parametrize(
    ("values", "rungs", "groups"),
    [
        (np.full((3, 5), np.nan), (), None),
        (np.ones((3, 1)), (), None),
        (np.ones((3, 5)), (np.ones((2, 5)),), None),
        (np.ones((3, 5)), (), np.zeros(5, dtype=int)),
    ],
)
def test_what_cannot_be_corrected_is_refused(values, rungs, groups) -> None:
    with pytest.raises(ValueError, match="needs"):
        correct_selection(values, groups, rungs=rungs)


def test_the_expected_maximum_grows_with_the_number() -> None:
    # From tables of normal order statistics.
    assert [round(expect_highest(count), 3) for count in (1, 2, 5, 10, 50)] == [0.0, 0.564, 1.163, 1.539, 2.249]


def test_without_an_effect_of_the_images_a_race_needs_no_allowance() -> None:
    generator = np.random.default_rng(0)
    ease = generator.random(800)

    def draw(taste: float) -> list[Contrast]:
        found = []
        for _ in range(4):
            own = np.clip(ease + generator.normal(0, taste, (2, 1, 800)), 0, 1)
            found.append(contrast(*(generator.random((2, 5, 800)) < own)))
        return found

    same, taste = draw(0.0), draw(0.3)
    assert allow_for_selection(same, 40).search < 0.005 < allow_for_selection(taste, 40).search
    assert allow_for_selection(taste, 1).search == 0.0
    with pytest.raises(ValueError, match="needs the contrast"):
        allow_for_selection([], 40)


def test_simulated_searches_with_halving_are_corrected() -> None:
    """A short form of the table in benchmarks/tuning.md."""
    generator = np.random.default_rng(1)
    studies = [tuning.correct_study(tuning.build_world(0.0), 20, generator) for _ in range(25)]
    found, corrected = (np.mean([getattr(one, key) for one in studies]) for key in ("found", "corrected"))
    assert found > 1.0
    assert abs(corrected) < 0.8
