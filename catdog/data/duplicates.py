"""Finds images of the same picture: copies, and mirrored, turned, resized, recompressed, recoloured, slightly cropped."""

import contextlib
import hashlib
import logging
import time
import uuid
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from catdog.data.candidates import (
    ALIKE,
    CELL_PICTURES,
    COARSE,
    MOST_CELLS,
    NEAR_CELLS,
    SPECTRUM,
    TURNS,
    Candidates,
    Searched,
    TooManyCandidatesError,
    Turn,
    count_cells,
    find_candidates,
)
from catdog.data.digests import hash_file
from catdog.data.images import DECODER_VERSION, UnreadableImageError, decode_image
from catdog.data.progress import reported_progress
from catdog.data.staging import PARTS, locked, staged
from catdog.system.cpus import count_cpus
from catdog.system.errors import UserError
from catdog.system.files import replacing, save_array

log = logging.getLogger(__name__)

# Pictures are compared at this size, in grey.
SIDE = 96
# The cosine transform is that of so many pixels a side.
SHRUNK = 32
# Fractions cut off the four sides (top, right, bottom, left). These crops are described as well as the whole picture, so that a
# cropped copy is similar to one of them.
CROPS = (
    (0.05, 0.05, 0.05, 0.05), (0.05, 0.05, 0, 0), (0, 0.05, 0.05, 0), (0, 0, 0.05, 0.05), (0.05, 0, 0, 0.05),
)  # fmt: skip
# Two pictures are the same if, aligned as well as possible, they reach this correlation, this correlation of their fine detail
# (which distinguishes simple shapes), and at most this difference in mean colour, on the scale of 0 to 255. On 3,000 photos of cats
# and dogs, 1,596 of 1,600 planted copies were found, 291 of 400 copies with a tenth of a side cut off, and no pair of different
# photos (`python benchmarks/planted.py`).
SAME_PICTURE, SAME_DETAIL, SAME_COLOUR = 0.98, 0.94, 8.0
# Pictures of other colours, or in grey, are the same if their fine detail and each colour channel correlate this much.
RECOLOURED_DETAIL, RECOLOURED_CHANNEL = 0.97, 0.9
# Alignment starts with these scales; 1.0 comes first so that it wins a tie. There copies correlated by 0.87 or more. The alignment
# is then fitted from the best scale.
SCALES, ROUGHLY_SAME = (1.0, 0.95, 1.05, 0.90, 1.10), 0.85
FIT_STEPS, FIT_CHANGE, MOST_SHEAR, MOST_STRETCH = 50, 1e-4, 0.02, 0.13
# The fraction of the middle of one picture that must lie within the other.
MOSTLY = 0.8
# A larger change of scale, or a larger shift in pixels, is a crop.
CROP_SCALE, CROP_SHIFT = 0.012, 1.5
VERSION = (
    f"6/{DECODER_VERSION}/{SIDE}/{CROPS}/{SPECTRUM}/{ALIKE}/{COARSE}/{SAME_PICTURE}/{SAME_DETAIL}/{SAME_COLOUR}/"
    f"{RECOLOURED_DETAIL}/{RECOLOURED_CHANNEL}/{CELL_PICTURES}/{NEAR_CELLS}/{MOST_CELLS}"
)
# A pair takes about 3 CPU ms: so many take minutes on two cores. For each image of a large data set there may be a share of one.
MOST_CANDIDATES, MOST_CANDIDATES_SHARE = 50_000, 0.2
FOUND, DESCRIBED = "found.npz", "descriptions.npy"
# What a search has found is saved this often, so that a command that is killed goes on.
SAVE_EVERY_S = 20.0
AT_ONCE = 256
# What a killed search has left and no other took over.
FORGOTTEN_S = 14 * 86_400.0
MIRRORED = Turn(flips_columns=True)


@dataclass(frozen=True)
class Pair:
    """Two images that show the same picture.

    Attributes:
        first: position of one image in the list that was searched.
        second: position of the other image, larger than `first`.
        kind: copy (the same bytes), mirrored, turned (by 90 or 180 degrees), recoloured, cropped, or near-copy (resized or
            recompressed).
        similarity: correlation of the two images, in [0, 1]; 1 for copies.
    """

    first: int
    second: int
    kind: str
    similarity: float


