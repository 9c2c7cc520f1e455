"""Groups of images: named by a pattern, a table or likeness; never divided; refused where they do not fit."""

from pathlib import Path

import pytest
from PIL import Image
from support import compose_config, write_images

from catdog.config.digest import hash_config
from catdog.data.dataset import Dataset, load_dataset
from catdog.data.description import describe_dataset
from catdog.data.splits import Manifest, build_manifest
from catdog.system.errors import UserError


def write_films(folder: Path, films: int, frames: int = 4, seed: int = 0) -> None:
    """Writes frames, each different, as film_0_0.jpg, film_0_1.jpg and so on."""
    write_images(folder, films * frames, seed=seed)
    for number, file in enumerate(sorted(folder.glob("???.jpg"))):
        file.rename(folder / f"film_{number // frames}_{number % frames}.jpg")


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Ten films of cats and ten of dogs."""
    for seed, name in enumerate(("cats", "dogs")):
        write_films(tmp_path / "images" / name, 10, seed=seed)
    return tmp_path / "images"


# Films of cats and dogs with the same number are different films.
PATTERN = r"[^/]+/film_\d+"


def manifest_of(root: Path, groups: str | None = PATTERN, **options) -> Manifest:
    fractions = {"holdout_fraction": 0.4, "test_fraction": 0.5, "split_seed": 0}
    return build_manifest(root, groups=groups, **{**fractions, **options})


def load(root: Path, tmp_path: Path, *overrides: str) -> Dataset:
    words = ("dataset=folder", f"dataset.archive={root}", f"dataset.cache={tmp_path}/cache", *overrides)
    return load_dataset(compose_config(*words).dataset)


@pytest.mark.parametrize("split_seed", range(4))
def test_no_group_is_divided_and_the_splits_keep_their_sizes(films: Path, split_seed: int) -> None:
    plain, images = manifest_of(films, None, split_seed=split_seed), manifest_of(films, split_seed=split_seed).images
    assert set(images.groupby("group")["split"].nunique()) == {1}
    assert images["group"].nunique() == 20
    assert (
        images.groupby(["split", "label"]).size().to_dict() == plain.images.groupby(["split", "label"]).size().to_dict()
    )
    assert set(plain.images["file"].str.extract(r"(.*/film_\d+)")[0].groupby(plain.images["split"]).nunique()) != {
        4,
        12,
    }
    assert "group" not in plain.images


def test_groups_of_unequal_size_and_of_several_classes_are_divided_as_well_as_they_can_be(tmp_path: Path) -> None:
    for seed, (name, sizes) in enumerate((("cats", (1, 1, 2, 3, 5, 8, 13)), ("dogs", (4, 4, 4, 4, 4, 4)))):
        for number, size in enumerate(sizes):
            write_images(tmp_path / name / f"patient_{number}", size, seed=100 * seed + number)
    # Patients with the same number are one, with images of both classes.
    images = manifest_of(tmp_path, r"patient_(\d+)").images
    assert set(images.groupby("group")["split"].nunique()) == {1}
    assert images["group"].nunique() == 7
    assert images["split"].value_counts(normalize=True)["train"] == pytest.approx(0.6, abs=0.2)


def test_an_image_more_of_a_film_moves_no_other_film(films: Path) -> None:
    before = manifest_of(films).images.set_index("file")["split"]
    write_images(films / "new", 1, seed=9)
    (films / "new" / "000.jpg").rename(films / "cats" / "film_3_9.jpg")
    (films / "new").rmdir()
    after = manifest_of(films).images.set_index("file")["split"]
    assert after["cats/film_3_9.jpg"] == after["cats/film_3_0.jpg"]
    assert (after[before.index] == before).mean() > 0.85


def test_groups_are_part_of_the_data_and_their_names_are_not(films: Path, tmp_path: Path) -> None:
    plain, named = manifest_of(films, None), manifest_of(films)
    assert named.digest != plain.digest
    assert manifest_of(films, r"([^/]+/film_\d+)_").digest == named.digest
    table = tmp_path / "films.csv"
    rows = [f"{file},{group}!" for file, group in zip(named.images["file"], named.images["group"], strict=True)]
    table.write_text("\n".join(["file,group", *rows]))
    by_table = manifest_of(films, str(table))
    assert set(by_table.images["group"]) == {f"{group}!" for group in named.images["group"]}
    assert set(by_table.images.groupby("group")["split"].nunique()) == {1}
    # A table in the folder of the data set goes with it.
    table.rename(films / "films.csv")
    assert manifest_of(films, "films.csv").digest == by_table.digest


def test_a_config_without_groups_has_the_digest_it_had() -> None:
    config = compose_config("dataset=synthetic")
    assert config.dataset.groups is None
    named = compose_config("dataset=synthetic", r"dataset.groups='cat\.(\d+)'")
    assert named.dataset.groups == r"cat\.(\d+)"
    assert hash_config(named, with_seed=True) == hash_config(config, with_seed=True)


def test_where_folders_divide_a_group_its_later_images_are_left_out_and_counted(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for seed, name in enumerate(("cats", "dogs")):
        write_films(root / "train" / name, 4, seed=seed)
        write_films(root / "validation" / name, 10, seed=seed + 10)
    dataset = load(root, tmp_path, r"dataset.groups='[^/]+/film_\d+'")
    manifest = dataset.manifest
    assert len(manifest.apart) == 2 * 4 * 4
    assert set(manifest.apart.values()) == {f"{name}/film_{number}" for name in ("cats", "dogs") for number in range(4)}
    assert not set(manifest.apart) & set(manifest.images["file"])
    said = describe_dataset(dataset)
    few = manifest.select("val")["group"].nunique()
    assert f"val has only {few} groups: if the images of a group are right or wrong together, the 95% interval" in said
    assert "80 images in 20 groups by dataset.groups=[^/]+/film_\\d+, the largest of 4" in said
    assert (
        "32 held-out files left out, as the images of 8 groups are in several of the data set's own split folders"
        in said
    )


def test_files_that_the_pattern_does_not_match_are_groups_of_their_own_and_counted(films: Path, tmp_path: Path) -> None:
    write_images(films / "cats" / "more", 5, seed=7)
    dataset = load(films, tmp_path, f"dataset.groups='{PATTERN}'")
    assert len(dataset.manifest.groups.without) == 5
    assert dataset.manifest.images["group"].nunique() == 25
    assert "dataset.groups names no group for 5 files, 'cats/more/000.jpg' first" in describe_dataset(dataset)


def test_near_duplicates_are_groups_without_being_named_and_change_no_digest(films: Path, tmp_path: Path) -> None:
    photo = Image.effect_mandelbrot((96, 96), (-2, -1.5, 1, 1.5), 60).convert("RGB")
    for number, quality in enumerate((95, 80, 70)):
        photo.save(films / "cats" / f"copy_{number}.jpg", quality=quality)
    found, ignored = load(films, tmp_path), load(films, tmp_path, "dataset.near_duplicates=ignore")
    images = found.manifest.images
    copies = images[images["file"].str.contains("copy_")]
    assert set(copies["group"]) == {"cats/copy_0.jpg"}
    assert images["group"].nunique() == 81
    assert "3 images are near-duplicates, in 1 group: no group is divided" in describe_dataset(found)
    assert "group" not in ignored.manifest.images
    split = str(copies["split"].iloc[0])
    codes = found.manifest.code_groups(found.manifest.select(split)["file"])
    assert codes is not None
    assert codes.max() + 1 == len(found.manifest.select(split)) - 2
    # Groups and near-duplicates are one mechanism: what either connects stays together.
    both = load(films, tmp_path, r"dataset.groups='film_\d+|copy_[01]'").manifest.images
    assert both[both["file"].str.contains("copy_")]["split"].nunique() == 1


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ("film_(", r"dataset.groups: must be near_duplicates, a CSV file .* received 'film_\('. It does not compile: "),
        ("scene_", r"dataset.groups: the pattern 'scene_' matches none of the 80 files below .*, such as 'cats/film_0_0.jpg'"),
        ("nowhere.csv", r"dataset.groups: there is no file 'nowhere.csv', neither in the working folder nor in "),
        ("columns.csv", r"must have the columns file and group, received name, group"),
        ("unknown.csv", r"unknown.csv: 1 file not in the data set: 'cats/none.jpg'. Files are named relative to "),
        ("missing.csv", r"missing.csv: 79 files of the data set but not listed: .* and 76 more"),
        ("twice.csv", r"twice.csv: 1 file in several groups: 'cats/film_0_0.jpg'"),
        ("binary.csv", r"binary.csv cannot be read as CSV"),
    ],
)  # fmt: skip
def test_groups_that_do_not_fit_are_refused(films: Path, tmp_path: Path, groups: str, said: str) -> None:
    tables = {
        "columns.csv": "name,group\ncats/film_0_0.jpg,1\n",
        "unknown.csv": "file,group\ncats/none.jpg,1\n",
        "missing.csv": "file,group\ncats/film_0_0.jpg,1\n",
        "twice.csv": "file,group\ncats/film_0_0.jpg,1\ncats/film_0_0.jpg,2\n",
    }
    for name, text in tables.items():
        (films / name).write_text(text)
    (films / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=said):
        load(films, tmp_path, f"dataset.groups='{groups}'")


def test_near_duplicates_cannot_be_groups_where_they_are_ignored() -> None:
    with pytest.raises(UserError, match=r"Leave out dataset.near_duplicates=ignore"):
        compose_config("dataset=synthetic", "dataset.groups=near_duplicates", "dataset.near_duplicates=ignore")


def test_a_class_of_one_group_cannot_be_divided(tmp_path: Path) -> None:
    write_films(tmp_path / "cats", 1, seed=1)
    write_films(tmp_path / "dogs", 6, seed=2)
    with pytest.raises(UserError, match=r"'cats' has 4 images, but .* groups \(dataset.groups\) are not divided"):
        manifest_of(tmp_path)


def test_groups_that_are_all_in_train_leave_nothing_to_validate(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        for seed, name in enumerate(("cats", "dogs")):
            write_films(tmp_path / split / name, 3, seed=seed + len(split))
    with pytest.raises(
        UserError, match=r"leaves no image for val/cats, .* 24 held-out files left out, as their groups are in"
    ):
        manifest_of(tmp_path)
