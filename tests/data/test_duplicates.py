import logging
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageOps
from planted import CHANGES, main
from support import write_images

from catdog.data import candidates, duplicates
from catdog.data.digests import hash_files
from catdog.data.duplicates import Pair, find_pairs, find_unreadable, group_pairs
from catdog.data.images import UnreadableImageError
from catdog.data.splits import build_manifest
from catdog.data.synthetic import write_drawn_images
from catdog.system.errors import UserError

DESCRIBE, COMPARE = duplicates._describe, duplicates._compare_pictures
OPTIONS = {"holdout_fraction": 0.4, "test_fraction": 0.5, "split_seed": 0}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Drawn cats and dogs: textured, and all different."""
    root = tmp_path_factory.mktemp("photos")
    write_drawn_images(root, seed=3, train_per_class=15, validation_per_class=4)
    return root


def copy_in(image, target, change="mirrored"):
    target.parent.mkdir(parents=True, exist_ok=True)
    CHANGES[change](Image.open(image).convert("RGB")).convert("RGB").save(target, quality=90)


@pytest.mark.nightly
def test_every_planted_copy_is_found_and_no_other_pair_named(photos, capsys):
    main(str(photos), 20)
    said = capsys.readouterr().out
    found = {change: int(said.split(f"| {change} | ")[1].split(" of 20 |")[0]) for change in CHANGES}
    # Of what has lost a tenth of a side, or its colours, some.
    some = [
        change
        for change in CHANGES
        if change.startswith("10%") or change in ("in grey", "half the saturation", "warmer")
    ]
    assert all(count >= (10 if change in some else 20) for change, count in found.items()), found
    assert "pairs of other images: 0" in said


def test_kinds_are_told_apart_and_a_second_search_reads_the_first(photos, tmp_path, caplog):
    original = next((photos / "train" / "cats").iterdir())
    paths = [
        original,
        *(
            tmp_path / name
            for name in ("copy.jpg", "mirrored.jpg", "half.jpg", "cropped.jpg", "turned.jpg", "warm.jpg")
        ),
    ]
    shutil.copy(original, paths[1])
    for path, change in zip(
        paths[2:], ("mirrored", "half the size", "5% cut off each side", "turned by 90 degrees", "warmer"), strict=True
    ):
        copy_in(original, path, change)
    digests = ["a", "a", "b", "c", "d", "e", "f"]
    pairs = find_pairs(paths, digests, tmp_path / "cache")
    kinds = {(pair.first, pair.second): pair.kind for pair in pairs}
    assert kinds[0, 1] == "copy"
    assert kinds[0, 2] == "mirrored"
    assert kinds[0, 3] == "near-copy"
    assert kinds[0, 4] == "cropped"
    assert kinds[0, 5] == "turned"
    assert kinds[0, 6] == "recoloured"
    assert all(0.95 <= pair.similarity <= 1 for pair in pairs)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert find_pairs(paths, digests, tmp_path / "cache") == pairs
    assert "looking for" not in caplog.text


def test_what_cannot_be_read_or_shows_nothing_is_no_pair(tmp_path):
    for number in range(3):
        Image.fromarray(np.full((40, 60, 3), 200 + number, dtype=np.uint8)).save(tmp_path / f"white {number}.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    paths = sorted(tmp_path.iterdir())
    assert find_pairs(paths, [path.name for path in paths], tmp_path / "cache") == []


def test_too_many_alike_are_an_error_that_names_the_key(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("catdog.data.duplicates.MOST_CANDIDATES", 2)
    original = next((photos / "train" / "cats").iterdir())
    for number, change in enumerate(("mirrored", "half the size", "JPEG quality 30")):
        copy_in(original, tmp_path / f"{number}.jpg", change)
    paths = [original, *sorted(tmp_path.iterdir())]
    with pytest.raises(UserError, match=r"dataset\.near_duplicates: more than 2 pairs"):
        find_pairs(paths, [path.name for path in paths], tmp_path / "cache")


def test_another_colour_and_another_simple_shape_are_other_pictures(photos, tmp_path):
    grey = np.asarray(Image.open(next((photos / "train" / "cats").iterdir())).convert("L"))
    paths = []
    for channel in range(3):
        tinted = np.zeros((*grey.shape, 3), dtype=np.uint8)
        tinted[..., channel] = grey
        paths.append(tmp_path / f"tint {channel}.png")
        Image.fromarray(tinted).save(paths[-1])
    for number, (left, top) in enumerate(((20, 20), (23, 21), (21, 24))):
        shape = np.full((96, 96), 20, dtype=np.uint8)
        shape[top : top + 50, left : left + 36 + 8 * number] = 230
        paths.append(tmp_path / f"box {number}.png")
        Image.fromarray(shape).save(paths[-1])
    assert find_pairs(paths, [path.name for path in paths], tmp_path / "cache") == []


def test_a_search_with_more_files_compares_only_those(photos, tmp_path, monkeypatch):
    paths = sorted(photos.rglob("*.jpg"))[:12]
    copy_in(paths[3], tmp_path / "mirrored.jpg")
    every = [*paths, tmp_path / "mirrored.jpg"]
    work = count_work(monkeypatch)
    pairs = find_pairs(every, [path.name for path in every], tmp_path / "cache")
    assert [(pair.first, pair.second) for pair in pairs] == [(3, 12)]
    assert work["described"] == 13
    compared = work["compared"]
    copy_in(paths[5], tmp_path / "small.jpg", "half the size")
    every.append(tmp_path / "small.jpg")
    more = find_pairs(every, [path.name for path in every], tmp_path / "cache")
    assert [(pair.first, pair.second) for pair in more] == [(3, 12), (5, 13)]
    assert work["described"] == 14
    assert work["compared"] <= compared + 2
    # Nor are the others laid side by side again, also if some are gone.
    monkeypatch.setattr(candidates, "_WholeSearch", None)
    less = find_pairs(every[1:], [path.name for path in every[1:]], tmp_path / "cache")
    assert [(pair.first, pair.second) for pair in less] == [(2, 11), (4, 12)]


@pytest.mark.parametrize("place", ["among the centres", "behind them"])
def test_where_a_centre_of_the_cells_changes_all_are_compared(photos, tmp_path, monkeypatch, place):
    """Digests are sorted, and the first are the centres."""
    monkeypatch.setattr(candidates, "CELL_PICTURES", 2)
    monkeypatch.setattr(candidates, "NEAR_CELLS", 4)
    monkeypatch.setattr(duplicates, "NEAR_CELLS", 4)
    paths = sorted(photos.rglob("*.jpg"))[:20]
    names = [f"{number:02d}" for number in range(20)]
    copy_in(paths[3], tmp_path / "mirrored.jpg")
    find_pairs(paths, names, tmp_path / "cache")
    # Another search, later, that shares less.
    find_pairs(paths[:6], names[:6], tmp_path / "cache")
    whole = []
    real = candidates._WholeSearch
    monkeypatch.setattr(candidates, "_WholeSearch", lambda *given: whole.append(1) or real(*given))
    digests = [*names, "0" if place == "among the centres" else "99"]
    pairs = find_pairs([*paths, tmp_path / "mirrored.jpg"], digests, tmp_path / "cache")
    assert [(pair.first, pair.second) for pair in pairs] == [(3, 20)]
    assert bool(whole) == (place == "among the centres")


def test_of_no_files_nothing_is_searched(photos, tmp_path):
    paths = sorted(photos.rglob("*.jpg"))[:3]
    find_pairs(paths, [path.name for path in paths], tmp_path / "cache")
    assert find_pairs([], [], tmp_path / "cache") == []


def test_a_search_that_was_killed_goes_on(photos, tmp_path, monkeypatch):
    paths = sorted(photos.rglob("*.jpg"))[:12]
    for number, path in enumerate(paths[:4]):
        copy_in(path, tmp_path / f"{number}.jpg")
    every = [*paths, *sorted(tmp_path.glob("*.jpg"))]
    names = [path.name for path in every]
    expected = find_pairs(every, names, tmp_path / "another cache")
    assert len(expected) == 4
    monkeypatch.setattr(duplicates, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(duplicates, "AT_ONCE", 1)
    for killed_at in (4, 4, 4, 5):
        work = count_work(monkeypatch, killed_at)
        with pytest.raises(KeyboardInterrupt):
            find_pairs(every, names, tmp_path / "cache")
    work = count_work(monkeypatch)
    assert find_pairs(every, names, tmp_path / "cache") == expected
    # What threads had done ahead of the rest was not saved.
    assert work.total() <= 20 - 4
    assert not [*(tmp_path / "cache").rglob("parts/*")]


def test_a_damaged_part_is_ignored(photos, tmp_path, monkeypatch):
    paths = sorted(photos.rglob("*.jpg"))[:6]
    names = [path.name for path in paths]
    monkeypatch.setattr(duplicates, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(duplicates, "AT_ONCE", 1)
    count_work(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        find_pairs(paths, names, tmp_path / "cache")
    parts = [*(tmp_path / "cache").rglob("parts/*.npz")]
    parts[0].write_bytes(parts[0].read_bytes()[:100])
    parts[1].with_suffix(".npy").write_bytes(b"")
    work = count_work(monkeypatch)
    assert find_pairs(paths, names, tmp_path / "cache") == []
    assert work["described"] >= 2


def test_a_file_that_is_away_is_named_and_the_search_goes_on_when_it_is_back(photos, tmp_path, monkeypatch):
    paths = sorted(photos.rglob("*.jpg"))[:6]
    copy_in(paths[2], tmp_path / "copy.jpg")
    every = [*paths, tmp_path / "copy.jpg"]
    names, cache = hash_files(tmp_path, [str(path) for path in every]), tmp_path / "cache"
    (tmp_path / "copy.jpg").rename(tmp_path / "away.jpg")
    with pytest.raises(
        UserError, match=r"dataset: .*copy\.jpg could be read .* no such file\. .* the same command goes on"
    ):
        find_pairs(every, names, cache)
    (tmp_path / "away.jpg").rename(tmp_path / "copy.jpg")
    work = count_work(monkeypatch)
    assert [(pair.first, pair.second) for pair in find_pairs(every, names, cache)] == [(2, 6)]
    assert work["described"] == 1
    assert find_unreadable(every, names, cache) == {}


def test_a_file_that_goes_away_before_it_is_compared_is_named_too(photos, tmp_path, monkeypatch):
    paths = sorted(photos.rglob("*.jpg"))[:6]
    copy_in(paths[2], tmp_path / "copy.jpg")
    every = [*paths, tmp_path / "copy.jpg"]
    names, cache = hash_files(tmp_path, [str(path) for path in every]), tmp_path / "cache"
    compared = duplicates.find_candidates

    def go_away(*arguments):
        (tmp_path / "copy.jpg").rename(tmp_path / "away.jpg")
        return compared(*arguments)

    monkeypatch.setattr(duplicates, "find_candidates", go_away)
    with pytest.raises(UserError, match=r"copy\.jpg could be read when its digest was made"):
        find_pairs(every, names, cache)
    monkeypatch.undo()
    (tmp_path / "away.jpg").rename(tmp_path / "copy.jpg")
    assert [(pair.first, pair.second) for pair in find_pairs(every, names, cache)] == [(2, 6)]


def test_a_read_that_fails_once_is_done_again(photos, tmp_path, monkeypatch):
    paths = sorted(photos.rglob("*.jpg"))[:6]
    copy_in(paths[2], tmp_path / "copy.jpg")
    every = [*paths, tmp_path / "copy.jpg"]
    load, failed = duplicates._load, []

    def fail_once(path):
        if path == every[-1] and not failed:
            failed.append(path)
            raise UnreadableImageError("cannot be read: Input/output error", lasting=False)
        return load(path)

    monkeypatch.setattr(duplicates, "_load", fail_once)
    names = hash_files(tmp_path, [str(path) for path in every])
    assert [(pair.first, pair.second) for pair in find_pairs(every, names, tmp_path / "cache")] == [(2, 6)]
    assert failed


def test_a_file_that_was_never_readable_does_not_make_the_search_start_again(photos, tmp_path, monkeypatch):
    paths = [*sorted(photos.rglob("*.jpg"))[:4], tmp_path / "dangling.jpg"]
    paths[-1].symlink_to(tmp_path / "nowhere.jpg")
    names, cache = hash_files(tmp_path, [str(path) for path in paths]), tmp_path / "cache"
    assert find_pairs(paths, names, cache) == []
    work = count_work(monkeypatch)
    assert find_pairs(paths, names, cache) == []
    assert find_unreadable(paths, names, cache) == {4: "no such file"}
    assert not work


def test_damaged_findings_are_made_again(photos, tmp_path):
    paths = sorted(photos.rglob("*.jpg"))[:6]
    copy_in(paths[2], tmp_path / "copy.jpg")
    every = [*paths, tmp_path / "copy.jpg"]
    names, cache = [path.name for path in every], tmp_path / "cache"
    pairs = find_pairs(every, names, cache)
    (found,) = cache.rglob(duplicates.FOUND)
    for damaged in (b"", found.read_bytes()[:200]):
        found.write_bytes(damaged)
        assert find_pairs(every, names, cache) == pairs


def count_work(monkeypatch, killed_at=None):
    """Counts the images that are described and the pairs that are compared; the command is killed at one of them."""
    work = Counter()

    def counted(name, real):
        def count(*arguments):
            work[name] += 1
            if killed_at is not None and work.total() == killed_at:
                raise KeyboardInterrupt
            return real(*arguments)

        return count

    monkeypatch.setattr(duplicates, "_describe", counted("described", DESCRIBE))
    monkeypatch.setattr(duplicates, "_compare_pictures", counted("compared", COMPARE))
    return work


def test_groups_are_what_pairs_connect():
    groups = group_pairs([Pair(0, 2, "copy", 1.0), Pair(2, 5, "mirrored", 0.99)], 6)
    assert len({groups[0], groups[2], groups[5]}) == 1
    assert len(set(groups.tolist())) == 4


def test_without_near_duplicates_the_manifest_is_the_same(tmp_path):
    for name in ("a", "b"):
        write_images(tmp_path / "images" / name, 12, size=64)
    plain = build_manifest(tmp_path / "images", **OPTIONS)
    assert build_manifest(tmp_path / "images", **OPTIONS, duplicates_cache=tmp_path / "cache").digest == plain.digest


def test_near_duplicates_come_to_one_side_where_catdog_divides(photos, tmp_path):
    root = tmp_path / "images"
    for label in ("cats", "dogs"):
        shutil.copytree(photos / "train" / label, root / label)
        for image in sorted((root / label).iterdir()):
            copy_in(image, root / label / f"again {image.name}")
    apart = build_manifest(root, **OPTIONS).images.set_index("file")["split"]
    together = build_manifest(root, **OPTIONS, duplicates_cache=tmp_path / "cache").images.set_index("file")["split"]
    originals = [file for file in together.index if "again" not in file]

    def twin(file):
        return file.replace("/", "/again ", 1)

    assert any(apart[file] != apart[twin(file)] for file in originals)
    assert all(together[file] == together[twin(file)] for file in originals)
    assert len(together) == len(apart)
    assert set(together) == {"train", "val", "test"}


def test_where_folders_divide_the_later_one_is_left_out(photos, tmp_path):
    root = tmp_path / "images"
    shutil.copytree(photos, root)
    leaked = root / "validation" / "cats" / "leak.jpg"
    copy_in(sorted((root / "train" / "cats").iterdir())[0], leaked, "5% cut off each side")
    manifest = build_manifest(root, **OPTIONS, duplicates_cache=tmp_path / "cache")
    assert list(manifest.left_out) == ["validation/cats/leak.jpg"]
    assert manifest.left_out["validation/cats/leak.jpg"].startswith("train/cats/")
    assert "validation/cats/leak.jpg" not in set(manifest.images["file"])
    assert build_manifest(root, **OPTIONS).left_out == {}


def test_one_picture_with_two_classes_is_a_conflict(photos, tmp_path):
    root = tmp_path / "images"
    shutil.copytree(photos, root)
    image = sorted((root / "train" / "cats").iterdir())[0]
    ImageOps.mirror(Image.open(image)).save(root / "train" / "dogs" / "a cat.jpg")
    manifest = build_manifest(root, **OPTIONS, duplicates_cache=tmp_path / "cache")
    assert [set(pair) for pair in manifest.conflicts] == [{f"train/cats/{image.name}", "train/dogs/a cat.jpg"}]
