"""Writes what a user asked to save: a page, or a folder of results."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from catdog.system.errors import UserError


def save_page(path: str | Path, page: str) -> Path:
    """Writes a page as UTF-8 and returns its path.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"path: cannot write {path} ({error.strerror}). Name another file.") from error
    return path


@contextlib.contextmanager
def saving_folder(folder: Path) -> Iterator[None]:
    """Makes a folder for what the block writes into it, unless it exists already.

    Raises:
        UserError: the folder, or a file in it, cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"output: cannot write {folder} ({error.strerror}). Name another folder: output=PATH."
        ) from error
