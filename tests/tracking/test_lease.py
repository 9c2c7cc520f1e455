"""Leases: one process at a time works on a folder, whatever the hosts' names, pids and clocks say."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from support import PROJECT

from catdog.tracking import lease as leases
from catdog.tracking.lease import Lease
from catdog.tracking.outbox import Entry, end_orphan
from catdog.tracking.ownership import BusyError, Leader, LostError, Owner, read_kernel

ELSEWHERE = replace(Owner.current(), host="elsewhere", kernel="another kernel", leader_kernel="another kernel")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run-a"
    folder.mkdir()
    return folder


def hold_elsewhere(folder: Path, *, silent_s: float = 0.0, number: int = 3, **changes: Any) -> Path:
    path = folder / f"lease-{number}"
    path.write_text(json.dumps(asdict(replace(ELSEWHERE, **changes))))
    os.utime(path, (time.time() - silent_s,) * 2)
    return path


def test_a_holder_elsewhere_keeps_it_while_it_renews_it_and_no_longer(folder) -> None:
    path = hold_elsewhere(folder)
    with pytest.raises(BusyError, match=r"process \d+ on elsewhere"):
        Lease(folder).acquire()
    os.utime(path, (time.time() - leases.LEASE_S - 30,) * 2)
    lease = Lease(folder)
    lease.acquire()
    assert (lease.generation, lease.is_held) == (4, True)
    assert [file.name for file in folder.iterdir()] == ["lease-4"]
    lease.release()
    assert [file.name for file in folder.iterdir()] == ["free-4"]
    assert lease.find_living_owner() is None
    again = Lease(folder)
    again.acquire()
    assert again.generation == 5
    again.release()


@pytest.mark.parametrize("wrong_s", [-600.0, 600.0])
def test_the_clock_of_the_host_that_asks_does_not_matter(folder, monkeypatch, wrong_s) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + wrong_s)
    path = hold_elsewhere(folder)
    os.utime(path)
    assert Lease(folder).find_living_owner() is not None
    os.utime(path, (real() - leases.LEASE_S - 30,) * 2)
    assert Lease(folder).find_living_owner() is None


def test_the_same_host_name_and_pid_in_another_container_are_another_process(folder) -> None:
    """There, the pid of a process that is dead here may be alive, and the other way round."""
    hold_elsewhere(folder, host=Owner.current().host, pid=2**22 - 1)
    assert Lease(folder).find_living_owner() is not None
    hold_elsewhere(folder, silent_s=leases.LEASE_S + 30, host=Owner.current().host)
    assert Lease(folder).find_living_owner() is None


def test_a_holder_that_is_gone_is_known_to_be_at_once(folder) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    owner = replace(Owner.current(), pid=process.pid)
    process.wait()
    (folder / "lease-1").write_text(json.dumps(asdict(owner)))
    lease = Lease(folder)
    assert lease.find_living_owner() is None
    lease.acquire()
    assert lease.generation == 2
    lease.release()


def test_a_lease_without_content_is_somebodys_until_it_expires(folder) -> None:
    """On a file system without hard links, the content comes a moment after the file."""
    path = folder / "lease-1"
    path.touch()
    with pytest.raises(BusyError):
        Lease(folder).acquire()
    os.utime(path, (time.time() - leases.LEASE_S - 30,) * 2)
    assert Lease(folder).find_living_owner() is None


def test_a_slow_claimer_of_an_older_generation_does_not_win(folder, monkeypatch) -> None:
    """Between its look and its claim, another one took over, and gave the lease up again."""
    hold_elsewhere(folder, silent_s=leases.LEASE_S + 30)
    other, slow = Lease(folder), Lease(folder)
    real = Lease._create

    def create_late(lease: Lease, path: Path, content: bytes) -> None:
        if lease is slow and path.name == "lease-4":
            other.acquire()
            other.release()
        real(lease, path, content)

    monkeypatch.setattr(Lease, "_create", create_late)
    slow.acquire()
    assert slow.generation == 5
    assert slow.is_held
    slow.release()


def _claim_with_others(folder: Path, start: Any, end: Any, results: Any) -> None:
    # As on a file system on which locks do nothing: leases use none.
    lease = Lease(folder)
    start.wait(60)
    try:
        lease.acquire()
        has_won = True
    except BusyError:
        has_won = False
    end.wait(60)
    results.put(0 if not has_won else lease.generation if lease.is_held else -1)
    lease.release()


def test_of_several_claimers_at_the_same_moment_one_wins(folder) -> None:
    processes = multiprocessing.get_context("fork")
    for round_number in range(1, 6):
        results, start, end = processes.Queue(), processes.Barrier(6), processes.Barrier(6)
        arguments = (folder, start, end, results)
        claimers = [processes.Process(target=_claim_with_others, args=arguments) for _ in range(6)]
        for each in claimers:
            each.start()
        found = sorted(results.get(timeout=60) for _ in claimers)
        for each in claimers:
            each.join()
        assert found == [0, 0, 0, 0, 0, round_number]


PAUSED = """
import sys, time
from pathlib import Path
from catdog.tracking import lease
from catdog.tracking.outbox import Entry
from catdog.tracking.ownership import LostError
lease.BEAT_S = 0.1
entry = Entry(Path(sys.argv[1])).claim({"kind": "run"})
entry.append("tags", values={"by": "the first"})
print("claimed", flush=True)
sys.stdin.readline()
for write in (
    lambda: entry.append("tags", values={"by": "the first, late"}),
    lambda: entry.append_metrics({"val/loss": 1.0}, 1),
    lambda: entry.append_file(b"late", "late.txt"),
    lambda: entry.save_state(count=7),
):
    try:
        write()
        print("written", flush=True)
    except LostError as lost:
        print(lost, flush=True)
