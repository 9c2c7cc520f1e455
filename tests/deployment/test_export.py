"""Exports: the files answer as the kept model does, in processes without TensorFlow; what cannot be exported is refused."""

import csv
import json
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mlflow
import numpy as np
import pytest
from PIL import Image
from support import PROJECT, TINY, Study, run_catdog, run_python

import catdog
from catdog import UserError
from catdog.config.commands import ExportConfig
from catdog.data.dataset import SplitImages
from catdog.data.images import decode_image
from catdog.data.predictions import Predictions
from catdog.deployment.ensemble import Difference
from catdog.deployment.export import exporting, scoring
from catdog.deployment.export.conversion import Source, explain_failure
from catdog.deployment.export.exporting import FORMATS, Request, _require_empty, _staged
from catdog.deployment.export.litert import INT8, LITERT
from catdog.deployment.export.onnx import ONNX
from catdog.deployment.export.page import render_card
from catdog.deployment.export.readers import render_reader
from catdog.deployment.export.result import Answered, Export, ExportScore, OtherClass

ALL = ("litert", "litert_int8", "onnx", "savedmodel")
# What a script may not import, so that it is known to run without it.
WITHOUT = """
import runpy, sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(",")))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Study:
    """A study with one run that was trained, and answers, in bfloat16."""
    folder = tmp_path_factory.mktemp("export")
    done = run_catdog(
        folder, cache, "train", *TINY, "model=augmented", "study=pets", "trainer.precision=mixed_bfloat16"
    )
    assert done.code == 0, done.text
    return Study(folder, cache, done)


@pytest.fixture(scope="module")
def exported(trained: Study) -> dict:
    """What the command prints as JSON, for all formats."""
    done = trained.run("export", "study=pets", "int8=true", "output=out", "show=json", "calibration_images=20")
    assert done.code == 0, done.text
    return json.loads(done.out)


@pytest.mark.slow
def test_every_file_answers_as_the_kept_model_does(exported) -> None:
    assert [found["format"] for found in exported["formats"]] == [*ALL]
    assert exported["precision"] == "mixed_bfloat16"
    # What float32 changes is measured by Keras; the float32 files are just as far from the kept model.
    rounding = exported["float32"]
    for found in exported["formats"]:
        if found["format"] != "litert_int8":
            assert found["largest_probability_difference"] == pytest.approx(rounding["largest"], abs=1e-5)
    assert any("that much is rounding, not the export" in sentence for sentence in exported["sentences"])
    for found in exported["formats"]:
        assert found["largest_probability_difference"] < (0.05 if found["format"] == "litert_int8" else 0.02)
        assert found["low"] <= found["difference"] <= found["high"]
        assert found["difference"] == pytest.approx(found["val_accuracy"] - exported["kept"]["val_accuracy"])
        assert len(found["images"]) == found["other_classes"]
        assert found["beyond_margin"] == (abs(found["difference"]) > 0.01 + 1e-9)
        assert found["ms_per_image"] > 0
        assert found["megabytes"] > 0
    sizes = {found["format"]: found["megabytes"] for found in exported["formats"]}
    assert sizes["litert_int8"] < sizes["litert"] / 3


@pytest.mark.slow
def test_the_folder_has_files_scripts_card_page_and_tables(exported, trained) -> None:
    folder = trained.folder / "out"
    assert {path.name for path in folder.iterdir()} == {
        "model.tflite", "model_int8.tflite", "model.onnx", "savedmodel", "model.json", "README.md",
        *(f"read_{name}.py" for name in ALL), "export.html", "export.json", "export.csv", "other_classes.csv",
    }  # fmt: skip
    assert not list(trained.folder.glob("*.partial"))
    with (folder / "export.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["format"] for row in rows] == ["kept model", *ALL]
    with (folder / "other_classes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == sum(found["other_classes"] for found in exported["formats"])
    stored = json.loads((folder / "export.json").read_text("utf-8"))
    assert stored["formats"] == exported["formats"]
    assert "folder" not in stored
    assert "LiteRT int8" in (folder / "export.html").read_text("utf-8")
    card = (folder / "README.md").read_text("utf-8")
    assert "python read_onnx.py PHOTO.jpg" in card
    assert str(trained.folder) not in card
    about = json.loads((folder / "model.json").read_text("utf-8"))
    assert (about["classes"], about["image_size"]) == (["cats", "dogs"], 48)


@pytest.mark.slow
def test_what_was_measured_is_logged_to_the_run_and_its_version(exported, trained) -> None:
    mlflow.set_tracking_uri(trained.uri)
    client = mlflow.MlflowClient(trained.uri, registry_uri=trained.uri)
    run = client.get_run(exported["run_id"])
    version = client.get_model_version(exported["model"], exported["version"])
    for found in exported["formats"]:
        metric = run.data.metrics[f"export_{found['format']}_val_accuracy"]
        assert metric == pytest.approx(found["val_accuracy"])
        assert f"{found['val_accuracy']:.4f}" in version.tags[f"catdog.export.{found['format']}"]
    # The artifacts of each export are in a folder of their own, which the tags name.
    folder = version.tags["catdog.export.onnx"].rpartition("; ")[2]
    logged = {item.path for item in client.list_artifacts(exported["run_id"], folder)}
    assert logged == {f"{folder}/{name}" for name in exporting.REPORT}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_the_scripts_answer_as_predict_does_without_catdog(exported, trained, name: str) -> None:
    photo = next(iter(sorted(trained.cache.glob("drawn/*/validation/cats/*.jpg"))))
    kept_out = "catdog,keras" + ("" if name == "savedmodel" else ",tensorflow")
    done = run_python(trained.folder, "-c", WITHOUT, kept_out, f"out/read_{name}.py", str(photo), PYTHONPATH="")
    assert done.code == 0, done.text
    found = [float(number) for number in re.findall(r" (\d\.\d+)", done.out)]
    answers = catdog.Study("pets", tracking_uri=trained.uri).model().predict(photo)
    assert found == pytest.approx([*answers.filter(like="probability_").iloc[0]], abs=0.05)
    assert done.out.startswith(f"{photo}: ")


@pytest.mark.slow
def test_the_files_hold_no_operation_of_tensorflow_and_int8_is_whole_numbers(exported, trained) -> None:
    from ai_edge_litert.interpreter import Interpreter

    for name, kind in (("model.tflite", np.float32), ("model_int8.tflite", np.uint8)):
        model = Interpreter(str(trained.folder / "out" / name))
        (taken,), (given,) = model.get_input_details(), model.get_output_details()
        assert (taken["dtype"], given["dtype"]) == (np.uint8, kind)
        operations = {each["op_name"] for each in model._get_ops_details()}
        assert not [each for each in operations if each.startswith("Flex")]
    types = {each["dtype"] for each in model.get_tensor_details()}
    assert np.float32 not in types
    import onnx

    stored = onnx.load(str(trained.folder / "out" / "model.onnx"))
    assert {each.key: each.value for each in stored.metadata_props}["classes"] == '["cats", "dogs"]'
    assert [each.name for each in (*stored.graph.input, *stored.graph.output)] == ["pixels", "probabilities"]
    assert stored.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.slow
def test_a_folder_with_something_in_it_is_refused_before_anything_is_done(exported, trained) -> None:
    before = sorted(path.name for path in (trained.folder / "out").iterdir())
    done = trained.run("export", "study=pets", "output=out")
    assert done.code == 2
    assert "output: out is not empty. Name a new folder: output=PATH, or remove this one." in done.err
    assert sorted(path.name for path in (trained.folder / "out").iterdir()) == before


@pytest.mark.slow
def test_the_table_is_shown_and_a_run_is_named(exported, trained) -> None:
    done = trained.run("export", f"model={exported['run_id']}", "format=onnx", "output=one", "margin=0.5")
    assert done.code == 0, done.text
    assert re.search(r"^ *ONNX +\d", done.out, re.M)
    assert "within margin=0.5" in done.out
    assert "Next: open one/export.html" in done.out
    again = catdog.Study("pets", tracking_uri=trained.uri)
    with pytest.raises(UserError, match=r"output: .*one is not empty"):
        again.export(output=trained.folder / "one")


# Models of single layers, without a study.


def build(kind: str, policy: str):
    """Returns a small Keras model as it is saved: uint8 (B, 32, 32, 3) -> float32 probabilities (B, 5), spread over [0, 1]."""
    from catdog.training import preload  # noqa: F401  first of all: it keeps TensorFlow's import quiet

    # isort: split
    import keras
    from keras import layers

    from catdog.training.precision import use_policy
    from catdog.training.views import average_flips

    with use_policy(policy):
        keras.utils.set_random_seed(3)
        images = keras.Input((32, 32, 3), dtype="float32")
        features = layers.Rescaling(1 / 127.5, -1, dtype="float32")(images)
        if kind == "mobilenet":
            features = keras.applications.MobileNetV2((32, 32, 3), include_top=False, weights=None, alpha=0.35)(
                features, training=False
            )
            features = layers.GlobalAveragePooling2D()(features)
        else:
            features = layers.Conv2D(8, 3, activation="relu")(features)
            features = layers.BatchNormalization()(features)
            features = layers.MaxPooling2D()(layers.Dropout(0.5)(features))
            if kind == "erfinv":
                features = keras.ops.erfinv(keras.ops.tanh(features))
            features = layers.Flatten()(features)
        logits = layers.Dense(5, dtype="float32")(features)
        inner = keras.Model(images, logits)
        spread_logits(inner)
        pixels = keras.Input((32, 32, 3), dtype="uint8", name="pixels")
        answers = layers.Softmax(dtype="float32")(inner(pixels))
        model = keras.Model(pixels, answers, name="kept")
        return average_flips(model, "flips") if kind == "flips" else model


def draw_pixels(number: int) -> np.ndarray:
    """Returns images of one colour each, with some noise: uint8 (number, 32, 32, 3)."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (number, 1, 1, 3))
    return np.clip(colours + rng.normal(0, 30, (number, 32, 32, 3)), 0, 255).astype(np.uint8)


