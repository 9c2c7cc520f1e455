"""Metrics by which models are compared, as one value for each image; arrays in, numbers out.

Accuracy, log loss, the Brier score and costs are means over images, so an image's value is what it counts. Balanced accuracy, AUC
and F1 are not: there an image's value is the metric plus the image's influence on it. These values have the metric as their mean,
and their spread is that of the metric, so all statistics for means hold for them as well (`catdog.statistics.contrasts`).

Source: Hampel (1974), "The influence curve and its role in robust estimation", Journal of the American Statistical Association
69:383-393.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from catdog.config import metrics as names
from catdog.statistics.proportions import Number
from catdog.system.errors import UserError
from catdog.system.own_objects import describe_type, explain
from catdog.system.wording import MISSING

# Keras clips at the same value: without it, a probability that underflowed to 0 would make the mean loss infinite.
LEAST_PROBABILITY = 1e-7
TOP = 5
# A function of all images is called so many times without some of them, at most.
MOST_CALLS = 500
# What an answer must have for a metric to be known.
RIGHT, LOSSES, PROBABILITIES = "right", "losses", "probabilities"
PERCENT = 100


@dataclass(frozen=True, eq=False)
class ModelAnswers:
    """What a model answered to N images of C classes, as far as it is known.

    Args:
        labels: int (N,) in [0, C), the true classes.
        class_names: the names of the classes, in the model's order.
        right: bool (N,), whether the most probable class is the true one.
        losses: float (N,), the cross-entropy of each image in nats.
        probabilities: float (N, C) in [0, 1]; None: not known.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    right: np.ndarray
    losses: np.ndarray
    probabilities: np.ndarray | None = None

    @classmethod
    def from_probabilities(
        cls, labels: np.ndarray, class_names: tuple[str, ...], probabilities: np.ndarray
    ) -> "ModelAnswers":
        """Returns the answers with these probabilities: float (N, C), for labels int (N,)."""
        probabilities = np.asarray(probabilities, dtype=float)
        of_label = probabilities[np.arange(len(labels)), labels]
        losses = -np.log(np.clip(of_label, LEAST_PROBABILITY, 1))
        return cls(labels, class_names, probabilities.argmax(axis=1) == labels, losses, probabilities)

    def complete(self) -> "ModelAnswers":
        """Returns the same answers with probabilities, if these follow from the losses: if there are two classes."""
        if self.probabilities is not None or len(self.class_names) != 2:
            return self
        of_label = np.exp(-np.asarray(self.losses, dtype=float))
        first = np.where(self.labels == 0, of_label, 1 - of_label)
        return ModelAnswers(
            self.labels, self.class_names, self.right, self.losses, np.stack([first, 1 - first], axis=1)
        )

    def take(self, rows: np.ndarray) -> "ModelAnswers":
        """Returns the answers to some of the images: int or bool, as an index."""
        kept = None if self.probabilities is None else self.probabilities[rows]
        return ModelAnswers(self.labels[rows], self.class_names, self.right[rows], self.losses[rows], kept)

    @cached_property
    def known(self) -> np.ndarray:
        """The probabilities: float (N, C).

        Raises:
            ValueError: they are not known.
        """
        if self.probabilities is None:
            raise ValueError("needs probabilities")
        return self.probabilities

    @cached_property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image: int (N,)."""
        return np.where(self.right, self.labels, self._other)

    @property
    def _other(self) -> np.ndarray:
        if len(self.class_names) == 2:
            # A probability that was rounded to one half does not say which class it was.
            return 1 - self.labels
        return self.known.argmax(axis=1)


@dataclass(frozen=True, eq=False)
class Metric:
    """A measure of a model's answers, with its direction, its unit, and how it is written.

    Statistics need a number that is the higher the better: `orient` gives it. Everything that is shown has its own sign.

    Attributes:
        name: as in the config, "log_loss" or "cost:costs.csv".
        words: its name in sentences, "log loss".
        measure: returns one value for each image, float64 (N,), whose mean is the metric; or of a function that gives no such
            values the metric itself, float64 ().
        higher_is_better: its direction.
        unit: of a difference, in words: "points", "nats", "" for a number without a unit.
        margin: a difference up to this is as good as none, unless the user says otherwise; None: the user has to.
        scale: what values and differences are multiplied by when they are written: 100 for shares, which are written in percent.
        in_unit_interval: whether it cannot leave [0, 1] and its value there is a share or like one.
        least: its least value, if it cannot leave that either; -inf: there is none.
        needs: what must be known of an answer: RIGHT, LOSSES or PROBABILITIES.
        chance: of a model that knows nothing, for a number of classes; None: that depends on the images.
        weighs_classes: whether every class counts the same, however few its images are; then the images of a small class say little
            together, and intervals are at least as wide as `step_of_smallest_class` says.
        refuse: says what is wrong with these class names, as "needs more than 5 classes"; "" if nothing is.
    """

    name: str
    words: str
    measure: Callable[[ModelAnswers], np.ndarray]
    higher_is_better: bool = True
    unit: str = "points"
    margin: float | None = 0.02
    scale: float = PERCENT
    in_unit_interval: bool = True
    least: float = -math.inf
    needs: str = PROBABILITIES
    chance: Callable[[int], float] | None = None
    weighs_classes: bool = False
    refuse: Callable[[tuple[str, ...]], str] = lambda _: ""

    def require_classes(self, key: str, class_names: tuple[str, ...]) -> None:
        """Raises a UserError, about the config key that names the metric, unless it is possible for these classes."""
        problem = self.refuse(class_names)
        if problem:
            raise UserError(f"{key}: {self.name} {problem}")

    @property
    def is_accuracy(self) -> bool:
        """Whether it is the accuracy, for which pages have words of their own."""
        return self.name == names.ACCURACY

    def is_known(self, answers: ModelAnswers) -> bool:
        """Whether it can be computed: probabilities are known, or not needed."""
        return self.needs != PROBABILITIES or answers.complete().probabilities is not None

    def values(self, answers: ModelAnswers) -> np.ndarray:
        """Returns one value for each image, whose mean is the metric: float64 (N,).

        Raises:
            UserError: the metric is not possible for these classes, or its function is wrong.
            ValueError: it needs probabilities, and they are not known.
        """
        found = self.measure(answers.complete())
        return found if found.ndim else _jackknife(self.measure, answers.complete(), float(found))

    def values_by_image(self, answers: ModelAnswers) -> np.ndarray | None:
        """Returns the values; None if its function only gives one number for all images, of which parts cannot be counted."""
        found = self.measure(answers.complete())
        return found if found.ndim else None

    def orient(self, values: Number) -> Number:
        """Returns values, or a difference, that are the higher the better; it turns them back as well."""
        return values if self.higher_is_better else -values

    # How numbers are written.

    @property
    def is_in_percent(self) -> bool:
        """Whether its values are written in percent, and differences in points."""
        return self.scale == PERCENT

    @property
    def _digits(self) -> int:
        return 1 if self.is_in_percent else 3

    @property
    def heading(self) -> str:
        """Its name with the unit of its values, for the head of a column: "balanced accuracy, %", "log loss, nats"."""
        unit = "%" if self.is_in_percent else self.unit
        return f"{self.words}, {unit}" if unit else self.words

    @property
    def direction(self) -> str:
        """What is better, in words."""
        return "higher is better" if self.higher_is_better else "lower is better"

    def show(self, value: float) -> str:
        """Returns a value without its unit: `75.6`, `0.412`; a dash for NaN."""
        return MISSING if math.isnan(value) else self._sign(f"{self.scale * value:.{self._digits}f}")

    def show_with_unit(self, value: float) -> str:
        """Returns a value with its unit: `75.6 %`, `0.412 nats`."""
        unit = "%" if self.is_in_percent else self.unit
        return f"{self.show(value)}\N{NO-BREAK SPACE}{unit}" if unit and not math.isnan(value) else self.show(value)

    def show_interval(self, low: float, high: float) -> str:
        """Returns `72.5 to 78.5 %`."""
        return MISSING if math.isnan(low) or math.isnan(high) else f"{self.show(low)} to {self.show_with_unit(high)}"

    def show_difference(self, better_by: float) -> str:
        """Returns a difference with its own sign, `+3.1` or `-0.041`, given as what is better about the first: `orient` of it."""
        if math.isnan(better_by):
            return MISSING
        return self._sign(f"{self.scale * self.orient(better_by):+.{self._digits}f}")

    def show_difference_interval(self, low: float, high: float) -> str:
        """Returns `[+1.2, +5.0]` with the metric's own sign, given the bounds of what is better about the first."""
        if math.isnan(low) or math.isnan(high):
            return MISSING
        bounds = (low, high) if self.higher_is_better else (high, low)
        return f"[{', '.join(self.show_difference(bound) for bound in bounds)}]"

    def size(self, difference: float) -> str:
        """Returns a difference without a sign but with its unit: `3.1 points`, `0.041 nats`."""
        if math.isnan(difference):
            return MISSING
        text = f"{self.scale * difference:.{self._digits}f}"
        return f"{text}\N{NO-BREAK SPACE}{self.unit}" if self.unit else text

    def at_least(self, difference: float) -> str:
        """As `size`, but rounded down."""
        step = 10**self._digits
        return self.size(math.floor(difference * self.scale * step + 1e-9) / (self.scale * step))

    def at_most(self, difference: float) -> str:
        """As `size`, but rounded up."""
        step = 10**self._digits
        return self.size(math.ceil(difference * self.scale * step - 1e-9) / (self.scale * step))

    @staticmethod
    def _sign(text: str) -> str:
        return text.replace("-", "\N{MINUS SIGN}")


