"""What is said of a data set before training: counts, what to expect, nested folders, unreadable test files, other images."""

from pathlib import Path

import pandas as pd
import pytest
from support import compose_config, write_images

from catdog.data.dataset import Dataset, load_dataset, require_cats_and_dogs
from catdog.data.description import describe_dataset, describe_groups
from catdog.data.splits import Manifest
from catdog.system.errors import UserError


def load(root: Path, cache: Path, *overrides: str) -> Dataset:
    words = ["dataset=folder", f"dataset.archive={root}", f"dataset.cache={cache}", *overrides]
    return load_dataset(compose_config(*words).dataset)


def write_classes(root: Path, first_seed: int = 0, **counts: int) -> Path:
    for seed, (name, count) in enumerate(counts.items(), first_seed):
        write_images(root / name, count, seed=seed)
    return root


def test_many_images_in_equal_classes_need_no_word(tmp_path: Path, cache: Path) -> None:
    root = write_classes(tmp_path / "pets", cats=250, dogs=250)
    dataset = load(root, cache, "dataset.near_duplicates=ignore")
    assert describe_dataset(dataset).splitlines() == [
        f"data set folder from {root}, digest {dataset.manifest.digest[:12]}",
        "  train     300  cats 150, dogs 150",
        "  val       100  cats 50, dogs 50",
        "  test      100  cats 50, dogs 50",
    ]


def test_unequal_classes_give_the_baseline_and_few_images_what_they_can_tell(tmp_path: Path, cache: Path) -> None:
    said = describe_dataset(load(write_classes(tmp_path / "pets", cats=10, dogs=50), cache))
    assert "always answering 'dogs' is right on 83.3% of val; trainer.class_weights=balanced makes" in said
    assert "val has only 12 images: each is 8.3 points of accuracy" in said
    assert "1 class has fewer than 10 training images ('cats' has 6)" in said


def test_of_many_classes_only_the_sizes_are_listed(tmp_path: Path, cache: Path) -> None:
    root = write_classes(tmp_path / "flowers", **{f"kind{number}": 3 + number % 2 for number in range(30)})
    said = describe_dataset(load(root, cache, "dataset.near_duplicates=ignore"))
    assert "  train      45  30 classes of 1 to 2 images" in said
    assert "30 classes have fewer than 10 training images ('kind0' has 1)" in said


def test_images_in_folders_below_a_class_are_counted_and_said(tmp_path: Path, cache: Path) -> None:
    root = write_classes(tmp_path / "pets", cats=8, dogs=8)
    write_images(root / "cats" / "night", 2, seed=3)
    write_images(root / "cats" / "day" / "late", 1, seed=4)
    said = describe_dataset(load(root, cache))
    assert "class 'cats' includes 3 images from 2 folders below it: day/late, night" in said
    assert "class 'dogs' includes" not in said
    assert "all classes have the same folders" not in said


def test_classes_below_folders_that_are_no_classes_are_suspected(tmp_path: Path, cache: Path) -> None:
    for seed, part in enumerate(("part1", "part2")):
        write_classes(tmp_path / "pets" / part, 2 * seed, cats=6, dogs=6)
    said = describe_dataset(load(tmp_path / "pets", cache, "dataset.near_duplicates=ignore"))
    assert "class 'part1' includes 12 images from 2 folders below it: cats, dogs" in said
    assert "If cats, dogs are the classes, set dataset.archive to the folder 'part1'" in said


def test_an_unreadable_file_of_test_is_named_and_not_counted(tmp_path: Path, cache: Path) -> None:
    root = write_classes(tmp_path / "pets", cats=20, dogs=20)
    before = load(root, cache)
    broken, *others = sorted(before.manifest.select("test")["file"])
    (root / broken).write_bytes((root / broken).read_bytes()[:300])
    said = describe_dataset(load(root, cache))
    assert "  test        7  cats 3, dogs 4" in said
    assert f"  1 file of test is unreadable and left out:\n    {broken!r}: the file is cut short" in said
    assert len(load(root, cache).manifest.images) == len(before.manifest.images), "the splits have not moved"
    for number, file in enumerate(others[:3]):
        (root / file).write_bytes(b"no image" + bytes([number]))
    with pytest.raises(UserError) as caught:
        load(root, cache)
    assert "4 of 8 files of test are unreadable, more than dataset.max_unreadable_fraction=0.05 allows" in str(
        caught.value
    )
    assert f"{broken!r}: the file is cut short" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("tulip", "rose"), "received the classes 'rose', 'tulip'. For your own images add dataset=folder"),
        (("cats", "dogs"), "received the classes 'cats', 'dogs', but not in train/ and validation/"),
    ],
)
def test_own_images_do_not_pass_for_cats_dogs(tmp_path: Path, cache: Path, names: tuple[str, str], said: str) -> None:
    root = write_classes(tmp_path / "own", **dict.fromkeys(names, 8))
    dataset = load_dataset(compose_config(f"dataset.archive={root}", f"dataset.cache={cache}").dataset)
    with pytest.raises(UserError, match="is not the data set cats_dogs") as caught:
        require_cats_and_dogs(dataset)
    assert str(caught.value).startswith(f"dataset.archive: {root} ")
    assert said in str(caught.value)


