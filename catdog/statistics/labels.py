"""Which labels are probably wrong, by a model's probabilities for images that it was not trained on; arrays in, numbers out.

A model that contradicts a label may be wrong itself. A weak model contradicts many, so its contradictions say little. This module
weighs both explanations, and suspects a label only where it is more likely wrong than right.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

# A label is suspect from this probability of being wrong.
SUSPECT = 0.5
# Before any image is seen: the probability that no label is wrong, and the mean fraction of wrong ones otherwise. Northcutt,
# Athalye and Mueller (2021), "Pervasive label errors in test sets destabilize machine learning benchmarks", NeurIPS, estimate
# 3.3% over ten well-known test sets.
NONE_WRONG, USUALLY_WRONG = 0.5, 0.033
# The fraction of wrong labels for which `Doubts.findable` is stated.
PLANNED = 0.02
FRACTIONS = np.geomspace(2e-4, 0.4, 32)
# Logarithms of the exponent that corrects over- or underconfidence; first roughly, then finely around the best.
EXPONENTS, REFINED = np.linspace(-3.0, 2.0, 41), np.linspace(-0.25, 0.25, 41)
# Probabilities are float32; a smaller one is rounded to 0.
SMALLEST = 1e-30


@dataclass(frozen=True, eq=False)
class Doubts:
    """How probable it is that each label is wrong.

    Attributes:
        wrong: probability that the label is wrong, float64 (N,) in [0, 1]; 0 where the model does not know the label's class.
        suggested: the most probable of the other classes, int64 (N,).
        findable: if 2% of the labels were wrong at random, this fraction of them would be suspect, in [0, 1].
    """

    wrong: np.ndarray
    suggested: np.ndarray
    findable: float

    @property
    def suspect(self) -> np.ndarray:
        """Whether the label is more likely wrong than right: bool (N,)."""
        return self.wrong >= SUSPECT


def doubt_labels(probabilities: np.ndarray, labels: np.ndarray) -> Doubts:
    """Returns how probable it is that each label is wrong.

    An image's true class is taken to be drawn from the model's probabilities, raised to an exponent and normalized, which corrects
    over- or underconfidence (temperature scaling). Its label is the true class or, in an unknown fraction of the images, any other
    class. So the model's mistakes become rare as it becomes surer; wrong labels do not, because they do not depend on how sure the
    model is. The exponent has a flat prior. The fraction is 0 with probability 0.5; otherwise it has an exponential prior of mean
    3.3%. The result is averaged over both, so nothing is suspect where the model's own mistakes explain what contradicts it: with
    a weak model, hardly ever anything is.

    The thresholds of confident learning alone, which this replaces, know no such limit: with a calibrated model of two classes and
    an accuracy of 0.7 they suspect 143 of 800 right labels. `benchmarks/labels.py` simulates both; benchmarks/statistics.md has
    the figures.

    It cannot tell a wrong label from an image that the model misjudges as surely as it judges the usual ones, such as an image of
    neither class. Wrong labels that follow a rule which the model has learnt are not found.

    Args:
        probabilities: float (N, C) in [0, 1], of images that the model was not trained on.
        labels: int (N,) in [0, C).

    Raises:
        ValueError: the shapes do not fit.

    Source: wrong labels that depend only on the class, judged by out-of-sample probabilities: Northcutt, Jiang and Chuang (2021),
    "Confident learning: estimating uncertainty in dataset labels", Journal of Artificial Intelligence Research 70:1373-1411. Their
    likelihood: Patrini et al. (2017), "Making deep neural networks robust to label noise", CVPR. Temperature scaling: Guo et al.
    (2017), "On calibration of modern neural networks", ICML.
    """
    probabilities, labels = np.asarray(probabilities, dtype=float), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(f"needs (N, C) probabilities and N labels, got {probabilities.shape} and {labels.shape}")
    images, classes = probabilities.shape
    if not images or classes < 2:
        return Doubts(np.zeros(images), np.zeros(images, np.int64), 0.0)
    rows = np.arange(images)
    others = probabilities.copy()
    others[rows, labels] = -1.0
    known = probabilities.max(axis=0)[labels] > 0
    wrong = np.zeros(images)
    logs = np.log(np.clip(probabilities, SMALLEST, 1.0))
    wrong[known], exponent = _average(logs[known], labels[known])
    return Doubts(wrong, others.argmax(axis=1), _find_planned(logs, exponent))


def _average(logs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the probability that each label is wrong, averaged over fraction and exponent, and the best log exponent."""
    if not len(labels):
        return np.zeros(0), 0.0
    rough = np.array([_likelihood(_of_label(logs, labels, exponent), logs.shape[1]) for exponent in EXPONENTS])
    # With wrong labels and without, different exponents are best.
    best = {float(EXPONENTS[rough.argmax(axis=0)[column]]) for column in (0, int(rough.max(axis=0).argmax()))}
    exponents = np.unique(np.round(np.concatenate([REFINED + middle for middle in best]), 6))
    fine = np.array([_likelihood(_of_label(logs, labels, exponent), logs.shape[1]) for exponent in exponents])
    # The points are evenly spaced in the logarithm of the fraction, so each stands for a width in proportion to it.
    prior = FRACTIONS * np.exp(-FRACTIONS / USUALLY_WRONG)
    prior = np.concatenate([[NONE_WRONG], (1 - NONE_WRONG) * prior / prior.sum()])
    weights = np.exp(fine - fine.max()) * prior
    weights /= weights.sum()
    wrong = np.zeros(len(labels))
    # What weighs nothing need not be computed.
    for place in np.flatnonzero(weights[:, 1:].max(axis=1) > 1e-5):
        of_label = _of_label(logs, labels, exponents[place])
        for column in np.flatnonzero(weights[place, 1:] > 1e-5):
            wrong += weights[place, 1 + column] * _wrong_given(of_label, logs.shape[1], FRACTIONS[column])
    return wrong, float(exponents[weights.sum(axis=1).argmax()])


def _of_label(logs: np.ndarray, labels: np.ndarray, exponent: float) -> np.ndarray:
    """Returns the corrected probability that the true class is that of the label: float64 (N,)."""
    scaled = np.exp(exponent) * logs
    return np.exp(scaled[np.arange(len(labels)), labels] - special.logsumexp(scaled, axis=1))


def _likelihood(of_label: np.ndarray, classes: int) -> np.ndarray:
    """Returns the log-likelihood of the labels without wrong ones, and for each of FRACTIONS: float64 (1 + F,)."""
    found = [np.log(np.maximum(of_label, SMALLEST)).sum()]
    found += [
        np.log((1 - fraction) * of_label + fraction / (classes - 1) * (1 - of_label)).sum() for fraction in FRACTIONS
    ]
    return np.array(found)


def _wrong_given(of_label: np.ndarray, classes: int, fraction: float) -> np.ndarray:
    """Returns the probability that each label is wrong, given the fraction of wrong labels: float64 (N,)."""
    mistaken = fraction / (classes - 1) * (1 - of_label)
    return mistaken / ((1 - fraction) * of_label + mistaken)


def _find_planned(logs: np.ndarray, exponent: float) -> float:
    """Returns which fraction of wrong labels would be suspect, in [0, 1], if 2% were wrong and that were known."""
    classes = logs.shape[1]
    scaled = special.softmax(np.exp(exponent) * logs, axis=1)
    found = _wrong_given(scaled, classes, PLANNED) >= SUSPECT
    # A wrong label is any class but the true one, which is drawn from the model's probabilities.
    return float(((1 - scaled) * found).sum() / (classes - 1) / len(logs))
