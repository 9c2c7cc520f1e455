"""What makes two runs the same: config, data, code, libraries and runtime. Also describes in words how two runs differ."""

import getpass
import importlib.metadata
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from catdog.config import schema
from catdog.config.digest import hash_config, hash_text
from catdog.config.names import fold_mappings, show_value
from catdog.config.schema import Config
from catdog.system.errors import UserError
from catdog.tracking import tags as tag
from catdog.tracking.code_digest import digest_code, digest_script

# Libraries that do the computation of a training, or decode its images.
LIBRARIES = ("tensorflow", "keras", "numpy", "pillow", "opencv-python-headless")
DIGITS = 12


@dataclass(frozen=True)
class Identity:
    """What a run's result depends on.

    Attributes:
        config: digest of everything in the config that affects training, including the seed.
        data: digest of the images' contents, classes and splits.
        code: digest of what the code reached by training does, including the user's code.
        libraries: version by name.
        runtime: `precision`, with auto resolved, and `device`: cpu or gpu; empty if another tool trained the run.
        files: digest of what counts in each file of that code. It serves explanations and is not part of the identity.
        sources: the text of each of the user's own files.
    """

    config: str
    data: str
    code: str
    libraries: Mapping[str, str]
    runtime: Mapping[str, str]
    files: Mapping[str, str] = field(compare=False)
    sources: Mapping[str, str] = field(compare=False, repr=False)

    @property
    def digest(self) -> str:
        """sha256 of the five, 64 hexadecimal digits."""
        parts = [self.config, self.data, self.code, dict(self.libraries), dict(self.runtime)]
        return hash_text(json.dumps(parts, sort_keys=True))

    @property
    def tags(self) -> dict[str, str]:
        """The tags that record the identity on an MLflow run."""
        return {
            **{f"catdog.{name}": value for name, value in self.runtime.items()},
            tag.IDENTITY: self.digest,
            **tag.gather({
                tag.CONFIG_DIGEST: self.config,
                tag.DATA_DIGEST: self.data,
                tag.CODE_DIGEST: self.code,
                tag.LIBRARIES: json.dumps(dict(self.libraries)),
                tag.CODE_FILES: json.dumps(dict(self.files)),
            }),
        }  # fmt: skip


def identify(config: Config, data_digest: str, runtime: Mapping[str, str]) -> Identity:
    """Returns the identity of a run.

    Args:
        config: the run's.
        data_digest: digest of its images and their splits.
        runtime: precision and device, as `catdog.training.precision.Precision.runtime` has them.

    Raises:
        UserError: the config names a user's function whose module does not exist or cannot be read.
    """
    references = schema.find_references(config)
    try:
        code = digest_code(user_references=references.values())
    except UserError as error:
        key = next((key for key, reference in references.items() if str(error).startswith(f"{reference}:")), "")
        if not key:
            raise
        raise UserError(f"{key}: {error}") from error
    libraries = read_versions() | _read_distributions(code.libraries)
    return Identity(
        hash_config(config, with_seed=True), data_digest, code.digest, libraries, dict(runtime), code.files,
        code.sources,
    )  # fmt: skip


def hash_before_data(configs: Sequence[Config]) -> str:
    """Returns a digest of what is known of the identities of runs before any image is read; no library is imported for it.

    Equal digests mean equal identities as long as the images are the same.

    Args:
        configs: those of the runs, in order.

    Raises:
        UserError: as `identify`.
    """
    parts = [
        [
            hash_config(config, with_seed=True), asdict(config.dataset), config.trainer.precision,
            digest_code(user_references=schema.find_references(config).values()).digest,
        ]
        for config in configs
    ]  # fmt: skip
    return hash_text(json.dumps([parts, read_versions()], sort_keys=True))


def identify_script(
    variant: str, config: Mapping[str, Any], seed: int, data_digest: str, scripts: Mapping[Path, str]
) -> Identity:
    """Returns the identity of a run that a user's script trains.

    Args:
        variant: the variant's name.
        config: values that JSON can hold, without the seed.
        seed: the run's.
        data_digest: digest of its images and their splits.
        scripts: the text of each script, by its file.
    """
    code = digest_script(scripts)
    content = hash_settings(variant, config, seed)
    # Of the libraries, only those count that the script imports.
    libraries = _read_distributions(code.libraries)
    return Identity(content, data_digest, code.digest, libraries, {}, code.files, code.sources)


def hash_settings(variant: str, config: Mapping[str, Any], seed: int | None = None) -> str:
    """Returns the digest of the settings that a script gives for a run; without a seed, that of its variant."""
    return hash_text(json.dumps([variant, config, *([] if seed is None else [seed])], sort_keys=True))


def _read_distributions(modules: Iterable[str]) -> dict[str, str]:
    """Returns the version of each distribution that provides one of these modules, by its name."""
    found = {}
    for module in modules:
        try:
            found[module] = importlib.metadata.version(module)
        except importlib.metadata.PackageNotFoundError:
            for name in _list_distributions().get(module, []):
                found[name.lower()] = importlib.metadata.version(name)
    return found


@cache
def _list_distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


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


def list_training_modules() -> list[str]:
    """Returns catdog's modules that every training imports, sorted, without those that only watch."""
    return list(digest_code().modules)


def script_command() -> str:
    """Returns the command that started the running script."""
    return shlex.join(["python", *sys.argv]) if sys.argv and sys.argv[0] else "python"


def describe_origin(command: str) -> dict[str, str]:
    """Returns the tags that MLflow's pages use to show a run's origin: command, user and git commit, as far as they are known."""
    commit = read_git("rev-parse", "HEAD")
    try:
        user = {"mlflow.user": getpass.getuser()}
    except (OSError, KeyError, ImportError):
        # In a container, a user id may have no user name.
        user = {}
    return {
        tag.SOURCE: command,
        "mlflow.source.type": "LOCAL",
        **user,
        **({"mlflow.source.git.commit": commit.strip()} if commit else {}),
    }


def read_git(*arguments: str) -> str:
    """Returns what git prints in the project's checkout; "" without git or without a checkout."""
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
    """Returns text such as "tensorflow 2.20.0 -> 2.21.0"; "" if nothing changed."""
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name, 'none')} -> {now.get(name, 'none')}" for name in changed)


def describe_runtime_change(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Returns text such as "precision float32 -> mixed_bfloat16"; "" if no difference is known.

    Args:
        before: the runtime of a run: `precision` and `device`, as far as they are known.
        now: that of another.
    """
    words = [
        f"{name} {before[name]} -> {now[name]}"
        for name in ("precision", "device")
        if name in before and name in now and before[name] != now[name]
    ]
    return ", ".join(words)


def describe_code_change(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Returns text such as "code changed: catdog/training/model.py"; "" if nothing changed."""
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return f"code changed: {_shorten(changed)}" if changed else ""


def describe_config_change(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Returns text such as "config changed: trainer.epochs 10 -> 20"; both arguments map dotted keys to MLflow's param values.

    A mapping that one of them lacks, such as a layer, is named once.
    """
    before, now = fold_mappings([before, now])
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    words = [f"{key} {show_value(before.get(key, 'none'))} -> {show_value(now.get(key, 'none'))}" for key in changed]
    return f"config changed: {_shorten(words)}" if words else ""


def _shorten(words: list[str], shown: int = 3) -> str:
    return ", ".join(words[:shown]) + (f" and {len(words) - shown} more" if len(words) > shown else "")
