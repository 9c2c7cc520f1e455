"""Which images are the same picture: copies, mirrored, resized, recompressed or slightly cropped ones."""

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from catdog.data.images import DECODER_VERSION, UnreadableImageError, decode_image
from catdog.data.staging import locked, staged
from catdog.errors import UserError

log = logging.getLogger(__name__)

# Pictures are compared at this size, in grey.
SIDE = 96
# Shares cut off the four sides (top, right, bottom, left) of what is hashed besides the whole picture: a cropped copy is then near
# one of them.
CROPS = (
    (0.025, 0.025, 0.025, 0.025), (0.05, 0.05, 0.05, 0.05),
    (0.05, 0.05, 0, 0), (0, 0.05, 0.05, 0), (0, 0, 0.05, 0.05), (0.05, 0, 0, 0.05),
)  # fmt: skip
# Of 64 bits of a hash, so many may differ for a pair to be looked at.
HAMMING_DISTANCE = 12
# Correlation of two pictures, laid over each other as well as can be, from which on they are the same. On 3,000 photos of cats
# and dogs, planted copies had 0.985 or more, different photos 0.86 or less; of 1,400 planted copies 1,398 were found (two photos of
# 100 x 74 and 120 x 89 pixels, mirrored, halved and recompressed at once, were not), and no pair of different photos was named
# (`python benchmarks/planted.py`).
SAME_PICTURE = 0.95
# Simple shapes lie on each other well and are different all the same: their fine detail has to agree, too (planted copies 0.977 or
# more, digits of 8 x 8 pixels 0.936 or less), and their mean colour, in steps of 255 (planted copies 1.7 at most).
SAME_DETAIL, SAME_COLOUR = 0.95, 8.0
# A scale or a shift beyond this is a crop.
CROP_SCALE, CROP_SHIFT = 0.012, 1.5
VERSION = f"2/{DECODER_VERSION}/{SIDE}/{CROPS}/{HAMMING_DISTANCE}/{SAME_PICTURE}/{SAME_DETAIL}/{SAME_COLOUR}"
ROWS_AT_ONCE = 256
# Some minutes of work on two cores: a pair takes about 12 ms.
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

    Perceptual hashes find the candidates: of the picture, of its mirror image and of six crops. Candidates are then laid over each
    other, scaled and shifted, and correlated. What was found is kept in the cache, by content: a second call reads it.

    Not found: rotated pictures, crops of more than about a tenth, copies in other colours or in grey, other exposures of a scene.

    Args:
        paths: N files.
        digests: sha256 of each file's bytes.
        cache: folder; the findings go below `duplicates/`.

    Source: the DCT hash of Zauner (2010), "Implementation and benchmarking of perceptual image hash functions", by the library
    ImageHash; normalised cross-correlation by OpenCV's matchTemplate.
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
    """Returns the hashes of files, and their pairs in columns; names are their digests, folder has earlier findings."""
    known = _load_hashes(folder)
    todo = [position for position, name in enumerate(names) if name not in known]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        new = threads.map(_hash_file, [paths[position] for position in todo])
        known |= dict(zip([names[position] for position in todo], new, strict=True))
        hashes = np.array([known[name] for name in names]).reshape(-1, 2 + len(CROPS))
        # Unreadable files have no hash; and an empty page would be like every other one.
        usable = np.flatnonzero(hashes.any(axis=1))
        candidates = [(usable[a], usable[b], mirrored) for a, b, mirrored in _find_candidates(hashes[usable])]
        matches = list(threads.map(lambda pair: _compare(paths[pair[0]], paths[pair[1]], pair[2]), candidates))
    found = [(a, b, *match) for (a, b, _), match in zip(candidates, matches, strict=True) if match]
    first, second, kind, similarity = zip(*found, strict=True) if found else ((), (), (), ())
    return {
        "hashes": hashes, "first": np.array(first, dtype=np.int64), "second": np.array(second, dtype=np.int64),
        "kind": np.array(kind, dtype="U16"), "similarity": np.array(similarity, dtype=np.float64),
    }  # fmt: skip


def _load_hashes(folder: Path) -> dict[str, np.ndarray]:
    """Returns hashes by digest, of the last search: of images that were there already."""
    files = sorted(folder.glob(f"*/{FOUND}"), key=lambda file: file.stat().st_mtime)
    for file in reversed(files):
        with np.load(file) as stored:
            if stored["hashes"].shape[1:] == (2 + len(CROPS),):
                return dict(zip(stored["digests"].tolist(), stored["hashes"], strict=True))
    return {}


def _load(path: Path) -> np.ndarray:
    """Returns a picture: uint8 (SIDE, SIDE, 3)."""
    return decode_image(path, SIDE, SIDE)


def _soften(picture: np.ndarray) -> np.ndarray:
    """Returns a picture in grey, without what compression changes: float32 (SIDE, SIDE)."""
    return cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 1.2).astype(np.float32)