def find_pairs(paths: Sequence[Path | str], digests: Sequence[str], cache: Path) -> list[Pair]:
    """Returns all pairs of images that show the same picture; unreadable files only pair with files of the same bytes.

    Candidates are found by comparing the lowest frequencies of each picture in its eight turns, and those of five crops. The
    pictures of a candidate pair are then aligned by shifting and stretching, and correlated. The findings are kept in the cache,
    by content: a second call reads them, and one with a few more files usually compares only those. A call after one that
    was killed goes on.

    Not found: pictures turned by other angles than 90 degrees, crops by more than a tenth of a side and about a quarter of those
    by a tenth, other exposures of a scene.

    Args:
        paths: N files.
        digests: sha256 of each file's bytes.
        cache: folder of the cache; the findings are kept in its `duplicates/`.

    Raises:
        UserError: too many pairs look alike, a file has become unreadable since it was hashed, or the cache cannot be written.

    Source: the coefficients of the DCT hash of Zauner (2010), "Implementation and benchmarking of perceptual image hash functions",
    but not rounded: as 64 bits they gave 240 times as many candidates for the same photos. OpenCV's dct and, to align pictures,
    matchTemplate and findTransformECC (Evangelidis and Psarakis, 2008).
    """
    first_of: dict[str, int] = {}
    copies = []
    for position, digest in enumerate(digests):
        first = first_of.setdefault(digest, position)
        if first != position:
            copies.append(Pair(first, position, "copy", 1.0))
    names = sorted(first_of)
    found = _find(names, [paths[first_of[name]] for name in names], cache)
    is_pair = found["kind"] != ""
    columns = [found[name][is_pair].tolist() for name in ("first", "second", "kind", "similarity")]
    near = []
    for a, b, kind, similarity in zip(*columns, strict=True):
        first, second = sorted((first_of[names[a]], first_of[names[b]]))
        near.append(Pair(first, second, kind, similarity))
    return sorted(copies + near, key=lambda pair: (pair.first, pair.second))


def find_unreadable(paths: Sequence[Path | str], digests: Sequence[str], cache: Path) -> dict[int, str]:
    """Returns the reason for each file that cannot be read, by its position; arguments as for `find_pairs`.

    The search for pairs has read all files. Here only those are read again that it has no description of.
    """
    path_of = dict(zip(digests, paths, strict=True))
    names = sorted(path_of)
    found = _find(names, [path_of[name] for name in names], cache)
    without = {names[place] for place in np.flatnonzero(~found["is_described"])}
    reasons = {}
    for position, digest in enumerate(digests) if without else ():
        if digest in without:
            try:
                _load(paths[position])
            except UnreadableImageError as error:
                reasons[position] = str(error)
    return reasons


def group_pairs(pairs: Sequence[Pair], count: int) -> np.ndarray:
    """Returns the group of each of `count` images: int64 (count,), the same number for images that pairs connect."""
    return connect([pair.first for pair in pairs], [pair.second for pair in pairs], count)


