"""The evidence that a challenger needs to replace the champion: the rule, and the runs to which it applies."""

import json
import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.config.schema import PromoteConfig
from catdog.data.metrics import load_metric
from catdog.statistics.contrasts import Contrast
from catdog.statistics.judgements import Judgement, judge
from catdog.statistics.metrics import ACCURACY, NAMED, Metric, step_of_smallest_class
from catdog.statistics.proportions import CONFIDENCE
from catdog.statistics.sequential import spend_on_challenge
from catdog.system.wording import in_groups
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
    OWN_ANSWERS = "own answers"
    """Its variant is better, but the model that would be served, one of its seeds, is not."""


MOVES = (Judgement.BETTER, Reason.FIRST, Reason.NOT_WORSE, Reason.OTHER_DATA, Reason.FORCED)
# After so many challenges on the same images, new ones are recommended.
MANY_CHALLENGES = 10


@dataclass(frozen=True)
class Challenge:
    """The place of a challenge in the chain of all challenges on the same images.

    Attributes:
        number: of the challenge, from 1.
        variants: how many variants the challenger was picked from.
        former: the evidence of an earlier challenge by the same model, whose number counts again if the same runs are compared.
    """

    number: int = 1
    variants: int = 1
    former: "Evidence | None" = None

    def number_for(self, challenger: "Sequence[str]", champion: "Sequence[str]", config: PromoteConfig) -> int:
        """Returns the number for a comparison of these runs: repeating a comparison, by the same rule, is no new challenge."""
        former = self.former
        if former is None or not former.challenge:
            return self.number
        same_runs = (former.challenger_runs, former.champion_runs) == (challenger, champion)
        same_rule = (former.metric, former.rule, former.margin) == (config.metric, config.rule, config.margin)
        return former.challenge if same_runs and same_rule else self.number

    def confidence(self, number: int, error: float) -> float:
        """Returns the confidence of the two-sided interval whose lower bound is wrong as rarely as the challenge may be."""
        return 1 - 2 * spend_on_challenge(number, error) / self.variants


