"""What a run counts for in comparisons: its score on each validation image, without the advantage of having been chosen on them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from catdog.tracking import metric_names
from catdog.tracking.records import StoredRun, find_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.data.predictions import Predictions


@dataclass(frozen=True, eq=False)
class Score:
    """A kept model's score on each validation image.

    Attributes:
        values: float64 (N,), in the order of the predictions; whether the answer is right, or the share of the halvings in which
            the epoch that the other images chose is right.
        is_flattered: whether the model was chosen on these images and the score does not account for it, because the answers of the
            epochs are not stored.
        is_cross_fitted: whether the score accounts for such a choice.
    """

    values: np.ndarray
    is_flattered: bool = False
    is_cross_fitted: bool = False

    @property
    def mean(self) -> float:
        """The accuracy that counts, in [0, 1]; NaN without images."""
        return float(self.values.mean()) if len(self.values) else float("nan")


def load_score(client: "MlflowClient", run: StoredRun, predictions: "Predictions") -> Score:
    """Returns what a run's kept model counts for on each validation image.

    An ensemble is made of models that were chosen on these images, so its answers count less what its members' were flattered by.

    Args:
        client: of the tracking store.
        run: a finished run, or an ensemble.
        predictions: its stored predictions for the validation images.
    """
    right = predictions.right.astype(float)
    if run.tags.ensemble_of:
        return _score_ensemble(client, run, predictions)
    if not run.chose_on_val or not len(right):
        return Score(right)
    answers = run.load_epoch_answers()
    epoch = run.metrics.get(metric_names.KEPT_EPOCH)
    patience = run.params.get("trainer.patience")
    if answers is None or epoch is None:
        return Score(right, is_flattered=True)
    fair = answers.cross_fit(
        predictions.right,
        int(epoch),
        patience=None if patience in (None, "None") else int(patience),
        groups=run.load_groups(predictions.files),
    )
    return Score(right, is_flattered=True) if fair is None else Score(fair, is_cross_fitted=True)


def _score_ensemble(client: "MlflowClient", run: StoredRun, predictions: "Predictions") -> Score:
    excess = []
    fitted = False
    for run_id in run.tags.ensemble_of:
        member = find_run(client, run_id)
        answered = member.load_predictions() if member else None
        if member is None or answered is None or list(answered.files) != list(predictions.files):
            return Score(predictions.right.astype(float), is_flattered=True)
        score = load_score(client, member, answered)
        if score.is_flattered:
            return Score(predictions.right.astype(float), is_flattered=True)
        excess.append(answered.right - score.values)
        fitted |= score.is_cross_fitted
    return Score(predictions.right - np.mean(excess, axis=0), is_cross_fitted=fitted)
