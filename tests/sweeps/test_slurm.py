"""Sweeps on a SLURM cluster of two nodes, each with a host name and process ids of its own."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from cluster_sweep import RUNS, ClusterSweep, await_until, require_equal, run_locally
from slurm_cluster import Cluster, missing, running_cluster
from torture import Torture, await_end, describe_store

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

ON_SLURM = (*RUNS, "hydra/launcher=slurm", "hydra.launcher.cpus=1")
WAIT_S = 25


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as started:
        yield started


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Torture:
    return run_locally(tmp_path_factory.mktemp("local"))


@pytest.fixture
def make_sweep(tmp_path: Path, cluster: Cluster) -> Iterator[Callable[..., ClusterSweep]]:
    made = []

    def make(*more: str) -> ClusterSweep:
        sweep = ClusterSweep(tmp_path / "sweep", tmp_path / "cache", [*ON_SLURM, *more])
        sweep.folder.mkdir()
        made.append(sweep)
        return sweep

    yield make
    cluster.call("scancel", "--user=root")
    for sweep in made:
        await_end(sweep.folder)


def job_ids(sweep: ClusterSweep) -> list[str]:
    return [line.split("SLURM job ")[1].split()[0] for line in sweep.terminal.splitlines() if "] SLURM job " in line]


def queue(cluster: Cluster) -> list[str]:
    return cluster.call("squeue", "--noheader", "--format=%i").split()


def write_deadly_sbatch(folder: Path) -> Path:
    """Writes a command sbatch that kills the leader as soon as SLURM has taken its second job; returns the folder of it."""
    place = folder / "bin"
    place.mkdir()
    script = place / "sbatch"
    count = place / "count"
    script.write_text(
        f'#!/bin/sh\n{shutil.which("sbatch")} "$@"\necho >> {count}\n[ "$(wc -l < {count})" -lt 2 ] || kill -KILL 0\n'
    )
    script.chmod(0o755)
    return place


def test_a_sweep_trains_on_two_nodes(cluster, make_sweep) -> None:
    sweep = make_sweep("trainer.epochs=1")
    sweep.finish(sweep.begin(cluster.environment))
    assert len({*job_ids(sweep)}) == 2, sweep.terminal
    assert "on node1" in sweep.terminal
    assert "on node2" in sweep.terminal
    assert [run["status"] for run in describe_store(sweep.folder)["run"]] == ["FINISHED"] * 2


@pytest.mark.nightly
def test_a_sweep_over_two_nodes_equals_one_of_this_machine_whatever_happens_to_leader_and_jobs(
    cluster, local, make_sweep, tmp_path
) -> None:
    """The leader is killed while its jobs wait, the same command adopts them, and one is put back while it trains.

    It dies in the moment when SLURM has taken the second job and submitit has not yet given it its pickle.
    """
    sweep = make_sweep(f"hydra.launcher.extra={{begin: now+{WAIT_S}}}")
    process = sweep.begin({**cluster.environment, "PATH": f"{write_deadly_sbatch(tmp_path)}:{os.environ['PATH']}"})
    assert process.wait(120) == -signal.SIGKILL, sweep.terminal
    before = queue(cluster)
    assert len(before) == 2
    again = sweep.begin(cluster.environment)
    sweep.await_words("waits for its turn")
    sweep.await_words("] epoch 2/4")
    name = next(line for line in sweep.terminal.splitlines() if "] epoch 2/4" in line).split("]")[0]
    job_id = next(line for line in sweep.terminal.splitlines() if line.startswith(f"{name}] SLURM job")).split()[-3]
    assert cluster.call("scontrol", "requeue", job_id) == ""
    sweep.finish(again)
    # No run was submitted twice.
    assert {*job_ids(sweep)} == {*before}, sweep.terminal
    assert sweep.terminal.count(f"SLURM job {job_id} on") == 2
    assert "on node1" in sweep.terminal
    assert "on node2" in sweep.terminal
    require_equal(local, sweep)


@pytest.mark.nightly
def test_a_node_that_dies_costs_an_epoch_at_most(cluster, local, make_sweep) -> None:
    sweep = make_sweep()
    process = sweep.begin(cluster.environment)
    sweep.await_words("on node2")
    sweep.await_words("] epoch 2/4", 2)
    cluster.kill_node("node2")
    try:
        sweep.finish(process)
    finally:
        cluster.start_node("node2")
    require_equal(local, sweep)
    assert "resumes after epoch" in sweep.terminal


@pytest.mark.nightly
def test_a_detached_sweep_is_finished_by_the_same_command(cluster, local, make_sweep) -> None:
    sweep = make_sweep("hydra.launcher.detach=true")
    process = sweep.begin(cluster.environment)
    assert process.wait(200) == 0, sweep.terminal
    assert "2 runs are in the queue. The same command shows how they stand, and finishes the sweep" in sweep.terminal
    client = mlflow.MlflowClient(f"sqlite:///{sweep.folder}/mlruns/mlflow.db")
    (study,) = [each for each in client.search_experiments() if each.name == "tortured"]
    (run,) = client.search_runs([study.experiment_id], "tags.`catdog.kind` = 'sweep'")
    assert run.info.status == "SCHEDULED"
    sweep.arguments.remove("hydra.launcher.detach=true")
    sweep.finish(sweep.begin(cluster.environment))
    require_equal(local, sweep)


@pytest.mark.nightly
def test_ctrl_c_stops_the_jobs_and_the_same_command_resumes(cluster, local, make_sweep) -> None:
    sweep = make_sweep()
    process = sweep.begin(cluster.environment)
    sweep.await_words("] epoch 2/4")
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130, sweep.terminal
    await_until(lambda: cluster.call("squeue", "-h").strip() == "", 60, lambda: cluster.call("squeue"))
    sweep.finish(sweep.begin(cluster.environment))
    require_equal(local, sweep)


@pytest.mark.nightly
def test_a_run_that_needs_too_much_memory_is_ended_and_says_so(cluster, make_sweep) -> None:
    sweep = make_sweep("hydra.launcher.memory_gb=0.2", "seed=0")
    process = sweep.begin(cluster.environment)
    assert process.wait(200) == 1, sweep.terminal
    assert "more than hydra.launcher.memory_gb=0.2" in sweep.terminal
    assert "Traceback" not in sweep.terminal


def test_what_slurm_refuses_is_said_and_nothing_is_left(cluster, make_sweep) -> None:
    sweep = make_sweep("hydra.launcher.partition=nosuch")
    process = sweep.begin(cluster.environment)
    assert process.wait(200) == 2, sweep.terminal
    assert "SLURM refuses the job of cnn seed=0: " in sweep.terminal
    assert "invalid partition" in sweep.terminal.lower()
    assert "Traceback" not in sweep.terminal
    assert cluster.call("squeue", "-h").strip() == ""
