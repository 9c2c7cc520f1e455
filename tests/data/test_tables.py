"""Images that a table, Parquet files or tar shards hold: the same data set as a folder of the same images."""

import io
import json
import tarfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import compose_config, write_images

from catdog.data.dataset import Dataset, load_dataset
from catdog.system.errors import UserError

NAMES = ["cat", "dog"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve images of each class, in folders a and b that are not those of the classes."""
    for seed, folder in enumerate(("a", "b")):
        write_images(tmp_path / "photos" / folder, 12, seed=seed, size=32)
    return tmp_path / "photos"


def list_rows(photos: Path) -> pd.DataFrame:
    """The table of the images: half of each folder are cats; three images of a group follow each other."""
    files = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    numbers = pd.Series(range(len(files)))
    return pd.DataFrame({"file": files, "label": numbers.mod(2).map(dict(enumerate(NAMES))), "group": numbers // 4})


def load(tmp_path: Path, source: str, archive: Path, *overrides: str) -> Dataset:
    words = (f"dataset={source}", f"dataset.archive={archive}", f"dataset.cache={tmp_path}/cache", *overrides)
    return load_dataset(compose_config(*words, "dataset.near_duplicates=ignore").dataset)


def require_same_content(dataset: Dataset, photos: Path, rows: pd.DataFrame) -> None:
    """Every image is there, under its label, byte for byte."""
    images = dataset.manifest.images
    found = {(row.label, (dataset.manifest.root / row.file).read_bytes()) for row in images.itertuples()}
    assert found == {(row.label, (photos / row.file).read_bytes()) for row in rows.itertuples()}
    assert dataset.classes == ("cat", "dog")


def write_parquet(path: Path, photos: Path, rows: pd.DataFrame, *, hugging_face: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = [(photos / file).read_bytes() for file in rows["file"]]
    if hugging_face:
        images = [{"bytes": each, "path": Path(file).name} for each, file in zip(content, rows["file"], strict=True)]
        table = pa.table({"picture": images, "label": [NAMES.index(label) for label in rows["label"]]})
        features = {"picture": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    else:
        table = pa.table(
            {"image": content, "class": rows["label"].tolist(), "group": rows["group"].astype(str).tolist()}
        )
    pq.write_table(table, path, row_group_size=5)


def write_tar(path: Path, photos: Path, rows: pd.DataFrame, describe) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for number, row in enumerate(rows.itertuples()):
            for ending, content in (("jpg", (photos / row.file).read_bytes()), describe(row)):
                info = tarfile.TarInfo(f"sample{number:03d}.{ending}")
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))


def test_a_csv_file_names_files_labels_splits_and_groups(photos, tmp_path):
    rows = list_rows(photos)
    rows.drop(columns="group").to_csv(photos / "all.csv", index=False)
    require_same_content(load(tmp_path, "csv", photos / "all.csv"), photos, rows)
    rows["split"] = ["train", "train", "validation", "test"] * 6
    rows.to_csv(photos / "all.csv", index=False)
    with pytest.raises(UserError, match=r"leaves no image|groups"):
        # Each group has images in three splits, and all but those of train are left out.
        load(tmp_path, "csv", photos / "all.csv")
    rows["split"] = (["train"] * 4 + ["Val"] * 4 + ["testing"] * 4) * 2
    rows.to_csv(photos / "all.csv", index=False)
    images = load(tmp_path, "csv", photos / "all.csv").manifest.images
    assert images["split"].value_counts().to_dict() == {"train": 8, "val": 8, "test": 8}
    assert images["group"].nunique() == 6
    names = dict(zip(images["file"], images["split"], strict=True))
    assert names["train/cat/a__000.jpg"] == "train"


def test_without_splits_no_group_of_the_table_is_divided(photos, tmp_path):
    rows = list_rows(photos)
    rows.to_csv(photos / "all.csv", index=False)
    dataset = load(tmp_path, "csv", photos / "all.csv")
    require_same_content(dataset, photos, rows)
    assert set(dataset.manifest.images.groupby("group")["split"].nunique()) == {1}
    # The key has the last word.
    plain = load(tmp_path, "csv", photos / "all.csv", 'dataset.groups="/(.*)"')
    assert plain.manifest.images["group"].nunique() == 24


@pytest.mark.parametrize("hugging_face", [True, False])
def test_parquet_files_with_and_without_the_features_of_hugging_face(photos, tmp_path, hugging_face):
    rows = list_rows(photos)
    for number in range(2):
        write_parquet(
            tmp_path / f"set/data/train-0000{number}-of-00002.parquet",
            photos,
            rows.iloc[number::2],
            hugging_face=hugging_face,
        )
    dataset = load(tmp_path, "parquet", tmp_path / "set")
    require_same_content(dataset, photos, rows)
    assert ("group" in dataset.manifest.images) != hugging_face


def test_names_of_shards_give_their_splits(photos, tmp_path):
    rows = list_rows(photos)
    for split, part in (("train", slice(0, 12)), ("validation", slice(12, 18)), ("test", slice(18, 24))):
        write_parquet(tmp_path / f"set/{split}-00000-of-00001.parquet", photos, rows.iloc[part])
    images = load(tmp_path, "parquet", tmp_path / "set").manifest.images
    assert images["split"].value_counts().to_dict() == {"train": 12, "val": 6, "test": 6}


@pytest.mark.parametrize("kind", ["number", "name", "json"])
def test_tar_shards(photos, tmp_path, kind):
    rows = list_rows(photos)
    describe = {
        "number": lambda row: ("cls", str(NAMES.index(row.label)).encode()),
        "name": lambda row: ("cls", row.label.encode()),
        "json": lambda row: ("json", json.dumps({"label": row.label, "group": str(row.group)}).encode()),
    }[kind]
    for number in range(3):
        write_tar(tmp_path / f"set/shard-{number}.tar", photos, rows.iloc[number::3], describe)
    (tmp_path / "set/classnames.txt").write_text("cat\ndog\n")
    dataset = load(tmp_path, "webdataset", tmp_path / "set")
    require_same_content(dataset, photos, rows)
    assert ("group" in dataset.manifest.images) == (kind == "json")


def test_a_changed_table_is_laid_out_again_and_an_unchanged_one_is_not(photos, tmp_path, caplog):
    rows = list_rows(photos)
    rows.to_csv(photos / "all.csv", index=False)
    with caplog.at_level("INFO"):
        first = load(tmp_path, "csv", photos / "all.csv")
        assert "24 images are linked" in caplog.text
        caplog.clear()
        assert load(tmp_path, "csv", photos / "all.csv").manifest.digest == first.manifest.digest
        assert "linked" not in caplog.text
        rows.iloc[:-1].to_csv(photos / "all.csv", index=False)
        assert len(load(tmp_path, "csv", photos / "all.csv").manifest.images) == 23


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop(columns="label"), r"must have the columns file and label.*received file, group, 24 rows"),
        (lambda rows: rows.iloc[:0], r"needs a row for each image; received file, label, group, 0 rows"),
        (lambda rows: rows.assign(file=rows["file"].replace("a/000.jpg", "a/none.jpg")), r"1 file not there, relative to .*none"),
        (lambda rows: pd.concat([rows, rows[:1]]), r"1 file listed twice: a/000\.jpg"),
        (lambda rows: rows.assign(file=rows["file"].replace("a/000.jpg", "a/000.txt")), r"1 file whose name does not end"),
        (lambda rows: rows.assign(label=rows["label"].where(rows.index > 0, "")), r"1 file without a label: a/000\.jpg"),
        (lambda rows: rows.assign(split=["train", "trial"] * 12), r"column split of .* received also 'trial'"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_one_message_and_leaves_nothing(photos, tmp_path, change, message):
    change(list_rows(photos)).to_csv(photos / "all.csv", index=False)
    with pytest.raises(UserError, match=message):
        load(tmp_path, "csv", photos / "all.csv")
    assert not [path for path in (tmp_path / "cache/extracted").iterdir() if path.suffix != ".lock"]


def test_wrong_shards_are_one_message(photos, tmp_path):
    rows = list_rows(photos)
    with pytest.raises(UserError, match=r"no file or folder '.*none'"):
        load(tmp_path, "parquet", tmp_path / "none")
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match=r"there is no \.parquet file in"):
        load(tmp_path, "parquet", tmp_path / "set")
    (tmp_path / "set/a.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        load(tmp_path, "parquet", tmp_path / "set")
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "set/a.parquet")
    with pytest.raises(UserError, match=r"needs one column with the bytes of images.*received x"):
        load(tmp_path, "parquet", tmp_path / "set")
    (tmp_path / "set/a.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match="cannot be read as a tar file"):
        load(tmp_path, "webdataset", tmp_path / "set")
    write_tar(tmp_path / "set/a.tar", photos, rows, lambda row: ("txt", b"a caption"))
    with pytest.raises(UserError, match=r"sample 'sample000' .* needs one image and a label.*received \.jpg, \.txt"):
        load(tmp_path, "webdataset", tmp_path / "set")
    write_tar(tmp_path / "set/train.tar", photos, rows, lambda row: ("cls", row.label.encode()))
    with pytest.raises(UserError, match=r"say train, validation or test, but not those of a\.tar"):
        load(tmp_path, "webdataset", tmp_path / "set")


def test_two_files_of_one_name_are_refused_and_no_photo_is_touched(photos, tmp_path):
    (photos / "a__000.jpg").write_bytes((photos / "b/000.jpg").read_bytes())
    content = {path: path.read_bytes() for path in photos.rglob("*.jpg")}
    rows = list_rows(photos).assign(label="cat")
    rows["label"] = rows["label"].where(rows["file"].str.contains("000"), "dog")
    rows.to_csv(photos / "all.csv", index=False)
    with pytest.raises(UserError, match=r"two images would be called 'cat/a__000\.jpg'"):
        load(tmp_path, "csv", photos / "all.csv")
    assert {path: path.read_bytes() for path in photos.rglob("*.jpg")} == content


def test_a_long_path_gets_a_short_name(photos, tmp_path):
    deep = photos / ("x" * 120) / ("y" * 120)
    deep.mkdir(parents=True)
    (photos / "a/000.jpg").rename(deep / "000.jpg")
    rows = list_rows(photos)
    rows.to_csv(photos / "all.csv", index=False)
    require_same_content(load(tmp_path, "csv", photos / "all.csv"), photos, rows)
