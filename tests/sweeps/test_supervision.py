"""A sweep's processes: checked before the first starts, one each, and none of them takes the sweep with it."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
import psutil
import pytest
from forked import Forked
from support import PROJECT, TINY, run_catdog, run_python, start_catdog

from catdog.sweeps.executors.local import list_preloaded, share_machine
from catdog.sweeps.launch import find_varying
from catdog.tracking.identity import list_training_modules


@contextmanager
def started(folder, cache, *arguments: str) -> Iterator[Forked]:
    """A training that runs in a process group of its own, as in a terminal."""
    process = start_catdog(folder, cache, "train", *arguments)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def read_until(process: Forked, text: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"{text!r} never came:\n{''.join(seen)}")


def client_of(folder) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")


def find_runs(folder, study: str) -> list:
    client = client_of(folder)
    return list(client.search_runs([client.get_experiment_by_name(study).experiment_id]))


def find_run(folder, study: str, name: str):
    return next(run for run in find_runs(folder, study) if run.info.run_name == name)


def statuses(folder, study: str) -> dict[str, str]:
    return {run.info.run_name: run.info.status for run in find_runs(folder, study)}


def find_job(process: Forked) -> psutil.Process:
    """The process that trains the sweep's only running job."""
    (server,) = (p for p in psutil.Process(process.pid).children() if "forkserver" in " ".join(p.cmdline()))
    (job,) = server.children()
    return job


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_whose_process_keeps_dying_is_failed_and_the_others_go_on(tmp_path, cache) -> None:
    with started(
        tmp_path, cache, "-m", "model=cnn", *TINY, "trainer.epochs=500,2", "study=killed", "hydra.launcher.retries=1"
    ) as process:
        read_until(process, "/500")
        find_job(process).kill()
        read_until(process, "starting it again from its last checkpoint, 1 of 1")
        read_until(process, "resumes after epoch")
        read_until(process, "/500")
        find_job(process).kill()
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "cnn epochs=500 failed: its process was ended by SIGKILL; out of memory?" in out
    assert statuses(tmp_path, "killed") == {
        "cnn epochs=500": "FAILED",
        "cnn epochs=2": "FINISHED",
        "sweep of 2": "FAILED",
    }
    run = find_run(tmp_path, "killed", "cnn epochs=500")
    assert run.data.tags["catdog.retries"] == "1"
    assert "SIGKILL" in run.data.tags["catdog.error"]
    steps = [point.step for point in client_of(tmp_path).get_metric_history(run.info.run_id, "val/loss")]
    assert steps == list(range(1, len(steps) + 1)), "no gap and no doubled step"


@pytest.mark.slow
def test_ctrl_c_closes_the_run_and_the_same_command_goes_on(tmp_path, cache) -> None:
    """What is left of an interrupted sweep is not promoted, so it gives no reason to look at test images."""
    command = ("-m", "model=cnn", *TINY, "trainer.epochs=1,25,2", "study=stopped")
    with started(tmp_path, cache, *command) as process:
        read_until(process, "/25")
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in out
    assert "not started" in out
    assert "Traceback" not in out
    assert "nothing was promoted: the sweep is incomplete, 1 of 3 runs finished" in out
    resume = f"python -m catdog.train {' '.join(command)}"
    assert out[out.index("Next:") :].split("\n")[:-1] == [f"Next: {resume}"]
    assert statuses(tmp_path, "stopped") == {
        "cnn epochs=1": "FINISHED",
        "cnn epochs=25": "KILLED",
        "sweep of 3": "KILLED",
    }
    assert client_of(tmp_path).search_registered_models() == []
    compared = run_catdog(tmp_path, cache, "compare", "study=stopped", "gradcam=never")
    assert "warning: 2 of 3 planned runs; 1 has not been trained. There is no verdict" in compared.out
    opened, *following = compared.out[compared.out.index("Next:") :].split("\n")[:-1]
    assert opened.endswith("in a browser")
    assert [line.strip() for line in following] == [resume]
    (page,) = (tmp_path / "comparisons").glob("*/comparison.html")
    assert page.read_text("utf-8").count("2 of 3 planned runs; 1 has not been trained") == 2
    found = json.loads(run_catdog(tmp_path, cache, "compare", "study=stopped", "gradcam=never", "format=json").out)
    assert (found["planned_runs"], found["untrained_runs"], found["next"]) == (3, 1, [resume])
    interrupted = find_run(tmp_path, "stopped", "cnn epochs=25")
    again = run_catdog(tmp_path, cache, "train", *command)
    assert again.code == 0, again.text
    assert re.search(r"cnn epochs=25 +resume +interrupted after epoch \d+ of 25", again.out)
    assert set(statuses(tmp_path, "stopped").items()) == {
        ("cnn epochs=1", "FINISHED"),
        ("cnn epochs=25", "FINISHED"),
        ("cnn epochs=2", "FINISHED"),
        ("sweep of 3", "FINISHED"),
    }
    assert "nothing was promoted" not in again.out
    assert client_of(tmp_path).get_model_version_by_alias("stopped", "champion")
    assert "catdog.evaluate study=stopped" in again.out[again.out.index("Next:") :]
    resumed = find_run(tmp_path, "stopped", "cnn epochs=25")
    assert resumed.info.run_id == interrupted.info.run_id
    assert resumed.data.tags["catdog.owner"] != interrupted.data.tags["catdog.owner"]
    assert list((tmp_path / "mlruns" / "outbox").iterdir()) == []


