"""What a user sees of a running sweep: a terminal, emulated as far as rich's live lines use one, and a pipe."""

import io
import logging
import re
import threading

import pytest
from rich.console import Console

from catdog.sweeps.display import Display

METRICS = {"train/accuracy": 0.8012, "val/accuracy": 0.7331, "gap/accuracy": 0.0681, "images_per_second": 812.4}
FIGURES = "train 0.801 val 0.733 gap +0.068 best 0.740"


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def event(epoch, *, epochs=20, step=0, seconds=0.0, ended=False, first=1, metrics=METRICS, best=0.74):
    return {"epoch": epoch, "epochs": epochs, "step": 60 if ended else step, "steps": 60, "metrics": metrics, "best": best,
            "epoch_ended": ended, "seconds": seconds, "first_epoch": first}  # fmt: skip


@pytest.fixture
def make_console(monkeypatch):
    def make(*, terminal, width=80, height=24):
        console = Console(
            file=io.StringIO(), force_terminal=terminal, force_interactive=terminal, width=width, height=height,
            color_system="standard" if terminal else None, _environ={"TERM": "xterm"},
        )  # fmt: skip
        monkeypatch.setattr("catdog.sweeps.display.console", console)
        return console

    return make


def view(display, console):
    """Returns the lines that the terminal shows now, colours left out."""
    with console.capture() as capture:
        console.print(display)
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", capture.get()).splitlines()]


def replay(output, width, height):
    """Returns what is left on a terminal, scrolled-off lines included, after everything that was written to it.

    Cursor moves stop at the top of the screen, as a terminal's do: a live display taller than that leaves lines behind.
    """
    lines, row, column = [""], 0, 0
    for control, letter, new_line, text in re.findall(r"\x1b\[(\??[0-9;]*)([A-Za-z])|(\r|\n)|([^\x1b\r\n]+)", output):
        if letter == "A":
            row = max(0, len(lines) - height, row - int(control or 1))
        elif letter == "K":
            lines[row] = ""
        elif new_line == "\r":
            column = 0
        elif new_line:
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif text:
            assert column + len(text) <= width, f"wraps: {lines[row] + text}"
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
    return [line.rstrip() for line in lines]


def read_live(line):
    """Returns the cells of a live line; the spaces of "epoch  3/20" are no border."""
    return re.split(r"(?<!epoch)(?<! ) {2,}", line.strip())


def test_piped_lines_name_their_job_where_several_run_at_once(make_console):
    console = make_console(terminal=False, width=40)
    with Display(["cnn", "augmented", "third", "fourth"], 2, Clock()) as display:
        display.start(0)
        display.start(1, "resuming")
        display.progress(0, event(3, step=30, seconds=10.0, metrics=None))
        display.progress(0, event(3, seconds=14.2, ended=True))
        display.progress(1, event(20, seconds=40.0, ended=True, first=20, best=None))
        display.message(1, "the split [val] is small", logging.WARNING)
        display.message(1, "no such file\nlook in conf/", logging.ERROR)
        display.message(0, "plain", logging.INFO)
        display.finish(0, "finished")
    assert console.file.getvalue().splitlines() == [
        "run 1 of 4: cnn",
        "run 2 of 4: augmented",
        f"[cnn] epoch  3/20  {FIGURES}  812 images/s  ETA 1:20",
        "[augmented] epoch 20/20  train 0.801 val 0.733 gap +0.068  812 images/s  ETA 0:00",
        "[augmented] warning: the split [val] is small",
        "[augmented] error: no such file",
        "[augmented] look in conf/",
        "[cnn] plain",
    ]


def test_piped_lines_have_no_prefix_where_one_runs_at_a_time(make_console):
    console = make_console(terminal=False)
    with Display(["cnn [a]", "augmented"], 1, Clock()) as display:
        display.start(0)
        display.progress(0, event(3, seconds=1200.0, ended=True, metrics=METRICS | {"images_per_second": 1234.5}))
        display.message(0, "saved", logging.INFO)
    assert console.file.getvalue().splitlines() == [
        "run 1 of 2: cnn [a]",
        f"epoch  3/20  {FIGURES}  1,234 images/s  ETA 1:53:20",
        "saved",
    ]


def fill(display):
    """One job of each state, the second resumed and before its first step."""
    display.start(0)
    display.progress(0, event(3, step=30, seconds=60.0))
    display.start(1, "resuming")
    display.start(2)
    display.progress(2, event(12, ended=True, seconds=60.0))
    display.finish(2, "failed")
    display.finish(3, "reused")
    display.finish(4, "same as augmented seed=1")


NAMES = ["cnn", "augmented seed=1", "mobilenet dropout=0.5 seed=1", "preprocessed", "twin", "last"]


