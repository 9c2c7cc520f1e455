"""Files are there whole or not at all, whatever happens while they are written."""

import errno
import os
import threading

import pytest

from catdog.system import files
from catdog.system.files import remove_partial, replacing, sync_file, sync_folder, write_atomically


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sync", [True, False])
def test_content_is_replaced(tmp_path, sync) -> None:
    path = tmp_path / "page.html"
    for content in (b"first\r\n", "zweite Fassung: größer\n"):
        write_atomically(path, content, sync=sync)
        assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert names(tmp_path) == ["page.html"]


def test_the_old_content_stands_until_the_block_ends_well(tmp_path) -> None:
    path = tmp_path / "state.json"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as file:
            file.write(b"new")
            file.flush()
            assert path.read_text() == "old"
            assert len(names(tmp_path)) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["state.json"]


def test_what_was_written_may_be_written_over(tmp_path) -> None:
    path = tmp_path / "checkpoint"
    with replacing(path) as file:
        file.write(b"0000 body")
        file.seek(0)
        file.write(b"1234")
    assert path.read_bytes() == b"1234 body"


def test_threads_that_replace_one_file_do_not_mix_their_contents(tmp_path) -> None:
    path = tmp_path / "state"
    contents = [bytes([number]) * 100_000 for number in range(4)]
    threads = [
        threading.Thread(target=lambda c=content: [write_atomically(path, c, sync=False) for _ in range(20)])
        for content in contents
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not path.exists() or path.read_bytes() in contents
    assert names(tmp_path) == ["state"]


def test_remains_of_killed_processes_go(tmp_path) -> None:
    for name in ("page.html.1.2.partial", "epoch-1.partial", "partial", "page.html"):
        (tmp_path / name).touch()
    remove_partial(tmp_path, "epoch-*")
    assert names(tmp_path) == ["page.html", "page.html.1.2.partial", "partial"]
    remove_partial(tmp_path)
    assert names(tmp_path) == ["page.html", "partial"]


def test_a_folder_that_cannot_be_flushed_is_no_error_but_a_broken_disk_is(tmp_path, monkeypatch) -> None:
    sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_file(tmp_path / "none")

    def answer(number):
        def fsync(_descriptor):
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(files.os, "fsync", answer(errno.EINVAL))
    sync_folder(tmp_path)
    monkeypatch.setattr(files.os, "fsync", answer(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        sync_folder(tmp_path)
