"""The checkpoints of one run: what training needs to resume after a complete epoch as if it had never stopped.

A file starts with a header line: the format's version and the sha256 of everything that follows. Then come one line of JSON (epoch,
facts, and each array's name, type and shape) and the arrays' bytes, one array after the other.
"""

import contextlib
import hashlib
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catdog.system.errors import UserError
from catdog.system.files import DISK_FULL, remove_partial, replacing, sync_folder

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
_HEADER_START = b"catdog checkpoint %d " % FORMAT_VERSION
_NAME = re.compile(r"epoch-(\d{6,})\.checkpoint")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after an epoch.

    Attributes:
        epoch: the last complete epoch, counted from 1.
        arrays: the saved arrays by name: numbers and booleans of any shape.
        facts: values that JSON can hold, such as the history and the best epoch. Floats are restored bit for bit, and NaN stays
            NaN; a tuple is restored as a list, and a key as a string.
    """

    epoch: int
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int = 2) -> None:
    """Adds a checkpoint to a folder, completely or not at all, and removes all but the newest; creates the folder if needed.

    Only one process at a time may save to a folder.

    Args:
        folder: the run's folder of checkpoints.
        checkpoint: what to save. Checkpoints of later epochs are removed: the run has gone back to before them.
        keep: how many checkpoints to keep, this one included; at least 1.

    Raises:
        UserError: the disk is full. The earlier checkpoints are untouched.
    """
    _require_numbers(checkpoint.arrays)
    index = {
        "epoch": checkpoint.epoch,
        "arrays": [[name, array.dtype.str, array.shape] for name, array in checkpoint.arrays.items()],
        "facts": checkpoint.facts,
    }
    line = json.dumps(index).encode() + b"\n"
    path = folder / f"epoch-{checkpoint.epoch:06d}.checkpoint"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Partial files go first: this checkpoint may need their space.
        remove_partial(folder, "epoch-*")
        _write(path, line, list(checkpoint.arrays.values()))
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        former = load_checkpoint(folder)
        resumed = f"resumes after epoch {former.epoch}" if former else "starts at epoch 1 again"
        raise UserError(
            f"cannot save the checkpoint of epoch {checkpoint.epoch} in {folder}: the disk is full ({error.strerror}). "
            f"Free some space; the same command then {resumed}."
        ) from error
    sync_folder(folder)
    _remove_superseded(folder, checkpoint.epoch, keep)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Returns the newest intact checkpoint of a folder; None if there is none, or if the folder does not exist.

    A damaged checkpoint is skipped with a warning, whatever the damage.
    """
    for _, path in reversed(_list_checkpoints(folder)):
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            log.warning("the checkpoint %s is skipped: %s", path, why)
    return None


def _require_numbers(arrays: dict[str, np.ndarray]) -> None:
    # Types are stored by numpy's name, which is complete for these kinds only: bfloat16, for example, would be read back as void.
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc":
            raise ValueError(f"the array {name!r} must hold numbers or booleans, received {array.dtype}")


def _build_header(digest: str) -> bytes:
    return _HEADER_START + digest.encode() + b"\n"


def _write(path: Path, line: bytes, arrays: list[np.ndarray]) -> None:
    with replacing(path) as file:
        digest = hashlib.sha256(line)
        # The digest is known only at the end. Until then a placeholder holds its place.
        file.write(_build_header(digest.hexdigest()))
        file.write(line)
        for array in arrays:
            content = _view_bytes(np.ascontiguousarray(array))
            digest.update(content)
            file.write(content)
        file.seek(0)
        file.write(_build_header(digest.hexdigest()))


def _read(path: Path) -> Checkpoint:
    """Returns a file's checkpoint; raises a ValueError that says what is wrong with the file."""
    with path.open("rb") as file:
        header = file.readline(len(_build_header("0" * 64)))
        # The digest is checked first: what is parsed below is then exactly what was written.
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if header != _build_header(digest):
            is_ours = header.startswith(_HEADER_START)
            raise ValueError("its content is not what was written" if is_ours else f"not of format {FORMAT_VERSION}")
        file.seek(len(header))
        index = json.loads(file.readline())
        arrays = {}
        for name, dtype, shape in index["arrays"]:
            arrays[name] = np.empty(shape, np.dtype(dtype))
            content = _view_bytes(arrays[name])
            if file.readinto(content) != content.nbytes:
                raise ValueError("it ends too early")
    return Checkpoint(index["epoch"], arrays, index["facts"])


def _view_bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Returns (epoch, path) of the files that are named like checkpoints, oldest first."""
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.glob("epoch-*"))
    return sorted((int(match[1]), path) for match, path in matches if match)


def _remove_superseded(folder: Path, epoch: int, keep: int) -> None:
    found = _list_checkpoints(folder)
    kept = [path for number, path in found if number <= epoch][-keep:]
    for _, path in found:
        if path not in kept:
            # The new checkpoint is saved, so a failure here is no reason to end a run. The next save tries again.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
