"""The folder for temporary files: shared with children, gone at the end, and gone after a kill with the next process."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support import PROJECT

from catdog.system.errors import UserError
from catdog.system.tempdir import START_TOLERANCE_S, close_scratch, is_alive, open_scratch

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="these tests send SIGKILL and read modes")


@pytest.fixture(autouse=True)
def _no_folder_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that ran in this process before have opened one, which stays."""
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr("catdog.system.tempdir._opened", None)


OPEN = """
import os, subprocess, sys, tempfile
from pathlib import Path
from catdog.system.tempdir import open_scratch

folder = open_scratch()
"""
SHOW = OPEN + "print(folder)"
# What autograph and multiprocessing do: a file for good, and a folder with a socket.
FILL = OPEN + "tempfile.NamedTemporaryFile(delete=False).close(); tempfile.mkdtemp()\n"
NO_PID = 2**22 + 1  # more than Linux and macOS give out


def environment(base: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(base), **more}


def run(base: Path, script: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], env=environment(base), capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def running(base: Path, script: str) -> Iterator[tuple[subprocess.Popen, Path]]:
    """A process that ran the script, has printed its folder and waits; it is killed at the end."""
    script += "print(folder, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment(base), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def make_folder(base: Path, name: str, pid: int, started: float = 0.0, host: str = "") -> Path:
    folder = base / name
    folder.mkdir()
    owner = {"host": host or socket.gethostname(), "pid": pid, "started": started, "booted": 0.0}
    (folder / "owner.json").write_text(json.dumps(owner), encoding="utf-8")
    (folder / "file").touch()
    return folder


def test_temporary_files_go_with_the_process(tmp_path) -> None:
    script = FILL + (
        "owner = (folder / 'owner.json').read_text()\n"
        "print(folder, oct(folder.stat().st_mode)[-3:], len(list(folder.iterdir())), os.environ['TMPDIR'], tempfile.tempdir,\n"
        "      open_scratch(), os.getpid(), owner, sep='\\n')"
    )
    folder, mode, count, variable, tempdir, again, pid, owner = run(tmp_path, script).splitlines()
    assert {folder, variable, tempdir, again} == {str(tmp_path / f"catdog-{pid}")}
    assert (mode, count) == ("700", "3")
    assert json.loads(owner)["pid"] == int(pid)
    assert json.loads(owner)["started"] == pytest.approx(time.time(), abs=30)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_takes_the_folder_too(tmp_path) -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run(tmp_path, FILL + "1 / 0")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next(tmp_path) -> None:
    with running(tmp_path, FILL) as (process, folder):
        # A living one's folder stays.
        run(tmp_path, SHOW)
        assert len(list(folder.iterdir())) == 3
        os.kill(process.pid, signal.SIGKILL)
        # Its parent does not wait for it, so it becomes a zombie, which keeps its pid.
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert folder.exists()
        run(tmp_path, SHOW)
        assert list(tmp_path.iterdir()) == []


