"""What tests call: the commands as a user types them, small images, and the folder of a study."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from PIL import Image

from catdog.config import schema
from catdog.config.schema import CONF, Config, load_config

PROJECT = Path(__file__).resolve().parent.parent
# A user's own settings must not reach the tests.
OURS = ("CATDOG_ARCHIVE", "CATDOG_WEIGHTS", "CATDOG_CACHE", "MLFLOW_TRACKING_URI")
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


def run_catdog(folder: Path, cache: Path, *arguments: str, timeout_s: float = 300, **environment: str) -> Done:
    """Runs `python -m catdog.COMMAND ...` in a folder, as a user would, and returns how it ended."""
    env = {key: value for key, value in os.environ.items() if key not in OURS}
    env |= {"CATDOG_CACHE": str(cache), "PYTHONPATH": str(PROJECT), "VIRTUAL_ENV": sys.prefix, **environment}
    command, *rest = arguments
    done = subprocess.run(
        [sys.executable, "-m", f"catdog.{command}", *rest], cwd=folder, env=env, capture_output=True, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


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
