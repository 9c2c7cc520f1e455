"""SIGINT and SIGTERM: both stop a run as Ctrl-C does, but never in the middle of a step that must not be cut short."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

_held = 0
_pending = False


def listen(*, once: bool) -> None:
    """Makes SIGINT and SIGTERM raise KeyboardInterrupt in the main thread.

    Args:
        once: ignore further signals, so that the run can close; SIGKILL still works.
    """

    def stop(_number: int, _frame: Any) -> None:
        global _pending
        if once:
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_IGN)
        if _held:
            _pending = True
            return
        raise KeyboardInterrupt

    # A process under nohup or in a shell's background starts with SIGINT ignored, but a run must close on SIGINT.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Delays an interrupt until the block has ended; `listen` must have been called."""
    global _held, _pending
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if _pending and not _held:
            _pending = False
            raise KeyboardInterrupt
