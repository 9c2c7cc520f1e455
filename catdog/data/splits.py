"""Assigns images to splits, with a seed of its own, and lists them in a manifest."""

import hashlib
import logging
import unicodedata
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from catdog.data.images import describe_hidden, is_hidden_image, is_image_file
from catdog.system.errors import UserError
from catdog.system.wording import plural

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
# The names people give to the folders of the three splits.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
# A table of predictions has these columns and one for each class.
RESERVED_CLASSES = {"file", "label"}
# The most files or classes that a message names.
MOST_NAMED = 20
# By the splits that have folders of their own: the fewest images that each class needs in each of them ("" if there are none), and
# the same in words.
_LAYOUTS: dict[frozenset[str], tuple[dict[str, int], str]] = {
    frozenset(): ({"": 3}, "at least 3 images, one for each split"),
    frozenset(["train"]): ({"train": 3}, "at least 3 images in train/, one for each split"),
    frozenset(["train", "val"]): (
        {"train": 1, "val": 2}, "at least 1 image in train/ and 2 in validation/, which is divided into val and test",
    ),
    frozenset(["train", "test"]): (
        {"train": 2, "test": 1}, "at least 2 images in train/, which is divided into train and val, and 1 in test/",
    ),
    frozenset(SPLITS): ({"train": 1, "val": 1, "test": 1}, "at least 1 image in each of train/, validation/ and test/"),
}  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """The images of a data set and the split of each.

    Attributes:
        root: folder that `file` is relative to.
        classes: class names in the order of their indices.
        images: one row per image: file (POSIX path below root), label (class name), split, sha256 of the file's bytes.
        left_out: held-out files that would leak, because they show the same picture as a file in an earlier split -> that file.
        conflicts: pairs of files that show the same picture but have different classes.
        digest: sha256 of the rows: content, class and split of every image.
        nested: for each class with images in folders below its own: the number of images by folder, such as "indoor/night".
        unreadable: the reason for each of the files that cannot be read; empty if near-duplicates were not searched.
        hidden: images in the classes' folders that are left out because their names begin with a dot.
    """

    root: Path
    classes: tuple[str, ...]
    images: pd.DataFrame
    left_out: dict[str, str]
    digest: str
    conflicts: tuple[tuple[str, str], ...] = ()
    nested: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()

    @property
    def readable(self) -> pd.DataFrame:
        """The rows of the images that are not known to be unreadable: those that are used, and counted."""
        return self.images[~self.images["file"].isin(list(self.unreadable))]

    def select(self, split: str) -> pd.DataFrame:
        """Returns the rows of one split, in their fixed order, with a fresh index."""
        return self.images[self.images["split"] == split].reset_index(drop=True)


def build_manifest(
    root: Path,
    *,
    holdout_fraction: float,
    test_fraction: float,
    split_seed: int,
    max_images_per_class: int | None = None,
    shown: str | None = None,
    duplicates_cache: Path | None = None,
) -> Manifest:
    """Returns the manifest of a folder with one folder per class, directly or in folders `train/` and `validation/`.

    With both split folders, train stays as given, and validation is divided into val and test. With `test/` as well, all three stay
    as given. Without split folders, or with only `train/`, `holdout_fraction` of each class is held out and divided. Every division
    is stratified by class. It orders files by a hash of the seed and their path, so adding an image keeps the order of all others.

    Args:
        root: folder of the data set.
        holdout_fraction: fraction of each class that is held out if there is no validation folder, in (0, 1).
        test_fraction: fraction of the held-out images of each class that becomes test, in (0, 1).
        split_seed: seed of the division.
        max_images_per_class: keep this many images of each class and split, the first in the fixed order; None keeps all.
        shown: the name of the data set in messages, such as its archive; None means `root`.
        duplicates_cache: where the search for near-duplicates keeps its findings. Near-duplicates are put into one split, or left
            out if the folders have them in several splits. None: only held-out files with the same bytes are left out. Without
            near-duplicates, the manifest is the same either way.

    Raises:
        UserError: there are no images or only one class, a class is missing from a split, or a split is empty.
    """
    shown = shown or str(root)
    rows = assign_splits(
        root, holdout_fraction=holdout_fraction, test_fraction=test_fraction, split_seed=split_seed, shown=shown
    )
    if max_images_per_class is not None:
        rows = rows.groupby(["split", "label"], sort=False).head(max_images_per_class)
    rows = rows.assign(sha256=hash_files(root, list(rows["file"])))
    found = rows
    rows, left_out = _leave_out_twins(rows)
    conflicts: list[tuple[str, str]] = []
    unreadable: dict[str, str] = {}
    if duplicates_cache is not None:
        searched = rows
        rows, near, conflicts = _bring_to_one_side(rows, root, duplicates_cache)
        unreadable = _find_unreadable(searched, root, duplicates_cache)
        left_out |= near
    rows = rows.sort_values(["split", "label", "file"], kind="stable").reset_index(drop=True)
    classes = tuple(sorted(rows["label"].unique()))
    _require_every_class(shown, rows, found, classes)
    lines = (
        f"{s}\t{label}\t{digest}\n"
        for s, label, digest in zip(rows["split"], rows["label"], rows["sha256"], strict=True)
    )
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    images = rows[["file", "label", "split", "sha256"]]
    nested, hidden = count_nested(rows), find_hidden(root)
    return Manifest(root, classes, images, left_out, digest, tuple(conflicts), nested, unreadable, hidden)


