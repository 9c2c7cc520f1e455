"""Finds which pictures look alike, by their lowest frequencies, in any of the eight ways to lay a square on a square.

Each picture is compared with those of a few cells alone, not with all others: the cost grows little faster than their number.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np

from catdog.system.cpus import count_cpus

# A picture is described by its lowest frequencies: SPECTRUM x SPECTRUM coefficients of the cosine transform, without the mean.
SPECTRUM = 8
# A pair is a candidate if its descriptions correlate this much, for the best turn and crop. To save time, the COARSE x COARSE
# lowest frequencies are compared first.
ALIKE, COARSE = 0.93, 5
# Views are divided into cells: each belongs to the nearest of some of them, one for so many pictures.
CELL_PICTURES = 256
# A picture is compared with the views of so many cells that are nearest to it; with all views, if there are no more cells.
NEAR_CELLS = 16
# Never more cells, because each picture is compared with the centres of all of them.
MOST_CELLS = 4096
BLOCK, ROWS_AT_ONCE = 8192, 4096


@dataclass(frozen=True)
class Turn:
    """One of the eight ways to lay a square on a square.

    Attributes:
        transposes: whether rows become columns first.
        flips_rows: whether up becomes down.
        flips_columns: whether left becomes right, as in a mirror.
    """

    transposes: bool = False
    flips_rows: bool = False
    flips_columns: bool = False

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Returns a picture, (S, S, 3), turned."""
        turned = picture.swapaxes(0, 1) if self.transposes else picture
        return np.ascontiguousarray(turned[:: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1])

    @property
    def inverse(self) -> "Turn":
        """The turn that undoes it."""
        return Turn(True, self.flips_columns, self.flips_rows) if self.transposes else self


TURNS = tuple(Turn(*each) for each in product((False, True), repeat=3))
_INVERSES = np.array([TURNS.index(turn.inverse) for turn in TURNS])
_ROWS, _COLUMNS = np.divmod(np.arange(1, SPECTRUM**2), SPECTRUM)
# Where each coefficient of the transposed picture is in its description.
_TRANSPOSED = _COLUMNS * SPECTRUM + _ROWS - 1


