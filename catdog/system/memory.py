"""Memory of the process: the freed memory that glibc keeps, and the objects that the garbage collector scans.

A command and a worker of a sweep each own their process and set it up with `own_process`. In any other process, such as a notebook
that imports catdog, these settings are left alone.
"""

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator

# As in glibc's malloc.h.
M_ARENA_MAX = -8
# Raised where the C library is not glibc.
MISSING = (OSError, AttributeError, TypeError)

_is_ours = False


def own_process() -> None:
    """Sets up a process that runs nothing but catdog: one heap, and no garbage collection of imported objects.

    Otherwise TensorFlow's threads would waste 25 MB in heaps of their own.
    """
    global _is_ours
    _is_ours = True
    with contextlib.suppress(*MISSING):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


@contextlib.contextmanager
def long_lived_imports() -> Iterator[None]:
    """Excludes the objects that the block imports from garbage collection. Does nothing in a process that catdog does not own.

    TensorFlow creates half a million objects that are never freed, and MLflow many as well. Scanning them during the import takes a
    quarter of its time, and every later collection would scan them again, in each fork and at the end of each process.
    """
    if not _is_ours:
        yield
        return
    collected = gc.isenabled()
    gc.disable()
    loaded = len(sys.modules)
    try:
        yield
    finally:
        if len(sys.modules) > loaded:
            gc.freeze()
        if collected:
            gc.enable()


def return_freed() -> None:
    """Returns freed memory to the system. Called once an epoch, it lowers the small CNN's peak memory in training by 30 MB."""
    with contextlib.suppress(*MISSING):
        ctypes.CDLL(None).malloc_trim(0)
