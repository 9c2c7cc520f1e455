"""The evidence that a challenger needs to replace the champion: the rule, and the runs to which it applies."""

import json
import logging
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from catdog.config.schema import PromoteConfig
from catdog.data.metrics import load_metric
from catdog.statistics.contrasts import Contrast
from catdog.statistics.judgements import Judgement, judge
from catdog.statistics.metrics import ACCURACY, NAMED, Metric
from catdog.system.wording import plural
from catdog.tracking import tags as tag
from catdog.tracking.records import StoredRun, find_seeds
from catdog.tracking.scores import Score, load_score

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

    from catdog.data.predictions import Predictions

log = logging.getLogger(__name__)

MOST_RUNS = 100
# The number of seeds to suggest if seeds were not varied.
FIRST_SEEDS = 5


class Reason(StrEnum):
    """Why the alias moves or stays, in cases where no `Judgement` of the difference says it."""

    FIRST = "first"
    """There was no champion."""
    OTHER_DATA = "other data"
    """The champion was chosen on other data, and may be replaced."""
    FORCED = "forced"
    NOT_WORSE = "not worse"
    """Higher on average, and not worse by more than the margin."""
    NOT_BETTER = "not better"
    """Not higher on average, though it may be equally good. Older versions of catdog stored "worse" for this as well."""
    CALIBRATION = "calibration"
    """Its calibration error is worse by more than allowed."""
    NOT_COMPARABLE = "not comparable"


MOVES = (Judgement.BETTER, Reason.FIRST, Reason.NOT_WORSE, Reason.OTHER_DATA, Reason.FORCED)


@dataclass(frozen=True)
class Evidence:
    """The evidence for a challenger against the champion, and the outcome; stored on the model version.

    Attributes:
        outcome: the alias moves if this is one of MOVES; otherwise it stays.
        words: the reason, as a sentence without a full stop.
        difference: in the metric that is compared, challenger minus champion; None if they were not compared.
        low: lower bound of its 95% interval.
        high: upper bound.
        images: number of validation images that both predicted.
        over_seeds: whether the interval covers seeds and images, or images alone.
        challenger_runs: MLflow run ids of the challenger's variant that were counted.
        champion_runs: those of the champion's variant.
        challenger_calibration_error: the mean over its runs, in [0, 1].
        champion_calibration_error: the same for the champion.
        margin: `promote.margin` at the time of the decision.
        metric: `promote.metric`: what was compared.
    """

    outcome: Judgement | Reason
    words: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    images: int = 0
    over_seeds: bool = False
    challenger_runs: tuple[str, ...] = ()
    champion_runs: tuple[str, ...] = ()
    challenger_calibration_error: float | None = None
    champion_calibration_error: float | None = None
    margin: float = 0.0
    metric: str = ACCURACY.name

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> "Evidence | None":
        """Returns the evidence stored on a model version; None if there is none that this version of catdog can read."""
        try:
            found = json.loads(tags.get(tag.EVIDENCE, "null"))
            if found is None:
                return None
            word = found.pop("outcome")
            outcome = Judgement(word) if word in set(Judgement) else Reason(word)
            runs = {key: tuple(found.get(key, ())) for key in ("challenger_runs", "champion_runs")}
            return cls(**{**found, **runs, "outcome": outcome})
        except (ValueError, TypeError, KeyError):
            return None

    @property
    def moves(self) -> bool:
        """Whether the challenger becomes champion."""
        return self.outcome in MOVES

    @property
    def tags(self) -> dict[str, str]:
        """The tags that store the evidence on the model version."""
        interval = "" if self.low is None or self.high is None else f"{self.low:+.4f} to {self.high:+.4f}"
        return {
            tag.EVIDENCE: json.dumps(asdict(self)),
            tag.EVIDENCE_OUTCOME: self.outcome.value,
            **({tag.EVIDENCE_INTERVAL: interval} if interval else {}),
        }

    @property
    def description(self) -> str:
        """The evidence in Markdown, for the version's page in MLflow."""
        lines = [f"**{self.outcome}**: {self.words}."]
        if self.difference is not None and self.low is not None and self.high is not None:
            kind = "seeds and images" if self.over_seeds else "images alone: each side is one model"
            named, shown = self._describe_difference(self.difference, self.low, self.high)
            lines += [
                "",
                f"| val {named}, challenger less champion | 95% interval | images | runs | calibration error |",
                "|---|---|---|---|---|",
                f"| {shown[0]} | {shown[1]}, over {kind} | {self.images:,} "
                f"| {len(self.challenger_runs)} against {len(self.champion_runs)} "
                f"| {self.challenger_calibration_error:.3f} against {self.champion_calibration_error:.3f} |",
                "",
                f"Challenger: {', '.join(self.challenger_runs)}. Champion: {', '.join(self.champion_runs)}.",
            ]
        return "\n".join(lines)

    def _describe_difference(self, difference: float, low: float, high: float) -> tuple[str, tuple[str, str]]:
        """Returns the name of the metric, and the difference and its interval, in words."""
        metric = NAMED.get(self.metric)
        if metric is None:
            return self.metric, (f"{difference:+.4g}", f"[{low:+.4g}, {high:+.4g}]")
        bounds = sorted((metric.orient(low), metric.orient(high)))
        name = metric.words if metric.higher_is_better else f"{metric.words} ({metric.direction})"
        shown = f"{metric.show_difference(metric.orient(difference))} {metric.unit}".rstrip()
        return name, (shown, metric.show_difference_interval(*bounds))


