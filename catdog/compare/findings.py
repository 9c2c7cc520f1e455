"""What a comparison shows, in sentences that claim no more than its data allows."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd

from catdog.compare.records import Comparison, RunRecord
from catdog.statistics import paired_p_value
from catdog.wording import listed, p_value, percent_interval, percent_with_unit, plural

# Farther apart, the accuracy counted from the kept model's predictions and the one tracked at its epoch are not of one
# model. Nearer, other batch boundaries and bfloat16 explain it: they move single images.
TRACKED_TOLERANCE = 0.005
TRACKED_TOLERANCE_IMAGES = 2
SIGNIFICANT = 0.05
NAMES_IN_HEADLINE = 4


@dataclass(frozen=True)
class Duel:
    """Two runs on the same images: on how many only one of them is right, and the exact two-sided p value of that."""

    first: RunRecord
    second: RunRecord
    only_first: int
    only_second: int
    p: float


def duel(comparison: Comparison, first: RunRecord, second: RunRecord) -> Duel:
    """Compares two ranked runs image by image, on the images that all runs answered."""
    a, b = comparison.outcomes[first.name], comparison.outcomes[second.name]
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    return Duel(first, second, only_first, only_second, paired_p_value(only_first, only_second))


def duels_with_best(comparison: Comparison) -> list[Duel]:
    """The best run against every other one; empty where the runs did not answer the same images."""
    if not comparison.same_data or len(comparison.ranked) < 2:
        return []
    best, *others = comparison.ranked
    return [duel(comparison, best, other) for other in others]


def headline(comparison: Comparison) -> str:
    """The one line to remember."""
    if not comparison.finished:
        return "No run has finished, so there is nothing to compare yet"
    if not comparison.ranked:
        return "No finished run has predictions, so only the curves can be compared"
    best = comparison.ranked[0]
    if not comparison.same_data:
        return "These runs saw different data: their accuracies cannot be compared"
    score = f"{percent_with_unit(best.kept_accuracy)} of {plural(best.kept_images, 'validation image')} right"
    if len(comparison.ranked) == 1:
        return f"{best.name} gets {score}"
    level = _level_with_best(comparison)
    if level:
        names = [best.name, *(record.name for record in level)]
        together = listed(names) if len(names) <= NAMES_IN_HEADLINE else f"{best.name} and {len(level)} others"
        if len(level) == len(_rivals(comparison)):
            return f"This data does not separate {together}"
        return f"{together} lead, and this data does not separate them"
    return f"{best.name} leads: {score}"


def sentences(comparison: Comparison) -> list[str]:
    """What supports the headline and what limits it, most important first."""
    said: list[str] = []
    if comparison.ranked and comparison.same_data:
        said += _about_the_best(comparison)
        said += _about_the_baseline(comparison)
    if comparison.finished:
        said.append(_about_seeds(comparison))
    if any(record.picked for record in comparison.ranked):
        said.append(
            "A kept model is the best epoch's, picked on these same validation images, so its accuracy flatters it a "
            "little; only the test split, which no training touches, is free of that."
        )
    return said


def warnings(comparison: Comparison) -> list[str]:
    """What a reader has to know before believing any number on the page; usually nothing."""
    found: list[str] = []
    by_status: dict[str, list[str]] = defaultdict(list)
    for record in comparison.records:
        if not record.finished:
            by_status[record.status].append(record.name)
    for status, names in by_status.items():
        found.append(
            f"{plural(len(names), 'run')} did not finish ({status}): {listed(names)}. "
            "Listed in the table, left out of the figures and of every comparison."
        )
    if not comparison.same_data:
        found.append(
            "The runs are not comparable: their data digests, validation images or labels differ. Only the "
            f"{plural(len(comparison.outcomes), 'image')} that all of them answered under the same label "
            f"{'is' if len(comparison.outcomes) == 1 else 'are'} set side by side below."
        )
    silent = [record.name for record in comparison.finished if not record.kept_images]
    if silent:
        found.append(f"No validation predictions are stored for {listed(silent)}: shown in curves only.")
    for record in comparison.ranked:
        tracked = _tracked_at_kept_epoch(record)
        tolerance = max(TRACKED_TOLERANCE, (TRACKED_TOLERANCE_IMAGES + 0.5) / record.kept_images)
        if abs(tracked - record.kept_accuracy) > tolerance:
            found.append(
                f"{record.name}: its stored predictions are {percent_with_unit(record.kept_accuracy)} right, but the "
                f"accuracy tracked at epoch {record.kept_epoch} is {percent_with_unit(tracked)}. "
                "One of the two is not the kept model's."
            )
    return found


def over_seeds(comparison: Comparison) -> pd.DataFrame:
    """Kept validation accuracy per variant over its seeds, empty unless some variant was run more than once.

    Returns:
        Index variant, best mean first; columns runs (int) and mean, lowest, highest (in [0, 1]).
    """
    rows = pd.DataFrame(
        {"variant": [r.variant for r in comparison.ranked], "accuracy": [r.kept_accuracy for r in comparison.ranked]}
    )
    if not rows["variant"].duplicated().any():
        return pd.DataFrame(columns=["runs", "mean", "lowest", "highest"])
    grouped = rows.groupby("variant", sort=False)["accuracy"]
    frame = pd.DataFrame(
        {"runs": grouped.count(), "mean": grouped.mean(), "lowest": grouped.min(), "highest": grouped.max()}
    )
    return frame.sort_values("mean", ascending=False, kind="stable")


def _about_the_best(comparison: Comparison) -> list[str]:
    best = comparison.ranked[0]
    said = [
        f"The kept model of {best.name} gets {best.kept_correct:,} of {plural(best.kept_images, 'validation image')} "
        f"right: {percent_with_unit(best.kept_accuracy)}, "
        f"95\N{NO-BREAK SPACE}% interval {percent_interval(*best.kept_interval)}."
    ]
    if len(comparison.ranked) == 1:
        return said
    second = _rivals(comparison)[0]
    result = duel(comparison, best, second)
    interval = percent_interval(*second.kept_interval)
    follows = f"Next is {second.name} with {percent_with_unit(second.kept_accuracy)} ({interval})"
    paired = (
        f"{best.name} alone is right on {result.only_first}, {second.name} alone on {result.only_second} "
        f"(exact McNemar test, {p_value(result.p)})"
    )
    if not _overlap(best, second):
        said.append(f"{follows}; the intervals do not overlap. Image by image, {paired}.")
    elif result.p >= SIGNIFICANT:
        said.append(f"{follows}; the intervals overlap: this data does not separate them. Image by image, {paired}.")
    else:
        said.append(f"{follows}; the intervals overlap, but image by image they differ: {paired}.")
    more = [record.name for record in _level_with_best(comparison) if record is not second]
    if more:
        said.append(f"Nor does it separate {best.name} from {listed(more)}.")
    return said


def _about_the_baseline(comparison: Comparison) -> list[str]:
    lost = [record.name for record in comparison.ranked if record.kept_interval[0] <= comparison.baseline]
    always = f"what always answering the most common class scores ({percent_with_unit(comparison.baseline)})"
    if lost:
        return [f"{listed(lost)}: the interval does not exclude {always}."]
    return (
        [f"Every run's interval lies above {always}."] if len(comparison.ranked) > 1 else [f"That is above {always}."]
    )


def _about_seeds(comparison: Comparison) -> str:
    seeds: dict[str, set[int]] = defaultdict(set)
    for record in comparison.finished:
        seeds[record.variant].add(record.seed)
    numbers = [len(found) for found in seeds.values()]
    if max(numbers) == 1:
        alone = "Each variant ran with one seed" if len(numbers) > 1 else "It ran with one seed"
        noise = "the difference between runs includes seed noise, which no interval here contains"
        return f"{alone}: seeds were not varied, so {noise}."
    if min(numbers) == 1:
        single = [variant for variant, found in seeds.items() if len(found) == 1]
        return f"Seeds were varied, but not for {listed(single)}: the seed noise there is unknown."
    return f"Every variant ran with {min(numbers)} seeds or more; the spread over seeds stands below the table."


def _rivals(comparison: Comparison) -> list[RunRecord]:
    """Each other variant's best run, as seeds of one variant are no contest; the other seeds if it is the only one."""
    best, *others = comparison.ranked
    rivals: dict[str, RunRecord] = {}
    for record in others:
        if record.variant != best.variant:
            rivals.setdefault(record.variant, record)
    return list(rivals.values()) or others


def _level_with_best(comparison: Comparison) -> list[RunRecord]:
    """The rivals that neither the intervals nor the paired test tell from the best run."""
    best = comparison.ranked[0]
    return [
        rival
        for rival in _rivals(comparison)
        if _overlap(best, rival) and duel(comparison, best, rival).p >= SIGNIFICANT
    ]


def _overlap(first: RunRecord, second: RunRecord) -> bool:
    return first.kept_interval[0] <= second.kept_interval[1] and second.kept_interval[0] <= first.kept_interval[1]


def _tracked_at_kept_epoch(record: RunRecord) -> float:
    history = record.history
    if record.kept_epoch is None or record.kept_epoch not in history.index or "val/accuracy" not in history:
        return float(np.nan)
    return float(history["val/accuracy"].loc[record.kept_epoch])
