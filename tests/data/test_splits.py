"""Splits: fixed by their own seed, stratified, disjoint by file and by content."""

import shutil
from pathlib import Path

import pytest
from support import write_images

from catdog.data.splits import Manifest, build_manifest
from catdog.system.errors import UserError


def manifest_of(root: Path, **options) -> Manifest:
    return build_manifest(root, **{"holdout_fraction": 0.5, "test_fraction": 0.25, "split_seed": 0, **options})


def files(manifest: Manifest, split: str) -> set[str]:
    return set(manifest.select(split)["file"])


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A tree with train/ and validation/."""
    for split, count in (("train", 10), ("validation", 20)):
        for seed, name in enumerate(("cats", "dogs")):
            write_images(tmp_path / "tree" / split / name, count, seed=seed + (100 if split == "train" else 0))
    return tmp_path / "tree"


def test_train_stays_as_given_and_validation_is_divided(given: Path) -> None:
    manifest = manifest_of(given)
    assert manifest.classes == ("cats", "dogs")
    assert files(manifest, "train") == {f.relative_to(given).as_posix() for f in (given / "train").rglob("*.jpg")}
    counts = manifest.images.groupby(["split", "label"]).size().to_dict()
    assert counts == {("train", "cats"): 10, ("train", "dogs"): 10, ("val", "cats"): 15, ("val", "dogs"): 15,
                      ("test", "cats"): 5, ("test", "dogs"): 5}  # fmt: skip


def test_a_tree_without_splits_is_divided_by_class(images: Path) -> None:
    counts = manifest_of(images).images.groupby(["split", "label"]).size().to_dict()
    assert counts == {("train", "cats"): 6, ("train", "dogs"): 6, ("val", "cats"): 4, ("val", "dogs"): 4,
                      ("test", "cats"): 2, ("test", "dogs"): 2}  # fmt: skip


def test_a_given_test_folder_is_test(given: Path) -> None:
    for name in ("cats", "dogs"):
        write_images(given / "test" / name, 3, seed=7)
    manifest = manifest_of(given)
    assert {f.split("/")[0] for f in files(manifest, "test")} == {"test"}
    assert len(files(manifest, "val")) == 40


def test_a_train_folder_alone_is_divided(images: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    images.rename(tmp_path / "root" / "train")
    manifest = manifest_of(tmp_path / "root")
    assert [len(files(manifest, split)) for split in ("train", "val", "test")] == [12, 8, 4]


def test_the_same_seed_gives_the_same_splits_and_another_seed_others(given: Path) -> None:
    assert manifest_of(given).digest == manifest_of(given).digest
    assert manifest_of(given).images.equals(manifest_of(given).images)
    assert files(manifest_of(given), "test") != files(manifest_of(given, split_seed=1), "test")


def test_val_is_drawn_anew_and_test_stays(given: Path) -> None:
    plain = manifest_of(given)
    fresh = [manifest_of(given, refresh=number) for number in (1, 2)]
    for manifest in fresh:
        assert files(manifest, "test") == files(plain, "test")
        assert files(manifest, "train") | files(manifest, "val") == files(plain, "train") | files(plain, "val")
        counts = manifest.images.groupby(["split", "label"]).size()
        assert counts.to_dict() == plain.images.groupby(["split", "label"]).size().to_dict()
    assert len({manifest.digest for manifest in [plain, *fresh]}) == 3
    assert files(fresh[0], "val") != files(fresh[1], "val")
    assert manifest_of(given, refresh=1).digest == fresh[0].digest
    assert manifest_of(given, refresh=0).digest == plain.digest


def test_a_group_is_not_divided_when_val_is_drawn_anew(given: Path) -> None:
    for refresh in (1, 2, 3):
        manifest = manifest_of(given, groups=r"([0-4])\.jpg", refresh=refresh)
        assert "group" in manifest.images
        splits = manifest.images.groupby("group")["split"].nunique()
        assert splits.max() == 1, "test has none of them either"


def test_an_image_more_moves_at_most_one_other(given: Path) -> None:
    before = files(manifest_of(given), "test")
    write_images(given / "validation" / "new", 1, seed=9)
    (given / "validation" / "new" / "000.jpg").rename(given / "validation" / "cats" / "new.jpg")
    (given / "validation" / "new").rmdir()
    after = files(manifest_of(given), "test")
    assert len(before - after) <= 1


def test_copies_never_stand_on_both_sides(given: Path) -> None:
    manifest = manifest_of(given)
    trained, tested = (sorted(files(manifest, split))[0] for split in ("train", "test"))
    # A training image under the name of a test image.
    shutil.copy(given / trained, given / tested)
    changed = manifest_of(given)
    assert tested not in set(changed.images["file"])
    assert changed.left_out == {tested: trained}
    hashes = [set(changed.select(split)["sha256"]) for split in ("train", "val", "test")]
    assert not hashes[0] & hashes[1]
    assert not hashes[0] & hashes[2]
    assert not hashes[1] & hashes[2]


def test_content_decides_the_digest_names_do_not(given: Path) -> None:
    before = manifest_of(given)
    file = given / before.select("train")["file"][0]
    original = file.read_bytes()
    file.write_bytes(original + b"\0")
    assert manifest_of(given).digest != before.digest
    file.write_bytes(original)
    assert manifest_of(given).digest == before.digest


def test_the_first_n_of_each_class_and_split_are_a_subset_with_its_own_digest(given: Path) -> None:
    whole, quick = manifest_of(given), manifest_of(given, max_images_per_class=3)
    assert set(quick.images.groupby(["split", "label"]).size()) == {3}
    for split in ("train", "val", "test"):
        assert files(quick, split) < files(whole, split)
    assert quick.digest != whole.digest
    assert manifest_of(given, max_images_per_class=3).images.equals(quick.images)


def test_any_number_of_classes_and_odd_names(tmp_path: Path) -> None:
    names = ["a b", "it's", 'quo"te', "Füße", "NA", "007", "new\nline"]
    for number, name in enumerate(names):
        write_images(tmp_path / name, 6, seed=number)
    write_images(tmp_path / "empty", 0)
    (tmp_path / "a b" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "a b" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "a b" / "notes.txt").write_text("x")
    manifest = manifest_of(tmp_path)
    assert set(manifest.classes) == set(names)
    assert len(manifest.images) == 6 * len(names)


def test_three_images_a_class_are_enough(tmp_path: Path) -> None:
    for number in range(17):
        write_images(tmp_path / f"class{number}", 3, seed=number)
    manifest = manifest_of(tmp_path, holdout_fraction=0.4, test_fraction=0.5)
    counts = manifest.images.groupby(["split", "label"]).size()
    assert set(counts) == {1}
    assert len(counts) == 3 * 17


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"rose": 2, "lily": 1, "tulip": 5},
         ["leaves no image for val/lily, test/lily, test/rose. Every class needs at least 3 images, one for each split.",
          "\n  'lily' has 1 image\n  'rose' has 2 images"]),
        ({"train/rose": 5, "train/tulip": 5, "validation/rose": 1, "validation/tulip": 2},
         ["at least 1 image in train/ and 2 in validation/, which is divided into val and test",
          "\n  'rose' has 5 images in train/ and 1 image in validation/"]),
        ({"train/rose": 1, "train/tulip": 3, "test/rose": 2, "test/tulip": 2},
         ["at least 2 images in train/, which is divided into train and val, and 1 in test/",
          "\n  'rose' has 1 image in train/ and 2 images in test/"]),
        ({"train/rose": 1, "validation/rose": 1, "test/rose": 1, "train/tulip": 1, "validation/tulip": 1},
         ["at least 1 image in each of train/, validation/ and test/",
          "\n  'tulip' has 1 image in train/ and 1 image in validation/ and 0 images in test/"]),
    ],
)  # fmt: skip
def test_a_class_with_too_few_images_is_named_with_its_count(tmp_path: Path, sizes: dict[str, int], said: list[str]):
    for seed, (name, count) in enumerate(sizes.items()):
        write_images(tmp_path / "root" / name, count, seed=seed)
    with pytest.raises(UserError, match=r"^dataset.archive: ") as caught:
        manifest_of(tmp_path / "root")
    for words in said:
        assert words in str(caught.value)
    assert "'tulip' has 5" not in str(caught.value), "only classes that lack images are named"


def test_copies_of_one_picture_are_one_image(tmp_path: Path) -> None:
    write_images(tmp_path / "root" / "cats", 6)
    write_images(tmp_path / "root" / "dogs", 1, seed=1)
    for number in range(1, 4):
        shutil.copy(tmp_path / "root" / "dogs" / "000.jpg", tmp_path / "root" / "dogs" / f"{number:03d}.jpg")
    with pytest.raises(UserError) as caught:
        manifest_of(tmp_path / "root")
    assert "'dogs' has 4 images, but copies of one picture count once" in str(caught.value)


def test_images_outside_of_class_folders_are_no_data_set(tmp_path: Path) -> None:
    write_images(tmp_path / "flat", 3)
    with pytest.raises(UserError, match=r"3 images in .*flat, but none in a class's folder"):
        manifest_of(tmp_path / "flat")


@pytest.mark.parametrize(
    ("classes", "said"),
    [([], "no images in"), (["cats"], "only one class, 'cats'"), (["cats", "dogs"], "leaves no image for")],
)
def test_a_tree_that_is_no_data_set_is_refused(tmp_path: Path, classes: list[str], said: str) -> None:
    for seed, name in enumerate(classes):
        write_images(tmp_path / "root" / "train" / name, 4, seed=seed)
    (tmp_path / "root" / "train").mkdir(parents=True, exist_ok=True)
    if len(classes) == 2:
        write_images(tmp_path / "root" / "validation" / "cats", 4, seed=9)
    with pytest.raises(UserError, match=said):
        manifest_of(tmp_path / "root")
