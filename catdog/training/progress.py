"""Progress of one training: a live line in a terminal, plain lines if output is piped, and every epoch in the log file."""

import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

from catdog.system.terminal import console

log = logging.getLogger(__name__)

# Narrower terminals show the numbers and the beginning of the name, but no bar and no speed.
WIDE_COLUMNS = 120
NARROW_NAME = 12


class Progress(Protocol):
    """Shows the progress of a training; entered before its first step, left after its last."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *exception: object) -> None: ...

    def step(self, steps: int) -> None:
        """Counts training steps."""

    def finish_epoch(self, epoch: int, metrics: dict[str, float], best: float | None) -> None:
        """Shows an epoch's metrics."""


class LiveProgress:
    """One live line in a terminal, or one plain line per epoch if output is piped; every epoch goes to the log file.

    Args:
        name: the run's name.
        epochs: the number of the last epoch.
        steps: batches per epoch.
        first_epoch: the first epoch that this process trains, from 1.
    """

    def __init__(self, name: str, epochs: int, steps: int, first_epoch: int = 1) -> None:
        from rich import progress

        self.wide = console.width >= WIDE_COLUMNS
        self.epochs = epochs
        self.first_epoch = first_epoch
        self.started = time.perf_counter()
        self.bar = progress.Progress(
            progress.TextColumn("{task.description}", style="bold", markup=False),
            progress.TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            *([progress.BarColumn(bar_width=24), progress.TextColumn("{task.fields[speed]}")] if self.wide else []),
            progress.TextColumn("ETA"),
            progress.TimeRemainingColumn(compact=True),
            progress.TextColumn("{task.fields[accuracies]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        shown = name if self.wide else name[:NARROW_NAME]
        total = (epochs - first_epoch + 1) * steps
        self.task = self.bar.add_task(shown, total=total, epoch=first_epoch, speed="", accuracies="compiling")

    def __enter__(self) -> "LiveProgress":
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def step(self, steps: int) -> None:
        """Counts training steps."""
        self.bar.advance(self.task, steps)

    def finish_epoch(self, epoch: int, metrics: dict[str, float], best: float | None) -> None:
        """Shows an epoch's metrics, and logs them."""
        done = epoch - self.first_epoch + 1
        left_s = (time.perf_counter() - self.started) / done * (self.epochs - epoch)
        speed = f"{metrics['images_per_second']:,.0f} images/s"
        accuracies = describe_accuracies(metrics, best)
        self.bar.update(self.task, epoch=min(epoch + 1, self.epochs), speed=speed, accuracies=accuracies)
        # A terminal has the live line instead; the log file gets every epoch.
        log_epoch(epoch, self.epochs, metrics, best, left_s, file_only=console.is_terminal)


def describe_accuracies(metrics: Mapping[str, float], best: float | None) -> str:
    """Returns an epoch's accuracies, their gap and the best val accuracy so far, as far as they are known, as text."""
    shown = [
        f"{key} {metrics[f'{key}/accuracy']:{'+' if key == 'gap' else ''}.3f}"
        for key in ("train", "val", "gap")
        if f"{key}/accuracy" in metrics
    ]
    return " ".join([*shown, *([] if best is None else [f"best {best:.3f}"])])


def log_epoch(
    epoch: int, epochs: int, metrics: Mapping[str, float], best: float | None, left_s: float, *, file_only: bool
) -> None:
    """Logs the line of an epoch.

    Args:
        epoch: its number, from 1.
        epochs: the number of the last epoch.
        metrics: the epoch's metrics.
        best: the best val accuracy so far, in [0, 1]; None before the first validation.
        left_s: estimated seconds until the end.
        file_only: whether to write to the log file only, because the terminal has a live line.
    """
    log.info(
        "epoch %*d/%d  %s  %s images/s  ETA %d:%02d",
        len(str(epochs)), epoch, epochs, describe_accuracies(metrics, best),
        f"{metrics['images_per_second']:,.0f}", int(left_s) // 60, int(left_s) % 60, extra={"file_only": file_only},
    )  # fmt: skip
