"""MLflow over PostgreSQL and S3, all of it on this machine, for a try: python tests/shared_server.py [COMMAND ...].

It starts PostgreSQL (Debian's postgresql), an S3 server (moto's, which keeps its files in memory) and `mlflow server`, and runs a
command beside them; without one, it shows the variables to set, and waits for Ctrl-C. Nothing of it is left at the end.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from slurm_cluster import free_port

BUCKET = "catdog"
# Slow machines, with trainings beside it.
START_S = 300.0
# No secrets: the servers listen on this machine only, for as long as the script runs.
KEYS = {"AWS_ACCESS_KEY_ID": "catdog", "AWS_SECRET_ACCESS_KEY": "catdog-try", "AWS_DEFAULT_REGION": "us-east-1"}


def find_postgres() -> Path | None:
    """Returns the folder of PostgreSQL's programs, which Debian does not put on the path; None if it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def missing() -> str:
    """Returns why no server can be started here; "" if one can."""
    if find_postgres() is None:
        return "there is no PostgreSQL: install Debian's postgresql"
    lacking = [name for name in ("moto", "boto3", "psycopg2") if find_spec(name) is None]
    return f"there is no {', '.join(lacking)}: pip install 'catdog[dev]'" if lacking else ""


@dataclass
class SharedServer:
    """The three servers.

    Attributes:
        folder: of the database, and of what the servers print.
        workers: processes of the MLflow server.
    """

    folder: Path
    workers: int = 2
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ports = {name: free_port() for name in ("postgres", "s3", "mlflow")}

    @property
    def uri(self) -> str:
        """The address for `tracking.uri`."""
        return f"http://127.0.0.1:{self.ports['mlflow']}"

    @property
    def database(self) -> str:
        """The address of the database, as SQLAlchemy has it."""
        return f"postgresql+psycopg2://catdog@127.0.0.1:{self.ports['postgres']}/catdog"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that commands need."""
        return {
            **KEYS, "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['s3']}", "MLFLOW_TRACKING_URI": self.uri,
        }  # fmt: skip

    def start(self) -> None:
        """Starts everything, and waits until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # PostgreSQL does not run as root.
        self.folder.chmod(0o755)
        (self.folder / "postgres").mkdir()
        (self.folder / "socket").mkdir()
        if os.geteuid() == 0:
            for name in ("postgres", "socket"):
                shutil.chown(self.folder / name, "postgres")
        self._call("initdb", f"--pgdata={self.folder}/postgres", "--username=catdog", "--auth=trust", "--encoding=UTF8")
        self.start_postgres()
        self._call("createdb", "--host=127.0.0.1", f"--port={self.ports['postgres']}", "--username=catdog", "catdog")
        self._run("s3", sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.ports["s3"]))
        self._await(lambda: _answers(f"http://127.0.0.1:{self.ports['s3']}/"), "s3")
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports['s3']}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        self.start_mlflow()

    def start_postgres(self) -> None:
        """Starts the database, on what it has kept."""
        self._run(
            "postgres", *_as_postgres(), str(_programs() / "postgres"), "-D", f"{self.folder}/postgres", "-p",
            str(self.ports["postgres"]), "-k", f"{self.folder}/socket", "-h", "127.0.0.1",
        )  # fmt: skip
        ready = [str(_programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.ports["postgres"])]
        self._await(lambda: subprocess.call(ready) == 0, "postgres")

    def start_mlflow(self) -> None:
        """Starts the MLflow server."""
        self._run(
            "mlflow", sys.executable, "-m", "mlflow", "server", "--port", str(self.ports["mlflow"]), "--workers",
            str(self.workers), "--backend-store-uri", self.database, "--artifacts-destination", f"s3://{BUCKET}/mlflow",
        )  # fmt: skip
        self._await(lambda: _answers(f"{self.uri}/health"), "mlflow")

    def kill(self, name: str) -> None:
        """Ends a server at once: "postgres" or "mlflow". S3 would forget its files: stop it with `freeze`."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def freeze(self, name: str) -> None:
        """Stops a server: it accepts connections and does not answer."""
        os.killpg(self.processes[name].pid, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Lets a stopped server go on."""
        os.killpg(self.processes[name].pid, signal.SIGCONT)

    def stop(self) -> None:
        """Ends everything."""
        for name in list(self.processes):
            self.kill(name)

    def read_log(self, name: str) -> str:
        """Returns what a server has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def _call(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [*_as_postgres(), str(_programs() / program), *words],
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stdout}{done.stderr}")

    def _run(self, name: str, *words: str) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        environment |= {key: value for key, value in self.environment.items() if key != "MLFLOW_TRACKING_URI"}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                words, cwd=self.folder, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )  # fmt: skip

    def _await(self, answers: Callable[[], bool], name: str) -> None:
        deadline = time.monotonic() + START_S
        while not answers():
            if time.monotonic() > deadline or self.processes[name].poll() is not None:
                raise RuntimeError(f"{name} did not start\n{self.read_log(name)[-3000:]}")
            time.sleep(0.2)


def _programs() -> Path:
    found = find_postgres()
    assert found is not None
    return found


def _as_postgres() -> list[str]:
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextlib.contextmanager
def running_server() -> Iterator[SharedServer]:
    """Runs the servers while the block lasts."""
    # Short: the path of the database's socket is limited.
    folder = Path(tempfile.mkdtemp(prefix="server", dir="/tmp"))
    server = SharedServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main(command: list[str]) -> int:
    """Runs a command beside the servers; without one, shows what to type, and waits for Ctrl-C. Returns an exit code."""
    if missing():
        print(missing(), file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with running_server() as server:
        if command:
            return subprocess.call(command, env={**os.environ, **server.environment})
        for name, value in server.environment.items():
            print(f"export {name}={value}")
        print(f"# Artifacts go through the MLflow server, or directly with tracking.artifacts=s3://{BUCKET}/direct.")
        print(
            "# Now train, with tracking=server; Ctrl-C here ends the servers, and what they hold is gone.", flush=True
        )
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
