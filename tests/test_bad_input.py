"""Bad input as a user meets it: one message that names the key or file, an exit code, and nothing half-written."""

import contextlib
import copy
import io
import json
import os
import re
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support import PROJECT, TINY, Done, compose_config, run_catdog, write_images

from catdog.data.dataset import load_dataset
from catdog.system.errors import UserError

pytestmark = pytest.mark.slow

SMALL = TINY[3:]
NOWHERE = "http://127.0.0.1:1"
WAYS_OUT = ("CATDOG_ARCHIVE", "dataset=synthetic")


def require_refusal(done: Done, *said: str, folder: Path | None = None) -> None:
    """Asserts that a command ended as a user's mistake should: one message, on stderr, and no store in `folder`."""
    assert done.code == 2, done.text
    assert "Traceback" not in done.text
    assert done.err.startswith("error: ") or "\nerror: " in done.err, done.err
    assert done.text.count("error: ") == 1, done.text
    for words in said:
        assert words in done.err
    if folder:
        assert not (folder / "mlruns").exists(), "a mistake found before training leaves no store"


# The network


@pytest.mark.parametrize(
    "arguments", [[f"dataset.archive={NOWHERE}/x.zip"], ["-m", "dataset.archive=http://name.invalid/x.zip"]]
)
def test_no_network_for_the_data(catdog, tmp_path, arguments: list[str]) -> None:
    done = catdog("train", *arguments, NO_PROXY="*", no_proxy="*")
    require_refusal(done, "dataset.archive: http://", "x.zip cannot be downloaded: ", *WAYS_OUT, folder=tmp_path)
    assert done.err.startswith("error: "), "nothing but the message"
    assert ("nothing was started" in done.err) is ("-m" in arguments)