def test_a_wide_terminal_shows_bar_and_speed(make_console):
    console = make_console(terminal=True, width=140)
    display = Display(NAMES, 2, Clock())
    fill(display)
    lines = view(display, console)
    # 2.5 epochs took 60 s; 17.5 are left. Two at a time: the last one follows the first, 420 + 480.
    assert [read_live(line) for line in lines] == [
        ["cnn", "epoch  3/20", "━━──────────────────", FIGURES, "812 images/s", "ETA 7:00"],
        ["augmented seed=1", "resuming"],
        ["mobilenet dropout=0.5 seed=1", "failed", FIGURES],
        ["preprocessed", "reused"],
        ["twin", "same as augmented seed=1"],
        ["last", "waiting"],
        ["sweep", "3 of 6 done, 1 failed", "ETA 15:00"],
    ]


def test_80_columns_have_the_figures_and_shortened_names_that_still_differ(make_console):
    console = make_console(terminal=True, width=80)
    names = [f"mobilenet learning_rate=0.001 seed={seed}" for seed in (1, 2)]
    display = Display(names, 2, Clock())
    for number in (0, 1):
        display.start(number)
        display.progress(number, event(1, step=30, seconds=60.0))
    first, second, _ = view(display, console)
    assert read_live(first)[1:] == ["epoch  1/20", FIGURES, "ETA 39:00"]
    assert re.fullmatch(r"mob\w*….*=1", read_live(first)[0])
    assert re.fullmatch(r"mob\w*….*=2", read_live(second)[0])


def test_speed_goes_before_names_are_cut(make_console):
    console = make_console(terminal=True, width=100)
    display = Display(NAMES, 2, Clock())
    fill(display)
    assert read_live(view(display, console)[0]) == ["cnn", "epoch  3/20", FIGURES, "ETA 7:00"]
    assert read_live(view(display, console)[2])[0] == NAMES[2]


@pytest.mark.parametrize(
    ("width", "figures"), [(70, [FIGURES.replace(" gap +0.068", "")]), (55, ["val 0.733 best 0.740"]), (36, [])]
)
def test_narrower_than_80_keeps_what_cannot_be_computed(make_console, width, figures):
    console = make_console(terminal=True, width=width)
    display = Display(NAMES, 2, Clock())
    fill(display)
    assert read_live(view(display, console)[0]) == ["cnn", "epoch  3/20", *figures, "ETA 7:00"]


@pytest.mark.parametrize("width", [10, 36, 60, 80, 100, 140])
@pytest.mark.parametrize("height", [3, 10, 24, 60])
@pytest.mark.parametrize(("count", "n_jobs"), [(1, 1), (6, 2), (40, 4), (40, 40)])
def test_live_lines_never_wrap_and_fit_the_terminal(make_console, width, height, count, n_jobs):
    console = make_console(terminal=True, width=width, height=height)
    display = Display([f"mobilenet learning_rate=0.001 日本 seed={seed}" for seed in range(count)], n_jobs, Clock())
    for number in range(min(count, n_jobs + 5)):
        display.start(number)
        if number % 3:
            display.progress(number, event(7, epochs=1000, step=3, seconds=6000.0))
        if number < 5 and count > 5:
            display.finish(number, ["finished", "failed", "same as mobilenet learning_rate=0.001 seed=1"][number % 3])
    lines = view(display, console)
    assert len(lines) < height
    assert all(Console(width=width).measure(line).maximum <= width for line in lines)
    assert lines[-1].startswith("sweep"[: width - 1])


def test_many_jobs_show_those_that_run_and_those_that_left_last(make_console):
    console, clock = make_console(terminal=True, height=24), Clock()
    display = Display([f"cnn seed={seed}" for seed in range(40)], 4, clock)
    for number in range(9):
        display.start(number)
    for number in (4, 0, 1, 2, 3):
        clock.now += 1
        display.finish(number, "stopped")
    assert [read_live(line) for line in view(display, console)] == [
        *([f"cnn seed={seed}", "stopped"] for seed in (1, 2, 3)),
        *([f"cnn seed={seed}", "starting"] for seed in (5, 6, 7, 8)),
        ["… and 31 waiting, 2 done"],
        ["sweep", "5 of 40 done"],
    ]
    console = make_console(terminal=True, height=60)
    assert len(view(display, console)) == 41


def test_control_codes_of_a_process_do_not_reach_the_terminal(make_console):
    console = make_console(terminal=False)
    display = Display(["cnn", "augmented"], 2, Clock())
    display.message(0, "its output ends with:\n\x1b[1A\x1b[2K\x1b[31mout of [memory]\x1b[0m", logging.ERROR)
    assert console.file.getvalue() == "[cnn] error: its output ends with:\n[cnn] out of [memory]\n"


def test_a_terminal_keeps_lines_for_what_is_logged(make_console):
    console = make_console(terminal=True, height=24)
    assert len(view(Display(["cnn"] * 17, 1, Clock()), console)) == 18
    display = Display(["cnn"] * 23, 23, Clock())
    for number in range(23):
        display.start(number)
    lines = view(display, console)
    assert len(lines) == 18
    assert lines[-2] == "… and 7 running"


def test_states_have_colours(make_console):
    console = make_console(terminal=True)
    display = Display(["a", "b", "c", "d"], 1, Clock())
    for number, state in enumerate(["finished", "reused", "timed out", "stopped"]):
        display.finish(number, state)
    with console.capture() as capture:
        console.print(display)
    for words in ("\x1b[32mfinished", "\x1b[32mreused", "\x1b[31mtimed out", "\x1b[2mstopped"):
        assert words in capture.get()


