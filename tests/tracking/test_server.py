"""A tracking server that goes away: training neither stops nor waits, and nothing is lost or doubled; many writers at once."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from forked import Forked
from support import PROJECT, TINY, run_catdog, start_catdog, start_python

pytestmark = pytest.mark.slow
# Where CI has minutes; `make torture` keeps the server away for sixty.
AWAY_S = float(os.environ.get("CATDOG_TEST_AWAY_S", "5"))


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A real `mlflow server` on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = find_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        with (self.folder / "server.txt").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1",
                 "--backend-store-uri", f"sqlite:///{self.folder}/server.db",
                 "--artifacts-destination", str(self.folder / "artifacts")],
                cwd=self.folder, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1)
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.txt").read_text())

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def read_until(process: Forked, text: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError("".join(lines))


def check_whole(uri: str, study: str, epochs: int) -> None:
    """Every run of the study is finished and has each epoch once, its artifacts and its model."""
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name(study).experiment_id])
    for run in runs:
        assert run.info.status == "FINISHED", run.info.run_name
        if run.data.tags["catdog.kind"] == "sweep":
            continue
        for key in ("train/loss", "val/accuracy", "epoch_seconds"):
            steps = [point.step for point in client.get_metric_history(run.info.run_id, key)]
            assert steps == list(range(1, epochs + 1)), (run.info.run_name, key)
        names = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert names >= {"config", "figures", "history.csv", "log", "predictions", "split.csv"}
        assert client.get_logged_model(run.data.tags["catdog.model_uri"].removeprefix("models:/")).status == "READY"
        assert len(run.outputs.model_outputs) == 1


@pytest.mark.nightly
def test_a_server_that_stops_and_comes_back_misses_nothing(tmp_path, cache) -> None:
    epochs = 60
    with served(tmp_path) as server:
        arguments = ["-m", "model=cnn", "seed=0,1", *TINY, f"trainer.epochs={epochs}", "tracking=server",
                     f"tracking.uri={server.uri}", "tracking.wait_s=120", "study=served"]  # fmt: skip
        training = start_catdog(tmp_path, cache, "train", *arguments)
        read_until(training, f"2/{epochs}")
        server.stop()
        began = time.monotonic()
        # It trains on while nobody listens.
        read_until(training, f"{epochs}/{epochs}")
        read_until(training, "run 2 of 2")
        time.sleep(max(0.0, AWAY_S - (time.monotonic() - began)))
        server.start()
        out, _ = training.communicate(timeout=240)
        assert training.returncode == 0, out
        check_whole(server.uri, "served", epochs)
        assert list((tmp_path / "mlruns" / "outbox").iterdir()) == []
        client = mlflow.MlflowClient(server.uri, registry_uri=server.uri)
        assert len(client.search_model_versions("name='served'")) == 1


@pytest.mark.nightly
def test_a_server_that_never_comes_back_is_delivered_to_later(tmp_path, cache) -> None:
    epochs = 30
    with served(tmp_path) as server:
        arguments = [*TINY, f"trainer.epochs={epochs}", "model=cnn", "tracking=server", f"tracking.uri={server.uri}",
                     "tracking.wait_s=1", "study=later"]  # fmt: skip
        training = start_catdog(tmp_path, cache, "train", *arguments)
        read_until(training, f"2/{epochs}")
        server.stop()
        out, _ = training.communicate(timeout=120)
        assert training.returncode == 1
        assert "Nothing is lost" in out
        assert f"python -m catdog.deliver tracking.uri={server.uri}" in out
        assert "Traceback" not in out
        nobody = run_catdog(tmp_path, cache, "deliver", "tracking=server", f"tracking.uri={server.uri}")
        assert nobody.code == 2
        assert "no MLflow server answers" in nobody.err
        server.start()
        delivered = run_catdog(tmp_path, cache, "deliver", "tracking=server", f"tracking.uri={server.uri}")
        assert delivered.code == 0, delivered.text
        assert "delivered 1 run" in delivered.out
        check_whole(server.uri, "later", epochs)
        client = mlflow.MlflowClient(server.uri, registry_uri=server.uri)
        assert client.get_model_version_by_alias("later", "champion").version == "1"
        again = run_catdog(tmp_path, cache, "deliver", "tracking=server", f"tracking.uri={server.uri}")
        assert "nothing to deliver" in again.out


WRITER = """
import sys, time
from pathlib import Path
import mlflow
from catdog.tracking.delivery import deliver_all
from catdog.tracking.outbox import entry_for
folder, number = Path(sys.argv[1]), sys.argv[2]
uri = f"sqlite:///{folder}/mlflow.db"
tracking = {"uri": uri, "artifacts": str(folder / "artifacts"), "system_metrics": False, "outbox": "s", "wait_s": 1.0}
client = mlflow.MlflowClient(uri, registry_uri=uri)
entry = entry_for(folder / "outbox", uri, "many", "run", number)
entry.claim({"kind": "run", "name": f"writer {number}", "study": "many", "tracking": tracking, "identity": number})
entry.append("create", name=f"writer {number}", tags={"catdog.kind": "run"}, sweep_id=None, time_ms=1)
for epoch in range(1, 41):
    entry.append_metrics({"a": epoch, "b": epoch / 2}, step=epoch)
    if epoch % 10 == 0:
        entry.append_file(b"text", f"files/{epoch}.txt")
entry.append("status", status="FINISHED", time_ms=2)
assert deliver_all(client, entry, 120)
entry.remove()
"""


@pytest.mark.nightly
def test_eight_processes_write_to_one_sqlite_store(tmp_path) -> None:
    mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_experiments()
    writers = [
        start_python(PROJECT, "-c", WRITER, str(tmp_path), str(number), PYTHONPATH=str(PROJECT)) for number in range(8)
    ]
    errors = [writer.communicate(timeout=300)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 8, errors
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("many").experiment_id])
    assert sorted(run.info.run_name for run in runs) == [f"writer {number}" for number in range(8)]
    for run in runs:
        for key in ("a", "b"):
            assert [point.step for point in client.get_metric_history(run.info.run_id, key)] == list(range(1, 41))
        assert len(client.list_artifacts(run.info.run_id, "files")) == 4


@pytest.mark.nightly
def test_eight_sweeps_share_one_sqlite_store(tmp_path, cache) -> None:
    """Two here, eight with CATDOG_TEST_SWEEPS=8: each trains, one database takes all."""
    count = int(os.environ.get("CATDOG_TEST_SWEEPS", "2"))
    sweeps = [
        start_catdog(tmp_path, cache, "train", "-m", "model=cnn", f"seed={number}", *TINY, "study=together")
        for number in range(count)
    ]
    outputs = [sweep.communicate(timeout=600)[0] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0] * count, outputs
    assert not any(re.search("locked|Traceback|error", output) for output in outputs), outputs
    check_whole(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "together", 2)
