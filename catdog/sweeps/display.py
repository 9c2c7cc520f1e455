"""The display of a sweep while its jobs run: a live line per job in a terminal, plain lines if output is piped."""

import heapq
import io
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from catdog.system.terminal import STYLES, console, show_error

STATE_STYLES = {"finished": "green", "reused": "green", "failed": "red", "timed out": "red"}
# The first layout that fits is shown. Layouts with speed show whole names. The figures that the others imply are left out first.
FIGURES = "train val gap best"
LAYOUTS = (f"{FIGURES} speed bar", f"{FIGURES} speed", FIGURES, "train val best", "val best", "")
# A longer state, such as "same as" and a name, takes the place of the figures. In its own column it would shorten all other lines.
SHORTEST_NAME, STATE_COLUMNS, FIGURE_COLUMNS, BAR_COLUMNS, PADDING_COLUMNS = 7, 12, 10, 20, 2
# If not all jobs fit: how many of those that ended last are shown, and how many lines are left for log messages.
RECENT_JOBS, LOG_LINES = 3, 6
NOTEBOOK_COLUMNS, NOTEBOOK_LINES = 110, 200


@dataclass
class _Job:
    name: str
    state: str = "waiting"
    running: bool = False
    started: float = 0.0
    ended: float | None = None
    event: Mapping[str, Any] = field(default_factory=dict)
    event_at: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    epochs_done: float = 0.0
    epoch_s: float | None = None

    def advance(self, event: Mapping[str, Any], now: float) -> None:
        self.event, self.event_at, self.metrics = event, now, event["metrics"] or self.metrics
        self.epochs_done = event["epoch"] - 1 + (1.0 if event["epoch_ended"] else event["step"] / event["steps"])
        done_here = self.epochs_done - (event["first_epoch"] - 1)
        self.epoch_s = event["seconds"] / done_here if done_here > 0 else None

    def left_s(self, now: float, whole_s: float | None = None) -> float | None:
        """Returns the seconds left, counting down between events; before the first step, estimated from `whole_s` if given."""
        if self.epoch_s is None:
            return None if whole_s is None else max(0.0, whole_s - (now - self.started))
        return max(0.0, self.epoch_s * (self.event["epochs"] - self.epochs_done) - (now - self.event_at))

    def whole_s(self, now: float) -> float | None:
        """Returns the run's total seconds from start to end, including epochs of earlier processes; None if unknown."""
        left_s = self.left_s(now) if self.running else 0.0 if self.state == "finished" else None
        earlier_s = (self.epoch_s or 0.0) * (self.event.get("first_epoch", 1) - 1)
        ran_s = max(self.event.get("seconds", 0.0), (now if self.ended is None else self.ended) - self.started)
        return None if left_s is None else ran_s + left_s + earlier_s

    def describe(self, layout: str, now: float) -> list[str]:
        """Returns as text: the epoch, the figures and the speed that the layout names, and the ETA."""
        event, metrics = self.event, self.metrics
        values = {key: metrics.get(f"{key}/accuracy") for key in ("train", "val", "gap")} | {"best": event["best"]}
        known = [(key, value) for key, value in values.items() if key in layout.split() and value is not None]
        figures = " ".join(f"{key} {value:{'+' if key == 'gap' else ''}.3f}" for key, value in known)
        speed = f"{metrics['images_per_second']:,.0f} images/s" if metrics and "speed" in layout else ""
        epoch = f"epoch {event['epoch']:{len(str(event['epochs']))}d}/{event['epochs']}"
        return [epoch, figures, speed, _format_eta(self.left_s(now))]

    def build_cells(self, layout: str, now: float) -> list[Text]:
        """Returns the cells to the right of the name: state, bar, figures, speed, ETA."""
        words = self.describe(layout, now) if self.event else [""] * 4
        if self.running and self.event:
            width = BAR_COLUMNS if "bar" in layout else 0
            bar = Text(f"{'━' * int(width * self.epochs_done / self.event['epochs']):─<{width}}", "bar.complete")
            return [Text(words[0]), bar, *map(Text, words[1:])]
        state = Text(self.state, "" if self.running else STATE_STYLES.get(self.state, "dim"))
        room = 0 if words[1] else FIGURE_COLUMNS * len(layout.split())
        state.truncate(max(STATE_COLUMNS, room), overflow="ellipsis")
        cells = [Text(""), state] if state.cell_len > STATE_COLUMNS else [state, Text(words[1], "dim")]
        return [cells[0], Text(""), cells[1], Text(""), Text("")]