def step_of_smallest_class(counts: Iterable[int]) -> float:
    """Returns what one answer in the smallest class changes in a mean over classes, given the images of each class.

    No standard error of such a mean is smaller: if all few images of a class are right, they show no spread, and that may be luck.
    """
    present = [count for count in counts if count]
    return 1 / (len(present) * min(present)) if present else 0.0


def measure_balanced(answers: ModelAnswers) -> np.ndarray:
    """Returns each image's value for the balanced accuracy: the mean of the classes' recalls. Float64 (N,).

    An image counts N / (C n) for n images of its class, as its deviation from the class's recall: the numbers of images of the
    classes are no chance.

    Source: Brodersen et al. (2010), "The balanced accuracy and its posterior distribution", ICPR.
    """
    _, codes, counts = np.unique(answers.labels, return_inverse=True, return_counts=True)
    recalls = np.bincount(codes, answers.right) / counts
    weights = len(codes) / (len(counts) * counts)
    return recalls.mean() + weights[codes] * (answers.right - recalls[codes])


def measure_log_loss(answers: ModelAnswers) -> np.ndarray:
    """Returns each image's cross-entropy in nats, clipped as Keras does: float64 (N,)."""
    return np.minimum(np.asarray(answers.losses, dtype=float), -math.log(LEAST_PROBABILITY))