def count_nested(rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Returns for each class with images in folders below its own: the number of images by folder; columns label and below."""
    counts: dict[str, dict[str, int]] = {}
    for (label, below), members in rows[rows["below"] != ""].groupby(["label", "below"]):
        counts.setdefault(str(label), {})[str(below)] = len(members)
    return counts


def require_readable_test(manifest: Manifest, allowed_fraction: float) -> None:
    """Raises a UserError if more files of test than allowed cannot be read: training would not find out, as it never reads test."""
    total = len(manifest.select("test"))
    unreadable = list_unreadable(manifest, "test")
    # A single bad file is always allowed, even in a small split.
    if len(unreadable) > max(1, allowed_fraction * total):
        raise UserError(
            f"{len(unreadable)} of {total} files of test are unreadable, more than dataset.max_unreadable_fraction="
            f"{allowed_fraction:g} allows. Repair or remove these below {manifest.root}, or raise the limit:\n  "
            + "\n  ".join(name_some(unreadable))
        )


def list_unreadable(manifest: Manifest, split: str) -> list[str]:
    """Returns the name and the reason of each file of a split that is known to be unreadable."""
    files = [file for file in manifest.select(split)["file"] if file in manifest.unreadable]
    return [f"{file!r}: {manifest.unreadable[file]}" for file in files]


def name_some(words: Sequence[str]) -> list[str]:
    """Returns the first of these words, and how many more there are."""
    return [*words[:MOST_NAMED], *([f"and {len(words) - MOST_NAMED:,} more"] if len(words) > MOST_NAMED else [])]


def assign_splits(
    root: Path, *, holdout_fraction: float, test_fraction: float, split_seed: int, shown: str
) -> pd.DataFrame:
    """Returns the columns file, label, below, split and given for every image below a folder.

    `below` is the folder below that of the class, "" for most images; `given` is the split of the image's folder, or "".

    The rows are in the fixed order; duplicates are not removed. Arguments and errors are those of `build_manifest`.
    """
    found = _find_images(root, shown)
    rows = _assign_splits(found, holdout_fraction, test_fraction, split_seed)
    return rows.assign(given=found["split"])


def hash_files(root: Path, files: Sequence[str]) -> list[str]:
    """Returns the sha256 of each file's bytes, 64 hexadecimal digits; for a file that cannot be opened, a stand-in by its name."""
    with ThreadPoolExecutor() as threads:
        return list(threads.map(lambda file: _hash_file(root / file), files))


def find_hidden(root: Path) -> tuple[str, ...]:
    """Returns the images below the folders of the classes whose names begin with a dot, relative to root, sorted."""
    found = [path for top in _find_tops(root).values() for folder in _list_classes(top) for path in folder.rglob(".*")]
    return tuple(sorted(path.relative_to(root).as_posix() for path in found if is_hidden_image(path)))


def _find_tops(root: Path) -> dict[str, Path]:
    """Returns the folder with the classes of each split that has one of its own; the root for the split "" if there are none."""
    folders = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    given = {
        split: next((folders[name] for name in names if name in folders), None)
        for split, names in SPLIT_FOLDERS.items()
    }
    # If there is no train/, a folder called "test" or "val" is a class like any other.
    return {split: path for split, path in given.items() if path} if given["train"] else {"": root}


def _list_classes(top: Path) -> list[Path]:
    return sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))