class Display:
    """Shows a sweep's jobs; its methods may be called from any thread.

    Args:
        names: the names of the jobs, in order.
        n_jobs: how many run at once; if more than one, plain lines and messages begin with the job's name.
        clock: returns seconds since any fixed moment.
    """

    def __init__(self, names: Sequence[str], n_jobs: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._jobs = [_Job(name) for name in names]
        self._prefixes = [f"[{name}] " if n_jobs > 1 else "" for name in names]
        self._n_jobs, self._clock = n_jobs, clock
        # Never hold this lock while printing: Live requests its lines while it holds a lock of its own, which printing takes too.
        self._lock = threading.RLock()
        # If stderr is redirected, errors stay there; on the terminal they would break up the live lines.
        live = Live(self, console=console, transient=True, redirect_stderr=sys.stderr.isatty())
        self._live = live if console.is_terminal and console.is_interactive else None
        # What the last line says, where jobs are added while others run; None: how many of the jobs are done.
        self.summary: Callable[[], str] | None = None

    def add(self, name: str, short: str) -> None:
        """Adds a job after the others; `short` stands before its plain lines and messages."""
        with self._lock:
            self._jobs.append(_Job(name))
            self._prefixes.append(f"[{short}] " if self._n_jobs > 1 else "")

    def __enter__(self) -> Self:
        if self._live:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def start(self, number: int, words: str = "starting") -> None:
        """Shows that job `number`, from 0, has a new process; everything shown for an earlier process is dropped."""
        with self._lock:
            job = self._jobs[number] = _Job(self._jobs[number].name, words, running=True, started=self._clock())
        if not self._live:
            place = (
                f"run {number + 1} of {len(self._jobs)}: {job.name}" if self.summary is None else f"{job.name}: {words}"
            )
            console.print(Text(place, style="bold"), soft_wrap=True)

    def finish(self, number: int, state: str) -> None:
        """Shows how a job ended: "finished", "reused", "failed", "stopped", "timed out", "same as cnn"."""
        with self._lock:
            job = self._jobs[number]
            job.state, job.running, job.ended = state, False, self._clock()

    def progress(self, number: int, event: Mapping[str, Any]) -> None:
        """Shows the progress of job `number`.

        Args:
            number: the job's place, from 0.
            event: epoch, the one being trained, from 1; epochs; step and steps in it; epoch_ended; metrics of the epoch
                that ended last, or None; best val accuracy, or None; first_epoch of this process, and seconds since then.
        """
        with self._lock:
            self._jobs[number].advance(event, self._clock())
            words = self._jobs[number].describe(LAYOUTS[0], self._jobs[number].event_at)
        if event["epoch_ended"] and not self._live:
            console.print(Text(self._prefixes[number] + "  ".join(filter(None, words))), soft_wrap=True)

    def message(self, number: int, text: str, level: int) -> None:
        """Prints a job's log line above the live lines; `level` is a level of logging."""
        mark, style = STYLES.get(min(level // 10 * 10, logging.ERROR), ("", ""))
        # from_ansi: a process may write codes that move the cursor, which would break up the lines.
        lines = [Text.from_ansi(line, style=style) for line in (mark + text).splitlines()]
        # A line that begins with the job's name needs no prefix.
        prefix = "" if text.startswith(f"{self._jobs[number].name}:") else self._prefixes[number]
        console.print(Text("\n").join(Text(prefix) + line for line in lines), soft_wrap=True)

    def error(self, number: int, text: str) -> None:
        """Shows a job's error, with its traceback if there is one."""
        show_error(f"{self._jobs[number].name}: {text}")

    def refresh(self) -> None:
        """Updates the display; the main thread calls it several times a second. A terminal's live lines update themselves."""

    def eta_s(self) -> float | None:
        """Returns the estimated seconds until the sweep ends; None until a run has shown how long it takes."""
        with self._lock:
            now, running = self._clock(), [job for job in self._jobs if job.running]
            waiting = sum(job.ended is None for job in self._jobs) - len(running)
            wholes = [whole_s for job in self._jobs if (whole_s := job.whole_s(now)) is not None]
            if not wholes:
                return None if running or waiting else 0.0
            mean_s = sum(wholes) / len(wholes)
            ends = [job.left_s(now, mean_s) or 0.0 for job in running]
            ends += [0.0] * (self._n_jobs - len(ends))
            heapq.heapify(ends)
            for _ in range(waiting):
                # The next job starts in the process slot that becomes free first.
                heapq.heapreplace(ends, ends[0] + mean_s)
            return max(ends)

    def __rich__(self) -> Group:
        with self._lock:
            running = [job for job in self._jobs if job.running]
            waiting = [job for job in self._jobs if job.ended is None and not job.running]
            over = sorted((job for job in self._jobs if job.ended is not None), key=lambda job: job.ended or 0.0)
            shown, lines = self._jobs, min(console.height - 1, max(3, console.height - LOG_LINES))
            texts = []
            if len(shown) >= lines:
                room = max(0, lines - 2)
                recent = over[max(0, len(over) - min(RECENT_JOBS, room - len(running[:room]))) :]
                shown = recent + running[:room]
                rest = {"waiting": waiting, "running": running[room:], "done": over[: len(over) - len(recent)]}
                hidden = ", ".join(f"{len(jobs)} {words}" for words, jobs in rest.items() if jobs)
                texts.append(Text(f"… and {hidden}", "dim", no_wrap=True, overflow="ellipsis"))
            texts.append(self._describe_sweep())
            return Group(_build_grid(shown, self._clock(), console.width), *texts)

    def _describe_sweep(self) -> Text:
        """Returns how many jobs are done, how many of them failed, and the ETA."""
        if self.summary is not None:
            return Text(self.summary(), "bold", no_wrap=True, overflow="ellipsis")
        with self._lock:
            over = [job for job in self._jobs if job.ended is not None]
            failed = sum(STATE_STYLES.get(job.state) == "red" for job in over)
            words = f"sweep  {len(over)} of {len(self._jobs)} done" + (f", {failed} failed" if failed else "")
            return Text(f"{words}  {_format_eta(self.eta_s())}", "bold", no_wrap=True, overflow="ellipsis")


class QuietDisplay(Display):
    """Shows nothing. Errors are in the outcomes, and everything that a run reports is in its log."""

    def __init__(self, names: Sequence[str], n_jobs: int) -> None:
        super().__init__(names, n_jobs)
        self._live = None

    def start(self, number: int, words: str = "starting") -> None:
        """Shows nothing."""

    def progress(self, number: int, event: Mapping[str, Any]) -> None:
        """Shows nothing."""

    def message(self, number: int, text: str, level: int) -> None:
        """Shows nothing."""

    def error(self, number: int, text: str) -> None:
        """Shows nothing."""


class NotebookDisplay(Display):
    """Shows a sweep's jobs below a notebook's cell, in one output that is updated in place, with errors and warnings above it."""

    def __init__(self, names: Sequence[str], n_jobs: int) -> None:
        from IPython.display import display

        super().__init__(names, n_jobs)
        self._live = None
        self._messages: list[str] = []
        self._shown = ""
        self._handle = display(self._build(), display_id=True)

    def __exit__(self, *exception: object) -> None:
        self.refresh()

    def start(self, number: int, words: str = "starting") -> None:
        """Records that a job has a new process, for the next refresh."""
        with self._lock:
            self._jobs[number] = _Job(self._jobs[number].name, words, running=True, started=self._clock())

    def progress(self, number: int, event: Mapping[str, Any]) -> None:
        """Records a job's progress, for the next refresh."""
        with self._lock:
            self._jobs[number].advance(event, self._clock())

    def message(self, number: int, text: str, level: int) -> None:
        """Records a job's log line if it is a warning or worse."""
        if level >= logging.WARNING:
            self.error(number, text)

    def error(self, number: int, text: str) -> None:
        """Records a job's error, for the next refresh."""
        with self._lock:
            self._messages.append(f"{self._jobs[number].name}: {text}")

    def refresh(self) -> None:
        """Updates the output if its content has changed."""
        content = self._build()
        if content.data != self._shown:
            self._shown = content.data
            self._handle.update(content)

    def _build(self) -> Any:
        from IPython.display import HTML

        terminal = Console(file=io.StringIO(), record=True, width=NOTEBOOK_COLUMNS, height=NOTEBOOK_LINES)
        with self._lock:
            for text in self._messages:
                terminal.print(Text(text, "red"), soft_wrap=True)
        terminal.print(_build_grid(self._jobs, self._clock(), NOTEBOOK_COLUMNS))
        terminal.print(self._describe_sweep())
        return HTML(terminal.export_html(code_format="<pre>{code}</pre>", inline_styles=True))


def choose_display() -> Callable[[Sequence[str], int], Display]:
    """Returns the class of display that suits this process: for a notebook or for a terminal."""
    shell = sys.modules.get("IPython")
    in_notebook = shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"
    return NotebookDisplay if in_notebook else Display


def _build_grid(jobs: list[_Job], now: float, width: int) -> Table:
    """Returns a table with a line for each job, in the first layout that fits into `width` columns."""
    longest = max((Text(job.name).cell_len for job in jobs), default=0)
    for layout in LAYOUTS:
        rows = [job.build_cells(layout, now) for job in jobs]
        columns = [cells for cells in zip(*rows, strict=True) if any(cells)]
        room = width - sum(PADDING_COLUMNS + max(cell.cell_len for cell in column) for column in columns)
        if room >= (longest if "speed" in layout else min(longest, SHORTEST_NAME)):
            break
    headers = [Column(no_wrap=True, overflow="ellipsis") for _ in range(len(columns) + 1)]
    grid = Table.grid(*headers, padding=(0, PADDING_COLUMNS, 0, 0))
    for number, job in enumerate(jobs):
        name = Text(job.name, "bold" if job.running else "")
        if name.cell_len > room > 0:
            # Shortened in the middle: a name begins with the model and often ends with the seed.
            name.plain = f"{job.name[: room // 2]}…{job.name[len(job.name) - (room - 1) // 2 :]}"
        grid.add_row(name, *(column[number] for column in columns))
    return grid


def _format_eta(left_s: float | None) -> str:
    minutes, seconds = divmod(int(left_s or 0.0), 60)
    words = f"{minutes // 60}:{minutes % 60:02d}" if minutes >= 60 else f"{minutes}"
    return "" if left_s is None else f"ETA {words}:{seconds:02d}"
