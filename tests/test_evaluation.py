"""The result of an evaluation beside what guessing scores."""

from types import SimpleNamespace

import numpy as np
import pytest

from catdog.data.predictions import Predictions
from catdog.deployment.evaluation import Evaluation, score_predictions


def evaluation(cats: int, dogs: int, right: int) -> Evaluation:
    """A model that gets the first `right` images right and the others wrong."""
    labels = ["cats"] * cats + ["dogs"] * dogs
    answers = [(label == "dogs") == (place < right) for place, label in enumerate(labels)]
    probabilities = np.array([[0.2, 0.8] if dog else [0.8, 0.2] for dog in answers])
    files = [f"{place}.jpg" for place in range(len(labels))]
    result = score_predictions(Predictions.build(files, labels, ("cats", "dogs"), probabilities))
    model = SimpleNamespace(name="pets", version="1", run_id="0", run_name="cnn", words="pets version 1")
    return Evaluation(model, result, ("cats", "dogs"), 1, (), "")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "baseline", "words"),
    [
        (evaluation(75, 25, 90), 0.75, "always answering 'cats' is right on 0.750 of test"),
        (
            evaluation(75, 25, 78),
            0.75,
            "always answering 'cats' is right on 0.750 of test, which the interval does not exclude",
        ),
        (evaluation(75, 25, 50), 0.75, "always answering 'cats' is right on 0.750 of test: more often than this model"),
        (evaluation(50, 50, 90), 0.5, "always answering one class is right on 0.500 of test"),
    ],
)
def test_guessing_is_named_beside_the_accuracy(found: Evaluation, baseline: float, words: str) -> None:
    assert found.to_dict()["baseline"] == found.baseline == baseline
    assert found.baseline_words == words
