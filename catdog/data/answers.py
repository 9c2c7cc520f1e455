"""Checks another tool's predictions for validation images against the study's images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from catdog.data.dataset import Dataset
from catdog.data.digests import hash_files
from catdog.data.predictions import Predictions
from catdog.system.errors import UserError
from catdog.system.wording import plural

# How far the sum of an image's probabilities may be from 1.
SUM_TOLERANCE = 1e-3
MOST_SHOWN = 3


def check_answers(
    dataset: Dataset,
    readable: Sequence[str],
    files: Sequence[Any],
    labels: Any,
    probabilities: Any,
    class_names: Sequence[str] | None = None,
) -> Predictions:
    """Returns the answers in the study's form: with its files, in its order, and with its labels and classes.

    Answers for files that cannot be read are left out, because catdog's own models do not answer them either.

    Args:
        dataset: the study's data set.
        readable: the validation files that need an answer, by their names in the study.
        files: the file of each answer: its name in the study or its path. A copy elsewhere is recognized by its content.
        labels: the true class of each answer: class names, or indices into `class_names`.
        probabilities: numbers (N, C) in [0, 1], each row with the sum 1, or a DataFrame with one column per class.
        class_names: the classes of the columns of `probabilities`, which the indices refer to; None: the study's, in its order.

    Raises:
        UserError: something is wrong or missing; the message names the first files and says how many there are.
    """
    table, columns = _read_probabilities(probabilities, class_names, dataset.classes)
    files = [Path(file) if isinstance(file, str | Path) else Path(str(file)) for file in files]
    given = np.asarray(labels)
    for what, count in (("labels", given.shape[0] if given.ndim else 0), ("probabilities", len(table))):
        if count != len(files):
            raise _wrong(f"{plural(len(files), 'file')}, but {count} {what}", "Give one of each for every image.")
    names = _find_names(dataset, files)
    _require_numbers(table, names)
    _require_files(dataset, readable, names)
    given_labels = _read_labels(given, columns)
    expected = dataset.manifest.select("val").set_index("file")["label"]
    _refuse(
        [f"{name} ({label} instead of {expected[name]})" for name, label in zip(names, given_labels, strict=True)
         if label != expected[name]],
        "labels that are not those of the study", "Answers must come in the order of their files and labels.",
    )  # fmt: skip
    order = pd.Index(names).get_indexer(pd.Index(readable))
    places = [columns.index(name) for name in dataset.classes]
    return Predictions.build(readable, expected[list(readable)], dataset.classes, table[order][:, places])


def _wrong(problem: str, advice: str) -> UserError:
    return UserError(f"validation answers: {problem}. {advice}")


def _refuse(bad: Sequence[str], problem: str, advice: str) -> None:
    """Raises a UserError that names the first bad items and says how many there are, unless there are none."""
    if bad:
        more = f" and {len(bad) - MOST_SHOWN:,} more" if len(bad) > MOST_SHOWN else ""
        raise _wrong(f"{problem}: {len(bad):,} ({', '.join(bad[:MOST_SHOWN])}{more})", advice)


def _read_probabilities(
    probabilities: Any, class_names: Sequence[str] | None, classes: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    """Returns float64 (N, C), and the classes of its columns."""
    if isinstance(probabilities, pd.DataFrame):
        class_names = class_names or [str(name) for name in probabilities.columns]
        probabilities = probabilities.to_numpy()
    columns = [str(name) for name in (classes if class_names is None else class_names)]
    if sorted(columns) != sorted(classes):
        raise _wrong(
            f"the classes must be {', '.join(classes)}, received {', '.join(columns)}",
            "Name the columns of the probabilities in class_names=.",
        )
    try:
        table = np.asarray(probabilities, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _wrong(f"the probabilities are no table of numbers ({error})", f"Give (N, {len(classes)}).") from error
    if table.ndim != 2 or table.shape[1] != len(columns):
        raise _wrong(
            f"the probabilities must have the shape (N, {len(columns)}), one column for each of {', '.join(columns)}, "
            f"received {table.shape}",
            "With two classes, give a column for each of them.",
        )
    return table, columns


def _read_labels(given: np.ndarray, columns: Sequence[str]) -> list[str]:
    if given.dtype.kind in "iu":
        if len(given) and not (given.min() >= 0 and given.max() < len(columns)):
            raise _wrong(
                f"labels as numbers must be 0 to {len(columns) - 1}, received {given.min()} to {given.max()}",
                "They are indices into class_names.",
            )
        return [columns[index] for index in given]
    return [str(label) for label in given]


def _require_numbers(table: np.ndarray, names: Sequence[str]) -> None:
    finite = np.isfinite(table).all(axis=1)
    _refuse(
        [names[row] for row in np.flatnonzero(~finite).tolist()],
        "images whose probabilities are no numbers (NaN or infinite)", "Did the training diverge?",
    )  # fmt: skip
    inside = ((table >= 0) & (table <= 1)).all(axis=1)
    _refuse(
        [f"{names[row]} ({table[row].min():.3g} to {table[row].max():.3g})" for row in np.flatnonzero(~inside).tolist()],
        "images with probabilities outside of [0, 1]", "Logits become probabilities by a softmax.",
    )  # fmt: skip
    sums = table.sum(axis=1)
    _refuse(
        [f"{names[row]} (sum {sums[row]:.4g})" for row in np.flatnonzero(np.abs(sums - 1) > SUM_TOLERANCE).tolist()],
        "images whose probabilities do not have the sum 1", "Each image's probabilities are of classes that exclude each other.",
    )  # fmt: skip


def _find_names(dataset: Dataset, files: Sequence[Path]) -> list[str]:
    """Returns the names of files in the study, found by path or by content; an unknown file keeps its given name."""
    rows = dataset.manifest.select("val")
    known = set(rows["file"])
    root = dataset.manifest.root.resolve()
    names: list[str] = []
    elsewhere: list[int] = []
    for place, file in enumerate(files):
        name = file.as_posix()
        if name not in known and file.resolve().is_relative_to(root):
            name = file.resolve().relative_to(root).as_posix()
        if name not in known and file.is_file():
            elsewhere.append(place)
        names.append(name)
    by_digest: dict[str, list[str]] = {}
    for name, digest in zip(rows["file"], rows["sha256"], strict=True):
        if name not in names:
            by_digest.setdefault(digest, []).append(name)
    digests = hash_files(Path(), [str(files[place]) for place in elsewhere])
    for place, digest in zip(elsewhere, digests, strict=True):
        alike = by_digest.get(digest, [])
        if alike:
            # Among files with the same bytes, the one with the same name.
            same = [name for name in alike if Path(name).name == files[place].name]
            names[place] = (same or alike)[0]
            alike.remove(names[place])
    return names


def _require_files(dataset: Dataset, readable: Sequence[str], names: Sequence[str]) -> None:
    val = dataset.manifest.select("val")
    advice = (
        f"The study's {plural(len(readable), 'validation image')} have to be answered, each once: "
        'study.split("val") gives them.'
    )
    known = set(val["file"])
    splits = dataset.manifest.images.set_index("file")["split"]
    strange = [f"{name} (in {splits[name]})" if name in splits.index else name for name in names if name not in known]
    _refuse(strange, "files that are no validation images of the study, by name or content", advice)
    given = set(names)
    _refuse([name for name in readable if name not in given], "validation images without an answer", advice)
    seen: set[str] = set()
    twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    _refuse(twice, "validation images with several answers", advice)
