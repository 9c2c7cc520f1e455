"""A SLURM cluster of two nodes on this machine: python tests/slurm_cluster.py COMMAND ... runs a command beside it.

Each node has a host name and process ids of its own, so that a process on one cannot be seen from another. There is no accounting
database, as on many small clusters. It needs root, and Debian's packages slurm-wlm and munge.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

STEPD = "/usr/sbin/slurmstepd-wlm"
NEEDED = ("munged", "slurmctld", "slurmd", "unshare")
START_S = 60.0


def missing() -> str:
    """Returns why no cluster can be started here; "" if one can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    lacking = [name for name in NEEDED if not shutil.which(name, path=path)]
    if lacking:
        return f"there is no {', '.join(lacking)}: install Debian's slurm-wlm and munge"
    return "" if os.geteuid() == 0 else "a cluster of one's own needs root"


def free_port() -> int:
    with contextlib.closing(socket.socket()) as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@dataclass
class Cluster:
    """The cluster.

    Attributes:
        folder: of its configuration, state and logs.
        nodes: names of its nodes.
        memory_mb: what each node has to give to jobs.
        array_size: jobs in an array at most.
    """

    folder: Path
    nodes: tuple[str, ...] = ("node1", "node2")
    memory_mb: int = 6000
    array_size: int = 1001
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that SLURM's commands need."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}

    def call(self, *words: str) -> str:
        """Runs one of SLURM's commands and returns what it prints."""
        done = subprocess.run(words, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    def start(self) -> None:
        """Starts everything, and waits until the nodes are there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        for name in ("munge", "state", *(f"spool.{node}" for node in self.nodes)):
            (self.folder / name).mkdir()
        (self.folder / "munge" / "key").write_bytes(os.urandom(1024))
        (self.folder / "munge" / "key").chmod(0o400)
        (self.folder / "slurm.conf").write_text(self._config())
        munge = self.folder / "munge"
        self._run("munged", "munged", "--foreground", "--force", f"--key-file={munge}/key", f"--socket={munge}/socket",
                  f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed")  # fmt: skip
        self._await(lambda: (munge / "socket").exists(), "munged")
        self._run("slurmctld", "slurmctld", "-D")
        for node in self.nodes:
            self.start_node(node)
        self._await(lambda: self.call("sinfo", "-h", "-o", "%t %D").split() == ["idle", str(len(self.nodes))], "nodes")

    def start_node(self, node: str) -> None:
        """Starts a node, with a host name and process ids of its own."""
        self._run(
            node, "unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
            f"hostname {node} && exec slurmd -D -N {node} -d {STEPD}",
        )  # fmt: skip

    def kill_node(self, node: str) -> None:
        """Ends a node and everything on it at once, as a power cut would."""
        process = self.processes.pop(node)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Ends everything."""
        for node in self.nodes:
            if node in self.processes:
                self.kill_node(node)
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.processes.clear()

    def logs(self) -> str:
        """Returns what the daemons have printed."""
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in self.folder.glob("*.log")
        )

    def _run(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                words, env={**os.environ, **self.environment}, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def _await(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_S
        while not is_so():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not start\n{self.logs()}")
            time.sleep(0.1)

    def _config(self) -> str:
        folder, host = self.folder, socket.gethostname()
        lines = [
            "ClusterName=catdog", f"SlurmctldHost={host}(127.0.0.1)", f"SlurmctldPort={free_port()}",
            f"AuthInfo=socket={folder}/munge/socket", "SlurmUser=root", "SlurmdUser=root",
            f"StateSaveLocation={folder}/state", f"SlurmdSpoolDir={folder}/spool.%n",
            f"SlurmctldPidFile={folder}/slurmctld.pid", f"SlurmdPidFile={folder}/slurmd.%n.pid",
            "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "SwitchType=switch/none", "MpiDefault=none",
            "SelectType=select/cons_tres", "SelectTypeParameters=CR_CPU_Memory", "SchedulerType=sched/backfill",
            # Debian's slurmstepd 22.05 crashes with jobacct_gather/linux here.
            "JobAcctGatherType=jobacct_gather/none",
            "ReturnToService=2", "SlurmdTimeout=10", "InactiveLimit=0", "KillWait=10", "JobRequeue=1",
            f"MaxArraySize={self.array_size}", "SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2",
        ]  # fmt: skip
        for node in self.nodes:
            lines.append(
                f"NodeName={node} NodeAddr=127.0.0.1 NodeHostname={node} Port={free_port()} CPUs=1 RealMemory={self.memory_mb}"
            )
        lines.append(
            f"PartitionName=main Nodes={','.join(self.nodes)} Default=YES DefMemPerCPU=1500 MaxTime=INFINITE State=UP"
        )
        return "\n".join(lines) + "\n"


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Runs a cluster while the block lasts."""
    # Short: its sockets' paths are limited.
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    if missing():
        sys.exit(missing())
    with running_cluster() as started:
        os.environ.update(started.environment)
        sys.exit(subprocess.call(sys.argv[1:] or ["sinfo"]))