def measure_brier(answers: ModelAnswers) -> np.ndarray:
    """Returns each image's Brier score: the squared distance of the probabilities from the truth. Float64 (N,) in [0, 1] or [0, 2].

    It is the sum over the classes; with two classes half of it, which is the square of the error of one probability.

    Source: Brier (1950), "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78:1-3.
    """
    truth = answers.labels[:, None] == np.arange(len(answers.class_names))
    squares = ((np.asarray(answers.known, dtype=float) - truth) ** 2).sum(axis=1)
    return squares / 2 if len(answers.class_names) == 2 else squares


def measure_top(answers: ModelAnswers) -> np.ndarray:
    """Returns whether the true class is among the 5 most probable ones: float64 (N,)."""
    of_label = answers.known[np.arange(len(answers.labels)), answers.labels]
    return ((answers.known > of_label[:, None]).sum(axis=1) < TOP).astype(float)


def measure_auc(answers: ModelAnswers) -> np.ndarray:
    """Returns each image's value for the area under the ROC curve; of more than two classes the mean of one class against the rest.

    An image's value is its placement: the share of the images of the other class that are on the right side of it. Float64 (N,).
    Classes without images do not count; NaN with images of one class only.

    Source: DeLong, DeLong and Clarke-Pearson (1988), "Comparing the areas under two or more correlated receiver operating
    characteristic curves: a nonparametric approach", Biometrics 44:837-845, for the placements and their variance.
    """
    present = np.unique(answers.labels)
    if len(present) < 2:
        return np.full(len(answers.labels), np.nan)
    binary = len(answers.class_names) == 2
    parts = [_place(answers.known[:, kind], answers.labels == kind) for kind in (present[1:] if binary else present)]
    return np.mean(parts, axis=0)


