"""What is said of a data set before anything is trained on it: counts, what to expect, and what is odd about its folders."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from catdog.data.dataset import Dataset, majority_class, majority_fraction
from catdog.data.images import IMAGE_SUFFIXES, describe_hidden
from catdog.data.splits import MOST_NAMED, SPLITS, Manifest, list_class_folders, list_unreadable, name_some
from catdog.statistics.proportions import wilson_interval
from catdog.system.wording import agree, plural

# Classes are imbalanced if one has more than this many times the images of another.
IMBALANCE = 1.5
# A smaller advantage of the largest class in val is not worth a word.
SMALL_ADVANTAGE = 0.02
# With fewer images, it is said how little they can tell, or teach.
FEW_VAL_IMAGES, FEW_TRAIN_IMAGES = 100, 10


def describe_dataset(dataset: Dataset) -> str:
    """Returns the first lines of a run's log: counts, digest, what to expect of these images, and files left out."""
    manifest, config = dataset.manifest, dataset.config
    counts = (
        manifest.readable.groupby(["label", "split"])
        .size()
        .unstack(fill_value=0)
        .reindex(columns=list(SPLITS), fill_value=0)
    )
    place = "" if config.source == "drawn" else f" from {config.archive}"
    notes = [
        *(_describe_split(split, counts[split]) for split in SPLITS),
        *_describe_expectations(manifest, counts["train"], counts["val"]),
        *describe_nested(manifest.nested, dataset.classes),
        *_describe_copies(manifest),
        *describe_groups(manifest),
        *_describe_unreadable(manifest),
        *([describe_hidden(manifest.hidden)] if manifest.hidden else []),
        *describe_lost(manifest.root, dataset.classes),
    ]
    return "\n  ".join([f"data set {config.name}{place}, digest {manifest.digest[:12]}", *notes])


def describe_nested(nested: Mapping[str, Mapping[str, int]], classes: Sequence[str]) -> list[str]:
    """Returns a sentence for each class whose images lie in folders below its own, and one if those folders may be the classes.

    Args:
        nested: the number of images by class and folder, as in `Manifest`.
        classes: all class names.
    """
    said = [
        f"class {label!r} includes {plural(sum(folders.values()), 'image')} from {plural(len(folders), 'folder')} below it: "
        + ", ".join(name_some(list(folders)))
        for label, folders in nested.items()
    ]
    inner = [set(folders) for folders in nested.values()]
    if len(inner) == len(classes) and len(inner[0]) > 1 and all(names == inner[0] for names in inner):
        said = [
            *name_some(said),
            f"all classes have the same folders below them. If {', '.join(name_some(sorted(inner[0])))} are the classes, set "
            f"dataset.archive to the folder {next(iter(nested))!r}, or name the folders train and validation",
        ]
    return name_some(said)


def describe_lost(root: Path, classes: Sequence[str]) -> list[str]:
    """Returns a sentence about the folders that would be classes if there were an image in them; [] if there are none."""
    suffixes: dict[str, Counter[str]] = {}
    for label, folder in list_class_folders(root):
        if label not in classes:
            found = (path.suffix.lower() for path in folder.rglob("[!.]*") if path.is_file())
            suffixes.setdefault(label, Counter()).update(suffix or "without a suffix" for suffix in found)
    said = [
        f"{label!r} (" + (", ".join(f"{count} {suffix}" for suffix, count in found.most_common(3)) or "empty") + ")"
        for label, found in suffixes.items()
    ]
    if not said:
        return []
    allowed = ", ".join(sorted(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES))
    return [
        f"{plural(len(said), 'folder')} {agree(len(said), 'holds', 'hold')} no image and {agree(len(said), 'is', 'are')} no class: "
        f"{', '.join(name_some(said))}. Images are files with the suffix {allowed}"
    ]


def _describe_split(split: str, counts: pd.Series) -> str:
    """Returns the number of images of a split, and of each class or, if there are many, of the smallest and the largest."""
    if len(counts) > MOST_NAMED:
        words = f"{len(counts):,} classes of {counts.min():,} to {counts.max():,} images"
    else:
        words = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{split:5} {counts.sum():>7,}  {words}"