@pytest.mark.nightly
@pytest.mark.slow
def test_two_ctrl_c_stop_at_once_and_the_same_command_goes_on(tmp_path, cache) -> None:
    command = ("-m", "model=cnn", *TINY, "trainer.epochs=25", "study=twice")
    # A job that ignores the first one, as native code that hangs would.
    with started(tmp_path, cache, *command) as process:
        read_until(process, "/25")
        job = find_job(process)
        job.suspend()
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in out
    resume = f"error: interrupted. The same command resumes:\n  python -m catdog.train {' '.join(command)}"
    assert resume in out
    assert not job.is_running() or job.status() == psutil.STATUS_ZOMBIE
    assert run_catdog(tmp_path, cache, "train", *command).code == 0
    assert set(statuses(tmp_path, "twice").values()) == {"FINISHED"}


BAD_JOBS = """
import os, time
import catdog.training.run as module

real = module.train

def train(config, job, *rest):
    if job.name.endswith("seed=1"):
        import ctypes
        ctypes.string_at(0)
    if job.name.endswith("seed=2"):
        hoard = []
        while True:
            hoard.append(b"x" * 50_000_000)
            time.sleep(0.01)
    if job.name.endswith("seed=3"):
        import signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(10_000)
    if job.name.endswith("seed=4"):
        raise RuntimeError("seed 4 is unlucky")
    return real(config, job, *rest)

module.train = train
"""