def test_children_share_the_folder(tmp_path) -> None:
    """Started or forked ones; and when they end, it stays."""
    script = FILL + (
        "child = 'from catdog.system.tempdir import open_scratch; open_scratch(); print(open_scratch())'\n"
        "print(subprocess.run([sys.executable, '-c', child], capture_output=True, text=True, check=True).stdout.strip())\n"
        "sys.stdout.flush()\n"
        "if os.fork() == 0:\n"
        "    print(open_scratch())\n"
        "    sys.exit()\n"  # runs the atexit hooks that it inherited
        "os.wait()\n"
        "print(folder, len(list(folder.iterdir())))"
    )
    started, forked, (own, count) = [line.split() for line in run(tmp_path, script).splitlines()]
    assert started == forked == [own]
    assert count == "3"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_multiprocessing_works_in_it(tmp_path, method) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"""
import multiprocessing, tempfile
from catdog.system.tempdir import open_scratch

def work(queue):
    # As autograph does; a child of multiprocessing runs no atexit.
    tempfile.NamedTemporaryFile(delete=False).close()
    queue.put((str(open_scratch()), tempfile.gettempdir()))

if __name__ == "__main__":
    folder = open_scratch()
    processes = multiprocessing.get_context("{method}")
    queue = processes.Queue()
    process = processes.Process(target=work, args=(queue,))
    process.start()
    assert queue.get(timeout=30) == (str(folder), str(folder))
    process.join()
    assert any(path.name.startswith("tmp") for path in folder.iterdir())
""")
    # Not below tmp_path, which is too long for the path of a socket.
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        done = subprocess.run(
            [sys.executable, program],
            env=environment(Path(base)),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert list(Path(base).iterdir()) == []


def test_only_what_is_left_over_is_removed(tmp_path) -> None:
    started = psutil.Process().create_time()
    gone = [
        make_folder(tmp_path, f"catdog-{NO_PID}", NO_PID),
        make_folder(tmp_path, f"catdog-{NO_PID}-2", NO_PID),
        make_folder(tmp_path, f"catdog-{os.getpid()}", os.getpid(), started - 60),
        make_folder(tmp_path, "catdog-1", -1),
        make_folder(tmp_path, "catdog-2", NO_PID),
        make_folder(tmp_path, "catdog-3", NO_PID),
    ]
    (gone[-2] / "owner.json").unlink()
    (gone[-1] / "owner.json").write_bytes(b'{"pid": ')
    for folder in gone[-2:]:
        os.utime(folder, (time.time() - 90,) * 2)

    stays = [
        make_folder(tmp_path, "catdog-11", os.getpid(), started),
        make_folder(tmp_path, "catdog-12", NO_PID, host="another-host"),
        make_folder(tmp_path, "catdog-13", NO_PID),
        make_folder(tmp_path, "catdog-results", NO_PID),
        make_folder(tmp_path, "other-14", NO_PID),
        tmp_path / "catdog-15",
    ]
    (stays[2] / "owner.json").unlink()  # made this moment: its owner is yet to be written
    stays[-1].touch()
    (tmp_path / "catdog-16").symlink_to(make_folder(tmp_path, "target", NO_PID))
    stays.append(tmp_path / "target" / "file")
    run(tmp_path, SHOW)
    assert [path for path in gone if path.exists()] == []
    assert [path for path in stays if not path.exists()] == []


def test_what_cannot_be_read_is_left_alone() -> None:
    # Not below tmp_path, which another user cannot enter.
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        base.chmod(0o777)
        folder = make_folder(base, f"catdog-{NO_PID}", NO_PID)
        folder.chmod(0)
        script = "import os, psutil, catdog.system.tempdir\nif os.geteuid() == 0: os.setuid(65534)\n" + SHOW
        made = Path(run(base, script))
        assert (made.parent, made.exists(), folder.exists()) == (base, False, True)
        folder.chmod(0o700)


def test_a_taken_name_is_replaced_or_avoided(tmp_path) -> None:
    script = """
import os, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from test_tempdir import make_folder
from catdog.system.tempdir import open_scratch

base = Path(os.environ["TMPDIR"])
taken = make_folder(base, f"catdog-{os.getpid()}", os.getpid(), 1.0, sys.argv[2])
folder = open_scratch()
print(folder == taken, folder.name.removeprefix(taken.name), (folder / "file").exists(), taken.exists())
"""
    tests = Path(__file__).parent
    assert run(tmp_path, script, tests, "").split() == ["True", "False", "True"]
    assert run(tmp_path, script, tests, "another-host").split() == ["False", "-2", "False", "True"]
    (left,) = tmp_path.iterdir()
    assert (left / "file").exists()


def test_a_dead_folder_in_the_variable_is_not_built_upon(tmp_path) -> None:
    with running(tmp_path, FILL) as (process, folder):
        process.kill()
        process.wait()
        made = Path(run(folder, SHOW))
        assert made.parent == tmp_path
        assert list(tmp_path.iterdir()) == []
        # Nor one that is gone.
        assert Path(run(folder, SHOW)).parent == tmp_path


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process's own temporary folder, put back afterwards."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_closing_puts_the_former_folder_back(base) -> None:
    first = open_scratch()
    assert open_scratch() == first
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(first)
    close_scratch()
    close_scratch()
    assert not first.exists()
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(base)
    # And it can be opened again.
    assert open_scratch() == first
    close_scratch()
    assert list(base.iterdir()) == []


def test_a_temporary_folder_that_cannot_be_written_is_named(base, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(base / "missing"))
    with pytest.raises(
        UserError, match=r"cannot make a folder for temporary files: No such file .*missing.*set TMPDIR"
    ):
        open_scratch()


def test_who_is_alive() -> None:
    me, started, booted = os.getpid(), psutil.Process().create_time(), psutil.boot_time()
    assert is_alive(me, started)
    assert is_alive(me, started + 1)
    assert not is_alive(me, started + START_TOLERANCE_S + 1)
    assert not is_alive(me, started - START_TOLERANCE_S - 1)
    assert is_alive(1, psutil.Process(1).create_time())
    for pid in (NO_PID, -1, 2**70):
        assert not is_alive(pid, started)
    # The clock was set an hour ahead since; the system was started again.
    assert is_alive(me, started - 3600, booted - 3600)
    assert not is_alive(me, started - 3600, booted - 7200)


def test_a_killed_process_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = psutil.Process(process.pid).create_time()
        assert is_alive(process.pid, started)
        process.kill()
        wait_until(lambda: not is_alive(process.pid, started))  # a zombie
        process.wait()
        assert not is_alive(process.pid, started)
