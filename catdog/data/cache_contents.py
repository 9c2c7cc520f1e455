"""What the cache of images holds, how large it is and when it was last used; removes what was not used for long."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from catdog.data.staging import PARTS, PROGRESS, remove_staged
from catdog.system.files import PARTIAL_SUFFIX, measure_size

# What is made again from the data set when it is needed. Downloads stay, because they need a network. Findings of near-duplicates
# lie in folders by version; each search has the descriptions of all its images, of less than 1 KB each.
PLACES = {
    "decoded/*": "decoded images", "drawn/*": "drawn images", "extracted/*": "extracted images",
    "duplicates/*/*": "findings of near-duplicates",
}  # fmt: skip
# Searches that are running write to their parts too.
PARTS_OLD_S = 86_400.0


@dataclass(frozen=True)
class CachedItem:
    """A folder of the cache.

    Attributes:
        folder: the folder.
        what: what it holds, such as "decoded images".
        size_bytes: of all its files.
        used: when one of its files was last read or written, in seconds since 1970. A disk that is mounted without access times
            only knows when they were written.
    """

    folder: Path
    what: str
    size_bytes: int
    used: float

    def remove(self) -> bool:
        """Removes it, unless a process is making it right now; returns whether it is gone."""
        return remove_staged(self.folder)


def list_cached(cache: Path) -> list[CachedItem]:
    """Returns what the cache holds and can make again, the longest unused first, with what a stopped process has begun."""
    items = [
        CachedItem(folder, what, measure_size(folder), _last_use(folder))
        for place, what in PLACES.items() for folder in cache.glob(place)
        if folder.is_dir() and (folder.name != PARTS or time.time() - _last_use(folder) > PARTS_OLD_S)
        and (not folder.name.endswith(PARTIAL_SUFFIX) or (folder / PROGRESS).exists())
    ]  # fmt: skip
    return sorted(items, key=lambda item: item.used)


def choose_unused(items: Sequence[CachedItem], older_than_s: float, most_bytes: float | None) -> list[CachedItem]:
    """Returns the items that were not used for a time, and those that go so that the rest is small enough, in their order.

    Args:
        items: as `list_cached` returns them.
        older_than_s: in seconds.
        most_bytes: size of the rest; None: any.
    """
    left = sum(item.size_bytes for item in items)
    chosen = []
    for item in items:
        if time.time() - item.used > older_than_s or (most_bytes is not None and left > most_bytes):
            chosen.append(item)
            left -= item.size_bytes
    return chosen


def _last_use(folder: Path) -> float:
    used = 0.0
    # A folder's own access time also changes when somebody lists it.
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if not file.is_dir():
                status = file.stat()
                used = max(used, status.st_atime, status.st_mtime)
    return used or folder.stat().st_mtime
