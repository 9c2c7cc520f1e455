"""New photos against a champion: as a user types it, and in Python."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter
from support import Study as Folder
from support import run_catdog

import catdog
from catdog.auditing import drift
from catdog.auditing.drift import DriftFindings
from catdog.auditing.traits import measure_traits
from catdog.data import duplicates
from catdog.system.documents import to_plain

pytestmark = pytest.mark.slow

DRAWN = ("dataset.drawing.train_per_class=60", "dataset.drawing.validation_per_class=60", "dataset=synthetic")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Folder:
    """One model with 96 validation images, of which it has seen none."""
    folder = tmp_path_factory.mktemp("drift")
    sweep = run_catdog(
        folder, cache, "train", "-m", "model=drawn_mini", "study=drawn", *DRAWN, "preprocessing.image_size=48",
        "trainer.batch_size=16", "trainer.epochs=4",
    )  # fmt: skip
    assert sweep.code == 0, sweep.text
    return Folder(folder, cache, sweep)


@pytest.fixture(scope="module")
def photos(trained: Folder) -> Path:
    """New drawings of the same kind, from another seed."""
    from catdog.data.synthetic import write_drawn_images

    write_drawn_images(trained.folder / "more", seed=11, train_per_class=1, validation_per_class=60)
    new = trained.folder / "new"
    new.mkdir()
    for file in (trained.folder / "more" / "validation").rglob("*.*"):
        shutil.copy(file, new / f"{file.parent.name}-{file.name}")
    return new


@pytest.fixture
def study(trained: Folder, monkeypatch: pytest.MonkeyPatch) -> catdog.Study:
    monkeypatch.setenv("CATDOG_CACHE", str(trained.cache))
    return catdog.Study("drawn", tracking_uri=trained.uri)


def test_the_command_writes_a_page_and_the_photos_to_label_first(trained: Folder, photos: Path) -> None:
    done = trained.run("audit", f"photos={photos}", "against=champion", "study=drawn")
    assert done.code == 0, done.text
    assert "compared 120 photos of 120" in done.out
    assert "The estimate sees no label" in done.out
    (folder,) = (trained.folder / "audits").glob("new-*")
    assert {path.name for path in folder.iterdir()} == {
        "drift.html", "photos.csv", "traits.csv", "classes.csv", "label_first.csv",
    }  # fmt: skip
    first = pd.read_csv(folder / "label_first.csv")
    assert list(first["rank"]) == list(range(1, 121))
    assert set(first["layer"][:5]) == {0, 1, 2, 3, 4}
    page = (folder / "drift.html").read_text("utf-8")
    assert "Expected accuracy" in page
    assert page.count('class="picture pic-') == 60
    assert "://" not in page


def test_json_has_the_verdict_and_fail_on_sees_it(trained: Folder, photos: Path, tmp_path: Path) -> None:
    dark = tmp_path / "dark"
    dark.mkdir()
    for file in photos.iterdir():
        image = Image.open(file).convert("RGB").filter(ImageFilter.GaussianBlur(6)).point(lambda value: value // 6)
        image.save(dark / f"{file.stem}.png")
    # The only study with a champion is found without study=.
    done = trained.run("audit", f"photos={dark}", "format=json", "fail_on=warning", f"output={tmp_path}")
    assert done.code == 3, done.text
    found = json.loads(done.out)
    assert (found["command"], found["photos"], found["counted"]) == ("audit", 120, 120)
    assert found["verdict"]["kind"] in ("lower", "doubtful", "undecided")
    sizes = {row["trait"]: row["size"] for row in found["traits"]}
    assert sizes["brightness"] == sizes["sharpness"] == "strong"
    assert sizes["shorter_side"] == ""
    assert found["findings"][0]["kind"] == found["verdict"]["kind"]
    assert Path(found["page"]).is_file()


def test_photos_of_the_same_kind_do_not_differ_and_labels_tell_their_accuracy(
    study: catdog.Study, photos: Path
) -> None:
    found = study.audit_photos(photos)
    assert isinstance(found, DriftFindings)
    assert not (found.traits["size"].isin(["moderate", "strong"])).any(), found.traits
    assert found.verdict.kind in ("expected", "undecided")
    truth = {file: file.split("-")[0] for file in found.counted["file"]}
    right = found.counted["class"] == found.counted["file"].map(truth)
    assert found.expected is not None
    assert found.expected.low <= right.mean() <= found.expected.high
    whole, low, high = found.estimate_from_labels(truth)
    assert whole == pytest.approx(right.mean())
    assert low <= whole <= high
    first = {file: truth[file] for file in found.label_first["file"][:30]}
    low, high = found.estimate_from_labels(first)[1:]
    assert 0 <= low < high <= 1
    for labels, said in (
        ({found.label_first["file"].iloc[-1]: "cats"}, "without a gap"),
        (dict(list(first.items())[:4]), "at least 5, one of each layer of confidence, received 4"),
        ({**first, "other.png": "cats"}, "'other.png' is none of the 120 files"),
        (dict.fromkeys(first, "cat"), "must be 'cats', 'dogs', or None for a photo of none of these, received 'cat'"),
    ):
        with pytest.raises(catdog.UserError, match=said):
            found.estimate_from_labels(labels)
    assert found.estimate_from_labels(dict.fromkeys(first))[0] == 0
    five = {file: truth[file] for file in found.label_first["file"][:5]}
    assert 0 <= found.estimate_from_labels(five)[0] <= 1
    json.dumps(to_plain(found.to_dict()), allow_nan=False)


def test_copies_and_broken_files_are_not_counted_and_few_photos_say_nothing(
    study: catdog.Study, photos: Path, tmp_path: Path, trained: Folder
) -> None:
    for file in sorted(photos.iterdir())[:10]:
        shutil.copy(file, tmp_path)
    shutil.copy(file, tmp_path / "zzz.png")
    run = study.runs().iloc[0]["run_id"]
    shutil.copy(next(trained.cache.glob("drawn/*/train/cats/*")), tmp_path / "known.png")
    for name in ("broken.jpg", "broken-too.jpg"):
        (tmp_path / name).write_bytes(b"nothing")
    found = study.audit_photos(tmp_path, against=run)
    photos_found = found.photos.set_index("file")
    assert len(found.counted) == 10
    assert photos_found.loc["zzz.png", "same_as"] == file.name
    assert photos_found.loc["broken.jpg", "problem"]
    assert (photos_found.loc[["broken.jpg", "broken-too.jpg"], "same_as"] == "").all()
    assert [finding.words[:9] for finding in found.found if finding.kind == "double"] == ["1 photo s"]
    assert found.verdict.kind == "too few"
    assert "only 10 photos" in found.verdict.headline
    assert (found.expected, found.mix, len(found.traits), len(found.label_first)) == (None, None, 0, 10)
    assert "Nothing can be said" in found.save(tmp_path / "page.html").read_text("utf-8")
    json.dumps(to_plain(found.to_dict()), allow_nan=False)


def test_photos_that_all_look_alike_are_searched_for_copies_only(
    study: catdog.Study, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in sorted(photos.iterdir())[:7]:
        shutil.copy(file, tmp_path)
    shutil.copy(file, tmp_path / "zzz.png")
    monkeypatch.setattr(drift, "searches_duplicates", lambda _: True)
    monkeypatch.setattr(duplicates, "MOST_CANDIDATES", -1)
    monkeypatch.setattr(duplicates, "MOST_CANDIDATES_SHARE", -1)
    found = study.audit_photos(tmp_path)
    assert len(found.counted) == 7
    (finding,) = [finding for finding in found.found if finding.kind == "copies"]
    assert finding.severity == "warning"
    assert "pairs of images look alike at first sight" in finding.words


def test_labels_that_were_written_into_the_list_are_kept(study: catdog.Study, photos: Path, tmp_path: Path) -> None:
    found = study.audit_photos(photos)
    first = found.save_folder(tmp_path) / "label_first.csv"
    found.save_folder(tmp_path)
    assert not list(first.parent.glob("label_first-*"))
    labelled = first.read_text("utf-8").replace("cats", "dogs")
    first.write_text(labelled, "utf-8")
    found.save_folder(tmp_path)
    assert first.with_name("label_first-1.csv").read_text("utf-8") == labelled
    assert first.read_text("utf-8") != labelled


@pytest.mark.nightly
def test_images_that_are_gone_cost_their_comparison_and_one_message(
    photos: Path, images: Path, tmp_path: Path, catdog
) -> None:
    words = (
        "dataset=folder",
        f"dataset.archive={images}",
        "study=gone",
        "preprocessing.image_size=32",
        "trainer.epochs=1",
    )
    done = catdog("train", "-m", "model=cnn", *words)
    assert done.code == 0, done.text
    images.rename(tmp_path / "moved")
    done = catdog("audit", f"photos={photos}", "study=gone")
    assert done.code == 0, done.text
    assert done.text.count("cannot be compared, only its stored answers") == 1
    again = catdog("audit", f"photos={photos}", "study=gone", f"dataset.archive={tmp_path / 'moved'}")
    assert "only its stored answers" not in again.text
    assert "only 6 independent validation images" in again.text
    nowhere = catdog("audit", f"photos={photos}", "study=gone", "dataset.archive=nowhere")
    assert nowhere.code == 2
    assert "nowhere" in nowhere.err
    other = catdog("audit", f"photos={photos}", "study=gone", f"dataset.archive={photos}")
    assert other.code == 2
    assert "only its stored answers" not in other.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("photos=nowhere",), "photos: must be a folder of images, received 'nowhere', which is not there"),
        (("against=champion",), "against: must be left out without photos, received 'champion'"),
        (("photos=.", "labels=mobilenet_v2"), "labels: must be null where photos are named"),
        (("photos=.", "pipeline=a:b"), "pipeline: must be left out where photos are named"),
        (("photos=.", "margin=2"), "margin: must be more than 0 and less than 1, received 2.0"),
        (("photos=.", "against=7"), "has no version '7'"),
        (
            ("photos=.", "dataset=synthetic"),
            "dataset: must be left out where photos are named, received 'synthetic'. The",
        ),
        (
            ("photos=.", "dataset.split_seed=3"),
            "dataset.split_seed: must be left out where photos are named, received '3'",
        ),
        (
            ("photos=.", "epochs=3"),
            "epochs: must be left out where photos are named, received '3'. It is an option of pipeline",
        ),
        (
            ("photos=.", "dataset.archive=none"),
            "dataset.archive: must be left out for images that are drawn, received 'none'",
        ),
    ],
)
def test_a_mistake_is_one_message(trained: Folder, words: tuple[str, ...], said: str) -> None:
    done = trained.run("audit", "study=drawn", *words)
    assert done.code == 2, done.text
    assert said in done.text
    assert "Traceback" not in done.text


def test_traits_of_an_image(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    sharp = measure_traits(tmp_path / "noise.png", noise)
    dull = measure_traits(tmp_path / "noise.png", np.full((40, 60, 3), 128, np.uint8))
    assert (sharp["shorter_side"], sharp["aspect_ratio"]) == (40, 1.5)
    assert sharp["sharpness"] > 1000
    assert (dull["brightness"], dull["contrast"], dull["sharpness"], dull["saturation"]) == (128, 0, 0, 0)
    lying = Image.fromarray(noise)
    lying.getexif()[0x0112] = 6
    lying.save(tmp_path / "lying.jpg", exif=lying.getexif())
    assert measure_traits(tmp_path / "lying.jpg", noise)["aspect_ratio"] == pytest.approx(2 / 3)
