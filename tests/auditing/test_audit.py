import re
import shutil
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from planted import CHANGES
from support import write_images

from catdog.auditing.pipeline import describe_traffic, load_pipeline, watch_pipeline
from catdog.system.errors import UserError

LEAKY = """
import numpy as np
import tensorflow as tf

images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
labels = np.arange(60) % 2

def leaky():
    held_out = tf.data.Dataset.from_tensor_slices((images[30:], labels[30:])).shuffle(30).batch(6)
    return tf.data.Dataset.from_tensor_slices((images[:30], labels[:30])).batch(6), held_out.skip(2), held_out.take(2)

def tight():
    # A generator has a state of its own: where operations are deterministic, tf.image.random_* repeat themselves in each pass.
    draw = tf.random.Generator.from_seed(1)
    augment = lambda image, label: (tf.cast(image, tf.float32) + draw.uniform((), -70, 70), label)
    train = tf.data.Dataset.from_tensor_slices((images[:30], labels[:30])).map(augment)
    return train, tf.data.Dataset.from_tensor_slices(images[30:45]), [images[45:]]

def two():
    return 1, 2

def broken():
    raise RuntimeError("no such folder")

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "their_data.py").write_text(textwrap.dedent(LEAKY))
    (tmp_path / "spoiled_data.py").write_text("import os\nos.no_such_thing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_data", raising=False)
    return tmp_path


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    """A data set with one of everything."""
    root = tmp_path / "images"
    for split, count in (("train", 12), ("validation", 8)):
        for label in ("cats", "dogs"):
            write_images(root / split / label, count, seed=len(split), size=96)
    train = root / "train"
    original = Image.open(train / "cats" / "000.jpg")
    for target, change in (
        ("train/cats/double.jpg", "JPEG quality 30"),
        ("validation/cats/leak.jpg", "5% cut off each side"),
        ("train/dogs/conflict.jpg", "mirrored"),
    ):
        CHANGES[change](original).convert("RGB").save(root / target, quality=90)
    shutil.copy(train / "dogs" / "001.jpg", root / "validation" / "dogs" / "copy.jpg")
    (train / "dogs" / "broken.jpg").write_bytes(b"no image")
    (train / "dogs" / "notes.txt").write_text("about")
    write_images(train / "dogs" / "night", 1, seed=11, size=96)
    write_images(root / "loose", 1, seed=12)
    Image.new("RGB", (64, 64), "white").save(train / "cats" / "white.png")
    original.resize((300, 40)).save(train / "cats" / "wide.png")
    original.convert("L").resize((20, 20)).save(train / "dogs" / "grey.png")
    return root


def test_everything_planted_is_found_and_nothing_else_paired(spoiled: Path, catdog, tmp_path: Path):
    command = ("audit", "dataset=folder", f"dataset.archive={spoiled}")
    done = catdog(*command)
    assert done.code == 0, done.text
    for said in (
        "show the same picture under different classes",
        "catdog leaves out the one in the later split",
        "in one split",
        "1 file cannot be read",
        "all of one colour",
        "smaller than 32 pixels",
        "4 times as long as wide",
        "1 image is grey",
        "1 image is outside of the classes' folders: ignored",
        "class 'dogs' includes 1 image from 1 folder below it: night",
        "train/dogs/notes.txt",
    ):
        assert said in done.out, said
    (folder,) = (tmp_path / "audits").iterdir()
    assert re.fullmatch(r"images-[0-9a-f]{8}", folder.name)
    pairs = pd.read_csv(folder / "pairs.csv")
    planted = {"000.jpg", "double.jpg", "leak.jpg", "conflict.jpg", "copy.jpg", "001.jpg", "wide.png", "grey.png"}
    assert {Path(file).name for column in ("first", "second") for file in pairs[column]} <= planted
    assert {"mirrored", "copy"} <= set(pairs["kind"])
    images = pd.read_csv(folder / "images.csv").set_index("file")
    assert not images.loc["validation/cats/leak.jpg", "used"]
    assert not images.loc["validation/dogs/copy.jpg", "used"]
    assert images["used"].sum() == len(images) - 2
    page = (folder / "audit.html").read_text()
    assert page.count('class="both"') == len(pairs)
    assert "http" not in page.replace("http-equiv", "")
    assert catdog(*command, "fail_on=error").code == 3


def test_a_clean_data_set_has_nothing_to_say(tmp_path: Path, catdog):
    for label in ("cats", "dogs"):
        write_images(tmp_path / "images" / label, 12, size=64)
    done = catdog("audit", "dataset=folder", f"dataset.archive={tmp_path / 'images'}", "fail_on=warning")
    assert done.code == 0, done.text
    assert "nothing found" in done.out


def test_two_folders_of_one_name_have_an_audit_each(tmp_path: Path, catdog):
    for seed, place in enumerate(("mine", "theirs")):
        for label in ("cats", "dogs"):
            write_images(tmp_path / place / "pets" / label, 6, seed=seed, size=64)
        done = catdog("audit", "dataset=folder", f"dataset.archive={place}/pets")
        assert done.code == 0, done.text
        # The same folder again, by another path, replaces its own.
        assert catdog("audit", "dataset=folder", f"dataset.archive={tmp_path / place / 'pets'}/").code == 0
    folders = sorted((tmp_path / "audits").iterdir())
    assert [folder.name[:5] for folder in folders] == ["pets-", "pets-"]
    assert len({pd.read_csv(folder / "images.csv")["sha256"][0] for folder in folders}) == 2
    refused = catdog("audit", "dataset=folder", "dataset.archive=mine/pets", "output=mine/pets/cats/000.jpg")
    assert refused.code == 2
    assert "output: cannot write" in refused.err


def test_own_images_under_the_name_of_the_default_are_audited_and_refused(tmp_path: Path, catdog):
    for seed, label in enumerate(("rose", "tulip")):
        write_images(tmp_path / "flowers" / label, 8, seed=seed, size=64)
    done = catdog("audit", "dataset.archive=flowers")
    assert "error: training refuses this data set: dataset.archive: flowers is not the data set cats_dogs" in done.out
    drawn = catdog("audit", "dataset=synthetic", "dataset.archive=flowers")
    assert drawn.code == 2
    assert "dataset.archive: must be null where the images are drawn (dataset=synthetic)" in drawn.err


def test_without_the_splitter_a_leak_is_an_error(spoiled: Path, catdog):
    done = catdog("audit", "dataset=folder", f"dataset.archive={spoiled}", "dataset.near_duplicates=ignore")
    assert "in two splits: a model is tested on what it was trained on" in done.out


def test_a_pipeline_that_reshuffles_leaks_and_is_told_why(module: Path):
    traffic = watch_pipeline(load_pipeline("their_data:leaky"), "leaky", 4)
    assert traffic.leaks
    assert traffic.overlap("test", "val") > traffic.overlap("test", "val", 1)
    assert traffic.overlap("test", "train") == 0
    assert traffic.moves == ["val", "test"]
    verdict, *more = describe_traffic(traffic)
    assert verdict == "this pipeline leaks"
    assert f"{traffic.overlap('test', 'val')} of 12 test images have served in val after 4 epochs" in more[0]
    assert "reshuffle_each_iteration=False" in more[-1]


def test_a_tight_pipeline_does_not_and_augmentation_is_a_limit(module: Path):
    traffic = watch_pipeline(load_pipeline("their_data:tight"), "tight", 3)
    assert not traffic.leaks
    verdict, *more = describe_traffic(traffic)
    assert verdict == "no image of test or val served elsewhere in 3 epochs"
    assert "0 of 30 training images came back unchanged" in more[0]


def test_a_split_that_changes_later_leaks_as_well():
    """In its first epoch test is clean; in the second it shows a training image."""
    images = [np.full((4, 4, 3), value, dtype=np.uint8) for value in range(4)]

    class Moving:
        epoch = 0

        def __iter__(self):
            self.epoch += 1
            return iter([images[2 if self.epoch == 1 else 0]])

    traffic = watch_pipeline(lambda: (images[:2], images[3:], Moving()), "f", 3)
    assert traffic.overlap("test", "train") == 0
    assert traffic.leaks
    assert "test and train have shown 1 image in common after 3 epochs" in describe_traffic(traffic)[1]


def test_the_same_pixels_are_the_same_image_whatever_their_type():
    image = np.full((4, 4, 3), 7, dtype=np.uint8)
    traffic = watch_pipeline(lambda: ([image], [image.astype("float32")], [image[None] + 1]), "f", 2)
    assert traffic.overlap("val", "train") == 1
    assert traffic.overlap("test", "train") == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("their_data", "must be module:function"),
        ("nowhere:build", "no module 'nowhere'"),
        ("their_data:build", "their_data has no 'build'"),
        ("their_data:number", "must be a function, received int"),
        ("spoiled_data:build", "spoiled_data cannot be imported: AttributeError"),
        ("their_data:two", "must return three data sets"),
        ("their_data:broken", "failed: RuntimeError: no such folder"),
    ],
)
def test_a_pipeline_that_cannot_be_watched_is_the_users_mistake(module: Path, name: str, said: str):
    with pytest.raises(UserError, match=r"^pipeline: ") as caught:
        watch_pipeline(load_pipeline(name), name, 2)
    assert said in str(caught.value)


@pytest.mark.slow
def test_the_command_audits_a_module_of_the_working_folder(module: Path, catdog):
    done = catdog("audit", "pipeline=their_data:leaky", "epochs=3", "fail_on=error")
    assert done.code == 3, done.text
    assert "error: this pipeline leaks" in done.out
    assert catdog("audit", "pipeline=their_data:nothing").code == 2
    assert "epochs: must be 2 or more" in catdog("audit", "pipeline=their_data:leaky", "epochs=1").err
