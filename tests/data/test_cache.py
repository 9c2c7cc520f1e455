"""Decoded once, the same ever after, and noticed when it is not."""

import hashlib
import json
import logging
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from catdog.data import cache as cache_module
from catdog.data.cache import DecodedImages, load_cached_images, load_images
from catdog.data.images import decode_image
from catdog.system.errors import UserError

SIDE = 16


def digests_of(files: Sequence[Path]) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def load(files: Sequence[Path], cache: Path, height: int = SIDE, width: int = SIDE) -> DecodedImages:
    return load_images(files, digests_of(files), height=height, width=width, cache=cache)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Five drawn photos, the third of which is not one."""
    chance = np.random.default_rng(0)
    paths = [tmp_path / "photos" / f"{index}.png" for index in range(5)]
    paths[0].parent.mkdir()
    for path in paths:
        Image.fromarray(chance.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(path)
    paths[2].write_text("no photo")
    return paths


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def entry_of(cache: Path) -> Path:
    (entry,) = (path for path in (cache / "decoded").iterdir() if path.is_dir())
    return entry


def assert_nothing_left(cache: Path) -> None:
    assert [path.name for path in (cache / "decoded").iterdir() if not path.name.endswith(".lock")] == []


def test_rows_are_the_decoded_files(files: list[Path], cache: Path) -> None:
    decoded = load(files, cache, height=12, width=20)
    assert decoded.images.shape == (5, 12, 20, 3)
    assert decoded.images.dtype == np.uint8
    for index in (0, 1, 3, 4):
        np.testing.assert_array_equal(decoded.images[index], decode_image(files[index], 12, 20))
    assert not decoded.images[2].any()
    assert decoded.unreadable == {2: "not an image in a supported format"}


def test_images_are_mapped_and_read_only(files: list[Path], cache: Path) -> None:
    for decoded in (load(files, cache), load(files, cache)):
        assert isinstance(decoded.images, np.memmap)
        # What `release` relies on.
        assert decoded.images._mmap is not None
        with pytest.raises(ValueError, match="read-only"):
            decoded.images[0] = 1


def test_more_images_than_a_block(files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_BLOCK_BYTES", 2 * SIDE * SIDE * 3)
    decoded = load(files, cache)
    expected = [
        np.zeros((SIDE, SIDE, 3)) if index == 2 else decode_image(files[index], SIDE, SIDE) for index in range(5)
    ]
    np.testing.assert_array_equal(decoded.images, expected)
    assert list(decoded.unreadable) == [2]


def test_second_load_reads_no_file(files: list[Path], cache: Path, log: pytest.LogCaptureFixture) -> None:
    digests = digests_of(files)
    first = load(files, cache)
    assert "decoded 5 images to 16 x 16 in" in log.text
    assert "1 of them unreadable" in log.text
    for file in files:
        file.unlink()
    log.clear()
    second = load_images(files, digests, height=SIDE, width=SIDE, cache=cache)
    assert log.messages == ["5 decoded images from the cache, nothing decoded"]
    np.testing.assert_array_equal(second.images, first.images)
    assert second.unreadable == first.unreadable


def test_content_order_and_size_are_the_key(files: list[Path], cache: Path) -> None:
    first = load(files, cache)
    assert load(files, cache, height=SIDE + 1).images.shape == (5, SIDE + 1, SIDE, 3)
    assert load(files, cache, width=SIDE + 1).images.shape == (5, SIDE, SIDE + 1, 3)
    np.testing.assert_array_equal(load(files[::-1], cache).images, first.images[::-1])
    Image.new("RGB", (8, 8), "white").save(files[0])
    assert (load(files, cache).images[0] == 255).all()


def test_another_decoder_decodes_again(files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(files, cache)
    monkeypatch.setattr(cache_module, "DECODER_VERSION", "another")
    assert load_cached_images(digests_of(files), height=SIDE, width=SIDE, cache=cache) is None


def test_lookup_without_the_files(files: list[Path], cache: Path) -> None:
    digests = digests_of(files)
    assert load_cached_images(digests, height=SIDE, width=SIDE, cache=cache) is None
    assert not cache.exists()
    decoded = load(files, cache)
    found = load_cached_images(digests, height=SIDE, width=SIDE, cache=cache)
    assert found is not None
    np.testing.assert_array_equal(found.images, decoded.images)
    assert found.unreadable == decoded.unreadable
    assert load_cached_images(digests[1:], height=SIDE, width=SIDE, cache=cache) is None


def flip_byte(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a flipped pixel": lambda entry: flip_byte(entry / "images.npy", -1),
    "a flipped header byte": lambda entry: flip_byte(entry / "images.npy", 60),
    "cut short": lambda entry: os.truncate(entry / "images.npy", 1000),
    "empty": lambda entry: os.truncate(entry / "images.npy", 0),
    "no images": lambda entry: (entry / "images.npy").unlink(),
    "no meta": lambda entry: (entry / "meta.json").unlink(),
    "broken json": lambda entry: os.truncate(entry / "meta.json", 20),
    "other json": lambda entry: (entry / "meta.json").write_text("[]"),
    "edited meta": lambda entry: (entry / "meta.json").write_text(
        (entry / "meta.json").read_text().replace('"2":', '"3":')
    ),
    "binary meta": lambda entry: (entry / "meta.json").write_bytes(b"\xff\xfe\x00"),
    "nothing at all": lambda entry: [path.unlink() for path in entry.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_noticed_and_mended(files: list[Path], cache: Path, log: pytest.LogCaptureFixture, damage) -> None:
    first = load(files, cache)
    expected = np.array(first.images)
    del first
    damage(entry_of(cache))
    assert load_cached_images(digests_of(files), height=SIDE, width=SIDE, cache=cache) is None
    log.clear()
    again = load(files, cache)
    assert any("damaged" in record.message for record in log.records if record.levelno == logging.WARNING)
    np.testing.assert_array_equal(again.images, expected)
    assert again.unreadable == {2: "not an image in a supported format"}
    log.clear()
    load(files, cache)
    assert log.messages == ["5 decoded images from the cache, nothing decoded"]


@pytest.mark.parametrize("name", ["images.npy", "meta.json"])
def test_a_cache_cut_anywhere_is_never_used(files: list[Path], cache: Path, name: str) -> None:
    expected = np.array(load(files, cache).images)
    path = entry_of(cache) / name
    content = path.read_bytes()
    for cut in np.random.default_rng(0).integers(0, len(content), 25):
        path.write_bytes(content[:cut])
        assert load_cached_images(digests_of(files), height=SIDE, width=SIDE, cache=cache) is None, cut
    np.testing.assert_array_equal(load(files, cache).images, expected)


def test_a_reason_that_may_pass_is_not_kept(files: list[Path], cache: Path, log: pytest.LogCaptureFixture) -> None:
    digests = digests_of(files)
    hidden = files[0].rename(files[0].with_suffix(".away"))
    decoded = load_images(files, digests, height=SIDE, width=SIDE, cache=cache)
    assert decoded.unreadable[0] == "no such file"
    hidden.rename(files[0])
    mended = load_images(files, digests, height=SIDE, width=SIDE, cache=cache)
    assert list(mended.unreadable) == [2]
    assert mended.images[0].any()
    assert not [record for record in log.records if record.levelno >= logging.WARNING]


def load_after_barrier(
    files: list[Path], cache: Path, barrier: Barrier, messages: "multiprocessing.Queue[str]"
) -> None:
    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.put(record.getMessage())

    logging.basicConfig(level=logging.INFO, handlers=[Forward()])
    barrier.wait()
    decoded = load(files, cache, height=64, width=64)
    messages.put(f"sum {int(decoded.images.astype(int).sum())}")


def test_two_processes_decode_once(files: list[Path], cache: Path) -> None:
    many = [files[0], files[1], files[3]] * 500
    context = multiprocessing.get_context("spawn")
    barrier, messages = context.Barrier(2), context.Queue()
    processes = [context.Process(target=load_after_barrier, args=(many, cache, barrier, messages)) for _ in range(2)]
    for process in processes:
        process.start()
    said = [messages.get(timeout=30) for _ in range(5)]
    for process in processes:
        process.join(timeout=30)
        assert process.exitcode == 0
    messages.close()
    assert sum(message.startswith("decoded 1,500 images") for message in said) == 1
    assert said.count("another process is decoding these images: waiting for it") == 1
    assert said.count("1,500 decoded images from the cache, nothing decoded") == 1
    assert len({message for message in said if message.startswith("sum")}) == 1


def test_stages_of_killed_processes_are_removed_and_others_left(files: list[Path], cache: Path) -> None:
    load(files, cache)
    own = entry_of(cache).rename(entry_of(cache).with_name(entry_of(cache).name + ".partial"))
    abandoned, in_use = cache / "decoded" / "0a.partial", cache / "decoded" / "0b.partial"
    for stage in (abandoned, in_use):
        stage.mkdir()
        (stage / "images.npy").write_bytes(b"half")
    with FileLock(cache / "decoded" / "0b.lock"):
        assert load(files, cache).images.shape == (5, SIDE, SIDE, 3)
    assert (own.exists(), abandoned.exists(), in_use.exists()) == (False, False, True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_disk_that_refuses_more_leaves_nothing(files: list[Path], cache: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from catdog.data.cache import load_images
from catdog.system.errors import UserError

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    load_images([Path(sys.argv[1])] * 50, ["a"] * 50, height=64, width=64, cache=Path(sys.argv[2]))
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, files[0], cache], capture_output=True, text=True, check=True)
    assert "the disk is full" in done.stdout
    assert "dataset.cache" in done.stdout
    assert_nothing_left(cache)


def test_more_than_the_disk_holds_is_refused_at_once(files: list[Path], cache: Path) -> None:
    many = [files[0]] * 1_000_000
    with pytest.raises(UserError, match=r"needs .* MB, but its disk has .* MB left"):
        load_images(many, ["a"] * len(many), height=4096, width=4096, cache=cache)
    assert_nothing_left(cache)


def test_a_cache_that_is_a_file(files: list[Path], cache: Path) -> None:
    cache.write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write to the cache folder .*dataset\.cache"):
        load(files, cache)


def test_no_images_at_all(cache: Path) -> None:
    for _ in range(2):
        assert load([], cache).images.shape == (0, SIDE, SIDE, 3)


def test_files_and_digests_belong_together(files: list[Path], cache: Path) -> None:
    with pytest.raises(ValueError, match="5 files, but 4 digests"):
        load_images(files, digests_of(files)[1:], height=SIDE, width=SIDE, cache=cache)


def test_meta_is_plain_json(files: list[Path], cache: Path) -> None:
    load(files, cache)
    meta = json.loads((entry_of(cache) / "meta.json").read_text("utf-8"))
    assert meta["content"]["unreadable"] == {"2": "not an image in a supported format"}
