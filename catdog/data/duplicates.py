"""Finds images of the same picture: copies, and mirrored, resized, recompressed or slightly cropped versions."""

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np

from catdog.data.images import DECODER_VERSION, UnreadableImageError, decode_image
from catdog.data.staging import locked, staged
from catdog.system.errors import UserError

log = logging.getLogger(__name__)

# Pictures are compared at this size, in grey.
SIDE = 96
# A picture is described by its lowest frequencies: SPECTRUM x SPECTRUM coefficients of the cosine transform of SHRUNK x SHRUNK
# pixels, without the mean.
SHRUNK, SPECTRUM = 32, 8
# Fractions cut off the four sides (top, right, bottom, left). These crops are described as well as the whole picture, so that a
# cropped copy is similar to one of them.
CROPS = (
    (0.05, 0.05, 0.05, 0.05), (0.05, 0.05, 0, 0), (0, 0.05, 0.05, 0), (0, 0, 0.05, 0.05), (0.05, 0, 0, 0.05),
)  # fmt: skip
# A pair is a candidate if its descriptions correlate this much, for the best mirroring and crop. To save time, the COARSE x COARSE
# lowest frequencies are compared first. Of 4.5 million pairs of different photos none was a candidate; of as many pairs of drawn
# images, 30 were.
ALIKE, COARSE = 0.93, 5
# Two pictures are the same if, aligned as well as possible, they reach this correlation, this correlation of their fine detail
# (which distinguishes simple shapes), and at most this difference in mean colour, on the scale of 0 to 255. On 3,000 photos of cats
# and dogs, 1,596 of 1,600 planted copies were found, 291 of 400 copies with a tenth of a side cut off, and no pair of different
# photos (`python benchmarks/planted.py`).
SAME_PICTURE, SAME_DETAIL, SAME_COLOUR = 0.98, 0.94, 8.0
# Alignment starts with these scales; 1.0 comes first so that it wins a tie. There copies correlated by 0.87 or more. The alignment
# is then fitted from the best scale.
SCALES, ROUGHLY_SAME = (1.0, 0.95, 1.05, 0.90, 1.10), 0.85
# The largest difference in mean colour between whole pictures, one of which may be a crop of the other.
ROUGHLY_SAME_COLOUR = 32.0
FIT_STEPS, FIT_CHANGE, MOST_SHEAR, MOST_STRETCH = 50, 1e-4, 0.02, 0.13
# The fraction of the middle of one picture that must lie within the other.
MOSTLY = 0.8
# A larger change of scale, or a larger shift in pixels, is a crop.
CROP_SCALE, CROP_SHIFT = 0.012, 1.5
VERSION = f"3/{DECODER_VERSION}/{SIDE}/{CROPS}/{SPECTRUM}/{ALIKE}/{COARSE}/{SAME_PICTURE}/{SAME_DETAIL}/{SAME_COLOUR}"
IMAGES_AT_ONCE = 256
# A pair takes about 3 CPU ms: so many take minutes on two cores.
MOST_CANDIDATES = 50_000
FOUND = "found.npz"


@dataclass(frozen=True)
class Pair:
    """Two images that show the same picture.

    Attributes:
        first: position of one image in the list that was searched.
        second: position of the other image, larger than `first`.
        kind: copy (the same bytes), mirrored, cropped, or near-copy (resized or recompressed).
        similarity: correlation of the two images, in [0, 1]; 1 for copies.
    """

    first: int
    second: int
    kind: str
    similarity: float


def find_pairs(paths: Sequence[Path], digests: Sequence[str], cache: Path) -> list[Pair]:
    """Returns all pairs of images that show the same picture; unreadable files only pair with files of the same bytes.

    Candidates are found by comparing the lowest frequencies of each picture, its mirror image and five crops. The pictures of a
    candidate pair are then aligned by shifting and stretching, and correlated. The findings are kept in the cache, by content: a
    second call reads them.

    Not found: rotated pictures, crops by more than a tenth of a side and about a quarter of those by a tenth, copies in other
    colours or in grey, other exposures of a scene.

    Args:
        paths: N files.
        digests: sha256 of each file's bytes.
        cache: folder of the cache; the findings are kept in its `duplicates/`.

    Source: the coefficients of the DCT hash of Zauner (2010), "Implementation and benchmarking of perceptual image hash functions",
    but not rounded: as 64 bits they gave 240 times as many candidates for the same photos. OpenCV's dct and, to align pictures,
    matchTemplate and findTransformECC (Evangelidis and Psarakis, 2008).
    """
    first_of: dict[str, int] = {}
    for position, digest in enumerate(digests):
        first_of.setdefault(digest, position)
    copies = [
        Pair(first_of[digest], position, "copy", 1.0)
        for position, digest in enumerate(digests)
        if first_of[digest] != position
    ]
    found = _load_or_search({digest: paths[position] for digest, position in first_of.items()}, cache)
    near = []
    for a, b, kind, similarity in found:
        first, second = sorted((first_of[a], first_of[b]))
        near.append(Pair(first, second, kind, similarity))
    return sorted(copies + near, key=lambda pair: (pair.first, pair.second))