def spread_logits(model) -> None:
    """Scales the last layer, so that its logits are 0 on average and have a standard deviation of 3 over images and classes."""
    dense = model.layers[-1]
    kernel, bias = dense.get_weights()
    logits = model.predict_on_batch(draw_pixels(32).astype(np.float32)).astype(np.float64)
    scale = 3 / (logits - logits.mean(axis=0)).std()
    dense.set_weights([kernel * scale, (bias - logits.mean(axis=0)) * scale])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "policy"), [("flips", "mixed_bfloat16"), ("mobilenet", "mixed_bfloat16"), ("plain", "float32")]
)
def test_a_rebuilt_model_has_the_same_weights_and_answers(kind: str, policy: str) -> None:
    model = build(kind, policy)
    from catdog.training.rebuild import rebuild_in_float32

    pixels = draw_pixels(32)
    fresh = rebuild_in_float32(model)
    assert {layer.compute_dtype for layer in fresh._flatten_layers()} <= {"float32", "uint8"}
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), fresh.get_weights(), strict=True))
    expected = fresh.predict_on_batch(pixels)
    assert expected.max(axis=1).min() < 0.6
    assert expected.max() > 0.95
    np.testing.assert_allclose(expected, model.predict_on_batch(pixels), atol=0.1)
    floats = rebuild_in_float32(model, float_pixels=True)
    np.testing.assert_allclose(floats.predict_on_batch(pixels.astype(np.float32)), expected, atol=1e-6)


