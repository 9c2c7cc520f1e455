"""Runs that another host works on: alive as long as they show it, and free a while after they do not."""

import json
import sys
import time
from dataclasses import asdict, replace

import mlflow
import pytest

from catdog.config.schema import TrackingConfig
from catdog.system.errors import UserError
from catdog.tracking import delivery
from catdog.tracking.delivery import DeliveryWorker
from catdog.tracking.outbox import entry_for
from catdog.tracking.ownership import Owner
from catdog.tracking.records import close_dead_runs
from catdog.tracking.store import check_store, open_study

ELSEWHERE = replace(Owner.current(), host="elsewhere", kernel="another kernel", leader_kernel="another kernel")
DAY_MS = 24 * 3600 * 1000


def start(client: mlflow.MlflowClient, age_ms: int, **tags: str) -> str:
    now_ms = int(time.time() * 1000)
    experiment = client.get_experiment_by_name("pets")
    assert experiment is not None
    tags = {"catdog.kind": "sweep", "catdog.owner": json.dumps(asdict(ELSEWHERE)), **tags}
    return str(client.create_run(experiment.experiment_id, start_time=now_ms - age_ms, tags=tags).info.run_id)


def test_a_live_sweep_of_days_is_left_alone_and_a_dead_hosts_run_is_free_soon(client) -> None:
    live = start(client, 3 * DAY_MS, **{"catdog.sign_of_life": f"{time.time() - 400:.0f}"})
    dead = start(client, 3600 * 1000, **{"catdog.sign_of_life": f"{time.time() - 1500:.0f}"})
    young = start(client, 60 * 1000, **{"catdog.sign_of_life": f"{time.time() - 60:.0f}"})
    # The clock of its host is five minutes ahead, or behind.
    start(client, 60 * 1000, **{"catdog.sign_of_life": f"{time.time() + 300:.0f}"})
    start(client, 60 * 1000, **{"catdog.sign_of_life": f"{time.time() - 600:.0f}"})
    former = start(client, 3600 * 1000)
    assert [run.run_id for run in close_dead_runs(client, "pets", [])] == [dead]
    assert {client.get_run(run_id).info.status for run_id in (live, young, former)} == {"RUNNING"}
    assert client.get_run(dead).info.status == "KILLED"


def test_a_run_shows_that_it_is_alive_although_it_records_nothing(client, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(delivery, "LIFE_EVERY_S", 0.0)
    run_id = start(client, 0)
    entry = entry_for(tmp_path / "outbox", str(client.tracking_uri), "pets", "run", "i").claim({"kind": "run"})
    entry.save_state(run_id=run_id)
    worker = DeliveryWorker(client, entry)
    deadline = time.monotonic() + 20
    while "catdog.sign_of_life" not in client.get_run(run_id).data.tags and time.monotonic() < deadline:
        time.sleep(0.1)
    worker.stop()
    entry.remove()
    assert time.time() - float(client.get_run(run_id).data.tags["catdog.sign_of_life"]) < 60


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("http://localhost:5000/", "http://127.0.0.1:5000"),
        ("HTTP://Server.Example:80", "http://server.example"),
        ("https://server.example:443/mlflow/", "https://server.example/mlflow"),
        ("http://[::1]:5000", "http://127.0.0.1:5000"),
        ("http://[fe80::1]:5000", "http://[fe80::1]:5000"),
        ("postgresql://me@server/db", "postgresql://me@server/db"),
        ("sqlite:///mlruns/mlflow.db", "sqlite:///mlruns/mlflow.db"),
    ],
)
def test_a_servers_address_has_one_spelling(typed, meant) -> None:
    assert TrackingConfig(typed).uri == meant


def test_two_spellings_of_a_databases_path_are_one_store(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative, absolute = "sqlite:///mlruns/mlflow.db", f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    entries = [entry_for(tmp_path, uri, "pets", "run", "i").folder for uri in (relative, absolute)]
    assert entries[0] == entries[1]


def test_artifacts_may_go_to_a_bucket(client) -> None:
    config = TrackingConfig(str(client.tracking_uri), artifacts="s3://bucket/catdog/")
    experiment = client.get_experiment(open_study(client, "big dogs", config))
    assert experiment.artifact_location == "s3://bucket/catdog/big%20dogs"


def test_a_bucket_without_boto3_is_refused_before_training(client, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    config = TrackingConfig(str(client.tracking_uri), artifacts="s3://bucket/catdog")
    with pytest.raises(UserError, match=r"tracking\.artifacts: 's3://bucket/catdog' needs boto3"):
        check_store(config)


@pytest.mark.parametrize("uri", ["http://me:secret@server:5000", "postgresql://me:secret@server/db"])
def test_a_password_in_an_address_is_refused_and_not_shown(uri) -> None:
    with pytest.raises(
        UserError, match=r"tracking\.uri: must not contain a password.* received .*me:\*\*\*@server"
    ) as found:
        TrackingConfig(uri)
    assert "secret" not in str(found.value)