def _find_images(root: Path, shown: str) -> pd.DataFrame:
    """Returns the columns file, label, split ("" if there are no split folders) and below for every image below root."""
    tops = _find_tops(root)
    rows = []
    for split, top in tops.items():
        for folder in _list_classes(top):
            label = unicodedata.normalize("NFC", folder.name)
            for path in sorted(folder.rglob("*")):
                if is_image_file(path):
                    below = path.parent.relative_to(folder).as_posix()
                    rows.append((path.relative_to(root).as_posix(), label, split, "" if below == "." else below))
    if not rows:
        loose = sum(is_image_file(path) for top in tops.values() for path in top.iterdir())
        some = f"{plural(loose, 'image')} in {shown}, but none in a class's folder"
        hidden = find_hidden(root)
        raise UserError(
            f"dataset.archive: {some if loose else f'no images in {shown}'}. It must hold one folder of "
            "images per class, below train/ and validation/ or not: for example images/cats/1.jpg and images/dogs/1.jpg."
            + (f" {describe_hidden(hidden)}." if hidden else "")
        )
    labels = sorted({label for _, label, _, _ in rows})
    if len(labels) < 2:
        raise UserError(
            f"dataset.archive: only one class, {labels[0]!r}, in {shown}. At least two class folders with images are needed; "
            f"folders found: {', '.join(sorted(path.name.lower() for path in root.iterdir() if path.is_dir())) or 'none'}."
        )
    _require_names(shown, [file for file, _, _, _ in rows], labels)
    return pd.DataFrame(rows, columns=["file", "label", "split", "below"])


def _require_names(shown: str, files: list[str], labels: list[str]) -> None:
    taken = sorted(set(labels) & RESERVED_CLASSES)
    if taken:
        raise UserError(
            f"dataset.archive: a class in {shown} is called {taken[0]!r}, which is a column of the tables of predictions. "
            "Rename its folder."
        )
    # Python represents undecodable bytes as lone surrogates, which no table, page or database accepts.
    undecodable = [file for file in files if not file.isascii() and any("\ud800" <= c <= "\udfff" for c in file)]
    if undecodable:
        raise UserError(
            f"dataset.archive: {plural(len(undecodable), 'file name')} in {shown} cannot be read as UTF-8, {undecodable[0]!a} "
            "first. Rename the files."
        )


def _assign_splits(rows: pd.DataFrame, holdout_fraction: float, test_fraction: float, split_seed: int) -> pd.DataFrame:
    """Returns the rows with a split each, in the fixed order that divisions and `max_images_per_class` use."""
    key = [
        hashlib.sha256(f"{split_seed}:{unicodedata.normalize('NFC', file)}".encode()).hexdigest()
        for file in rows["file"]
    ]
    rows = rows.assign(key=key).sort_values("key", kind="stable").drop(columns="key")
    given = set(rows["split"])
    if "val" not in given and "test" not in given:
        # Two at least, because what is held out is divided once more.
        rows = _divide(rows, rows["split"].isin(["", "train"]), holdout_fraction, "val", "train", at_least=2)
    if "test" not in given:
        rows = _divide(rows, rows["split"] == "val", test_fraction, "test", "val")
    elif "val" not in given:
        rows = _divide(rows, rows["split"] == "train", holdout_fraction, "val", "train")
    return rows


def _divide(
    rows: pd.DataFrame, among: pd.Series, fraction: float, first: str, rest: str, at_least: int = 1
) -> pd.DataFrame:
    """Returns the rows with those `among` divided, class by class: the first `fraction` of each becomes `first`."""
    split = rows["split"].copy()
    for _, members in rows[among].groupby("label"):
        # A class with few images gets at least one on each side: a class cannot be measured in a split without its images.
        count = min(max(round(fraction * len(members)), at_least), len(members) - 1)
        split.loc[members.index] = rest
        split.loc[members.index[:count]] = first
    return rows.assign(split=split)


