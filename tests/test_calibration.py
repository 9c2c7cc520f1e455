import numpy as np
import pytest

from catdog.calibration import calibration_error


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
