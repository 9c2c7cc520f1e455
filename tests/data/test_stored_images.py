"""Images that are decoded or checked when they are read, and decoding that goes on after a kill."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from catdog.data import cache as cache_module
from catdog.data.cache import DecodedImages, load_images
from catdog.data.cache_contents import list_cached
from catdog.data.dataset import SplitImages
from catdog.data.images import decode_image
from catdog.data.stored_images import CheckedPixels, JpegImages
from catdog.system.errors import UserError
from catdog.training.input_stream import build_eval_stream, build_train_stream, count_steps
from catdog.training.stages import explain_reading

SIDE = 48


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Nine photos of soft colours, the third of which is not one."""
    chance = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = [folder / f"{index}.png" for index in range(9)]
    for path in paths:
        small = Image.fromarray(chance.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((80, 60), Image.Resampling.BICUBIC).save(path)
    paths[2].write_text("no photo")
    return paths


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def load(files: Sequence[Path], cache: Path, as_jpeg: bool = False) -> DecodedImages:
    digests = [hashlib.sha256(str(file).encode()).hexdigest() for file in files]
    return load_images(files, digests, height=SIDE, width=SIDE, cache=cache, as_jpeg=as_jpeg)


def entry_of(cache: Path) -> Path:
    (entry,) = (path for path in (cache / "decoded").iterdir() if path.is_dir())
    return entry


def expect(files: Sequence[Path]) -> np.ndarray:
    return np.stack([
        np.zeros((SIDE, SIDE, 3), np.uint8) if index == 2 else decode_image(file, SIDE, SIDE)
        for index, file in enumerate(files)
    ])  # fmt: skip


def test_jpegs_are_nearly_the_pixels_in_less_space(files: list[Path], cache: Path) -> None:
    for decoded in (load(files, cache, as_jpeg=True), load(files, cache, as_jpeg=True)):
        assert isinstance(decoded.images, JpegImages)
        assert decoded.images.shape == (9, SIDE, SIDE, 3)
        assert decoded.unreadable == {2: "not an image in a supported format"}
        rows = np.array([8, 2, 0, 5, 5])
        found, pixels = decoded.images[rows].astype(int), expect(files)[rows].astype(int)
        assert np.abs(found - pixels).mean() < 2
        assert np.abs(found - pixels).max() < 25
        np.testing.assert_array_equal(decoded.images[8], found[0])
    assert (entry_of(cache) / "images.jpegs").stat().st_size < 0.3 * 9 * SIDE * SIDE * 3


def test_jpegs_are_the_same_however_they_are_read(files: list[Path], cache: Path) -> None:
    images = load(files, cache, as_jpeg=True).images
    together = images[np.arange(9)]
    np.testing.assert_array_equal(together, np.stack([images[row] for row in range(9)]))
    np.testing.assert_array_equal(together, load(files, cache / "other", as_jpeg=True).images[np.arange(9)])


def test_no_jpegs_at_all(cache: Path) -> None:
    for _ in range(2):
        assert load([], cache, as_jpeg=True).images.shape == (0, SIDE, SIDE, 3)


@pytest.mark.parametrize("as_jpeg", [True, False], ids=["jpeg", "pixels"])
def test_a_damaged_image_is_decoded_again(
    files: list[Path], cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, as_jpeg: bool
) -> None:
    monkeypatch.setattr(cache_module, "_LARGE_BYTES", 0)
    monkeypatch.setattr(cache_module, "_BLOCK_BYTES", 3 * SIDE * SIDE * 3)
    expected = np.array(load(files, cache, as_jpeg).images[np.arange(9)])
    (path,) = entry_of(cache).glob("images.*")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    caplog.set_level(logging.INFO)
    images = load(files, cache, as_jpeg).images
    assert isinstance(images, JpegImages if as_jpeg else CheckedPixels)
    assert "nothing decoded" in caplog.text
    for rows in (np.array([8, 0]), np.arange(9)):
        np.testing.assert_array_equal(images[rows][-1], expected[rows][-1])
    # Files that are gone do not matter where the cache is sound.
    files[0].unlink()
    files[8].unlink()
    np.testing.assert_array_equal(images[np.array([0, 1])], expected[:2])
    assert caplog.text.count("are damaged, and decoded again") == 1
    with pytest.raises(UserError, match=r"is damaged, and the image .*8\.png cannot be read again: no such file"):
        images[np.array([8])]
    # In a training as well, where TensorFlow makes an exception of its own of it.
    split = SplitImages(images, np.array([1, 8]), np.zeros(2, np.int32), ("1", "8"), ("a", "b"), {})
    with pytest.raises(UserError, match="cannot be read again"), explain_reading(split):
        list(build_eval_stream(split, batch_size=2))


@pytest.mark.parametrize("as_jpeg", [True, False], ids=["jpeg", "pixels"])
@pytest.mark.parametrize("name", ["images", "index", "meta.json"])
def test_a_file_cut_anywhere_is_made_again(
    files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch, as_jpeg: bool, name: str
) -> None:
    if name == "index" and not as_jpeg:
        return
    monkeypatch.setattr(cache_module, "_LARGE_BYTES", 0)
    expected = load(files, cache, as_jpeg).images[np.arange(9)]
    (path,) = entry_of(cache).glob(f"{name}*")
    content = path.read_bytes()
    for cut in np.random.default_rng(0).integers(0, len(content), 8):
        path.write_bytes(content[:cut])
        np.testing.assert_array_equal(load(files, cache, as_jpeg).images[np.arange(9)], expected)


SLOW = """
import sys, time
from pathlib import Path
from catdog.data import cache
from catdog.data.images import decode_image

def decode_slowly(*arguments):
    time.sleep(0.05)
    return decode_image(*arguments)

cache.decode_image = decode_slowly
cache._BLOCK_BYTES = 4 * 48 * 48 * 3
files = sorted(Path(sys.argv[1]).iterdir())
cache.load_images(files, [file.name for file in files], height=48, width=48, cache=Path(sys.argv[2]), as_jpeg=sys.argv[3] == "True")
"""


@pytest.mark.parametrize("as_jpeg", [True, False], ids=["jpeg", "pixels"])
def test_decoding_goes_on_after_a_kill(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, as_jpeg: bool
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(60):
        Image.new("RGB", (60, 50), (index, 2 * index, 100)).save(folder / f"{index:02d}.png")
    (folder / "03.png").write_text("no photo")
    process = subprocess.Popen([sys.executable, "-c", SLOW, folder, cache, str(as_jpeg)])
    until = time.monotonic() + 60
    while not any(path.read_text().count("\n") >= 3 for path in cache.glob("decoded/*.partial/progress.jsonl")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (stage,) = cache.glob("decoded/*.partial")
    (content,) = stage.glob("images.*")
    # A block of which only the half is on the disk counts for nothing.
    with content.open("ab") as images:
        images.write(b"half")
    with (stage / "progress.jsonl").open("a") as progress:
        progress.write('{"rows": 5')
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(cache_module, "_BLOCK_BYTES", 4 * SIDE * SIDE * 3)
    files = sorted(folder.iterdir())
    names = [file.name for file in files]
    found = load_images(files, names, height=SIDE, width=SIDE, cache=cache, as_jpeg=as_jpeg)
    assert "of a command that was stopped" in caplog.text
    fresh = load_images(files, names, height=SIDE, width=SIDE, cache=tmp_path / "other", as_jpeg=as_jpeg)
    np.testing.assert_array_equal(found.images[np.arange(60)], fresh.images[np.arange(60)])
    assert found.unreadable == fresh.unreadable == {3: "not an image in a supported format"}
    (ours,), (theirs,) = (
        [path for path in (place / "decoded").iterdir() if path.is_dir()] for place in (cache, tmp_path / "other")
    )
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
    for path in ours.iterdir():
        assert path.read_bytes() == (theirs / path.name).read_bytes()


def interrupt(files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch, as_jpeg: bool = False) -> Path:
    """Decodes all files in blocks of two, but is interrupted before the end; returns the stage."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_module, "_BLOCK_BYTES", 2 * SIDE * SIDE * 3)
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "_write_meta", stop)
        with pytest.raises(KeyboardInterrupt):
            load(files, cache, as_jpeg)
    (stage,) = cache.glob("decoded/*.partial")
    return stage


def test_files_that_could_not_be_read_before_a_kill_are_read_again(
    files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk with the images may have been away for a while."""
    hidden = files[5].rename(files[5].with_suffix(".away"))
    interrupt(files, cache, monkeypatch)
    hidden.rename(files[5])
    caplog.set_level(logging.INFO)
    found = load(files, cache)
    assert "after 4 of a command that was stopped" in caplog.text
    assert list(found.unreadable) == [2]
    np.testing.assert_array_equal(found.images, expect(files))


def test_an_index_that_is_damaged_is_not_trusted(
    files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A power cut may leave zeros, which would be black images."""
    stage = interrupt(files, cache, monkeypatch, as_jpeg=True)
    index = bytearray((stage / "index").read_bytes())
    index[5 * 12 : 6 * 12] = bytes(12)
    (stage / "index").write_bytes(index)
    caplog.set_level(logging.INFO)
    found = load(files, cache, as_jpeg=True).images[np.arange(9)]
    assert "after 4 of a command that was stopped" in caplog.text
    np.testing.assert_array_equal(found, load(files, cache / "other", as_jpeg=True).images[np.arange(9)])


def test_what_is_done_stays_when_there_is_no_room_for_the_rest(
    files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    interrupt(files, cache, monkeypatch)

    def refuse(*_: object) -> None:
        raise UserError("its disk has 0 MB left")

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "require_free_space", refuse)
        with pytest.raises(UserError, match="0 MB left"):
            load(files, cache)
    caplog.set_level(logging.INFO)
    load(files, cache)
    assert "after 9 of a command that was stopped" in caplog.text


def test_others_leave_what_is_begun_and_clean_removes_it(
    files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = interrupt(files, cache, monkeypatch)
    load(files[:2], cache)
    assert stage.exists()
    (item,) = (item for item in list_cached(cache) if item.folder == stage)
    assert item.size_bytes > 9 * SIDE * SIDE * 3
    # Nobody goes on after a week.
    os.utime(stage / "progress.jsonl", (0, 0))
    load(files[:3], cache)
    assert not stage.exists()
    stage = interrupt(files, cache, monkeypatch)
    (item,) = (item for item in list_cached(cache) if item.folder == stage)
    with FileLock(stage.with_suffix(".lock")):
        assert not item.remove()
    assert item.remove()
    assert not stage.exists()


def test_what_was_written_before_a_kill_is_not_trusted_when_it_is_damaged(
    files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    content = interrupt(files, cache, monkeypatch) / "images.npy"
    pixels = bytearray(content.read_bytes())
    pixels[-5 * SIDE * SIDE * 3] ^= 1
    content.write_bytes(pixels)
    caplog.set_level(logging.INFO)
    np.testing.assert_array_equal(load(files, cache).images[np.arange(9)], expect(files))
    assert "decoded 5 images to 48 x 48" in caplog.text
    assert "after 4 of a command that was stopped" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_full_disk_leaves_nothing(files: list[Path], cache: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from catdog.data.cache import load_images
from catdog.system.errors import UserError

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    load_images([Path(sys.argv[1])] * 90, ["a"] * 90, height=64, width=64, cache=Path(sys.argv[2]), as_jpeg=True)
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, files[0], cache], capture_output=True, text=True, check=True)
    assert "the disk is full" in done.stdout
    assert [path.suffix for path in (cache / "decoded").iterdir()] == [".lock"]


def test_a_stream_of_jpegs_goes_on_at_any_epoch(files: list[Path], cache: Path) -> None:
    rows = np.array([0, 1, 3, 4, 5, 6, 7, 8])
    labels = np.arange(8, dtype=np.int32)
    images = load(files, cache, as_jpeg=True).images
    split = SplitImages(images, rows, labels, tuple(map(str, rows)), ("a", "b"), {})
    steps = count_steps(8, 3)
    whole = list(build_train_stream(split, batch_size=3, seed=5).take(3 * steps).as_numpy_iterator())
    rest = list(build_train_stream(split, batch_size=3, seed=5, first_epoch=2).take(2 * steps).as_numpy_iterator())
    for (pixels, numbers), (same_pixels, same_numbers) in zip(whole[steps:], rest, strict=True):
        np.testing.assert_array_equal(pixels, same_pixels)
        np.testing.assert_array_equal(numbers, same_numbers)
        np.testing.assert_array_equal(pixels, images[rows[numbers]])
