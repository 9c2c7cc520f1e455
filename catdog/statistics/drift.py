"""Whether new images differ from those that a model was validated on, and what its accuracy on them may be; arrays in, numbers out.

No labels of the new images are needed. What can be said without them rests on the model's confidence, the probability that it gives
its answer: see `estimate_accuracy` for what that assumes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from catdog.statistics.failures import superiority_interval
from catdog.statistics.proportions import CONFIDENCE, proportion_interval, wilson_interval

# With fewer images on either side nothing is said.
FEWEST_IMAGES = 30
# With fewer wrong validation answers, the threshold is not determined, and the interval is at least as wide as Wilson's.
FEW_WRONG = 5
DRAWS = 1000
# An effect (see `Shift.effect`) below these is slight, moderate; others are strong.
# Source: Romano et al. (2006), "Appropriate statistics for ordinal level data", Florida Association of Institutional Research.
SLIGHT, MODERATE = 0.147, 0.474
# A label is drawn from each of so many layers of confidence. The first layers get more labels, but none gets fewer than a model
# would need that is wrong on 5% of its images.
LAYERS, LEAST_SPREAD = 5, 0.05 * 0.95


@dataclass(frozen=True)
class Shift:
    """How the values of new images differ from those of the former ones.

    Attributes:
        former: 5th percentile, median and 95th percentile of the former values.
        new: the same of the new ones.
        distance: the Kolmogorov-Smirnov statistic, the largest difference of the two distribution functions, in [0, 1].
        p: the probability of such a distance if both come from one distribution, not corrected for the number of comparisons.
        effect: Cliff's delta in [-1, 1]: how much more often a new value is larger than a former one than the reverse. 0 if
            only the spread differs.
        low: lower bound of its 95% interval.
        high: upper bound.
    """

    former: tuple[float, float, float]
    new: tuple[float, float, float]
    distance: float
    p: float
    effect: float
    low: float
    high: float


def compare_values(former: np.ndarray, new: np.ndarray) -> Shift:
    """Returns how new values differ from former ones.

    Args:
        former: float (N,), N at least 1, of independent images.
        new: float (M,), M at least 1.

    Source: Smirnov (1948), Annals of Mathematical Statistics 19:279-281, for the test, with its asymptotic p-value, which is too
    large where values are tied; Cliff (1993), "Dominance statistics: ordinal analyses to answer ordinal questions", Psychological
    Bulletin 114:494-509, for the effect; Newcombe (2006), as for `failures.probability_of_beating`, for its interval.
    """
    former, new = np.sort(np.asarray(former, dtype=float)), np.sort(np.asarray(new, dtype=float))
    values = np.concatenate([former, new])
    shares = [np.searchsorted(side, values, side="right") / len(side) for side in (former, new)]
    distance = float(np.abs(shares[0] - shares[1]).max())
    independent = len(former) * len(new) / (len(former) + len(new))
    p = float(special.kolmogorov(np.sqrt(independent) * distance))
    below = np.searchsorted(former, new, side="left").mean() / len(former)
    not_above = np.searchsorted(former, new, side="right").mean() / len(former)
    share = float(below + not_above) / 2
    low, high = superiority_interval(share, len(new), len(former))
    return Shift(
        _percentiles(former), _percentiles(new), distance, p, 2 * share - 1, 2 * float(low) - 1, 2 * float(high) - 1
    )


def _percentiles(values: np.ndarray) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [5, 50, 95])
    return float(low), float(middle), float(high)


@dataclass(frozen=True, eq=False)
class MixShift:
    """How the shares of answers differ.

    Attributes:
        former: shares of each class among the former answers, float64 (C,).
        new: the same among the new ones.
        low: lower bounds of new less former, which hold in 95% for all classes together, float64 (C,).
        high: upper bounds.
        distance: total variation distance, half of the sum of the absolute differences, in [0, 1].
        p: the probability of such counts if both come from one mix, not corrected for the number of comparisons.
    """

    former: np.ndarray
    new: np.ndarray
    low: np.ndarray
    high: np.ndarray
    distance: float
    p: float


def compare_mixes(former: np.ndarray, new: np.ndarray) -> MixShift:
    """Returns how the classes' shares differ.

    Args:
        former: int (C,), how often each class was answered before; its sum is at least 1.
        new: int (C,), the same for the new images.

    Source: Pearson's chi-squared test of homogeneity, over the classes that were answered at all, by permutation where counts of
    less than 5 are expected; Newcombe (1998), "Interval estimation for the difference between independent proportions",
    Statistics in Medicine 17:873-890, method 10, with Bonferroni's correction, for the intervals.
    """
    former, new = np.asarray(former, dtype=np.int64), np.asarray(new, dtype=np.int64)
    totals = former.sum(), new.sum()
    a, b = former / totals[0], new / totals[1]
    quantile = special.ndtri(1 - (1 - CONFIDENCE) / 2 / len(former))
    a_low, a_high = proportion_interval(a, totals[0], quantile)
    b_low, b_high = proportion_interval(b, totals[1], quantile)
    difference = b - a
    low = difference - np.sqrt((b - b_low) ** 2 + (a_high - a) ** 2)
    high = difference + np.sqrt((b_high - b) ** 2 + (a - a_low) ** 2)
    return MixShift(a, b, low, high, float(np.abs(difference).sum() / 2), _test_homogeneity(former, new))


def _test_homogeneity(former: np.ndarray, new: np.ndarray) -> float:
    counts = np.stack([former, new])[:, (former + new) > 0]
    if counts.shape[1] < 2:
        return 1.0
    rows, columns = counts.sum(axis=1), counts.sum(axis=0)
    expected = np.outer(rows, columns) / counts.sum()
    seen = ((counts - expected) ** 2 / expected).sum()
    if expected.min() >= 5:
        return float(special.chdtrc(counts.shape[1] - 1, seen))
    # Of all ways to divide the answers into two parts of these sizes.
    drawn = np.random.default_rng(0).multivariate_hypergeometric(columns, rows[1], size=DRAWS)
    each = ((drawn - expected[1]) ** 2 / expected[1]).sum(axis=1) + ((drawn - expected[1]) ** 2 / expected[0]).sum(
        axis=1
    )
    return float((1 + (each >= seen * (1 - 1e-9)).sum()) / (DRAWS + 1))


@dataclass(frozen=True)
class ExpectedAccuracy:
    """What a model's accuracy on new images may be, by its confidence.

    Attributes:
        validation: its accuracy on the validation images, in [0, 1].
        estimate: the expected share of right answers on the new images, in [0, 1].
        low: lower bound of the interval that is to hold the share that their labels would show, in 95%.
        high: upper bound.
        change: estimate less validation.
        change_low: lower bound of the 95% interval of the change that images of this kind bring, without the chance of which
            images were taken.
        change_high: upper bound.
        by_confidence: the estimate by the difference of confidences, in [0, 1].
        by_regression: the estimate by a regression of being right on confidence, in [0, 1].
        wrong: how many validation answers were wrong: what the estimate is calibrated on.
    """

    validation: float
    estimate: float
    low: float
    high: float
    change: float
    change_low: float
    change_high: float
    by_confidence: float
    by_regression: float
    wrong: int

    @property
    def methods(self) -> tuple[float, float, float]:
        """The estimates of all three methods: by threshold, by difference, by regression."""
        return self.estimate, self.by_confidence, self.by_regression

    @property
    def disagreement(self) -> float:
        """The largest difference between the methods, in [0, 1]."""
        return max(self.methods) - min(self.methods)


def estimate_by_threshold(confidence: np.ndarray, right: np.ndarray, new: np.ndarray) -> float:
    """Returns the average thresholded confidence: the share of new images above a threshold, in [0, 1].

    As many validation images lie below the threshold as were answered wrong. Of images that lie on it, a share counts.

    Args:
        confidence: float (N,) in [0, 1], of the validation images.
        right: bool (N,), whether they were answered right.
        new: float (M,) in [0, 1], of the new images.

    Source: Garg et al. (2022), "Leveraging unlabeled data to predict out-of-distribution performance", ICLR, with the maximal
    confidence as the score.
    """
    wrong = len(right) - int(np.sum(right))
    if wrong == len(right):
        return 0.0
    threshold = np.partition(confidence, wrong)[wrong]
    below, equal = int((confidence < threshold).sum()), int((confidence == threshold).sum())
    share = (below + equal - wrong) / equal
    return float(((new > threshold).sum() + share * (new == threshold).sum()) / len(new))


def estimate_by_difference(confidence: np.ndarray, right: np.ndarray, new: np.ndarray) -> float:
    """Returns the validation accuracy less the difference of mean confidences, in [0, 1]; arguments as there.

    Source: Guillory et al. (2021), "Predicting with confidence on unseen distributions", ICCV.
    """
    return float(np.clip(right.mean() - (confidence.mean() - new.mean()), 0, 1))


def estimate_accuracy(
    confidence: np.ndarray, right: np.ndarray, new: np.ndarray, groups: np.ndarray | None = None, draws: int = DRAWS
) -> ExpectedAccuracy:
    """Returns what the accuracy on new images may be, by `estimate_by_threshold`, with bootstrap intervals.

    It assumes that an answer given with the same confidence is as often right on the new images as on the validation images. So it
    sees neither classes that the model does not know and answers confidently, nor a change in how frequent classes are, if one is
    harder than another, nor any other way to be confidently wrong.

    Each draw takes validation images and new images with replacement, sets the threshold anew, and draws for each new image whether
    it is right, with the probability that validation answers of that confidence have (`fit_chances`).

    With few wrong answers, the threshold lies among the lowest confidences, and nearly any image is above it; on images of another
    kind, none may be. The methods then disagree, and nobody knows which one is right: both intervals contain all three estimates.

    Args:
        confidence: float (N,) in [0, 1], the probability of the answer to each validation image.
        right: bool (N,), whether that answer is right.
        new: float (M,) in [0, 1], the same as `confidence` for the new images, which are independent.
        groups: int (N,), the same number for validation images that belong together; None: each stands for itself.
        draws: of the bootstrap, from a fixed seed.
    """
    confidence, right = np.asarray(confidence, dtype=float), np.asarray(right, dtype=bool)
    new = np.asarray(new, dtype=float)
    generator = np.random.default_rng(0)
    chances = fit_chances(confidence, right, new)
    estimate, validation = estimate_by_threshold(confidence, right, new), float(right.mean())
    members = None if groups is None else _list_members(groups)
    count = len(right) if members is None else len(members)
    errors, changes = np.empty(draws), np.empty(draws)
    for draw in range(draws):
        chosen = generator.integers(count, size=count)
        if members is not None:
            chosen = np.concatenate([members[place] for place in chosen])
        taken = generator.integers(len(new), size=len(new))
        drawn = estimate_by_threshold(confidence[chosen], right[chosen], new[taken])
        errors[draw] = drawn - (generator.random(len(new)) < chances[taken]).mean()
        changes[draw] = drawn - right[chosen].mean()
    # The threshold and the regression may disagree on the new images; only the spread of the errors counts.
    errors -= estimate - chances.mean()
    low, high = estimate + np.quantile(errors, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    change_low, change_high = np.quantile(changes, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    wrong = int((~right).sum())
    if min(wrong, (1 - estimate) * len(new)) < FEW_WRONG:
        # As many independent images as say as much as those of both sides.
        many = max(1, round(1 / (1 / count + 1 / len(new))))
        least, most = wilson_interval(round(estimate * many), many)
        low, high = min(low, least), max(high, most)
        change_low, change_high = min(change_low, least - validation), max(change_high, most - validation)
    methods = estimate, estimate_by_difference(confidence, right, new), float(chances.mean())
    low, high = min(low, *methods), max(high, *methods)
    change_low, change_high = min(change_low, min(methods) - validation), max(change_high, max(methods) - validation)
    return ExpectedAccuracy(
        validation, estimate, float(max(low, 0)), float(min(high, 1)), estimate - validation, float(change_low),
        float(change_high), *methods[1:], wrong,
    )  # fmt: skip


def fit_chances(confidence: np.ndarray, right: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Returns how often answers of each new confidence are right, by a logistic regression on its log-odds: float64 (M,) in (0, 1).

    Args:
        confidence: float (N,), of the validation images.
        right: bool (N,), whether they were answered right.
        new: float (M,), of the new images.

    Source: Platt (1999), "Probabilistic outputs for support vector machines", with his targets, which keep the regression finite
    where no answer, or every answer, is wrong. Never falling: more confident is not less often right.
    """
    scores, wanted = _log_odds(confidence), np.asarray(right, dtype=bool)
    count, hits = len(wanted), int(wanted.sum())
    targets = np.where(wanted, (hits + 1) / (hits + 2), 1 / (count - hits + 2))
    centre, spread = scores.mean(), max(float(scores.std()), 1e-6)
    scaled = (scores - centre) / spread

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = weights[0] + weights[1] * scaled
        excess = special.expit(logits) - targets
        return float((np.logaddexp(0, logits) - targets * logits).sum()), np.array([excess.sum(), excess @ scaled])

    start = np.array([special.logit(targets.mean()), 0.0])
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(None, None), (0, None)]).x
    return special.expit(found[0] + found[1] * (_log_odds(new) - centre) / spread)