def test_a_network_that_swallows_everything_is_said_within_20_seconds(catdog, tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.zip"
        done = catdog("train", f"dataset.archive={url}", NO_PROXY="*", no_proxy="*")
        assert time.monotonic() - started < 20
    require_refusal(done, f"{url} cannot be downloaded: no answer within", *WAYS_OUT, folder=tmp_path)


@pytest.mark.parametrize("arguments", [["model=mobilenet"], ["-m", "model=cnn,mobilenet"]])
def test_no_network_for_the_weights(catdog, tmp_path, arguments: list[str]) -> None:
    home = {"HOME": str(tmp_path / "home"), "KERAS_HOME": str(tmp_path / "home")}
    proxies = {"HTTPS_PROXY": NOWHERE, "https_proxy": NOWHERE, "NO_PROXY": "", "no_proxy": ""}
    done = catdog("train", *arguments, *TINY, **home, **proxies)
    require_refusal(done, "ImageNet weights of MobileNetV2", "cannot be reached", "CATDOG_WEIGHTS", "model=drawn_mini",
                    folder=tmp_path)  # fmt: skip
    assert done.err.startswith("error: "), "TensorFlow's chatter stays off the terminal"


# The archive


def jpeg(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


def write_zip(path: Path, entries: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("truncated", "is cut short or damaged"),
        ("text", "is not a zip archive"),
        ("without images", "no images in"),
        ("one class", "only one class, 'cats', in"),
        ("escaping", "holds an entry that may leave its folder: '../../x'"),
    ],
)
def test_an_archive_that_is_no_data_set(catdog, tmp_path, kind: str, said: str) -> None:
    path, cache = tmp_path / "pets.zip", tmp_path / "cache"
    pets = {f"{name}/{number}.jpg": jpeg(number) for name in ("cats", "dogs") for number in range(6)}
    entries = {
        "without images": {"cats/readme.txt": b"none"},
        "one class": {name: content for name, content in pets.items() if "cats" in name},
        "escaping": {**pets, "../../x": b"out"},
    }
    write_zip(path, entries.get(kind, pets))
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif kind == "text":
        path.write_text("not a zip")
    # A sweep for one of them; it takes the same way to the data.
    sweep = ["-m"] if kind == "escaping" else []
    done = catdog("train", *sweep, f"dataset.archive={path}", f"dataset.cache={cache}")
    require_refusal(done, "dataset.archive: ", str(path), said, folder=tmp_path)
    assert not list(tmp_path.rglob("*.partial"))
    assert not list(tmp_path.rglob("x")), "nothing was written outside the folder"


def test_names_that_tables_cannot_hold_are_refused(catdog, tmp_path) -> None:
    write_images(tmp_path / "pets" / "cats", 6)
    write_images(tmp_path / "pets" / "label", 6)
    done = catdog("train", "dataset=folder", "dataset.archive=pets")
    require_refusal(done, "a class in pets is called 'label'", "Rename", folder=tmp_path)
    (tmp_path / "pets" / "label").rename(tmp_path / "pets" / "dogs")
    try:
        shutil.copy(tmp_path / "pets" / "dogs" / "000.jpg", os.fsencode(tmp_path / "pets" / "dogs") + b"/caf\xe9.jpg")
    except OSError:
        pytest.skip("this disk takes UTF-8 names alone")
    done = catdog("train", "dataset=folder", "dataset.archive=pets")
    require_refusal(done, "1 file name in pets cannot be read as UTF-8", r"dogs/caf\udce9.jpg", folder=tmp_path)


# Images inside a data set


def write_odd_images(folder: Path) -> None:
    """Writes six images of unusual kinds and three files that are none."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8))
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.convert("L").save(folder / "grey.png")
    Image.fromarray(rng.integers(0, 65536, (24, 30), dtype=np.uint16)).save(folder / "deep.png")
    photo.quantize(16).save(folder / "palette.png", transparency=bytes([0, 128] + [255] * 14))
    turned = Image.Exif()
    turned[0x0112] = 6
    photo.save(folder / "turned.jpg", exif=turned)
    Image.fromarray(rng.integers(0, 256, (20, 20_000, 3), dtype=np.uint8)).save(folder / "wide.jpg")
    (folder / "cut.jpg").write_bytes(jpeg()[:300])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("not an image")


def test_odd_images_are_read_or_left_out_by_name(catdog, tmp_path, images: Path) -> None:
    for split, count in (("train", 40), ("validation", 6)):
        for name in ("cats", "dogs"):
            write_images(tmp_path / "pets" / split / name, count, seed=count)
    cats = tmp_path / "pets" / "train" / "cats"
    write_odd_images(cats)
    for clutter in (".DS_Store", "Thumbs.db", "notes.txt"):
        (cats / clutter).write_bytes(b"x")
    folder = ["dataset=folder", "dataset.archive=pets", "promote.enabled=false"]
    done = catdog("train", "model=cnn", *folder, *SMALL, "trainer.epochs=1")
    assert done.code == 0, done.text
    assert "train      86  cats 46, dogs 40" in done.out, "files that cannot be read are not counted"
    assert "warning: 3 of 89 files of train are unreadable and left out" in done.out
    for file, reason in (("cut", "cut short"), ("empty", "the file is empty"), ("text", "not an image")):
        assert re.search(rf"'cats/{file}.jpg': .*{reason}|'train/cats/{file}.jpg': .*{reason}", done.out)
    assert done.out.count("train/cats/") == 3, "all others are read"
    # 3 of 41 + 6: more than 5%, which a sweep says before it has a run.
    shutil.rmtree(tmp_path / "mlruns")
    for number in range(36):
        (tmp_path / "pets" / "train" / "dogs" / f"{number:03d}.jpg").unlink()
    done = catdog("train", "-m", "model=cnn", "seed=0,1", *folder, *SMALL)
    require_refusal(done, "3 of 53 files of train are unreadable", "dataset.max_unreadable_fraction=0.05", "cut.jpg",
                    "nothing was started", folder=tmp_path)  # fmt: skip


ODD_CLASSES = ('it\'s "one" b', "grün, é", "new\nline")


def write_classes(root: Path, **counts: int) -> None:
    for seed, (name, count) in enumerate(counts.items()):
        write_images(root / name, count, seed=seed)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("dataset=folder", "dataset.archive=few"),
         ("dataset.archive: few leaves no image for", "Every class needs at least 3 images", "'rose' has 1 image")),
        (("dataset=folder", "dataset.archive=one"), ("only one class, 'rose'",)),
        (("dataset=folder", "dataset.archive=one/rose"), ("4 images in one/rose, but none in a class's folder",)),
        (("dataset.archive=flowers",), ("flowers is not the data set cats_dogs", "add dataset=folder")),
        (("dataset=synthetic", "dataset.archive=flowers"), ("dataset.archive: must be null", "set dataset=folder")),
    ],
)  # fmt: skip
def test_too_little_data_or_other_data(catdog, tmp_path, arguments: tuple[str, ...], said: tuple[str, ...]) -> None:
    write_classes(tmp_path / "few", rose=1, tulip=5)
    write_classes(tmp_path / "one", rose=4)
    write_classes(tmp_path / "flowers", rose=6, tulip=6)
    require_refusal(catdog("train", "-m", "model=cnn", *SMALL, *arguments), *said, folder=tmp_path)


def test_a_single_run_on_other_data_is_refused_as_well(catdog, tmp_path) -> None:
    write_classes(tmp_path / "flowers", rose=6, tulip=6)
    done = catdog("train", "model=cnn", *SMALL, "dataset.archive=flowers")
    require_refusal(done, "dataset.archive: flowers is not the data set cats_dogs", folder=tmp_path)


def test_what_to_expect_of_few_images_is_said_before_training(catdog, tmp_path) -> None:
    """17 classes of 3 images, one of which lies in a folder below its class, and one file of test that is cut short."""
    root = tmp_path / "flowers"
    write_classes(root, **{f"kind{number:02}": 3 for number in range(17)})
    (root / "kind03" / "closed").mkdir()
    (root / "kind03" / "000.jpg").rename(root / "kind03" / "closed" / "000.jpg")
    options = ("train", "-m", "model=cnn", *SMALL, "dataset=folder", "dataset.archive=flowers")
    plan = catdog(*options, "hydra.launcher.plan_only=true")
    assert plan.code == 0, plan.text
    assert "val has only 17 images: each is 5.9 points of accuracy" in plan.out
    assert "17 classes have fewer than 10 training images ('kind00' has 1)" in plan.out
    assert "class 'kind03' includes 1 image from 1 folder below it: closed" in plan.out
    own = ("dataset=folder", f"dataset.archive={root}", f"dataset.cache={tmp_path / 'cache'}")
    broken = load_dataset(compose_config(*own).dataset).manifest.select("test")["file"][0]
    (root / broken).write_bytes((root / broken).read_bytes()[:300])
    plan = catdog(*options, "hydra.launcher.plan_only=true")
    assert f"1 file of test is unreadable and left out:\n    {broken!r}: the file is cut short" in plan.out
    assert re.search(r"^  test +16 ", plan.out, re.M)


@pytest.fixture(scope="module")
def odd_names(tmp_path_factory, cache: Path) -> Path:
    """A folder with a finished sweep on classes and files whose names have spaces, quotes, newlines and umlauts."""
    folder = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    for colour, name in enumerate(ODD_CLASSES):
        (folder / "pets" / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 90, (24, 30, 3), dtype=np.uint8)
            pixels[..., colour] += 150
            Image.fromarray(pixels).save(folder / "pets" / name / f'fo to\'s "ü"\n{number}.jpg')
    done = run_catdog(folder, cache, "train", "-m", "model=cnn", "dataset=folder", "dataset.archive=pets", *SMALL)
    assert done.code == 0, done.text
    return folder


def test_compare_takes_any_name(odd_names: Path, cache: Path) -> None:
    done = run_catdog(odd_names, cache, "compare")
    assert done.code == 0, done.text
    page = next(odd_names.glob("comparisons/*/comparison.html")).read_text("utf-8")
    assert "grün, é" in page
    assert "it&#39;s &#34;one&#34; b" in page


def test_evaluate_takes_any_name(odd_names: Path, cache: Path) -> None:
    done = run_catdog(odd_names, cache, "evaluate")
    assert done.code == 0, done.text
    uri = f"sqlite:///{odd_names}/mlruns/mlflow.db"
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(uri, registry_uri=uri)
    run = client.get_run(client.get_model_version_by_alias("cats_vs_dogs", "champion").run_id)
    recalls = {key for key in run.data.metrics if key.startswith("test/recall_")}
    assert recalls == {"test/recall_it_s _one_ b", "test/recall_gr_n_ _", "test/recall_new_line"}
    stored = pd.read_csv(io.StringIO(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/predictions/test.csv")))
    assert set(stored.columns[2:]) == set(stored["label"]) == set(ODD_CLASSES)
    assert all((odd_names / "pets" / file).is_file() for file in stored["file"])


def test_predict_takes_any_name(odd_names: Path, cache: Path) -> None:
    from rich.console import Console

    from catdog.deployment.prediction import build_answers_table, list_answers

    names = [str(p.relative_to(odd_names)) for p in sorted((odd_names / "pets").rglob("*.jpg"))]
    (odd_names / "more").mkdir()
    with contextlib.suppress(OSError):  # a disk that takes UTF-8 names alone
        shutil.copy(odd_names / names[0], os.fsencode(odd_names / "more") + b"/caf\xe9.jpg")
        names.append(r"more/caf\xe9.jpg")
    (odd_names / "more" / "text\n.jpg").write_text("not an image")
    done = run_catdog(odd_names, cache, "predict", "pets", "more", "format=csv", "sheet=a sheet.png")
    assert done.code == 2, done.text
    assert r"error: 'more/text\n.jpg': not an image" in done.err
    assert f"1 of {len(names) + 1} files cannot be read as images; the others were answered" in done.err
    assert (odd_names / "a sheet.png").stat().st_size > 10_000
    table = pd.read_csv(io.StringIO(done.out))
    assert list(table["file"]) == names
    assert set(table.columns[3:]) == {f"probability_{name}" for name in ODD_CLASSES}
    assert [row["file"] for row in json.loads(json.dumps(list_answers(table)))] == list(table["file"])
    table["class"] = ODD_CLASSES[2]
    shown = Console(file=io.StringIO(), width=120)
    shown.print(build_answers_table(table))
    rows = [line for line in shown.file.getvalue().splitlines() if re.search(r" [01]\.\d{3} ", line)]
    assert len(rows) == len(table)
    assert all(r"new\nline" in row for row in rows), "a newline in a name does not break its row"


def test_metric_names_stay_apart() -> None:
    from catdog.deployment.evaluation import metric_names

    assert metric_names(["猫", "狗", "a/b"]) == ["__0", "__1", "a_b"]
    assert len("test/precision_" + metric_names(["x" * 255])[0]) <= 250


# Weights and layers


@pytest.mark.parametrize("kind", ["missing", "other architecture"])
def test_weights_that_do_not_fit(catdog, tmp_path, kind: str) -> None:
    import keras

    path = tmp_path / "my.weights.h5"
    if kind == "missing":
        done = catdog("train", "model=mobilenet", *TINY, CATDOG_WEIGHTS=str(path))
        require_refusal(done, f"backbone.weights: no file '{path}'", "CATDOG_WEIGHTS", folder=tmp_path)
        return
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save_weights(path)
    done = catdog("train", "-m", "model=cnn,mobilenet", *TINY, CATDOG_WEIGHTS=str(path))
    require_refusal(done, f"'{path}' cannot be loaded into MobileNetV2", "another architecture", "model=drawn_mini",
                    "In mobilenet; nothing was started", folder=tmp_path)  # fmt: skip


def test_a_layer_that_keras_does_not_have(catdog, tmp_path) -> None:
    done = catdog("train", "model=augmented", "+augmentation.layers.x={layer: RandomNonsense}", *TINY)
    require_refusal(done, "augmentation.layers.x: ", "no layer 'RandomNonsense'", folder=tmp_path)
    assert done.err.startswith("error: ")


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ("{a: {layer: NoSuchLayer}}", r"backbone\.layers\.a: .*no layer 'NoSuchLayer'"),
        ("{a: {layer: Flatten}, b: {layer: Conv2D, filters: 2, kernel_size: 3}}", r"backbone\.layers\.b: Conv2D does not fit"),
        ("{a: {layer: Flatten}}", "must end in feature maps"),
        ("{a: {layer: Conv2D, filters: 2, kernel_size: 99}}", r"backbone\.layers\.a: Conv2D does not fit"),
    ],
)  # fmt: skip
def test_layers_that_do_not_fit_each_other(layers: str, said: str) -> None:
    from catdog.training.model import build_model

    config = compose_config("preprocessing.image_size=32")
    from omegaconf import OmegaConf

    config.backbone.layers = OmegaConf.to_container(OmegaConf.create(layers))  # type: ignore[assignment]
    with pytest.raises(UserError, match=said):
        build_model(config, 2, "float32")


# The tracking store


@pytest.fixture(scope="module")
def store(tmp_path_factory, empty_store: Path) -> Path:
    """A database of MLflow with a study that has a run, but no sweep and no registered model."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    shutil.copy(empty_store, path)
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    mlflow.set_experiment("cats_vs_dogs")
    with mlflow.start_run():
        mlflow.set_tag("catdog.kind", "run")
    return path


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "compare",
            "study: 'cats_vs_dogs' has no sweep and no finished run yet. Train a sweep: python -m catdog.train",
        ),
        (
            "evaluate model=unknown",
            "received model=unknown; registered models: none. Train one first: python -m catdog",
        ),
        ("predict images model=catdog@unknown", "model: no registered model 'catdog@unknown'"),
        (
            "evaluate study=nosuch",
            "study: no study 'nosuch' in this tracking store; studies: cats_vs_dogs. Train first",
        ),
        ("predict images study=cats_vs_dog", "studies: cats_vs_dogs. Did you mean cats_vs_dogs? Train first"),
        ("compare study=nosuch", "study: no study 'nosuch' in this tracking store; studies: cats_vs_dogs. Train first"),
        ("predict images", "model: study 'cats_vs_dogs' has no champion. Its next sweep or run makes one, unless"),
        ("compare runs=12345678", "runs: no run '12345678' in this tracking store"),
        ("compare runs=unknown,other", "runs: no run 'unknown' in this tracking store"),
    ],
)
def test_what_has_not_been_trained_yet(catdog, images: Path, store: Path, command: str, said: str) -> None:
    require_refusal(catdog(*command.split(), f"tracking.uri=sqlite:///{store}"), said)


