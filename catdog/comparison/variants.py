"""Runs grouped by what they are: a variant is a config without its seed, and its runs are its seeds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from catdog.comparison.records import NAN, NO_INTERVAL, ComparedRuns, RunRecord
from catdog.statistics import contrasts
from catdog.statistics.contrasts import Contrast
from catdog.tracking.identity import variant_key


@dataclass(frozen=True, eq=False)
class Variant:
    """One variant and its finished runs, one for each seed.

    Args:
        name: as the runs call it; variants of equal names get a piece of their digest.
        records: finished runs with predictions, by seed; at least one.
        right: bool (S, N), whether each run's kept model is right on each image that all runs of the comparison answered.
    """

    name: str
    records: Sequence[RunRecord]
    right: np.ndarray

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds of its runs."""
        return [record.seed for record in self.records]

    @cached_property
    def accuracies(self) -> np.ndarray:
        """The kept models' validation accuracies: float64 (S,) in [0, 1]."""
        return np.array([record.kept_accuracy for record in self.records])

    @cached_property
    def accuracy(self) -> float:
        """Their mean."""
        return float(self.accuracies.mean())

    @cached_property
    def spread(self) -> float:
        """Their standard deviation from seed to seed; NaN with one seed."""
        return float(self.accuracies.std(ddof=1)) if len(self.records) > 1 else NAN

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The accuracy's 95% interval over seeds and images, over images alone with one seed; NaN without common images."""
        if len(self.records) == 1:
            return self.records[0].kept_interval
        low, high = contrasts.accuracy_interval(self.right) if self.right.shape[1] > 1 else NO_INTERVAL
        return float(low), float(high)

    @cached_property
    def gaps(self) -> np.ndarray:
        """The kept models' overfitting gaps by seed and image, train less val accuracy: float64 (S, N), whose mean is the gap.

        The training accuracy is the one measured without dropout and augmentation, the same for all images; NaN where a run has
        none.
        """
        clean = np.array([record.metric("train/accuracy_clean") for record in self.records])
        return clean[:, None] - self.right

    @cached_property
    def gap(self) -> float:
        """The mean overfitting gap of the kept models."""
        return float(self.gaps.mean()) if self.gaps.size else NAN

    @cached_property
    def histories(self) -> dict[str, pd.DataFrame]:
        """Run name -> history as a table with the index `epoch`, of the runs that have one."""
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
        """The median over its runs."""
        return float(np.median([record.seconds_per_epoch for record in self.records]))

    @cached_property
    def representative(self) -> RunRecord:
        """The run to look at, where one has to stand for all: that of the median accuracy, the lower one of an even number."""
        return sorted(self.records, key=lambda record: record.kept_accuracy)[(len(self.records) - 1) // 2]


def group_by_variant(comparison: ComparedRuns) -> list[Variant]:
    """Returns the variants of the finished runs that have predictions, in the order of their first runs.

    Of several runs of one variant and one seed the last counts: on a CPU they are copies, and copies show no spread.
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
        )
        for key, by_seed in chosen.items()
    ]


def key_of(record: RunRecord) -> str:
    """Returns what the runs of a variant share; the name where a run's tags do not say."""
    return variant_key(record.tags) or record.variant


def name_variants(comparison: ComparedRuns) -> dict[str, str]:
    """Returns the name of every variant by its key; two variants that are called the same get a piece of their digests."""
    first = {key_of(record): record.variant for record in reversed(comparison.records)}
    times = Counter(first.values())
    return {key: name if times[name] == 1 else f"{name} {key[:8]}" for key, name in first.items()}


def compare_accuracy(first: Variant, second: Variant) -> Contrast:
    """Returns the difference of two variants' accuracies on the same images, first less second."""
    return contrasts.contrast(first.right, second.right)


def compare_gap(first: Variant, second: Variant) -> Contrast:
    """Returns the difference of two variants' overfitting gaps, first less second.

    Its interval holds the noise of seeds and of validation images; the training images are taken as they are.
    """
    return contrasts.contrast(first.gaps, second.gaps)
