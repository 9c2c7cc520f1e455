"""What a run counts for in comparisons: its score on each validation image, without the advantage of having been chosen on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from catdog.statistics.metrics import ACCURACY, NAMED, Metric
from catdog.system.errors import UserError
from catdog.tracking import metric_names
from catdog.tracking.records import StoredRun, find_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.data.epoch_answers import EpochAnswers
    from catdog.data.predictions import Predictions


@dataclass(frozen=True, eq=False)
class Score:
    """A kept model's score on each validation image, by a metric.

    Attributes:
        values: float64 (N,), in the order of the predictions: the metric's values, whose mean is the metric. For the accuracy an
            image's value is whether the answer is right, or the share of the halvings in which the epoch that the other images
            chose is right.
        is_flattered: whether the model was chosen on these images and the score does not account for it, because the answers of the
            epochs are not stored.
        is_cross_fitted: whether the score accounts for such a choice.
        lacks_probabilities: whether it is only flattered because the answers of the epochs are stored without their probabilities.
    """

    values: np.ndarray
    is_flattered: bool = False
    is_cross_fitted: bool = False
    lacks_probabilities: bool = False

    @property
    def mean(self) -> float:
        """The score that counts; NaN without images."""
        return float(self.values.mean()) if len(self.values) else float("nan")


def load_score(client: "MlflowClient", run: StoredRun, predictions: "Predictions", metric: Metric = ACCURACY) -> Score:
    """Returns what a run's kept model counts for on each validation image.

    An ensemble is made of models that were chosen on these images, so its answers count less what its members' were flattered by.

    Args:
        client: of the tracking store.
        run: a finished run, or an ensemble.
        predictions: its stored predictions for the validation images.
        metric: what is measured.

    Raises:
        UserError: the metric is not possible for these classes, or its function is wrong.
    """
    return load_scores(client, run, predictions, (metric,))[metric.name]


def load_scores(
    client: "MlflowClient",
    run: StoredRun,
    predictions: "Predictions",
    metrics: Sequence[Metric],
) -> dict[str, Score]:
    """Returns the scores by several metrics, by the metrics' names; as `load_score`."""
    if not len(predictions):
        return {metric.name: Score(np.zeros(0)) for metric in metrics}
    if run.tags.ensemble_of:
        return {metric.name: _score_ensemble(client, run, predictions, metric) for metric in metrics}
    # Read once for all metrics.
    answers = run.load_epoch_answers() if run.chose_on_val else None
    return {metric.name: _score_run(run, predictions, answers, metric) for metric in metrics}


def _score_run(
    run: StoredRun,
    predictions: "Predictions",
    answers: "EpochAnswers | None",
    metric: Metric,
) -> Score:
    plain = measure_kept(run, predictions, metric)
    if not run.chose_on_val:
        return Score(plain)
    epoch = run.metrics.get(metric_names.KEPT_EPOCH)
    patience = run.params.get("trainer.patience")
    if answers is None or epoch is None:
        return Score(plain, is_flattered=True)
    fair = answers.cross_fit(
        predictions, int(epoch), metric=metric, keep_metric=NAMED[run.params.get("trainer.keep_metric") or ACCURACY.name],
        patience=None if patience in (None, "None") else int(patience), groups=run.load_groups(predictions.files),
    )  # fmt: skip
    if fair is None:
        return Score(plain, is_flattered=True, lacks_probabilities=answers.probabilities is None)
    return Score(fair, is_cross_fitted=True)


def measure_kept(run: StoredRun, predictions: "Predictions", metric: Metric) -> np.ndarray:
    """Returns the plain values of a metric for a run's kept model: float64 (N,).

    Raises:
        UserError: the metric is not possible for these classes, or its function is wrong.
    """
    if metric.is_accuracy:
        return predictions.right.astype(float)
    metric.require_classes("metric", predictions.class_names)
    problem = "all its images are of one class"
    try:
        values = metric.values(predictions.answers)
        if np.isfinite(values).all():
            return values
    except ValueError as error:
        problem = str(error)
    raise UserError(
        f"metric: {metric.name} cannot be measured for {run.name} ({run.run_id}): {problem}. Use metric=accuracy, or leave "
        "the run out."
    )


def _score_ensemble(client: "MlflowClient", run: StoredRun, predictions: "Predictions", metric: Metric) -> Score:
    plain = measure_kept(run, predictions, metric)
    excess = []
    fitted = False
    for run_id in run.tags.ensemble_of:
        member = find_run(client, run_id)
        answered = member.load_predictions() if member else None
        if member is None or answered is None or list(answered.files) != list(predictions.files):
            return Score(plain, is_flattered=True)
        score = load_score(client, member, answered, metric)
        if score.is_flattered:
            return Score(plain, is_flattered=True, lacks_probabilities=score.lacks_probabilities)
        excess.append(measure_kept(member, answered, metric) - score.values)
        fitted |= score.is_cross_fitted
    return Score(plain - np.mean(excess, axis=0), is_cross_fitted=fitted)
