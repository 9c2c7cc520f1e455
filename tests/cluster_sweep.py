"""Sweeps on clusters in tests: begun, waited for, and compared with the same sweep of one machine."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from support import OURS, PROJECT
from torture import SWEEP, Torture, await_end, describe_store, find_differences, find_leftovers, kill_group

RUNS = (*SWEEP, "model=cnn", "seed=0,1")
LEASE_S = "10"


class ClusterSweep(Torture):
    """A sweep of two runs on a cluster."""

    def begin(self, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
        """Types the command."""
        env = {key: value for key, value in os.environ.items() if key not in OURS} | dict(environment or {})
        env |= {
            "CATDOG_CACHE": str(self.cache),
            "PYTHONPATH": str(PROJECT),
            "TMPDIR": str(self.temporary),
            "CATDOG_LEASE_S": LEASE_S,
        }
        with (self.folder / "terminal.txt").open("ab") as output:
            return subprocess.Popen([sys.executable, "-m", "catdog.train", *self.arguments], cwd=self.folder, env=env,
                                    stdout=output, stderr=output, start_new_session=True)  # fmt: skip

    def await_words(self, words: str, count: int = 1, timeout_s: float = 300) -> None:
        """Waits until the terminal has shown some words so often."""
        await_until(
            lambda: self.terminal.count(words) >= count, timeout_s, lambda: f"{words!r} never came\n{self.terminal}"
        )

    def finish(self, process: "subprocess.Popen[bytes]", timeout_s: float = 400) -> None:
        """Waits for the end of the command, which must be good."""
        try:
            assert process.wait(timeout_s) == 0, self.terminal
        finally:
            kill_group(process)


def await_until(is_so: Callable[[], bool], timeout_s: float, explain: Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.3)


def run_locally(folder: Path) -> Torture:
    """Trains the same sweep on this machine alone, with as many threads for each run."""
    done = Torture(folder / "sweep", folder / "cache", [*RUNS, "hydra.launcher.n_jobs=2"])
    done.folder.mkdir()
    assert done.run() == 0, done.terminal
    return done


def require_equal(local: Torture, sweep: ClusterSweep) -> None:
    """Compares metrics, weights, answers and the registry, bit for bit; nothing is left open or lying about."""
    differences = [*find_differences(describe_store(local.folder), describe_store(sweep.folder))]
    assert not differences, "\n".join([*differences, sweep.terminal])
    await_end(sweep.folder)
    # The folder for temporary files of a process that was killed with its node goes with a later command there.
    assert [left for left in find_leftovers(sweep) if "/catdog-" not in left] == []