def _place(scores: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
    """Returns values for the AUC of scores: float64 (N,)."""
    positive, negative = np.sort(scores[is_positive]), np.sort(scores[~is_positive])
    values = np.empty(len(scores))
    # Equal scores count one half.
    below = (
        np.searchsorted(negative, scores[is_positive], "left") + np.searchsorted(negative, scores[is_positive], "right")
    ) / 2
    above = (
        len(positive)
        - (
            np.searchsorted(positive, scores[~is_positive], "left")
            + np.searchsorted(positive, scores[~is_positive], "right")
        )
        / 2
    )
    area = below.mean() / len(negative)
    values[is_positive] = (below / len(negative) - area) * len(scores) / len(positive)
    values[~is_positive] = (above / len(positive) - area) * len(scores) / len(negative)
    return area + values


def measure_f1(answers: ModelAnswers, kinds: tuple[int, ...] | None = None) -> np.ndarray:
    """Returns each image's value for F1, the harmonic mean of precision and recall: float64 (N,).

    F1 is a ratio of two means over images, so an image's influence on it is that of the delta method.

    Args:
        answers: the answers.
        kinds: the classes whose mean F1 it is; None: all that are among the labels or the predictions (macro F1), two as well.
    """
    if kinds is None:
        kinds = tuple(np.unique(np.concatenate([answers.labels, answers.predicted])).tolist())
    total = np.zeros(len(answers.labels))
    for kind in kinds:
        is_true, is_predicted = answers.labels == kind, answers.predicted == kind
        twice = 2.0 * (is_true & is_predicted)
        sizes = is_true.astype(float) + is_predicted
        size = sizes.mean() or 1.0
        score = twice.mean() / size
        total += score + (twice - score * sizes) / size
    return total / len(kinds)


def build_cost(name: str, costs: np.ndarray, class_names: tuple[str, ...]) -> Metric:
    """Returns the mean cost of the predictions as a metric.

    Args:
        name: the metric's.
        costs: float (C, C), rows are the true class, columns the predicted one.
        class_names: of the rows and columns, in their order.
    """

    def refuse(given: tuple[str, ...]) -> str:
        same = set(given) == set(class_names)
        return (
            ""
            if same
            else f"must have the classes {', '.join(given)} in its first line, received {', '.join(class_names)}."
        )

    def measure(answers: ModelAnswers) -> np.ndarray:
        order = [class_names.index(each) for each in answers.class_names]
        return np.asarray(costs[np.ix_(order, order)][answers.labels, answers.predicted], dtype=float)

    # 0.02 of the largest cost: for a cost of 1 for each error these are the two points of the accuracy.
    margin = 0.02 * float(np.abs(costs).max())
    return Metric(
        name,
        "mean cost",
        measure,
        higher_is_better=False,
        unit="",
        margin=margin,
        scale=1,
        in_unit_interval=False,
        least=float(costs.min()),
        refuse=refuse,
    )


def build_own(name: str, function: Callable[[np.ndarray, np.ndarray], object]) -> Metric:
    """Returns a function as a metric.

    Args:
        name: the metric's, module:function.
        function: of labels int (N,) and probabilities float64 (N, C); returns one number for each image, (N,), or one for all. If
            it has an attribute `lower_is_better` that is true, lower is better.
    """

    def measure(answers: ModelAnswers) -> np.ndarray:
        given = np.array(answers.labels), np.array(answers.known, dtype=float)
        with explain("metric", name):
            returned = function(*given)
        try:
            # NumPy would take None for NaN.
            found = np.asarray("None" if returned is None else returned, dtype=float)
        except (TypeError, ValueError) as error:
            raise _refuse_own(name, f"returned {describe_type(returned)}") from error
        count = len(answers.labels)
        if found.shape not in ((), (count,)):
            raise _refuse_own(name, f"returned shape {found.shape} for {count} images")
        if not np.isfinite(found).all():
            raise _refuse_own(name, f"returned {'NaN' if np.isnan(found).any() else 'an infinite number'}")
        return found

    return Metric(
        name, name.rpartition(":")[2].replace("_", " "), measure,
        higher_is_better=not getattr(function, "lower_is_better", False), unit="", margin=None, scale=1, in_unit_interval=False,
    )  # fmt: skip


def _refuse_own(name: str, what: str) -> UserError:
    return UserError(
        f"metric: {name} must return one finite number for each image, or one for all, given labels (N,) and probabilities (N, "
        f"classes); it {what}."
    )


def build_class_f1(name: str, class_name: str) -> Metric:
    """Returns the F1 of one class as a metric."""

    def refuse(given: tuple[str, ...]) -> str:
        return "" if class_name in given else f"must name one of the classes {', '.join(given)}."

    def measure(answers: ModelAnswers) -> np.ndarray:
        return measure_f1(answers, (answers.class_names.index(class_name),))

    return Metric(name, f"F1 of {class_name}", measure, refuse=refuse, weighs_classes=True)


def _jackknife(measure: Callable[[ModelAnswers], np.ndarray], answers: ModelAnswers, whole: float) -> np.ndarray:
    """Returns one value for each image of a number that a function only gives for all: float64 (N,).

    The function is called without each image, or of many images without each of 500 groups. Values of a group are the same, and lie
    further apart than those of single images would, by the square root of its size: then their spread is that of the metric.

    Source: Efron (1992), "Jackknife-after-bootstrap standard errors and influence functions", Journal of the Royal Statistical
    Society B 54:83-127, for the jackknife's influence values.
    """
    count = len(answers.labels)
    groups = min(count, MOST_CALLS)
    group = np.random.default_rng(0).permutation(count) % groups
    without = np.array([float(measure(answers.take(group != one))) for one in range(groups)])
    influence = ((groups - 1) * (without.mean() - without))[group]
    return whole + math.sqrt(count / groups) * (influence - influence.mean())


def _refuse_few(class_names: tuple[str, ...]) -> str:
    few = len(class_names) <= TOP
    return f"needs more than {TOP} classes, and there are {len(class_names)}. Use accuracy." if few else ""


ACCURACY = Metric(names.ACCURACY, "accuracy", lambda answers: np.asarray(answers.right, dtype=float), needs=RIGHT)
BALANCED = Metric(
    "balanced_accuracy", "balanced accuracy", measure_balanced, needs=RIGHT, chance=lambda classes: 1 / classes,
    weighs_classes=True,
)  # fmt: skip
NAMED = {
    metric.name: metric
    for metric in (
        ACCURACY,
        BALANCED,
        Metric(
            names.LOG_LOSS, "log loss", measure_log_loss, higher_is_better=False, unit="nats", scale=1, in_unit_interval=False,
            least=0.0, needs=LOSSES,
        ),
        Metric(
            "brier", "Brier score", measure_brier, higher_is_better=False, unit="", margin=0.01, scale=1, in_unit_interval=False,
            least=0.0,
        ),
        Metric("auc", "AUC", measure_auc, unit="", margin=0.01, scale=1, chance=lambda _: 0.5, weighs_classes=True),
        Metric("f1", "macro F1", measure_f1, weighs_classes=True),
        Metric("top_5", "top-5 accuracy", measure_top, refuse=_refuse_few),
    )
}  # fmt: skip
