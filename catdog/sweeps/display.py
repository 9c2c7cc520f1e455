"""What a sweep shows while its jobs run: a live line per job in a terminal, plain lines where output is piped."""

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
# The first layout that fits is shown. Those with speed have whole names; of the figures, what the others tell goes first.
FIGURES = "train val gap best"
LAYOUTS = (f"{FIGURES} speed bar", f"{FIGURES} speed", FIGURES, "train val best", "val best", "")
# A longer state, such as "same as" and a name, stands where the figures would be: it would shorten all other lines.
SHORTEST_NAME, STATE_COLUMNS, FIGURE_COLUMNS, BAR_COLUMNS, PADDING_COLUMNS = 7, 12, 10, 20, 2
# Where not all jobs fit: how many of those that left last are shown, and how many lines are left to log messages.
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
        """Returns what is left, counted down between events; before the first step, of `whole_s` if that is given."""
        if self.epoch_s is None:
            return None if whole_s is None else max(0.0, whole_s - (now - self.started))
        return max(0.0, self.epoch_s * (self.event["epochs"] - self.epochs_done) - (now - self.event_at))

    def whole_s(self, now: float) -> float | None:
        """Returns what the run takes from its start to its end, epochs of earlier processes included; None if unknown."""
        left_s = self.left_s(now) if self.running else 0.0 if self.state == "finished" else None
        earlier_s = (self.epoch_s or 0.0) * (self.event.get("first_epoch", 1) - 1)
        ran_s = max(self.event.get("seconds", 0.0), (now if self.ended is None else self.ended) - self.started)
        return None if left_s is None else ran_s + left_s + earlier_s

    def describe(self, layout: str, now: float) -> list[str]:
        """Returns in words: the epoch, the figures and the speed that the layout names, and the ETA."""
        event, metrics = self.event, self.metrics
        values = {key: metrics.get(f"{key}/accuracy") for key in ("train", "val", "gap")} | {"best": event["best"]}
        known = [(key, value) for key, value in values.items() if key in layout.split() and value is not None]
        figures = " ".join(f"{key} {value:{'+' if key == 'gap' else ''}.3f}" for key, value in known)
        speed = f"{metrics['images_per_second']:,.0f} images/s" if metrics and "speed" in layout else ""
        epoch = f"epoch {event['epoch']:{len(str(event['epochs']))}d}/{event['epochs']}"
        return [epoch, figures, speed, _format_eta(self.left_s(now))]

    def build_cells(self, layout: str, now: float) -> list[Text]:
        """Returns what stands right of the name: state, bar, figures, speed, ETA."""
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
        names: the jobs', in their order.
        n_jobs: how many run at once; where it is more than one, plain lines and messages begin with their job's name.
        clock: seconds, from any zero.
    """

    def __init__(self, names: Sequence[str], n_jobs: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._jobs = [_Job(name) for name in names]
        self._prefixes = [f"[{name}] " if n_jobs > 1 else "" for name in names]
        self._n_jobs, self._clock = n_jobs, clock
        # Never held while printing: Live asks for its lines under a lock of its own, which printing takes as well.
        self._lock = threading.RLock()
        # A redirected stderr keeps its errors; on the terminal they would tear the lines.
        live = Live(self, console=console, transient=True, redirect_stderr=sys.stderr.isatty())
        self._live = live if console.is_terminal and console.is_interactive else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def start(self, number: int, words: str = "starting") -> None:
        """Shows that job `number`, from 0, has a process now; nothing is kept from an earlier one."""
        with self._lock:
            job = self._jobs[number] = _Job(self._jobs[number].name, words, running=True, started=self._clock())
        if not self._live:
            console.print(Text(f"run {number + 1} of {len(self._jobs)}: {job.name}", style="bold"), soft_wrap=True)

    def finish(self, number: int, state: str) -> None:
        """Shows how a job left: "finished", "reused", "failed", "stopped", "timed out", "same as cnn"."""
        with self._lock:
            job = self._jobs[number]
            job.state, job.running, job.ended = state, False, self._clock()

    def progress(self, number: int, event: Mapping[str, Any]) -> None:
        """Shows how far job `number` is.

        Args:
            event: epoch, the one being trained, from 1; epochs; step and steps in it; epoch_ended; metrics of the epoch
                that ended last, or None; best val accuracy, or None; first_epoch of this process, and seconds since then.
        """
        with self._lock:
            self._jobs[number].advance(event, self._clock())
            words = self._jobs[number].describe(LAYOUTS[0], self._jobs[number].event_at)
        if event["epoch_ended"] and not self._live:
            console.print(Text(self._prefixes[number] + "  ".join(filter(None, words))), soft_wrap=True)

    def message(self, number: int, text: str, level: int) -> None:
        """Prints a job's log line, above the live ones; `level` is logging's."""
        mark, style = STYLES.get(min(level // 10 * 10, logging.ERROR), ("", ""))
        # from_ansi: what a process wrote may move the cursor, which would tear the lines.
        lines = [Text.from_ansi(line, style=style) for line in (mark + text).splitlines()]
        # A line that begins with the name needs no other.
        prefix = "" if text.startswith(f"{self._jobs[number].name}:") else self._prefixes[number]
        console.print(Text("\n").join(Text(prefix) + line for line in lines), soft_wrap=True)

    def error(self, number: int, text: str) -> None:
        """Shows what went wrong in a job, with its traceback where there is one."""
        show_error(f"{self._jobs[number].name}: {text}")

    def refresh(self) -> None:
        """Called several times a second, in the main thread; a terminal's live lines refresh themselves."""

    def eta_s(self) -> float | None:
        """Returns the seconds that the sweep still takes; None while no run has shown how long it takes."""
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
                # The next one starts where a process is free first.
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
        with self._lock:
            over = [job for job in self._jobs if job.ended is not None]
            failed = sum(STATE_STYLES.get(job.state) == "red" for job in over)
            words = f"sweep  {len(over)} of {len(self._jobs)} done" + (f", {failed} failed" if failed else "")
            return Text(f"{words}  {_format_eta(self.eta_s())}", "bold", no_wrap=True, overflow="ellipsis")


