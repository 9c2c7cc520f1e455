"""Assigns images to splits, with a seed of its own, and lists them in a manifest."""

import hashlib
import logging
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from catdog.data.digests import hash_files
from catdog.data.groups import NamedGroups, code_groups, name_groups
from catdog.data.images import describe_hidden, is_hidden_name, is_image_file, is_image_name
from catdog.system.errors import UserError
from catdog.system.wording import plural

if TYPE_CHECKING:
    from catdog.data.duplicates import Pair

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
        images: one row per image: file (POSIX path below root), label (class name), split, sha256 of the file's bytes. If images
            come in groups, also group: a name that the images of a group share; an image without a group has its own.
        left_out: held-out files that would leak, because they show the same picture as a file in an earlier split -> that file.
        conflicts: pairs of files that show the same picture but have different classes.
        digest: sha256 of the rows: content, class and split of every image, and its group if groups were named.
        nested: for each class with images in folders below its own: the number of images by folder, such as "indoor/night".
        unreadable: the reason for each of the files that cannot be read; empty if near-duplicates were not searched.
        hidden: images in the classes' folders that are left out because their names begin with a dot.
        groups: who named the groups, and which files have none; None if nobody did. Near-duplicates are groups all the same.
        apart: held-out files that are left out because their group has images in an earlier split -> that group.
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
    groups: NamedGroups | None = None
    apart: Mapping[str, str] = field(default_factory=dict)

    @property
    def readable(self) -> pd.DataFrame:
        """The rows of the images that are not known to be unreadable: those that are used, and counted."""
        return self.images[~self.images["file"].isin(list(self.unreadable))]

    def code_groups(self, files: Iterable[str]) -> np.ndarray | None:
        """Returns the groups of images, int (N,) in the order of `files`; None if each is a group of its own."""
        if "group" not in self.images:
            return None
        names = dict(zip(self.images["file"], self.images["group"], strict=True))
        return code_groups([names[file] for file in files])

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
    groups: str | None = None,
    refresh: int = 0,
    digests_cache: Path | None = None,
    verify: str = "changed",
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
        groups: what names groups of images, as `dataset.groups`; None: nothing. A group is treated like near-duplicates: it is
            never divided. With `near_duplicates`, `duplicates_cache` is needed.
        refresh: 0 leaves the splits as they are; any other number draws val anew from train and val, also where folders gave
            them. Test stays.
        digests_cache: where the digests of files are kept; None: all files are read, and nothing is kept.
        verify: which files are read, as `dataset.verify`.

    Raises:
        UserError: there are no images or only one class, a class is missing from a split, or a split is empty; or the groups do not
            fit the files.
    """
    shown = shown or str(root)
    rows, named = _assign_all(root, holdout_fraction, test_fraction, split_seed, shown, groups)
    if max_images_per_class is not None:
        rows = rows.groupby(["split", "label"], sort=False).head(max_images_per_class)
    rows = rows.assign(sha256=hash_files(root, list(rows["file"]), cache=digests_cache, verify=verify))
    found = rows
    rows, left_out = _leave_out_twins(rows)
    pairs, unreadable = _search(rows, root, duplicates_cache) if duplicates_cache is not None else ([], {})
    conflicts = _find_conflicts(rows, pairs)
    rows, near, apart = _bring_to_one_side(rows, pairs)
    left_out |= near
    if refresh:
        rows = _redraw_val(rows, split_seed, refresh)
    rows = rows.sort_values(["split", "label", "file"], kind="stable").reset_index(drop=True)
    classes = tuple(sorted(rows["label"].unique()))
    _require_every_class(shown, rows, found, classes, len(apart))
    names = _name_components(rows)
    # Near-duplicates that nobody named change no digest: they follow from the images.
    digest = _digest_rows(rows, names if groups is not None else None)
    images = rows[["file", "label", "split", "sha256"]]
    if groups is not None or names.duplicated().any():
        images = images.assign(group=names)
    nested, hidden = count_nested(rows), find_hidden(root)
    return Manifest(root, classes, images, left_out, digest, conflicts, nested, unreadable, hidden, named, apart)


def _digest_rows(rows: pd.DataFrame, groups: pd.Series | None) -> str:
    """Returns the sha256 of each image's content, class and split and, if given, of who shares a group, whatever its name."""
    columns = [rows["split"], rows["label"], rows["sha256"]]
    if groups is not None:
        columns.append(pd.Series(pd.factorize(groups)[0]).astype(str))
    lines = ("\t".join(row) + "\n" for row in zip(*columns, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


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
    root: Path, *, holdout_fraction: float, test_fraction: float, split_seed: int, shown: str, groups: str | None = None
) -> pd.DataFrame:
    """Returns the columns file, label, below, split, given and group for every image below a folder.

    `below` is the folder below that of the class, "" for most images; `given` is the split of the image's folder, or ""; `group` is
    the name of its group, or "" if it has none.

    The rows are in the fixed order; duplicates are not removed. Arguments and errors are those of `build_manifest`.
    """
    return _assign_all(root, holdout_fraction, test_fraction, split_seed, shown, groups)[0]


def _assign_all(
    root: Path, holdout_fraction: float, test_fraction: float, split_seed: int, shown: str, groups: str | None
) -> tuple[pd.DataFrame, NamedGroups | None]:
    """Returns the rows of `assign_splits`, and who named the groups."""
    found = _find_images(root, shown)
    named = None if groups is None else name_groups(groups, list(found["file"]), root)
    found = found.assign(group=found["file"].map(named.of).fillna("") if named and named.of else "")
    rows = _assign_splits(found, holdout_fraction, test_fraction, split_seed)
    return rows.assign(given=found["split"]), named


def find_hidden(root: Path) -> tuple[str, ...]:
    """Returns the images below the folders of the classes whose names begin with a dot, relative to root, sorted."""
    return list_files(root)[1]


def list_files(root: Path) -> tuple[list[str], tuple[str, ...]]:
    """Returns the images below the folders of the classes, relative to root, and sorted those whose names begin with a dot."""
    images, hidden = [], []
    for folder, top, _, _ in _list_all_classes(root):
        for file in _walk(str(folder), top):
            name = file.rpartition("/")[2]
            if is_image_name(name):
                images.append(file)
            elif is_hidden_name(name):
                hidden.append(file)
    return images, tuple(sorted(hidden))


def _list_all_classes(root: Path) -> list[tuple[Path, str, str, str]]:
    """Returns each class's folder, its name relative to root, the class, and the split of the folder, "" if it has none."""
    return [
        (folder, folder.relative_to(root).as_posix(), unicodedata.normalize("NFC", folder.name), split)
        for split, top in _find_tops(root).items() for folder in _list_classes(top)
    ]  # fmt: skip


def list_class_folders(root: Path) -> list[tuple[str, Path]]:
    """Returns label and folder of each folder that is a class if there are images below it."""
    return [(label, folder) for folder, _, label, _ in _list_all_classes(root)]


def _walk(path: str, name: str) -> Iterator[str]:
    """Yields the names of all files and folders below a folder, each folder's sorted, a folder before what is in it.

    It does not follow links to folders, and leaves out folders that may not be read. It works with strings and one call for
    each folder: with an object for each path, a million files took a minute.

    Args:
        path: the folder.
        name: what the names begin with.
    """
    try:
        with os.scandir(path) as entries:
            listed = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except PermissionError:
        return
    for each, is_folder in listed:
        yield f"{name}/{each}"
        if is_folder:
            yield from _walk(f"{path}/{each}", f"{name}/{each}")


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
    rows = [
        (file, label, split, file[len(name) + 1 :].rpartition("/")[0])
        for folder, name, label, split in _list_all_classes(root)
        for file in _walk(str(folder), name) if is_image_name(file.rpartition("/")[2])
    ]  # fmt: skip
    if not rows:
        loose = sum(is_image_file(path) for top in _find_tops(root).values() for path in top.iterdir())
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
    own = [_order_key(split_seed, file) for file in rows["file"]]
    # The images of a group follow each other. An image without a group has its own place.
    key = [
        _order_key(split_seed, group) if group else of_file for group, of_file in zip(rows["group"], own, strict=True)
    ]
    rows = rows.assign(key=key, own=own).sort_values(["key", "own"], kind="stable").drop(columns=["key", "own"])
    given = set(rows["split"])
    if "val" not in given and "test" not in given:
        # Two at least, because what is held out is divided once more.
        rows = _divide(rows, rows["split"].isin(["", "train"]), holdout_fraction, "val", "train", at_least=2)
    if "test" not in given:
        rows = _divide(rows, rows["split"] == "val", test_fraction, "test", "val")
    elif "val" not in given:
        rows = _divide(rows, rows["split"] == "train", holdout_fraction, "val", "train")
    return rows


def _order_key(split_seed: int, name: str) -> str:
    return hashlib.sha256(f"{split_seed}:{unicodedata.normalize('NFC', name)}".encode()).hexdigest()


def _divide(
    rows: pd.DataFrame, among: pd.Series, fraction: float, first: str, rest: str, at_least: int = 1
) -> pd.DataFrame:
    """Returns the rows with those `among` divided, class by class: the first `fraction` of each becomes `first`.

    A group is not divided. It counts for the class of most of its images.
    """
    split = rows["split"].copy()
    split[among] = rest
    units, homes = _find_units(rows[among])
    sizes, is_first = np.bincount(units), np.zeros(len(homes), dtype=bool)
    for of_home in pd.Series(range(len(homes))).groupby(homes).indices.values():
        target = round(fraction * int(sizes[of_home].sum()))
        is_first[of_home[_choose_units(sizes[of_home], target, at_least)]] = True
    split.loc[rows.index[among][is_first[units]]] = first
    return rows.assign(split=split)


def _choose_units(sizes: np.ndarray, target: int, at_least: int) -> np.ndarray:
    """Returns the places of the units that together have about `target` images: the first ones, but for those that overshoot.

    A class with few images gets at least one unit on each side: a class cannot be measured in a split without its images.

    Args:
        sizes: int (U,), the images of each unit, in the fixed order.
        target: the number of images.
        at_least: the smallest number of units, if there is then one left.
    """
    most = len(sizes) - 1
    if sizes.max() == 1:
        return np.arange(min(max(target, at_least), most))
    chosen, total = [], 0
    for place, size in enumerate(sizes):
        if abs(total + size - target) < abs(total - target):
            chosen.append(place)
            total += size
    others = np.setdiff1d(np.arange(len(sizes)), chosen)
    smallest = others[np.argsort(sizes[others], kind="stable")]
    chosen += smallest[: max(0, at_least - len(chosen))].tolist()
    return np.array(chosen[:most], dtype=int)


def _find_units(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Returns what cannot be divided, a group or an image without one.

    Returns:
        The unit of each row, int (N,), numbered by first appearance; the class that each unit counts for, object (U,).
    """
    grouped = rows["group"] != ""
    if not grouped.any():
        return np.arange(len(rows)), rows["label"].to_numpy()
    # With a prefix: a file may be called like a group.
    names = ("group " + rows["group"]).where(grouped, "file " + rows["file"])
    units = pd.factorize(names)[0]
    counts = pd.DataFrame({"unit": units, "label": rows["label"].to_numpy()}).value_counts().reset_index()
    most = counts.sort_values(["unit", "count", "label"], ascending=[True, False, True]).drop_duplicates("unit")
    return units, most["label"].to_numpy()


def _leave_out_twins(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Returns the rows without held-out files that copy a file of an earlier split byte for byte, and copy -> original."""
    seen: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for split in SPLITS:
        members = rows[rows["split"] == split]
        left_out |= {f: seen[d] for f, d in zip(members["file"], members["sha256"], strict=True) if d in seen}
        seen |= dict(zip(members["sha256"], members["file"], strict=True))
    return rows[~rows["file"].isin(list(left_out))], left_out


def _search(rows: pd.DataFrame, root: Path, cache: Path) -> tuple[list["Pair"], dict[str, str]]:
    """Returns the pairs of near-duplicates among these rows, by position, and the reason for each file that cannot be read."""
    from catdog.data.duplicates import find_pairs, find_unreadable

    files, digests = list(rows["file"]), list(rows["sha256"])
    paths = [root / file for file in files]
    pairs = find_pairs(paths, digests, cache)
    return pairs, {files[place]: reason for place, reason in find_unreadable(paths, digests, cache).items()}


def _find_conflicts(rows: pd.DataFrame, pairs: Sequence["Pair"]) -> tuple[tuple[str, str], ...]:
    files, labels = list(rows["file"]), list(rows["label"])
    return tuple((files[p.first], files[p.second]) for p in pairs if labels[p.first] != labels[p.second])


def _bring_to_one_side(
    rows: pd.DataFrame, pairs: Sequence["Pair"]
) -> tuple[pd.DataFrame, dict[str, str], dict[str, str]]:
    """Returns the rows with each component in one split, the copies left out, and the files left out for their group.

    A component is what groups and near-duplicates connect; the rows that are returned have its number in the column component. If
    catdog divides the images, a whole component goes to the split of its first image in the fixed order. If the data set's own
    folders have it in different splits, the images in later splits are left out.
    """
    rows = rows.reset_index(drop=True).assign(component=np.arange(len(rows)))
    grouped = np.flatnonzero(rows["group"] != "")
    if not pairs and not len(grouped):
        return rows, {}, {}
    from catdog.data.duplicates import connect

    # Each image of a group is linked to the first.
    firsts = rows["group"].iloc[grouped].drop_duplicates()
    heads = rows["group"].iloc[grouped].map(pd.Series(firsts.index, firsts.to_numpy()))
    component = connect(
        [*(pair.first for pair in pairs), *heads], [*(pair.second for pair in pairs), *grouped], len(rows)
    )
    rows = rows.assign(component=component)
    involved = rows[rows["component"].duplicated(keep=False)]
    # The first in the fixed order, which is not sorted by split: so the sizes of the splits stay about the same.
    moved = involved.groupby(["component", "given"], sort=False)["split"].transform("first")
    order = moved.map(SPLITS.index)
    earliest = order.groupby(involved["component"]).transform("min")
    stays, goes = involved[order == earliest], involved[order > earliest].sort_values("component", kind="stable")
    kept = stays.drop_duplicates("component").set_index("component")["file"]
    of_kept_group = set(stays["group"]) - {""}
    apart = {file: group for file, group in zip(goes["file"], goes["group"], strict=True) if group in of_kept_group}
    copies = goes[~goes["file"].isin(list(apart))]
    left_out = dict(zip(copies["file"], copies["component"].map(kept), strict=True))
    rows = rows.assign(split=moved.reindex(rows.index).fillna(rows["split"]))
    return rows.drop(index=goes.index), left_out, apart


def _redraw_val(rows: pd.DataFrame, split_seed: int, refresh: int) -> pd.DataFrame:
    """Returns the rows with another val, drawn from train and val by class, as large as before; no component is divided."""
    among = rows["split"].isin(["train", "val"])
    pool = rows[among]
    wanted = pool[pool["split"] == "val"]["label"].value_counts()
    # A component counts for the class of most of its images, and has the place of its first file.
    units = pool.groupby("component", sort=False).agg(
        label=("label", lambda labels: labels.value_counts().index[0]), size=("label", "size"), file=("file", "min")
    )
    keys = [_order_key(split_seed, f"refresh {refresh}:{file}") for file in units["file"]]
    units = units.assign(key=keys).sort_values("key", kind="stable")
    chosen: list[int] = []
    for label, of_label in units.groupby("label", sort=True):
        places = _choose_units(of_label["size"].to_numpy(), int(wanted.get(label, 0)), 1)
        chosen += of_label.index[places].tolist()
    split = rows["split"].mask(among, "train").mask(among & rows["component"].isin(chosen), "val")
    return rows.assign(split=split)


def _name_components(rows: pd.DataFrame) -> pd.Series:
    """Returns the name of each row's component: that of a group in it, or else of its first file."""
    if not rows["component"].duplicated().any() and not (rows["group"] != "").any():
        return rows["file"]
    named = rows[rows["group"] != ""].drop_duplicates("component").set_index("component")["group"]
    files = rows.sort_values("file", kind="stable").drop_duplicates("component").set_index("component")["file"]
    return rows["component"].map(files.to_dict() | named.to_dict())


def _require_every_class(
    shown: str, rows: pd.DataFrame, found: pd.DataFrame, classes: tuple[str, ...], apart: int
) -> None:
    """Raises a UserError if a class has no image in a split; it says how many images the class has, and how many it needs.

    Args:
        shown: the data set's name in the message.
        rows: the images that are used: label and split.
        found: those found on the disk: label and given.
        classes: the class names.
        apart: how many held-out files are left out because their group has images in an earlier split.
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
    undivided = ", and groups (dataset.groups) are not divided" if (found["group"] != "").any() else ""
    strayed = (
        f" {plural(apart, 'held-out file')} left out, as their groups are in an earlier split too." if apart else ""
    )
    raise UserError(
        f"dataset.archive: {shown} leaves no image for {', '.join(f'{split}/{label}' for split, label in missing[:MOST_NAMED])}"
        f"{', ...' if len(missing) > MOST_NAMED else ''}. Every class needs {needed}.{strayed} "
        "Add images, or leave these classes out:\n  "
        + "\n  ".join(
            name_some([*short, *(f"{words}, but copies of one picture count once{undivided}" for words in enough)])
        )
    )