entry.remove()
entry.release()
"""


def test_a_holder_that_was_paused_writes_nothing_once_another_has_taken_over(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 1.0)
    folder = tmp_path / "outbox" / "run-a"
    holder = subprocess.Popen([sys.executable, "-c", PAUSED, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True, cwd=PROJECT)  # fmt: skip
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "claimed\n"
        time.sleep(1.5)
        with pytest.raises(BusyError):
            Entry(folder).claim()
        holder.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        entry = Entry(folder).claim()
        entry.append("tags", values={"by": "the second"})
        before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        holder.send_signal(signal.SIGCONT)
        holder.stdin.write("go on\n")
        holder.stdin.flush()
        lines = [holder.stdout.readline() for _ in range(4)]
        assert holder.wait(30) == 0
    finally:
        holder.kill()
        holder.stdin.close()
        holder.stdout.close()
    assert all(f"process {os.getpid()} on " in line and "has taken over" in line for line in lines), lines
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert [item["values"]["by"] for item in Entry(folder).read_journal().operations] == ["the first", "the second"]
    entry.append("tags", values={"by": "the second, still"})
    entry.remove()


def test_a_line_that_a_former_holder_wrote_in_the_moment_of_the_change_does_not_count(tmp_path) -> None:
    entry = Entry(tmp_path / "run-a").claim({"kind": "run"})
    entry.append("tags", values={"by": "the first"})
    late = (entry.folder / "journal").read_bytes()
    entry.release()
    second = Entry(entry.folder).claim()
    second.append("tags", values={"by": "the second"})
    with (entry.folder / "journal").open("ab") as file:
        file.write(late)
    second.append("tags", values={"by": "the second, again"})
    second.release()
    read = Entry(entry.folder).read_journal().operations
    assert [item["values"]["by"] for item in read] == ["the first", "the second", "the second, again"]


def test_a_holder_notices_that_its_folder_was_removed_and_made_again(tmp_path) -> None:
    entry = Entry(tmp_path / "run-a").claim({"kind": "run"})
    entry.folder.rename(tmp_path / "gone")
    again = Entry(tmp_path / "run-a").claim({"kind": "run"})
    assert again.lease.generation == entry.lease.generation == 1
    with pytest.raises(LostError):
        entry.append("tags", values={})
    entry.release()
    again.append("tags", values={})
    again.remove()


def test_a_worker_that_is_led_from_another_host_is_no_orphan(tmp_path) -> None:
    """Its leader's pid means nothing here."""
    gone = Leader(2**22 - 1, 0.0, "another kernel")
    entry = Entry(tmp_path / "run-a").claim({"kind": "run"}, gone)
    owner = entry.read_owner()
    assert owner is not None
    assert not owner.is_orphan
    end_orphan(entry)
    entry.release()
    entry.claim(leader=Leader(2**22 - 1, 0.0, read_kernel()))
    owner = entry.read_owner()
    assert owner is not None
    assert owner.is_orphan
    entry.release()
