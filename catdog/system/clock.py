"""Where a run's time goes: wall and CPU seconds by stage."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


class Clock:
    """Measures how much time this process spends in each stage. Stages follow one another, in the main thread.

    The CPU seconds of a stage are those of all threads of the process, except what another thread charges to a stage of its own.

    Args:
        stage: the first stage. The CPU seconds that the process has used so far are charged to it.
    """

    def __init__(self, stage: str) -> None:
        self._spent: dict[str, list[float]] = {}
        self._lock = threading.Lock()
        self._stage = self._before = stage
        self._wall, self._cpu = time.perf_counter(), 0.0

    def enter(self, stage: str) -> str:
        """Begins a stage, ends the previous one and returns the previous one's name."""
        with self._lock:
            self._settle()
            self._before, self._stage = self._stage, stage
            return self._before

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Enters a stage for the duration of the block, then returns to the previous one."""
        before = self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    def charge(self, stage: str, cpu_s: float) -> None:
        """Charges CPU seconds that another thread has just spent to a stage, and subtracts them from the current stage."""
        with self._lock:
            self._settle()
            self._at(stage)[1] += cpu_s
            # The thread may have started in the previous stage. No stage may fall below 0 seconds.
            for name in (self._stage, self._before):
                taken = min(cpu_s, max(self._at(name)[1], 0.0))
                self._at(name)[1] -= taken
                cpu_s -= taken
            self._at(self._stage)[1] -= cpu_s

    @contextmanager
    def threaded(self, stage: str) -> Iterator[None]:
        """Charges the CPU seconds of the block to a stage. The block must run in a thread other than the main one."""
        started = time.thread_time()
        try:
            yield
        finally:
            self.charge(stage, time.thread_time() - started)

    def add_earlier(self, earlier: Mapping[str, Sequence[float]]) -> None:
        """Adds the seconds that an earlier process of the same run spent."""
        with self._lock:
            for name, (wall_s, cpu_s) in earlier.items():
                self._at(name)[0] += wall_s
                self._at(name)[1] += cpu_s

    @property
    def spent(self) -> dict[str, list[float]]:
        """Wall and CPU seconds until now by stage, in the order in which stages first began."""
        with self._lock:
            self._settle()
            return {name: [*seconds] for name, seconds in self._spent.items()}

    @property
    def totals(self) -> tuple[float, float]:
        """Wall and CPU seconds of all stages."""
        spent = self.spent.values()
        return sum(wall for wall, _ in spent), sum(cpu for _, cpu in spent)

    def _at(self, stage: str) -> list[float]:
        return self._spent.setdefault(stage, [0.0, 0.0])

    def _settle(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        seconds = self._at(self._stage)
        seconds[0] += wall - self._wall
        seconds[1] += cpu - self._cpu
        self._wall, self._cpu = wall, cpu


def describe(spent: Mapping[str, Sequence[float]]) -> str:
    """Returns a text such as "86 s of CPU time: training 81%, validation 9%, other 10%". Stages below 2% count as other."""
    total = sum(cpu for _, cpu in spent.values()) or 1.0
    shares = sorted(((cpu / total, name) for name, (_, cpu) in spent.items()), reverse=True)
    shown = [(share, name) for share, name in shares if share >= 0.02]
    other = 1 - sum(share for share, _ in shown)
    words = [f"{name} {share:.0%}" for share, name in shown] + ([f"other {other:.0%}"] if other >= 0.005 else [])
    return f"{total:.0f} s of CPU time: " + ", ".join(words)
