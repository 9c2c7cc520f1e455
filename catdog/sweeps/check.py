"""Checks before the first job of a sweep starts, so that a mistake in the last job does not show only at the end of a night."""

import contextlib
import logging
import os
import sys
import traceback
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from catdog.config.schema import Config
from catdog.data.metrics import require_possible_metrics
from catdog.data.progress import reported_progress
from catdog.sweeps.executors.local import describe_death, start_process, start_server
from catdog.sweeps.jobs import JobState
from catdog.sweeps.options import ClusterOptions, LauncherOptions
from catdog.system.errors import EXIT_INTERRUPTED, UserError
from catdog.tracking.identity import Identity
from catdog.training.class_weights import require_known_classes

if TYPE_CHECKING:
    from catdog.data.dataset import Dataset

log = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0


def load_datasets(jobs: list[tuple[str, Config]]) -> list["Dataset"]:
    """Returns the data set of each job, loading each data set once.

    This runs before TensorFlow is imported anywhere, so that a user without a network learns of it at once.

    Args:
        jobs: (name, config) of each job.

    Raises:
        UserError: a data set cannot be loaded, or does not suit a job; it names the job.
    """
    from catdog.data.dataset import load_dataset, require_cats_and_dogs
    from catdog.data.description import describe_dataset

    loaded: dict[str, Dataset] = {}
    for name, config in jobs:
        key = str(config.dataset)
        if key not in loaded:
            try:
                loaded[key] = load_dataset(config.dataset)
                require_cats_and_dogs(loaded[key])
            except UserError as error:
                raise UserError(_in_job(str(error), name)) from error
            log.info("%s", describe_dataset(loaded[key]))
        try:
            require_known_classes(config.trainer, loaded[key].classes)
            require_possible_metrics(config, loaded[key].classes)
        except UserError as error:
            raise UserError(_in_job(str(error), name)) from error
    return [loaded[str(config.dataset)] for _, config in jobs]


def plan_runtimes(jobs: list[tuple[str, Config]], options: LauncherOptions | None = None) -> list[dict[str, str]]:
    """Returns the precision and the kind of device of each job, as they will be when it trains.

    Args:
        jobs: (name, config) of each job.
        options: the launcher's; None: this machine trains.

    Raises:
        UserError: a precision is not possible; it names the job.
    """
    from catdog.training.precision import plan_precision

    if isinstance(options, ClusterOptions):
        return [_plan_elsewhere(name, config, options.gpus) for name, config in jobs]
    planned = []
    for name, config in jobs:
        try:
            planned.append(plan_precision(config.trainer, ask=_ask_for_gpus).runtime)
        except UserError as error:
            raise UserError(_in_job(str(error), name)) from error
    return planned


def _plan_elsewhere(name: str, config: Config, gpus: float) -> dict[str, str]:
    from catdog.training.precision import plan_precision

    if not gpus:
        return plan_precision(config.trainer, ask=list).runtime
    if config.trainer.precision == "auto":
        message = (
            "trainer.precision: auto depends on the GPU, and this host cannot see those of the cluster. Name one: mixed_float16, "
            "mixed_bfloat16 (Ampere or newer) or float32."
        )
        raise UserError(_in_job(message, name))
    return {"precision": config.trainer.precision, "device": "gpu"}


def _ask_for_gpus() -> list[tuple[int, ...]]:
    """Returns TensorFlow's information about the GPUs, asking in another process: a sweep's leader never imports TensorFlow."""
    processes = start_server()
    receiver, sender = processes.Pipe(duplex=False)
    process = start_process(processes, _send_gpus, sender)
    sender.close()
    try:
        found: list[tuple[int, ...]] = receiver.recv()
    except EOFError:
        process.join()
        raise UserError(f"looking for GPUs: {describe_death(process.exitcode)}; nothing was started.") from None
    finally:
        process.join()
    return found


def _send_gpus(sender: Connection) -> None:
    from catdog.training.precision import read_capabilities

    sender.send(read_capabilities())


def decode_images(jobs: list[JobState], datasets: list["Dataset"]) -> None:
    """Decodes the jobs' images, once for each data set and size, so that too many unreadable images are found now.

    Raises:
        UserError: too many images are unreadable; it names the job.
    """
    done: set[tuple[int, int, str]] = set()
    for job, dataset in zip(jobs, datasets, strict=True):
        size, stored_as = job.config.preprocessing.image_size, job.config.preprocessing.stored_as
        if (id(dataset), size, stored_as) not in done:
            # Another size has the same unreadable files.
            is_known = any(known == id(dataset) for known, *_ in done)
            done.add((id(dataset), size, stored_as))
            try:
                for split in ("train", "val"):
                    dataset.load_split(split, size, file_only=is_known, stored_as=stored_as)
            except UserError as error:
                raise UserError(_in_job(str(error), job.name)) from error


