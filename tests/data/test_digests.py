"""A later start reads only files that have changed, and some of the others."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest

from catdog.data import digests
from catdog.data.digests import hash_files

FILES = ["a/1.jpg", "a/2.jpg", "b/1 \udcff.jpg", "b/1.jpg"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for number, name in enumerate(FILES):
        write(folder / name, b"content" + bytes([number]))
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    real = digests.hash_file

    def hash_file(path: str) -> tuple[bytes, bool]:
        names.append(path)
        return real(path)

    monkeypatch.setattr(digests, "hash_file", hash_file)
    monkeypatch.setattr(digests, "LEAST_SAMPLED", 0)
    return names


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def true_digests(root: Path, files: list[str] = FILES) -> list[str]:
    return [hashlib.sha256((root / name).read_bytes()).hexdigest() for name in files]


def await_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old after 20 ms."""
    monkeypatch.setattr(digests, "YOUNG_NS", 20_000_000)
    time.sleep(0.05)


def test_unchanged_files_are_not_read_again(root, tmp_path, reads, monkeypatch):
    await_age(monkeypatch)
    assert hash_files(root, FILES, cache=tmp_path / "cache") == true_digests(root)
    assert len(reads) == 4
    assert hash_files(root, FILES, cache=tmp_path / "cache") == true_digests(root)
    assert len(reads) == 4
    # In any order, and some of them.
    assert hash_files(root, FILES[2:0:-1], cache=tmp_path / "cache") == true_digests(root, FILES[2:0:-1])
    assert len(reads) == 4
    assert hash_files(root, FILES, cache=tmp_path / "cache", verify="full") == true_digests(root)
    assert len(reads) == 8


def test_names_may_be_whole_paths(root, tmp_path):
    whole = [str(root / name) for name in FILES]
    assert hash_files(Path(), whole) == hash_files(Path(), whole, cache=tmp_path / "cache") == true_digests(root)


def test_new_and_changed_files_are_read_and_others_are_not(root, tmp_path, reads, monkeypatch):
    await_age(monkeypatch)
    hash_files(root, FILES, cache=tmp_path / "cache")
    reads.clear()
    write(root / "a/0.jpg", b"new")
    # The same size, at another time.
    write(root / FILES[1], b"CONTENT\1")
    files = ["a/0.jpg", *FILES[:-1]]
    assert hash_files(root, files, cache=tmp_path / "cache") == true_digests(root, files)
    assert sorted(Path(name).name for name in reads) == ["0.jpg", "2.jpg"]


def test_digests_of_other_files_are_kept_as_long_as_they_are_there(root, tmp_path, reads, monkeypatch):
    await_age(monkeypatch)
    hash_files(root, FILES[:3], cache=tmp_path / "cache")
    (root / FILES[0]).unlink()
    assert hash_files(root, FILES[3:], cache=tmp_path / "cache") == true_digests(root, FILES[3:])
    assert len(reads) == 4
    assert hash_files(root, FILES[1:], cache=tmp_path / "cache") == true_digests(root, FILES[1:])
    assert len(reads) == 4
    (kept,) = (tmp_path / "cache/digests").iterdir()
    with np.load(kept) as stored:
        assert len(stored["signs"]) == 3


def test_a_change_with_a_forged_time_is_found(root, tmp_path, reads, monkeypatch):
    await_age(monkeypatch)
    hash_files(root, FILES, cache=tmp_path / "cache")
    before = (root / FILES[0]).stat()
    write(root / FILES[0], b"CONTENT\0")
    os.utime(root / FILES[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hash_files(root, FILES, cache=tmp_path / "cache") == true_digests(root)


@pytest.mark.parametrize("verify", ["full", "changed"])
def test_a_change_that_no_time_shows_is_found_by_reading_all_or_a_sample(
    root, tmp_path, reads, monkeypatch, caplog, verify
):
    """A failing disk changes bytes and no time."""
    await_age(monkeypatch)
    hash_files(root, FILES, cache=tmp_path / "cache")
    (kept,) = (tmp_path / "cache/digests").iterdir()
    with np.load(kept) as stored:
        columns = dict(stored)
    # The sample is that of one file: two have changed.
    columns["digests"][:2] += 1
    np.savez(kept, **columns)
    monkeypatch.setattr(digests, "LEAST_SAMPLED", 1)
    monkeypatch.setattr(digests, "_draw_sample", lambda places: places[:1])
    assert hash_files(root, FILES, cache=tmp_path / "cache", verify=verify) == true_digests(root)
    assert "2 files in" in caplog.text
    assert "changed although size, times and inode did not" in caplog.text
    caplog.clear()
    assert hash_files(root, FILES, cache=tmp_path / "cache", verify=verify) == true_digests(root)
    assert caplog.text == ""


def test_each_start_draws_another_sample():
    drawn = [digests._draw_sample(np.arange(10_000)) for _ in range(3)]
    assert [len({*sample.tolist()}) for sample in drawn] == [10] * 3
    assert len({tuple(sorted(sample.tolist())) for sample in drawn}) == 3


def test_a_file_written_a_moment_ago_is_read_again(root, tmp_path, reads):
    for _ in range(2):
        hash_files(root, FILES, cache=tmp_path / "cache")
    assert len(reads) == 8


def test_what_cannot_be_read_is_no_digest_to_keep(root, tmp_path, reads, monkeypatch):
    (root / "a/3.jpg").mkdir()
    await_age(monkeypatch)
    first = hash_files(root, [*FILES, "a/3.jpg", "a/none.jpg"], cache=tmp_path / "cache")
    reads.clear()
    assert hash_files(root, [*FILES, "a/3.jpg", "a/none.jpg"], cache=tmp_path / "cache") == first
    assert sorted(Path(name).name for name in reads) == ["3.jpg", "none.jpg"]
    assert len({*first}) == 6


@pytest.mark.parametrize("content", [b"", b"PK nonsense", None])
def test_damaged_findings_are_made_again(root, tmp_path, reads, monkeypatch, content):
    await_age(monkeypatch)
    hash_files(root, FILES, cache=tmp_path / "cache")
    (kept,) = (tmp_path / "cache/digests").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert hash_files(root, FILES, cache=tmp_path / "cache") == true_digests(root)
    assert len(reads) == 8
    assert kept.read_bytes() != content


def test_a_killed_start_keeps_what_it_has_read(root, tmp_path, reads, monkeypatch):
    await_age(monkeypatch)
    monkeypatch.setattr(digests, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(digests, "FILES_AT_ONCE", 1)
    monkeypatch.setattr(digests, "FIRST_FILES", 1)
    real = digests._hash_parts

    def hash_parts(*arguments):
        for number, part in enumerate(real(*arguments)):
            if number == 3:
                raise KeyboardInterrupt
            yield part

    monkeypatch.setattr(digests, "_hash_parts", hash_parts)
    with pytest.raises(KeyboardInterrupt):
        hash_files(root, FILES, cache=tmp_path / "cache")
    monkeypatch.setattr(digests, "_hash_parts", real)
    reads.clear()
    assert hash_files(root, FILES, cache=tmp_path / "cache") == true_digests(root)
    assert len(reads) == 1


def test_where_nothing_can_be_kept_all_is_read(root, tmp_path, monkeypatch, caplog):
    await_age(monkeypatch)
    (tmp_path / "cache").write_text("a file")
    assert hash_files(root, FILES, cache=tmp_path / "cache") == true_digests(root)
    assert "cannot be kept, so the next start reads all of them again" in caplog.text