def _list_changes(places: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns for each turn, how it changes the coefficients at these places: where they come from, and their signs."""
    place_of = {place: number for number, place in enumerate(places.tolist())}
    transposed = np.array([place_of[place] for place in _TRANSPOSED[places].tolist()])
    changes = []
    for turn in TURNS:
        # Reversing the rows changes the sign of the odd frequencies down the picture; likewise for columns.
        odd = (turn.flips_rows * _ROWS[places] + turn.flips_columns * _COLUMNS[places]) % 2
        changes.append((transposed if turn.transposes else np.arange(len(places)), (1 - 2 * odd).astype(np.float32)))
    return changes


_COARSE = np.flatnonzero((_ROWS < COARSE) & (_COLUMNS < COARSE))
_COARSE_CHANGES, _CHANGES = _list_changes(_COARSE), _list_changes(np.arange(SPECTRUM**2 - 1))


@dataclass(frozen=True)
class Candidates:
    """Pairs of pictures that look alike, sorted.

    Attributes:
        first: int64 (P,), the place of one picture.
        second: int64 (P,), the place of the other, larger than `first`.
        turn: int8 (P,), the turn in `TURNS` that makes the second picture look like the first.
    """

    first: np.ndarray
    second: np.ndarray
    turn: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


class TooManyCandidatesError(Exception):
    """More pairs look alike than may be compared."""


def find_candidates(descriptions: np.ndarray, most: int, advance: Callable[[int], None] = lambda _: None) -> Candidates:
    """Returns the pairs that look alike.

    Args:
        descriptions: float16 (N, V, SPECTRUM**2 - 1): V views of each picture, the first of them the whole picture; of length 1, or
            0 for one that has none. A pair is alike if the whole picture of one, turned, is like a view of the other.
        most: the largest number of pairs.
        advance: is called with the number of pictures that were compared since the last call.

    Raises:
        TooManyCandidatesError: there are more pairs.
    """
    count, views, _ = descriptions.shape
    cells = _Cells(_normalize(descriptions.reshape(count * views, descriptions.shape[2])[:, _COARSE]), views)
    found: list[np.ndarray] = []
    with ThreadPoolExecutor(count_cpus()) as threads:
        blocks = threads.map(lambda start: _search_block(start, descriptions, cells), range(0, count, BLOCK))
        for start, block in zip(range(0, count, BLOCK), blocks, strict=True):
            found = [_keep_best(np.concatenate([*found, block], axis=1))]
            if found[0].shape[1] > most:
                threads.shutdown(cancel_futures=True)
                raise TooManyCandidatesError
            advance(min(BLOCK, count - start))
    first, second, turn, _ = found[0] if found else np.zeros((4, 0))
    return Candidates(first.astype(np.int64), second.astype(np.int64), turn.astype(np.int8))


class _Cells:
    """Views, by the cell that each belongs to.

    Args:
        vectors: float32 (N * V, C), of length 1 or 0.
        views: V.
    """

    def __init__(self, vectors: np.ndarray, views: int) -> None:
        pictures = len(vectors) // views
        number = int(np.clip(pictures // CELL_PICTURES, 1, MOST_CELLS))
        chosen = np.random.default_rng(0).choice(pictures, min(number, pictures), replace=False)
        self.centres = vectors[chosen * views]
        own = np.concatenate([
            (vectors[start : start + ROWS_AT_ONCE] @ self.centres.T).argmax(axis=1)
            for start in range(0, len(vectors), ROWS_AT_ONCE)
        ] or [np.zeros(0, int)])  # fmt: skip
        self.members = np.argsort(own, kind="stable")
        self.vectors = vectors[self.members]
        self.starts = np.searchsorted(own[self.members], np.arange(len(self.centres) + 1))

    def find_near(self, queries: np.ndarray) -> np.ndarray:
        """Returns the cells that are nearest to each query, int (Q, P)."""
        near = min(NEAR_CELLS, len(self.centres))
        if near == len(self.centres):
            return np.broadcast_to(np.arange(near), (len(queries), near))
        parts = [
            queries[start : start + ROWS_AT_ONCE] @ self.centres.T for start in range(0, len(queries), ROWS_AT_ONCE)
        ]
        return np.concatenate([np.argpartition(part, -near, axis=1)[:, -near:] for part in parts])


def _search_block(start: int, descriptions: np.ndarray, cells: _Cells) -> np.ndarray:
    """Returns first, second, turn and likeness of the pairs of which one picture is in a block, float64 (4, P)."""
    views = descriptions.shape[1]
    whole = _normalize(descriptions[start : start + BLOCK, 0][:, _COARSE])
    queries = np.concatenate([whole[:, source] * signs for source, signs in _COARSE_CHANGES])
    near = cells.find_near(queries)
    order = np.argsort(near, axis=None, kind="stable")
    bounds = np.searchsorted(near.ravel()[order], np.arange(len(cells.centres) + 1))
    hits = []
    for cell in range(len(cells.centres)):
        asking = order[bounds[cell] : bounds[cell + 1]] // near.shape[1]
        inside = slice(cells.starts[cell], cells.starts[cell + 1])
        for part in range(0, len(asking), ROWS_AT_ONCE):
            rows = asking[part : part + ROWS_AT_ONCE]
            row, column = np.nonzero(queries[rows] @ cells.vectors[inside].T >= ALIKE)
            hits.append((rows[row], cells.members[inside][column]))
    query, member = np.concatenate(hits, axis=1) if hits else np.zeros((2, 0), int)
    turn, one = np.divmod(query, len(whole))
    one, (other, view) = one + start, np.divmod(member, views)
    return _measure(descriptions, one, other, view, turn)


def _measure(
    descriptions: np.ndarray, one: np.ndarray, other: np.ndarray, view: np.ndarray, turn: np.ndarray
) -> np.ndarray:
    """Returns first, second, turn and likeness of those pairs of different pictures that are alike in all coefficients, (4, P)."""
    likeness = np.zeros(len(one), np.float32)
    for number, (source, signs) in enumerate(_CHANGES):
        rows = np.flatnonzero((turn == number) & (one != other))
        for start in range(0, len(rows), 16 * ROWS_AT_ONCE):
            part = rows[start : start + 16 * ROWS_AT_ONCE]
            turned = descriptions[one[part], 0].astype(np.float32)[:, source] * signs
            likeness[part] = (turned * descriptions[other[part], view[part]].astype(np.float32)).sum(axis=1)
    kept = likeness >= ALIKE
    one, other, turn = one[kept], other[kept], turn[kept]
    # The turn makes the one look like the other; it is kept for the second of both.
    return np.stack(
        [np.minimum(one, other), np.maximum(one, other), np.where(one < other, _INVERSES[turn], turn), likeness[kept]]
    ).astype(np.float64)


def _keep_best(found: np.ndarray) -> np.ndarray:
    """Returns the columns of each pair with the largest likeness, sorted; of equals, that with the first turn."""
    first, second, turn, likeness = found
    found = found[:, np.lexsort((turn, -likeness, second, first))]
    if not found.shape[1]:
        return found
    is_new = np.append(True, (np.diff(found[:2], axis=1) != 0).any(axis=0))
    return found[:, is_new]


def _normalize(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return vectors
