"""A comparison with its conclusions: variants, verdicts on their pairs, effects of ingredients."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from catdog.comparison.effects import Effect, find_effects
from catdog.comparison.names import common_overrides
from catdog.comparison.records import ComparedRuns, RunRecord
from catdog.comparison.training_sets import SetVerdict, judge_over_sets
from catdog.comparison.variants import Variant, count_looks, group_by_variant, key_of, name_variants
from catdog.comparison.verdicts import MOST_VARIANTS, Verdict, judge_pairs
from catdog.statistics.judgements import Judgement
from catdog.tracking.records import log_compared

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Of a search, which has more variants than are drawn: the number of variants whose answers are shown image by image.
MOST_EXAMINED = 4


@dataclass(frozen=True, eq=False)
class Analysis:
    """The conclusions of a comparison.

    Args:
        comparison: the runs.
        variants: the variants of its finished runs, in the order of the first run of each.
        verdicts: on pairs of variants, largest difference first; none if the runs saw different data.
        effects: the same pairs by ingredient.
        margin: differences in accuracy up to this are as good as none, in (0, 1).
    """

    comparison: ComparedRuns
    variants: Sequence[Variant]
    verdicts: Sequence[Verdict]
    effects: Sequence[Effect]
    margin: float

    @cached_property
    def ranked(self) -> list[Variant]:
        """The variants, highest mean accuracy of the kept models first."""
        return sorted(self.variants, key=lambda variant: -variant.accuracy)

    @property
    def best(self) -> Variant | None:
        """The variant with the highest mean accuracy; None if there is no variant, or the runs saw different data."""
        return self.ranked[0] if self.variants and self.comparison.same_data else None

    @property
    def is_cross_fitted(self) -> bool:
        """Whether the accuracies of a variant account for the choice of the kept epochs on the validation images."""
        return any(variant.is_cross_fitted for variant in self.variants)

    @property
    def compared(self) -> str:
        """What is compared, in words for headings: "fair val accuracy", or "kept val accuracy" if no run was chosen on val."""
        return "fair val accuracy" if self.is_cross_fitted else "kept val accuracy"

    @cached_property
    def set_verdicts(self) -> list[SetVerdict]:
        """Verdicts over training sets, if the runs were trained on several, drawn anew by `dataset.refresh`; otherwise none."""
        return judge_over_sets(self.comparison, self.margin)

    @property
    def is_search(self) -> bool:
        """Whether there are so many variants that a ranking says more than a comparison of each with each."""
        return len(self.variants) > MOST_VARIANTS

    @cached_property
    def drawn(self) -> list[Variant]:
        """The variants that are drawn: all in the order of `variants`, or of a search the best, highest accuracy first."""
        return list(self.ranked[:MOST_VARIANTS] if self.is_search else self.variants)

    @property
    def examined(self) -> list[Variant]:
        """The variants whose answers are shown image by image: those that are drawn, or of a search the best few."""
        return self.drawn[:MOST_EXAMINED] if self.is_search else self.drawn

    @cached_property
    def common(self) -> list[str]:
        """The overrides that all runs have in common, such as "trainer.epochs=20"; the names do not repeat them."""
        return common_overrides(self.comparison.records)

    @cached_property
    def colours(self) -> dict[str, str]:
        """Variant name -> itself. The order fixes each variant's colour in every figure; drawn variants come first."""
        drawn = [variant.name for variant in self.drawn]
        return {name: name for name in [*drawn, *(v.name for v in self.variants if v.name not in drawn)]}

    @cached_property
    def unfinished(self) -> dict[str, list[RunRecord]]:
        """Variant name -> its runs without a result."""
        names = name_variants(self.comparison)
        found: dict[str, list[RunRecord]] = {}
        for record in self.comparison.records:
            if not record.finished or not record.kept_images:
                found.setdefault(names[key_of(record)], []).append(record)
        return found

    def log_look(self, client: "MlflowClient") -> None:
        """Counts this look on the runs that were judged, so that seeds which are added to them later make another look.

        Nothing is counted if nothing was judged over seeds, or if these runs have been judged like this before.
        """
        if self.comparison.decided or not any(isinstance(verdict.kind, Judgement) for verdict in self.verdicts):
            return
        looks = count_looks(self.comparison, self.variants)
        for variant in self.variants:
            for record in variant.records:
                if len(variant.records) > 1 and record.tags.compared < looks:
                    log_compared(client, record.run_id, looks)

    @property
    def seeds_varied(self) -> bool:
        """Whether every variant ran with two seeds or more."""
        return bool(self.variants) and all(len(variant.records) > 1 for variant in self.variants)


def analyse(comparison: ComparedRuns, margin: float) -> Analysis:
    """Returns the conclusions of a comparison.

    Args:
        comparison: the runs.
        margin: differences in accuracy up to this are as good as none, in (0, 1).
    """
    variants = group_by_variant(comparison)
    verdicts = judge_pairs(comparison, variants, margin)
    return Analysis(comparison, variants, verdicts, find_effects(variants, verdicts), margin)