def test_an_interrupted_run_is_resumed_before_it_is_compared(catdog, store: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{store}")
    experiment = mlflow.set_experiment("interrupted")
    command = "python -m catdog.train study=interrupted model=cnn seed=1"
    with mlflow.start_run(experiment_id=experiment.experiment_id, run_name="cnn seed=1") as run:
        mlflow.set_tags({"catdog.kind": "run", "mlflow.source.name": command})
    mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")
    done = catdog("compare", "study=interrupted", f"tracking.uri=sqlite:///{store}")
    require_refusal(
        done,
        "study: 'interrupted' has nothing to compare: no run has finished (cnn seed=1 KILLED). "
        f"The same command resumes a run: {command}",
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"study": "cars"},
            "study: no study 'cars' in this tracking store; studies: .*cats_vs_dogs.* Train first: python -m",
        ),
        ({"sweep_id": "unknown"}, "sweep: no run 'unknown' in this tracking store"),
        ({"run_ids": ["unknown"]}, "runs: .*unknown.* Give MLflow run ids"),
    ],
)
def test_what_is_not_there_to_compare(store: Path, asked: dict, said: str) -> None:
    from catdog.comparison.load import load_comparison
    from catdog.config.schema import TrackingConfig
    from catdog.tracking import connect

    tracking = TrackingConfig(f"sqlite:///{store}")
    with pytest.raises(UserError, match=said):
        load_comparison(connect(tracking), **asked)


