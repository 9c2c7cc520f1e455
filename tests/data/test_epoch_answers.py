"""The answers after each epoch, as they are stored."""

import numpy as np
import pytest

from catdog.data.epoch_answers import EpochAnswers
from catdog.data.predictions import Predictions
from catdog.statistics.metrics import NAMED


def build(epochs: int = 5, images: int = 13, classes: int = 0) -> EpochAnswers:
    rng = np.random.default_rng(1)
    answers = EpochAnswers.empty()
    for epoch in range(1, epochs + 1):
        kept = rng.random((images, classes)) if classes else None
        answers = answers.append(2 * epoch, rng.random(images) < 0.6, rng.random(images), kept)
    return answers


def predict(right: np.ndarray) -> Predictions:
    """Answers that are right where they are said to be."""
    cats = np.where(right, 0.9, 0.1)
    files = [f"{place}.jpg" for place in range(len(right))]
    return Predictions.build(files, ["cats"] * len(right), ("cats", "dogs"), np.stack([cats, 1 - cats], axis=1))


@pytest.mark.parametrize("classes", [0, 3])
def test_what_is_written_is_read(classes: int) -> None:
    answers = build(classes=classes)
    again = EpochAnswers.from_bytes(answers.to_bytes())
    for name in ("epochs", "right", "losses"):
        assert np.array_equal(getattr(again, name), getattr(answers, name))
    assert (again.probabilities is None) == (classes == 0)
    assert classes == 0 or np.array_equal(again.probabilities, answers.probabilities)  # type: ignore[arg-type]
    assert again.epochs.tolist() == [2, 4, 6, 8, 10]


def test_right_or_wrong_takes_one_bit() -> None:
    answers = build(epochs=20, images=800)
    assert answers.to_arrays()["right"].nbytes == 2000
    assert len(answers.to_bytes()) < 36_000


def test_a_loss_beyond_the_range_stays_finite() -> None:
    answers = EpochAnswers.empty().append(1, np.array([False, True]), np.array([1e9, 0.0]), None)
    assert np.isfinite(answers.losses).all()


@pytest.mark.parametrize("content", [b"", b"not an archive", build().to_bytes()[:200]])
def test_a_damaged_file_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match="no archive of answers"):
        EpochAnswers.from_bytes(content)


def test_the_score_of_a_kept_model_that_is_not_quite_its_epochs() -> None:
    answers = build(images=40)
    best = int(np.argmax(answers.right.sum(axis=1)))
    epoch = int(answers.epochs[best])
    own = answers.cross_fit(predict(answers.right[best]), epoch)
    assert own is not None
    assert own.mean() < answers.right[best].mean()
    other = ~answers.right[best]
    fair = answers.cross_fit(predict(other), epoch)
    assert fair is not None
    # What the epoch was flattered by is taken from the kept model as well.
    assert fair.mean() - other.mean() == pytest.approx(own.mean() - answers.right[best].mean())


def test_answers_of_another_training_say_nothing() -> None:
    answers = build(images=40)
    assert answers.cross_fit(predict(np.ones(40, bool)), 3) is None, "epoch 3 was not validated"
    assert answers.cross_fit(predict(np.ones(41, bool)), 4) is None


def draw(classes: int, kept: bool, epochs: int = 6, images: int = 60) -> tuple[EpochAnswers, list[Predictions]]:
    """Answers of several epochs, as they are stored, and as predictions."""
    rng = np.random.default_rng(4)
    labels = rng.integers(classes, size=images)
    names = tuple(f"class {number}" for number in range(classes))
    stored, predictions = EpochAnswers.empty(), []
    for epoch in range(1, epochs + 1):
        logits = rng.normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        one = Predictions.build(map(str, range(images)), [names[label] for label in labels], names, probabilities)
        predictions.append(one)
        stored = stored.append(epoch, one.right, one.answers.losses, probabilities if kept else None)
    return stored, predictions


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "log_loss", "brier", "auc", "f1"])
@pytest.mark.parametrize(("classes", "kept"), [(2, False), (3, True)], ids=["two classes", "probabilities"])
def test_a_metric_of_every_epoch_follows_from_what_is_stored(name: str, classes: int, kept: bool) -> None:
    stored, predictions = draw(classes, kept)
    first = predictions[0]
    found = stored.measure(NAMED[name], first.label_indices, first.class_names)
    assert found is not None
    wanted = [NAMED[name].values(one.answers) for one in predictions]
    # Losses are stored with three digits.
    assert found.mean(axis=1) == pytest.approx(np.mean(wanted, axis=1), abs=2e-3)


@pytest.mark.parametrize(
    ("name", "known"), [("accuracy", True), ("balanced_accuracy", True), ("log_loss", True), ("auc", False)]
)
def test_more_than_two_classes_need_probabilities(name: str, known: bool) -> None:
    stored, predictions = draw(3, kept=False)
    fair = stored.cross_fit(predictions[2], 3, metric=NAMED[name])
    assert (fair is not None) == known


def test_the_epoch_is_chosen_by_the_metric_that_kept_it() -> None:
    stored, predictions = draw(2, kept=False)
    by_loss = stored.cross_fit(predictions[2], 3, metric=NAMED["log_loss"], keep_metric=NAMED["log_loss"])
    by_accuracy = stored.cross_fit(predictions[2], 3, metric=NAMED["log_loss"])
    assert by_loss is not None
    assert by_accuracy is not None
    assert by_loss.mean() < by_accuracy.mean(), "an epoch with a low loss on one half has one on the other"
