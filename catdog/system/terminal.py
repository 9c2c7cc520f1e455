"""What a user sees while a command runs: one console, shared by log lines, progress and tables."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.text import Text

PIPED_WIDTH_COLUMNS = 120

# Live progress and log lines must go through one object, or a log line tears the progress bar.
console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH_COLUMNS)

# Whether long work shows on the console how far it is: in a command, and not below a script or a notebook that imports catdog.
shows_progress = False

# In the process of a sweep's run: takes (text, level) of a log line to the process that owns the terminal.
relay: Callable[[str, int], None] | None = None

STYLES = {logging.WARNING: ("warning: ", "yellow"), logging.ERROR: ("error: ", "bold red")}


class ConsoleHandler(logging.Handler):
    """Prints log records to the console, but for those marked `file_only`: plain text, warnings and errors marked."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "file_only", False):
            return
        if relay is not None:
            # What the leader has said of the data before the first run, each run would say again.
            if record.levelno >= logging.WARNING or not record.name.startswith("catdog.data"):
                relay(record.getMessage(), record.levelno)
            return
        try:
            # Of a record with a traceback the console shows the message: the traceback is in the log file.
            prefix, style = STYLES.get(min(record.levelno // 10 * 10, logging.ERROR), ("", ""))
            console.print(Text(prefix + record.getMessage(), style=style), soft_wrap=True)
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def status_shown(words: str) -> Iterator[None]:
    """Shows on the console what the block does, while it lasts."""
    with console.status(Text(words)) if shows_progress else contextlib.nullcontext():
        yield


def show_error(message: str) -> None:
    """Prints an error to stderr, whatever the console writes to."""
    if console.is_terminal and sys.stderr.isatty():
        # One terminal: through the console that may show live lines on it.
        console.print(Text("error: ", style="bold red") + Text(message), soft_wrap=True)
        return
    Console(stderr=True, soft_wrap=True).print(Text("error: ", style="bold red") + Text(message))


def show_next(*commands: str) -> None:
    """Prints what to do next: one or more commands, ready to be copied."""
    console.print()
    for label, command in zip(["Next:", *[""] * len(commands)], commands, strict=False):
        console.print(Text(f"{label:5} ", style="bold") + Text(command, style="cyan"), soft_wrap=True)