@pytest.mark.parametrize("command", ["compare", "evaluate", "predict images"])
def test_reading_where_nothing_was_trained_makes_no_store(catdog, tmp_path, images: Path, command: str) -> None:
    said = ("no tracking database mlruns/mlflow.db", "Train first: python -m catdog.train", "tracking.uri=sqlite:///")
    require_refusal(catdog(*command.split()), *said, folder=tmp_path)


@pytest.mark.parametrize("name", ["unknown", "3", "catdog/3", "catdog@champion", "models:/catdog/3", "0123abcd" * 4])
def test_model_is_a_key_of_evaluate_though_train_has_a_group_of_that_name(name: str, monkeypatch) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore

    from catdog.config import commands, schema

    schema.register()
    # What is registered for evaluate must not be there for the tests that compose train.
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))
    commands.register()
    with initialize_config_dir(str(schema.CONF / "command"), version_base="1.3"):
        assert compose("evaluate", overrides=[f"model={name}"]).model == name


def spoil(path: Path, kind: str, store: Path) -> None:
    if kind == "a folder":
        path.mkdir()
        return
    shutil.copy(store, path)
    if kind == "text":
        path.write_text("not a database")
    elif kind == "damaged":
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "another program's":
        path.unlink()
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE recipes (name TEXT)")
        database.close()
    else:
        with sqlite3.connect(path) as database:
            version = {"newer": "ffffffffffff", "older": "cbc13b556ace"}[kind]
            database.execute("UPDATE alembic_version SET version_num = ?", [version])
        database.close()


