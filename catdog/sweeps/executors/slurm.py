"""Trains runs as jobs of a SLURM cluster, through submitit: one resumable job for each run."""

import getpass
import logging
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from catdog.sweeps.executors.executor import Task
from catdog.sweeps.executors.remote import (
    ClusterExecutor,
    JobFolder,
    RemoteHandle,
    TimeLimit,
    name_job,
    work_remotely,
)
from catdog.sweeps.options import SlurmOptions
from catdog.system.errors import UserError
from catdog.system.files import write_atomically

log = logging.getLogger(__name__)

ASK_EVERY_S = 2.0
# How long before its time limit a job gets a signal: a run closes, and its last records are delivered.
SIGNAL_BEFORE_S = 90
TIMEOUT_S = 60.0
ACTIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
          "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT")  # fmt: skip
# Another job would end in the same way, or somebody does not want the run.
FINAL_STATES = ("CANCELLED", "OUT_OF_MEMORY", "DEADLINE")
# The job was lost with its node, or to a more urgent one.
LOST_STATES = ("NODE_FAIL", "PREEMPTED")
# A job inherits the environment of the command, whose folder for temporary files goes with it.
OWN_TMPDIR = 'case "$TMPDIR" in */catdog-[0-9]*) unset TMPDIR;; esac'


class SlurmHandle(RemoteHandle):
    """A job of the cluster that trains a run.

    Args:
        executor: which watches the queue for all jobs.
        folder: of the run.
        job_id: SLURM's.
    """

    def __init__(self, executor: "SlurmExecutor", folder: JobFolder, job_id: str) -> None:
        super().__init__(folder)
        self.executor = executor
        self.job_id = job_id

    def ask_end(self) -> str | None:
        """Returns how the job ended, in words; None if it is in the queue, or SLURM does not answer."""
        state, node, reason = self.executor.ask(self.job_id)
        if not state or state in ACTIVE:
            return None
        self.retry = "never" if state in FINAL_STATES else "free" if state in LOST_STATES else "counted"
        where = f" on {node}" if node else ""
        why = f" ({reason})" if reason not in ("", "None") else ""
        return f"SLURM job {self.job_id} ended as {state}{where}{why}"

    def read_output(self) -> str:
        """Returns what the job has printed on stderr."""
        logs = sorted((self.folder.path / "slurm").glob(f"{self.job_id}*_log.err"))
        return logs[-1].read_text(errors="replace") if logs else ""

    def stop(self) -> None:
        """Lets a running job close its run; takes one that waits from the queue."""
        state, *_ = self.executor.ask(self.job_id)
        self.executor.call("scancel", *([] if state == "PENDING" else ["--signal=INT"]), self.job_id)

    def kill(self) -> None:
        """Ends the job at once."""
        self.executor.call("scancel", self.job_id)