@pytest.mark.parametrize("count", [3, 40])
def test_log_lines_stay_above_the_live_ones_which_vanish(make_console, count):
    console = make_console(terminal=True, width=80, height=24)
    console.print("before")
    with Display([f"job {number}" for number in range(count)], 2, Clock()) as display:
        display.start(0)
        display.start(1)
        display.progress(0, event(1, seconds=3.0, ended=True))
        display.message(0, "decoding [1/2]", logging.INFO)
        display.message(1, "is it?", logging.WARNING)
        shown = replay(console.file.getvalue(), 80, 24)
        display.finish(0, "finished")
    assert shown[:3] == ["before", "[job 0] decoding [1/2]", "[job 1] warning: is it?"]
    assert read_live(shown[3]) == ["job 0", "epoch  1/20", FIGURES, "ETA 0:57"]
    assert shown[-1].startswith(f"sweep  0 of {count} done  ETA")
    left = replay(console.file.getvalue(), 80, 24)
    assert [line for line in left if line] == ["before", "[job 0] decoding [1/2]", "[job 1] warning: is it?"]
    assert "run 1 of" not in console.file.getvalue()


def test_threads_may_report_while_the_lines_refresh(make_console):
    """A lock held while printing would end in a deadlock with the thread that refreshes the lines."""
    console = make_console(terminal=True)
    with Display([f"job {number}" for number in range(4)], 4) as display:
        display._live.refresh_per_second = display._live._refresh_thread.refresh_per_second = 1000

        def work(number):
            display.start(number)
            for epoch in range(1, 21):
                display.progress(number, event(epoch, seconds=epoch, ended=True))
                display.message(number, f"epoch {epoch}", logging.INFO)
                display._live.refresh()
            display.finish(number, "finished")

        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert not any(thread.is_alive() for thread in threads)
    assert sum(line.endswith("epoch 20") for line in replay(console.file.getvalue(), 80, 24)) == 4


@pytest.fixture
def pair(make_console):
    """A display of four jobs, two at a time, and its clock."""
    make_console(terminal=False)
    clock = Clock()
    return Display(["a", "b", "c", "d"], 2, clock), clock


def test_eta_is_unknown_before_the_first_step(pair):
    display, _ = pair
    assert display.eta_s() is None
    display.start(0)
    display.progress(0, event(1, seconds=5.0, metrics=None, best=None))
    assert display.eta_s() is None


def test_eta_counts_running_and_waiting_jobs(pair):
    display, clock = pair
    display.start(0)
    clock.now += 40
    display.progress(0, event(2, step=30, seconds=30.0, epochs=10))  # 20 s an epoch: 170 s left, 210 s in all.
    assert display.eta_s() == pytest.approx(2 * 210)
    display.start(1)  # Nothing known of its own yet: it takes what the other takes.
    assert display.eta_s() == pytest.approx(2 * 210)
    clock.now += 50  # Counted down between events.
    display.progress(1, event(1, step=30, seconds=50.0, epochs=4))  # 350 s left, 400 s in all.
    assert display.eta_s() == pytest.approx(350 + (210 + 400) / 2)
    clock.now += 10
    assert display.eta_s() == pytest.approx(340 + (210 + 400) / 2)


def test_eta_is_never_less_than_the_longest_running_job(pair):
    display, _ = pair
    for number in (2, 3):
        display.finish(number, "reused")
    for number, epochs in ((0, 2), (1, 100)):
        display.start(number)
        display.progress(number, event(1, seconds=10.0, ended=True, epochs=epochs))
    assert display.eta_s() == pytest.approx(990)


def test_eta_of_a_resumed_job_counts_its_own_epochs_and_a_whole_run_all_of_them(pair):
    display, clock = pair
    for number in (2, 3):
        display.finish(number, "reused")
    display.start(0, "resuming")
    clock.now += 10
    display.progress(0, event(16, ended=True, seconds=10.0, first=16))  # 4 epochs of 10 s are left.
    assert display.eta_s() == pytest.approx(200)


def test_eta_after_failures_and_finishes(pair):
    display, clock = pair
    display.start(0)
    clock.now += 100
    display.finish(0, "failed")
    assert display.eta_s() is None, "how long a run takes cannot be learned from one that failed"
    display.start(1)
    clock.now += 300
    display.finish(1, "finished")
    assert display.eta_s() == pytest.approx(300)
    display.start(2)
    clock.now += 50
    assert display.eta_s() == pytest.approx(300)
    for number in (2, 3):
        display.finish(number, "stopped")
    assert display.eta_s() == 0


def test_a_job_started_again_forgets_its_first_process(pair):
    display, clock = pair
    display.start(0)
    display.progress(0, event(1, ended=True, seconds=10.0))
    display.finish(0, "failed")
    clock.now += 5
    display.start(0, "again")
    assert display.eta_s() is None