@pytest.mark.parametrize(
    ("kind", "command", "said"),
    [
        ("newer", "train -m dataset=synthetic", "written by a newer version of MLflow"),
        ("older", "evaluate", "Back it up, then bring it up to date: mlflow db upgrade sqlite:///"),
        ("text", "train dataset=synthetic", "is no SQLite database, or is damaged"),
        ("damaged", "evaluate", "is no SQLite database, or is damaged"),
        ("another program's", "train dataset=synthetic", "is an SQLite database, but not MLflow's"),
        ("a folder", "evaluate", "Is a directory"),
    ],
)
def test_a_store_that_is_not_this_mlflows(catdog, tmp_path, store: Path, kind: str, command: str, said: str) -> None:
    path = tmp_path / "my.db"
    spoil(path, kind, store)
    before = path.read_bytes() if path.is_file() else None
    done = catdog(*command.split(), f"tracking.uri=sqlite:///{path}")
    require_refusal(done, "tracking.uri: ", str(path), said, "tracking.uri=sqlite:///PATH/mlflow.db", folder=tmp_path)
    assert (path.read_bytes() if path.is_file() else None) == before, "the user's file stays as it was"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (NOWHERE, f"no MLflow server answers at '{NOWHERE}'"),
        ("mlruns", "MLflow is retiring plain folders, received 'mlruns'. Use sqlite:///PATH/mlflow.db"),
        ("ftp://host/x", "catdog knows no store of this kind, received 'ftp://host/x'"),
        ("sqlite://", "must name a file, as in sqlite:///PATH/mlflow.db"),
    ],
)
def test_addresses_that_are_no_store(catdog, tmp_path, uri: str, said: str) -> None:
    require_refusal(catdog("train", f"tracking.uri={uri}", NO_PROXY="*"), f"tracking.uri: {said}", folder=tmp_path)


