"""SIGINT and SIGTERM: both end a run as Ctrl-C does, but never in the middle of what must be done whole."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

_held = 0
_pending = False


def listen(*, once: bool) -> None:
    """Makes SIGINT and SIGTERM raise KeyboardInterrupt in the main thread.

    Args:
        once: whether further ones are ignored, so that the run can close; whoever sent the first can still kill.
    """

    def stop(number: int, frame: Any) -> None:
        global _pending
        if once:
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_IGN)
        if _held:
            _pending = True
            return
        raise KeyboardInterrupt

    # Under nohup or in a shell's background SIGINT comes ignored; here it is how a run is told to close.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Keeps an interrupt, where `listen` was called, until the block has ended."""
    global _held, _pending
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if _pending and not _held:
            _pending = False
            raise KeyboardInterrupt
