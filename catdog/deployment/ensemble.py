"""Ensembles: the finished seeds of a variant become one model, which answers with the mean of their probabilities.

An ensemble is judged by its members' stored answers before it is built.

Source: Hansen and Salamon (1990), "Neural network ensembles", IEEE Transactions on Pattern Analysis and Machine Intelligence
12:993-1001; Lakshminarayanan, Pritzel and Blundell (2017), "Simple and scalable predictive uncertainty estimation using deep
ensembles", NeurIPS, for members that differ in their seed alone.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.config.schema import PromoteConfig, TrackingConfig
from catdog.data.predictions import Predictions
from catdog.deployment.members import MAY_HAVE, choose_members, require_alike
from catdog.deployment.prediction import load_keras_model
from catdog.deployment.pyfunc import is_keras
from catdog.registry.champion import find_champion, promote
from catdog.statistics.contrasts import contrast, count_groups, single_interval
from catdog.system.errors import UserError
from catdog.system.wording import in_groups, listed, percent, signed, signed_interval
from catdog.tracking import tags as tag
from catdog.tracking.metric_names import FAIR_VAL_ACCURACY, MS_PER_IMAGE, PARAMETERS
from catdog.tracking.models import describe_model
from catdog.tracking.recording import Origin, record_run
from catdog.tracking.records import StoredRun, find_run, list_ensembles
from catdog.tracking.scores import load_score
from catdog.tracking.study_data import load_run_dataset

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.data.dataset import Dataset, SplitImages

log = logging.getLogger(__name__)

# How far the built model may be from the mean of its members' stored answers. Mixed precision rounds other batches otherwise, and
# so does another kind of device; another model, or another order of classes, is much farther away.
TOLERANCE, MIXED_TOLERANCE = 1e-3, 0.05
# The length of a name that still fits into a table.
LONGEST_NAME = 60


@dataclass(frozen=True)
class Difference:
    """What an ensemble adds in val accuracy, on the same images.

    Attributes:
        to: what it is compared with, in words.
        estimate: the difference, ensemble minus the other, as a fraction.
        low: lower bound of its 95% interval, over images alone: it holds for these models.
        high: upper bound.
    """

    to: str
    estimate: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """The difference in a sentence, in percentage points."""
        return f"{signed(self.estimate)} points {signed_interval(self.low, self.high)}"


@dataclass(frozen=True, eq=False)
class EnsemblePlan:
    """An ensemble that is not built yet, judged by its members' stored answers to the validation images.

    Attributes:
        name: its name in the study, which names its members.
        members: the runs, in the order of their variants and seeds.
        answers: the mean of their stored probabilities.
        scores: float64 (N,), what its answers count for: whether they are right, less what its members are flattered by if the
            validation images chose their epochs.
        member_accuracies: their fair val accuracies, in [0, 1].
        to_members: what the ensemble adds to the mean of its members.
        to_champion: what it adds to the champion; None: they are not compared.
        no_champion: if not, why, in words.
        run_id: the run of the same ensemble if that exists already; "" otherwise.
        groups: int (N,), the groups that the validation images come in; None if every image is a group of its own.
    """

    name: str
    members: tuple[StoredRun, ...]
    answers: Predictions
    scores: np.ndarray
    member_accuracies: tuple[float, ...]
    to_members: Difference
    to_champion: Difference | None
    no_champion: str = ""
    run_id: str = ""
    groups: np.ndarray | None = None

    @property
    def accuracy(self) -> float:
        """Its fair val accuracy, in [0, 1]."""
        return float(self.scores.mean()) if self.is_cross_fitted else self.answers.accuracy

    @property
    def is_cross_fitted(self) -> bool:
        """Whether the accuracy accounts for the choice of the members' epochs on the validation images."""
        return not np.array_equal(self.scores, self.answers.right)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of that accuracy over images, or over groups of images."""
        return single_interval(self.scores if self.is_cross_fitted else self.answers.right, self.groups)

    def describe(self) -> list[str]:
        """Returns what the stored answers say, as lines for a terminal."""
        low, high = self.interval
        each = ", ".join(percent(accuracy) for accuracy in self.member_accuracies)
        shown = in_groups(len(self.answers), count_groups(self.groups), "validation image")
        champion = self.no_champion if self.to_champion is None else f"{self.to_champion.words}, {self.to_champion.to}"
        accuracy = "fair val accuracy" if self.is_cross_fitted else "val accuracy"
        return [
            f"{self.name}, judged by stored answers to {shown}:",
            f"  {accuracy:<19}  {percent(self.accuracy)} % [{percent(low)}, {percent(high)}]",
            f"  its members          {each}; mean {percent(float(np.mean(self.member_accuracies)))} %",
            f"  less their mean      {self.to_members.words}",
            f"  less the champion    {champion}",
            f"Intervals are over {'images' if self.groups is None else 'groups of images'}: they hold for these models.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as lists, numbers and texts."""
        return {
            "ensemble": self.name,
            "members": [
                {"run_id": run.run_id, "name": run.name, "variant": run.variant, "seed": run.seed, "val_accuracy": accuracy}
                for run, accuracy in zip(self.members, self.member_accuracies, strict=True)
            ],
            "val_images": len(self.answers),
            "val_groups": count_groups(self.groups),
            "val_accuracy": self.accuracy,
            "val_low": self.interval[0],
            "val_high": self.interval[1],
            **_list_difference("members", self.to_members),
            **_list_difference("champion", self.to_champion),
        }  # fmt: skip