def weigh(
    found: Contrast, calibration: tuple[float, float], config: PromoteConfig, metric: Metric = ACCURACY
) -> tuple[Judgement | Reason, str]:
    """Returns the outcome and the reason in words, by the rule for replacing the champion.

    The challenger must be better on average, and its interval must exclude that it is worse by `promote.margin` or more. Its
    calibration error may exceed the champion's by at most `promote.calibration_margin`. The rule makes no correction for a
    challenger that was picked as the best of several variants.

    Args:
        found: the difference, challenger minus champion, by the metric: above 0 if the challenger is better.
        calibration: the calibration errors of the challenger and of the champion, in [0, 1].
        config: the margins.
        metric: what is compared.
    """
    low, high = (float(bound) for bound in found.interval())
    judged = judge(found, config.margin)
    named = "" if metric.is_accuracy else f"{metric.words} "
    unit = f" {metric.unit}" if metric.unit else ""
    difference = (
        f"{named}{metric.show_difference(float(found.estimate))}{unit} {metric.show_difference_interval(low, high)}"
    )
    seen = f"{difference} on {plural(found.images, 'val image')}"
    if found.estimate <= 0:
        outcome = judged if judged == Judgement.WORSE else Reason.NOT_BETTER
        return outcome, f"not better than the champion: {seen}"
    if low <= -config.margin:
        words = f"too little evidence: {seen} does not exclude that it is worse by {metric.size(config.margin)}"
        return Judgement.UNDECIDED, words
    excess = calibration[0] - calibration[1]
    if excess > config.calibration_margin:
        return (
            Reason.CALIBRATION,
            f"better ({seen}), but its calibration error is {calibration[0]:.3f}, the champion's {calibration[1]:.3f}: more than "
            f"promote.calibration_margin={config.calibration_margin:g} worse",
        )
    if judged != Judgement.BETTER:
        return (
            Reason.NOT_WORSE,
            f"{'higher' if metric.is_accuracy else 'better'} in the mean than the champion, and not worse by "
            f"{metric.size(config.margin)} or more: {seen}",
        )
    return judged, f"better than the champion: {seen}"


