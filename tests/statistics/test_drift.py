"""Drift: tests hold their level, intervals cover the truth, labels estimate without bias. benchmarks/drift.md has tables."""

import numpy as np
import pytest
from labels import draw_answers
from scipy import stats

from catdog.auditing.drift import read_confidence
from catdog.data.predictions import Predictions
from catdog.statistics.drift import (
    compare_mixes,
    compare_values,
    estimate_accuracy,
    estimate_by_difference,
    estimate_by_threshold,
    estimate_from_layers,
    fit_chances,
    plan_labels,
)


def draw(generator: np.random.Generator, images: int, accuracy: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Returns confidence and whether the answer is right."""
    probabilities, labels, _ = draw_answers(generator, classes=3, accuracy=accuracy, wrong=0.0, images=images)
    return probabilities.max(axis=1).astype(float), probabilities.argmax(axis=1) == labels


def test_the_distance_and_its_p_are_those_of_scipy() -> None:
    generator = np.random.default_rng(0)
    former, new = generator.normal(size=200), np.round(generator.normal(0.3, 1.5, size=150), 1)
    found = compare_values(former, new)
    wanted = stats.ks_2samp(former, new, method="asymp")
    assert found.distance == pytest.approx(wanted.statistic)
    assert found.p == pytest.approx(stats.kstwobign.sf(np.sqrt(200 * 150 / 350) * found.distance))
    share = stats.mannwhitneyu(new, former).statistic / (200 * 150)
    assert found.effect == pytest.approx(2 * share - 1)
    assert found.low < found.effect < found.high


def test_equal_samples_rarely_differ_and_the_interval_covers_no_effect() -> None:
    generator = np.random.default_rng(1)
    found = [compare_values(generator.normal(size=100), generator.normal(size=60)) for _ in range(300)]
    assert np.mean([one.p < 0.05 for one in found]) < 0.08
    assert 0.92 < np.mean([one.low <= 0 <= one.high for one in found]) < 0.98


def test_values_that_are_all_equal_do_not_differ() -> None:
    found = compare_values(np.ones(40), np.ones(50))
    assert (found.distance, found.effect, found.p) == (0, 0, 1)


@pytest.mark.parametrize("scale", [1, 20])
def test_a_mix_of_answers_holds_its_level_also_with_rare_classes(scale: int) -> None:
    generator = np.random.default_rng(2)
    shares = [0.6, 0.37, 0.03]
    p = [
        compare_mixes(generator.multinomial(40 * scale, shares), generator.multinomial(30 * scale, shares)).p
        for _ in range(200)
    ]
    assert np.mean(np.array(p) < 0.05) < 0.09
    assert compare_mixes(np.array([40, 30, 0]), np.array([60, 2, 3])).p < 0.01
    assert compare_mixes(np.array([40, 0]), np.array([30, 0])).p == 1


def test_as_many_lie_below_the_threshold_as_are_wrong_and_ties_count_in_part() -> None:
    confidence, right = np.array([0.5, 0.6, 0.7, 0.8]), np.array([False, True, True, True])
    assert estimate_by_threshold(confidence, right, confidence) == 0.75
    assert estimate_by_threshold(confidence, right, np.array([0.55, 0.65])) == 0.5
    tied = np.ones(4)
    assert estimate_by_threshold(tied, right, np.ones(10)) == pytest.approx(0.75)
    assert estimate_by_threshold(tied, np.zeros(4, bool), np.ones(10)) == 0
    assert estimate_by_difference(confidence, right, confidence - 0.1) == pytest.approx(0.65)


def test_probabilities_that_are_equal_stay_equal_when_they_are_stored() -> None:
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3]], np.float32)[[0, 1, 1, 1, 1, 0]]
    right = np.array([True, False, True, True, True, True])
    stored = Predictions(np.array(list("abcdef"), object), np.array(6 * ["x"], object), ("x", "y"), probabilities)
    confidence = read_confidence(Predictions.from_csv(stored.to_csv().encode()))
    new = probabilities.max(axis=1)
    assert estimate_by_threshold(confidence, right, new) == pytest.approx(5 / 6)


def test_the_interval_covers_the_accuracy_on_photos_of_the_same_kind() -> None:
    generator = np.random.default_rng(3)
    covered, lower = 0, 0
    for _ in range(60):
        confidence, right = draw(generator, 600)
        found = estimate_accuracy(confidence[:400], right[:400], confidence[400:], draws=100)
        covered += found.low <= right[400:].mean() <= found.high
        lower += found.change_high < 0
    assert covered / 60 >= 0.88
    assert lower <= 6


def test_a_lower_confidence_lowers_the_estimate() -> None:
    generator = np.random.default_rng(4)
    confidence, right = draw(generator, 400, 0.95)
    worse, worse_right = draw(generator, 400, 0.7)
    found = estimate_accuracy(confidence, right, worse, draws=200)
    assert found.change_high < 0
    assert abs(found.estimate - worse_right.mean()) < 0.15


@pytest.mark.parametrize("wrong", [0, 2, 14])
def test_a_confidence_that_has_collapsed_says_nothing_certain(wrong: int) -> None:
    """The threshold lies below all validation answers but a few: nearly any photo is above it, or none is."""
    generator = np.random.default_rng(8)
    confidence = np.sort(generator.uniform(0.9, 1, 400))
    confidence[0] = 0.6
    right = np.arange(400) >= wrong
    found = estimate_accuracy(confidence, right, generator.uniform(0.62, 0.8, 200), draws=200)
    assert found.estimate == (1 if wrong == 0 else 0)
    assert 0.6 < found.by_confidence < 0.8
    assert found.disagreement > 0.2
    assert found.low <= min(found.methods) <= max(found.methods) <= found.high
    assert found.change_low <= min(found.methods) - found.validation
    assert found.change_high >= max(found.methods) - found.validation


def test_groups_widen_the_interval_and_no_mistake_at_all_is_no_certainty() -> None:
    generator = np.random.default_rng(5)
    confidence, right = draw(generator, 100)
    new = draw(generator, 200)[0]
    alone = estimate_accuracy(confidence, right, new, draws=300)
    many = estimate_accuracy(
        np.repeat(confidence, 8), np.repeat(right, 8), new, np.repeat(np.arange(100), 8), draws=300
    )
    assert many.high - many.low > 0.8 * (alone.high - alone.low)
    perfect = estimate_accuracy(confidence, np.ones(100, bool), new, draws=50)
    assert perfect.wrong == 0
    assert perfect.low < 0.97
    assert perfect.estimate >= 0.99


def test_chances_rise_with_confidence_and_stay_within_bounds() -> None:
    confidence, right = draw(np.random.default_rng(6), 300)
    chances = fit_chances(confidence, right, np.array([0.0, 0.4, 0.9, 1.0]))
    assert (np.diff(chances) >= 0).all()
    assert 0 <= chances[0] <= chances[-1] <= 1
    upside_down = fit_chances(confidence, confidence < 0.6, np.array([0.4, 0.99]))
    assert upside_down[0] == pytest.approx(upside_down[1])


def test_labels_of_the_first_photos_estimate_the_accuracy_without_bias() -> None:
    generator = np.random.default_rng(7)
    confidence, right = draw(generator, 1000, 0.85)
    chances = fit_chances(confidence, right, confidence)
    estimates, covered = [], 0
    for _ in range(300):
        plan = plan_labels(confidence, chances, generator.random(1000))
        first = plan.order[:60]
        sizes = dict(enumerate(np.bincount(plan.layers).tolist()))
        accuracy, low, high = estimate_from_layers(right[first].tolist(), plan.layers[first].tolist(), sizes)
        estimates.append(accuracy)
        covered += low <= right.mean() <= high
    assert sorted(plan.order) == list(range(1000))
    assert set(plan.layers[plan.order[:5]]) == {0, 1, 2, 3, 4}
    assert np.mean(estimates) == pytest.approx(right.mean(), abs=0.01)
    assert covered / 300 > 0.92
    # As many labels at random spread more.
    assert np.std(estimates) < np.sqrt(0.85 * 0.15 / 60)
    assert np.isnan(estimate_from_layers([True], [0], {0: 3, 1: 3})[0])


def test_few_photos_get_a_plan_too() -> None:
    assert len(plan_labels(np.zeros(0), np.zeros(0), np.zeros(0)).order) == 0
    assert sorted(plan_labels(np.array([0.9, 0.5]), np.array([0.9, 0.5]), np.array(["b", "a"])).order) == [0, 1]


def test_an_image_that_is_added_leaves_the_order_of_the_others_in_its_layer() -> None:
    generator = np.random.default_rng(9)
    confidence, lots = np.full(101, 0.9), generator.random(101)
    confidence[:50] = 0.6
    former = plan_labels(confidence[:100], np.full(100, 0.8), lots[:100])
    now = plan_labels(confidence, np.full(101, 0.8), lots)
    for layer in range(5):
        stayed = set(np.flatnonzero((former.layers == layer) & (now.layers[:100] == layer)))
        assert len(stayed) > 10
        orders = [[place for place in plan.order if place in stayed] for plan in (former, now)]
        assert orders[0] == orders[1]
