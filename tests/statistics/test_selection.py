"""Cross-fitted scores: an epoch is chosen on some images and counted on the others."""

import numpy as np
import pytest

from catdog.statistics.contrasts import contrast
from catdog.statistics.selection import cross_fit, halve

EPOCHS, SEEDS = 20, 5


def train(rng: np.random.Generator, images: np.ndarray, flips: float) -> np.ndarray:
    """Returns the answers of a run: bool (E, N). A share of them is drawn anew after each epoch; all epochs are equally good."""
    right = rng.random(len(images)) < images
    epochs = []
    for _ in range(EPOCHS):
        again = rng.random(len(images)) < flips
        right = np.where(again, rng.random(len(images)) < images, right)
        epochs.append(right)
    return np.array(epochs)


def best_epoch(right: np.ndarray) -> np.ndarray:
    return right[int(np.argmax(right.sum(axis=1)))]


def test_equal_variants_are_not_called_different_because_the_answers_of_one_change_more() -> None:
    rng = np.random.default_rng(3)
    wrong = {"plain": 0, "fair": 0}
    differences: dict[str, list[float]] = {"plain": [], "fair": []}
    studies = 50
    for _ in range(studies):
        images = rng.beta(4.5, 0.5, 800)
        noisy = [train(rng, images, 0.5) for _ in range(SEEDS)]
        calm = [train(rng, images, 0.0) for _ in range(SEEDS)]
        for name, choose in (("plain", best_epoch), ("fair", lambda right: cross_fit(right, [right]))):
            found = contrast(np.array([choose(run) for run in noisy]), np.array([choose(run) for run in calm]))
            wrong[name] += bool(found.low > 0)
            differences[name].append(float(found.estimate))
    assert np.mean(differences["plain"]) > 0.01, "the noisier variant is flattered by more than a point"
    assert abs(np.mean(differences["fair"])) < 0.003
    assert wrong["plain"] > 0.4 * studies
    assert wrong["fair"] <= 0.08 * studies


def test_without_a_choice_a_score_is_the_answer_itself() -> None:
    right = np.random.default_rng(0).random((1, 31)) < 0.7
    assert cross_fit(right, [right]).tolist() == right[0].astype(float).tolist()
    same = np.repeat(right, 4, axis=0)
    assert cross_fit(same, [same]).tolist() == right[0].astype(float).tolist()


def test_an_image_is_counted_at_the_epoch_that_the_other_images_choose() -> None:
    # Two epochs. The first half of every halving likes one of them, the other half the other one.
    first = halve(8, halvings=1, seed=5)[0]
    right = np.array([first, ~first])
    assert cross_fit(right, [right], halvings=1, seed=5).tolist() == [0.0] * 8
    assert best_epoch(right).mean() == 0.5


def test_the_second_criterion_breaks_ties() -> None:
    right = np.ones((3, 20), dtype=bool)
    losses = np.array([[0.3], [0.1], [0.2]]) * np.ones((3, 20))
    values = np.array([[1.0], [2.0], [3.0]]) * np.ones((3, 20))
    assert cross_fit(values, [right, -losses]).tolist() == [2.0] * 20
    assert cross_fit(values, [right]).tolist() == [1.0] * 20, "of equal epochs, the first"


def test_patience_ends_the_search_on_each_half() -> None:
    accuracy = np.array([0.5, 0.4, 0.4, 0.9])
    right = np.repeat((np.arange(20) < 20 * accuracy[:, None]), 1, axis=0)
    values = np.arange(4.0)[:, None] * np.ones((4, 20))
    criterion = accuracy[:, None] * np.ones((4, 20))
    assert right.shape == (4, 20)
    assert cross_fit(values, [criterion]).tolist() == [3.0] * 20
    assert cross_fit(values, [criterion], patience=2).tolist() == [0.0] * 20
    assert cross_fit(values, [criterion], patience=3).tolist() == [3.0] * 20
    assert cross_fit(values, [criterion], patience=3, epochs=np.array([2, 4, 6, 8])).tolist() == [0.0] * 20


def test_a_group_is_never_divided() -> None:
    groups = np.repeat(np.arange(50), 4)
    halves = halve(200, groups=groups)
    assert (halves.reshape(10, 50, 4).std(axis=2) == 0).all()
    assert (halves.sum(axis=1) == 100).all()
    assert halve(7).sum(axis=1).tolist() == [3] * 10


def test_runs_that_answered_the_same_images_are_halved_alike() -> None:
    assert np.array_equal(halve(101), halve(101))
    assert not np.array_equal(halve(101), halve(101, seed=1))


@pytest.mark.parametrize("shape", [(0, 5), (3, 1)])
def test_too_few_epochs_or_images(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="needs values and criteria of one shape"):
        cross_fit(np.zeros(shape), [np.zeros(shape)])
