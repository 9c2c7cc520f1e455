"""A sweep's processes: checked before the first starts, one each, and none of them takes the sweep with it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
import psutil
import pytest
from support import OURS, PROJECT, TINY

from catdog.sweep import find_varying


@contextmanager
def started(folder, cache, *arguments: str) -> Iterator[subprocess.Popen]:
    """A command that runs in a process group of its own, as in a terminal."""
    env = {key: value for key, value in os.environ.items() if key not in OURS}
    env |= {"CATDOG_CACHE": str(cache), "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "catdog.train", *arguments], cwd=folder, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        # A shell starts background commands, and so perhaps these tests, with SIGINT ignored: a terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def read_until(process: subprocess.Popen, text: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"{text!r} never came:\n{''.join(seen)}")


def statuses(folder, study: str) -> dict[str, str]:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name(study)
    return {run.info.run_name: run.info.status for run in client.search_runs([experiment.experiment_id])}


@pytest.mark.slow
def test_a_killed_run_is_failed_and_the_others_go_on(tmp_path, cache) -> None:
    with started(tmp_path, cache, "-m", "model=cnn", *TINY, "trainer.epochs=500,2", "study=killed") as process:
        read_until(process, "/500")
        (server,) = (p for p in psutil.Process(process.pid).children() if "forkserver" in " ".join(p.cmdline()))
        (job,) = server.children()
        job.kill()
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "cnn epochs=500 failed: its process was ended by SIGKILL; out of memory?" in out
    assert statuses(tmp_path, "killed") == {
        "cnn epochs=500": "FAILED",
        "cnn epochs=2": "FINISHED",
        "sweep of 2": "FAILED",
    }


@pytest.mark.slow
def test_ctrl_c_closes_the_run_and_starts_no_other(tmp_path, cache) -> None:
    with started(tmp_path, cache, "-m", "model=cnn", *TINY, "trainer.epochs=500,2", "study=stopped") as process:
        read_until(process, "/500")
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in out
    assert "not started" in out
    assert "Traceback" not in out
    assert statuses(tmp_path, "stopped") == {"cnn epochs=500": "KILLED", "sweep of 2": "KILLED"}


@pytest.mark.slow
def test_a_run_that_cannot_be_built_stops_the_sweep_before_it_starts(tmp_path, cache) -> None:
    with started(
        tmp_path, cache, "-m", "model=cnn", *TINY, "+augmentation.layers.x={layer: RandomFlip},{layer: RandomFlop}"
    ) as p:
        out, _ = p.communicate(timeout=200)
    assert p.returncode == 2
    assert "augmentation.layers.x: Keras" in out
    assert "nothing was started" in out
    assert "Traceback" not in out
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    assert client.get_experiment_by_name("cats_vs_dogs") is None


def test_what_varies_between_jobs() -> None:
    jobs = [["model=cnn", "seed=0", "trainer.epochs=3"], ["model=augmented", "seed=0", "trainer.epochs=3"]]
    assert find_varying(jobs) == {"model"}
    assert find_varying([["model=cnn"]]) == set()


@pytest.mark.slow
def test_two_first_runs_at_once_share_a_new_store(tmp_path, cache) -> None:
    """In an empty folder: one database, made once; images drawn and decoded once; two runs, each with its own log."""
    with (
        started(tmp_path, cache, *TINY, "model=cnn", "seed=1", "study=two") as first,
        started(tmp_path, cache, *TINY, "model=cnn", "seed=2", "study=two") as second,
    ):
        outputs = [process.communicate(timeout=200)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert list(statuses(tmp_path, "two").values()) == ["FINISHED", "FINISHED"]
    assert len(list(tmp_path.glob("outputs/*/*/train.log"))) == 2


@pytest.mark.slow
def test_a_run_ends_with_the_sweep_that_leads_it(tmp_path, cache) -> None:
    with started(tmp_path, cache, "-m", "model=cnn", *TINY, "trainer.epochs=500,2", "study=orphan") as process:
        read_until(process, "/500")
        (server,) = (p for p in psutil.Process(process.pid).children() if "forkserver" in " ".join(p.cmdline()))
        (job,) = server.children()
        process.kill()
        _, alive = psutil.wait_procs([job], timeout=60)
        assert not alive
    assert statuses(tmp_path, "orphan")["cnn epochs=500"] == "KILLED"


def test_what_must_be_the_same_in_a_sweep(catdog) -> None:
    done = catdog("train", "-m", "study=a,b")
    assert done.code == 2
    assert "study: must be the same for all runs of a sweep" in done.err
