"""Suspect labels: a weak model suspects none, a good one finds the wrong labels. benchmarks/labels.py has the whole table."""

import numpy as np
import pytest
from labels import confident_learning, draw_answers

from catdog.statistics.labels import doubt_labels


def simulate(studies: int = 3, **settings) -> tuple[float, float, float, float]:
    """Returns suspects per study, their precision and recall, and the mean of what could be found of 2%."""
    generator = np.random.default_rng(7)
    shown = hits = wrong = 0
    findable = 0.0
    for _ in range(studies):
        probabilities, labels, is_wrong = draw_answers(generator, **settings)
        doubts = doubt_labels(probabilities, labels)
        shown, hits = shown + doubts.suspect.sum(), hits + (doubts.suspect & is_wrong).sum()
        wrong += is_wrong.sum()
        findable += doubts.findable / studies
    return shown / studies, hits / max(shown, 1), hits / max(wrong, 1), findable


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("accuracy", [0.7, 0.9, 0.975])
@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_no_label_is_suspect_where_none_is_wrong(classes: int, accuracy: float, sharpness: float) -> None:
    shown, *_ = simulate(classes=classes, accuracy=accuracy, wrong=0.0, sharpness=sharpness)
    assert shown <= 1


def test_a_weak_model_of_two_classes_suspects_nobody_and_says_that_it_could_not() -> None:
    shown, _, _, findable = simulate(classes=2, accuracy=0.7, wrong=0.02)
    assert shown <= 1
    assert findable < 0.05
    probabilities, labels, wrong = draw_answers(np.random.default_rng(0), classes=2, accuracy=0.7, wrong=0.02)
    found = confident_learning(probabilities, labels)
    assert found.sum() > 100, "confident learning alone"
    assert wrong[found].mean() < 0.1


@pytest.mark.parametrize(
    ("classes", "accuracy", "sharpness", "recall"),
    [(2, 0.95, 1.0, 0.5), (2, 0.975, 1.0, 0.7), (2, 0.975, 3.0, 0.7), (10, 0.9, 1.0, 0.65), (10, 0.9, 3.0, 0.6)],
)
def test_a_good_model_finds_them_however_confident_it_is(
    classes: int, accuracy: float, sharpness: float, recall: float
) -> None:
    _, precision, found, findable = simulate(classes=classes, accuracy=accuracy, wrong=0.02, sharpness=sharpness)
    assert precision > 0.7
    assert found > recall
    assert findable == pytest.approx(found, abs=0.15)


def test_the_true_class_is_suggested() -> None:
    probabilities, true, _ = draw_answers(np.random.default_rng(1), classes=3, accuracy=0.99, wrong=0.0)
    surest = np.argsort(-probabilities[np.arange(len(true)), true])[:6]
    labels = true.copy()
    labels[surest] = (true[surest] + 1) % 3
    doubts = doubt_labels(probabilities, labels)
    assert set(surest) <= set(np.flatnonzero(doubts.suspect))
    assert (doubts.suggested[surest] == true[surest]).all()


def test_a_model_that_is_always_equally_sure_tells_no_wrong_label_from_its_own_mistakes() -> None:
    labels = np.arange(300) % 2
    probabilities = np.eye(2)[labels] * 0.998 + 0.001
    labels[:6] = 1 - labels[:6]
    assert not doubt_labels(probabilities, labels).suspect.any()


def test_a_class_that_the_model_does_not_know_is_not_held_against_its_labels() -> None:
    probabilities, labels, _ = draw_answers(np.random.default_rng(2), classes=2, accuracy=0.975, wrong=0.0)
    probabilities = np.concatenate([probabilities, np.zeros((len(labels), 1))], axis=1)
    labels[:10] = 2
    assert not doubt_labels(probabilities, labels).suspect.any()


def test_no_images_one_class_and_shapes_that_do_not_fit() -> None:
    assert len(doubt_labels(np.zeros((0, 2)), np.zeros(0, int)).suspect) == 0
    assert not doubt_labels(np.ones((3, 1)), np.zeros(3, int)).suspect.any()
    assert np.isfinite(doubt_labels(np.full((2, 2), 0.5), np.array([0, 1])).wrong).all()
    with pytest.raises(ValueError, match="needs"):
        doubt_labels(np.ones((3, 2)), np.zeros(2, int))