class QuietDisplay(Display):
    """Shows nothing. What goes wrong is in the outcomes, and, as all that a run says, in its log."""

    def __init__(self, names: Sequence[str], n_jobs: int) -> None:
        super().__init__(names, n_jobs)
        self._live = None

    def start(self, number: int, words: str = "starting") -> None:
        pass

    def progress(self, number: int, event: Mapping[str, Any]) -> None:
        pass

    def message(self, number: int, text: str, level: int) -> None:
        pass

    def error(self, number: int, text: str) -> None:
        pass


class NotebookDisplay(Display):
    """Shows a sweep's jobs below a notebook's cell, in one place that is written anew, and messages above it."""

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
        with self._lock:
            self._jobs[number] = _Job(self._jobs[number].name, words, running=True, started=self._clock())

    def progress(self, number: int, event: Mapping[str, Any]) -> None:
        with self._lock:
            self._jobs[number].advance(event, self._clock())

    def message(self, number: int, text: str, level: int) -> None:
        if level >= logging.WARNING:
            self.error(number, text)

    def error(self, number: int, text: str) -> None:
        with self._lock:
            self._messages.append(f"{self._jobs[number].name}: {text}")

    def refresh(self) -> None:
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
    """Returns the display for where this process shows things: a notebook or a terminal."""
    shell = sys.modules.get("IPython")
    in_notebook = shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"
    return NotebookDisplay if in_notebook else Display


def _build_grid(jobs: list[_Job], now: float, width: int) -> Table:
    """Returns a line for each job, in the first of the layouts that so many columns have room for."""
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
            # Cut in the middle: a name begins with the model and often ends with the seed.
            name.plain = f"{job.name[: room // 2]}…{job.name[len(job.name) - (room - 1) // 2 :]}"
        grid.add_row(name, *(column[number] for column in columns))
    return grid


def _format_eta(left_s: float | None) -> str:
    minutes, seconds = divmod(int(left_s or 0.0), 60)
    words = f"{minutes // 60}:{minutes % 60:02d}" if minutes >= 60 else f"{minutes}"
    return "" if left_s is None else f"ETA {words}:{seconds:02d}"