def _list_difference(name: str, found: Difference | None) -> dict[str, Any]:
    keys = (f"difference_to_{name}", f"difference_to_{name}_low", f"difference_to_{name}_high")
    values = (found.estimate, found.low, found.high) if found else (None, None, None)
    return dict(zip(keys, values, strict=True))


@dataclass(frozen=True, eq=False)
class Ensemble:
    """An ensemble that was built and recorded.

    Attributes:
        plan: what it was built from.
        run_id: its run.
        is_new: whether it was built now; otherwise the study had it already.
        rounding: the largest difference of one of its probabilities from the mean of the members' stored ones; None if not new.
        promotions: the versions it became: the fields of `catdog.registry.champion.Promotion`.
    """

    plan: EnsemblePlan
    run_id: str
    is_new: bool = True
    rounding: float | None = None
    promotions: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as lists, numbers and texts, as `format=json` prints it."""
        versions = [{key: item[key] for key in ("name", "version", "is_champion")} for item in self.promotions]
        built = {"run_id": self.run_id, "is_new": self.is_new, "rounding": self.rounding, "versions": versions}
        return {**self.plan.to_dict(), **built}


# Judged before it is built.


def plan_ensemble(
    client: "MlflowClient", study: str, variant: str | None = None, run_ids: Sequence[str] | None = None
) -> EnsemblePlan:
    """Returns an ensemble of the finished seeds of a variant, or of the named runs, judged by their stored answers.

    Args:
        client: of the tracking store.
        study: its name.
        variant: the variant's name; None: the one whose mean val accuracy is highest, of those with two or more seeds.
        run_ids: the members, instead of a variant.

    Raises:
        UserError: there are no such members, or they cannot be one ensemble.
    """
    members = choose_members(client, study, variant, run_ids)
    require_alike(members)
    answered, member_scores = _align(client, members)
    mean = np.mean([one.probabilities for one in answered], axis=0)
    answers = Predictions(answered[0].files, answered[0].labels, answered[0].class_names, mean)
    flattery = np.mean([one.right - score for one, score in zip(answered, member_scores, strict=True)], axis=0)
    scores = answers.right - flattery
    groups = next((codes for run in members if (codes := run.load_groups(answers.files)) is not None), None)
    to_champion, reason = _compare_with_champion(
        client, study, members[0].data_digest, {run.run_id for run in members}, answers, scores, groups
    )
    return EnsemblePlan(
        name_ensemble(members), tuple(members), answers, scores, tuple(float(one.mean()) for one in member_scores),
        subtract(scores, np.stack(member_scores), "the mean of its members", groups), to_champion, reason,
        _find_built(client, study, members), groups,
    )  # fmt: skip


def name_ensemble(members: Sequence[StoredRun]) -> str:
    """Returns the name of an ensemble: its variant and seeds, or its runs, as far as they fit into a table."""
    variants = [*dict.fromkeys(run.variant for run in members)]
    of_variant = len(variants) == 1 and len({run.seed for run in members}) == len(members)
    seeds = ", ".join(str(run.seed) for run in members)
    name = (
        f"ensemble of {variants[0]}, seeds {seeds}"
        if of_variant
        else f"ensemble of {listed([r.name for r in members])}"
    )
    short = (
        f"ensemble of {variants[0]}, {len(members)} runs" if len(variants) == 1 else f"ensemble of {len(members)} runs"
    )
    return name if len(name) <= LONGEST_NAME else short


def _align(client: "MlflowClient", members: Sequence[StoredRun]) -> tuple[list[Predictions], list[np.ndarray]]:
    """Returns the members' stored answers and what they count for, in the order of the first member's files.

    If what one of them is flattered by is not known, they all count as they are, as in `catdog.tracking.scores`.
    """
    found = [run.load_predictions() for run in members]
    first = found[0]
    problems = []
    aligned: list[Predictions] = []
    scores: list[np.ndarray] = []
    is_flattered = False
    for run, one in zip(members, found, strict=True):
        place = {file: row for row, file in enumerate(one.files)}
        if not len(one):
            problems.append(f"{run.name} ({run.run_id}) has no stored answers")
        elif one.class_names != first.class_names or {*place} != {*first.files}:
            problems.append(f"{run.name} ({run.run_id}) did not answer the same images with the same classes")
        else:
            order = np.array([place[file] for file in first.files])
            aligned.append(Predictions(first.files, one.labels[order], one.class_names, one.probabilities[order]))
            score = load_score(client, run, one)
            is_flattered |= score.is_flattered
            scores.append(score.values[order])
    if problems:
        raise UserError(f"runs: {MAY_HAVE}: {'; '.join(problems)}. Leave {'it' if len(problems) == 1 else 'them'} out.")
    return aligned, [one.right.astype(float) for one in aligned] if is_flattered else scores


def subtract(scores: np.ndarray, others: np.ndarray, to: str, groups: np.ndarray | None) -> Difference:
    """Returns the difference in accuracy: `scores` is float (N,), `others` float (S, N) on the same images, in groups int (N,)."""
    if count_groups(groups) == 1:
        return Difference(to, float(scores.mean() - others.mean()), float("nan"), float("nan"))
    found = contrast(scores[np.newaxis], others, groups)
    return Difference(to, float(found.estimate), float(found.low), float(found.high))


def _compare_with_champion(
    client: "MlflowClient",
    study: str,
    data_digest: str,
    members: set[str],
    answers: Predictions,
    scores: np.ndarray,
    groups: np.ndarray | None,
) -> tuple[Difference | None, str]:
    """Returns what the ensemble adds to the champion of the study; or None, and why they are not compared."""
    version = find_champion(client, study)
    if version is None:
        return None, "the study has none"
    champion = find_run(client, version.run_id)
    if champion is not None and {*champion.tags.ensemble_of} == members:
        return None, f"it is the champion, {version.name} version {version.version}"
    if champion is None:
        return None, "not compared: its run was removed"
    if champion.data_digest != data_digest:
        return None, "not compared: it was chosen on other images"
    stored = champion.load_predictions()
    place = {file: row for row, file in enumerate(stored.files)}
    if {*place} != {*answers.files}:
        return None, "not compared: it answered other validation images"
    standing = load_score(client, champion, stored).values[np.array([place[file] for file in answers.files])]
    words = f"{version.name} version {version.version}, {champion.name}"
    return subtract(scores, standing[np.newaxis], words, groups), ""


def _find_built(client: "MlflowClient", study: str, members: Sequence[StoredRun]) -> str:
    wanted = {run.run_id for run in members}
    built = (one for one in list_ensembles(client, study) if one.is_finished and {*one.tags.ensemble_of} == wanted)
    return next((one.run_id for one in built if one.model_uri), "")


# Building it.


def build_ensemble(
    client: "MlflowClient",
    tracking: TrackingConfig,
    study: str,
    plan: EnsemblePlan,
    promotion: PromoteConfig,
    *,
    command: str,
    archive: str | None = None,
    cache: str | None = None,
    batch_size: int = 32,
) -> Ensemble:
    """Builds an ensemble, checks its answers, and records it as a run of the study; its model competes with the champion.

    Args:
        client: of the tracking store.
        tracking: the tracking section.
        study: its name.
        plan: the ensemble.
        promotion: the rules by which it may become champion.
        command: the command line that asks for it.
        archive: where the members' data set is now; None: where it was.
        cache: folder for decoded images; None: this machine's.
        batch_size: images per step.

    Raises:
        UserError: a member's model cannot be part of an ensemble, its images are gone, or the ensemble does not answer as its
            members did.
    """
    if plan.run_id:
        log.info("%s exists already: run %s", plan.name, plan.run_id)
        found = [asdict(one) for one in promote(client, promotion, [plan.run_id])]
        return Ensemble(plan, plan.run_id, is_new=False, promotions=found)
    dataset = load_run_dataset(plan.members[0], "Bring the original data back.", archive=archive, cache=cache)
    built = _build(client, plan, dataset.load_split("val", plan.members[0].image_size), batch_size)
    return _record(client, tracking, study, plan, promotion, command, dataset, built)


@dataclass(frozen=True, eq=False)
class _Built:
    """A built model, its answers, how far they are from the members' stored ones, and the milliseconds that an image takes."""

    model: Any
    answers: Predictions
    rounding: float
    ms_per_image: float


