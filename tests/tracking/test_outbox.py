"""The outbox: what is journaled survives a crash, is delivered in order and once, and belongs to one process."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from support import PROJECT

from catdog.config import schema
from catdog.system.errors import UserError
from catdog.tracking.delivery import DeliveryWorker, RefusedError, deliver_all, deliver_next
from catdog.tracking.outbox import Entry, entry_for, list_entries
from catdog.tracking.ownership import BusyError, Owner
from catdog.tracking.settlement import discard_entries_of, settle, settle_entries


def facts(uri: str, name: str = "a run") -> dict:
    tracking = {"uri": uri, "artifacts": None, "system_metrics": False, "outbox": "outbox", "wait_s": 1.0}
    return {"kind": "run", "name": name, "study": "spooled", "tracking": tracking, "identity": "i"}


@pytest.fixture
def uri(tmp_path: Path, empty_store: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return uri


@pytest.fixture
def client(uri: str, tmp_path: Path) -> mlflow.MlflowClient:
    client = mlflow.MlflowClient(uri, registry_uri=uri)
    client.create_experiment("spooled", artifact_location=(tmp_path / "artifacts").as_uri())
    return client


@pytest.fixture
def entry(tmp_path: Path, uri: str) -> Iterator[Entry]:
    entry = entry_for(tmp_path / "outbox", uri, "spooled", "run", "i").claim(facts(uri))
    yield entry
    entry.release()


def journal(entry: Entry) -> None:
    entry.append("create", name="a run", tags={"catdog.kind": "run"}, sweep_id=None, time_ms=1000)
    entry.append("params", values={"a": "1"})
    for epoch in (1, 2):
        entry.append_metrics({"val/loss": 1 / epoch, "val/accuracy": epoch / 3}, step=epoch)
    entry.append_file("größer".encode(), "folder/text.txt")
    entry.append("tags", values={"b": "2"})
    entry.append("status", status="FINISHED", time_ms=2000)


def read_run(client: mlflow.MlflowClient) -> dict:
    (run,) = client.search_runs([client.get_experiment_by_name("spooled").experiment_id])
    return {
        "status": run.info.status,
        "points": {key: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, key)]
                   for key in run.data.metrics},
        "params": run.data.params,
        "b": run.data.tags.get("b"),
        "text": mlflow.artifacts.load_text(f"{run.info.artifact_uri}/folder/text.txt"),
    }  # fmt: skip


WHOLE = {
    "status": "FINISHED",
    "points": {"val/loss": [(1, 1.0), (2, 0.5)], "val/accuracy": [(1, 1 / 3), (2, 2 / 3)]},
    "params": {"a": "1"},
    "b": "2",
    "text": "größer",
}


def test_what_is_journaled_arrives(entry, client) -> None:
    journal(entry)
    assert deliver_all(client, entry, patience_s=5)
    assert read_run(client) == WHOLE
    assert list((entry.folder / "files").iterdir()) == []


def test_what_an_older_catdog_journaled_arrives_under_todays_names(entry, client) -> None:
    entry.append("create", name="a run", tags={"catdog.kind": "run"}, sweep_id=None, time_ms=1000)
    entry.append_metrics({"best/val_accuracy": 0.75, "own/score": 3}, step=0)
    entry.append("status", status="FINISHED", time_ms=2000)
    assert deliver_all(client, entry, patience_s=5)
    assert client.get_run(entry.state["run_id"]).data.metrics == {"best_val_accuracy": 0.75, "own/score": 3}


def test_every_operation_may_be_delivered_twice(entry, client) -> None:
    """The process died between delivering and noting it."""
    journal(entry)
    for count in range(len(entry.operations)):
        before = {**entry.state}
        operation = entry.operations[count]
        kept = entry.folder / "files" / operation.get("folder", "none")
        copies = {path.name: path.read_bytes() for path in kept.iterdir()} if kept.is_dir() else {}
        assert deliver_next(client, entry)
        entry.save_state(**before)
        for name, content in copies.items():
            kept.mkdir(exist_ok=True)
            (kept / name).write_bytes(content)
        assert deliver_next(client, entry)
    assert not deliver_next(client, entry)
    assert read_run(client) == WHOLE


def test_what_a_kill_left_of_a_copy_in_the_store_goes(entry, client) -> None:
    journal(entry)
    for _ in range(2):
        deliver_next(client, entry)
    root = Path(client.get_run(entry.state["run_id"]).info.artifact_uri.removeprefix("file://"))
    partial = root / "folder" / ".artifact.uploading.abc"
    partial.parent.mkdir(parents=True)
    partial.write_text("grö")
    assert deliver_all(client, entry, patience_s=20)
    assert [path.name for path in partial.parent.iterdir()] == ["text.txt"]


def test_a_journal_cut_anywhere_keeps_its_whole_operations(entry) -> None:
    journal(entry)
    entry.release()
    path = entry.folder / "journal"
    content = path.read_bytes()
    ends = [number + 1 for number, byte in enumerate(content) if byte == ord("\n")]
    rng = random.Random(0)
    for cut in [0, 1, *rng.sample(range(len(content)), 40), len(content)]:
        path.write_bytes(content[:cut])
        again = Entry(entry.folder).claim()
        assert len(again.operations) == sum(end <= cut for end in ends)
        again.append("tags", values={"after": "the cut"})
        again.release()
        assert Entry(entry.folder).read_journal().operations[-1]["values"] == {"after": "the cut"}


def test_a_damaged_line_ends_the_journal(entry) -> None:
    journal(entry)
    entry.release()
    path = entry.folder / "journal"
    content = bytearray(path.read_bytes())
    content[content.index(b"params") + 1] ^= 1
    path.write_bytes(content)
    assert [item["op"] for item in Entry(entry.folder).read_journal().operations] == ["create"]


def test_a_resumed_run_doubles_no_step(entry, client) -> None:
    journal(entry)
    entry.release()
    again = Entry(entry.folder).claim()
    again.append_metrics({"val/loss": 0.5, "val/accuracy": 2 / 3}, step=2)
    again.append_metrics({"val/loss": 0.25}, step=3)
    assert deliver_all(client, again, patience_s=5)
    assert read_run(client)["points"]["val/loss"] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    again.release()


def test_an_entry_has_one_owner(entry) -> None:
    with pytest.raises(BusyError, match=f"process {os.getpid()} on "):
        Entry(entry.folder).claim()
    entry.release()
    Entry(entry.folder).claim().remove()
    assert not entry.folder.exists()


HOLD = """
import sys, time
from pathlib import Path
from catdog.tracking.outbox import Entry
Entry(Path(sys.argv[1])).claim()
print("claimed", flush=True)
time.sleep(1000)
"""


def test_a_killed_owner_is_dead(entry) -> None:
    entry.release()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(entry.folder)], stdout=subprocess.PIPE, text=True,
                              cwd=PROJECT)  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "claimed\n"
    other = Entry(entry.folder)
    assert other.find_living_owner().pid == holder.pid
    with pytest.raises(BusyError):
        other.claim()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert other.find_living_owner() is None
    assert other.claim().read_owner().pid == os.getpid()
    other.release()


def test_an_owner_on_another_host_lives_as_long_as_its_heart_beats(entry) -> None:
    entry.release()
    owner = entry.folder / "lease-7"
    owner.write_text(
        json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0, "leader_pid": 1, "leader_started": 0.0})
    )
    with pytest.raises(BusyError, match="process 1 on elsewhere"):
        Entry(entry.folder).claim()
    long_ago = time.time() - 3600
    os.utime(owner, (long_ago, long_ago))
    other = Entry(entry.folder).claim()
    assert other.read_owner() == Owner.current()
    other.release()


def test_a_run_that_a_kill_left_open_is_closed_and_delivered(entry, client, uri) -> None:
    journal(entry)
    entry.operations.pop()
    (entry.folder / "journal").write_bytes(b"".join((entry.folder / "journal").read_bytes().splitlines(True)[:-1]))
    entry.release()
    assert settle_entries(client, entry.folder.parent, uri, 5) == (1, [])
    assert read_run(client)["status"] == "KILLED"
    assert entry.folder.exists(), "its checkpoints stay for the same command"
    assert settle_entries(client, entry.folder.parent, "sqlite:///another.db", 5) == (0, [])


def test_a_study_that_was_deleted_keeps_nobody_waiting(entry, client, uri, tmp_path) -> None:
    """What belongs to it stays until somebody gives it up; another study's run is delivered at once."""
    other = entry_for(tmp_path / "outbox", uri, "other", "run", "i").claim({**facts(uri, "another"), "study": "other"})
    for each in (entry, other):
        journal(each)
        each.release()
    client.delete_experiment(client.get_experiment_by_name("spooled").experiment_id)
    began = time.monotonic()
    delivered, (left,) = settle_entries(client, tmp_path / "outbox", uri, 60)
    assert time.monotonic() - began < 20
    assert delivered == 1
    assert left.folder == entry.folder
    assert left.refusal.startswith("study: 'spooled' was deleted in MLflow. Restore it: ")
    assert "-m catdog.restore study=spooled tracking.uri=sqlite:////" in left.refusal
    assert client.get_experiment_by_name("other") is not None
    with pytest.raises(
        UserError, match=r"^discard: must be a study, or an entry's folder, .* received 'nosuch'\. It holds run-"
    ):
        discard_entries_of(tmp_path / "outbox", uri, "nosuch")
    (words,) = discard_entries_of(tmp_path / "outbox", uri, "spooled")
    assert words == f"a run of the study 'spooled', {len(entry.operations)} records in {entry.folder}"
    assert settle_entries(client, tmp_path / "outbox", uri, 60) == (0, [])
    assert list_entries(tmp_path / "outbox") == []


