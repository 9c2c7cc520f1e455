"""Python programs as processes of their own, without five CPU seconds of imports each.

They are forks of a server that has imported the libraries, and never used them; it does not have catdog. Such a program differs
from one that Python starts anew in this: what libraries read from the environment on import is what it was at the server's start.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO


class Forked:
    """A program that runs, or has ended; used like a `subprocess.Popen`.

    Attributes:
        pid: its process id; it leads a process group, as a command in a terminal does.
        stdout: what it writes, to stderr too; None if that goes to files.
        returncode: the exit status, or minus the signal that ended it; None while it is not known to have ended.
    """

    def __init__(self, program: list[str], status: socket.socket, stdout: IO[str] | None) -> None:
        self.args, self.stdout, self.returncode = program, stdout, None
        self._status = status
        self.pid = self._receive()

    def _receive(self) -> int:
        received = self._status.recv(8, socket.MSG_WAITALL)
        if len(received) < 8:
            raise ConnectionError("the fork server has ended")
        return int.from_bytes(received, "big", signed=True)

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit status, after the program has ended; raises TimeoutExpired."""
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                self.returncode = self._receive()
            except TimeoutError as error:
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from error
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal to the program, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends the program at once."""
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """Returns the exit status, or None while the program runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.001)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Returns the rest of what the program writes, after it has ended; raises TimeoutExpired."""
        rest: list[str] = []
        if self.stdout is not None and not self.stdout.closed:
            reader = threading.Thread(
                target=lambda stdout: rest.append(stdout.read()), args=(self.stdout,), daemon=True
            )
            reader.start()
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.stdout.close()
        self.wait(timeout)
        return "".join(rest), None


class ForkServer:
    """Starts Python programs. The server itself starts with the first of them, and ends with this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: socket.socket | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def start(self, program: list[str], folder: Path, environment: dict[str, str]) -> Forked:
        """Starts `python PROGRAM`, whose stdout and stderr are then read from the result.

        Args:
            program: what follows `python` on a command line: -m and a module, -c and code, or a file; then arguments.
            folder: where it runs.
            environment: all of its variables.
        """
        reader, writer = os.pipe()
        try:
            status = self._order(program, folder, environment, writer, writer)
        finally:
            os.close(writer)
        return Forked(program, status, os.fdopen(reader, encoding="utf-8", errors="replace"))

    def run(
        self, program: list[str], folder: Path, environment: dict[str, str], timeout_s: float
    ) -> tuple[int, str, str]:
        """Returns exit status, stdout and stderr of `python PROGRAM`; arguments as for `start`.

        Raises:
            TimeoutExpired: it takes too long, and has been killed.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            forked = Forked(program, self._order(program, folder, environment, out.fileno(), err.fileno()), None)
            try:
                status = forked.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(forked.pid, signal.SIGKILL)
                raise
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode("utf-8", errors="replace"))
            return status, texts[0], texts[1]

    def _order(
        self, program: list[str], folder: Path, environment: dict[str, str], out: int, err: int
    ) -> socket.socket:
        """Has a program started; returns a connection that gives its process id and then its exit status."""
        order = json.dumps({"program": program, "folder": str(folder), "environment": environment}).encode()
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            if self._orders is None:
                self._orders, self._server = _start_server()
                atexit.register(self._stop)
            socket.send_fds(self._orders, [len(order).to_bytes(8, "big")], [theirs.fileno(), out, err])
            self._orders.sendall(order)
        return ours

    def _stop(self) -> None:
        assert self._orders is not None
        assert self._server is not None
        self._orders.close()
        self._server.wait()


def _start_server() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    here = Path(__file__).resolve().parent
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CATDOG_", "MLFLOW_"))}
    environment["PYTHONPATH"] = f"{here}{os.pathsep}{here.parent}"
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-c", "import forked, sys; forked.serve(int(sys.argv[1]))()", str(theirs.fileno())],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True, env=environment,
        )  # fmt: skip
    return ours, server


def serve(descriptor: int) -> Callable[[], None]:
    """Imports the libraries, and runs what is ordered, each in a fork of this process, until the orders end.

    Returns:
        In the server a function that does nothing. In a fork one that becomes the program; Python then ends the process.
    """
    orders = socket.socket(fileno=descriptor)
    from catdog.training import preload  # noqa: F401  TensorFlow without its messages

    # isort: split
    import cv2  # noqa: F401
    import hydra  # noqa: F401
    import mlflow.tensorflow  # noqa: F401
    import pandas  # noqa: F401
    import rich.progress  # noqa: F401
    import scipy.stats  # noqa: F401
    from matplotlib import figure  # noqa: F401

    for name in [name for name in sys.modules if name.partition(".")[0] == "catdog"]:
        del sys.modules[name]
    gc.freeze()
    # Nobody waits for the processes that wait for the programs.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        # The descriptors come with the first byte of the length.
        head, files, _, _ = socket.recv_fds(orders, 8, 3)
        if not head:
            return lambda: None
        while len(head) < 8:
            head += orders.recv(8 - len(head))
        order = json.loads(orders.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
        if os.fork() == 0:
            orders.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            program = os.fork()
            if program == 0:
                os.close(files[0])
                return lambda: _become(order, *files[1:])
            for file in files[1:]:
                os.close(file)
            with socket.socket(fileno=files[0]) as status, contextlib.suppress(BrokenPipeError):
                status.sendall(program.to_bytes(8, "big"))
                code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
                status.sendall(code.to_bytes(8, "big", signed=True))
            os._exit(0)
        for file in files:
            os.close(file)


def _become(order: dict, out: int, err: int) -> None:
    os.setsid()
    # A shell starts background commands, and so perhaps these tests, with SIGINT ignored: a terminal does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(out, 1)
    os.dup2(err, 2)
    for file in {out, err}:
        os.close(file)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    # Libraries may have asked for it already.
    tempfile.tempdir = None
    kind, *arguments = order["program"]
    what = arguments.pop(0) if kind in ("-m", "-c") else kind
    first = {"-m": order["folder"], "-c": ""}.get(kind, str(Path(kind).parent))
    # As Python does; the next two entries were those of the server's PYTHONPATH.
    paths = order["environment"].get("PYTHONPATH", "")
    sys.path[:3] = [first, *(path for path in paths.split(os.pathsep) if path)]
    sys.argv = [kind, *arguments]
    del sys.modules["forked"]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        exec(compile(what, "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        runpy.run_path(what, run_name="__main__")