def _build(client: "MlflowClient", plan: EnsemblePlan, val: "SplitImages", batch_size: int) -> _Built:
    from catdog.training import preload  # noqa: F401  must come first: it keeps TensorFlow's import quiet

    # isort: split
    from catdog.training.predicting import predict_split, time_answers
    from catdog.training.views import average_members

    model = average_members([_load_member(client, run) for run in plan.members], "ensemble")
    answers = predict_split(model, val, batch_size)
    return _Built(model, answers, _check_answers(plan, answers), time_answers(model, val, batch_size))


def _record(
    client: "MlflowClient", tracking: TrackingConfig, study: str, plan: EnsemblePlan, promotion: PromoteConfig, command: str,
    dataset: "Dataset", built: _Built,
) -> Ensemble:  # fmt: skip
    members = {run.run_id: run.name for run in plan.members}
    # If validation images chose the epoch of a member, they took part in the choice of the ensemble.
    picked = any(run.params.get("trainer.keep") == "best" for run in plan.members)
    origin = Origin(
        tag.ENSEMBLE, plan.name, command, {tag.ENSEMBLE_OF: json.dumps(members)}, "best" if picked else "", promotion
    )
    with record_run(
        client, tracking, study, dataset, variant=plan.name, seed=0, config={"members": [*members]}, scripts={},
        reuse="never", promote=promote if promotion.enabled else None, origin=origin,
    ) as run:  # fmt: skip
        run.log_metrics({
            PARAMETERS: built.model.count_params(), MS_PER_IMAGE: built.ms_per_image,
            "ensemble/members": len(members), "ensemble/rounding": built.rounding,
            "ensemble/mean_member_accuracy": float(np.mean(plan.member_accuracies)),
            "ensemble/difference_to_members": plan.to_members.estimate,
            **({FAIR_VAL_ACCURACY: plan.accuracy} if plan.is_cross_fitted else {}),
        })  # fmt: skip
        run.log_text("\n".join(plan.describe()), "ensemble.txt")
        run.log_model(built.model)
        answers = built.answers
        run.log_validation(list(answers.files), answers.labels, answers.probabilities, class_names=answers.class_names)
    return Ensemble(plan, run.run_id, rounding=built.rounding, promotions=run.promotions)