def test_a_run_whose_study_is_deleted_meanwhile_is_refused_at_once(entry, client) -> None:
    journal(entry)
    client.delete_experiment(client.get_experiment_by_name("spooled").experiment_id)
    began = time.monotonic()
    assert not deliver_all(client, entry, patience_s=60)
    assert time.monotonic() - began < 20
    assert "was deleted in MLflow" in entry.refusal


def test_a_whole_run_leaves_nothing(entry, client, uri) -> None:
    journal(entry)
    assert settle(client, entry, 5)
    assert list(entry.folder.parent.iterdir()) == []
    assert list_entries(entry.folder.parent) == []


def test_what_a_kill_left_of_an_entry_is_cleared(entry, client, uri) -> None:
    root = entry.folder.parent
    journal(entry)
    assert deliver_all(client, entry, 5)
    entry.release()  # killed before it could remove it
    half = root / "run-half"
    (half / "files").mkdir(parents=True)
    (root / "run-half.lock").touch()
    (root / "sweep-gone.lock").touch()
    settle_entries(client, root, uri, 5)
    assert list(root.iterdir()) == []


def test_a_run_that_begins_again_leaves_the_first_one_whole(entry, client, uri) -> None:
    """Its checkpoints are gone: what it measured is delivered, it is closed, and the other training has a run of its own."""
    journal(entry)
    entry.append("tags", values={"catdog.member.abc": "[0]"})
    entry.supersede("begun again")
    again = entry_for(entry.folder.parent, uri, "spooled", "run", "i").claim(facts(uri))
    assert again.operations == []
    again.append("create", name="again", tags={}, sweep_id=None, time_ms=1)
    again.append_metrics({"val/loss": 9.0}, step=1)
    again.append("status", status="FINISHED", time_ms=2)
    assert settle(client, again, 5)
    assert settle_entries(client, entry.folder.parent, uri, 5) == (1, [])
    assert list(entry.folder.parent.iterdir()) == []
    runs = client.search_runs([client.get_experiment_by_name("spooled").experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == {"a run": "KILLED", "again": "FINISHED"}
    first = next(run for run in runs if run.info.run_name == "a run")
    assert first.data.tags["catdog.member.abc"] == "", "it is no member of its sweep any more"
    assert [point.value for point in client.get_metric_history(first.info.run_id, "val/loss")] == [1.0, 0.5]


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from catdog.system import interrupts
from catdog.tracking.outbox import Entry
interrupts.listen(once=False)
entry = Entry(Path(sys.argv[1])).claim({"kind": "run"})
real = os.fsync
os.fsync = lambda descriptor: (real(descriptor), os.kill(os.getpid(), signal.SIGINT))
try:
    entry.append_metrics({"val/loss": 1.0}, step=1)
except KeyboardInterrupt:
    os.fsync = real
    assert len(entry.operations) == 1, entry.operations
    entry.append("status", status="KILLED", time_ms=1)
    print("closed")
"""


def test_an_interrupt_while_the_journal_is_written_loses_no_line(tmp_path) -> None:
    folder = tmp_path / "run-1"
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, str(folder)], capture_output=True, text=True, check=False,
                          cwd=PROJECT)  # fmt: skip
    assert done.stdout == "closed\n", done.stderr
    assert [item["op"] for item in Entry(folder).read_journal().operations] == ["metrics", "status"]


class Away:
    """A tracking store that does not answer until it is back."""

    def __init__(self, client: mlflow.MlflowClient) -> None:
        self.client = client
        self.away = True

    def __getattr__(self, name: str):
        if self.away:
            raise ConnectionError("no route to the store")
        return getattr(self.client, name)


def test_a_store_that_is_away_stops_nobody_and_loses_nothing(entry, client) -> None:
    store = Away(client)
    delivery = DeliveryWorker(store, entry)
    began = time.monotonic()
    journal(entry)
    delivery.notify()
    assert time.monotonic() - began < 1, "the run does not wait"
    assert not delivery.wait(0.3)
    assert entry.pending == len(entry.operations)
    store.away = False
    assert delivery.wait(30)
    delivery.stop()
    assert read_run(client) == WHOLE


def test_what_mlflow_refuses_is_kept_and_said(entry, client, caplog) -> None:
    journal(entry)
    entry.append("params", values={"a": "another value"})
    for _ in range(len(entry.operations) - 1):
        deliver_next(client, entry)
    with pytest.raises(RefusedError):
        deliver_next(client, entry)
    assert not deliver_all(client, entry, patience_s=5)
    assert "refuses what was recorded" in caplog.text
    assert entry.pending == 1


def test_an_outbox_that_cannot_be_written_is_named(tmp_path, uri) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^tracking\.outbox: cannot write .*tracking\.outbox=PATH"):
        entry_for(tmp_path / "file", uri, "s", "run", "i").claim(facts(uri))


def test_a_full_disk_cuts_no_journal(tmp_path) -> None:
    """EFBIG, the largest file that the process may write, stands for a full disk."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from catdog.system.errors import UserError\n"
        "from catdog.tracking.outbox import Entry\n"
        "entry = Entry(Path(sys.argv[1])).claim({'kind': 'run'})\n"
        "entry.append('tags', values={'a': '1'})\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try:\n"
        "    entry.append('tags', values={'b': 'x' * 5000})\n"
        "except UserError as error:\n"
        "    print(error)\n"
        "entry.append('tags', values={'c': '3'})\n"
    )
    folder = tmp_path / "run-1"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    assert "the disk is full" in done.stdout
    assert "the same command then resumes" in done.stdout
    operations = Entry(folder).read_journal().operations
    assert [item["values"] for item in operations] == [{"a": "1"}, {"c": "3"}]


def test_the_schema_of_an_entry_is_the_configs() -> None:
    assert schema.TrackingConfig(**facts("sqlite:///x.db")["tracking"]).wait_s == 1.0
