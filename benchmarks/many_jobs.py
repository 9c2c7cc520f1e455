"""A sweep of many runs on a simulated cluster: what the command that leads it costs, and what would stop it first.

python benchmarks/many_jobs.py [RUNS]   (1000; about ten minutes)

Composing, planning, submitting, watching and closing are catdog's own, with a real MLflow server on SQLite. Simulated is the
cluster: another process takes the orders from the outbox and reports, as jobs do, SLOTS of them at a time. Nothing is trained, and
no job records a run, so the store has the leader's requests only.
"""

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SLOTS = 200
EPOCHS, EPOCH_S = 20, 1.0
OPTIONS = ("model=cnn", "dataset=synthetic", "dataset.drawing.train_per_class=24", "dataset.drawing.validation_per_class=20",
           "preprocessing.image_size=48", f"trainer.epochs={EPOCHS}", "study=many", "promote.enabled=false")  # fmt: skip


def simulate_cluster(outbox: Path, runs: int) -> None:
    """Takes the orders that appear, and reports for each what a job would: its beginning, each epoch, an outcome."""
    from catdog.sweeps.executors.remote import JobFolder
    from catdog.training.outcome import Outcome

    waiting: list[Path] = []
    seen: set[Path] = set()
    training: dict[Path, tuple[float, int]] = {}
    done = 0
    while done < runs:
        for path in outbox.glob("jobs/*/job.json"):
            if path.parent not in seen:
                seen.add(path.parent)
                waiting.append(path.parent)
        while waiting and len(training) < SLOTS:
            place = waiting.pop(0)
            JobFolder.at(str(place)).mailbox.post(("began", {"host": "node", "job": "job", "pid": 1, "node": "node"}))
            training[place] = (time.monotonic(), 0)
        for place, (began, epoch) in list(training.items()):
            if time.monotonic() - began < EPOCH_S * (epoch + 1):
                continue
            epoch += 1
            mailbox = JobFolder.at(str(place)).mailbox
            metrics = {
                "train/accuracy": 0.7,
                "val/accuracy": 0.6,
                "train/loss": 0.6,
                "val/loss": 0.7,
                "images_per_second": 100.0,
                "gap/accuracy": 0.1,
            }
            mailbox.post(("progress", {
                "epoch": epoch, "epochs": EPOCHS, "step": 3, "steps": 3, "metrics": metrics, "best": 0.6, "epoch_ended": True,
                "seconds": epoch * EPOCH_S, "first_epoch": 1,
            }))  # fmt: skip
            training[place] = (began, epoch)
            if epoch == EPOCHS:
                mailbox.post(("outcome", Outcome("0" * 32, place.name, 1, 0.6, 0.7, 0.6, EPOCHS * EPOCH_S)))
                (place / "ended").touch()
                del training[place]
                done += 1
        time.sleep(0.05)


@dataclass
class Phase:
    """What one part of the command has cost."""

    name: str
    wall_s: float
    cpu_s: float
    requests: int
    memory_mb: float


class Meter:
    """Measures phases: time, CPU time of this process and its children, requests to the store, memory."""

    def __init__(self) -> None:
        import requests

        self.phases: list[Phase] = []
        self.requests = 0
        send = requests.Session.send

        def count(*args: Any, **kwargs: Any) -> Any:
            self.requests += 1
            return send(*args, **kwargs)

        requests.Session.send = count  # type: ignore[method-assign]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began, cpu, asked = time.monotonic(), time.process_time(), self.requests
        yield
        self.phases.append(Phase(
            name, time.monotonic() - began, time.process_time() - cpu, self.requests - asked,
            psutil.Process().memory_info().rss / 1e6,
        ))  # fmt: skip