def find_unreadable(paths: Sequence[Path], digests: Sequence[str], cache: Path) -> dict[int, str]:
    """Returns the reason for each file that cannot be read, by its position; arguments as for `find_pairs`.

    The search for pairs has read all files. Here only those are read again that it has no description of.
    """
    folder = _keep_findings(dict(zip(digests, paths, strict=True)), cache)
    with np.load(folder / FOUND) as stored:
        described = dict(zip(stored["digests"].tolist(), stored["descriptions"].any(axis=(1, 2)).tolist(), strict=True))
    reasons = {}
    for position, digest in enumerate(digests):
        if not described[digest]:
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


def _load_or_search(files: dict[str, Path], cache: Path) -> list[tuple[str, str, str, float]]:
    """Returns (digest, digest, kind, similarity) of every near pair."""
    names = sorted(files)
    with np.load(_keep_findings(files, cache) / FOUND) as stored:
        columns = [stored[name].tolist() for name in ("first", "second", "kind", "similarity")]
    return [(names[a], names[b], kind, similarity) for a, b, kind, similarity in zip(*columns, strict=True)]


def _keep_findings(files: dict[str, Path], cache: Path) -> Path:
    """Returns the folder in the cache with descriptions and pairs of these files, by digest; the first time, looks for them."""
    names = sorted(files)
    key = hashlib.sha256("\n".join([VERSION, *names]).encode()).hexdigest()[:32]
    # By version: descriptions of different versions cannot be compared.
    kept = cache / "duplicates" / hashlib.sha256(VERSION.encode()).hexdigest()[:8] / key
    with locked(kept, "looking for near-duplicates"):
        if not kept.exists():
            log.info("looking for near-duplicates among %s images, once", f"{len(names):,}")
            found = _search(names, [files[name] for name in names], kept.parent)
            with staged(kept) as stage:
                np.savez(stage / FOUND, allow_pickle=False, digests=np.array(names, dtype="U64"), **found)
    return kept


def _search(names: list[str], paths: list[Path], folder: Path) -> dict[str, np.ndarray]:
    """Returns descriptions of files, and their pairs in columns; `names` are digests, `folder` holds earlier findings."""
    known = _load_descriptions(folder)
    todo = [position for position, name in enumerate(names) if name not in known]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        new = threads.map(_describe_file, [paths[position] for position in todo])
        known |= dict(zip([names[position] for position in todo], new, strict=True))
        descriptions = np.array([known[name] for name in names]).reshape(-1, 1 + len(CROPS), SPECTRUM**2 - 1)
        candidates = _find_candidates(descriptions.astype(np.float32))
        matches = list(threads.map(lambda pair: _compare(paths[pair[0]], paths[pair[1]], pair[2]), candidates))
    found = [(a, b, *match) for (a, b, _), match in zip(candidates, matches, strict=True) if match]
    first, second, kind, similarity = zip(*found, strict=True) if found else ((), (), (), ())
    return {
        "descriptions": descriptions, "first": np.array(first, dtype=np.int64), "second": np.array(second, dtype=np.int64),
        "kind": np.array(kind, dtype="U16"), "similarity": np.array(similarity, dtype=np.float64),
    }  # fmt: skip


def _load_descriptions(folder: Path) -> dict[str, np.ndarray]:
    """Returns the descriptions of the last search by digest, so that known images need not be described again."""
    files = sorted(folder.glob(f"*/{FOUND}"), key=lambda file: file.stat().st_mtime)
    if not files:
        return {}
    with np.load(files[-1]) as stored:
        return dict(zip(stored["digests"].tolist(), stored["descriptions"], strict=True))


def _load(path: Path) -> np.ndarray:
    """Returns a picture: uint8 (SIDE, SIDE, 3)."""
    return decode_image(path, SIDE, SIDE)


def _soften(picture: np.ndarray) -> np.ndarray:
    """Returns a picture in grey, blurred to remove traces of compression: float32 (SIDE, SIDE)."""
    return cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 1.2).astype(np.float32)