@pytest.mark.parametrize("command", ["train dataset=synthetic", "compare", "evaluate", "predict images"])
def test_the_environment_names_the_store_for_every_command(catdog, tmp_path, images: Path, command: str) -> None:
    (tmp_path / "file").touch()
    uri = f"sqlite:///{tmp_path}/file/mlflow.db"  # below a file: nobody can write there
    require_refusal(
        catdog(*command.split(), MLFLOW_TRACKING_URI=uri), "tracking.uri: ", f"{tmp_path}/file", folder=tmp_path
    )


@pytest.mark.parametrize("key", ["tracking.uri", "tracking.artifacts"])
def test_a_folder_that_cannot_be_written(catdog, tmp_path, key: str) -> None:
    (tmp_path / "file").touch()
    value = "sqlite:///file/mlflow.db" if key == "tracking.uri" else "file/artifacts"
    done = catdog("train", "-m", *TINY, f"{key}={value}")
    require_refusal(done, f"{key}: cannot write to file", "Not a directory", f"{key}=", folder=tmp_path)


def without_permission() -> list[str]:
    """The words before a command that is held back by permissions: root is, only without these capabilities."""
    bound = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if bound and not shutil.which("setpriv"):
        pytest.skip("root may write everywhere")
    return bound


@pytest.mark.parametrize("command", ["train dataset=synthetic", "train -m dataset=synthetic", "evaluate"])
def test_a_folder_without_permission(tmp_path, cache: Path, store: Path, command: str) -> None:
    folder = tmp_path / "theirs"
    (folder / "mlruns").mkdir(parents=True)
    shutil.copy(store, folder / "mlruns" / "mlflow.db")
    (folder / "mlruns" / "mlflow.db").chmod(0o444)
    folder.chmod(0o555)
    bound = without_permission()
    environment = os.environ | {"CATDOG_CACHE": str(cache), "PYTHONPATH": str(PROJECT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    name, *options = command.split()
    ended = subprocess.run(
        [*bound, sys.executable, "-m", f"catdog.{name}", *options], cwd=folder, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    done = Done(ended.returncode, ended.stdout, ended.stderr)
    if name == "train":
        # Where Hydra makes its folder for logs.
        require_refusal(done, "cannot write outputs", "(Permission denied). Run in a folder you may write to")
    else:
        # It can be read.
        require_refusal(done, "model: study 'cats_vs_dogs' has no champion. Its next sweep or run makes one")


READ_ALONE = """
import sys, catdog
study = catdog.Study(tracking_uri=sys.argv[1])
print(len(study.runs()), len(study.history()) > 0, study.champion().words, study.is_writable)
print(study.compare(gradcam="never").save_folder(sys.argv[2]).is_dir())
try:
    study.evaluate()
except catdog.UserError as error:
    print(error)
"""


def test_a_store_that_can_be_read_alone(tmp_path, study) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    shutil.copy(study.folder / "mlruns" / "mlflow.db", theirs)
    (theirs / "mlflow.db").chmod(0o444)
    theirs.chmod(0o555)
    done = subprocess.run(
        [*without_permission(), sys.executable, "-c", READ_ALONE, f"sqlite:///{theirs}/mlflow.db", tmp_path / "mine"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(PROJECT), "CATDOG_CACHE": str(study.cache)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "4 True cats_vs_dogs version 1 False",
        "True",
        f"tracking.uri: cannot write {theirs}/mlflow.db (Permission denied). It can be read: compare and predict work. A look at "
        "test images has to be recorded there first.",
    ], done.stderr
    assert sorted(path.name for path in theirs.iterdir()) == ["mlflow.db"]


# Ctrl-C


@pytest.mark.parametrize(
    ("command", "where", "said"),
    [
        ("decide model=cnn,augmented max_seeds=8", "catdog.search.decisions.decide",
         "interrupted. The same command resumes:\n  python -m catdog.decide model=cnn,augmented max_seeds=8"),
        ("train -m model=cnn,augmented 'study=two words'", "catdog.sweeps.launch.plan_sweep",
         "interrupted. The same command resumes:\n  python -m catdog.train -m model=cnn,augmented 'study=two words'"),
        ("compare study=other", "catdog.study.Study.compare", "interrupted.\n"),
        ("audit dataset=synthetic", "catdog.auditing.result.audit_dataset", "interrupted.\n"),
    ],
)  # fmt: skip
def test_after_ctrl_c_the_command_that_resumes_is_named(
    catdog, monkeypatch: pytest.MonkeyPatch, command: str, where: str, said: str
) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, press)
    done = catdog(*shlex.split(command))
    assert (done.code, done.err) == (130, f"error: {said.rstrip()}\n")


# predict


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no image named. Name files or folders: python -m catdog.predict"),
        (["images", "missing.jpg"], "'missing.jpg': no such file or folder"),
        (["empty"], "'empty': no images in this folder or below. Images are files that end in .bmp"),
        (["images", "format=xml"], "format: must be one of table, csv, json, received 'xml'"),
        (["images", "sheet=nowhere/sheet.png"], "sheet: no folder 'nowhere' to write 'sheet.png' to"),
        (["images", "sheet=empty"], "sheet: must be a file name ending in .png, received 'empty'"),
        (
            ["images", "formt=csv"],
            "'formt=csv': neither a file nor an option. Did you mean format? Options: study, model, format",
        ),
    ],
)
def test_predict_refuses_what_it_cannot_answer(catdog, tmp_path, images: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    done = catdog("predict", *arguments)
    require_refusal(done, said, folder=tmp_path)
    assert done.out == "", "stdout is for answers alone"


def test_a_model_whose_files_are_gone(odd_names: Path, cache: Path) -> None:
    artifacts = odd_names / "mlruns" / "artifacts"
    artifacts.rename(odd_names / "away")
    try:
        done = run_catdog(odd_names, cache, "evaluate")
        require_refusal(done, "model: the files of run ", "Were they moved or removed?")
    finally:
        (odd_names / "away").rename(artifacts)
