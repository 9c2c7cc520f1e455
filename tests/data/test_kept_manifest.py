"""The manifest of a large data set is kept: it equals one that is built, and a change of anything builds it again."""

import dataclasses
import os
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest
from support import write_images

from catdog.data import kept_manifest, splits
from catdog.data.kept_manifest import load_manifest
from catdog.data.splits import Manifest, build_manifest

OPTIONS = {"holdout_fraction": 0.4, "test_fraction": 0.5, "split_seed": 0, "groups": None, "refresh": 0}
PATTERN = r"(\d)\.jpg"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes with a folder within a class, a copy, a copy in another class, a hidden and an unreadable file."""
    folder = tmp_path / "images"
    for seed, name in enumerate(("cats, or so", "dögs")):
        write_images(folder / name / "inside", 20, seed=seed, size=64)
    first, second = (sorted((folder / name / "inside").iterdir())[0] for name in ("cats, or so", "dögs"))
    shutil.copy(first, folder / "cats, or so/copy.jpg")
    shutil.copy(second, folder / "cats, or so/dog.jpg")
    shutil.copy(first, folder / "cats, or so/.hidden.jpg")
    (folder / "dögs/broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each manifest that is built; large are data sets with ten images."""
    entries: list[str] = []

    def build(*arguments, **options) -> Manifest:
        entries.append("built")
        return build_manifest(*arguments, **options)

    monkeypatch.setattr(kept_manifest, "build_manifest", build)
    monkeypatch.setattr(kept_manifest, "LEAST_IMAGES", 10)
    return entries


def load(root: Path, cache: Path, searches_duplicates: bool = True, **options) -> Manifest:
    more = {"verify": "changed", "shown": None, "max_images_per_class": None, **OPTIONS, **options}
    return load_manifest(root, cache=cache, searches_duplicates=searches_duplicates, **more)


def require_same(one: Manifest, other: Manifest) -> None:
    pd.testing.assert_frame_equal(one.images, other.images)
    for each in dataclasses.fields(Manifest):
        if each.name != "images":
            assert getattr(one, each.name) == getattr(other, each.name), each.name


@pytest.mark.parametrize("options", [{}, {"groups": PATTERN}, {"groups": "near_duplicates"}, {"refresh": 1}])
def test_a_kept_manifest_is_the_one_that_is_built(root, tmp_path, built, options):
    cache = tmp_path / "cache"
    first = load(root, cache, **options)
    again = load(root, cache, **options)
    assert len(built) == 1
    require_same(again, first)
    require_same(first, build_manifest(root, **{**OPTIONS, **options}, duplicates_cache=cache))
    assert first.hidden
    assert first.unreadable
    assert first.conflicts or first.left_out
    assert first.nested
    assert "group" in first.images


def test_findings_of_near_duplicates_count_as_used_with_the_manifest(root, tmp_path, built):
    load(root, tmp_path / "cache")
    (found,) = (tmp_path / "cache").rglob("found.npz")
    os.utime(found, (0, 0))
    load(root, tmp_path / "cache")
    assert built == ["built"]
    assert time.time() - found.stat().st_mtime < 600


def test_with_split_folders_too(root, tmp_path, built):
    shutil.copytree(root, tmp_path / "given/train")
    for seed, name in enumerate(("cats, or so", "dögs")):
        write_images(tmp_path / "given/validation" / name, 10, seed=seed + 5, size=64)
    shutil.copy(root / "cats, or so/copy.jpg", tmp_path / "given/validation/dögs/copied.jpg")
    first = load(tmp_path / "given", tmp_path / "cache")
    require_same(load(tmp_path / "given", tmp_path / "cache"), first)
    assert first.left_out
    assert len(built) == 1


def test_a_change_of_anything_builds_it_again(root, tmp_path, built, monkeypatch):
    cache = tmp_path / "cache"
    table = tmp_path / "films.csv"
    names = splits.list_files(root)[0]
    pd.DataFrame({"file": names, "group": "film"}).assign(group=range(len(names))).to_csv(table, index=False)
    load(root, cache, groups=str(table))
    load(root, cache, groups=str(table))
    assert len(built) == 1

    pd.DataFrame({"file": names, "group": "film"}).assign(group=[number // 2 for number in range(len(names))]).to_csv(
        table, index=False
    )
    load(root, cache, groups=str(table))
    assert len(built) == 2
    load(root, cache)
    load(root, cache, split_seed=1)
    load(root, cache, searches_duplicates=False)
    assert len(built) == 5
    write_images(root / "dögs" / "new", 1, seed=5, size=64)
    assert any("new/" in file for file in load(root, cache).images["file"])
    assert len(built) == 6
    (root / "dögs/broken.jpg").write_bytes(b"NO IMAGE")
    load(root, cache)
    assert len(built) == 7
    monkeypatch.setattr(kept_manifest, "images", splits)
    load(root, cache)
    assert len(built) == 8
    # Not more than a few are kept.
    (folder,) = (cache / "manifests").iterdir()
    assert len([*folder.iterdir()]) == kept_manifest.MOST_KEPT


def test_a_hidden_file_that_appears_is_named(root, tmp_path, built):
    load(root, tmp_path / "cache")
    shutil.copy(root / "cats, or so/copy.jpg", root / "dögs/.another.jpg")
    assert "dögs/.another.jpg" in load(root, tmp_path / "cache").hidden
    assert len(built) == 1


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_file_is_built_again(root, tmp_path, built, damage):
    cache = tmp_path / "cache"
    first = load(root, cache)
    (path,) = (cache / "manifests").glob("*/*.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    require_same(load(root, cache), first)
    assert len(built) == 2


def test_a_quick_look_and_small_data_sets_keep_nothing(root, tmp_path, built, monkeypatch):
    cache = tmp_path / "cache"
    load(root, cache, max_images_per_class=5)
    monkeypatch.setattr(kept_manifest, "LEAST_IMAGES", 1000)
    load(root, cache)
    assert not (cache / "manifests").exists()
    assert len(built) == 2
