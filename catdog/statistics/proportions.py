"""Intervals of proportions, corrected p-values, confusion counts, precision and recall; arrays in, numbers out."""

from statistics import NormalDist
from typing import Any

import numpy as np

CONFIDENCE = 0.95
# A float, or an array of them.
Number = Any


def proportion_interval(fraction: Number, answers: Number, quantile: Number) -> tuple[Number, Number]:
    """The Wilson score interval of a proportion `fraction` of a number of independent answers.

    Unlike the textbook plus-minus interval, it stays inside [0, 1] and keeps its coverage near 0 and 1. This is the only
    implementation of an interval of a proportion. `wilson_interval` passes the number of independent images;
    `contrasts.accuracy_interval` and `measure_calibration` pass the effective sample size of their dependent answers.

    Args:
        fraction: in [0, 1]; a float or an array, like the other arguments.
        answers: more than 0, not necessarily whole.
        quantile: of the normal or Student's distribution, such as 1.96 for 95%.

    Returns:
        Lower and upper bound in [0, 1].

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22:209-212;
    recommended over the others by Brown, Cai and DasGupta (2001), Statistical Science 16:101-133.
    """
    centre = (fraction + quantile**2 / (2 * answers)) / (1 + quantile**2 / answers)
    spread = fraction * (1 - fraction) / answers
    half = quantile / (1 + quantile**2 / answers) * np.sqrt(spread + quantile**2 / (4 * answers**2))
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """The 95% Wilson score interval of the accuracy `correct / total`.

    It covers the sampling of images only, not the noise of the training seed.

    Args:
        correct: right answers, 0 <= correct <= total.
        total: answers, at least 1.

    Returns:
        Lower and upper bound, fractions in [0, 1].

    Raises:
        ValueError: the counts are out of range.

    Source: as for `proportion_interval`.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"needs 0 <= correct <= total and total >= 1, got correct={correct}, total={total}")
    # Not SciPy's binomtest: it tests a hypothesis first, which takes a hundred times as long.
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    low, high = proportion_interval(correct / total, total, z)
    return float(low), float(high)


def correct_by_holm(p: np.ndarray) -> np.ndarray:
    """P-values of several hypotheses, corrected for their number: those below 0.05 are significant at a family-wise error of 5%.

    Args:
        p: float (N,) in [0, 1].

    Returns:
        float64 (N,), in the same order, at least `p` and at most 1.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6:65-70.
    """
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)))
    return corrected


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix: how many images of each class were predicted as each class.

    Args:
        labels: int (N,) in [0, classes), the true classes.
        predicted: int (N,) in [0, classes).
        classes: number of classes C.

    Returns:
        int64 (C, C), rows are the true class, columns the predicted one; sums to N.

    Raises:
        ValueError: if the lengths differ or a value is outside [0, classes).
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.shape != predicted.shape or labels.ndim != 1:
        raise ValueError(f"labels and predicted must be (N,) alike, got {labels.shape} and {predicted.shape}")
    counts = np.zeros((classes, classes), dtype=np.int64)
    if labels.size == 0:
        return counts
    # Without this check, a label of -1 (a class name that was not found) would count for the last class.
    lowest, highest = min(labels.min(), predicted.min()), max(labels.max(), predicted.max())
    if lowest < 0 or highest >= classes:
        raise ValueError(f"class indices must be in [0, {classes}), got values from {lowest} to {highest}")
    np.add.at(counts, (labels, predicted), 1)
    return counts


def precision_and_recall(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per class: the fraction of its predictions that are right, and the fraction of its images that are found.

    Args:
        counts: int (C, C), rows are the true class, as `confusion_counts` returns.

    Returns:
        precision float64 (C,) and recall float64 (C,), in [0, 1]; NaN for a class that was never predicted (precision)
        or has no image (recall), because 0 would be a claim about images that do not exist.
    """
    right = np.diag(counts).astype(float)
    predicted, present = counts.sum(axis=0), counts.sum(axis=1)
    undefined = np.full(len(counts), np.nan)
    precision = np.divide(right, predicted, out=undefined.copy(), where=predicted > 0)
    recall = np.divide(right, present, out=undefined.copy(), where=present > 0)
    return precision, recall