def lead(outbox: Path, uri: str, runs: int) -> list[Phase]:
    """Leads the sweep; returns what each part of it has cost."""
    meter = Meter()
    from catdog.config.composition import compose_sweep
    from catdog.sweeps import launch
    from catdog.sweeps.display import Display
    from catdog.sweeps.executors.remote import ClusterExecutor, JobFolder, RemoteHandle
    from catdog.sweeps.jobs import Supervisor
    from catdog.sweeps.options import ClusterOptions

    class Handle(RemoteHandle):
        def ask_end(self) -> str | None:
            return "it has ended" if (self.folder.path / "ended").exists() else None

        def read_output(self) -> str:
            return ""

        def stop(self) -> None: ...

        def kill(self) -> None: ...

    class Executor(ClusterExecutor):
        def submit(self, task: Any) -> Handle:
            folder = self.folder_of(task.job.identity.digest)
            folder.prepare(task, 2)
            folder.save_record(id="1", words="job", run=task.job.name, study="many", uri=uri)
            return Handle(folder)

        def find_id(self, digest: str) -> str:
            return ""

        def describe(self, digest: str, job_id: str) -> str:
            return ""

        def build_handle(self, folder: JobFolder, job_id: str) -> Handle:
            return Handle(folder)

    options = ClusterOptions(n_jobs=runs)
    launch.build_remote = lambda *_: Executor(options, outbox)  # type: ignore[assignment]
    words = [*OPTIONS, f"seed=range(0,{runs})", f"tracking.uri={uri}", f"tracking.outbox={outbox}"]
    with meter.phase("compose"):
        composed, _ = compose_sweep(words)
    with meter.phase("plan"):
        planned = launch.plan_sweep(composed, options, words)
    run = Supervisor.run

    def measured(supervisor: Supervisor) -> None:
        started = threading.Event()
        start: Callable[[int], None] = supervisor._start

        def count(number: int) -> None:
            start(number)
            if number == runs - 1:
                started.set()

        supervisor._start = count  # type: ignore[method-assign]
        thread = threading.Thread(target=run, args=(supervisor,))
        with meter.phase("submit"):
            thread.start()
            started.wait()
        with meter.phase("watch"):
            thread.join()

    Supervisor.run = measured  # type: ignore[method-assign]
    began, cpu, asked = time.monotonic(), time.process_time(), meter.requests
    result = planned.run(Display)
    assert len(result.outcomes) == runs
    inside = meter.phases[-2:]
    meter.phases.append(Phase(
        "check, open, close", time.monotonic() - began - sum(each.wall_s for each in inside),
        time.process_time() - cpu - sum(each.cpu_s for each in inside),
        meter.requests - asked - sum(each.requests for each in inside), psutil.Process().memory_info().rss / 1e6,
    ))  # fmt: skip
    return meter.phases


def main(runs: int) -> None:
    """Runs the sweep, and prints the table."""
    import socket
    import urllib.request

    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        folder = Path(name)
        os.environ.setdefault("CATDOG_CACHE", str(folder / "cache"))
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        uri = f"http://127.0.0.1:{port}"
        with (folder / "server.log").open("wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri",
                 f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "artifacts")],
                cwd=folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        cluster = None
        try:
            for _ in range(300):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{uri}/health", timeout=1).close()
                    break
                time.sleep(0.2)
            outbox = folder / "outbox"
            cluster = subprocess.Popen([sys.executable, __file__, "cluster", str(outbox), str(runs)])
            phases = lead(outbox, uri, runs)
        finally:
            os.killpg(server.pid, 9)
            server.wait()
            if cluster:
                cluster.kill()
                cluster.wait()
    print(f"\n{runs} runs of {EPOCHS} epochs of {EPOCH_S:g} s, {SLOTS} at a time\n")
    print(
        "| part | wall s | CPU s of the leader | requests to the store | a second | memory MB |\n|---|---|---|---|---|---|"
    )
    for each in phases:
        rate = each.requests / max(each.wall_s, 1e-9)
        print(
            f"| {each.name} | {each.wall_s:.1f} | {each.cpu_s:.1f} | {each.requests} | {rate:.1f} | {each.memory_mb:.0f} |"
        )
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["cluster"]:
        simulate_cluster(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
