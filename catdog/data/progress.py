"""Progress of a long job: a bar in a terminal, or an occasional line in the log."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from catdog.system import terminal
from catdog.system.terminal import console

logger = logging.getLogger(__name__)

_LOG_EVERY_S = 15.0


@contextmanager
def reported_progress(
    work: str, total: int | None, unit: Literal["bytes", "images", "files", "pairs", "runs"], done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Shows the progress of the block's work.

    Args:
        work: what the block does, such as "decoding".
        total: the total amount, in units; None if it is not known.
        unit: what is counted.
        done: the amount that is done already.

    Yields:
        A function that is called with the amount done since its last call.
    """
    if terminal.shows_progress and console.is_terminal:
        columns = (
            (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
        )
        bar = Progress(TextColumn(work), BarColumn(), *columns, TimeRemainingColumn(), console=console, transient=True)
        with bar:
            task = bar.add_task(work, total=total, completed=done)
            yield lambda amount: bar.advance(task, amount)
        return

    last_s = time.monotonic()

    def log_now_and_then(amount: int) -> None:
        nonlocal done, last_s
        done += amount
        if time.monotonic() - last_s > _LOG_EVERY_S:
            last_s = time.monotonic()
            logger.info("%s: %s", work, _amount_done(done, total, unit))

    yield log_now_and_then


def _amount_done(done: int, total: int | None, unit: str) -> str:
    scale, shown = (1e6, "MB") if unit == "bytes" else (1, unit)
    if not total:
        return f"{done / scale:,.0f} {shown}"
    return f"{done / scale:,.0f} of {total / scale:,.0f} {shown} ({done / total:.0%})"