def _leave_out_twins(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Returns the rows without held-out files that copy a file of an earlier split byte for byte, and copy -> original."""
    seen: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for split in SPLITS:
        members = rows[rows["split"] == split]
        left_out |= {f: seen[d] for f, d in zip(members["file"], members["sha256"], strict=True) if d in seen}
        seen |= dict(zip(members["sha256"], members["file"], strict=True))
    return rows[~rows["file"].isin(list(left_out))], left_out


def _bring_to_one_side(
    rows: pd.DataFrame, root: Path, cache: Path
) -> tuple[pd.DataFrame, dict[str, str], list[tuple[str, str]]]:
    """Returns the rows with each group of near-duplicates in one split, the files left out, and pairs of different classes.

    If catdog divides the images, a whole group goes to the split of its first image in the fixed order. If the data set's own
    folders have a group in different splits, the images in later splits are left out.
    """
    from catdog.data.duplicates import find_pairs, group_pairs

    rows = rows.reset_index(drop=True)
    pairs = find_pairs([root / file for file in rows["file"]], list(rows["sha256"]), cache)
    files, labels = list(rows["file"]), list(rows["label"])
    conflicts = [(files[p.first], files[p.second]) for p in pairs if labels[p.first] != labels[p.second]]
    left_out: dict[str, str] = {}
    involved = sorted({place for pair in pairs for place in (pair.first, pair.second)})
    groups = rows.loc[involved].assign(group=group_pairs(pairs, len(rows))[involved])
    split = rows["split"].copy()
    for _, members in groups.groupby("group"):
        for _, pool in members.groupby("given"):
            # The first in the fixed order, which is not sorted by split: so the sizes of the splits stay about the same.
            split.loc[pool.index] = pool["split"].iloc[0]
        order = split.loc[members.index].map(SPLITS.index)
        kept = members["file"][order == order.min()].iloc[0]
        left_out |= dict.fromkeys(members["file"][order > order.min()], kept)
    rows = rows.assign(split=split)
    return rows[~rows["file"].isin(list(left_out))], left_out, conflicts


def _find_unreadable(rows: pd.DataFrame, root: Path, cache: Path) -> dict[str, str]:
    """Returns the reason for each file that cannot be read; the search for near-duplicates has found them."""
    from catdog.data.duplicates import find_unreadable

    files = list(rows["file"])
    found = find_unreadable([root / file for file in files], list(rows["sha256"]), cache)
    return {files[place]: reason for place, reason in found.items()}


def _require_every_class(shown: str, rows: pd.DataFrame, found: pd.DataFrame, classes: tuple[str, ...]) -> None:
    """Raises a UserError if a class has no image in a split; it says how many images the class has, and how many it needs.

    Args:
        shown: the data set's name in the message.
        rows: the images that are used: label and split.
        found: those found on the disk: label and given.
        classes: the class names.
    """
    kept = set(zip(rows["split"], rows["label"], strict=True))
    missing = [(split, label) for split in SPLITS for label in classes if (split, label) not in kept]
    if not missing:
        return
    given = frozenset(found["given"]) - {""}
    folders, needed = _LAYOUTS[given | {"train"} if given else given]
    counts = found.groupby(["label", "given"]).size().to_dict()
    short: list[str] = []
    enough: list[str] = []
    for label in sorted({label for _, label in missing}):
        sizes = {folder: counts.get((label, folder), 0) for folder in folders}
        words = " and ".join(
            plural(size, "image") + (f" in {SPLIT_FOLDERS[folder][0]}/" if folder else "")
            for folder, size in sizes.items()
        )
        is_short = any(sizes[folder] < least for folder, least in folders.items())
        (short if is_short else enough).append(f"{label!r} has {words}")
    raise UserError(
        f"dataset.archive: {shown} leaves no image for {', '.join(f'{split}/{label}' for split, label in missing[:MOST_NAMED])}"
        f"{', ...' if len(missing) > MOST_NAMED else ''}. Every class needs {needed}. Add images, or leave these classes out:\n  "
        + "\n  ".join(name_some([*short, *(f"{words}, but copies of one picture count once" for words in enough)]))
    )


def _hash_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        # A file that cannot be opened counts as unreadable when it is decoded; it still needs a stable identity.
        return hashlib.sha256(f"unreadable: {type(error).__name__}: {path.name}".encode()).hexdigest()