def compare_runs(
    client: "MlflowClient", challenger: StoredRun, champion: StoredRun, config: PromoteConfig
) -> tuple[Evidence, Contrast | None]:
    """Returns the evidence from the stored predictions of two models; of their variants, if both have several seeds.

    Only validation predictions are read; test results play no part.

    Args:
        client: of the tracking store.
        challenger: a finished run.
        champion: the champion's run.
        config: the rule's margins.
    """
    metric = load_metric(config.metric, "promote.metric")
    sides = [_load_seeds(client, run, metric) for run in (challenger, champion)]
    if not all(sides):
        whose = "the challenger's" if not sides[0] else "the champion's"
        return Evidence(Reason.NOT_COMPARABLE, f"not compared: {whose} answers to the validation images are gone"), None
    same_variant = challenger.tags.is_same_variant(champion.tags)
    # Seeds count within one study: what another study has trained is no further seed.
    same_study = challenger.experiment_id == champion.experiment_id
    if (same_variant and same_study) or min(map(len, sides)) == 1:
        # Two seeds of one variant cannot be compared as variants, so the two models are compared.
        own = (challenger.run_id, champion.run_id)
        sides = [{key: side[key]} if key in side else {} for key, side in zip(own, sides, strict=True)]
        if not all(sides):
            return Evidence(Reason.NOT_COMPARABLE, "not compared: the answers of one of the models are gone"), None
    arrays = [_stack(side) for side in sides]
    files = sorted(set(arrays[0][0]) & set(arrays[1][0]))
    labels_differ = any(arrays[0][0].get(file) != arrays[1][0].get(file) for file in files)
    if len(files) < 2 or labels_differ or len(files) < max(len(array[0]) for array in arrays):
        return Evidence(Reason.NOT_COMPARABLE, "not compared: the two answered different validation images"), None
    from catdog.statistics.contrasts import contrast

    found = contrast(*(metric.orient(scores[files].to_numpy(dtype=float)) for _, scores, _ in arrays))
    calibration = (float(np.mean(arrays[0][2])), float(np.mean(arrays[1][2])))
    outcome, words = weigh(found, calibration, config, metric)
    if same_variant:
        words += ", as another seed of the same variant" if same_study else ", as the same variant in another study"
    low, high = sorted(float(metric.orient(bound)) for bound in found.interval())
    evidence = Evidence(
        outcome, words, float(metric.orient(found.estimate)), low, high, found.images, bool(found.over_seeds),
        tuple(sides[0]), tuple(sides[1]), *calibration, config.margin, config.metric,
    )  # fmt: skip
    return evidence, found


def _load_seeds(client: "MlflowClient", run: StoredRun, metric: Metric) -> "dict[str, tuple[Predictions, Score]]":
    """Returns run id -> validation predictions and their score, of the finished runs of a run's variant, one for each seed."""
    stored = {}
    for other in find_seeds(client, run, MOST_RUNS):
        predictions = other.load_predictions()
        if len(predictions):
            stored[other.run_id] = (predictions, load_score(client, other, predictions, metric=metric))
    return stored


def _stack(stored: "dict[str, tuple[Predictions, Score]]") -> tuple[dict[str, str], "pd.DataFrame", list[float]]:
    """Returns the label by file, the scores: float (runs, files), and each run's calibration error."""
    import pandas as pd

    from catdog.statistics.calibration import calibration_error

    labels: dict[str, str] = {}
    scores, errors = [], []
    for one, score in stored.values():
        scores.append(pd.Series(score.values, index=one.files))
        errors.append(calibration_error(one.probabilities, one.label_indices))
        labels |= dict(zip(one.files, one.labels, strict=True))
    return labels, pd.DataFrame(scores).dropna(axis=1), errors


def commands_for_more(challenger: StoredRun, champion: StoredRun, found: Contrast, config: PromoteConfig) -> list[str]:
    """Returns the commands that would get the evidence: more seeds of the champion's variant, then of the challenger's.

    Empty if more seeds would not help, as with two runs of one variant, or if the runs do not record how they were trained.
    """
    if challenger.tags.is_same_variant(champion.tags):
        return []
    seeds = FIRST_SEEDS
    if found.over_seeds:
        more = range(max(found.seeds) + 1, MOST_RUNS)
        enough = next((count for count in more if found.interval(seeds=(count, count))[0] > -config.margin), None)
        if enough is None:
            return []
        seeds = enough
    commands = []
    for run in (champion, challenger):
        kept = run.tags.overrides
        if kept is None:
            return []
        listed = ",".join(map(str, range(seeds)))
        commands.append(shlex.join(["python", "-m", "catdog.train", "-m", *kept, f"seed={listed}"]))
    return commands