def connect(first: Sequence[int], second: Sequence[int], count: int) -> np.ndarray:
    """Returns the group of each of `count` images: int64 (count,), the same number for images that links connect.

    Args:
        first: positions of L images.
        second: the L images that they are linked to.
        count: the number of images.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(first)), (first, second)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def locate_findings(names: Sequence[str], cache: Path) -> Path:
    """Returns the folder in the cache for what is found among files; `names` are their digests, sorted and without repetitions."""
    key = hashlib.sha256("\n".join([VERSION, *names]).encode()).hexdigest()[:32]
    # By version: descriptions of different versions cannot be compared.
    return cache / "duplicates" / hashlib.sha256(VERSION.encode()).hexdigest()[:8] / key


def _find(names: list[str], paths: Sequence[Path | str], cache: Path) -> dict[str, np.ndarray]:
    """Returns which files could be described, and the columns of all pairs that look alike; they are kept in the cache.

    Args:
        names: the files' digests, sorted.
        paths: one file for each.
        cache: folder of the cache.
    """
    kept = locate_findings(names, cache)
    with locked(kept, "looking for near-duplicates"):
        if found := _read_columns(kept / FOUND):
            return found
        log.info("looking for near-duplicates among %s images, once", f"{len(names):,}")
        search = _Search(names, paths, kept.parent)
        descriptions, found = search.run()
        found["digests"], found["is_described"] = np.array(names, dtype="S64"), np.any(descriptions, axis=(1, 2))
        with staged(kept) as stage:
            with replacing(stage / DESCRIBED) as file:
                save_array(file, descriptions)
            with replacing(stage / FOUND) as file:
                np.savez(file, allow_pickle=False, **found)
        search.remove_parts()
    return found


@dataclass
class _Known:
    """What earlier searches have found, by digest.

    Attributes:
        digests: sorted arrays of bytes, each with an array of descriptions in the same order.
        verdicts: kind ("" if they are different) and similarity of pairs of digests and the number of a turn.
    """

    digests: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    verdicts: dict[tuple[bytes, bytes, int], tuple[str, float]] = field(default_factory=dict)

    def read(self, found: Path) -> None:
        """Adds what is in the files of a search or a part of one, unless they are damaged."""
        stored = _read_columns(found)
        beside = found.with_name(DESCRIBED) if found.name == FOUND else found.with_suffix(".npy")
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError):
            # Memory-mapped: it may have a gigabyte.
            self.digests.append((stored["digests"], np.load(beside, mmap_mode="r")))
            columns = [stored[name].tolist() for name in ("first", "second", "turn", "kind", "similarity")]
            digests = stored["digests"].tolist()
            for a, b, turn, kind, similarity in zip(*columns, strict=True):
                self.verdicts[digests[a], digests[b], turn] = (kind, similarity)

    def describe(self, names: np.ndarray, into: np.ndarray) -> np.ndarray:
        """Puts the descriptions that are known in their places; returns the places of the others."""
        missing = np.arange(len(names))
        for digests, descriptions in self.digests:
            rows, is_known = _find_rows(digests, names[missing])
            for part in range(0, len(missing), 2**16):
                place = slice(part, part + 2**16)
                into[missing[place][is_known[place]]] = descriptions[rows[place][is_known[place]]]
            missing = missing[~is_known]
        return missing


def _find_rows(digests: np.ndarray, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row of each name in the sorted digests, int64 (N,), and whether it is there, bool (N,)."""
    rows = np.searchsorted(digests, names)
    rows[rows == len(digests)] = 0
    return rows, digests[rows] == names if len(digests) else np.zeros(len(names), bool)


