"""Checkpoints: what was saved comes back bit for bit, and whatever is damaged is skipped."""

import logging
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import PROJECT

from catdog.tracking.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

# Saves epochs one after the other, the arrays of each full of its number.
SAVER = """
import sys
from pathlib import Path
import numpy as np
from catdog.tracking.checkpoint import Checkpoint, save_checkpoint
from catdog.system.errors import UserError

def save(epoch, size):
    arrays = {name: np.full(size, epoch, np.float32) for name in "abc"}
    save_checkpoint(Path(sys.argv[1]), Checkpoint(epoch, arrays, {"epoch": epoch}))
"""
FULL = (
    SAVER
    + """
import resource
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(1, 50_000)
except UserError as error:
    print(error)
save(1, 1_000)
try:
    save(2, 50_000)
except UserError as error:
    print(error)
"""
)


def make_checkpoint(epoch: int, size: int = 100) -> Checkpoint:
    rng = np.random.default_rng(epoch)
    arrays = {"kernel": rng.normal(size=(size, 3)).astype(np.float32), "step": np.array(epoch, np.int64)}
    return Checkpoint(epoch, arrays, {"epoch": epoch})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def epoch_of(folder: Path) -> int | None:
    loaded = load_checkpoint(folder)
    return loaded and loaded.epoch


def run(script: str, *arguments: str | Path, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [*before, sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


def test_arrays_come_back_as_they_were(tmp_path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "float32": np.array([0.1, -0.0, np.nan, np.inf, -np.inf, 1e-45], np.float32),
        "dense/kernel:0": rng.normal(size=(3, 5, 2)),
        "float16": rng.normal(size=7).astype(np.float16),
        "big-endian": np.arange(5, dtype=">i4"),
        "complex": np.array([1 + 2j]),
        "seed": np.array([1, 2**32 - 1], np.uint32),
        "bool": np.array([True, False]),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "transposed": rng.normal(size=(4, 6)).T,
        "strided": np.arange(20)[::3],
        "file": np.arange(3),
        "": np.arange(2),
    }
    save_checkpoint(tmp_path / "new" / "folder", Checkpoint(3, arrays, {}))
    loaded = load_checkpoint(tmp_path / "new" / "folder")
    assert loaded is not None
    assert (loaded.epoch, list(loaded.arrays)) == (3, list(arrays))
    for name, array in arrays.items():
        back = loaded.arrays[name]
        assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes()), name
        assert back.flags.writeable


def test_facts_come_back_as_they_were(tmp_path) -> None:
    rng = random.Random(0)
    floats = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(1000)]
    floats = [value for value in floats if value == value] + [0.1, -0.0, 5e-324, 1.7976931348623157e308]
    facts = {
        "history": {"val/loss": floats},
        "best": None,
        "name": "Grüße\n\ud800",
        "big": 2**80,
        "numpy": np.float64(0.1),
    }
    odd = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
    save_checkpoint(tmp_path, Checkpoint(1, {}, facts | odd))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.arrays == {}
    back = loaded.facts
    assert struct.pack(f"{len(floats)}d", *back["history"]["val/loss"]) == struct.pack(f"{len(floats)}d", *floats)
    assert np.isnan(back.pop("nan"))
    assert (back.pop("inf"), back.pop("-inf")) == (float("inf"), float("-inf"))
    assert back == facts


@pytest.mark.parametrize(
    ("arrays", "facts", "error"),
    [
        ({"x": np.array([object()])}, {}, ValueError),
        ({"x": np.zeros(2, "V2")}, {}, ValueError),  # what bfloat16 would come back as
        ({}, {"loss": np.float32(1)}, TypeError),
    ],
)
def test_what_would_not_come_back_is_not_saved(tmp_path, arrays, facts, error) -> None:
    with pytest.raises(error):
        save_checkpoint(tmp_path, Checkpoint(1, arrays, facts))
    assert names(tmp_path) == []


def test_the_newest_are_kept(tmp_path) -> None:
    assert load_checkpoint(tmp_path / "none") is None
    assert load_checkpoint(tmp_path) is None
    (tmp_path / "epoch-000099.checkpoint.partial").write_bytes(b"of a killed process")
    (tmp_path / "notes.txt").touch()
    for epoch in range(1, 5):
        save_checkpoint(tmp_path, make_checkpoint(epoch))
        assert epoch_of(tmp_path) == epoch
    assert names(tmp_path) == ["epoch-000003.checkpoint", "epoch-000004.checkpoint", "notes.txt"]
    save_checkpoint(tmp_path, make_checkpoint(5), keep=1)
    assert names(tmp_path) == ["epoch-000005.checkpoint", "notes.txt"]


def test_epochs_are_ordered_by_number(tmp_path) -> None:
    for epoch in (999_999, 1_000_000):
        save_checkpoint(tmp_path, make_checkpoint(epoch))
    assert epoch_of(tmp_path) == 1_000_000


def test_a_run_that_went_back_keeps_its_own_epochs(tmp_path) -> None:
    """Two damaged files of later epochs push no whole one of an earlier epoch out."""
    for epoch in (8, 9):
        (tmp_path / f"epoch-{epoch:06d}.checkpoint").write_bytes(b"damaged")
    save_checkpoint(tmp_path, make_checkpoint(1))
    assert names(tmp_path) == ["epoch-000001.checkpoint"]
    assert epoch_of(tmp_path) == 1


