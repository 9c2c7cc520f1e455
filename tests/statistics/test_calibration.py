import numpy as np
import pytest

from catdog.statistics.calibration import calibration_error, measure_calibration


def simulate(
    generator: np.random.Generator, images: int, seeds: int = 1, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Answers of a model whose logits are `temperature` times those that would be calibrated: (S, N, 2) and labels (N,)."""
    logits = generator.normal(1.5, 1.5, images) + (generator.normal(0, 0.6, (seeds, images)) if seeds > 1 else 0)
    labels = (generator.uniform(size=images) < 1 / (1 + np.exp(-logits))) if seeds == 1 else None
    if labels is None:
        # One label for all seeds, and yet each seed's probability is right on average: they share the image's difficulty.
        labels = generator.uniform(size=images) < (1 / (1 + np.exp(-logits))).mean(axis=0)
    second = 1 / (1 + np.exp(-temperature * np.atleast_2d(logits)))
    return np.stack([1 - second, second], axis=-1), labels.astype(int)


def true_error(temperature: float) -> float:
    generator = np.random.default_rng(7)
    probabilities, labels = simulate(generator, 400_000, temperature=temperature)
    return measure_calibration(probabilities, labels).error


def test_a_gap_known_by_hand():
    # 100 answers with confidence 0.8, of which 60 are right: one bin, a gap of 0.2.
    probabilities = np.tile([0.2, 0.8], (100, 1))
    labels = np.r_[np.ones(60, int), np.zeros(40, int)]
    found = measure_calibration(probabilities, labels)
    assert found.confidence.tolist() == pytest.approx([0.8])
    assert found.accuracy.tolist() == [0.6]
    assert found.answers.tolist() == [100]
    assert found.overconfidence == pytest.approx(0.2)
    assert found.error == pytest.approx(0.2, abs=0.005)
    # 1.96 * sqrt(0.6 * 0.4 / 100) = 0.096
    assert (found.low, found.high) == pytest.approx((0.104, 0.296), abs=0.012)
    # Wilson, 60 of 100
    assert (found.accuracy_low[0], found.accuracy_high[0]) == pytest.approx((0.502, 0.691), abs=0.002)


def test_bins_hold_equal_numbers_and_equal_confidences_share_one():
    probabilities, labels = simulate(np.random.default_rng(0), 300)
    assert measure_calibration(probabilities[0], labels).answers.tolist() == [20] * 15
    assert len(measure_calibration(probabilities[0][:40], labels[:40]).answers) == 4
    tied = np.tile([0.0, 1.0], (100, 1))
    assert measure_calibration(tied, np.ones(100, int)).answers.tolist() == [100]


def test_a_calibrated_model_is_called_so():
    generator = np.random.default_rng(1)
    found = [measure_calibration(*simulate(generator, 800)) for _ in range(100)]
    assert np.mean([one.low == 0 for one in found]) >= 0.92
    assert np.median([one.error for one in found]) < 0.015


def test_an_overconfident_model_is_found_out():
    generator = np.random.default_rng(2)
    found = [measure_calibration(*simulate(generator, 800, temperature=2.5)) for _ in range(30)]
    assert min(one.low for one in found) > 0
    assert min(one.overconfidence for one in found) > 0.03


@pytest.mark.parametrize(("seeds", "images", "temperature"), [(1, 800, 1.3), (1, 300, 2.0), (1, 800, 0.6)])
def test_the_interval_holds_the_truth(seeds, images, temperature):
    generator, truth = np.random.default_rng(3), true_error(temperature)
    found = [measure_calibration(*simulate(generator, images, seeds, temperature)) for _ in range(200)]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.87


def test_seeds_are_judged_together():
    generator = np.random.default_rng(4)
    truth = measure_calibration(*simulate(np.random.default_rng(9), 60_000, 5, 2.0)).error
    found = [measure_calibration(*simulate(generator, 400, 5, 2.0)) for _ in range(100)]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.87
    # Copies of one seed are no more than the one.
    probabilities, labels = simulate(generator, 400, temperature=2.0)
    copied = measure_calibration(np.repeat(probabilities, 4, axis=0), labels)
    alone = measure_calibration(probabilities, labels)
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high), rel=0.1, abs=1e-3)
    assert copied.accuracy_low == pytest.approx(alone.accuracy_low, abs=0.02)


def test_answers_that_are_all_right_do_not_pretend_to_certainty():
    # With 60 images answered at 94.5 %, 3.3 mistakes were to be expected: none is a little odd, not proof.
    confidences = np.linspace(0.9, 0.99, 60)
    found = measure_calibration(np.stack([confidences, 1 - confidences], axis=1), np.zeros(60, int))
    assert found.low < 0.02
    assert 0.06 < found.high < 0.12


def test_many_classes_and_one_that_is_never_predicted():
    generator, found = np.random.default_rng(5), []
    for _ in range(100):
        probabilities = generator.dirichlet(np.r_[np.ones(9), 1e-3], 500)
        drawn = (generator.uniform(size=(500, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
        found.append(measure_calibration(probabilities, np.minimum(drawn, 9)))
    assert np.mean([one.low == 0 for one in found]) >= 0.88
    assert np.median([one.error for one in found]) < 0.02


@pytest.mark.parametrize(
    ("probabilities", "labels", "words"),
    [
        (np.zeros((4, 2)), [0, 1], "needs probabilities"),
        (np.zeros(4), [0] * 4, "needs probabilities"),
        (np.full((4, 2), 3.0), [0] * 4, "logits"),
        (np.full((4, 2), np.nan), [0] * 4, "logits"),
        (np.full((4, 2), 0.5), [0, 1, 1, 2], "labels must be"),
    ],
)
def test_what_is_no_answer_is_not_measured(probabilities, labels, words):
    with pytest.raises(ValueError, match=words):
        measure_calibration(probabilities, np.array(labels))


def two_classes(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Answers of class 0 at these confidences; the label says whether they are right."""
    return np.stack([confidence, 1 - confidence], axis=1), np.where(right, 0, 1)


def test_a_calibrated_model_is_off_by_chance_alone_and_a_boastful_one_by_its_boast():
    generator = np.random.default_rng(0)
    honest = generator.uniform(0.5, 1, 20_000)
    assert calibration_error(*two_classes(honest, generator.random(20_000) < honest)) < 0.02
    boastful = np.full(20_000, 0.95)
    error = calibration_error(*two_classes(boastful, generator.random(20_000) < 0.7))
    assert error == pytest.approx(0.25, abs=0.01)


def test_the_error_is_that_of_a_table_worked_by_hand():
    # Two bins: 0.6 twice with one right, 0.9 twice with both right.
    answers = two_classes(np.array([0.9, 0.6, 0.9, 0.6]), np.array([True, True, True, False]))
    assert calibration_error(*answers, bins=2) == pytest.approx((abs(1.2 - 1) + abs(1.8 - 2)) / 4)
    assert calibration_error(*answers, bins=1) == pytest.approx(abs(3.0 - 3) / 4)
    # As many bins as one likes: equally confident answers stay together.
    assert calibration_error(*answers, bins=99) == pytest.approx((0.2 + 0.2) / 4)


@pytest.mark.parametrize(
    ("probabilities", "labels"), [(np.ones((0, 2)), []), (np.ones((3, 2)), [0, 1]), (np.ones(3), [0, 1, 0])]
)
def test_what_cannot_be_measured_is_refused(probabilities, labels):
    with pytest.raises(ValueError, match="needs"):
        calibration_error(probabilities, np.array(labels))