def _describe_file(path: Path) -> np.ndarray:
    """Returns the descriptions of a picture and its crops: float16 (1 + crops, SPECTRUM**2 - 1).

    Each has length 1, so that the dot product of two is their correlation. It is zero for an unreadable file or an empty picture.
    """
    described = np.zeros((1 + len(CROPS), SPECTRUM**2 - 1), dtype=np.float16)
    try:
        grey = cv2.cvtColor(_load(path), cv2.COLOR_RGB2GRAY)
    except UnreadableImageError:
        return described
    for row, cut in enumerate(((0.0, 0.0, 0.0, 0.0), *CROPS)):
        top, right, bottom, left = (round(SIDE * share) for share in cut)
        part = grey[top : SIDE - bottom, left : SIDE - right]
        shrunk = cv2.resize(part, (SHRUNK, SHRUNK), interpolation=cv2.INTER_AREA).astype(np.float32)
        low = cv2.dct(shrunk)[:SPECTRUM, :SPECTRUM].ravel()[1:]
        # All empty pictures would look alike.
        if (length := np.linalg.norm(low)) > 1:
            described[row] = low / length
    return described


def _find_candidates(descriptions: np.ndarray) -> list[tuple[int, int, bool]]:
    """Returns (first, second, whether mirrored) of the pairs that look alike, with first < second, sorted.

    Args:
        descriptions: float32 (N, 1 + crops, SPECTRUM**2 - 1), as `_describe_file` makes them.
    """
    count, views, _ = descriptions.shape
    rows, columns = np.divmod(np.arange(1, SPECTRUM**2), SPECTRUM)
    # Mirroring changes the sign of coefficients in odd columns: their part of the dot product is added or subtracted.
    turned = columns % 2 == 1
    coarse = (rows < COARSE) & (columns < COARSE)
    lengths = np.maximum(np.linalg.norm(descriptions[..., coarse], axis=2, keepdims=True), 1e-6)
    plain, odd = (descriptions[..., coarse & half] / lengths for half in (~turned, turned))
    best: dict[tuple[int, int], tuple[float, bool]] = {}
    for start, onto in product(range(0, count, IMAGES_AT_ONCE), repeat=2):
        # The whole pictures of one block, and the pictures and crops of the other.
        one, other = slice(start, start + IMAGES_AT_ONCE), slice(onto, onto + IMAGES_AT_ONCE)
        even_part, likeness = (half[one, 0] @ half[other].reshape(-1, half.shape[2]).T for half in (plain, odd))
        np.abs(likeness, out=likeness)
        likeness += even_part
        row, view = np.divmod(np.flatnonzero(likeness >= ALIKE), likeness.shape[1])
        first, (second, view) = start + row, np.divmod(view + onto * views, views)
        apart = first != second
        first, second, view = first[apart], second[apart], view[apart]
        products = descriptions[first, 0] * descriptions[second, view]
        even_part, odd_part = products[:, ~turned].sum(axis=1), products[:, turned].sum(axis=1)
        likeness = even_part + np.abs(odd_part)
        for index in np.flatnonzero(likeness >= ALIKE):
            pair = (int(min(first[index], second[index])), int(max(first[index], second[index])))
            found = (float(likeness[index]), bool(odd_part[index] < 0))
            best[pair] = max(best.get(pair, found), found)
        if len(best) > MOST_CANDIDATES:
            raise UserError(
                f"dataset.near_duplicates: more than {MOST_CANDIDATES:,} pairs of these images look alike at first sight, as "
                "digits or X-rays do. Comparing all of them would take very long. Set dataset.near_duplicates=ignore."
            )
    return [(a, b, mirrored) for (a, b), (_, mirrored) in sorted(best.items())]


def _compare(first: Path, second: Path, mirrored: bool) -> tuple[str, float] | None:
    """Returns kind and similarity of two pictures if they are the same, else None."""
    try:
        a, b = _load(first), _load(second)
    except UnreadableImageError:
        return None
    # Most candidates have different colours and end here.
    if np.abs(a.mean(axis=(0, 1)) - b.mean(axis=(0, 1))).max() > ROUGHLY_SAME_COLOUR:
        return None
    if mirrored:
        b = np.ascontiguousarray(b[:, ::-1])
    best = max(_lay_over(a, b), _lay_over(b, a), key=lambda match: match.similarity)
    if best.similarity < SAME_PICTURE or best.detail < SAME_DETAIL or best.colour > SAME_COLOUR:
        return None
    kind = "mirrored" if mirrored else "cropped" if best.cropped else "near-copy"
    return kind, round(min(best.similarity, 1.0), 4)


@dataclass(frozen=True)
class _Match:
    """The best alignment of two pictures: correlation, that of fine detail, colour difference, and whether one is a crop."""

    similarity: float = -1.0
    detail: float = -1.0
    colour: float = 255.0
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
    flat = min(view[shown].std() for view in fine) < 1e-3
    shift = place[:, :2] @ np.full(2, side / 2) + place[:, 2] - SIDE / 2
    return _Match(
        similarity,
        0.0 if flat else float(np.corrcoef(fine[0][shown], fine[1][shown])[0, 1]),
        float(np.abs(below[shown].mean(axis=0) - part[shown].mean(axis=0)).max()),
        bool(np.abs(scales - 1).max() > CROP_SCALE or np.abs(shift).max() > CROP_SHIFT),
    )
