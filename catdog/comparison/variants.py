"""Runs grouped by variant: a variant is a config without its seed, and it has one run for each seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from catdog.comparison.names import tell_apart
from catdog.comparison.records import NAN, NO_INTERVAL, ComparedRuns, RunRecord
from catdog.comparison.settings import read_all_settings
from catdog.statistics import contrasts
from catdog.statistics.contrasts import Contrast
from catdog.statistics.metrics import ACCURACY, BALANCED, Metric, step_of_smallest_class
from catdog.statistics.summaries import SeedSummary, summarize_seeds
from catdog.system.wording import MISSING


@dataclass(frozen=True, eq=False)
class Variant:
    """One variant and its finished runs, one for each seed.

    Args:
        name: the name that the runs give it, and to equal names what differs between them.
        records: finished runs with predictions, by seed; at least one.
        right: bool (S, N), whether each run's kept model is right on each image that all runs of the comparison answered.
        scores: float64 or bool (S, N), what these answers count for: the accuracy goes by them. They differ from
            `right` if the validation images chose the kept epochs; see `catdog.statistics.selection`.
        groups: int (N,), the group of each of these images; None if every image is a group of its own.
        class_step: what one answer in the smallest class changes in a mean over classes.
        single_interval: the accuracy's 95% interval of the only run, if there is only one; None: over its images.
        metric: what is compared.
        measured: float64 (S, N), the values of the metric; None: it is the accuracy, and they are `scores`.
    """

    name: str
    records: Sequence[RunRecord]
    right: np.ndarray
    scores: np.ndarray
    metric: Metric = ACCURACY
    measured: np.ndarray | None = None
    groups: np.ndarray | None = None
    single_interval: tuple[float, float] | None = None
    class_step: float = 0.0

    @property
    def units(self) -> int:
        """How many independent images there are: the number of groups, or of images."""
        return self.right.shape[1] if self.groups is None else int(self.groups.max()) + 1

    @property
    def members(self) -> dict[str, str]:
        """The name of each member of an ensemble by its run id; empty for a variant that was trained."""
        return self.records[0].tags.ensemble_of

    @property
    def shown_seeds(self) -> str:
        """The number of its seeds, for tables; a dash for an ensemble, which is one model and has no seed."""
        return MISSING if self.members else str(len(self.records))

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds of its runs."""
        return [record.seed for record in self.records]

    @cached_property
    def accuracies(self) -> np.ndarray:
        """The runs' validation accuracies, without the advantage of having been chosen on val: float64 (S,) in [0, 1]."""
        return np.array([record.accuracy for record in self.records])

    @property
    def is_cross_fitted(self) -> bool:
        """Whether the accuracies account for the choice of the kept epochs on the validation images."""
        return any(record.is_cross_fitted for record in self.records)

    @cached_property
    def kept_accuracy(self) -> float:
        """The mean of the kept models' plain validation accuracies, which are too high if val chose the epochs."""
        return float(np.mean([record.kept_accuracy for record in self.records]))

    @cached_property
    def accuracy(self) -> float:
        """The mean of `accuracies`."""
        return float(self.accuracies.mean())

    @cached_property
    def spread(self) -> float:
        """The standard deviation of `accuracies` from seed to seed; NaN with one seed."""
        return float(self.accuracies.std(ddof=1)) if len(self.records) > 1 else NAN

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The accuracy's 95% interval over seeds and images, or over images alone with one seed; NaN without common images."""
        if len(self.records) == 1:
            return self.single_interval or self.records[0].interval()
        low, high = contrasts.accuracy_interval(self.scores, groups=self.groups) if self.units > 1 else NO_INTERVAL
        return float(low), float(high)

    def summarize_seeds(self, chance: float) -> SeedSummary:
        """Returns its runs in numbers that a few diverged runs do not govern, and which runs diverged.

        Args:
            chance: the accuracy of a model that learned nothing, in [0, 1).
        """
        return summarize_seeds(self.scores, chance)

    @property
    def merits(self) -> np.ndarray:
        """What comparisons go by, by seed and image: the metric's values, the higher the better. Float64 or bool (S, N)."""
        return self.scores if self.measured is None else np.asarray(self.metric.orient(self.measured))

    @cached_property
    def values(self) -> np.ndarray:
        """The metric of each run: float64 (S,)."""
        if self.metric.is_accuracy:
            return self.accuracies
        return np.array([record.score_by(self.metric).mean for record in self.records])

    @cached_property
    def value(self) -> float:
        """The mean of the metric over seeds."""
        return float(self.values.mean())

    @property
    def merit(self) -> float:
        """What variants are ranked by: the metric, the higher the better."""
        return float(self.metric.orient(self.value))

    @cached_property
    def value_spread(self) -> float:
        """The metric's standard deviation from seed to seed; NaN with one seed."""
        return float(self.values.std(ddof=1)) if len(self.records) > 1 else NAN

    @cached_property
    def value_interval(self) -> tuple[float, float]:
        """The metric's 95% interval over seeds and images, or over images alone with one seed; NaN without common images."""
        if self.measured is None:
            return self.interval
        return interval_of(self.metric, self.measured, self.groups, self.class_step)

    @property
    def is_fair(self) -> bool:
        """Whether the values of the metric account for the choice of the kept epochs on the validation images."""
        return any(record.score_by(self.metric).is_cross_fitted for record in self.records)

    @cached_property
    def balanced(self) -> tuple[float, float, float]:
        """The balanced accuracy, the mean over seeds, and its 95% interval; NaN where it was not measured."""
        values = [record.score_by(BALANCED).values for record in self.records]
        if any(len(one) != self.right.shape[1] for one in values):
            # The runs answered other images than those that all of them did.
            return (float(np.mean([one.mean() for one in values])), *NO_INTERVAL)
        return (float(np.mean(values)), *interval_of(BALANCED, np.array(values), self.groups, self.class_step))

    @cached_property
    def gaps(self) -> np.ndarray:
        """The kept models' overfitting gaps by seed and image, training minus validation accuracy: float64 (S, N).

        Their mean is the overfitting gap. The training accuracy is measured without dropout and augmentation and is the same for
        all images of a run; NaN if a run has none.
        """
        clean = np.array([record.clean_train_accuracy for record in self.records])
        return clean[:, None] - self.scores

    @cached_property
    def gap(self) -> float:
        """The mean overfitting gap of the kept models."""
        return float(self.gaps.mean()) if self.gaps.size else NAN

    @cached_property
    def histories(self) -> dict[str, pd.DataFrame]:
        """Run name -> history as a table with the index `epoch`, for the runs that have one."""
        return {record.name: record.history.to_frame() for record in self.records if record.epochs}

    def mean_of(self, column: str) -> float:
        """The mean over seeds of the last epoch's value of a column of the history."""
        values = [record.last(column) for record in self.records]
        return float(np.mean(values))

    @cached_property
    def confusion(self) -> np.ndarray:
        """The kept models' confusion counts, summed over seeds: int64 (C, C), rows true."""
        return np.sum([record.predictions.confusion for record in self.records], axis=0)

    @cached_property
    def seconds_per_epoch(self) -> float:
        """The median over its runs of their seconds per epoch."""
        return float(np.median([record.seconds_per_epoch for record in self.records]))

    @cached_property
    def representative(self) -> RunRecord:
        """The run that represents the variant: the one of median accuracy, or the lower of the two middle ones."""
        return sorted(self.records, key=lambda record: record.accuracy)[(len(self.records) - 1) // 2]


def group_by_variant(comparison: ComparedRuns) -> list[Variant]:
    """Returns the variants of the finished runs that have predictions, in the order of their first runs.

    If a variant has several runs with the same seed, only the last counts: on a CPU they are identical and show no seed noise.
    """
    chosen: dict[str, dict[int, RunRecord]] = {}
    for record in comparison.finished:
        if record.kept_images:
            chosen.setdefault(key_of(record), {})[record.seed] = record
    names = name_variants(comparison)
    outcomes = comparison.outcomes
    return [
        Variant(
            names[key],
            runs := [by_seed[seed] for seed in sorted(by_seed)],
            outcomes.of([record.name for record in runs]),
            outcomes.scores_of([record.name for record in runs]),
            comparison.metric,
            outcomes.measured_of([record.name for record in runs]),
            comparison.groups_of_outcomes,
            comparison.interval_of(runs[0]) if len(runs) == 1 else None,
            step_of_smallest_class(comparison.class_counts.values()),
        )
        for key, by_seed in chosen.items()
    ]


def key_of(record: RunRecord) -> str:
    """Returns the key that the runs of a variant share; the variant's name if a run's tags have no key.

    Runs on several training sets (`dataset.refresh`) are shown set by set.
    """
    key = record.tags.variant_key() or record.variant
    refresh = record.params.get("dataset.refresh", "0")
    return key if refresh == "0" else f"{key} refresh={refresh}"


def name_variants(comparison: ComparedRuns) -> dict[str, str]:
    """Returns key -> name for every variant; to equal names it adds the settings that differ, or the first digits of the key."""
    first = {key_of(record): record for record in reversed(comparison.records)}
    names = {key: record.variant for key, record in first.items()}
    same: dict[str, list[str]] = {}
    for key, name in names.items():
        same.setdefault(name, []).append(key)
    for name, keys in same.items():
        if len(keys) > 1:
            added = tell_apart(read_all_settings([first[key] for key in keys]))
            longer = [f"{name} {words}" if words else "" for words in added]
            taken = set(longer) & set(names.values())
            names |= {
                key: f"{name} {key[:8]}" if one in taken or not one else one
                for key, one in zip(keys, longer, strict=True)
            }
    return names


def count_looks(comparison: ComparedRuns, variants: Sequence[Variant]) -> int:
    """Returns the number of this look at the variants, from 1: seeds that were added to a variant after a look make another.

    A sweep of `decide` is always at its first one: its looks were planned, and its decision, which allows for them, is shown.
    """
    looks = 1
    if comparison.decided and comparison.decided_by == comparison.metric.name:
        return looks
    for variant in variants:
        seen = [record.tags.compared for record in variant.records]
        looks = max(looks, max(seen) + (0 < max(seen) > min(seen)))
    return looks


def compare_merits(first: Variant, second: Variant) -> Contrast:
    """Returns the difference of two variants on the same images, by the metric that is compared: above 0 if the first is better."""
    found = contrasts.contrast(first.merits, second.merits, first.groups)
    return found.at_least(first.class_step) if first.metric.weighs_classes else found


def interval_of(
    metric: Metric, values: np.ndarray, groups: np.ndarray | None = None, class_step: float = 0.0
) -> tuple[float, float]:
    """Returns the 95% interval of a metric over seeds and images; NaN with fewer than two images.

    Args:
        metric: the metric.
        values: float64 (S, N), its values.
        groups: int (N,), the group of each image; None: each is its own.
        class_step: as of a `Variant`.
    """
    units = values.shape[1] if groups is None else len(np.unique(groups))
    if units < 2 or np.isnan(values).any():
        return NO_INTERVAL
    if metric.in_unit_interval:
        low, high = contrasts.accuracy_interval(values, groups=groups)
    else:
        low, high = contrasts.mean(values, groups).interval()
    if metric.weighs_classes:
        least, most = contrasts.mean(values, groups).at_least(class_step).interval()
        low, high = max(min(low, least), 0.0), min(max(high, most), 1.0)
    return max(float(low), metric.least), float(high)


def compare_gap(first: Variant, second: Variant) -> Contrast:
    """Returns the difference of two variants' overfitting gaps, first minus second.

    Its interval covers the noise of seeds and of validation images; the training images are treated as fixed.
    """
    return contrasts.contrast(first.gaps, second.gaps, first.groups)


@dataclass(frozen=True)
class Recall:
    """The share of a class's images that the kept models get right, the mean over seeds, with its interval."""

    name: str
    images: int
    recall: float
    low: float
    high: float


def measure_recall(name: str, scores: np.ndarray, confidence: float, groups: np.ndarray | None = None) -> Recall:
    """Returns the recall of a class; the interval is over seeds and images.

    Args:
        name: the class.
        scores: float64 or bool (S, N), what the answers to its N images count for.
        confidence: of the interval, in (0, 1).
        groups: int (N,), the group of each image; None: each is its own.
    """
    images = scores.shape[1]
    units = images if groups is None else len(np.unique(groups))
    low, high = contrasts.accuracy_interval(scores, confidence, groups) if units > 1 else NO_INTERVAL
    return Recall(name, images, float(scores.mean()), float(low), float(high))