@dataclass(frozen=True)
class Evidence:
    """The evidence for a challenger against the champion, and the outcome; stored on the model version.

    Attributes:
        outcome: the alias moves if this is one of MOVES; otherwise it stays.
        words: the reason, as a sentence without a full stop.
        difference: in the metric that is compared, challenger minus champion; None if they were not compared.
        low: lower bound of its interval, at `confidence`.
        high: upper bound.
        images: number of validation images that both predicted.
        over_seeds: whether the interval covers seeds and images, or images alone.
        challenger_runs: MLflow run ids of the challenger's variant that were counted.
        champion_runs: those of the champion's variant.
        challenger_calibration_error: the mean over its runs, in [0, 1].
        champion_calibration_error: the same for the champion.
        margin: `promote.margin` at the time of the decision.
        rule: `promote.rule`.
        confidence: of the interval; it grows with the number of the challenge and of the variants.
        challenge: the number of the challenge on these images, from 1; 0: they were not compared, or by an older version of catdog.
        variants: how many variants the challenger was picked from.
        error: `promote.error`, which all challenges share.
        own_difference: the same difference between the two models that are served; None if they are all that was compared.
        own_low: lower bound of its interval.
        own_high: upper bound.
        groups: the number of groups that these images come in; None if every image is a group of its own.
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
    rule: str = "not_worse"
    confidence: float = CONFIDENCE
    challenge: int = 0
    variants: int = 1
    error: float = 0.05
    own_difference: float | None = None
    own_low: float | None = None
    own_high: float | None = None
    groups: int | None = None
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

    def describe_chain(self) -> str:
        """Returns which challenge this was, and how much of the error has been spent on these images."""
        spent = sum(spend_on_challenge(number, self.error) for number in range(1, self.challenge + 1))
        picked = f", the best of {self.variants} variants" if self.variants > 1 else ""
        return (
            f"Challenge {self.challenge} on these images{picked}: {100 * spent:.2g}% of the {100 * self.error:g}% by which all "
            "challenges together may err are spent."
        )

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
            images = in_groups(self.images, self.groups)
            kind = "seeds and images" if self.over_seeds else "images alone: each side is one model"
            named, shown = self._describe_difference(self.difference, self.low, self.high)
            lines += [
                "",
                f"| val {named}, challenger less champion | {100 * self.confidence:.4g}% interval | images | runs "
                "| calibration error |",
                "|---|---|---|---|---|",
                f"| {shown[0]} | {shown[1]}, over {kind} | {images} "
                f"| {len(self.challenger_runs)} against {len(self.champion_runs)} "
                f"| {self.challenger_calibration_error:.3f} against {self.champion_calibration_error:.3f} |",
                "",
                f"Challenger: {', '.join(self.challenger_runs)}. Champion: {', '.join(self.champion_runs)}.",
            ]
            if self.own_difference is not None and self.own_low is not None and self.own_high is not None:
                _, own = self._describe_difference(self.own_difference, self.own_low, self.own_high)
                lines += ["", f"The two models that are served, by their own answers: {own[0]} {own[1]}."]
            if self.challenge:
                lines += ["", self.describe_chain()]
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
    found: Contrast,
    calibration: tuple[float, float],
    config: PromoteConfig,
    confidence: float = CONFIDENCE,
    own: Contrast | None = None,
    metric: Metric = ACCURACY,
) -> tuple[Judgement | Reason, str]:
    """Returns the outcome and the reason in words, by the rule for replacing the champion.

    By `promote.rule=better` the challenger's interval must lie above 0. By `not_worse` it must be better on average, and its
    interval must exclude that it is worse by `promote.margin` or more. By both, the model that would be served must not be worse
    than the one that is: higher by its own answers, and not worse by the margin or more. Its calibration error may exceed the
    champion's by at most `promote.calibration_margin`.

    Args:
        found: the difference, challenger minus champion, by the metric: above 0 if the challenger is better.
        calibration: the calibration errors of the challenger and of the champion, in [0, 1].
        config: the rule and its margins.
        confidence: of the intervals; `Challenge.confidence` accounts for other challenges, and for a challenger that was picked as
            the best of several variants.
        own: the same difference between the two models that are served; None: `found` is that.
        metric: what is compared.
    """
    low, high = (float(bound) for bound in found.interval(confidence))
    judged = judge(found, config.margin, confidence)
    difference = _show_difference(metric, found, confidence)
    seen = f"{difference} on {in_groups(found.images, found.groups, 'val image')}"
    if found.estimate <= 0:
        outcome = judged if judged == Judgement.WORSE else Reason.NOT_BETTER
        return outcome, f"not better than the champion: {seen}"
    if config.rule == "better" and low <= 0:
        if high <= config.margin:
            return (
                Judgement.EQUIVALENT,
                f"no better than the champion by more than {metric.size(config.margin)}: {seen}",
            )
        return Judgement.UNDECIDED, f"too little evidence: {seen} does not exclude that it is no better"
    if low <= -config.margin:
        words = f"too little evidence: {seen} does not exclude that it is worse by {metric.size(config.margin)}"
        return Judgement.UNDECIDED, words
    if own is not None and (own.estimate <= 0 or own.interval(confidence)[0] <= -config.margin):
        words = _show_difference(metric, own, confidence)
        return Reason.OWN_ANSWERS, f"its variant is better ({seen}), but not the model that would be served: {words}"
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
    client: "MlflowClient",
    challenger: StoredRun,
    champion: StoredRun,
    config: PromoteConfig,
    challenge: Challenge = Challenge(),
) -> tuple[Evidence, Contrast | None]:
    """Returns the evidence from the stored predictions of two models; of their variants, if both have several seeds.

    Only validation predictions are read; test results play no part.

    Args:
        client: of the tracking store.
        challenger: a finished run.
        champion: the champion's run.
        config: the rule and its margins.
        challenge: its place in the chain of challenges.
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
        served = (challenger.run_id, champion.run_id)
        sides = [{key: side[key]} if key in side else {} for key, side in zip(served, sides, strict=True)]
        if not all(sides):
            return Evidence(Reason.NOT_COMPARABLE, "not compared: the answers of one of the models are gone"), None
    arrays = [_stack(side) for side in sides]
    files = sorted(set(arrays[0][0]) & set(arrays[1][0]))
    labels_differ = any(arrays[0][0].get(file) != arrays[1][0].get(file) for file in files)
    if len(files) < 2 or labels_differ or len(files) < max(len(array[0]) for array in arrays):
        return Evidence(Reason.NOT_COMPARABLE, "not compared: the two answered different validation images"), None
    # Of a run from before there were groups, the other one knows them: both have the same images.
    groups = next((codes for run in (challenger, champion) if (codes := run.load_groups(files)) is not None), None)
    if groups is not None and groups.max() == 0:
        return Evidence(Reason.NOT_COMPARABLE, "not compared: all validation images are of one group"), None
    from catdog.statistics.contrasts import contrast

    first, second = (metric.orient(scores[files].to_numpy(dtype=float)) for _, scores, _ in arrays)
    found = contrast(first, second, groups)
    if metric.weighs_classes:
        found = found.at_least(step_of_smallest_class(Counter(arrays[0][0][file] for file in files).values()))
    calibration = (float(np.mean(arrays[0][2])), float(np.mean(arrays[1][2])))
    number = challenge.number_for(tuple(sides[0]), tuple(sides[1]), config)
    confidence = challenge.confidence(number, config.error)
    served = (challenger.run_id, champion.run_id)
    own = _compare_served(sides, served, arrays, files, groups, metric) if found.over_seeds else None
    outcome, words = weigh(found, calibration, config, confidence, own, metric)
    if same_variant:
        words += ", as another seed of the same variant" if same_study else ", as the same variant in another study"
    low, high = _turn(metric, found.interval(confidence))
    own_low, own_high = (None, None) if own is None else _turn(metric, own.interval(confidence))
    evidence = Evidence(
        outcome, words, float(metric.orient(found.estimate)), low, high, found.images, bool(found.over_seeds),
        tuple(sides[0]), tuple(sides[1]), *calibration, config.margin, config.rule, confidence, number, challenge.variants,
        config.error, None if own is None else float(metric.orient(own.estimate)), own_low, own_high, found.groups, config.metric,
    )  # fmt: skip
    return evidence, found


