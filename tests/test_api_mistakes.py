"""Mistakes in calls of the Python API: the message that the command line would print, before anything is trained or read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import catdog
from catdog.deployment.prediction import TrainedModel

WORDS = ("model=cnn,augmented", "dataset=synthetic")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda study: study.train(["model=cnn", "seed=0"]),
            r"overrides: must be one text for each key, as in .*received \[",
        ),
        (lambda study: study.plan(None), "overrides: must be one text for each key"),
        (lambda study: study.train("-m", *WORDS), "-m: leave it out; keys with several values make a sweep here"),
        (lambda study: study.train(*WORDS, "study=other"), r"study: this is Study\('mine', .*received 'study=other'"),
        (
            lambda study: study.train(*WORDS, "++study=other"),
            r"study: this is Study\('mine', .*received '\+\+study=other'",
        ),
        (lambda study: study.plan(*WORDS, "tracking.uri=sqlite:///other.db"), r"tracking\.uri: this is Study\('mine'"),
        (lambda study: study.tune(*WORDS, "study=other"), r"study: this is Study\('mine'"),
        (lambda study: study.decide(*WORDS, "seed=0,1"), "seed: set by this command, received 'seed=0,1'"),
        (lambda study: study.decide(*WORDS, max_seeds="x"), "max_seeds: must be a whole number, received 'x'"),
        (lambda study: study.tune(*WORDS, trials="ten"), "trials: must be a whole number, received 'ten'"),
        (lambda study: study.tune(*WORDS, trials=True), "trials: must be a whole number, received True"),
        (lambda study: study.compare(margin="2%"), "margin: must be a number or None, received '2%'"),
        (lambda study: study.compare(metric=3), "metric: must be a text, received 3"),
        (lambda study: study.compare(metric="acc"), r"received 'acc'\. Did you mean accuracy\?"),
        (lambda study: study.train(*WORDS, n_jobs="two"), "n_jobs: must be a whole number.*, received 'two'"),
        (lambda _: catdog.Study(3), "study: must be a name without slashes, received 3"),
        (lambda _: catdog.Study("x", tracking_uri=5), "tracking_uri: must be an address .*, received 5"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, monkeypatch, call: Callable[[catdog.Study], object], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    study = catdog.Study("mine")
    with pytest.raises(catdog.UserError, match=said):
        call(study)
    assert not [*tmp_path.rglob("*.db")]


def test_the_name_of_the_study_itself_may_be_among_the_overrides() -> None:
    study = catdog.Study("my study")
    assert (
        study._place_last(["study=my study"])[-1] == study._place_last(["study='my study'"])[-1] == "study='my study'"
    )


@pytest.mark.parametrize(
    "options", [{"images": None}, {"images": []}, {"images": np.zeros((8, 8, 3), np.uint8), "batch_size": 0}]
)
def test_nothing_is_predicted_of_nothing(options) -> None:
    model = TrainedModel.__new__(TrainedModel)
    with pytest.raises(catdog.UserError, match=rf"^{list(options)[-1]}: must be "):
        model.predict(**options)