@pytest.mark.slow
def test_jobs_that_crash_hoard_hang_and_raise_leave_the_others_alone(tmp_path, cache) -> None:
    """A segmentation fault, a memory limit, a timeout, an exception; two at a time, and the other two finish."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "bad_jobs.py").write_text(BAD_JOBS)
    # In the job's process alone, before it imports what it calls.
    (hooks / "sitecustomize.py").write_text(
        "import sys\n"
        "import importlib.abc, importlib.util\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name != 'catdog.training.run':\n"
        "            return None\n"
        "        sys.meta_path.remove(self)\n"
        "        spec = importlib.util.find_spec(name)\n"
        "        sys.meta_path.insert(0, self)\n"
        "        load = spec.loader.exec_module\n"
        "        def exec_module(module):\n"
        "            load(module)\n"
        "            import bad_jobs\n"
        "        spec.loader.exec_module = exec_module\n"
        "        return spec\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    done = run_catdog(
        tmp_path, cache, "train", "-m", "model=cnn", "seed=0,1,2,3,4,5", *TINY, "study=bad", "hydra.launcher.n_jobs=2",
        "hydra.launcher.memory_gb=2.5", "hydra.launcher.timeout_s=45", "hydra.launcher.retries=0",
        PYTHONPATH=f"{hooks}:{PROJECT}",
    )  # fmt: skip
    assert done.code == 1, done.text
    for words in (
        "cnn seed=1 failed: its process was ended by SIGSEGV",
        "cnn seed=3 failed: it took longer than hydra.launcher.timeout_s=45",
        "cnn seed=4 failed: RuntimeError: seed 4 is unlucky",
    ):
        assert words in done.out
    assert re.search(r"cnn seed=2 failed: its process used \d\.\d GB, more than hydra.launcher.memory_gb=2.5", done.out)
    assert "Segmentation fault" in done.err, "the crash is shown when it happens"
    assert 'raise RuntimeError("seed 4 is unlucky")' in done.err
    for seed in (0, 5):
        assert re.search(rf"^ +cnn seed={seed} +finished", done.out, re.M), done.out
    assert statuses(tmp_path, "bad")["sweep of 6"] == "FAILED"
    assert {statuses(tmp_path, "bad")[f"cnn seed={seed}"] for seed in (0, 5)} == {"FINISHED"}
    assert "RUNNING" not in statuses(tmp_path, "bad").values()


@pytest.mark.nightly
@pytest.mark.slow
def test_a_failed_run_may_stop_the_sweep(tmp_path, cache) -> None:
    done = run_catdog(
        tmp_path, cache, "train", "-m", "model=cnn", *TINY, "trainer.learning_rate=1e39,0.001", "study=strict",
        "hydra.launcher.on_error=stop",
    )  # fmt: skip
    assert done.code == 1
    assert re.search(r"learning_rate=0.001 +not started", done.out)
    assert "nothing was promoted: the sweep is incomplete, 0 of 2 runs finished" in done.out


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


def test_gpus_and_cpu_threads_are_divided(monkeypatch) -> None:
    monkeypatch.setattr("catdog.sweeps.executors.local.count_cpus", lambda: 8)
    assert share_machine(0, 1, [], "one") == ({}, None)
    assert [share_machine(slot, 3, ["0", "GPU-b"], "one") for slot in range(3)] == [
        ({"CUDA_VISIBLE_DEVICES": "0"}, 2), ({"CUDA_VISIBLE_DEVICES": "GPU-b"}, 2), ({"CUDA_VISIBLE_DEVICES": "0"}, 2),
    ]  # fmt: skip
    assert share_machine(0, 1, ["0", "1"], "all") == ({}, None)
    assert share_machine(15, 16, [], "one") == ({}, 1)


def test_jobs_have_the_variables_that_are_set_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook, the server that forks them may be older than CATDOG_CACHE."""
    for name in [name for name in os.environ if name.startswith(("CATDOG_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CATDOG_CACHE", "/elsewhere")
    assert share_machine(0, 2, ["0", "1"], "one")[0] == {"CATDOG_CACHE": "/elsewhere", "CUDA_VISIBLE_DEVICES": "0"}


def test_what_varies_between_jobs() -> None:
    jobs = [["model=cnn", "seed=0", "trainer.epochs=3"], ["model=augmented", "seed=0", "trainer.epochs=3"]]
    assert find_varying(jobs) == {"model"}
    assert find_varying([["model=cnn"]]) == set()


@pytest.mark.nightly
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


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_ends_with_the_sweep_that_leads_it(tmp_path, cache) -> None:
    with started(tmp_path, cache, "-m", "model=cnn", *TINY, "trainer.epochs=500,2", "study=orphan") as process:
        read_until(process, "/500")
        job = find_job(process)
        process.kill()
        _, alive = psutil.wait_procs([job], timeout=60)
        assert not alive
    assert statuses(tmp_path, "orphan")["cnn epochs=500"] == "KILLED"


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_has_one_owner(tmp_path, cache) -> None:
    """The same run, alone and in a sweep, while it is being trained: both refuse, and say who trains it."""
    arguments = ("model=cnn", *TINY, "trainer.epochs=500", "study=owned")
    with started(tmp_path, cache, *arguments) as process:
        read_until(process, "/500")
        single = run_catdog(tmp_path, cache, "train", *arguments)
        swept = run_catdog(tmp_path, cache, "train", "-m", *arguments)
        # With another outbox, as from another folder, MLflow tells who trains it.
        elsewhere = run_catdog(tmp_path, cache, "train", *arguments, f"tracking.outbox={tmp_path}/other")
        os.killpg(process.pid, signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert elsewhere.code == 2
    assert f"process {process.pid} on" in elsewhere.err
    assert single.code == 2
    assert f"process {process.pid} on" in single.err
    assert "trains it right now" in single.err
    assert swept.code == 1
    assert re.search(rf"cnn +busy +process {process.pid} on", swept.out)
    assert "nothing was promoted: the sweep is incomplete" in swept.out
    assert process.returncode == 130, "SIGTERM is Ctrl-C"
    assert f"interrupted. The same command resumes:\n  python -m catdog.train {' '.join(arguments)}" in out
    assert statuses(tmp_path, "owned")["cnn image_size=48 batch_size=16 epochs=500"] == "KILLED"


@pytest.mark.parametrize(
    ("option", "words"),
    [("n_jobs=0", "n_jobs: must be 1 or more"), ("timeout_s=-1", "timeout_s: must be more than 0"),
     ("retries=-1", "retries: must be 0 or more"), ("on_error=panic", "on_error: must be continue or stop"),
     ("memory_gb=0", "memory_gb: must be more than 0")],
)  # fmt: skip
def test_options_of_the_launcher_are_checked(catdog, option: str, words: str) -> None:
    done = catdog("train", "-m", f"hydra.launcher.{option}")
    assert done.code == 2
    assert f"hydra.launcher.{words}" in done.err
    assert "Traceback" not in done.err


def test_what_must_be_the_same_in_a_sweep(catdog) -> None:
    done = catdog("train", "-m", "study=a,b")
    assert done.code == 2
    assert "study: must be the same for all runs of a sweep" in done.err


def test_the_server_has_all_the_code_that_decides_a_result() -> None:
    """A file that is edited while a sweep runs changes none of its runs: their identity is of the code that was planned."""
    code = f"for name in {list_preloaded()!r}: __import__(name)\nimport sys\nprint(*sorted(sys.modules))"
    done = run_python(PROJECT, "-c", code)
    assert done.code == 0, done.err
    loaded = set(done.out.split())
    assert "catdog.training.run" in loaded
    assert set(list_training_modules()) <= loaded