def test_the_same_epoch_is_replaced(tmp_path) -> None:
    save_checkpoint(tmp_path, make_checkpoint(1))
    save_checkpoint(tmp_path, Checkpoint(1, {}, {"again": True}))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.facts == {"again": True}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The newer of two checkpoints."""
    for epoch in (6, 7):
        save_checkpoint(tmp_path, make_checkpoint(epoch))
    return tmp_path / "epoch-000007.checkpoint"


def assert_passed_over(saved: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    saved.write_bytes(content)
    caplog.clear()
    assert epoch_of(saved.parent) == 6
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(saved) in record.getMessage()


def test_a_truncated_file_is_passed_over(saved, caplog) -> None:
    whole = saved.read_bytes()
    lengths = {*range(200), len(whole) - 1, *random.Random(0).sample(range(len(whole)), 200)}
    for length in sorted(lengths):
        assert_passed_over(saved, whole[:length], caplog)


def test_a_flipped_bit_is_noticed(saved, caplog) -> None:
    whole = saved.read_bytes()
    rng = random.Random(0)
    for position in [*range(100), *rng.sample(range(len(whole)), 300)]:
        content = bytearray(whole)
        content[position] ^= 1 << rng.randrange(8)
        assert_passed_over(saved, content, caplog)


def test_other_damage_is_passed_over(saved, caplog) -> None:
    whole = saved.read_bytes()
    assert whole.startswith(b"catdog checkpoint 1 ")
    assert_passed_over(saved, whole.replace(b"checkpoint 1 ", b"checkpoint 2 ", 1), caplog)
    assert "not of format 1" in caplog.text
    assert_passed_over(saved, whole + b"\0", caplog)
    assert_passed_over(saved, bytes(len(whole)), caplog)  # what some file systems leave after a power cut
    assert_passed_over(saved, whole[:85] + whole, caplog)
    saved.unlink()
    saved.mkdir()
    assert epoch_of(saved.parent) == 6
    # Nor does it hinder saving.
    save_checkpoint(saved.parent, make_checkpoint(8), keep=1)
    assert epoch_of(saved.parent) == 8


def test_nothing_whole_is_nothing(saved) -> None:
    for path in saved.parent.iterdir():
        path.write_bytes(b"")
    assert load_checkpoint(saved.parent) is None


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_passed_over(saved, caplog) -> None:
    saved.chmod(0)
    assert epoch_of(saved.parent) == 6
    assert "Permission denied" in caplog.text


def test_a_failed_write_leaves_the_folder_as_it_was(saved) -> None:
    class Interrupted:
        """Ctrl-C while this array is written."""

        dtype, shape = np.dtype("f4"), (3,)

        def __array__(self, *_args, **_options):
            assert list(saved.parent.glob("epoch-000008.checkpoint.*.partial"))
            raise KeyboardInterrupt

    before = names(saved.parent)
    arrays: dict = {"first": np.arange(5), "second": Interrupted()}
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(saved.parent, Checkpoint(8, arrays, {}))
    assert names(saved.parent) == before
    assert epoch_of(saved.parent) == 7


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        save_checkpoint(tmp_path / "file" / "checkpoints", make_checkpoint(1))


def assert_full_disk_named(done: subprocess.CompletedProcess, folder: Path, reason: str) -> None:
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == (
        f"cannot save the checkpoint of epoch 1 in {folder}: the disk is full ({reason}). "
        "Free some space; the same command then starts at epoch 1 again."
    )
    assert second.startswith("cannot save the checkpoint of epoch 2")
    assert second.endswith("the same command then resumes after epoch 1.")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_limit_on_file_size_is_named(tmp_path) -> None:
    assert_full_disk_named(run(FULL, tmp_path, "limited"), tmp_path, "File too large")
    assert names(tmp_path) == ["epoch-000001.checkpoint"]
    assert epoch_of(tmp_path) == 1


def test_a_full_disk_is_named(tmp_path) -> None:
    """On a disk of 300 kB, which only the process sees."""
    mount = f"mount -t tmpfs -o size=300k tmpfs '{tmp_path}'"
    inside = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    if not shutil.which("unshare") or subprocess.run([*inside, mount], capture_output=True, check=False).returncode:
        pytest.skip("this system mounts nothing for this user")
    script = FULL + "print(*sorted(path.name for path in Path(sys.argv[1]).iterdir()), file=sys.stderr)"
    done = run(script, tmp_path, before=(*inside, f'{mount} && exec "$@"', "sh"))
    assert_full_disk_named(done, tmp_path, "No space left on device")
    assert done.stderr.split() == ["epoch-000001.checkpoint"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_process_killed_at_any_time_leaves_a_whole_checkpoint(tmp_path) -> None:
    script = SAVER + "for epoch in range(1, 10**6):\n    save(epoch, 300_000)\n    print(epoch, flush=True)"
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    delays = random.Random(0)
    for number in range(5):
        folder = tmp_path / str(number)
        with subprocess.Popen([sys.executable, "-c", script, folder], stdout=subprocess.PIPE, env=env) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delays.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            promised = [1, *map(int, process.stdout.read().split())][-1]
        loaded = load_checkpoint(folder)
        assert loaded is not None
        assert loaded.epoch in (promised, promised + 1)
        assert all((array == loaded.epoch).all() for array in loaded.arrays.values())
        save_checkpoint(folder, make_checkpoint(loaded.epoch + 1), keep=1)
        assert names(folder) == [f"epoch-{loaded.epoch + 1:06d}.checkpoint"]