def _turn(metric: Metric, bounds: Sequence[Any]) -> tuple[float, float]:
    """Returns the bounds of a difference with the metric's own sign, the lower one first."""
    low, high = sorted(float(metric.orient(bound)) for bound in bounds)
    return low, high


def _show_difference(metric: Metric, found: Contrast, confidence: float) -> str:
    """Returns a difference with its interval, its unit and, unless it is the accuracy, the metric's name."""
    named = "" if metric.is_accuracy else f"{metric.words} "
    unit = f" {metric.unit}" if metric.unit else ""
    low, high = (float(bound) for bound in found.interval(confidence))
    return f"{named}{metric.show_difference(float(found.estimate))}{unit} {metric.show_difference_interval(low, high)}"


def _compare_served(
    sides: "Sequence[dict[str, Any]]",
    served: tuple[str, str],
    arrays: "Sequence[tuple[Any, pd.DataFrame, Any]]",
    files: list[str],
    groups: np.ndarray | None,
    metric: Metric,
) -> Contrast | None:
    """Returns the difference between the two models that are served, by their own answers; None if those of one are gone."""
    from catdog.statistics.contrasts import contrast

    if not all(run_id in side for run_id, side in zip(served, sides, strict=True)):
        return None
    rows = [[*side].index(run_id) for run_id, side in zip(served, sides, strict=True)]
    first, second = (
        metric.orient(scores[files].to_numpy(dtype=float)[row : row + 1])
        for row, (_, scores, _) in zip(rows, arrays, strict=True)
    )
    return contrast(first, second, groups)


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


def commands_for_more(
    challenger: StoredRun, champion: StoredRun, found: Contrast, config: PromoteConfig, challenge: Challenge
) -> list[str]:
    """Returns the commands that would get the evidence: more seeds of the champion's variant, then of the challenger's.

    Empty if more seeds would not help, as with two runs of one variant, or if the runs do not record how they were trained.
    """
    if challenger.tags.is_same_variant(champion.tags):
        return []
    seeds = FIRST_SEEDS
    if found.over_seeds:
        more = range(max(found.seeds) + 1, MOST_RUNS)
        # Comparing again is the next challenge.
        confidence = challenge.confidence(challenge.number + 1, config.error)
        least = 0.0 if config.rule == "better" else -config.margin
        enough = next((count for count in more if found.interval(confidence, (count, count))[0] > least), None)
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
