"""A disk that fills up while a checkpoint, an artifact or the cache is written: one message, and then the same command goes on.

The disk is a small tmpfs in a mount namespace of the test's own; where the system permits none, the tests are skipped.
"""

import os
import subprocess
import sys
from functools import cache as once
from pathlib import Path

import pytest
from support import OURS, PROJECT, TINY
from torture import connect

pytestmark = pytest.mark.slow

SCRIPT = """
mount -t tmpfs -o size="$SIZE" none "$DISK" || exit 99
"$@" > first.txt 2>&1; echo $? > first
mount -o remount,size=200m "$DISK"
"$@" > second.txt 2>&1; echo $? > second
cp -r "$DISK" kept
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
    env = {key: value for key, value in os.environ.items() if key not in OURS}
    env |= {"PYTHONPATH": str(PROJECT), "DISK": str(disk), "SIZE": size, **environment}
    command = ["unshare", "-rm", "sh", "-c", SCRIPT, "sh", sys.executable, "-m", "catdog.train", *arguments]
    subprocess.run(command, cwd=folder, env=env, check=True, timeout=300)
    return [(int((folder / name).read_text()), (folder / f"{name}.txt").read_text()) for name in ("first", "second")]


def check_finished(folder: Path, study: str, epochs: int) -> None:
    client = connect(folder)
    (run,) = client.search_runs([client.get_experiment_by_name(study).experiment_id])
    assert run.info.status == "FINISHED"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "val/loss")]
    assert steps == list(range(1, epochs + 1))


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
