"""Sweeps on a Ray cluster of two nodes."""

import os
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import mlflow
import psutil
import pytest
from cluster_sweep import RUNS, ClusterSweep, require_equal, run_locally
from ray_cluster import RayCluster, running_cluster
from torture import Torture, await_end, describe_store, kill_group

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'catdog[ray]'"),
]

ON_RAY = (*RUNS, "hydra/launcher=ray", "hydra.launcher.cpus=1")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with running_cluster() as started:
        yield started


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Torture:
    return run_locally(tmp_path_factory.mktemp("local"))


@pytest.fixture
def make_sweep(tmp_path: Path, cluster) -> Iterator[Callable[..., ClusterSweep]]:
    made: list[ClusterSweep] = []

    def make(*more: str) -> ClusterSweep:
        arguments = [*ON_RAY, f"hydra.launcher.address={cluster.address}", *more]
        sweep = ClusterSweep(tmp_path / "sweep", tmp_path / "cache", arguments)
        sweep.folder.mkdir()
        made.append(sweep)
        return sweep

    yield make
    for sweep in made:
        await_end(sweep.folder)


def actors(sweep: ClusterSweep) -> set[str]:
    return {line.split("Ray actor ")[1].split()[0] for line in sweep.terminal.splitlines() if "] Ray actor " in line}


def test_a_sweep_trains_on_the_cluster(make_sweep) -> None:
    sweep = make_sweep("trainer.epochs=1", "seed=0")
    sweep.finish(sweep.begin())
    assert sweep.terminal.count("Ray actor ") == 1
    assert [run["status"] for run in describe_store(sweep.folder)["run"]] == ["FINISHED"]


@pytest.mark.nightly
def test_a_sweep_equals_one_of_this_machine_although_its_leader_is_killed(cluster, local, make_sweep) -> None:
    # One trains, and the other waits for its turn.
    sweep = make_sweep("hydra.launcher.resources={turn: 1}")
    process = sweep.begin()
    try:
        sweep.await_words("] Ray actor")
        os.killpg(process.pid, signal.SIGKILL)
    finally:
        kill_group(process)
        process.wait()
    before = actors(sweep)
    again = sweep.begin()
    sweep.await_words(" waits for its turn")
    sweep.finish(again)
    # No run was started twice.
    assert before
    assert before <= actors(sweep)
    assert len(actors(sweep)) == 2, sweep.terminal
    require_equal(local, sweep)


@pytest.mark.nightly
def test_a_node_that_is_lost_costs_an_epoch_at_most(cluster, local, make_sweep) -> None:
    lost = cluster.add_node({"spot": 1})
    sweep = make_sweep("hydra.launcher.resources={spot: 1}", "hydra.launcher.retries=0")
    process = sweep.begin()
    try:
        sweep.await_words("] epoch 1/4")
        cluster.lose_node(lost)
        cluster.add_node({"spot": 1})
    finally:
        sweep.finish(process)
    require_equal(local, sweep)
    assert "resumes after epoch" in sweep.terminal


@pytest.mark.nightly
def test_a_detached_sweep_is_finished_by_the_same_command(cluster, local, make_sweep) -> None:
    sweep = make_sweep("hydra.launcher.detach=true")
    assert sweep.begin().wait(200) == 0, sweep.terminal
    assert "2 runs are in the queue. The same command shows how they stand, and finishes the sweep" in sweep.terminal
    client = mlflow.MlflowClient(f"sqlite:///{sweep.folder}/mlruns/mlflow.db")
    (study,) = [each for each in client.search_experiments() if each.name == "tortured"]
    (run,) = client.search_runs([study.experiment_id], "tags.`catdog.kind` = 'sweep'")
    assert run.info.status == "SCHEDULED"
    sweep.arguments.remove("hydra.launcher.detach=true")
    sweep.finish(sweep.begin())
    require_equal(local, sweep)


@pytest.mark.nightly
def test_ctrl_c_stops_the_runs_and_the_same_command_resumes(cluster, local, make_sweep) -> None:
    sweep = make_sweep()
    process = sweep.begin()
    sweep.await_words("] epoch 1/4")
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130, sweep.terminal
    sweep.finish(sweep.begin())
    require_equal(local, sweep)


@pytest.mark.nightly
def test_a_process_that_dies_is_started_again_as_often_as_retries_says(cluster, local, make_sweep) -> None:
    sweep = make_sweep("hydra.launcher.resources={turn: 1}")
    process = sweep.begin()
    try:
        sweep.await_words("] epoch 1/4")
        for each in psutil.process_iter(["name"]):
            if each.info["name"].startswith("ray::cnn_seed=0"):
                each.kill()
        sweep.await_words("its process died; it was killed, had no memory, or crashed")
    finally:
        sweep.finish(process)
    assert ": starting it again from its last checkpoint, 1 of 1" in sweep.terminal
    require_equal(local, sweep)


@pytest.mark.nightly
def test_a_run_that_needs_too_much_memory_is_ended_and_says_so(make_sweep) -> None:
    sweep = make_sweep("hydra.launcher.memory_gb=0.2", "seed=0")
    process = sweep.begin()
    assert process.wait(200) == 1, sweep.terminal
    assert "more than hydra.launcher.memory_gb=0.2" in sweep.terminal
    assert "Traceback" not in sweep.terminal


def test_without_a_cluster_one_message_says_what_to_do(tmp_path) -> None:
    sweep = ClusterSweep(tmp_path / "sweep", tmp_path / "cache", [*ON_RAY, "hydra.launcher.address=127.0.0.1:1"])
    sweep.folder.mkdir()
    process = sweep.begin()
    assert process.wait(200) == 2, sweep.terminal
    assert "hydra.launcher.address: no Ray cluster answers at '127.0.0.1:1'" in sweep.terminal
    assert "Traceback" not in sweep.terminal
