"""Pairs of descriptions that are alike: the same as by comparing each with each; the turns are those of pictures."""

import cv2
import numpy as np
import pytest

from catdog.data import candidates
from catdog.data.candidates import (
    ALIKE,
    SPECTRUM,
    TURNS,
    Candidates,
    Searched,
    TooManyCandidatesError,
    count_cells,
    find_candidates,
)

SIDE = 32


def describe(picture: np.ndarray) -> np.ndarray:
    low = cv2.dct(picture.astype(np.float32))[:SPECTRUM, :SPECTRUM].ravel()[1:]
    return low / np.linalg.norm(low)


def draw(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    return [cv2.resize(rng.normal(size=(6, 6)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for _ in range(count)]


def find_by_hand(descriptions: np.ndarray) -> set[tuple[int, int]]:
    """Compares each picture, in all turns, with each view of all others."""
    change = candidates._CHANGES
    found = set()
    for source, signs in change:
        turned = descriptions[:, 0].astype(np.float32)[:, source] * signs
        one, other = np.nonzero(
            (np.einsum("nc,mvc->nmv", turned, descriptions.astype(np.float32)) >= ALIKE).any(axis=2)
        )
        found |= {(min(a, b), max(a, b)) for a, b in zip(one.tolist(), other.tolist(), strict=True) if a != b}
    return found


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_a_turn_makes_the_second_picture_look_like_the_first(turn):
    rng = np.random.default_rng(0)
    pictures = draw(rng, 40)
    pictures[30] = turn.apply(pictures[7][..., None])[..., 0]
    found = find_candidates(np.array([describe(picture) for picture in pictures], np.float16)[:, None], 100)
    assert (found.first.tolist(), found.second.tolist()) == ([7], [30])
    undone = TURNS[found.turn[0]].apply(pictures[30][..., None])[..., 0]
    np.testing.assert_array_equal(undone, pictures[7])
    assert TURNS[found.turn[0]] == turn.inverse


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """3,000 pictures in clusters around 600, so that many pairs are alike, in 64 cells; each has a second view."""
    monkeypatch.setattr(candidates, "CELL_PICTURES", 50)
    monkeypatch.setattr(candidates, "BLOCK", 700)
    rng = np.random.default_rng(1)
    centres = [describe(picture) for picture in draw(rng, 600)]
    vectors = np.array([centres[rng.integers(600)] for _ in range(3000)]) + rng.normal(scale=0.02, size=(3000, 63))
    views = np.stack([vectors, vectors + rng.normal(scale=0.02, size=vectors.shape)], axis=1)
    views /= np.linalg.norm(views, axis=2, keepdims=True)
    views[5] = 0
    return views.astype(np.float16)


def test_with_cells_the_pairs_are_those_of_comparing_each_with_each(clusters, monkeypatch):
    descriptions = clusters
    expected = find_by_hand(descriptions)
    found = find_candidates(descriptions, 1_000_000)
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert len(expected) > 5000
    # The first comparison, of the coarse half of the coefficients, and the cells may leave out pairs at the limit.
    assert len(pairs & expected) >= 0.99 * len(expected)
    assert not pairs - expected
    assert len(pairs) == len(found)
    # However few are held at once.
    monkeypatch.setattr(candidates, "PAIRS_HELD", 100)
    again = find_candidates(descriptions, 1_000_000)
    np.testing.assert_array_equal(again.turn, found.turn)


@pytest.mark.parametrize("cell_pictures", [50, 1000], ids=["cells", "each with each"])
def test_added_pictures_are_compared_alone_with_the_same_result(clusters, monkeypatch, cell_pictures):
    monkeypatch.setattr(candidates, "CELL_PICTURES", cell_pictures)
    whole = find_candidates(clusters, 1_000_000)
    # Added anywhere behind the centres of the cells: 40 pictures of 3,000.
    added = np.random.default_rng(4).choice(np.arange(64, 3000), 40, replace=False)
    places = np.setdiff1d(np.arange(3000), added)
    is_old = np.isin(whole.first, places) & np.isin(whole.second, places)
    assert 0 < (~is_old).sum() < 0.1 * len(whole)
    pairs = Candidates(whole.first[is_old], whole.second[is_old], whole.turn[is_old])
    monkeypatch.setattr(candidates, "_WholeSearch", None)
    done = []
    found = find_candidates(clusters, 1_000_000, done.append, Searched(places, pairs))
    assert sum(done) == 3000
    for name in ("first", "second", "turn"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))


def test_where_most_pictures_are_new_all_are_compared(clusters, monkeypatch):
    monkeypatch.setattr(candidates, "_AddedSearch", None)
    nothing = np.zeros(0, np.int64)
    found = find_candidates(
        clusters, 1_000_000, earlier=Searched(np.arange(2000), Candidates(nothing, nothing, nothing))
    )
    assert len(found) == len(find_candidates(clusters, 1_000_000))


@pytest.mark.parametrize(("pictures", "cells"), [(0, 1), (300, 1), (4352, 16), (100_000, 512), (2_000_000, 4096)])
def test_a_few_more_pictures_rarely_change_the_number_of_cells(pictures, cells):
    assert count_cells(pictures) == count_cells(pictures + 10) == cells


def test_too_many_pairs_stop_the_search():
    with pytest.raises(TooManyCandidatesError):
        find_candidates(
            np.repeat(describe(draw(np.random.default_rng(2), 1)[0])[None, None], 20, axis=0).astype(np.float16), 10
        )


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_few_pictures_have_no_pairs(count):
    pictures = np.array([describe(picture) for picture in draw(np.random.default_rng(3), count)], np.float16)
    assert len(find_candidates(pictures.reshape(count, 1, 63), 10)) == 0
