"""A comparison with its conclusions: variants, verdicts on their pairs, effects of ingredients."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from catdog.comparison.effects import Effect, find_effects
from catdog.comparison.names import common_overrides
from catdog.comparison.records import ComparedRuns, RunRecord
from catdog.comparison.training_sets import SetVerdict, judge_over_sets
from catdog.comparison.variants import (
    Recall,
    Variant,
    count_looks,
    group_by_variant,
    key_of,
    measure_recall,
    name_variants,
)
from catdog.comparison.verdicts import MOST_VARIANTS, Verdict, judge_pairs
from catdog.config.metrics import require_margin
from catdog.statistics.judgements import Judgement
from catdog.statistics.metrics import Metric
from catdog.statistics.proportions import CONFIDENCE
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
        margin: differences up to this are as good as none, more than 0.
    """

    comparison: ComparedRuns
    variants: Sequence[Variant]
    verdicts: Sequence[Verdict]
    effects: Sequence[Effect]
    margin: float

    @cached_property
    def ranked(self) -> list[Variant]:
        """The variants, the best mean of the kept models first."""
        return sorted(self.variants, key=lambda variant: -variant.merit)

    @property
    def best(self) -> Variant | None:
        """The variant with the best mean; None if there is no variant, or the runs saw different data."""
        return self.ranked[0] if self.variants and self.comparison.same_data else None

    @property
    def is_cross_fitted(self) -> bool:
        """Whether the accuracies of a variant account for the choice of the kept epochs on the validation images."""
        return any(variant.is_cross_fitted for variant in self.variants)

    @property
    def compared(self) -> str:
        """What is compared, in words for headings: "fair val accuracy", or "kept val accuracy" if no run was chosen on val."""
        return f"{'fair' if self.is_fair else 'kept'} val {self.metric.words}"

    @property
    def metric(self) -> Metric:
        """What is compared."""
        return self.comparison.metric

    @property
    def is_fair(self) -> bool:
        """Whether the values of the metric account for the choice of the kept epochs on the validation images."""
        return any(variant.is_fair for variant in self.variants)

    @cached_property
    def set_verdicts(self) -> list[SetVerdict]:
        """Verdicts on the accuracy over training sets, if the runs were trained on several; none by other metrics.

        Training sets are drawn anew by `dataset.refresh`.
        """
        return judge_over_sets(self.comparison, self.margin) if self.metric.is_accuracy else []

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
    def recalls(self) -> dict[str, list[Recall]]:
        """Variant name -> the recall of each class that has images, of the variants that are drawn.

        The intervals hold for all of them together in 95% of studies (Bonferroni).
        """
        outcomes = self.comparison.outcomes
        if not self.drawn or not len(outcomes):
            return {variant.name: [] for variant in self.drawn}
        labels = self.comparison.ranked[0].answers["label"].reindex(outcomes.files).to_numpy()
        names = list(self.comparison.class_counts)
        confidence = 1 - (1 - CONFIDENCE) / (len(names) * len(self.drawn))
        return {
            variant.name: [
                measure_recall(
                    name, variant.scores[:, labels == name], confidence,
                    None if variant.groups is None else variant.groups[labels == name],
                )
                for name in names
            ]
            for variant in self.drawn
        }  # fmt: skip

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


def analyse(comparison: ComparedRuns, margin: float | None = None) -> Analysis:
    """Returns the conclusions of a comparison.

    Args:
        comparison: the runs.
        margin: differences up to this are as good as none, more than 0; None: the metric's default.
    """
    variants = group_by_variant(comparison)
    margin = choose_margin(comparison.metric, margin)
    verdicts = judge_pairs(comparison, variants, margin)
    return Analysis(comparison, variants, verdicts, find_effects(variants, verdicts), margin)


def choose_margin(metric: Metric, margin: float | None) -> float:
    """Returns the margin that the user has given, or the metric's default.

    Raises:
        UserError: the metric has no default.
    """
    require_margin("margin", margin, metric.name)
    chosen = metric.margin if margin is None else margin
    assert chosen is not None
    return chosen
