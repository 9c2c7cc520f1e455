"""The answers after each epoch, as they are stored."""

import numpy as np
import pytest

from catdog.data.epoch_answers import EpochAnswers


def build(epochs: int = 5, images: int = 13, classes: int = 0) -> EpochAnswers:
    rng = np.random.default_rng(1)
    answers = EpochAnswers.empty()
    for epoch in range(1, epochs + 1):
        kept = rng.random((images, classes)) if classes else None
        answers = answers.append(2 * epoch, rng.random(images) < 0.6, rng.random(images), kept)
    return answers


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
    own = answers.cross_fit(answers.right[best], epoch)
    assert own is not None
    assert own.mean() < answers.right[best].mean()
    other = ~answers.right[best]
    fair = answers.cross_fit(other, epoch)
    assert fair is not None
    # What the epoch was flattered by is taken from the kept model as well.
    assert fair.mean() - other.mean() == pytest.approx(own.mean() - answers.right[best].mean())


def test_answers_of_another_training_say_nothing() -> None:
    answers = build(images=40)
    assert answers.cross_fit(np.ones(40, bool), 3) is None, "epoch 3 was not validated"
    assert answers.cross_fit(np.ones(41, bool), 4) is None
