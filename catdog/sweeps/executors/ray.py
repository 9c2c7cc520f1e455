"""Trains runs as detached actors of a Ray cluster: one resumable actor for each run."""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

from catdog.sweeps.executors.executor import Task
from catdog.sweeps.executors.remote import (
    LINGER_S,
    LOOK_EVERY_S,
    ClusterExecutor,
    JobFolder,
    RemoteHandle,
    name_job,
    work_remotely,
)
from catdog.sweeps.options import RayOptions
from catdog.sweeps.worker import OUTPUT, take_output
from catdog.system.errors import UserError

log = logging.getLogger(__name__)

NAMESPACE = "catdog"
CONNECT_S = 10.0
UNSEEN = "does not see the folder"
# The variables of the command that its runs get. They are sent to the actor, and lie in no file: some are secrets.
PASSED = ("CATDOG_", "MLFLOW_", "AWS_", "PG", "TF_", "XLA_", "KERAS_")


class RayHandle(RemoteHandle):
    """An actor that trains a run.

    Args:
        executor: which started or found it.
        folder: of the run.
        actor: Ray's handle; None: it has ended.
        end: Ray's reference to an answer of the actor, which can only come once it has ended; None: it has ended.
    """

    def __init__(self, executor: "RayExecutor", folder: JobFolder, actor: Any, end: Any) -> None:
        super().__init__(folder)
        self.executor = executor
        self.actor = actor
        self.end = end

    def ask_end(self) -> str | None:
        """Returns how the actor ended, in words; None if it has not."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayError

        if self.end is None:
            return "it has ended"
        if not ray.wait([self.end], timeout=0)[0]:
            return None
        words = str(self.folder.record.get("words", "the Ray actor"))
        try:
            ray.get(self.end)
        except ActorUnavailableError:
            # Its node is lost, and Ray starts it again on another one.
            self.end = self.actor.answer.remote()
            return None
        except RayError as error:
            if UNSEEN in str(error):
                self.retry = "never"
            return f"{words}: {_shorten(error)}"
        return f"{words} has ended"

    def read_output(self) -> str:
        """Returns what the run has printed."""
        with contextlib.suppress(OSError):
            return (self.folder.path / OUTPUT).read_text(errors="replace")
        return ""

    def stop(self) -> None:
        """Lets a run close; ends an actor that waits for its turn."""
        if self.started is None:
            self.kill()
        else:
            self.folder.stop.touch()

    def kill(self) -> None:
        """Ends the actor at once."""
        import ray

        if self.actor is not None:
            ray.kill(self.actor)


class RayExecutor(ClusterExecutor):
    """Starts runs as actors.

    Args:
        options: the launcher's.
        outbox: the folder that all hosts see.

    Raises:
        UserError: ray is not installed, or there is no cluster.
    """

    def __init__(self, options: RayOptions, outbox: Path) -> None:
        super().__init__(options, outbox)
        self.options = options
        try:
            import ray  # noqa: F401
        except ImportError:
            raise UserError("hydra/launcher: ray needs Ray: pip install 'catdog[ray]'.") from None
        _connect(options.address)
        self._warn_if_too_small()

    def submit(self, task: Task) -> RayHandle:
        """Starts an actor for a run; it waits until a node has room for it."""
        import ray

        assert task.job.identity is not None
        folder = self.folder_of(task.job.identity.digest)
        folder.prepare(task, self.options.cpus)
        name = name_job(task, folder)
        options = self.options
        memory = {} if options.memory_gb is None else {"memory": int(options.memory_gb * 1e9)}
        path = os.environ.get("PYTHONPATH")
        # Ray starts the actor again if its node is lost, also when nobody watches.
        kind = ray.remote(Trainer).options(
            name=name, namespace=NAMESPACE, lifetime="detached", max_restarts=-1, num_cpus=options.cpus, num_gpus=options.gpus,
            resources=dict(options.resources or {}), runtime_env={"env_vars": {"PYTHONPATH": path}} if path else None, **memory,
        )  # fmt: skip
        environment = {key: value for key, value in os.environ.items() if key.startswith(PASSED)}
        actor = _create(kind, str(folder.path), str(Path.cwd()), environment)
        words = _name_actor(actor._actor_id)
        folder.save_record(
            executor="ray", id=name, name=name, words=words, run=task.job.name, study=str(task.composed.study),
            uri=str(task.composed.tracking.uri),
        )  # fmt: skip
        return RayHandle(self, folder, actor, actor.answer.remote())

    def find_id(self, digest: str) -> str:
        """Returns the name of the actor that has the run with an identity; "" if there is none."""
        import ray

        key = self.folder_of(digest).key
        actors = ray.util.list_named_actors(all_namespaces=True)
        names = [each["name"] for each in actors if each["namespace"] == NAMESPACE]
        return next((name for name in names if name.endswith(key)), "")

    def describe(self, digest: str, job_id: str) -> str:
        """Returns an actor in words, and where it runs."""
        del job_id
        folder = self.folder_of(digest)
        hosts = [value["host"] for kind, value in folder.mailbox.collect() if kind == "began"]
        return f"{folder.record.get('words', 'a Ray actor')} {f'trains it on {hosts[-1]}' if hosts else 'waits for its turn'}"

    def build_handle(self, folder: JobFolder, job_id: str) -> RayHandle:
        """Returns the handle of an actor that an earlier command has started."""
        import ray

        try:
            actor = ray.get_actor(job_id, namespace=NAMESPACE)
        except ValueError:
            return RayHandle(self, folder, None, None)
        return RayHandle(self, folder, actor, actor.answer.remote())

    def _warn_if_too_small(self) -> None:
        import ray

        options = self.options
        wanted = {
            "CPU": options.cpus,
            "GPU": options.gpus,
            "memory": (options.memory_gb or 0) * 1e9,
            **(options.resources or {}),
        }
        nodes = [each["Resources"] for each in ray.nodes() if each["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
            shown = ", ".join(
                f"{amount / 1e9:g} GB of memory" if name == "memory" else f"{amount:g} {name}"
                for name, amount in wanted.items()
                if amount
            )
            log.warning("no node of the Ray cluster has %s: the runs wait until one joins", shown)


class Trainer:
    """The actor: it trains one run while it is constructed, and ends. A method that is called would be lost with its caller.

    Args:
        folder: of the run.
        cwd: the folder in which the command was typed.
        environment: variables to set.

    Raises:
        RuntimeError: this host does not see a folder, or a former process of this actor has died.
    """

    def __init__(self, folder: str, cwd: str, environment: dict[str, str]) -> None:
        import ray

        for each in (folder, cwd):
            if not Path(each).is_dir():
                raise RuntimeError(
                    f"{socket.gethostname()} {UNSEEN} {each}. All nodes must see the current folder and tracking.outbox, under "
                    "the same path."
                )
        context = ray.get_runtime_context()
        node, job = context.get_node_id(), _name_actor(context.get_actor_id())
        began = [
            value for kind, value in JobFolder.at(folder).mailbox.collect() if kind == "began" and value["job"] == job
        ]
        if began and any(each["NodeID"] == began[-1]["node"] and each["Alive"] for each in ray.nodes()):
            # Ray starts it again because its process died, not because its node was lost. That is counted by the leader.
            raise RuntimeError("its process died; it was killed, had no memory, or crashed")
        os.chdir(cwd)
        os.environ.update(environment)
        take_output(Path(folder) / OUTPUT)
        with contextlib.suppress(SystemExit):
            work_remotely(folder, job, node=node)
        # It would keep its CPUs and GPUs.
        ray.actor.exit_actor()

    def answer(self) -> None:
        """Does nothing: Ray does not ask before the actor is constructed."""


def _name_actor(actor_id: Any) -> str:
    return f"Ray actor {(actor_id if isinstance(actor_id, str) else actor_id.hex())[:8]}"


def _create(kind: Any, *args: Any) -> Any:
    """Starts an actor, once a former one of the same name is gone.

    Raises:
        UserError: it does not go.
    """
    deadline = time.monotonic() + LINGER_S
    while True:
        try:
            return kind.remote(*args)
        except ValueError as error:
            if time.monotonic() > deadline:
                raise UserError(f"hydra/launcher: Ray starts no actor for the run: {_shorten(error)}") from error
            time.sleep(LOOK_EVERY_S)


def _connect(address: str) -> None:
    """Connects this process to a cluster, unless it is.

    Raises:
        UserError: there is none.
    """
    import ray

    if ray.is_initialized():
        return
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        _knock(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
        # It would print what its nodes report between our own lines, also with log_to_driver=False (Ray 2.60).
        ray._private.worker.print_to_stdstream = lambda data, **_: log.debug("%s", data.get("lines"))
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"hydra.launcher.address: no Ray cluster answers at {address!r}: {_shorten(error)}. Start one with "
            "`ray start --head`, type this on a host that belongs to it, or leave hydra/launcher out."
        ) from error
    finally:
        # Ray takes SIGTERM for itself.
        if is_main:
            signal.signal(signal.SIGTERM, before)


def _knock(address: str) -> None:
    """Raises an OSError if nobody listens at an address: Ray would try for minutes (2.60)."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()


def _shorten(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[-1].startswith("RuntimeError: "):
        # The actor's own words, below its traceback.
        return lines[-1].removeprefix("RuntimeError: ").rstrip(".")
    known = [
        line
        for line in lines
        if not line.startswith(("class_name:", "actor_id:", "pid:", "name:", "namespace:", "ip:"))
    ]
    return " ".join(known)[:400].rstrip(".") or type(error).__name__
