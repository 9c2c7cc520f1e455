"""What a user sees while a command runs: one console, shared by log lines, progress and tables."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from catdog.system.wording import fold_word

if TYPE_CHECKING:
    from rich.table import Table

PIPED_WIDTH_COLUMNS = 120
# A column of names is never narrower than its longest word, up to this width.
NAME_COLUMNS = 30

# Live progress and log lines must share one console, or a log line breaks up the progress bar.
# No markup: names of files and classes may have square brackets.
console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH_COLUMNS, markup=False)

# Whether long work shows its progress on the console: yes in a command, no in a script or notebook that imports catdog.
shows_progress = False

# In a worker process of a sweep: sends the (text, level) of a log line to the process that owns the terminal.
relay: Callable[[str, int], None] | None = None

STYLES = {logging.WARNING: ("warning: ", "yellow"), logging.ERROR: ("error: ", "bold red")}


class ConsoleHandler(logging.Handler):
    """Prints log records to the console as plain text, with a prefix for warnings and errors. Skips those marked `file_only`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one record, or relays it to the process that owns the terminal."""
        if getattr(record, "file_only", False):
            return
        if relay is not None:
            # The sweep's main process has reported on the data already; every run would repeat it.
            if record.levelno >= logging.WARNING or not record.name.startswith("catdog.data"):
                relay(record.getMessage(), record.levelno)
            return
        try:
            # The console shows only the message; a traceback goes to the log file.
            prefix, style = STYLES.get(min(record.levelno // 10 * 10, logging.ERROR), ("", ""))
            console.print(Text(prefix + record.getMessage(), style=style), soft_wrap=True)
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def status_shown(words: str) -> Iterator[None]:
    """Shows these words on the console while the block runs, if progress is shown at all."""
    with console.status(Text(words)) if shows_progress else contextlib.nullcontext():
        yield


def can_ask() -> bool:
    """Returns whether somebody sits at a terminal who can answer a question."""
    return sys.stdin is not None and sys.stdin.isatty() and console.is_terminal


def ask(question: str) -> bool:
    """Asks a question that is answered with y or n; everything else counts as no."""
    try:
        return console.input(Text(f"{question} [y/N] ", style="bold")).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def show_table(table: "Table") -> None:
    """Prints a table on the console; a table without rows is nothing to show."""
    if table.row_count:
        console.print(table)


def name_text(name: str) -> Text:
    """Returns a name of a run or variant for a cell of a table, where very long words are cut at a sensible place."""
    return Text(" ".join("\n".join(fold_word(word, NAME_COLUMNS)) for word in name.split(" ")))


def add_name_column(table: "Table", header: str, names: Iterable[str]) -> None:
    """Adds a column for the names of runs or variants to a table; it is wide enough that their words stay whole."""
    longest = max((len(word) for name in names for word in name_text(name).plain.split()), default=0)
    table.add_column(header, overflow="fold", min_width=max(longest, len(header)))


def show_error(message: str) -> None:
    """Prints an error to stderr, even if the console writes to stdout."""
    if console.is_terminal and sys.stderr.isatty():
        # Both are the same terminal: print through the console, which may be showing live progress there.
        console.print(Text("error: ", style="bold red") + Text(message), soft_wrap=True)
        return
    Console(stderr=True, soft_wrap=True).print(Text("error: ", style="bold red") + Text(message))


def show_next(*commands: str) -> None:
    """Prints what to do next: one or more commands that can be copied."""
    console.print()
    for label, command in zip(["Next:", *[""] * len(commands)], commands, strict=False):
        console.print(Text(f"{label:5} ", style="bold") + Text(command, style="cyan"), soft_wrap=True)
