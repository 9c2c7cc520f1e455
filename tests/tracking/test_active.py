"""Who works on what: running, paused, queued, silent and gone runs, of any host."""

import json
import time
from dataclasses import asdict, replace

import mlflow

from catdog.tracking.active import list_active
from catdog.tracking.outbox import entry_for
from catdog.tracking.ownership import Owner

ELSEWHERE = replace(Owner.current(), host="node7", kernel="another", leader_kernel="another", job="SLURM job 12")
GONE = replace(Owner.current(), pid=2**22 - 1, started=1.0)


def start(client: mlflow.MlflowClient, name: str, owner: Owner, silent_s: float = 0.0, status: str = "RUNNING") -> str:
    now = time.time()
    tags = {
        "catdog.kind": "run",
        "catdog.owner": json.dumps(asdict(owner)),
        "catdog.sign_of_life": f"{now - silent_s:.0f}",
    }
    begun_ms = int((now - silent_s - 60) * 1000)
    run_id = str(client.create_run("1", start_time=begun_ms, tags=tags, run_name=name).info.run_id)
    client.log_param(run_id, "trainer.epochs", "20")
    client.log_metric(run_id, "train/loss", 0.5, timestamp=begun_ms, step=7)
    client.update_run(run_id, status=status)
    return run_id


def test_it_says_who_trains_what(client, tmp_path) -> None:
    uri = str(client.tracking_uri)
    start(client, "far", ELSEWHERE)
    start(client, "lost", ELSEWHERE, silent_s=7200)
    start(client, "crashed", GONE)
    start(client, "paused", GONE, status="SCHEDULED")
    start(client, "ended", GONE, status="FINISHED")
    here = entry_for(tmp_path / "outbox", uri, "pets", "run", "a").claim(
        {"kind": "run", "name": "here", "study": "pets", "tracking": {"uri": uri}}
    )
    queued = tmp_path / "outbox" / "jobs" / "abc"
    queued.mkdir(parents=True)
    (queued / "job.json").write_text(json.dumps({"words": "SLURM job 13", "run": "later", "study": "pets", "uri": uri}))
    found = {run.name: run for run in list_active(client, tmp_path / "outbox", uri)}
    assert {name: run.state for name, run in found.items()} == {
        "far": "running", "lost": "silent", "crashed": "gone", "paused": "paused", "here": "running", "later": "queued",
    }  # fmt: skip
    assert found["far"].who == f"process {ELSEWHERE.pid} on node7 (SLURM job 12)"
    assert (found["far"].epoch, found["far"].epochs) == (7, 20)
    assert found["here"].who == str(Owner.current())
    assert found["later"].who == "SLURM job 13"
    assert list_active(client, tmp_path / "outbox", uri, "flowers") == []
    (queued / "messages").touch()
    here.remove()
    assert "later" not in {run.name for run in list_active(client, tmp_path / "outbox", uri)}


def test_a_run_whose_lease_has_another_holder_is_running_whatever_its_tags_say(client, tmp_path) -> None:
    """It was taken over, and MLflow does not know that yet."""
    uri = str(client.tracking_uri)
    run_id = start(client, "moved", ELSEWHERE, silent_s=7200)
    entry = entry_for(tmp_path / "outbox", uri, "pets", "run", "a").claim(
        {"kind": "run", "name": "moved", "study": "pets", "tracking": {"uri": uri}}
    )
    entry.save_state(run_id=run_id)
    (found,) = list_active(client, tmp_path / "outbox", uri, "pets")
    assert (found.state, found.who) == ("running", str(Owner.current()))
    assert found.last_heard is not None
    assert time.time() - found.last_heard < 60
    entry.release()
    (found,) = list_active(client, tmp_path / "outbox", uri, "pets")
    assert found.state == "gone"
    entry.claim().remove()


def test_the_command_shows_a_table(catdog) -> None:
    done = catdog("status")
    assert done.code == 0, done.text
    assert "no run is being trained" in done.out
    done = catdog("status", "format=json")
    assert json.loads(done.out)["runs"] == []
    assert catdog("status", "format=xml").code == 2