OWN = """
import keras

class Scale(keras.layers.Layer):
    def __init__(self, factor, name=None):
        super().__init__(name=name)
        self.factor = factor

    def call(self, values):
        return values * self.factor

    def get_config(self):
        return {"factor": self.factor, "name": self.name}

class Small(keras.regularizers.Regularizer):
    def __call__(self, values):
        return 0.0

    def get_config(self):
        return {}

def double(values):
    return 2 * values
"""


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float32"])
def test_own_layers_and_what_they_hold_are_rebuilt_although_their_module_is_gone(policy: str) -> None:
    from catdog.training import preload  # noqa: F401  first of all: it keeps TensorFlow's import quiet

    # isort: split
    import keras

    from catdog.training.precision import use_policy
    from catdog.training.rebuild import rebuild_in_float32

    own = ModuleType("module_of_a_user")
    exec(OWN, vars(own))
    with use_policy(policy):
        pixels = keras.Input((4, 4, 3), dtype="uint8")
        dense = keras.layers.Dense(5, activation=own.double, kernel_regularizer=own.Small())
        values = dense(keras.layers.Flatten()(own.Scale(0.5)(keras.layers.Rescaling(1 / 255)(pixels))))
        model = keras.Model(pixels, keras.layers.Softmax(dtype="float32")(values))
        fresh = rebuild_in_float32(model, float_pixels=policy == "float32")
    assert {layer.compute_dtype for layer in fresh._flatten_layers()} <= {"float32", "uint8"}
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    np.testing.assert_allclose(
        fresh.predict_on_batch(images), model.predict_on_batch(images), atol=1e-6 if policy == "float32" else 0.1
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flips", pytest.param("mobilenet", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("format", [LITERT, INT8, ONNX], ids=lambda format: format.name)
def test_other_layers_are_exported_too(kind: str, format, tmp_path: Path) -> None:
    from catdog.training.rebuild import rebuild_in_float32

    model = rebuild_in_float32(build(kind, "mixed_bfloat16"))
    pixels = draw_pixels(32)
    found = run_file(format, Source(model, tuple("abcde"), 32, pixels), pixels, tmp_path)
    expected = model.predict_on_batch(pixels)
    assert expected.max() > 0.95
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=0.02)
    if (kind, format) != ("mobilenet", INT8):
        # With random weights, the features of MobileNetV2 differ by less than whole numbers can tell.
        np.testing.assert_allclose(found, expected, atol=0.1 if format is INT8 else 1e-5)


