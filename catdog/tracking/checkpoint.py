"""The checkpoints of one run: what training needs to go on after a whole epoch as if it had never stopped.

A file is a header line with the format's version and the sha256 of all that follows, one line of JSON (epoch, facts, and
each array's name, type and shape), and the arrays' bytes one after the other.
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
        epoch: the last whole epoch, counted from 1.
        arrays: what was saved: numbers and booleans of any shape, by name.
        facts: what JSON holds: the history, the best epoch. Floats come back bit for bit, a NaN as a NaN; a tuple comes back
            as a list, a key as a string.
    """

    epoch: int
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int = 2) -> None:
    """Adds a checkpoint to a folder, which it makes if need be, whole or not at all; removes all but the newest.

    One process at a time saves to a folder.

    Args:
        folder: the run's folder of checkpoints.
        checkpoint: what to save. Those of later epochs go: the run has gone back behind them.
        keep: how many stay, this one included; at least 1.

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
        # First, for their space may be what this one needs.
        remove_partial(folder, "epoch-*")
        _write(path, line, list(checkpoint.arrays.values()))
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        former = load_checkpoint(folder)
        resumed = f"goes on after epoch {former.epoch}" if former else "starts at epoch 1 again"
        raise UserError(
            f"cannot save the checkpoint of epoch {checkpoint.epoch} in {folder}: the disk is full ({error.strerror}). "
            f"Free some space; the same command then {resumed}."
        ) from error
    sync_folder(folder)
    _remove_superseded(folder, checkpoint.epoch, keep)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Returns the newest checkpoint of a folder that is whole; None if there is none, or no folder.

    One that is damaged is passed over with a warning, whatever the damage.
    """
    for _, path in reversed(_list_checkpoints(folder)):
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            log.warning("the checkpoint %s is passed over: %s", path, why)
    return None


def _require_numbers(arrays: dict[str, np.ndarray]) -> None:
    # The type is written as numpy names it, which is the whole truth for these kinds alone: bfloat16 would come back as void.
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc":
            raise ValueError(f"the array {name!r} is neither of numbers nor of booleans: {array.dtype}")


def _build_header(digest: str) -> bytes:
    return _HEADER_START + digest.encode() + b"\n"


def _write(path: Path, line: bytes, arrays: list[np.ndarray]) -> None:
    with replacing(path) as file:
        digest = hashlib.sha256(line)
        # The digest is known at the end; its place is held until then.
        file.write(_build_header(digest.hexdigest()))
        file.write(line)
        for array in arrays:
            content = _view_bytes(np.ascontiguousarray(array))
            digest.update(content)
            file.write(content)
        file.seek(0)
        file.write(_build_header(digest.hexdigest()))


def _read(path: Path) -> Checkpoint:
    """Returns a file's checkpoint; ValueError says what is wrong with the file."""
    with path.open("rb") as file:
        header = file.readline(len(_build_header("0" * 64)))
        # The digest before anything else: what is parsed below is what was written.
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
    """Returns (epoch, path) of the files that are named like checkpoints, the oldest first."""
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.glob("epoch-*"))
    return sorted((int(match[1]), path) for match, path in matches if match)


def _remove_superseded(folder: Path, epoch: int, keep: int) -> None:
    found = _list_checkpoints(folder)
    kept = [path for number, path in found if number <= epoch][-keep:]
    for _, path in found:
        if path not in kept:
            # The checkpoint is saved: no reason to end a run. The next one tries again.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