def _hash_file(path: Path) -> np.ndarray:
    """Returns the hashes of a picture, its mirror image and its crops: uint64 (2 + crops,); zeros where it cannot be read."""
    import imagehash
    from PIL import Image

    try:
        grey = cv2.cvtColor(_load(path), cv2.COLOR_RGB2GRAY)
    except UnreadableImageError:
        return np.zeros(2 + len(CROPS), dtype=np.uint64)
    views = [grey, grey[:, ::-1]]
    for top, right, bottom, left in CROPS:
        rows, columns = (
            slice(round(SIDE * top), SIDE - round(SIDE * bottom)),
            slice(round(SIDE * left), SIDE - round(SIDE * right)),
        )
        views.append(grey[rows, columns])
    bits = [imagehash.phash(Image.fromarray(np.ascontiguousarray(view))).hash.ravel() for view in views]
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def _find_candidates(hashes: np.ndarray) -> list[tuple[int, int, bool]]:
    """Returns (first, second, whether mirrored) of the pairs whose hashes are near, first < second.

    Args:
        hashes: uint64 (N, 2 + crops), the whole picture, its mirror image, the crops.
    """
    whole, mirror, crops = hashes[:, 0], hashes[:, 1], hashes[:, 2:]
    nearest: dict[tuple[int, int], tuple[int, bool]] = {}
    for start in range(0, len(hashes), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        for flipped, views in ((False, whole), (True, mirror)):
            distance = np.bitwise_count(views[rows, None] ^ whole[None])
            for crop in crops.T:
                np.minimum(distance, np.bitwise_count(views[rows, None] ^ crop[None]), out=distance)
            for row, column in np.argwhere(distance <= HAMMING_DISTANCE):
                pair = (int(min(start + row, column)), int(max(start + row, column)))
                if pair[0] == pair[1]:
                    continue
                value = (int(distance[row, column]), flipped)
                nearest[pair] = min(nearest.get(pair, value), value)
        if len(nearest) > MOST_CANDIDATES:
            raise UserError(
                f"dataset.near_duplicates: more than {MOST_CANDIDATES:,} pairs of these images look alike at first sight, such as "
                "digits or X-rays do; to compare them all would take very long. Set dataset.near_duplicates=ignore."
            )
    return [(a, b, flipped) for (a, b), (_, flipped) in sorted(nearest.items())]


def _compare(first: Path, second: Path, mirrored: bool) -> tuple[str, float] | None:
    """Returns kind and similarity of two pictures if they are the same, else None."""
    try:
        a, b = _load(first), _load(second)
    except UnreadableImageError:
        return None
    if mirrored:
        b = np.ascontiguousarray(b[:, ::-1])
    best = max(_lay_over(a, b), _lay_over(b, a), key=lambda match: match.similarity)
    if best.similarity < SAME_PICTURE or best.detail < SAME_DETAIL or best.colour > SAME_COLOUR:
        return None
    cropped = abs(best.scale - 1) > CROP_SCALE or best.shift > CROP_SHIFT
    return "mirrored" if mirrored else "cropped" if cropped else "near-copy", round(best.similarity, 4)


@dataclass(frozen=True)
class _Match:
    """How two pictures lie on each other best: correlation, of fine detail as well, difference in colour, scale and shift."""

    similarity: float = -1.0
    detail: float = -1.0
    colour: float = 255.0
    scale: float = 1.0
    shift: float = 0.0


def _lay_over(picture: np.ndarray, other: np.ndarray) -> _Match:
    """Returns how the middle of one picture lies best on the other."""
    edge = SIDE // 10
    grey, middle = _soften(picture), _soften(other)[edge:-edge, edge:-edge]
    best, found = -1.0, None
    # The plain size first, so that it wins a tie.
    for scale in sorted(np.arange(0.90, 1.115, 0.01), key=lambda scale: abs(scale - 1)):
        side = round(len(middle) * scale)
        part = cv2.resize(middle, (side, side), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        # A wall or a sky correlates with anything.
        if part.std() < 1:
            continue
        _, similarity, _, (left, top) = cv2.minMaxLoc(cv2.matchTemplate(grey, part, cv2.TM_CCOEFF_NORMED))
        if similarity > best + 1e-6:
            best, found = similarity, (float(scale), part, slice(top, top + side), slice(left, left + side))
    if found is None:
        return _Match()
    scale, part, rows, columns = found
    below = grey[rows, columns]
    fine = [view - cv2.GaussianBlur(view, (0, 0), 3) for view in (below, part)]
    flat = min(view.std() for view in fine) < 1e-3
    colours = [view.reshape(-1, 3).mean(axis=0) for view in (picture[rows, columns], other[edge:-edge, edge:-edge])]
    shift = max(abs(place.start + len(part) / 2 - SIDE / 2) for place in (rows, columns))
    return _Match(
        best,
        0.0 if flat else float(np.corrcoef(fine[0].ravel(), fine[1].ravel())[0, 1]),
        float(np.abs(colours[0] - colours[1]).max()),
        scale,
        shift,
    )
