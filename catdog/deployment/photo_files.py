"""The image files that a command names: files as they are given, and every image below each folder."""

import errno
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from catdog.config.mistakes import explain_stray
from catdog.data.images import IMAGE_SUFFIXES, describe_hidden, is_hidden_name, is_image_name
from catdog.system.errors import UserError
from catdog.system.wording import plural

log = logging.getLogger(__name__)

# The most endings, and the most folders that cannot be read, that a message names.
MOST_NAMED = 5
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR)


@dataclass
class _Below:
    """What is below a folder; names are relative to the current folder, those of `hidden` to the folder.

    Attributes:
        images: files with the name of an image, also if they cannot be read or are links to nothing.
        hidden: files that would count as images but for a dot in front.
        unreadable: folders that cannot be listed, with the reason.
        linked: how many links to folders there are; they are not followed.
        endings: how many other files there are of each ending; hidden files do not count.
    """

    images: list[Path] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    linked: int = 0
    endings: Counter[str] = field(default_factory=Counter)


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Returns the files to predict: each file as given, and every image below each folder, sorted.

    Links to files are followed, links to folders are not. A file that cannot be read is among them. What is left out below a folder
    is logged.

    Raises:
        UserError: a path does not exist, a folder has no images, or no path is given.
    """
    if not arguments:
        raise UserError("no image named. Name files or folders: python -m catdog.predict PHOTO.jpg FOLDER")
    files: list[Path] = []
    for number, argument in enumerate(arguments):
        path = Path(argument)
        if os.path.isdir(path):  # noqa: PTH112  Path.is_dir raises if a folder above cannot be entered
            files += _find_below(path, argument)
        elif _is_there(path):
            files.append(path)
        else:
            following = arguments[number + 1] if number + 1 < len(arguments) else ""
            raise UserError(explain_stray(argument, following, "predict"))
    return files


def _is_there(path: Path) -> bool:
    """Returns whether there is a file, or a link to nothing, of this name, as far as can be told."""
    try:
        path.lstat()
    except OSError as error:
        return error.errno not in _NOTHING_THERE
    return True


def _find_below(folder: Path, argument: str) -> list[Path]:
    below = _look_below(folder)
    if below.unreadable:
        log.warning("%s: %s", argument, _describe_unreadable(below))
    if left_out := _describe_left_out(below):
        log.info("%s: left out %s", argument, left_out)
    hidden = sorted(below.hidden)
    if not below.images:
        raise UserError(
            f"{argument!r}: no images in this folder or below. Images are files that end in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}." + (f" {describe_hidden(hidden)}." if hidden else "")
        )
    if hidden:
        log.info("%s: %s", argument, describe_hidden(hidden))
    return sorted(below.images)


def _look_below(folder: Path) -> _Below:
    below, waiting = _Below(), [str(folder)]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                waiting += [entry.path for entry in entries if _is_folder(entry, folder, below)]
        except OSError as error:
            below.unreadable.append((place, str(error.strerror)))
    return below


def _is_folder(entry: os.DirEntry[str], root: Path, below: _Below) -> bool:
    """Returns whether an entry is a folder to look into; notes it if it is not."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return True
        if entry.is_symlink() and entry.is_dir():
            below.linked += 1
            return False
        # Opening a pipe would wait for ever. A link to nothing is kept: it has a name, and a reason why it has no answer.
        if not entry.is_file() and not (entry.is_symlink() and not os.path.exists(entry.path)):  # noqa: PTH110
            return False
    except OSError:
        # It cannot be looked at: its folder may be listed but not entered.
        pass
    if is_image_name(entry.name):
        below.images.append(Path(entry.path))
    elif is_hidden_name(entry.name):
        below.hidden.append(PurePath(entry.path).relative_to(root).as_posix())
    elif not entry.name.startswith("."):
        below.endings[PurePath(entry.name).suffix.lower() or "no ending"] += 1
    return False


def _describe_unreadable(below: _Below) -> str:
    """Returns the sentence about folders that cannot be read."""
    named = ", ".join(f"{place!r} ({reason})" for place, reason in sorted(below.unreadable)[:MOST_NAMED])
    more = ", ..." if len(below.unreadable) > MOST_NAMED else ""
    return f"{plural(len(below.unreadable), 'folder')} cannot be read, and what is below is left out: {named}{more}"


def _describe_left_out(below: _Below) -> str:
    """Returns how many links to folders and files of other endings are left out; "" for none."""
    left_out = []
    if below.linked:
        left_out.append(f"{plural(below.linked, 'link')} to folders")
    if below.endings:
        ordered = sorted(below.endings.items(), key=lambda one: (-one[1], one[0]))
        most = ", ".join(f"{ending} {count:,}" for ending, count in ordered[:MOST_NAMED])
        more = ", ..." if len(ordered) > MOST_NAMED else ""
        files = plural(below.endings.total(), "file")
        left_out.append(f"{files} whose ending is not that of an image ({most}{more})")
    return " and ".join(left_out)
