"""Which images are the same picture: copies, mirrored, resized, recompressed or slightly cropped ones."""

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
# A picture is described by its lowest frequencies: SPECTRUM x SPECTRUM coefficients, without the mean, of the cosine transform of
# SHRUNK x SHRUNK pixels.
SHRUNK, SPECTRUM = 32, 8
# Shares cut off the four sides (top, right, bottom, left) of what is described besides the whole picture: a cropped copy is then
# near one of them.
CROPS = (
    (0.05, 0.05, 0.05, 0.05), (0.05, 0.05, 0, 0), (0, 0.05, 0.05, 0), (0, 0, 0.05, 0.05), (0.05, 0, 0, 0.05),
)  # fmt: skip
# Pairs are looked at whose descriptions correlate so much, mirrored and cropped as is best; first, for speed, by their
# COARSE x COARSE lowest frequencies. Of 4.5 million pairs of different photos not one is looked at, of as many of drawn images 30.
ALIKE, COARSE = 0.93, 5
# Of two pictures that are the same, laid over each other as well as can be: the least correlation, also of their fine detail, which
# tells simple shapes apart, and the largest difference in mean colour, in steps of 255. On 3,000 photos of cats and dogs, 1,596 of
# 1,600 planted copies were found, 291 of 400 with a tenth of a side cut off, and no pair of different photos
# (`python benchmarks/planted.py`).
SAME_PICTURE, SAME_DETAIL, SAME_COLOUR = 0.98, 0.94, 8.0
# Laid over at these scales, the plain one first so that it wins a tie, copies had 0.87 or more; from there the place is fitted.
SCALES, ROUGHLY_SAME = (1.0, 0.95, 1.05, 0.90, 1.10), 0.85
# Of whole pictures, one of which may be cropped.
ROUGHLY_SAME_COLOUR = 32.0
FIT_STEPS, FIT_CHANGE, MOST_SHEAR, MOST_STRETCH = 50, 1e-4, 0.02, 0.13
# Of the middle of one picture, the share that has to lie on the other.
MOSTLY = 0.8
# A scale or a shift beyond this is a crop.
CROP_SCALE, CROP_SHIFT = 0.012, 1.5
VERSION = f"3/{DECODER_VERSION}/{SIDE}/{CROPS}/{SPECTRUM}/{ALIKE}/{COARSE}/{SAME_PICTURE}/{SAME_DETAIL}/{SAME_COLOUR}"
IMAGES_AT_ONCE = 256
# Minutes of work on two cores: a pair takes about 3 CPU ms.
MOST_CANDIDATES = 50_000
FOUND = "found.npz"


@dataclass(frozen=True)
class Pair:
    """Two images that show the same picture.

    Attributes:
        first: position of one of them in the list that was searched.
        second: position of the other, larger than `first`.
        kind: copy (the same bytes), mirrored, cropped, or near-copy (resized or recompressed).
        similarity: correlation of the two, in [0, 1]; 1 for copies.
    """

    first: int
    second: int
    kind: str
    similarity: float


