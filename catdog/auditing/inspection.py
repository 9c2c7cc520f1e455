"""Inspects a folder of images and returns findings: problems of a data set that would spoil a comparison."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from catdog.auditing.findings import ERROR, NOTE, WARNING, Finding, sort_findings
from catdog.data.description import IMBALANCE, describe_lost, describe_nested
from catdog.data.duplicates import Pair, find_pairs
from catdog.data.images import UnreadableImageError, decode_image, describe_hidden, is_image_file
from catdog.data.splits import SPLITS, count_nested, find_hidden
from catdog.system.wording import agree, plural

if TYPE_CHECKING:
    from catdog.auditing.labels import LabelCheck

# An image smaller than this is enlarged a lot by every shipped preprocessing. One with a larger aspect ratio is badly distorted.
TINY_PIXELS, WIDE_RATIO = 32, 4.0
PLAIN_SPREAD = 2.0


@dataclass(frozen=True, eq=False)
class Audit:
    """The contents of a data set.

    Attributes:
        root: its folder.
        images: one row per image file: file, label, below (the folder below that of the class, or ""), split (by the folders and
            the splitter's rule, before it leaves any out), sha256, width, height, mode, bytes, problem ("" if it can be read), used
            (whether training or evaluation reads it).
        pairs: pairs of images that show the same picture, as positions in `images`.
        findings: the findings, worst first.
        labels: the check of the labels, None if it was not asked for.
    """

    root: Path
    images: pd.DataFrame
    pairs: Sequence[Pair]
    findings: Sequence[Finding]
    labels: "LabelCheck | None" = None


def inspect_images(images: pd.DataFrame, root: Path, cache: Path) -> Audit:
    """Inspects every image of a data set, compares each with all others, and returns the result.

    Args:
        images: columns file, label, below (the folder below that of the class, or ""), split, sha256, used.
        root: the folder that `file` is relative to.
        cache: the cache folder, used by the search for near-duplicates.
    """
    paths = [root / file for file in images["file"]]
    with ThreadPoolExecutor() as threads:
        facts = pd.DataFrame(list(threads.map(_look_at, paths)), index=images.index)
    images = pd.concat([images, facts], axis=1)
    pairs = find_pairs(paths, list(images["sha256"]), cache)
    findings = [
        *_find_unreadable(images), *_find_doubles(images, pairs), *_find_imbalance(images), *_find_odd(images),
        *_find_nested(images), *_find_ignored(root, set(images["file"]), sorted(set(images["label"]))),
    ]  # fmt: skip
    return Audit(root, images, pairs, sort_findings(findings))


def _look_at(path: Path) -> dict[str, object]:
    facts: dict[str, object] = {"width": 0, "height": 0, "mode": "", "bytes": 0, "spread": np.nan, "problem": ""}
    try:
        facts["bytes"] = path.stat().st_size
        facts["spread"] = float(decode_image(path, 64, 64).std())
        with Image.open(path) as image:
            facts |= {"width": image.width, "height": image.height, "mode": image.mode}
    except (UnreadableImageError, OSError) as error:
        facts["problem"] = str(error)
    return facts


def _find_unreadable(images: pd.DataFrame) -> list[Finding]:
    broken = images[images["problem"] != ""]
    if not len(broken):
        return []
    them = agree(len(broken), "it", "them")
    words = f"{plural(len(broken), 'file')} cannot be read; training leaves {them} out. Repair or remove {them}"
    return [Finding(WARNING, "unreadable", words, tuple(broken["file"]))]


def _find_doubles(images: pd.DataFrame, pairs: Sequence[Pair]) -> list[Finding]:
    files, labels, splits, used = (images[name].tolist() for name in ("file", "label", "split", "used"))
    groups: dict[str, list[Pair]] = {"conflict": [], "leak": [], "mended": [], "double": []}
    for pair in pairs:
        a, b = pair.first, pair.second
        if labels[a] != labels[b]:
            groups["conflict"].append(pair)
        if splits[a] != splits[b]:
            groups["leak" if used[a] and used[b] else "mended"].append(pair)
        elif labels[a] == labels[b]:
            groups["double"].append(pair)
    texts = {
        "conflict": (ERROR, "label conflict", "the same picture under different classes: one of the labels is wrong"),
        "leak": (
            ERROR, "leak", "the same picture in two splits: a model is tested on what it was trained on. "
            "dataset.near_duplicates=one_side keeps them apart",
        ),
        "mended": (
            WARNING, "would leak", "the same picture in two splits; catdog leaves out the one in the later split, but other "
            "tools will not",
        ),
        "double": (NOTE, "double", "the same picture in one split: it counts twice"),
    }  # fmt: skip
    found = []
    for name, (severity, kind, words) in texts.items():
        members = groups[name]
        if members:
            kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(pair.kind for pair in members).items())
            named = tuple(f"{files[pair.first]} = {files[pair.second]}" for pair in members)
            show = agree(len(members), "shows", "show")
            found.append(Finding(severity, kind, f"{plural(len(members), 'pair')} ({kinds}) {show} {words}", named))
    return found


def _find_imbalance(images: pd.DataFrame) -> list[Finding]:
    found = []
    for split in SPLITS:
        counts = images[(images["split"] == split) & images["used"]]["label"].value_counts()
        if len(counts) and counts.max() > IMBALANCE * counts.min():
            words = (
                f"{split} has {plural(counts.max(), 'image')} of {counts.idxmax()!r} and {counts.min():,} of {counts.idxmin()!r}: "
                f"always answering the former is right on {counts.max() / counts.sum():.1%}"
            )
            found.append(Finding(WARNING, "imbalance", words))
    shares = pd.crosstab(images["split"], images["label"], normalize="index")
    if len(shares) > 1 and (shares.max() - shares.min()).max() > 0.1:
        label = (shares.max() - shares.min()).idxmax()
        low, high = shares[label].min(), shares[label].max()
        words = f"the splits differ in their classes: {label!r} is {low:.0%} to {high:.0%} of a split"
        found.append(Finding(WARNING, "imbalance", words))
    return found


def _find_odd(images: pd.DataFrame) -> list[Finding]:
    readable = images[images["problem"] == ""]
    shorter, longer = readable[["width", "height"]].min(axis=1), readable[["width", "height"]].max(axis=1)
    # Each with the verbs for one image and for several.
    kinds = (
        (WARNING, "plain", readable["spread"] < PLAIN_SPREAD, ("shows", "show"), "nothing: all of one colour"),
        (NOTE, "tiny", shorter < TINY_PIXELS, ("is", "are"), f"smaller than {TINY_PIXELS} pixels"),
        (
            NOTE, "stretched", longer > WIDE_RATIO * shorter, ("is", "are"),
            f"{WIDE_RATIO:g} times as long as wide, or more: squeezed",
        ),
        (
            NOTE, "grey", readable["mode"].isin(["L", "1", "LA", "I;16"]), ("is", "are"),
            "grey, which a model may take for a class",
        ),
    )  # fmt: skip
    found = []
    for severity, kind, chosen, verbs, words in kinds:
        files = tuple(readable["file"][chosen])
        # If all images are grey, being grey tells nothing about the class.
        if files and not (kind == "grey" and len(files) == len(readable)):
            said = f"{plural(len(files), 'image')} {agree(len(files), *verbs)} {words}"
            found.append(Finding(severity, kind, said, files))
    return found


def _find_nested(images: pd.DataFrame) -> list[Finding]:
    nested = count_nested(images)
    return [Finding(NOTE, "nested", words) for words in describe_nested(nested, sorted(images["label"].unique()))]


def _find_ignored(root: Path, used: set[str], classes: Sequence[str]) -> list[Finding]:
    """Returns the files that are not among the images, by their names below root: others, and images outside of the classes."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
    others = {
        path.relative_to(root).as_posix(): is_image_file(path)
        for path in paths
        if not any(part.startswith(".") for part in path.parts[len(root.parts) :])
    }
    outside = tuple(file for file, is_image in others.items() if is_image and file not in used)
    no_images = tuple(file for file, is_image in others.items() if not is_image)
    found = [Finding(WARNING, "no class", words, ()) for words in describe_lost(root, classes)]
    if hidden := find_hidden(root):
        found.append(Finding(NOTE, "hidden", describe_hidden(hidden), hidden))
    if outside:
        words = f"{plural(len(outside), 'image')} {agree(len(outside), 'is', 'are')} outside of the classes' folders: ignored"
        found.append(Finding(WARNING, "outside", words, outside))
    if no_images:
        words = f"{plural(len(no_images), 'file')} without the suffix of an image: ignored"
        found.append(Finding(NOTE, "ignored", words, no_images))
    return found