def _load_member(client: "MlflowClient", run: StoredRun) -> Any:
    """Returns a member's Keras model.

    Raises:
        UserError: it is of another tool, or needs code of the user's.
    """
    uri = run.model_uri
    assert uri is not None
    words = f"runs: {MAY_HAVE}: {run.name} ({run.run_id})"
    described = describe_model(client, uri)
    if not is_keras(described):
        raise UserError(f"{words} has no Keras model. Leave it out.")
    needs = (described.metadata or {}).get("needs", [])
    if needs:
        raise UserError(
            f"{words} has layers of your own code ({', '.join(needs)}), and an ensemble is saved as a graph of Keras' own layers. "
            "Leave it out."
        )
    model = load_keras_model(client, uri)
    expected = (None, run.image_size, run.image_size, 3)
    if tuple(model.input_shape) != expected:
        raise UserError(f"{words} has a model that takes {model.input_shape}, not {expected}. Leave it out.")
    return model


def _check_answers(plan: EnsemblePlan, answers: Predictions) -> float:
    """Returns the largest difference between the built model's probabilities and the mean of the members' stored ones.

    Raises:
        UserError: it is more than rounding.
    """
    place = {file: row for row, file in enumerate(answers.files)}
    order = [place.get(file, -1) for file in plan.answers.files]
    if min(order) < 0 or len(answers) != len(order):
        raise UserError(
            "dataset: the validation images that can be read are not those that the members answered. Bring the original data back."
        )
    distances = np.abs(answers.probabilities[order] - plan.answers.probabilities).max(axis=1)
    mixed = any(run.precision.startswith("mixed") for run in plan.members)
    rounding = float(distances.max())
    if rounding > (MIXED_TOLERANCE if mixed else TOLERANCE):
        raise UserError(
            f"runs: the ensemble does not answer as the mean of its members' stored answers: it differs by {rounding:.3f} for "
            f"{plan.answers.files[int(distances.argmax())]}, which is more than rounding. Were the members' files changed, or do "
            "other versions of the libraries compute something else? Nothing was recorded. Train the members again: reuse=never."
        )
    return rounding
