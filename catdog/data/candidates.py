"""Finds which pictures look alike, by their lowest frequencies, in any of the eight ways to lay a square on a square.

Each picture is compared with those of a few cells alone, not with all others: the cost grows little faster than their number.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
from threadpoolctl import threadpool_limits

from catdog.system.cpus import count_cpus

# A picture is described by its lowest frequencies: SPECTRUM x SPECTRUM coefficients of the cosine transform, without the mean.
SPECTRUM = 8
# A pair is a candidate if its descriptions correlate this much, for the best turn and crop. To save time, the COARSE x COARSE
# lowest frequencies are compared first.
ALIKE, COARSE = 0.93, 5
# Views are divided into cells, one for about so many pictures: each belongs to that with the nearest centre.
CELL_PICTURES = 256
# A picture is compared with the views of so many cells that are nearest to it; with all views, if there are no more cells.
NEAR_CELLS = 16
# Never more cells, because each picture is compared with the centres of all of them.
MOST_CELLS = 4096
# Pictures in a block; scalar products that fit into a processor's cache; pairs whose descriptions are compared at once; pairs that
# are held while they may be the same ones in other turns.
BLOCK, CACHED_PRODUCTS, PAIRS_AT_ONCE, PAIRS_HELD = 8192, 2**18, 2**16, 2**20


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


@dataclass(frozen=True)
class Searched:
    """What an earlier search found.

    Attributes:
        places: int64 (M,), sorted: the pictures of now that it compared.
        pairs: the pairs of these pictures that look alike, by their places now.
    """

    places: np.ndarray
    pairs: Candidates


class TooManyCandidatesError(Exception):
    """More pairs look alike than may be compared."""


def count_cells(pictures: int) -> int:
    """Returns the number of cells for so many pictures: a power of two, so that a few more pictures rarely change it."""
    return int(np.clip(2 ** round(np.log2(max(1, pictures / CELL_PICTURES))), 1, MOST_CELLS))


def find_candidates(
    descriptions: np.ndarray,
    most: int,
    advance: Callable[[int], None] = lambda _: None,
    earlier: Searched | None = None,
) -> Candidates:
    """Returns the pairs that look alike.

    Args:
        descriptions: float16 (N, V, SPECTRUM**2 - 1): V views of each picture, the first of them the whole picture; of length 1, or
            0 for one that has none. A pair is alike if the whole picture of one, turned, is like a view of the other. The first
            `count_cells(N)` pictures are the centres of the cells, so these should be a random part.
        most: the largest number of pairs.
        advance: is called with the number of pictures that were compared since the last call.
        earlier: a search that had the same cells, or compared all with all as this one will: only pictures that it lacks are
            compared.

    Raises:
        TooManyCandidatesError: there are more pairs.
    """
    count = len(descriptions)
    cells = _Cells(_normalize(descriptions[: count_cells(count), 0][:, _COARSE]))
    found = np.zeros((4, 0))
    search: _WholeSearch | _AddedSearch | None = None
    if earlier is not None:
        added = np.setdiff1d(np.arange(count), earlier.places)
        # Both ways cost the same where twice so many pictures are compared with all others.
        if 2 * len(added) <= count * cells.near // max(1, len(cells.centres)):
            pairs = earlier.pairs
            found = np.stack([pairs.first, pairs.second, pairs.turn, np.ones(len(pairs))]).astype(np.float64)
            search = _AddedSearch(descriptions, cells, added, most)
    if search is None:
        search = _WholeSearch(descriptions, cells, most)
    # The threads of the matrix products would take the CPUs from these.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(count_cpus()) as threads:
        try:
            for start, block in zip(
                range(0, count, BLOCK), threads.map(search.search_block, range(0, count, BLOCK)), strict=True
            ):
                found = _add_pairs(found, block, most)
                advance(min(BLOCK, count - start))
        except TooManyCandidatesError:
            threads.shutdown(cancel_futures=True)
            raise
    first, second, turn, _ = found
    return Candidates(first.astype(np.int64), second.astype(np.int64), turn.astype(np.int8))


class _Cells:
    """Parts of the space of views.

    Attributes:
        centres: float32 (K, C).
        near: the number of cells whose views a picture is compared with.
        all_are_near: whether that is all of them.
    """

    def __init__(self, centres: np.ndarray) -> None:
        self.centres = centres
        self.near = min(NEAR_CELLS, len(centres))
        self.all_are_near = self.near == len(centres)

    def find_own(self, vectors: np.ndarray) -> np.ndarray:
        """Returns the cell that each vector belongs to, int64 (Q,)."""
        parts = [part.argmax(axis=1) for _, part in _multiply(vectors, self.centres)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def find_near(self, queries: np.ndarray) -> np.ndarray:
        """Returns the cells that are nearest to each query, int64 (Q, near)."""
        if self.all_are_near:
            return np.broadcast_to(np.arange(self.near), (len(queries), self.near))
        nearest = np.empty((len(queries), self.near), np.int64)
        for start, products in _multiply(queries, self.centres):
            # Copied at once: a part of a partition would keep all of it in memory.
            nearest[start : start + len(products)] = np.argpartition(products, -self.near, axis=1)[:, -self.near :]
        return nearest


class _WholeSearch:
    """Compares each picture with the views in its nearest cells.

    Args:
        descriptions: float16 (N, V, D).
        cells: the cells.
        most: the largest number of pairs.
    """

    def __init__(self, descriptions: np.ndarray, cells: _Cells, most: int) -> None:
        self._descriptions, self._cells, self._most = descriptions, cells, most
        vectors = _list_views(descriptions)
        own = cells.find_own(vectors)
        self._members = np.argsort(own, kind="stable")
        self._vectors = vectors[self._members]
        self._starts = np.searchsorted(own[self._members], np.arange(len(cells.centres) + 1))

    def search_block(self, start: int) -> np.ndarray:
        """Returns first, second, turn and likeness of the pairs of which one picture is in a block, float64 (4, P)."""
        block = self._descriptions[start : start + BLOCK]
        queries = _list_queries(block)
        near = self._cells.find_near(queries)
        order = np.argsort(near, axis=None, kind="stable")
        bounds = np.searchsorted(near.ravel()[order], np.arange(len(self._cells.centres) + 1))

        def search_cells() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for cell in range(len(self._cells.centres)):
                asking = order[bounds[cell] : bounds[cell + 1]] // near.shape[1]
                inside = slice(self._starts[cell], self._starts[cell + 1])
                for query, vector in _find_alike(queries[asking], self._vectors[inside]):
                    yield asking[query], self._members[inside][vector]

        found = np.zeros((4, 0))
        for query, member in _hold(search_cells()):
            turn, one = np.divmod(query, len(block))
            other, view = np.divmod(member, block.shape[1])
            found = _add_pairs(found, _measure(self._descriptions, one + start, other, view, turn), self._most)
        return found


class _AddedSearch:
    """Compares added pictures with all, in both roles; what it finds is what a whole search finds with the same cells.

    Args:
        descriptions: float16 (N, V, D).
        cells: the cells.
        added: int64 (A,), the places of the added pictures.
        most: the largest number of pairs.
    """

    def __init__(self, descriptions: np.ndarray, cells: _Cells, added: np.ndarray, most: int) -> None:
        self._descriptions, self._cells, self._added, self._most = descriptions, cells, added, most
        self._queries, self._views = _list_queries(descriptions[added]), _list_views(descriptions[added])
        self._near, self._own = cells.find_near(self._queries), cells.find_own(self._views)

    def search_block(self, start: int) -> np.ndarray:
        """Returns first, second, turn and likeness of the pairs of an added picture and one in a block, float64 (4, P)."""
        block = self._descriptions[start : start + BLOCK]
        count, views = block.shape[:2]
        found = np.zeros((4, 0))
        vectors = _list_views(block)
        for query, member in _hold(_find_alike(self._queries, vectors)):
            if not self._cells.all_are_near:
                is_near = (self._near[query] == self._cells.find_own(vectors[member])[:, None]).any(axis=1)
                query, member = query[is_near], member[is_near]
            turn, one = np.divmod(query, max(1, len(self._added)))
            other, view = np.divmod(member, views)
            pairs = _measure(self._descriptions, self._added[one], other + start, view, turn)
            found = _add_pairs(found, pairs, self._most)
        queries = _list_queries(block)
        for query, member in _hold(_find_alike(queries, self._views)):
            if not self._cells.all_are_near:
                is_near = (self._cells.find_near(queries[query]) == self._own[member][:, None]).any(axis=1)
                query, member = query[is_near], member[is_near]
            turn, one = np.divmod(query, count)
            other, view = np.divmod(member, views)
            pairs = _measure(self._descriptions, one + start, self._added[other], view, turn)
            found = _add_pairs(found, pairs, self._most)
        return found


def _list_views(descriptions: np.ndarray) -> np.ndarray:
    """Returns the lowest frequencies of each view, float32 (N * V, C), of length 1 or 0; the views of a picture are together."""
    return _normalize(descriptions.reshape(-1, descriptions.shape[2])[:, _COARSE])


def _list_queries(descriptions: np.ndarray) -> np.ndarray:
    """Returns the lowest frequencies of each whole picture, float32 (8 * N, C), in all turns, one turn after another."""
    whole = _normalize(descriptions[:, 0][:, _COARSE])
    return np.concatenate([whole[:, source] * signs for source, signs in _COARSE_CHANGES])


def _find_alike(queries: np.ndarray, vectors: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the places of queries and of vectors that are alike, int64 (P,) each, some at a time."""
    for start, products in _multiply(queries, vectors):
        # Much faster than nonzero in two dimensions, and other threads can go on meanwhile.
        found = np.flatnonzero(products >= ALIKE)
        if len(found):
            query, vector = np.divmod(found, len(vectors))
            yield query + start, vector