def _describe_expectations(manifest: Manifest, train: pd.Series, val: pd.Series) -> list[str]:
    """Returns what unequal classes and few images mean for the results; nothing for many images in equal classes.

    Args:
        manifest: of the data set.
        train: the number of readable training images by class.
        val: the number of readable validation images by class.
    """
    said = []
    baseline = majority_fraction(manifest)
    if baseline > 1 / len(train) + SMALL_ADVANTAGE:
        balanced = "; trainer.class_weights=balanced makes every class count the same in the training loss"
        advice = balanced if train.max() > IMBALANCE * train.min() else ""
        said.append(f"always answering {majority_class(manifest)!r} is right on {baseline:.1%} of val{advice}")
    total = int(val.sum())
    if total < FEW_VAL_IMAGES:
        low, high = wilson_interval(total // 2, total) if total else (0.0, 1.0)
        said.append(
            f"val has only {plural(total, 'image')}: each is {100 / max(total, 1):.1f} points of accuracy, and the 95% interval of "
            f"an accuracy near 50% is {low:.0%} to {high:.0%}"
        )
    few = train[train < FEW_TRAIN_IMAGES]
    if len(few):
        has = agree(len(few), "class has", "classes have")
        said.append(
            f"{len(few):,} {has} fewer than {FEW_TRAIN_IMAGES} training images ({few.idxmin()!r} has {few.min():,}): expect little "
            "without a pre-trained backbone, such as model=mobilenet"
        )
    return said


def _describe_copies(manifest: Manifest) -> list[str]:
    said = []
    if conflicts := [f"{a!r} and {b!r}" for a, b in manifest.conflicts]:
        number = len(conflicts)
        show, have, them = agree(number, "shows", "show"), agree(number, "has", "have"), agree(number, "it", "them")
        said.append(
            f"{plural(number, 'pair')} of files {show} the same picture but {have} different classes (python -m "
            f"catdog.audit shows {them}): " + "; ".join(name_some(conflicts))
        )
    if copies := [f"{file!r} = {twin!r}" for file, twin in manifest.left_out.items()]:
        reason = agree(len(copies), "a copy of another", "copies of others")
        said.append(f"{plural(len(copies), 'held-out file')} left out, as {reason}: " + "; ".join(name_some(copies)))
    return said


def describe_groups(manifest: Manifest) -> list[str]:
    """Returns what is known of groups of images: how many there are, who has none, and what is left out because of them."""
    if "group" not in manifest.images:
        return []
    sizes = manifest.images["group"].value_counts()
    total, largest = plural(len(manifest.images), "image"), int(sizes.max())
    if manifest.groups is None:
        several = sizes[sizes > 1]
        return [
            f"{several.sum():,} images are near-duplicates, in {plural(len(several), 'group')}{_describe_sizes(several)}: no group "
            "is divided between splits, and intervals count a group once"
        ]
    said = [
        f"{total} in {plural(len(sizes), 'group')} by dataset.groups={manifest.groups.by}, the largest of {largest:,}: no group is "
        "divided between splits, and intervals count a group once"
    ]
    if (without := len(manifest.groups.without)) and manifest.groups.of:
        said.append(
            f"dataset.groups names no group for {plural(without, 'file')}, {manifest.groups.without[0]!r} first: each is a group "
            "of its own"
        )
    val = manifest.select("val")["group"]
    if (few := val.nunique()) < min(FEW_VAL_IMAGES, len(val)):
        low, high = wilson_interval(few // 2, few)
        said.append(
            f"val has only {plural(few, 'group')}: if the images of a group are right or wrong together, the 95% interval of an "
            f"accuracy near 50% is {low:.0%} to {high:.0%}"
        )
    if apart := manifest.apart:
        groups = list(dict.fromkeys(apart.values()))
        said.append(
            f"{plural(len(apart), 'held-out file')} left out, as the images of {plural(len(groups), 'group')} are in several of "
            f"the data set's own split folders: {', '.join(name_some(groups))}"
        )
    return said


def _describe_sizes(sizes: pd.Series) -> str:
    """Returns how large groups of near-duplicates are, as `, 40 of 2, 2 of 3 to 5, 1 of 12`; "" for one group, or pairs alone."""
    if sizes.max() == 2 or len(sizes) == 1:
        return ""
    words = []
    for low, high in ((2, 2), (3, 5), (6, 10), (11, 100), (101, int(sizes.max()))):
        found = sizes[(sizes >= low) & (sizes <= high)]
        if len(found):
            least, most = found.min(), found.max()
            words.append(f"{len(found):,} of {f'{least:,} to {most:,}' if least < most else f'{most:,}'}")
    return f", {', '.join(words)}"


def _describe_unreadable(manifest: Manifest) -> list[str]:
    """Returns the unreadable files of test; those of train and val are reported when they are decoded, but test never is."""
    unreadable = list_unreadable(manifest, "test")
    if not unreadable:
        return []
    return [
        f"{plural(len(unreadable), 'file')} of test {agree(len(unreadable), 'is', 'are')} unreadable and left out:",
        *(f"  {each}" for each in name_some(unreadable)),
    ]
