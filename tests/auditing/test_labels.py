"""The audit's check of labels: wrong ones are planted among pictures of stripes, and a frozen backbone finds them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from labels import plant
from PIL import Image

from catdog.auditing.labels import FOLDS, _assign_folds, group_files, predict_held_out


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """400 pictures of stripes, flat or steep, in any colours; some of them are nearly diagonal."""
    generator = np.random.default_rng(5)
    rows, columns = np.mgrid[:64, :64]
    for label, angle in (("flat", 90), ("steep", 0)):
        (tmp_path / "stripes" / label).mkdir(parents=True)
        for number in range(200):
            turned = np.deg2rad(generator.normal(angle, 12))
            wave = np.sin((columns * np.cos(turned) + rows * np.sin(turned)) * generator.uniform(0.3, 0.6) + number)
            colours = generator.uniform(0, 255, (2, 3))
            pixels = (
                colours[0]
                + (colours[1] - colours[0]) * (wave[..., None] + 1) / 2
                + generator.normal(0, 12, (64, 64, 3))
            )
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "stripes" / label / f"{number}.png")
    return tmp_path / "stripes"


@pytest.mark.slow
def test_planted_labels_are_found_and_shown(stripes: Path, tmp_path: Path, catdog) -> None:
    planted = plant(stripes, tmp_path / "images", 0.03, seed=1)
    before = sorted((path, path.read_bytes()) for path in (tmp_path / "images").rglob("*") if path.is_file())
    words = ("audit", "dataset=folder", f"dataset.archive={tmp_path / 'images'}", "labels=drawn_mini")
    done = catdog(*words, "format=json", "fail_on=warning")
    assert done.code == 3, done.text
    result = json.loads(done.out)
    check = result["labels"]
    assert check["backbone"] == "drawn_mini"
    assert check["accuracy"] > 0.8
    folder = tmp_path / Path(result["page"]).parent
    images = pd.read_csv(folder / "images.csv")
    planted &= set(images["file"][images["used"] & (images["split"] != "test")])
    suspects = [one["file"] for one in check["suspects"]]
    hits = len(planted & set(suspects))
    assert hits >= 0.6 * len(suspects)
    assert hits >= 0.5 * len(planted)
    wrong = [one["wrong"] for one in check["suspects"]]
    assert wrong == sorted(wrong, reverse=True)
    assert all(one["label"] != one["suggested"] for one in check["suspects"])
    assert all(one["split"] in ("train", "val") for one in check["suspects"])
    (finding,) = (one for one in result["findings"] if one["kind"] == "suspect label")
    assert finding["severity"] == "warning"
    assert finding["files"] == suspects
    assert list(pd.read_csv(folder / "suspects.csv")["file"]) == suspects
    page = (folder / "audit.html").read_text()
    assert "<h2>Suspect labels</h2>" in page
    assert page.count(">perhaps ") == len(suspects)
    assert before == sorted((path, path.read_bytes()) for path in (tmp_path / "images").rglob("*") if path.is_file())


@pytest.mark.slow
def test_without_wrong_labels_a_note_says_what_would_be_found(stripes: Path, catdog) -> None:
    done = catdog("audit", "dataset=folder", f"dataset.archive={stripes}", "labels=drawn_mini", "fail_on=warning")
    assert done.code == 0, done.text
    assert "note: no label of 320 images is suspect" in done.out
    assert "If 2% were wrong at random, about " in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("labels=true",), "labels: must be null or one of drawn_mini, "),
        (("labels=conv3",), "received 'conv3'"),
        (("labels=mobilenet_v2", "pipeline=my:data"), "labels: must be null where a pipeline is audited"),
    ],
)
def test_a_wrong_value_is_named(words: tuple[str, ...], said: str, catdog) -> None:
    done = catdog("audit", *words)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("error:") == 1


@pytest.mark.slow
def test_weights_that_are_not_there_are_named(stripes: Path, catdog) -> None:
    done = catdog(
        "audit", "dataset=folder", f"dataset.archive={stripes}", "labels=mobilenet_v2", CATDOG_WEIGHTS="no.h5"
    )
    assert done.code == 2
    assert "labels: mobilenet_v2 is not available. " in done.err
    assert "no.h5" in done.err
    assert "Traceback" not in done.err


def test_no_image_is_judged_by_a_classifier_that_has_seen_it_or_its_copy() -> None:
    # Features that name the image: whoever has seen it, or its copy, knows its label; nobody else can.
    generator = np.random.default_rng(0)
    features = np.repeat(generator.normal(size=(100, 300)), 2, axis=0).astype(np.float32)
    labels = np.repeat(generator.integers(2, size=100), 2)
    files = [f"{number}.png" for number in range(200)]
    groups = group_files(files, [(files[place], files[place + 1]) for place in range(0, 200, 2)])
    folds = _assign_folds(labels, groups)
    assert (folds[::2] == folds[1::2]).all()
    assert np.bincount(folds, minlength=FOLDS).tolist() == [40] * FOLDS or np.ptp(np.bincount(folds)) <= 4
    alone = predict_held_out(features, labels, groups, 2)
    copied = predict_held_out(features, labels, np.arange(200), 2)
    assert abs((alone.argmax(axis=1) == labels).mean() - 0.5) < 0.15
    assert (copied.argmax(axis=1) == labels).mean() > 0.75


def test_copies_of_copies_are_one_group() -> None:
    groups = group_files(["a", "b", "c", "d"], [("a", "b"), ("b", "c"), ("d", "elsewhere")])
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_labels_of_a_data_set_that_training_refuses_are_not_checked(stripes: Path, catdog) -> None:
    for number in range(60):
        (stripes / "flat" / f"{number}.png").write_bytes(b"no image")
    done = catdog("audit", "dataset=folder", f"dataset.archive={stripes}", "labels=drawn_mini")
    assert done.code == 0, done.text
    assert "60 files cannot be read" in done.out
    assert "note: labels were not checked" in done.out
    refused = catdog("audit", f"dataset.archive={stripes}", "labels=drawn_mini")
    assert refused.code == 0, refused.text
    assert "labels were not checked, because training refuses this data set" in refused.out