def run_file(format, source: Source, pixels: np.ndarray, folder: Path) -> np.ndarray:
    """Writes a file, and returns its answers to images by its own runtime, float32 (N, classes)."""
    format.write(source, folder / format.file)
    (folder / format.reader).write_text(render_reader(format), encoding="utf-8")
    about = {"classes": source.class_names, "image_size": source.image_size}
    (folder / "model.json").write_text(json.dumps(about), encoding="utf-8")
    found, times = scoring._answer(format, folder, as_split(pixels))
    assert times.shape == (len(pixels),)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flips", "ensemble"])
def test_int8_does_not_cut_off_an_average(kind: str, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    model = build_left_or_right(kind)
    # The views of the calibration images contradict each other, so that their mean is a half.
    calibration = np.zeros((2, 32, 32, 3), np.uint8)
    calibration[0, :, :16] = calibration[1, :, 16:] = 255
    pixels = np.stack([*calibration, np.full((32, 32, 3), 255, np.uint8), np.zeros((32, 32, 3), np.uint8)])
    found = run_file(INT8, Source(model, ("a", "b"), 32, calibration), pixels, tmp_path)
    expected = model.predict_on_batch(pixels)
    assert expected.max() > 0.95
    np.testing.assert_allclose(found, expected, atol=0.02)
    (given,) = Interpreter(str(tmp_path / INT8.file)).get_output_details()
    assert given["quantization"] == (1 / 256, 0)


def build_left_or_right(kind: str):
    """Returns a mean of two answers, each by the brightness of one half: uint8 (B, 32, 32, 3) -> float32 (B, 2)."""
    from catdog.training import preload  # noqa: F401  first of all: it keeps TensorFlow's import quiet

    # isort: split
    import keras
    from keras import layers

    from catdog.training.views import average_flips, average_members

    def look(half: slice):
        pixels = keras.Input((32, 32, 3), dtype="uint8")
        values = layers.Flatten()(layers.Rescaling(1 / 127.5, -1, dtype="float32")(pixels))
        dense = layers.Dense(2)
        model = keras.Model(pixels, layers.Softmax(dtype="float32")(dense(values)))
        kernel = np.zeros((32, 32, 3, 2), np.float32)
        kernel[:, half, :, 0] = 4 / (32 * 16 * 3)
        dense.set_weights([kernel.reshape(-1, 2), np.zeros(2, np.float32)])
        return model

    left, right = slice(16), slice(16, 32)
    return average_flips(look(left), "kept") if kind == "flips" else average_members([look(left), look(right)], "kept")


@pytest.mark.slow
@pytest.mark.parametrize("format", [LITERT, INT8, ONNX], ids=lambda format: format.name)
def test_an_operation_without_a_counterpart_is_named(format, tmp_path: Path) -> None:
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(UserError, match=r"(?s)^format: .* cannot hold this model: .*Erfinv.* Use ") as caught:
        format.write(Source(build("erfinv", "float32"), ("a", "b"), 32, pixels), tmp_path / format.file)
    assert "\n" not in str(caught.value)


def as_split(pixels: np.ndarray) -> SplitImages:
    """Returns images as a split of one class."""
    names = tuple(f"{number}.png" for number in range(len(pixels)))
    rows = np.arange(len(pixels))
    return SplitImages(pixels, rows, np.zeros(len(pixels), np.int32), names, ("a", "b"), {})


# Without a model.


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_scripts_read_photos_as_training_does(orientation: int, tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:420, 0:560]
    picture = np.stack([rows % 256, columns % 256, (rows * columns) % 256, (rows + columns) % 256], axis=-1)
    picture = picture.astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture[..., :3]).save(tmp_path / "photo.jpg", exif=exif, quality=90)
    Image.fromarray(picture[:90, :50]).save(tmp_path / "clear.png", exif=exif)
    Image.fromarray(picture[:90, :50, :3]).convert("L").save(tmp_path / "grey.png", exif=exif)
    Image.fromarray(picture[:90, :50, :3]).quantize(9).save(tmp_path / "palette.png", exif=exif)
    Image.fromarray(picture[:90, :50, :3]).convert("CMYK").save(tmp_path / "print.jpg", exif=exif)
    (tmp_path / "model.json").write_text(json.dumps({"classes": ["a"], "image_size": 96}), encoding="utf-8")
    script = tmp_path / ONNX.reader
    script.write_text(render_reader(ONNX), encoding="utf-8")
    read_photo = runpy.run_path(str(script))["read_photo"]
    for name in ("photo.jpg", "clear.png", "grey.png", "palette.png", "print.jpg"):
        assert np.array_equal(read_photo(tmp_path / name), decode_image(tmp_path / name, 96, 96)), name
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="8 bits"):
        read_photo(tmp_path / "deep.png")


