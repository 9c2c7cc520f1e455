"""Groups of images that belong together, such as the frames of a film: who names them, and which images each one has."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from catdog.config.schema import NEAR_DUPLICATES, is_group_file
from catdog.system.errors import UserError
from catdog.system.wording import plural

COLUMNS = ("file", "group")
MOST_SHOWN = 3


@dataclass(frozen=True)
class NamedGroups:
    """The groups that `dataset.groups` names.

    Attributes:
        by: the value of the key: a pattern, the path of a CSV file, or `near_duplicates`, which names none here.
        of: the group of each file that has one.
        without: files that the pattern does not match, or whose group in the CSV file is empty: each is a group of its own.
    """

    by: str
    of: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()


def name_groups(by: str, files: Sequence[str], root: Path) -> NamedGroups:
    """Returns the groups of a data set's files that `dataset.groups` names.

    Args:
        by: the key's value, as `catdog.config.schema.DatasetConfig` has checked it.
        files: the files below root, POSIX paths.
        root: the folder of the data set. A CSV file may lie in it: its path is relative to the working folder, or else to this one.

    Raises:
        UserError: the pattern matches no file; the CSV file is missing, is no such table, or does not name exactly these files.
    """
    if by == NEAR_DUPLICATES:
        return NamedGroups(by)
    of = _read_groups(by, files, root) if is_group_file(by) else _match_groups(by, files, root)
    return NamedGroups(by, of, tuple(file for file in files if file not in of))


def find_group_file(groups: str, root: Path) -> Path | None:
    """Returns the table that a value of `dataset.groups` names; None if there is none, or if the value is no table's path."""
    if not is_group_file(groups):
        return None
    return next((path for path in (Path(groups).expanduser(), root / groups) if path.is_file()), None)


def code_groups(names: Sequence[str]) -> np.ndarray | None:
    """Returns the groups of N images as numbers, int64 (N,), by first appearance; None if every image is a group of its own."""
    codes = pd.factorize(np.asarray(names, dtype=object))[0].astype(np.int64)
    return codes if len(codes) and codes.max() + 1 < len(codes) else None


def _match_groups(pattern: str, files: Sequence[str], root: Path) -> dict[str, str]:
    """Returns the group of each file that the pattern matches: its first capturing group, or else the whole match."""
    compiled = re.compile(pattern)
    place = min(1, compiled.groups)
    found = {file: match[place] for file in files if (match := compiled.search(file)) and match[place]}
    if not found:
        raise UserError(
            f"dataset.groups: the pattern {pattern!r} matches none of the {plural(len(files), 'file')} below {root}, such as "
            f"{files[0]!r}. It is searched for in these relative paths; its first (...) is the name of the group."
        )
    return found


def _read_groups(location: str, files: Sequence[str], root: Path) -> dict[str, str]:
    """Returns the group of each file that has one in the CSV file."""
    path = find_group_file(location, root)
    if path is None:
        raise UserError(
            f"dataset.groups: there is no file {location!r}, neither in the working folder nor in {root}. It must be a CSV file "
            f"with the columns {', '.join(COLUMNS)}. Anything that does not end in .csv is a pattern."
        )
    try:
        table = pd.read_csv(path, dtype=object, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise UserError(f"dataset.groups: {path} cannot be read as CSV: {str(error).splitlines()[0]}.") from error
    if not set(COLUMNS) <= set(table.columns):
        raise UserError(
            f"dataset.groups: {path} must have the columns {' and '.join(COLUMNS)}, received "
            f"{', '.join(map(str, table.columns)) or 'none'}."
        )
    rows = table[list(COLUMNS)].drop_duplicates()
    named = rows["file"].tolist()
    known = set(files)
    listed = set(named)
    advice = f"Files are named relative to {root}, such as {files[0]!r}."
    _refuse(path, [file for file in named if file not in known], "not in the data set", advice)
    _refuse(path, rows["file"][rows["file"].duplicated()].tolist(), "in several groups", "A file is in one group.")
    missing = [file for file in files if file not in listed]
    _refuse(
        path, missing, "of the data set but not listed", f"{advice} An empty group makes a file a group of its own."
    )
    return {file: group for file, group in zip(named, rows["group"], strict=True) if group}


def _refuse(path: Path, bad: Sequence[str], problem: str, advice: str) -> None:
    if bad:
        more = f" and {len(bad) - MOST_SHOWN:,} more" if len(bad) > MOST_SHOWN else ""
        shown = ", ".join(repr(file) for file in bad[:MOST_SHOWN])
        raise UserError(f"dataset.groups: {path}: {plural(len(bad), 'file')} {problem}: {shown}{more}. {advice}")