def test_the_photos_of_cats_and_dogs_may_lie_anywhere(tmp_path: Path, cache: Path) -> None:
    for seed, split in enumerate(("train", "validation")):
        write_classes(tmp_path / "mine" / split, 2 * seed, cats=6, dogs=6)
    options = (f"dataset.archive={tmp_path / 'mine'}", f"dataset.cache={cache}", "dataset.near_duplicates=ignore")
    require_cats_and_dogs(load_dataset(compose_config(*options).dataset))


def test_images_that_are_hidden_by_a_dot_are_counted_and_those_of_the_system_are_not(
    tmp_path: Path, cache: Path
) -> None:
    root = write_classes(tmp_path / "pets", cats=8, dogs=8)
    for name in (".DS_Store", "._000.jpg", "Thumbs.db", ".gitkeep"):
        (root / "cats" / name).write_bytes(b"x")
    assert "begins with a dot" not in describe_dataset(load(root, cache))
    (root / "cats" / "000.jpg").rename(root / "cats" / ".000.jpg")
    dataset = load(root, cache)
    assert dataset.manifest.hidden == ("cats/.000.jpg",)
    assert (
        "1 image whose name begins with a dot is left out, as a hidden file; rename it to use it: 'cats/.000.jpg'"
        in describe_dataset(dataset).splitlines()[-1]
    )
    for file in root.rglob("*.jpg"):
        file.rename(file.with_name(f".{file.name.lstrip('.')}"))
    with pytest.raises(UserError, match=r"no images in .*16 images whose names begin with a dot are left out"):
        load(root, cache)


def test_folders_without_an_image_are_named(tmp_path: Path, cache: Path) -> None:
    root = write_classes(tmp_path / "pets", cats=8, dogs=8)
    assert "no class" not in describe_dataset(load(root, cache))
    for name, files in {"birds": ("1.heic", "2.HEIC", "notes", ".hidden"), "fish": ()}.items():
        (root / name).mkdir()
        for file in files:
            (root / name / file).write_bytes(b"x")
    said = describe_dataset(load(root, cache)).splitlines()[-1]
    assert "2 folders hold no image and are no class: 'birds' (2 .heic, 1 without a suffix), 'fish' (empty)." in said
    assert "Images are files with the suffix bmp, gif," in said


def test_unreadable_files_are_counted_nowhere_and_named_once(tmp_path: Path, cache: Path, caplog) -> None:
    from types import SimpleNamespace

    from catdog.sweeps.check import decode_images
    from catdog.tracking.results import log_data

    root = write_classes(tmp_path / "pets", cats=40, dogs=40)
    own = ["dataset=folder", f"dataset.archive={root}", f"dataset.cache={cache}"]
    broken = load(root, cache).manifest.select("train")["file"][0]
    (root / broken).write_bytes(b"no image")
    configs = [compose_config(*own, f"preprocessing.image_size={size}") for size in (32, 48)]
    dataset = load_dataset(configs[0].dataset)
    used = len(dataset.manifest.select("train")) - 1
    caplog.set_level("INFO")
    jobs = [SimpleNamespace(config=config, name="cnn") for config in configs]
    decode_images(jobs, [dataset, dataset])
    # As a run of the sweep does it.
    dataset.load_split("train", 32, file_only=True)
    told = [record for record in caplog.records if "left out" in record.message]
    assert [record.file_only for record in told] == [False, True, True]
    assert f"train: {used} images at 48 x 48" in caplog.text
    assert f"  train {used:>7}  " in describe_dataset(dataset)
    tags: dict[str, str] = {}
    run = SimpleNamespace(log_tags=tags.update, log_table=lambda *_: None, append=lambda *_, **__: None)
    log_data(run, configs[0].dataset, dataset.manifest)
    assert str(used) in tags.values()
    assert str(used + 1) not in tags.values()


def test_groups_of_near_duplicates_are_reported_by_size():
    names = [name for name, size in (("a", 2), ("b", 2), ("c", 40), ("d", 3), ("e", 5), ("f", 1)) for _ in range(size)]
    files = [str(number) for number in range(len(names))]
    images = pd.DataFrame({"file": files, "label": "x", "split": "train", "sha256": files, "group": names})
    (said,) = describe_groups(Manifest(Path(), ("x",), images, {}, "digest"))
    assert said.startswith(
        "52 images are near-duplicates, in 5 groups, 2 of 2, 2 of 3 to 5, 1 of 40: no group is divided"
    )
    pairs = images[images["group"].isin(["a", "b", "f"])]
    (said,) = describe_groups(Manifest(Path(), ("x",), pairs, {}, "digest"))
    assert said.startswith("4 images are near-duplicates, in 2 groups: no group")
