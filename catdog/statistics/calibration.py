"""Whether a model's probabilities mean what they say; arrays in, numbers out.

A model is calibrated if of the answers that it gives with probability 0.8, eight in ten are right. What is judged here is the
probability of the predicted class, its confidence. Where a variant has several seeds, their answers are judged together: what
the confidence of a run with any seed is worth.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from catdog.statistics.proportions import CONFIDENCE, proportion_interval

BINS = 15
# In a bin of fewer images the noise of its accuracy says more than the bin.
IMAGES_PER_BIN = 10
DRAWS = 1000
# Beyond this factor of what is seen, no truth could have hidden in the noise.
SCALES = np.linspace(0.0, 2.0, 81)


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far confidence and accuracy lie apart.

    Attributes:
        error: the expected calibration error in [0, 1], freed of what noise adds: 0 where the gaps are no larger than noise.
        low: lower bound of its 95% interval; 0 where the model may be calibrated.
        high: upper bound.
        confidence: mean confidence of each bin, float64 (K,), rising.
        accuracy: fraction of right answers in each bin, float64 (K,).
        accuracy_low: lower bounds of its 95% intervals, float64 (K,).
        accuracy_high: upper bounds.
        answers: answers in each bin, int64 (K,).
        overconfidence: mean confidence less accuracy over all answers: positive where the model promises too much.
    """

    error: float
    low: float
    high: float
    confidence: np.ndarray
    accuracy: np.ndarray
    accuracy_low: np.ndarray
    accuracy_high: np.ndarray
    answers: np.ndarray
    overconfidence: float


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Returns the expected calibration error: how far, on average, the confidence of an answer is from how often it is right.

    The answers are sorted by confidence and divided into bins of equally many; each bin's mean confidence is set against its
    share of right answers. It is never exactly 0, for chance in small bins looks like an error: with 800 images and 15 bins, a
    perfectly calibrated model shows 0.01 to 0.04 (simulated; less where it is surer). That is the same for two models that are
    compared; for a number that stands alone, `measure_calibration` takes it off.

    Args:
        probabilities: float (N, C) in [0, 1], rows sum to 1.
        labels: int (N,) in [0, C); any other value is a class that the model does not know, so its answer is wrong.
        bins: at most this many, at least 1.

    Returns:
        In [0, 1].

    Raises:
        ValueError: there are no answers, or the lengths differ.

    Source: Naeini, Cooper and Hauskrecht (2015), "Obtaining well calibrated probabilities using Bayesian binning", AAAI; equal
    counts as in Nixon et al. (2019), "Measuring calibration in deep learning", CVPR workshops.
    """
    probabilities, labels = np.asarray(probabilities, dtype=float), np.asarray(labels)
    if probabilities.ndim != 2 or not len(labels) or len(labels) != len(probabilities):
        raise ValueError(f"needs (N, C) probabilities and N labels, got {probabilities.shape} and {labels.shape}")
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    # By quantiles, not by rank: equally confident answers belong together, in whatever order they come.
    edges = np.quantile(confidence, np.arange(1, bins) / bins)
    part = np.searchsorted(edges, confidence, side="right")
    return float(np.abs(np.bincount(part, confidence) - np.bincount(part, right)).sum() / len(labels))


def measure_calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Calibration:
    """Returns the calibration error with its interval, and the bins of a reliability diagram.

    The error is the mean gap between confidence and accuracy over bins of equal numbers of answers. Taken as it is, it is too
    large: of a perfectly calibrated model noise alone leaves 0.02 to 0.05 with 800 images, and any bootstrap of it adds the
    noise once more. So the noise of the gaps is estimated, and the test is turned round: an error is in the interval if a
    model with gaps of this shape and that size would not, but in 5% of studies, show what was seen; the estimate is the size
    that would show more as often as less. In simulated studies of 200 to 800 images and 1 to 5 seeds the interval holds the
    truth in 85 to 100%, mostly in 92 to 97% (`tests/test_calibration.py`).

    Assumes independent images, and seeds that are independent draws. Bins see no gap that changes its sign inside one of them.

    Args:
        probabilities: float (N, C) in [0, 1], or (S, N, C) for S seeds of one variant.
        labels: int (N,) in [0, C).
        bins: at most so many bins, of at least 10 images each; equal confidences share a bin.

    Raises:
        ValueError: the shapes do not fit, there are fewer than two images, or a value is out of its range.

    Source: Naeini, Cooper and Hauskrecht (2015), AAAI, and Guo et al. (2017), ICML, for the error; Nixon et al. (2019), "Measuring
    calibration in deep learning", for bins of equal mass; Kumar, Liang and Ma (2019), "Verified uncertainty calibration",
    NeurIPS, for its bias.
    """
    confidences, right = _check(probabilities, labels, bins)
    images = len(labels)
    member = _bins(confidences, min(bins, max(1, images // IMAGES_PER_BIN)))
    answers = member.sum(axis=(0, 1))
    confidence = np.einsum("sik,si->k", member, confidences) / answers
    accuracy = np.einsum("sik,si->k", member, right) / answers
    gaps, weights = accuracy - confidence, answers / answers.sum()
    noise = _covariance(member * (right - confidences)[..., None] - member * gaps)
    # A bin in which all are right shows no noise, and yet has some: that of a truth halfway between accuracy and confidence.
    middle = (accuracy + confidence) / 2
    noise += np.diag(np.maximum(middle * (1 - middle) * answers - np.diagonal(noise), 0))
    noise /= np.outer(answers, answers)
    error, low, high = _invert(gaps, weights, noise)
    variance = np.diagonal(_covariance(member * (right[..., None] - accuracy))) / answers**2
    independent = _count_independent(accuracy, variance, (member.sum(axis=0) > 0).sum(axis=0))
    accuracy_low, accuracy_high = proportion_interval(accuracy, independent, special.ndtri(0.5 + CONFIDENCE / 2))
    return Calibration(
        error, low, high, confidence, accuracy, accuracy_low, accuracy_high, answers.astype(np.int64),
        float(confidences.mean() - right.mean()),
    )  # fmt: skip


def _check(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns confidence, float64 (S, N), and whether the answer is right, float64 (S, N)."""
    probabilities, labels = np.asarray(probabilities, dtype=float), np.asarray(labels)
    if probabilities.ndim == 2:
        probabilities = probabilities[None]
    if probabilities.ndim != 3 or labels.shape != probabilities.shape[1:2] or len(labels) < 2 or bins < 1:
        raise ValueError(
            "needs probabilities (N, C) or (S, N, C), labels (N,) with N >= 2, and bins >= 1, got "
            f"{probabilities.shape}, {labels.shape} and {bins}"
        )
    # A sum in float32, or of probabilities read from a file, may exceed 1 by a rounding.
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-5)).all():
        raise ValueError("probabilities must be in [0, 1]; are these logits?")
    if labels.min() < 0 or labels.max() >= probabilities.shape[-1]:
        raise ValueError(
            f"labels must be in [0, {probabilities.shape[-1]}), got values from {labels.min()} to {labels.max()}"
        )
    right = probabilities.argmax(axis=-1) == labels
    return np.minimum(probabilities.max(axis=-1), 1.0), right.astype(float)