def find_pairs(paths: Sequence[Path], digests: Sequence[str], cache: Path) -> list[Pair]:
    """Returns all pairs of images that show the same picture; unreadable files are in none but those of equal bytes.

    The lowest frequencies of the pictures, their mirror images and five crops of each tell the candidates. Those are then laid over
    each other, shifted and stretched as fits best, and correlated. What was found is kept in the cache, by content: a second call
    reads it.

    Not found: rotated pictures, larger crops than a tenth of a side (and a third of those), copies in other colours or in grey,
    other exposures of a scene.

    Args:
        paths: N files.
        digests: sha256 of each file's bytes.
        cache: folder; the findings go below `duplicates/`.

    Source: the coefficients of the DCT hash of Zauner (2010), "Implementation and benchmarking of perceptual image hash functions",
    unrounded: as 64 bits they made 240 times as many candidates of the same photos. OpenCV's dct and, to lay pictures
    over each other, matchTemplate and findTransformECC (Evangelidis and Psarakis, 2008).
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


def group_pairs(pairs: Sequence[Pair], count: int) -> np.ndarray:
    """Returns a group for each of `count` images: int64 (count,), equal for those that pairs connect."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = [pair.first for pair in pairs], [pair.second for pair in pairs]
    graph = coo_array((np.ones(len(pairs)), (first, second)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _load_or_search(files: dict[str, Path], cache: Path) -> list[tuple[str, str, str, float]]:
    """Returns (digest, digest, kind, similarity) of every near pair."""
    names = sorted(files)
    key = hashlib.sha256("\n".join([VERSION, *names]).encode()).hexdigest()[:32]
    # By version: hashes of another one are not comparable.
    kept = cache / "duplicates" / hashlib.sha256(VERSION.encode()).hexdigest()[:8] / key
    with locked(kept, "looking for near-duplicates"):
        if not kept.exists():
            log.info("looking for near-duplicates among %s images, once", f"{len(names):,}")
            found = _search(names, [files[name] for name in names], kept.parent)
            with staged(kept) as stage:
                np.savez(stage / FOUND, allow_pickle=False, digests=np.array(names, dtype="U64"), **found)
    with np.load(kept / FOUND) as stored:
        columns = [stored[name].tolist() for name in ("first", "second", "kind", "similarity")]
    return [(names[a], names[b], kind, similarity) for a, b, kind, similarity in zip(*columns, strict=True)]


def _search(names: list[str], paths: list[Path], folder: Path) -> dict[str, np.ndarray]:
    """Returns what describes files, and their pairs in columns; names are their digests, folder has earlier findings."""
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
    """Returns descriptions by digest, of the last search: of images that were there already."""
    files = sorted(folder.glob(f"*/{FOUND}"), key=lambda file: file.stat().st_mtime)
    if not files:
        return {}
    with np.load(files[-1]) as stored:
        return dict(zip(stored["digests"].tolist(), stored["descriptions"], strict=True))


def _load(path: Path) -> np.ndarray:
    """Returns a picture: uint8 (SIDE, SIDE, 3)."""
    return decode_image(path, SIDE, SIDE)


def _soften(picture: np.ndarray) -> np.ndarray:
    """Returns a picture in grey, without what compression changes: float32 (SIDE, SIDE)."""
    return cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 1.2).astype(np.float32)


def _describe_file(path: Path) -> np.ndarray:
    """Returns what describes a picture and its crops: float16 (1 + crops, SPECTRUM**2 - 1).

    Each of length 1, so that a product of two is their correlation; zeros where the file cannot be read, or shows nothing.
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
        # An empty page would be like every other one.
        if (length := np.linalg.norm(low)) > 1:
            described[row] = low / length
    return described


def _find_candidates(descriptions: np.ndarray) -> list[tuple[int, int, bool]]:
    """Returns (first, second, whether mirrored) of the pairs that look alike, first < second, in order.

    Args:
        descriptions: float32 (N, 1 + crops, SPECTRUM**2 - 1), as `_describe_file` makes them.
    """
    count, views, _ = descriptions.shape
    rows, columns = np.divmod(np.arange(1, SPECTRUM**2), SPECTRUM)
    # In a mirror, the coefficients of odd columns change their sign: their share of a product is added, or taken away.
    turned = columns % 2 == 1
    coarse = (rows < COARSE) & (columns < COARSE)
    lengths = np.maximum(np.linalg.norm(descriptions[..., coarse], axis=2, keepdims=True), 1e-6)
    plain, odd = (descriptions[..., coarse & half] / lengths for half in (~turned, turned))
    best: dict[tuple[int, int], tuple[float, bool]] = {}
    for start, onto in product(range(0, count, IMAGES_AT_ONCE), repeat=2):
        # Whole pictures of a block, and all views of another.
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
                f"dataset.near_duplicates: more than {MOST_CANDIDATES:,} pairs of these images look alike at first sight, such as "
                "digits or X-rays do; to compare them all would take very long. Set dataset.near_duplicates=ignore."
            )
    return [(a, b, mirrored) for (a, b), (_, mirrored) in sorted(best.items())]


def _compare(first: Path, second: Path, mirrored: bool) -> tuple[str, float] | None:
    """Returns kind and similarity of two pictures if they are the same, else None."""
    try:
        a, b = _load(first), _load(second)
    except UnreadableImageError:
        return None
    # Most candidates are of other colours, and are done with here.
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
    """How two pictures lie on each other best: correlation, of fine detail as well, difference in colour, whether one is a crop."""

    similarity: float = -1.0
    detail: float = -1.0
    colour: float = 255.0
    cropped: bool = False


def _lay_over(picture: np.ndarray, other: np.ndarray) -> _Match:
    """Returns how the middle of one picture lies best on the other, shifted and stretched."""
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
    except cv2.error:  # It does not converge: they have little in common.
        return _Match()
    scales = np.diagonal(place)
    # A crop is neither turned nor sheared, and only so much larger.
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
