"""What makes two runs the same: config, data, code and libraries, each with a digest, and in words how they differ."""

import getpass
import hashlib
import importlib.metadata
import json
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from catdog.config import schema
from catdog.config.schema import Config

# Modules whose code decides what a trained model is; the others read, show or move results.
TRAINING_MODULES = (
    "config/schema.py",
    "data",
    "tracking/checkpoint.py",
    "training/augmentation.py",
    "training/callbacks.py",
    "training/class_weights.py",
    "training/fast",
    "training/input_stream.py",
    "training/loop.py",
    "training/losses.py",
    "training/model.py",
    "training/optimizers.py",
    "training/own_code.py",
    "training/own_models.py",
    "training/precision.py",
    "training/run.py",
)
# Libraries that compute what training computes with, or decode its images.
LIBRARIES = ("tensorflow", "keras", "numpy", "pillow", "opencv-python-headless")
DIGITS = 12
# Tags of a run, beside those of its config and data, on which its result depends; what precision `auto` is, the machine says.
PRECISION_TAG = "catdog.precision"
RESULT_TAGS = ("catdog.code_digest", "catdog.libraries", PRECISION_TAG)


@dataclass(frozen=True)
class Identity:
    """What a run's result depends on.

    Attributes:
        config: digest of what in the config affects training, the seed included.
        data: digest of the images' contents, classes and splits.
        code: digest of the modules that affect training.
        libraries: version by name.
        files: digest of each of those modules, by its path in the project; it explains, and does not count.
    """

    config: str
    data: str
    code: str
    libraries: Mapping[str, str]
    files: Mapping[str, str] = field(compare=False)

    @property
    def digest(self) -> str:
        """sha256 of the four, 64 hexadecimal digits."""
        return schema.hash_text(json.dumps([self.config, self.data, self.code, dict(self.libraries)], sort_keys=True))

    @property
    def tags(self) -> dict[str, str]:
        """What a run in MLflow carries of it."""
        return {
            "catdog.identity": self.digest,
            "catdog.config_digest": self.config,
            "catdog.data_digest": self.data,
            "catdog.code_digest": self.code,
            "catdog.code_files": json.dumps(dict(self.files)),
            "catdog.libraries": json.dumps(dict(self.libraries)),
        }


def identify(config: Config, data_digest: str) -> Identity:
    """Returns the identity of a run of this config on data with this digest."""
    files = _digest_code()
    code = schema.hash_text(json.dumps(files, sort_keys=True))
    return Identity(schema.hash_config(config, with_seed=True), data_digest, code, read_versions(), files)


@cache
def read_versions() -> dict[str, str]:
    """Returns the versions of the libraries that affect training, without importing them."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            # TensorFlow comes under several names, such as tensorflow-cpu.
            found[name] = "unknown"
    return found


@cache
def _digest_code() -> dict[str, str]:
    package = schema.PACKAGE
    return {
        file: hashlib.sha256((package.parent / file).read_bytes()).hexdigest()[:DIGITS]
        for file in list_training_files()
    }


def list_training_files() -> list[str]:
    """Returns the files whose code affects training, as "catdog/training/model.py", sorted."""
    package = schema.PACKAGE
    files = sorted(
        file
        for name in TRAINING_MODULES
        for file in ([package / name] if name.endswith(".py") else (package / name).rglob("*.py"))
    )
    return [file.relative_to(package.parent).as_posix() for file in files]


def describe_origin(command: str) -> dict[str, str]:
    """Returns the tags by which MLflow's pages show where a run came from: command, user and git commit, as far as known."""
    commit = read_git("rev-parse", "HEAD")
    try:
        user = {"mlflow.user": getpass.getuser()}
    except (OSError, KeyError, ImportError):
        # In a container, a user id may have no name.
        user = {}
    return {
        "mlflow.source.name": command,
        "mlflow.source.type": "LOCAL",
        **user,
        **({"mlflow.source.git.commit": commit.strip()} if commit else {}),
    }


def read_overrides(tags: Mapping[str, str]) -> list[str] | None:
    """Returns the overrides that a run was trained with, without its seed, from its tags; None where they are not known."""
    words = shlex.split(tags.get("mlflow.source.name", ""))
    if words[:3] != ["python", "-m", "catdog.train"]:
        return None
    return [word for word in words[3:] if not word.startswith("seed=") and word not in ("-m", "--multirun")]


def read_git(*arguments: str) -> str:
    """Returns what git prints in the project's checkout; nothing without git or a checkout of its own."""
    if not (schema.PROJECT / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(schema.PROJECT), *arguments], capture_output=True, text=True, timeout=30, check=False,
            errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def describe_libraries_change(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Returns such as "tensorflow 2.20.0 -> 2.21.0"; empty where nothing changed."""
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name, 'none')} -> {now.get(name, 'none')}" for name in changed)


def describe_code_change(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Returns such as "code changed: catdog/training/model.py"; empty where nothing changed."""
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return f"code changed: {_shorten(changed)}" if changed else ""


def describe_config_change(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Returns such as "config changed: trainer.epochs 10 -> 20"; both map dotted keys to values as MLflow has them."""
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    words = [f"{key} {before.get(key, 'none')} -> {now.get(key, 'none')}" for key in changed]
    return f"config changed: {_shorten(words)}" if words else ""


def _shorten(words: list[str], shown: int = 3) -> str:
    return ", ".join(words[:shown]) + (f" and {len(words) - shown} more" if len(words) > shown else "")