def _read_columns(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Returns the arrays of these names, or all, in a file of findings; {} if it is damaged."""
    with (
        contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
        path.open("rb") as file,
        np.load(file) as stored,
    ):
        return {name: stored[name] for name in names or stored}
    return {}


class _Search:
    """A search for near-duplicates.

    Args:
        names: the digests of N files, sorted.
        paths: the files.
        folder: holds earlier findings, and those of a search that was killed in its `parts`.
    """

    def __init__(self, names: Sequence[str], paths: Sequence[Path | str], folder: Path) -> None:
        self._names, self._paths = np.array(names, dtype="S64"), paths
        self._parts = folder / PARTS
        # Files that were readable when they were hashed, by their places.
        self._unread: dict[int, str] = {}
        self._known = _Known()
        # The earlier search that shares the most files with this one.
        shared = {found: self._count_shared(found) for found in sorted(folder.glob(f"*/{FOUND}"))}
        nearest = max(shared, key=shared.__getitem__, default=None)
        self._former = _read_columns(nearest) if nearest else {}
        for found in [*([nearest] if nearest else []), *sorted(self._parts.glob("*.npz"))]:
            self._known.read(found)

    def _count_shared(self, found: Path) -> int:
        digests = _read_columns(found, "digests").get("digests", self._names[:0])
        return int(_find_rows(digests, self._names)[1].sum())

    def run(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Returns the files' descriptions, and the columns of all pairs that look alike.

        Raises:
            UserError: there are too many such pairs, or a file cannot be read any more.
        """
        descriptions = self._describe()
        self._require_all_read(descriptions, {})
        most = max(MOST_CANDIDATES, round(MOST_CANDIDATES_SHARE * len(self._names)))
        try:
            with reported_progress("comparing images", len(self._names), "images") as advance:
                candidates = find_candidates(descriptions, most, advance, self._recall())
        except TooManyCandidatesError:
            raise UserError(
                f"dataset.near_duplicates: more than {most:,} pairs of these images look alike at first sight, as "
                "digits or X-rays do. Comparing all of them would take very long. Set dataset.near_duplicates=ignore."
            ) from None
        pairs = self._compare(candidates, descriptions)
        self._require_all_read(descriptions, pairs)
        return descriptions, pairs

    def _require_all_read(self, descriptions: np.ndarray, pairs: dict[str, np.ndarray]) -> None:
        if self._unread:
            self._save_part(np.arange(len(self._names)), descriptions, pairs)
            place, reason = min(self._unread.items())
            raise UserError(
                f"dataset: {self._paths[place]} could be read when its digest was made, and not when near-duplicates were looked "
                f"for: {reason}. Look whether its disk is away, or fails; then the same command goes on."
            )

    def _recall(self) -> Searched | None:
        """Returns what the earlier search says of these files, if it divided the pictures into the same cells.

        Above some thousands of files it did not if a file that was added or removed since is among the centres of the cells, as one
        in about 250 is.
        """
        digests = self._former.get("digests")
        if digests is None:
            return None
        cells, before = count_cells(len(self._names)), count_cells(len(digests))
        has_same_cells = cells == before and np.array_equal(digests[:cells], self._names[:cells])
        if not has_same_cells and max(cells, before) > NEAR_CELLS:
            return None
        places, is_here = _find_rows(self._names, digests)
        first, second, turn = (self._former[name] for name in ("first", "second", "turn"))
        kept = is_here[first] & is_here[second]
        pairs = Candidates(places[first[kept]], places[second[kept]], turn[kept].astype(np.int8))
        return Searched(places[is_here], pairs)

    def remove_parts(self) -> None:
        """Removes the parts with findings about these files alone, now that all are kept, and those that were left long ago."""
        for path in self._parts.glob("*"):
            with contextlib.suppress(FileNotFoundError):
                is_old = time.time() - path.stat().st_mtime > FORGOTTEN_S
                stored = _read_columns(path, "digests") if path.suffix == ".npz" and not is_old else {}
                if is_old or (stored and _find_rows(self._names, stored["digests"])[1].all()):
                    # Without its descriptions, a part counts as damaged.
                    path.with_suffix(".npy").unlink(missing_ok=True)
                    path.unlink()

    def _save_part(self, places: np.ndarray, descriptions: np.ndarray, pairs: dict[str, np.ndarray]) -> None:
        """Saves findings about some files, for a later search if this one is killed.

        Args:
            places: of the files, sorted.
            descriptions: of all files.
            pairs: columns of pairs of these files.
        """
        columns = {**NO_PAIRS, **pairs}
        if self._unread:
            unread = sorted(self._unread)
            is_read = ~np.isin(columns["first"], unread) & ~np.isin(columns["second"], unread)
            columns = {name: column[is_read] for name, column in columns.items()}
            places = np.setdiff1d(places, unread)
        columns |= {side: np.searchsorted(places, columns[side]) for side in ("first", "second")}
        self._parts.mkdir(exist_ok=True)
        path = self._parts / f"{uuid.uuid4().hex}.npz"
        # The descriptions come first: a file with pairs is complete.
        with replacing(path.with_suffix(".npy")) as file:
            save_array(file, descriptions[places])
        with replacing(path) as file:
            np.savez(file, digests=self._names[places], allow_pickle=False, **columns)

    def _describe(self) -> np.ndarray:
        descriptions = np.zeros((len(self._names), 1 + len(CROPS), SPECTRUM**2 - 1), np.float16)
        todo = self._known.describe(self._names, descriptions)
        # Not needed any more: they may take as much memory as these.
        self._known.digests.clear()
        parts = [todo[start : start + AT_ONCE] for start in range(0, len(todo), AT_ONCE)]
        saved, saved_s = 0, time.monotonic()
        with (
            ThreadPoolExecutor(count_cpus()) as threads,
            reported_progress("describing images", len(todo), "images") as advance,
        ):
            for number, done in enumerate(threads.map(self._describe_part, parts), 1):
                descriptions[parts[number - 1]] = done
                advance(len(done))
                if time.monotonic() - saved_s > SAVE_EVERY_S:
                    self._save_part(np.concatenate(parts[saved:number]), descriptions, {})
                    saved, saved_s = number, time.monotonic()
        return descriptions

    def _describe_part(self, places: np.ndarray) -> np.ndarray:
        return np.stack([self._describe_place(place) for place in places])

    def _describe_place(self, place: int) -> np.ndarray:
        picture = self._read(place)
        return np.zeros((1 + len(CROPS), SPECTRUM**2 - 1), np.float16) if picture is None else _describe(picture)

    def _read(self, place: int, *, again: bool = True) -> np.ndarray | None:
        """Returns a picture; None if it cannot be read, at a second attempt if the reason may pass."""
        try:
            return _load(self._paths[place])
        except UnreadableImageError as error:
            if error.lasting:
                return None
            digest, is_read = hash_file(str(self._paths[place]))
            if is_read and again:
                return self._read(place, again=False)
            # A file that cannot be opened had a stand-in for a digest: this may have been so before.
            if digest.hex() != self._names[place].decode():
                self._unread[int(place)] = str(error)
            return None

    def _compare(self, candidates: Candidates, descriptions: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the columns of all pairs: first, second, turn, kind, "" for different pictures, and similarity."""
        pairs = list(zip(candidates.first.tolist(), candidates.second.tolist(), candidates.turn.tolist(), strict=True))
        keys = [(bytes(self._names[a]), bytes(self._names[b]), turn) for a, b, turn in pairs]
        verdicts = [self._known.verdicts.get(key) for key in keys]
        todo = [place for place, verdict in enumerate(verdicts) if verdict is None]

        def compare(place: int) -> tuple[str, float]:
            first, second, turn = pairs[place]
            a, b = self._read(first), self._read(second)
            return DIFFERENT if a is None or b is None else _compare_pictures(a, b, TURNS[turn]) or DIFFERENT

        saved, saved_s = 0, time.monotonic()
        with (
            ThreadPoolExecutor(count_cpus()) as threads,
            reported_progress("comparing pairs of images", len(todo), "pairs") as advance,
        ):
            for number, verdict in enumerate(threads.map(compare, todo), 1):
                verdicts[todo[number - 1]] = verdict
                advance(1)
                if time.monotonic() - saved_s > SAVE_EVERY_S:
                    done = todo[saved:number]
                    columns = _list_columns([pairs[place] for place in done], [verdicts[place] for place in done])
                    self._save_part(np.unique([columns["first"], columns["second"]]), descriptions, columns)
                    saved, saved_s = number, time.monotonic()
        return _list_columns(pairs, verdicts)


def _list_columns(
    pairs: Sequence[tuple[int, int, int]], verdicts: Sequence[tuple[str, float] | None]
) -> dict[str, np.ndarray]:
    first, second, turn = np.array(pairs, np.int64).reshape(-1, 3).T
    kinds, similarities = zip(*(verdict or DIFFERENT for verdict in verdicts), strict=True) if verdicts else ((), ())
    return {
        "first": first, "second": second, "turn": turn, "kind": np.array(kinds, dtype="U16"),
        "similarity": np.array(similarities, dtype=np.float64),
    }  # fmt: skip


DIFFERENT = ("", 0.0)
NO_PAIRS = _list_columns([], [])


def _load(path: Path | str) -> np.ndarray:
    """Returns a picture: uint8 (SIDE, SIDE, 3)."""
    return decode_image(Path(path), SIDE, SIDE)


def _soften(picture: np.ndarray) -> np.ndarray:
    """Returns a picture in grey, blurred to remove traces of compression: float32 (SIDE, SIDE)."""
    return cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 1.2).astype(np.float32)


def _describe(picture: np.ndarray) -> np.ndarray:
    """Returns the descriptions of a picture and its crops: float16 (1 + crops, SPECTRUM**2 - 1).

    Each has length 1, so that the dot product of two is their correlation. It is zero for an empty picture.
    """
    described = np.zeros((1 + len(CROPS), SPECTRUM**2 - 1), dtype=np.float16)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    for row, cut in enumerate(((0.0, 0.0, 0.0, 0.0), *CROPS)):
        top, right, bottom, left = (round(SIDE * share) for share in cut)
        part = grey[top : SIDE - bottom, left : SIDE - right]
        shrunk = cv2.resize(part, (SHRUNK, SHRUNK), interpolation=cv2.INTER_AREA).astype(np.float32)
        low = cv2.dct(shrunk)[:SPECTRUM, :SPECTRUM].ravel()[1:]
        # All empty pictures would look alike.
        if (length := np.linalg.norm(low)) > 1:
            described[row] = low / length
    return described


def _compare_pictures(a: np.ndarray, b: np.ndarray, turn: Turn) -> tuple[str, float] | None:
    """Returns kind and similarity of two pictures, uint8 (SIDE, SIDE, 3), if they are the same, the second turned, else None."""
    b = turn.apply(b)
    best = max(_lay_over(a, b), _lay_over(b, a), key=lambda match: match.similarity)
    if best.similarity < SAME_PICTURE or best.detail < SAME_DETAIL:
        return None
    is_recoloured = best.colour > SAME_COLOUR
    if is_recoloured and (best.detail < RECOLOURED_DETAIL or best.channels < RECOLOURED_CHANNEL):
        return None
    if turn == MIRRORED:
        kind = "mirrored"
    elif turn != Turn():
        # Simple shapes that are turned and stretched are like many others.
        kind = "" if best.cropped else "turned"
    else:
        kind = "recoloured" if is_recoloured else "cropped" if best.cropped else "near-copy"
    return (kind, round(min(best.similarity, 1.0), 4)) if kind else None


@dataclass(frozen=True)
class _Match:
    """The best alignment of two pictures.

    Attributes:
        similarity: correlation in grey.
        detail: correlation of the fine detail in grey.
        colour: the largest difference in mean colour, in [0, 255].
        channels: the smallest correlation of a colour channel; -1 if one of them is flat.
        cropped: whether one is a crop of the other.
    """

    similarity: float = -1.0
    detail: float = -1.0
    colour: float = 255.0
    channels: float = -1.0
    cropped: bool = False


def _lay_over(picture: np.ndarray, other: np.ndarray) -> _Match:
    """Returns the best alignment of the middle of `other` on `picture`, shifted and stretched."""
    edge = SIDE // 10
    side = SIDE - 2 * edge
    grey, middle = _soften(picture), _soften(other)[edge:-edge, edge:-edge]
    # A wall or a sky correlates with anything.
    if middle.std() < 1:
        return _Match()
    best, place = -1.0, np.eye(2, 3, dtype=np.float32)
    for scale in SCALES:
        size = round(side * scale)
        part = cv2.resize(middle, (size, size), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        _, correlation, _, (left, top) = cv2.minMaxLoc(cv2.matchTemplate(grey, part, cv2.TM_CCOEFF_NORMED))
        if correlation > best + 1e-6:
            best, place = correlation, np.array([[scale, 0, left], [0, scale, top]], dtype=np.float32)
    if best < ROUGHLY_SAME:
        return _Match()
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, FIT_STEPS, FIT_CHANGE)
    try:
        similarity, place = cv2.findTransformECC(middle, grey, place, cv2.MOTION_AFFINE, stop, None, 1)
    except cv2.error:  # The fit does not converge: the pictures have little in common.
        return _Match()
    scales = np.diagonal(place)
    # A crop is neither rotated nor sheared, and stretched only a little.
    if max(abs(place[0, 1]), abs(place[1, 0])) > MOST_SHEAR or np.abs(scales - 1).max() > MOST_STRETCH:
        return _Match()
    views, flags = (picture, np.ones((SIDE, SIDE), dtype=np.uint8)), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    below, inside = (cv2.warpAffine(view, place, (side, side), flags=flags) for view in views)
    shown = inside.astype(bool)
    if shown.mean() < MOSTLY:
        return _Match()
    part = other[edge:-edge, edge:-edge]
    fine = [view - cv2.GaussianBlur(view, (0, 0), 3) for view in (_soften(below), _soften(part))]
    shift = place[:, :2] @ np.full(2, side / 2) + place[:, 2] - SIDE / 2
    return _Match(
        similarity,
        _correlate(fine[0][shown], fine[1][shown], 1e-3, 0.0),
        float(np.abs(below[shown].mean(axis=0) - part[shown].mean(axis=0)).max()),
        min(_correlate(below[shown][:, each], part[shown][:, each], 1.0, -1.0) for each in range(3)),
        bool(np.abs(scales - 1).max() > CROP_SCALE or np.abs(shift).max() > CROP_SHIFT),
    )


def _correlate(one: np.ndarray, other: np.ndarray, flat: float, without: float) -> float:
    """Returns the correlation of two arrays; `without` if a standard deviation is below `flat`."""
    return without if min(one.std(), other.std()) < flat else float(np.corrcoef(one, other)[0, 1])