def _log_odds(confidence: np.ndarray) -> np.ndarray:
    # A float32 probability comes no closer to 1 than this without being 1.
    return special.logit(np.clip(np.asarray(confidence, dtype=float), 6e-8, 1 - 6e-8))


def _list_members(groups: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(np.asarray(groups)[order])) + 1)


@dataclass(frozen=True, eq=False)
class LabelPlan:
    """In which order to label images.

    Attributes:
        order: int64 (M,), positions of the images, those to label first in front.
        layers: int64 (M,), the layer of each image, by confidence; 0 has the lowest.
    """

    order: np.ndarray
    layers: np.ndarray


def plan_labels(confidence: np.ndarray, chances: np.ndarray, lots: np.ndarray) -> LabelPlan:
    """Returns an order in which labels tell most about the accuracy: more of those images on which the answer is in doubt.

    Images are divided by confidence into layers of equal size. Within a layer the order is random, so the first ones of any number
    of labels are a random sample of each layer, and the accuracy is estimated without bias: the mean over the layers, weighted by
    their sizes, of the share that is right. The layers take turns in proportion to their sizes times the standard deviation of
    being right, which gives that estimate the least variance. Each layer comes once before any comes twice.

    Args:
        confidence: float (M,) in [0, 1].
        chances: float (M,) in [0, 1], how probable each answer is right.
        lots: (M,), by which a layer is sorted: random numbers, or texts such as hashes of the images, which have nothing to do with
            being right. The same image keeps its lot, so that images that are added leave the order of the others.

    Source: Neyman (1934), "On the two different aspects of the representative method", Journal of the Royal Statistical Society
    97:558-625, for the allocation.
    """
    count = len(confidence)
    ranks = np.empty(count, np.int64)
    ranks[np.argsort(confidence, kind="stable")] = np.arange(count)
    layers = ranks * min(LAYERS, count) // max(count, 1)
    turns = np.empty(count)
    for layer in np.unique(layers):
        members = np.flatnonzero(layers == layer)
        members = members[np.argsort(lots[members], kind="stable")]
        chance = chances[members].mean()
        share = len(members) * np.sqrt(max(chance * (1 - chance), LEAST_SPREAD))
        turns[members] = np.arange(len(members)) / share
    # Equal turns, such as the first of all layers: the less confident first.
    return LabelPlan(np.lexsort((layers, turns)).astype(np.int64), layers)


