"""A disk that fills up while a checkpoint, an artifact or the cache is written: one message, and then the same command goes on.

The disk is a small tmpfs in a mount namespace of the test's own; where the system permits none, the tests are skipped.
"""

import subprocess
import sys
from functools import cache as once
from pathlib import Path

import pytest
from support import PROJECT, TINY, run_python
from torture import connect

pytestmark = pytest.mark.slow

# In a mount namespace: trains on a small disk, gives it room, trains again, and keeps what is on it.
SCRIPT = """
import ctypes, os, runpy, shutil, subprocess, sys
from pathlib import Path
disk, size, *arguments = sys.argv[1:]
user, group = os.getuid(), os.getgid()
assert ctypes.CDLL(None).unshare(0x10000000 | 0x00020000) == 0  # CLONE_NEWUSER and CLONE_NEWNS
Path("/proc/self/setgroups").write_text("deny")
Path("/proc/self/uid_map").write_text(f"0 {user} 1")
Path("/proc/self/gid_map").write_text(f"0 {group} 1")

def train(name):
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return Path(name).write_text(str(code))
    with open(f"{name}.txt", "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["train", *arguments]
    runpy.run_module("catdog.train", run_name="__main__", alter_sys=True)
    sys.exit()

subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], check=True)
train("first")
subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
train("second")
shutil.copytree(disk, "kept")
"""


@once
def may_mount() -> bool:
    done = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    return done.returncode == 0


def train_twice(folder: Path, size: str, *arguments: str, **environment: str) -> list[tuple[int, str]]:
    """Runs the command on a disk of a size, then with room on it; returns both exit codes and texts."""
    if sys.platform != "linux" or not may_mount():
        pytest.skip("no mount namespaces here")
    disk = folder / "disk"
    disk.mkdir()
    done = run_python(folder, "-c", SCRIPT, str(disk), size, *arguments, PYTHONPATH=str(PROJECT), **environment)
    assert done.code == 0, done.text
    return [(int((folder / name).read_text()), (folder / f"{name}.txt").read_text()) for name in ("first", "second")]


def check_finished(folder: Path, study: str, epochs: int) -> None:
    client = connect(folder)
    (run,) = client.search_runs([client.get_experiment_by_name(study).experiment_id])
    assert run.info.status == "FINISHED"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "val/loss")]
    assert steps == list(range(1, epochs + 1))


@pytest.mark.nightly
def test_while_a_checkpoint_is_written(tmp_path, cache) -> None:
    (first, said), (second, then) = train_twice(
        tmp_path, "2m", *TINY, "trainer.epochs=4", "model=cnn", "study=full", f"tracking.outbox={tmp_path}/disk/outbox",
        CATDOG_CACHE=str(cache),
    )  # fmt: skip
    assert first == 2, said
    assert "the disk is full" in said
    assert "the same command then resumes" in said
    assert "Traceback" not in said
    assert second == 0, then
    check_finished(tmp_path, "full", 4)


@pytest.mark.nightly
def test_while_artifacts_are_written(tmp_path, cache) -> None:
    (first, said), (second, then) = train_twice(
        tmp_path, "150k", *TINY, "model=cnn", "study=full", f"tracking.artifacts={tmp_path}/disk/artifacts",
        "tracking.wait_s=2", CATDOG_CACHE=str(cache),
    )  # fmt: skip
    assert first == 1, said
    assert "No space left on device" in said
    assert "Nothing is lost" in said
    assert "Traceback" not in said
    assert second == 0, then
    assert "nothing to train" in then, "it was trained already, and is delivered now"
    check_finished(tmp_path, "full", 2)
    assert list((tmp_path / "kept").rglob("predictions/val.csv"))


@pytest.mark.nightly
def test_while_the_cache_is_written(tmp_path) -> None:
    (first, said), (second, then) = train_twice(
        tmp_path, "400k", *TINY, "model=cnn", "study=full", CATDOG_CACHE=str(tmp_path / "disk" / "cache"),
    )  # fmt: skip
    assert first == 2, said
    assert "disk" in said
    assert "Free some space" in said
    assert "Traceback" not in said
    assert second == 0, then
    check_finished(tmp_path, "full", 2)
