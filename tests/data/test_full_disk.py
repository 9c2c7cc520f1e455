"""A disk that is full in any phase of a first start: one message, nothing that is half-written, and the next start succeeds."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import PROJECT

from catdog.data.digests import YOUNG_NS

# The limit on the size of files stands for a full disk: writes fail with an error like that of one.
SCRIPT = """
import logging, resource, signal, sys
from pathlib import Path
from catdog.data import kept_manifest
from catdog.data.dataset import load_dataset
from catdog.system.errors import UserError
from support import compose_config

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(message)s")
kept_manifest.LEAST_IMAGES = 10
config = compose_config("dataset=folder", f"dataset.archive={sys.argv[1]}", f"dataset.cache={sys.argv[2]}")
for limit in (3_000, 30_000, 300_000, resource.RLIM_INFINITY):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    print("LIMIT", limit)
    try:
        dataset = load_dataset(config.dataset)
        found = [len(dataset.load_split(split, 64)) for split in ("train", "val")]
        print("DONE", dataset.manifest.digest, *found)
    except UserError as error:
        print("ERROR", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_full_disk_in_each_phase_is_one_message_and_the_next_start_succeeds(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for split, count in (("train", 80), ("validation", 40)):
        for label in ("a", "b"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                small = Image.fromarray(chance.integers(0, 256, (5, 5, 3), dtype=np.uint8))
                small.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.png")

    # Digests of files that have just changed are not kept.
    time.sleep(YOUNG_NS / 1e9)

    def start(cache: str) -> list[str]:
        command = [sys.executable, "-c", SCRIPT, tmp_path / "photos", tmp_path / cache]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            cwd=PROJECT,
            env={"PYTHONPATH": f"{PROJECT}:{PROJECT}/tests"},
        )
        return done.stdout.split("LIMIT ")[1:]

    digests, duplicates, decoding, unlimited = start("cache")
    assert "the digests of the files below" in digests
    for said, folder in ((digests, "duplicates"), (duplicates, "duplicates"), (decoding, "decoded")):
        (error,) = (line for line in said.splitlines() if line.startswith("ERROR"))
        assert f"cannot write to the cache folder {tmp_path / 'cache' / folder}" in error
        assert "the disk is full" in error
    (result,) = (line for line in unlimited.splitlines() if line.startswith("DONE"))
    # The same as where no disk was full.
    assert result in start("other")[-1]
    assert result.endswith(" 160 40")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.endswith(".partial")]
