"""What a run on another host reports, and what the leader makes of how its job ended."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from catdog.config.schema import register
from catdog.sweeps.executors import remote
from catdog.sweeps.executors.executor import Task
from catdog.sweeps.executors.remote import JobFolder, Mailbox
from catdog.sweeps.executors.slurm import SlurmHandle
from catdog.sweeps.options import LauncherOptions, SlurmOptions, read_single_options, require_attached
from catdog.system.errors import UserError
from catdog.tracking import Job


def test_a_message_that_is_being_written_comes_with_the_next_look(tmp_path) -> None:
    whole = Mailbox(tmp_path / "whole")
    for number in range(3):
        whole.post(("log", number))
    content = whole.path.read_bytes()
    for cut in range(len(content) + 1):
        path = tmp_path / "messages"
        path.write_bytes(content[:cut])
        reader = Mailbox(path)
        early = reader.collect()
        path.write_bytes(content)
        assert [*early, *reader.collect()] == [("log", 0), ("log", 1), ("log", 2)]
        assert reader.collect() == []


def handle_of(folder: Path, state: str) -> SlurmHandle:
    return SlurmHandle(SimpleNamespace(ask=lambda _: (state, "node1", "None")), JobFolder(folder, "abc"), "12")


@pytest.mark.parametrize(
    ("state", "retry"),
    [
        ("NODE_FAIL", "free"),
        ("PREEMPTED", "free"),
        ("FAILED", "counted"),
        ("GONE", "counted"),
        ("CANCELLED", "never"),
        ("OUT_OF_MEMORY", "never"),
    ],
)
def test_a_job_that_somebody_cancelled_is_not_started_again(tmp_path, monkeypatch, state, retry) -> None:
    monkeypatch.setattr(remote, "GRACE_S", 0.0)
    handle = handle_of(tmp_path, state)
    hint = "" if retry == "never" else f" before it began: its host must see {handle.folder.path}, and have catdog"
    assert handle.poll() == f"SLURM job 12 ended as {state} on node1{hint}"
    assert handle.retry == retry


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING", ""])
def test_a_job_that_may_still_report_has_not_ended(tmp_path, state) -> None:
    assert handle_of(tmp_path, state).poll() is None


def test_a_result_is_waited_for_no_longer_than_its_job_takes_to_leave_the_queue(tmp_path, monkeypatch) -> None:
    folder = JobFolder(tmp_path, "abc")
    folder.path.mkdir(parents=True)
    folder.mailbox.post(("outcome", "a result"))
    handle = handle_of(tmp_path, "RUNNING")
    assert handle.receive() == [("outcome", "a result")]
    assert handle.poll() is None
    assert folder.path.exists()
    monkeypatch.setattr(remote, "LINGER_S", 0.0)
    assert handle.poll() == "it has ended"
    assert not folder.path.exists()


def test_an_order_does_not_depend_on_the_variables_of_its_host(tmp_path, monkeypatch) -> None:
    register()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///leader.db")
    monkeypatch.setenv("ODD", r"a \${b} ${c")
    monkeypatch.setenv("CATDOG_CACHE", "leader")
    composed = OmegaConf.create(
        {
            "tracking": {"uri": "${oc.env:MLFLOW_TRACKING_URI}"},
            "dataset": {"cache": "${catdog_cache:}", "of": [{"store": "${tracking.uri}"}, r"a \${b", None, "???"]},
            "odd": "${oc.env:ODD}",
            "number": "${oc.decode:${oc.env:NUMBER,3}}",
            "hydra": {"sweep": {"dir": "${oc.env:HERE}"}},
        }
    )
    OmegaConf.set_struct(composed, True)
    folder = JobFolder(tmp_path, "abc")
    folder.prepare(Task(composed, Job("cnn", "cnn", [], tmp_path), "auto"), None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///host.db")
    monkeypatch.setenv("ODD", "another")
    monkeypatch.setenv("NUMBER", "4")
    monkeypatch.setenv("HERE", "elsewhere")
    monkeypatch.setenv("CATDOG_CACHE", "host")
    order = pickle.loads((folder.path / "order").read_bytes())[0].composed
    assert order.tracking.uri == order.dataset.of[0].store == "sqlite:///leader.db"
    assert order.dataset.of[1] == "a ${b"
    assert order.odd == r"a \${b} ${c"
    assert order.number == 3
    # Each host has a cache of its own, and Hydra's own part names what only its process knows.
    assert order.dataset.cache == "host"
    assert order.hydra.sweep.dir == "elsewhere"
    assert composed.tracking.uri == "sqlite:///host.db"


def test_commands_that_go_by_results_do_not_leave_their_jobs() -> None:
    require_attached(LauncherOptions())
    require_attached(SlurmOptions())
    with pytest.raises(UserError, match=r"^hydra\.launcher\.detach: this command decides by the results"):
        require_attached(SlurmOptions(detach=True))


def test_one_run_on_a_cluster_is_a_sweep_of_one() -> None:
    with pytest.raises(UserError, match=r"^hydra/launcher=slurm: a launcher runs sweeps\. Add -m"):
        read_single_options(["hydra/launcher=slurm"])