@pytest.mark.parametrize("format", [*FORMATS.values(), INT8], ids=lambda format: format.name)
def test_the_scripts_are_short_and_compile(format) -> None:
    text = render_reader(format)
    compile(text, format.reader, "exec")
    assert "catdog" not in text
    assert "{" not in re.sub(r'f".*?"|\{"pixels.*?\}', "", text)
    assert len(text.splitlines()) <= 60


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"format": ["tflite"]},
            "format: must be some of litert, onnx, savedmodel, each once, or null, received 'tflite'",
        ),
        ({"format": ["json"]}, "To print JSON: show=json."),
        ({"format": []}, "format: must be some of"),
        ({"format": ["onnx", "onnx"]}, "format: must be some of"),
        ({"format": ["onnx"], "int8": True}, "int8: must be false without litert in format"),
        ({"margin": 1.0}, "margin: must be"),
        ({"calibration_images": 0}, "calibration_images: must be 1 or more"),
        ({"show": "csv"}, "show: must be one of table, json"),
        ({"batch_size": 0}, "batch_size: must be 1 or more"),
    ],
)
def test_a_wrong_option_gets_one_message(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=f"^.*{re.escape(words)}") as caught:
        ExportConfig(**options)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(UserError) as caught:
        exporting._require_packages(Request(("litert", "onnx")).list_formats())
    assert str(caught.value) == (
        "format: onnx needs onnxruntime, which is not installed: pip install 'catdog[export]'."
    )


