"""The early look for a process that trains the same already."""

import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support import PROJECT, compose_config

from catdog.config.schema import Config
from catdog.sweeps.busy import require_idle
from catdog.system.errors import UserError
from catdog.tracking.identity import hash_before_data
from catdog.tracking.outbox import Entry, entry_for


@pytest.fixture
def config(images: Path, tmp_path: Path) -> Config:
    # Older than the entry, as if they had been there for long.
    for place in (images, *images.rglob("*")):
        os.utime(place, (time.time() - 60, time.time() - 60))
    return compose_config(
        "model=cnn", "dataset=folder", f"dataset.archive={images}", f"tracking.outbox={tmp_path}/out", "study=flowers"
    )


def claim(configs: list[Config], kind: str = "run") -> Entry:
    """Returns the entry of a run or sweep that this process works on."""
    tracking, study = configs[0].tracking, configs[0].study
    facts = {
        "kind": kind,
        "name": "cnn",
        "study": study,
        "tracking": asdict(tracking),
        "before_data": hash_before_data(configs),
    }
    return entry_for(Path(tracking.outbox), tracking.uri, study, kind, "identity").claim(facts)


def test_the_same_run_is_busy_as_long_as_its_process_works(config: Config) -> None:
    require_idle([config], sweep=False)
    entry = claim([config])
    said = rf"^cnn: process {os.getpid()} on .* trains it right now\. Wait for it, or train another seed: seed=1\.$"
    with pytest.raises(UserError, match=said):
        require_idle([config], sweep=False)
    require_idle([config], sweep=True)
    for other in (replace(config, seed=1), replace(config, study="other"), compose_config("model=augmented")):
        require_idle([other], sweep=False)
    entry.release()
    require_idle([config], sweep=False)


def test_the_same_sweep_is_busy_in_its_order(config: Config) -> None:
    both = [config, replace(config, seed=1)]
    entry = claim(both, "sweep")
    with pytest.raises(UserError, match=rf"^process {os.getpid()} on .* is running this sweep right now\."):
        require_idle(both, sweep=True)
    require_idle(both[::-1], sweep=True)
    require_idle([config], sweep=True)
    entry.release()


def test_images_that_were_added_since_make_another_run(config: Config, images: Path) -> None:
    entry = claim([config])
    (images / "cats" / "new.jpg").touch()
    os.utime(images / "cats", (time.time() + 1, time.time() + 1))
    require_idle([config], sweep=False)
    entry.release()


def test_nothing_slow_is_imported_for_it() -> None:
    code = (
        "import sys, catdog.train, catdog.sweeps.busy\n"
        "print(sorted({'mlflow', 'pandas', 'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
