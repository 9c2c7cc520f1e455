"""Which files below a folder are predicted, and what is said of the others."""

import errno
import logging
import os
from pathlib import Path

import pytest

from catdog.deployment import photo_files
from catdog.deployment.photo_files import find_images
from catdog.system.errors import UserError


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_images_are_sorted_by_path_and_links_to_files_are_followed(tmp_path, monkeypatch) -> None:
    make(tmp_path, "b/1.jpg", "b-1.jpg", "a.PNG", "c.jpg/d.webp", ".e/f.gif")
    (tmp_path / "link.jpg").symlink_to("a.PNG")
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.chdir(tmp_path)
    expected = sorted(file for file in Path().rglob("*") if file.suffix and file.is_file())
    assert find_images(["."]) == expected
    assert find_images(["b", "a.PNG"]) == [Path("b/1.jpg"), Path("a.PNG")]


def test_what_is_left_out_is_counted_and_links_to_nothing_are_kept(tmp_path, caplog) -> None:
    make(tmp_path, "photos/1.jpg", "photos/2.heic", "photos/3.HEIC", "photos/4.avif", "photos/README", "photos/.DS_Store",
         "other/5.jpg")  # fmt: skip
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "photos" / "gone.jpg").symlink_to("nowhere")
    with caplog.at_level(logging.INFO, "catdog"):
        assert [file.name for file in find_images([str(tmp_path / "photos")])] == ["1.jpg", "gone.jpg"]
    (line,) = caplog.messages
    assert line.endswith(
        "left out 1 link to folders and 4 files whose ending is not that of an image (.heic 2, .avif 1, no ending 1)"
    )
    assert find_images([str(tmp_path / "photos" / "gone.jpg")]) == [tmp_path / "photos" / "gone.jpg"]


def test_a_folder_that_cannot_be_listed_is_named_and_one_that_cannot_be_entered_keeps_its_names(
    tmp_path, caplog, monkeypatch
) -> None:
    """The tests may run as root, whom no permission stops."""
    make(tmp_path, "photos/1.jpg", "photos/closed/2.jpg", "photos/listed/3.jpg", "photos/listed/4.txt")
    scandir = os.scandir

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name, self.path = entry.name, entry.path

        def is_dir(self, *, follow_symlinks: bool = True) -> bool:
            raise PermissionError(errno.EACCES, "Permission denied")

    class Listing(list):
        def __enter__(self) -> "Listing":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def refusing(place: str):
        if place.endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return Listing(map(Entry, scandir(place))) if place.endswith("listed") else scandir(place)

    monkeypatch.setattr(photo_files.os, "scandir", refusing)
    with caplog.at_level(logging.INFO, "catdog"):
        files = find_images([str(tmp_path / "photos")])
    assert [file.name for file in files] == ["1.jpg", "3.jpg"]
    closed = tmp_path / "photos" / "closed"
    assert f"1 folder cannot be read, and what is below is left out: '{closed}' (Permission denied)" in caplog.text


def test_nothing_to_predict(tmp_path) -> None:
    make(tmp_path, "a.txt", ".b.jpg")
    with pytest.raises(UserError, match=r"no images in this folder or below.*'\.b\.jpg'"):
        find_images([str(tmp_path)])
    with pytest.raises(UserError, match="no such file or folder"):
        find_images([str(tmp_path / "none.jpg")])
    with pytest.raises(UserError, match="no image named"):
        find_images([])