class SlurmExecutor(ClusterExecutor):
    """Submits runs as jobs.

    Args:
        options: the launcher's.
        outbox: the folder that all hosts see.

    Raises:
        UserError: submitit is not installed, or there is no cluster.
    """

    def __init__(self, options: SlurmOptions, outbox: Path) -> None:
        super().__init__(options, outbox)
        self.options = options
        self._states: dict[str, tuple[str, str, str]] = {}
        self._asked = 0.0
        if not shutil.which("sbatch"):
            raise UserError(
                "hydra/launcher: slurm needs the command sbatch, which is not here. Run this on a host of the cluster that may "
                "submit jobs, or leave hydra/launcher out."
            )
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise UserError("hydra/launcher: slurm needs submitit: pip install 'catdog[slurm]'.") from None

    def submit(self, task: Task) -> SlurmHandle:
        """Puts a job for a run into the queue.

        Raises:
            UserError: SLURM refuses it.
        """
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        assert task.job.identity is not None
        folder = self.folder_of(task.job.identity.digest)
        folder.prepare(task, self.options.cpus)
        name = name_job(task, folder)
        try:
            executor = submitit.SlurmExecutor(folder=folder.path / "slurm", max_num_timeout=0)
            executor.update_parameters(**self._parameters(name))
            job = executor.submit(_run, str(folder.path))
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            folder.remove()
            raise UserError(
                f"hydra.launcher: SLURM refuses the job of {task.job.name}: {_first_lines(error)}"
            ) from error
        folder.save_record(
            executor="slurm", id=job.job_id, name=name, words=f"SLURM job {job.job_id}", run=task.job.name,
            study=str(task.composed.study), uri=str(task.composed.tracking.uri),
        )  # fmt: skip
        self._asked = 0.0
        return SlurmHandle(self, folder, job.job_id)

    def find_id(self, digest: str) -> str:
        """Returns the id of the job in the queue that has the run with an identity; "" if there is none."""
        folder = self.folder_of(digest)
        job_id = str(folder.record.get("id", ""))
        if not job_id and (job_id := self._find_by_name(folder)):
            _complete_submission(folder, job_id)
        return job_id if job_id and self.ask(job_id)[0] in ACTIVE else ""

    def describe(self, digest: str, job_id: str) -> str:
        """Returns a job in words, and where it runs."""
        del digest
        _, node, _ = self.ask(job_id)
        return f"SLURM job {job_id} {f'trains it on {node}' if node else 'waits for its turn'}"

    def build_handle(self, folder: JobFolder, job_id: str) -> SlurmHandle:
        """Returns the handle of a job."""
        return SlurmHandle(self, folder, job_id)

    def ask(self, job_id: str) -> tuple[str, str, str]:
        """Returns a job's state, its nodes, and SLURM's reason.

        The state is "" if SLURM does not answer, and GONE if it knows no such job.
        """
        if time.monotonic() - self._asked > ASK_EVERY_S:
            found = self._ask_queue()
            if found is None:
                return ("", "", "")
            self._states, self._asked = found, time.monotonic()
        return self._states.get(job_id, ("GONE", "", ""))

    def call(self, *words: str) -> str:
        """Runs one of SLURM's commands; returns what it prints, "" if it fails."""
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        if done.returncode:
            log.debug("%s: %s", shlex.join(words), done.stderr.strip())
        return done.stdout if done.returncode == 0 else ""

    def _ask_queue(self) -> dict[str, tuple[str, str, str]] | None:
        words = [
            "squeue",
            "--noheader",
            "--array",
            "--states=all",
            f"--user={getpass.getuser()}",
            "--format=%i|%T|%N|%r",
        ]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return None
        rows = [line.split("|", 3) for line in done.stdout.splitlines() if line.count("|") >= 3]
        return {job_id: (state, node, reason) for job_id, state, node, reason in rows}

    def _find_by_name(self, folder: JobFolder) -> str:
        """Returns the id of a job that was submitted by a leader which was killed before it could note the id."""
        out = self.call("squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%i|%j")
        for line in out.splitlines():
            job_id, _, name = line.partition("|")
            if name.endswith(folder.key):
                return job_id
        return ""

    def _parameters(self, name: str) -> dict[str, Any]:
        options = self.options
        given = {
            "job_name": name, "time": options.timeout_min, "nodes": 1, "ntasks_per_node": 1, "cpus_per_task": options.cpus,
            "signal_delay_s": SIGNAL_BEFORE_S, "partition": options.partition, "account": options.account, "qos": options.qos,
            "constraint": options.constraint, "gpus_per_node": int(options.gpus) or None,
            "setup": [OWN_TMPDIR, *(options.setup or [])],
            "mem": None if options.memory_gb is None else f"{options.memory_gb * 1000:.0f}M",
            "additional_parameters": {"requeue": True, "open_mode": "append", **(options.extra or {})},
        }  # fmt: skip
        return {key: value for key, value in given.items() if value is not None}


def _complete_submission(folder: JobFolder, job_id: str) -> None:
    """Gives a job its pickle, if the leader was killed between sbatch and the moment when submitit does so.

    Without it the job would wait for a minute and fail. The file is copied: a leader that lives yet moves its own.
    """
    place = folder.path / "slurm"
    wanted = place / f"{job_id}_submitted.pkl"
    found = [path for path in place.glob("*.pkl") if not path.name.endswith("_submitted.pkl")]
    if not wanted.exists() and found:
        write_atomically(wanted, found[0].read_bytes())


def _run(folder: str) -> None:
    """What a job calls on its node."""
    job_id = os.environ["SLURM_JOB_ID"]
    name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2").removeprefix("SIG")
    limit = TimeLimit(getattr(signal, f"SIG{name}"), ["scontrol", "requeue", job_id])
    work_remotely(folder, f"SLURM job {job_id}", limit=limit, node=os.environ.get("SLURMD_NODENAME", ""))


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-3:])[:400] or type(error).__name__