def estimate_from_layers(
    right: Sequence[bool], layers: Sequence[int], sizes: Mapping[int, int]
) -> tuple[float, float, float]:
    """Returns the accuracy on all images by the labels of some, and its 95% interval; NaN if a layer has no label.

    Args:
        right: for each labelled image whether its answer is right.
        layers: the layer of each, whose labelled images are a random sample of it, as `plan_labels` orders them.
        sizes: how many images each layer has, labelled or not.

    Source: Cochran (1977), "Sampling techniques", chapter 5, for the estimate and its variance; the interval is Wilson's for as
    many independent labels as have the same variance.
    """
    told, hits = np.asarray(layers), np.asarray(right, dtype=float)
    parts = [(hits[told == layer], size) for layer, size in sizes.items()]
    if any(not len(one) for one, _ in parts):
        return float("nan"), float("nan"), float("nan")
    total = sum(sizes.values())
    accuracy = sum(size / total * float(one.mean()) for one, size in parts)
    # One more right and one more wrong label: a layer in which all are right has a variance too.
    shares = [((one.sum() + 1) / (len(one) + 2), len(one), size) for one, size in parts]
    variance = sum((size / total) ** 2 * p * (1 - p) / n * (1 - n / size) for p, n, size in shares)
    if variance == 0:
        return accuracy, accuracy, accuracy
    pooled = sum(size / total * p for p, _, size in shares)
    low, high = proportion_interval(accuracy, pooled * (1 - pooled) / variance, special.ndtri(0.5 + CONFIDENCE / 2))
    return accuracy, float(low), float(high)