def _hold(hits: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the same pairs in larger arrays, of little more than PAIRS_HELD pairs."""
    held, count = [], 0
    for hit in hits:
        held.append(hit)
        count += len(hit[0])
        if count >= PAIRS_HELD:
            yield tuple(np.concatenate(held, axis=1))
            held, count = [], 0
    if held:
        yield tuple(np.concatenate(held, axis=1))


def _multiply(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the scalar products of some rows of two arrays at a time, and the number of the first of these rows.

    Args:
        first: float32 (F, C).
        second: float32 (S, C).

    Yields:
        float32 (some of F, S), which the next one overwrites.
    """
    rows = max(1, CACHED_PRODUCTS // max(1, len(second)))
    products = np.empty((min(rows, len(first)), len(second)), np.float32)
    for start in range(0, len(first), rows):
        part = first[start : start + rows]
        yield start, np.matmul(part, second.T, out=products[: len(part)])


def _measure(
    descriptions: np.ndarray, one: np.ndarray, other: np.ndarray, view: np.ndarray, turn: np.ndarray
) -> np.ndarray:
    """Returns first, second, turn and likeness of those pairs of different pictures that are alike in all coefficients, (4, P)."""
    likeness = np.zeros(len(one), np.float32)
    for number, (source, signs) in enumerate(_CHANGES):
        rows = np.flatnonzero((turn == number) & (one != other))
        for start in range(0, len(rows), PAIRS_AT_ONCE):
            part = rows[start : start + PAIRS_AT_ONCE]
            turned = descriptions[one[part], 0].astype(np.float32)[:, source] * signs
            likeness[part] = (turned * descriptions[other[part], view[part]].astype(np.float32)).sum(axis=1)
    kept = likeness >= ALIKE
    one, other, turn = one[kept], other[kept], turn[kept]
    # The turn makes the one look like the other; it is kept for the second of both.
    return np.stack(
        [np.minimum(one, other), np.maximum(one, other), np.where(one < other, _INVERSES[turn], turn), likeness[kept]]
    ).astype(np.float64)


def _add_pairs(found: np.ndarray, more: np.ndarray, most: int) -> np.ndarray:
    found = _keep_best(np.concatenate([found, more], axis=1))
    if found.shape[1] > most:
        raise TooManyCandidatesError
    return found


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
    # Not by np.linalg.norm, which makes a copy of all.
    vectors /= np.maximum(np.sqrt(np.einsum("nc,nc->n", vectors, vectors)), 1e-6)[:, None]
    return vectors