def test_nothing_is_left_if_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out"

    def fail() -> None:
        with _staged(target) as stage:
            (stage / "model.onnx").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(target.parent.iterdir())
    with _staged(target) as stage:
        (stage / "model.onnx").write_bytes(b"whole")
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    assert [path.name for path in target.iterdir()] == ["model.onnx"]
    for taken in (target, target / "model.onnx"):
        with pytest.raises(UserError, match=r"^output: "):
            _require_empty(taken)


@pytest.mark.parametrize("kind", ["folder", "current folder", "link", "link to nothing"])
def test_an_empty_folder_that_is_there_is_filled(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "out"
    if kind != "link to nothing":
        place.mkdir()
    target = place
    if kind == "current folder":
        monkeypatch.chdir(place)
        target = Path()
    elif kind.startswith("link"):
        target = tmp_path / "link"
        target.symlink_to(place)
    inode = place.stat().st_ino if place.exists() else None
    _require_empty(target)
    with _staged(target) as stage:
        (stage / "savedmodel").mkdir()
        (stage / "savedmodel" / "model.pb").write_bytes(b"whole")
    assert [path.name for path in place.iterdir()] == ["savedmodel"]
    # It may be a mounted disk, which cannot be replaced.
    assert inode in (None, place.stat().st_ino)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("exists", [False, True])
def test_what_killed_exports_left_is_removed_but_not_what_another_one_fills(exists: bool, tmp_path: Path) -> None:
    target = tmp_path / "out"
    if exists:
        target.mkdir()
    parent = target if exists else tmp_path
    for left in ("out.4711.partial", "out.0123456789ab.partial"):
        (parent / left).mkdir()
        (parent / left / "model.onnx").write_bytes(b"half")
    with _staged(target) as one:
        assert [path.name for path in parent.iterdir()] == [one.name]
        _require_empty(target)
        with _staged(target) as other:
            assert one.is_dir()
            assert other != one
            (other / "model.onnx").write_bytes(b"whole")
        (target / "model.onnx").unlink()
        if not exists:
            target.rmdir()


def test_a_disk_error_names_the_folder_and_a_full_memory_is_not_the_models_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"^output: cannot write .*file/out \((File exists|Not a directory)\)"),
        _staged(tmp_path / "file" / "out"),
    ):
        pass

    def fail(error: Exception) -> str:
        return str(explain_failure(error, "onnx", tmp_path / "model.onnx", "format=litert"))

    full = "No space left on device"
    assert fail(OSError(28, full)) == f"format: writing model.onnx failed: {full}. Try again, or use format=litert."
    assert fail(MemoryError()).startswith("format: writing model.onnx failed: MemoryError. Try")
    assert fail(ValueError("Tensorflow op [a: B] is not supported")).startswith("format: onnx cannot hold this model: ")


def test_an_export_that_cannot_be_logged_is_there_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    def fail(*_) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(exporting, "_log_export", fail)
    worse = score(0, 0, 0)
    model = SimpleNamespace(client=SimpleNamespace(tracking_uri=f"sqlite:///{tmp_path}/none.db"))
    exporting._log_if_possible(Export(model, Path("out"), "float32", worse.answered, [worse], None, 0.01), None)
    assert (
        "the tracking store cannot be written (ConnectionError: the server is gone): what was measured is in out only"
        in (caplog.text)
    )


