"""Verdicts on pairs of variants: what is decided and what is not, in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

import numpy as np

from catdog.comparison.records import ComparedRuns
from catdog.comparison.variants import Variant, compare_gap, compare_merits, count_looks
from catdog.statistics.contrasts import Contrast
from catdog.statistics.judgements import Judgement, judge
from catdog.statistics.proportions import CONFIDENCE, correct_by_holm
from catdog.statistics.sequential import spend_on_unplanned_look
from catdog.statistics.summaries import PairSummary, summarize_pair
from catdog.system.wording import in_groups, listed

# The words of a verdict that more seeds may decide.
MORE_SEEDS = "undecided; more seeds may decide it: decide trains as many as it takes"
# With more variants than this, only pairs with the best one are judged; the correction still counts all pairs.
MOST_VARIANTS = 8


class NoVerdict(StrEnum):
    """Why nothing is decided about two variants, whatever their difference."""

    ONE_SEED = "one seed"
    """The result is about these two models, not about the variants."""
    INCOMPLETE = "incomplete"
    # Trials of a search were chosen by the scores that would be compared.
    SEARCH = "search"


@dataclass(frozen=True, eq=False)
class Verdict:
    """A pair of variants and what can be said about it.

    Args:
        first: the variant with the better mean.
        second: the other.
        accuracy: the difference in the metric that is compared, usually the accuracy: above 0 if the first is better. Its own
            interval is for this pair alone.
        gap: the difference in the overfitting gap, first minus second.
        p: p-value of that difference, corrected for the number of pairs by Holm's method.
        low: lower bound of the simultaneous interval of that difference: all pairs' intervals hold together in 95% of
            studies.
        high: upper bound.
        kind: what is decided, or why nothing is decided.
        words: the verdict as a sentence.
        beside: what stands beside a verdict over seeds: probabilities, and what hidden failures would do; None without seeds.
    """

    first: Variant
    second: Variant
    accuracy: Contrast
    gap: Contrast
    p: float
    low: float
    high: float
    kind: Judgement | NoVerdict
    words: str
    beside: PairSummary | None = None

    @property
    def is_difference(self) -> bool:
        """Whether the difference is more than chance, after correction: over seeds, or with one seed over these images."""
        return self.kind == Judgement.BETTER or (self.kind == NoVerdict.ONE_SEED and self.low > 0)

    @property
    def brief(self) -> str:
        """The verdict without the names of the variants, for a table whose rows all have the same first variant."""
        if self.kind == NoVerdict.ONE_SEED:
            return "better on these images; other seeds may differ" if self.low > 0 else "not told apart"
        return self.words.removeprefix(f"{self.first.name} is ")


def judge_pairs(comparison: ComparedRuns, variants: Sequence[Variant], margin: float) -> list[Verdict]:
    """Returns the verdicts on the pairs of variants, largest difference first; none if the runs saw different data.

    A pair is decided if the difference is significant at 5% after Holm's correction, or if its interval, widened so that all
    pairs' intervals hold together (Bonferroni), lies within the margin. So a variant is wrongly called better in at most 5% of
    studies, however many pairs there are. Seeds that were added after an earlier look make this another look, which has to show
    more: see `catdog.statistics.sequential.spend_on_unplanned_look`.

    Args:
        comparison: where the variants come from; if it is incomplete, nothing is decided.
        variants: the variants, with answers to the same images.
        margin: differences up to this are as good as none, more than 0.
    """
    if not comparison.same_data or len(variants) < 2 or variants[0].units < 2:
        return []
    ranked = sorted(variants, key=lambda variant: -variant.merit)
    pairs = [(a, b) for a, b in combinations(ranked, 2) if len(ranked) <= MOST_VARIANTS or a is ranked[0]]
    count = len(ranked) * (len(ranked) - 1) // 2
    found = [(a, b, compare_merits(a, b), compare_gap(a, b)) for a, b in pairs]
    # Pairs that are not judged count with a p-value of 1.
    padded = [accuracy.p for _, _, accuracy, _ in found] + [1.0] * (count - len(found))
    corrected = correct_by_holm(np.array(padded))[: len(found)]
    error = spend_on_unplanned_look(count_looks(comparison, variants), 1 - CONFIDENCE)
    together = 1 - error / count
    summaries = {variant.name: variant.summarize_seeds(comparison.baseline) for variant in ranked}
    verdicts = []
    for (first, second, accuracy, gap), p in zip(found, corrected, strict=True):
        low, high = (float(bound) for bound in accuracy.interval(together))
        kind = _decide(comparison, accuracy, p, margin, together, error)
        words = _word(kind, first, second, accuracy, low, high, margin, together)
        beside = None
        if isinstance(kind, Judgement) and comparison.metric.is_accuracy:
            beside = summarize_pair(
                accuracy, summaries[first.name], summaries[second.name], kind, comparison.baseline, margin
            )
        verdicts.append(Verdict(first, second, accuracy, gap, float(p), low, high, kind, words, beside))
    return sorted(verdicts, key=lambda verdict: -verdict.accuracy.estimate)


def _decide(
    comparison: ComparedRuns, accuracy: Contrast, p: float, margin: float, together: float, error: float
) -> Judgement | NoVerdict:
    if comparison.of_search:
        return NoVerdict.SEARCH
    if not comparison.complete:
        return NoVerdict.INCOMPLETE
    if not accuracy.over_seeds:
        return NoVerdict.ONE_SEED
    return judge(accuracy, margin, together, differs=p < error)


def _word(
    kind: Judgement | NoVerdict,
    first: Variant,
    second: Variant,
    accuracy: Contrast,
    low: float,
    high: float,
    margin: float,
    together: float,
) -> str:
    if kind == NoVerdict.INCOMPLETE:
        return "no verdict: the sweep is incomplete"
    if kind == NoVerdict.SEARCH:
        return "no verdict: these are trials of a search, which its race decides"
    if kind == NoVerdict.ONE_SEED:
        if low > 0:
            return f"on these images {first.name} is better; other seeds may differ, as {_explain_one(first, second, 'one')}"
        return f"not told apart; {_explain_one(first, second, 'one seed')}"
    metric = first.metric
    if kind == Judgement.BETTER:
        # Holm's test may find a difference although the wider interval contains 0.
        by = f" by at least {metric.at_least(low)}" if low > 0 and metric.at_least(low) != metric.at_least(0) else ""
        return f"{first.name} is better{by}"
    if kind == Judgement.EQUIVALENT:
        return f"no difference of more than {metric.at_most(max(-low, high))}"
    half = metric.size(accuracy.image_half_width(together))
    images = f"these {in_groups(accuracy.images, accuracy.groups)} alone leave ±{half}"
    if kind == Judgement.FUTILE:
        return f"undecided, and more seeds will not help: {images}"
    needed = accuracy.seeds_to_decide(margin, together)
    if needed is None:
        # This assumes that the difference stays as it is, which it need not.
        return f"undecided; more images would help more than seeds: {images}"
    return MORE_SEEDS


def _explain_one(first: Variant, second: Variant, one_seed: str) -> str:
    """Returns which of two variants is one model, as an ensemble is, or ran with one seed, in words."""
    single = [variant for variant in (first, second) if len(variant.records) == 1]
    ensembles = [variant.name for variant in single if variant.members]
    if ensembles:
        return " and ".join(f"{name} is one model" for name in ensembles)
    return f"{listed([variant.name for variant in single])} ran with {one_seed}"
