"""What tests call: the commands as a user types them, small images, and the folder of a study."""

import contextlib
import copy
import gc
import io
import logging
import os
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from forked import Forked, ForkServer
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from PIL import Image

from catdog.config import schema
from catdog.config.schema import CONF, Config, load_config
from catdog.system import terminal

PROJECT = Path(__file__).resolve().parent.parent
# A user's own settings must not reach the tests.
OURS = ("CATDOG_ARCHIVE", "CATDOG_WEIGHTS", "CATDOG_CACHE", "MLFLOW_TRACKING_URI")
# Whose levels conf/hydra/job_logging sets.
LOGGERS = ("catdog", "mlflow", "alembic", "absl", "h5py", "matplotlib", "git", "urllib3", "tensorflow")
TINY = ("dataset=synthetic", "dataset.drawing.train_per_class=24", "dataset.drawing.validation_per_class=20",
        "preprocessing.image_size=48", "trainer.batch_size=16", "trainer.epochs=2")  # fmt: skip


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


Catdog = Callable[..., Done]
_forks = ForkServer()


def run_catdog(folder: Path, cache: Path, *arguments: str, timeout_s: float = 300, **environment: str) -> Done:
    """Runs `python -m catdog.COMMAND ...` in a folder, as a user would, and returns how it ended.

    Args:
        folder: where it runs.
        cache: for CATDOG_CACHE.
        arguments: the command, and its own.
        timeout_s: of a process of its own.
        environment: variables. A command that trains, or has variables, is a process of its own; others lead or only read, and
            run in this process.
    """
    command, *rest = arguments
    alone = command in ("train", "__main__") and not {"-m", "--cfg", "--help"} & set(rest)
    if not (environment or alone):
        with _like_a_process(folder, {"CATDOG_CACHE": str(cache), "VIRTUAL_ENV": sys.prefix}, [command, *rest]):
            return _run_module(command)
    env = {"CATDOG_CACHE": str(cache), "PYTHONPATH": str(PROJECT), "VIRTUAL_ENV": sys.prefix, **environment}
    return run_python(folder, "-m", f"catdog.{command}", *rest, timeout_s=timeout_s, **env)


def run_python(folder: Path, *program: str, timeout_s: float = 300, **environment: str) -> Done:
    """Runs `python PROGRAM` in a folder, as a process of its own, and returns how it ended.

    Args:
        folder: where it runs.
        program: -m and a module, -c and code, or a file; then its arguments.
        timeout_s: after so many seconds it is killed.
        environment: variables, beside this process's own.
    """
    env = _own_environment() | environment
    if set(environment) <= {*OURS, "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR"}:
        return Done(*_forks.run(list(program), folder, env, timeout_s))
    # Libraries may read the other variables when they are imported.
    done = subprocess.run(
        [sys.executable, *program], cwd=folder, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def start_catdog(folder: Path, cache: Path, *arguments: str) -> Forked:
    """Starts `python -m catdog.COMMAND ...` in a process group of its own, as in a terminal; stderr is in its stdout."""
    command, *rest = arguments
    env = {"CATDOG_CACHE": str(cache), "PYTHONPATH": str(PROJECT), "VIRTUAL_ENV": sys.prefix}
    return start_python(folder, "-m", f"catdog.{command}", *rest, **env)


def start_python(folder: Path, *program: str, **environment: str) -> Forked:
    """Starts `python PROGRAM`, as `run_python` runs it; it leads a process group, and stderr is in its stdout."""
    return _forks.start(list(program), folder, _own_environment() | environment)


def _own_environment() -> dict[str, str]:
    """This process's variables, without a user's settings and those in which MLflow keeps the store that it used last."""
    return {key: value for key, value in os.environ.items() if key not in OURS and not key.startswith("MLFLOW_")}


def _run_module(command: str) -> Done:
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module(f"catdog.{command}", run_name="__main__", alter_sys=True)
        except SystemExit as exit:
            code = exit.code
        except Exception:
            # As Python does with an exception that nobody catches.
            traceback.print_exc()
            code = 1
    return Done(code if isinstance(code, int) else 0 if code is None else 1, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _like_a_process(folder: Path, environment: dict[str, str], argv: list[str]) -> Iterator[None]:
    """Gives a command the process that it expects, and puts back what it changes: commands may, what is below them must not."""
    former = (Path.cwd(), sys.argv, dict(os.environ), sys.path[:], terminal.console.stderr)
    showed_progress = terminal.shows_progress
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    root = logging.getLogger()
    logged = (root.handlers[:], root.level)
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    # A command's logging config closes all handlers that it finds; TensorFlow's would close pytest's stderr.
    known, logging._handlerList[:] = logging._handlerList[:], []
    # Hydra's plugins register what they bring once, and it is to stay; what a command registers is for that command.
    Plugins.instance()
    store = ConfigStore.instance()
    registered, store.repo = store.repo, copy.deepcopy(store.repo)
    os.chdir(folder)
    for key in OURS:
        os.environ.pop(key, None)
    os.environ |= environment
    sys.argv = argv
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    finally:
        store.repo = registered
        os.chdir(former[0])
        # The folder for temporary files stays: multiprocessing has its sockets in it.
        kept = {key: os.environ[key] for key in ("TMPDIR",) if key in os.environ}
        os.environ.clear()
        os.environ |= former[2] | kept
        sys.argv, sys.path[:], terminal.console.stderr = former[1], former[3], former[4]
        terminal.shows_progress = showed_progress
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for handler in set(root.handlers) - set(logged[0]):
            handler.close()
        root.handlers[:], root.level = logged
        logging._handlerList[:0] = known
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        gc.unfreeze()
        gc.enable()


def compose_config(*overrides: str) -> Config:
    """Returns a run's config, composed in this process."""
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_config(compose("config", overrides=list(overrides)), Config)


@dataclass(frozen=True)
class Study:
    """The folder in which a sweep was run, and what it printed."""

    folder: Path
    cache: Path
    sweep: Done

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlruns/mlflow.db"

    def run(self, *arguments: str, **options: str) -> Done:
        return run_catdog(self.folder, self.cache, *arguments, **options)


def write_images(folder: Path, count: int, seed: int = 0, size: int = 24) -> None:
    """Writes `count` different noise JPEGs into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *folder.name.encode()])
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{number:03d}.jpg")
