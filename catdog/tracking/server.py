"""MLflow's server as a child process: started on a free port, and stopped with every process that it has started."""

import contextlib
import errno
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

from catdog.config.schema import TrackingConfig
from catdog.system.errors import UserError

# MLflow's own default: browsers keep what a user has set on MLflow's pages by address, so a constant one is worth having.
USUAL_PORT = 5000
START_TIMEOUT_S = 120
# How long the server may take to answer its last requests.
STOP_TIMEOUT_S = 10


@contextlib.contextmanager
def serve(config: TrackingConfig, host: str, port: int | None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Runs MLflow's server on a tracking store while the block runs; gives its address and its process once it answers.

    Args:
        config: the tracking section; its store exists and is a database.
        host: the network interface to listen on.
        port: the port to listen on; None: 5000, or another free port if that is in use.

    Raises:
        UserError: the port is in use, the host is not one of this machine, or the server does not start.
    """
    port = _choose_port(host, port)
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", config.uri, "--host", host, "--port", str(port),
        # One reader needs one worker.
        "--workers", "1",
    ]  # fmt: skip
    if config.artifacts:
        command += ["--default-artifact-root", Path(config.artifacts).absolute().as_uri()]
    # The job runners, half a dozen processes, serve evaluations of language models.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with tempfile.TemporaryFile() as output:
        # A session of its own: a Ctrl-C in the terminal reaches only this process, which then stops the server once.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        try:
            address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
            _wait_for_answer(process, address, output)
            yield address, process
        finally:
            _stop(process)


def _choose_port(host: str, port: int | None) -> int:
    for candidate in [USUAL_PORT, 0] if port is None else [port]:
        with socket.socket() as probe:
            # As the server does: a port that was in use a moment ago is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError as error:
                if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                    raise UserError(
                        f"host: {host!r} is no address of this machine ({error.strerror}). Use 127.0.0.1, or 0.0.0.0 for all."
                    ) from error
                if port is None and candidate:
                    continue
                raise UserError(
                    f"port: cannot listen on {host}:{candidate} ({error.strerror}). Leave out port= for a free one, or name "
                    "another."
                ) from error
            return int(probe.getsockname()[1])
    raise AssertionError("unreachable")


def _wait_for_answer(process: "subprocess.Popen[bytes]", address: str, output: IO[bytes]) -> None:
    import requests

    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{address}/health", timeout=1).ok:
                return
        time.sleep(0.1)
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    problem = "ended" if process.poll() is not None else f"did not answer in {START_TIMEOUT_S} s"
    raise UserError(f"MLflow's server {problem}: {lines[-1] if lines else 'it printed nothing'}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends the server and its children: MLflow passes SIGTERM on to them. What has not ended by then is killed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
        for member in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()
