"""Whether a model is as sure as it is right; arrays in, numbers out."""

import numpy as np

BINS = 15


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Returns the expected calibration error: how far, on average, the confidence of an answer is from how often it is right.

    The answers are sorted by confidence and divided into bins of equally many; each bin's mean confidence is set against its
    share of right answers. It is never exactly 0, for chance in small bins looks like an error: with 800 images and 15 bins, a
    perfectly calibrated model shows 0.01 to 0.04 (simulated; less where it is surer).

    Args:
        probabilities: float (N, C) in [0, 1], rows sum to 1.
        labels: int (N,) in [0, C).
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
