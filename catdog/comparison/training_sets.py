"""A comparison whose runs were trained on several training sets, drawn anew by `dataset.refresh`: differences over these sets."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from catdog.comparison.records import ComparedRuns, RunRecord
from catdog.comparison.settings import counts, read_settings
from catdog.comparison.variants import key_of
from catdog.statistics.contrasts import contrast
from catdog.statistics.judgements import Judgement
from catdog.statistics.proportions import CONFIDENCE, correct_by_holm
from catdog.statistics.training_sets import FEWEST_SETS, SetContrast, contrast_over_sets
from catdog.system.wording import at_least, at_most

REFRESH = "dataset.refresh"


@dataclass(frozen=True)
class SetVerdict:
    """A pair of variants, and what can be said about it over training sets of this kind.

    Attributes:
        first: the name of the variant that is better in the mean.
        second: the name of the other.
        found: the difference in accuracy, first minus second; its own interval is for this pair alone.
        p: p-value, corrected for the number of pairs by Holm's method.
        kind: BETTER, EQUIVALENT or UNDECIDED.
        words: the verdict as a sentence.
    """

    first: str
    second: str
    found: SetContrast
    p: float
    kind: Judgement
    words: str


def has_training_sets(comparison: ComparedRuns) -> bool:
    """Whether the runs differ in the training set on purpose: by `dataset.refresh`, and in no other key of the data set."""
    records = comparison.ranked
    sets = {record.params.get(REFRESH, "0") for record in records}
    others = {
        tuple(
            (key, value)
            for key, value in sorted(record.params.items())
            if key.startswith("dataset.") and (counts(key) or key == "dataset.name") and key != REFRESH
        )
        for record in records
    }
    return len(sets) >= FEWEST_SETS and len(others) == 1


def judge_over_sets(comparison: ComparedRuns, margin: float) -> list[SetVerdict]:
    """Returns verdicts on the pairs of variants over training sets, the largest difference first.

    Only sets on which both variants were trained count. There is no verdict on variants with fewer than two such sets, and none at
    all if the runs do not differ in the training set on purpose, or if runs are missing.

    Args:
        comparison: the runs.
        margin: differences up to this are as good as none, in (0, 1).
    """
    if not has_training_sets(comparison) or not comparison.complete:
        return []
    scores = _group_by_set(comparison.finished)
    groups = {
        record.params.get(REFRESH, "0"): comparison.code_groups(record.predictions.files)
        for record in comparison.finished
    }
    found: list[tuple[str, str, SetContrast]] = []
    for one, other in combinations(scores, 2):
        of_sets = [
            contrast(np.stack(scores[one][key]), np.stack(scores[other][key]), groups[key])
            for key in sorted(set(scores[one]) & set(scores[other]))
        ]
        if len(of_sets) < FEWEST_SETS:
            continue
        over_sets = contrast_over_sets(
            np.array([of_set.estimate for of_set in of_sets]),
            np.array([of_set.image_variance for of_set in of_sets]),
            np.array([sum(v / n for v, n in zip(s.seed_variances, s.seeds, strict=True)) for s in of_sets]),
            comparison.train_images,
            comparison.val_images,
        )
        if over_sets.estimate < 0:
            one, other = other, one
            over_sets = SetContrast(-over_sets.estimate, over_sets.standard_error, over_sets.sets)
        found.append((one, other, over_sets))
    if not found:
        return []
    corrected = correct_by_holm(np.array([over_sets.p for _, _, over_sets in found]))
    together = 1 - (1 - CONFIDENCE) / len(found)
    verdicts = [
        SetVerdict(first, second, over_sets, float(p), *_judge(first, over_sets, float(p), together, margin))
        for (first, second, over_sets), p in zip(found, corrected, strict=True)
    ]
    return sorted(verdicts, key=lambda verdict: -verdict.found.estimate)


def _judge(first: str, found: SetContrast, p: float, together: float, margin: float) -> tuple[Judgement, str]:
    low, high = found.interval(together)
    if p < 1 - CONFIDENCE:
        by = f" by at least {at_least(low)}" if low > 0 and at_least(low) != at_least(0) else ""
        return Judgement.BETTER, f"{first} is better{by}"
    if max(-low, high) <= margin:
        return Judgement.EQUIVALENT, f"no difference of more than {at_most(max(-low, high))}"
    return Judgement.UNDECIDED, "undecided: more training sets would help, dataset.refresh=1,2,3,..."


def _group_by_set(records: Sequence[RunRecord]) -> dict[str, dict[str, list[np.ndarray]]]:
    """Returns variant -> training set -> what each seed's answers count for; of several runs of a seed, the last one's."""
    names: dict[tuple[tuple[str, str], ...], str] = {}
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    latest = {(key_of(record), record.seed): record for record in records}
    for record in sorted(latest.values(), key=lambda record: (record.seed, record.run_id)):
        settings = tuple(sorted((key, value) for key, value in read_settings(record).items() if key != REFRESH))
        name = re.sub(r"\s*\b(dataset\.)?refresh=\d+", "", record.variant).strip() or "default"
        if settings not in names:
            names[settings] = name if name not in names.values() else f"{name} {len(names) + 1}"
        of_set = found.setdefault(names[settings], {}).setdefault(record.params.get(REFRESH, "0"), [])
        of_set.append(record.scores)
    return found