def score(
    estimate: float, low: float, high: float, format=ONNX, *, others: int = 0, largest: float = 0.001
) -> ExportScore:
    """Returns how a file answers 100 images, `others` of which get another class."""
    shares = np.tile([0.6, 0.4], (100, 1))
    answers = Predictions.build([f"{n}.jpg" for n in range(100)], ["a"] * 100, ["a", "b"], shares)
    listed = [OtherClass(format.name, f"{n}.jpg", "a", "a", 0.6, "b", 0.6) for n in range(others)]
    difference = Difference("the kept model", estimate, low, high)
    return ExportScore(format, Answered(answers, 1.0, 2.0), difference, largest, listed)


def test_what_a_difference_means_is_said_in_words() -> None:
    points = "2.00\N{NO-BREAK SPACE}points"
    minus = "\N{MINUS SIGN}"
    assert score(-0.02, -0.03, -0.01, others=2).describe(0.01) == (
        f"ONNX: its val accuracy is {points} lower than the kept model's, 95% interval [{minus}3.00, {minus}1.00], which is "
        "more than margin=0.01; 2 images get another class, and probabilities move by up to 0.001. Look at the "
        "images in other_classes.csv before you use it."
    )
    assert f"is {points} higher than" in score(0.02, 0.01, 0.03).describe(0.01)
    assert score(0.0, -0.005, 0.005).describe(0.01) == (
        f"ONNX: its val accuracy is within margin=0.01 of the kept model's, 95% interval [{minus}0.50, +0.50]; no image gets "
        "another class, and probabilities move by up to 0.001."
    )
    for few in (score(0.01, -0.005, 0.025), score(0.0, float("nan"), float("nan"))):
        assert "these images are too few to exclude a larger difference on others like them" in few.describe(0.01)


def test_the_card_shows_odd_names_as_they_are_and_counts_groups() -> None:
    found = score(0, 0, 0)
    names = ("a_b_c", "*x*", "<1>", "a|b", "cats, big")
    model = SimpleNamespace(
        words="pets version 1", run_name="cnn | seed_0", run_id="0", class_names=names, image_size=32
    )
    export = Export(model, Path("out"), "float32", found.answered, [found], np.arange(100) // 10, 0.01)
    text = render_card(export, "my_study")
    assert "Classes, in the order of its answers: a\\_b\\_c, \\*x\\*, \\<1\\>, a\\|b, cats, big." in text
    assert "study my\\_study, run cnn \\| seed\\_0" in text
    assert "On all 100 validation images in 10 groups of the run" in text
    # The difference and its interval have the same digits.
    assert "| +0.00 [+0.00, +0.00] |" in text


def test_an_equal_accuracy_hides_no_other_answers() -> None:
    for other in (score(0.0, 0.0, 0.0, others=2), score(0.0, 0.0, 0.0, largest=0.8)):
        assert "Its answers are not the kept model's: look at other_classes.csv" in other.describe(0.01)
    assert "Its answers" not in score(0.0, 0.0, 0.0, others=1).describe(0.01)
    assert "probabilities move by up to 0.8" in score(0.0, 0.0, 0.0, largest=0.8).describe(0.01)


def test_more_calibration_images_are_advised_only_where_there_are_more() -> None:
    worse = score(-0.02, -0.03, -0.01, INT8)

    def describe(calibration_images: int, train_images: int) -> str:
        kept = Answered(worse.answered.predictions, 1.0, 2.0)
        return Export(
            None, Path("out"), "float32", kept, [worse], None, 0.01, calibration_images, train_images
        ).sentences[0]

    assert describe(200, 5000).endswith(
        "Use the file without int8, or more calibration images: calibration_images=1000."
    )
    assert "calibration_images=300." in describe(200, 300)
    assert describe(200, 200).endswith("Use the file without int8.")


def test_the_extra_has_what_the_formats_need() -> None:
    extra = re.search(r"^export = \[(.*)\]$", (PROJECT / "pyproject.toml").read_text("utf-8"), re.M)[1]
    needed = {name.replace("_", "-") for format in FORMATS.values() for name in format.packages}
    assert needed == set(re.findall(r'"([\w-]+)>=', extra))