def _bins(confidences: np.ndarray, bins: int) -> np.ndarray:
    """Returns which answer is in which bin, float32 (S, N, K): equal numbers of answers in each, equal confidences together."""
    edges = np.quantile(confidences, np.arange(1, bins) / bins, method="inverted_cdf")
    place = np.searchsorted(np.unique(edges), confidences, side="left")
    return (place[..., None] == np.unique(place)).astype(np.float32)


def _covariance(residuals: np.ndarray) -> np.ndarray:
    """Returns the covariance of the sums of residuals over seeds and images, float64 (K, K).

    An image's answers of all seeds move together, so images are what is drawn; what seeds move together is added, less the
    noise of single answers, which is in the images' part already.

    Args:
        residuals: float (S, N, K), each bin's sum to 0.
    """
    seeds, images, _ = residuals.shape
    by_image = residuals.sum(axis=0, dtype=float)
    found = by_image.T @ by_image * (images / (images - 1))
    if seeds > 1:
        by_seed = residuals.sum(axis=1, dtype=float)
        variance = (by_seed**2).sum(axis=0) * seeds / (seeds - 1)
        single = residuals - by_image / seeds - by_seed[:, None] / images
        noise = (single**2).sum(axis=(0, 1)) * seeds / (seeds - 1)
        kept = np.sqrt(np.clip(1 - noise / np.maximum(variance, 1e-12), 0, 1))
        found += (by_seed * kept).T @ (by_seed * kept) * (seeds / (seeds - 1))
    return found


def _invert(gaps: np.ndarray, weights: np.ndarray, noise: np.ndarray) -> tuple[float, float, float]:
    """Returns the error, and its interval, that gaps of this shape must have for the noise to leave what is seen.

    The noise is drawn from a normal distribution with a seed of its own: the same data, the same answer.
    """
    variances, directions = np.linalg.eigh(noise)
    drawn = np.random.default_rng(0).normal(size=(DRAWS // 2, len(gaps)))
    # Each draw and its mirror image: half the draws for the same precision.
    errors = np.concatenate([drawn, -drawn]) * np.sqrt(np.maximum(variances, 0)) @ directions.T
    seen = float(weights @ np.abs(gaps))
    shown = np.stack([np.abs(scale * gaps + errors) @ weights for scale in SCALES])
    levels = [0.5, 0.5 + CONFIDENCE / 2, 0.5 - CONFIDENCE / 2]
    rows = np.maximum.accumulate(np.quantile(shown, levels, axis=1), axis=1)
    error, low, high = (0.0 if row[0] >= seen else float(np.interp(seen, row, SCALES)) * seen for row in rows)
    return error, low, min(1.0, high)


def _count_independent(fraction: np.ndarray, variance: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Returns how many independent answers would have this variance: float64 (K,).

    Source: as of `catdog.statistics.contrasts.accuracy_interval`.
    """
    spread = fraction * (1 - fraction)
    # All right or all wrong: no spread to see, so each image counts once.
    return np.where(variance > 0, spread / np.where(variance > 0, variance, 1), images)
