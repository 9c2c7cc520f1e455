from itertools import combinations

import numpy as np
import pytest

from catdog.statistics.contrasts import accuracy_interval
from catdog.statistics.proportions import (
    confusion_counts,
    correct_by_holm,
    precision_and_recall,
    proportion_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17:857-872, table I, method 3 (Wilson without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_gives_the_published_values(correct, total, low, high):
    assert wilson_interval(correct, total) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_interval_of_all_right_stays_inside_one_and_is_no_point():
    low, high = wilson_interval(50, 50)
    assert high == 1.0
    assert low == pytest.approx(0.9287, abs=5e-5)


@pytest.mark.parametrize(("correct", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_interval_refuses_what_is_no_count(correct, total):
    with pytest.raises(ValueError, match=f"correct={correct}, total={total}"):
        wilson_interval(correct, total)


def test_confusion_counts_has_true_classes_in_rows():
    counts = confusion_counts(np.array([0, 0, 0, 1, 2]), np.array([0, 1, 1, 1, 0]), 4)
    assert counts.tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert counts.dtype == np.int64


def test_confusion_counts_of_nothing_is_zero():
    assert confusion_counts(np.array([], dtype=int), np.array([], dtype=int), 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("labels", "predicted", "words"),
    [([0, -1], [0, 0], "-1"), ([0, 1], [0, 2], "2"), ([0, 1], [0], r"\(2,\) and \(1,\)")],
)
def test_confusion_counts_refuses_unknown_classes_and_lengths(labels, predicted, words):
    with pytest.raises(ValueError, match=words):
        confusion_counts(np.array(labels), np.array(predicted), 2)


def test_precision_and_recall_are_undefined_without_images():
    precision, recall = precision_and_recall(np.array([[8, 2, 0], [4, 6, 0], [0, 0, 0]]))
    assert precision[:2] == pytest.approx([8 / 12, 6 / 8])
    assert recall[:2] == pytest.approx([0.8, 0.6])
    assert np.isnan(precision[2])
    assert np.isnan(recall[2])


def test_holm_rejects_what_closed_testing_with_bonferroni_rejects():
    # What Holm's method is, by its definition: a hypothesis falls if every set of hypotheses that holds it does.
    generator = np.random.default_rng(0)
    for _ in range(50):
        p = generator.beta(0.3, 1, 5).round(3)
        sets = [chosen for size in range(1, 6) for chosen in combinations(range(5), size)]
        closed = [
            max(min(1, len(chosen) * p[list(chosen)].min()) for chosen in sets if hypothesis in chosen)
            for hypothesis in range(5)
        ]
        assert correct_by_holm(p) == pytest.approx(closed)


def test_one_interval_for_counts_and_for_fractions_of_dependent_answers():
    right = np.random.default_rng(0).random((1, 200)) < 0.8
    low, high = accuracy_interval(right)
    # With one seed and independent images the answers are worth about as many as there are; the quantile is Student's.
    assert (low, high) == pytest.approx(wilson_interval(int(right.sum()), 200), abs=0.002)
    lows, highs = proportion_interval(np.array([0.0, 0.5, 1.0]), np.array([20, 20, 20.5]), 1.96)
    assert lows[0] == 0
    assert highs[2] == pytest.approx(1)
    assert highs.max() <= 1
    assert (lows[1], highs[1]) == pytest.approx(wilson_interval(10, 20), abs=1e-4)