def _in_job(message: str, name: str) -> str:
    return f"{message}\n       In {name}; nothing was started."


def check_single(config: Config, classes: int, identity: Identity) -> None:
    """Does for a single run, in this process, what `check_models` does for a sweep.

    Args:
        config: the run's.
        classes: number of classes.
        identity: the run's planned identity.

    Raises:
        UserError: the model cannot be built or run.
    """
    from catdog.training import preload  # noqa: F401  before Keras: it keeps TensorFlow's import quiet

    # isort: split
    import keras

    from catdog.training.check import check_run
    from catdog.training.precision import build_strategy, choose_precision

    policy = choose_precision(config.trainer, identity.runtime).policy
    build_strategy(config.trainer)
    check_run(config, classes, policy)
    # Otherwise Keras would number the layers of the model that trains after those of this one.
    keras.utils.clear_session()


def check_models(processes: Any, jobs: list[JobState], classes: list[int], *, elsewhere: bool = False) -> list[str]:
    """Builds every different model of the jobs once, so that one that cannot run is reported before anything has run.

    Args:
        processes: the context that starts processes.
        jobs: the sweep's.
        classes: each job's number of classes.
        elsewhere: whether the jobs train on other hosts, with other devices.

    Returns:
        The GPUs to give one each to the jobs, as CUDA_VISIBLE_DEVICES names them; empty if there are fewer than two.

    Raises:
        UserError: a model cannot be built or run; it names the job.
    """
    receiver, sender = processes.Pipe(duplex=False)
    planned = [(job.config, job.planned.identity) for job in jobs]
    process = start_process(processes, _build_all, planned, classes, sender, elsewhere)
    sender.close()
    try:
        failed, gpus = _receive_checks(receiver, len(jobs))
    except EOFError:
        process.join()
        raise UserError(f"checking the runs: {describe_death(process.exitcode)}; nothing was started.") from None
    finally:
        process.join()
    if failed:
        number, message, is_user_error = failed
        if not is_user_error:
            raise RuntimeError(f"checking {jobs[number].name}:\n{message}")
        raise UserError(_in_job(message, jobs[number].name))
    return gpus


def _receive_checks(receiver: Connection, total: int) -> tuple[tuple[int, str, bool] | None, list[str]]:
    """Shows how many runs are checked until the process sends its result; returns that: the failure if any, and the GPUs.

    Loading TensorFlow, before the first run, may take longer than all checks.

    Raises:
        EOFError: the process ended without a result.
    """
    with reported_progress("checking", total, "runs") as advance:
        while True:
            # Nothing new is reported too: a log file gets a line now and then also while TensorFlow is being loaded.
            message: tuple[str, Any] = receiver.recv() if receiver.poll(REPORT_EVERY_S) else ("checked", 0)
            kind, value = message
            if kind == "result":
                return value[0], value[1]
            if kind == "log":
                log.log(*value)
            else:
                advance(value)


class SendingHandler(logging.Handler):
    """Sends log records to the process that owns the terminal: printed from here, they would break up its progress bar."""

    def __init__(self, sender: Connection) -> None:
        super().__init__()
        self.sender = sender

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one record's level and text; without anybody to read it, it is lost."""
        with contextlib.suppress(OSError):
            self.sender.send(("log", (record.levelno, "%s", record.getMessage())))


def _build_all(jobs: list[tuple[Config, Identity]], classes: list[int], sender: Connection, elsewhere: bool) -> None:
    """Checks the runs; sends (kind, value) pairs: checked, log, and at the end the result: the failure, if any, and the GPUs."""
    from catdog.training.check import Checked, check_run
    from catdog.training.precision import build_strategy, choose_precision

    logging.basicConfig(level=logging.INFO, handlers=[SendingHandler(sender)])
    number = 0
    try:
        checked = Checked()
        for number, ((config, identity), count) in enumerate(zip(jobs, classes, strict=True)):  # noqa: B007
            if elsewhere:
                check_run(config, count, identity.runtime["precision"], checked)
                sender.send(("checked", 1))
                continue
            policy = choose_precision(config.trainer, identity.runtime).policy
            if checked.is_new("devices", config.trainer.devices, config.trainer.batch_size):
                build_strategy(config.trainer)
            check_run(config, count, policy, checked)
            sender.send(("checked", 1))
        sender.send(("result", (None, [] if elsewhere else _list_gpus())))
    except UserError as error:
        sender.send(("result", ((number, str(error), True), [])))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception:
        sender.send(("result", ((number, traceback.format_exc(), False), [])))


def _list_gpus() -> list[str]:
    from catdog.training.precision import configure_gpus

    count = len(configure_gpus())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:count] if visible else [str(number) for number in range(count)]
    return names if count > 1 else []
