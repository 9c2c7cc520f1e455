"""The model: exactly the study's layers, frozen where it says so, and a kept model that needs nothing else."""

import h5py
import keras
import numpy as np
import pytest
from support import compose_config

from catdog.system.errors import UserError
from catdog.training.augmentation import build_augmentation
from catdog.training.model import build_kept_model, build_model


@pytest.fixture(autouse=True)
def _fresh_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CATDOG_WEIGHTS", raising=False)
    keras.utils.set_random_seed(0)


def backbone_of(model) -> keras.Model:
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def test_the_small_cnn_is_the_notebooks() -> None:
    model = build_model(compose_config("model=cnn", "speed=none"), 2, "float32")
    assert [type(layer).__name__ for layer in backbone_of(model).layers] == [
        "Conv2D", "MaxPooling2D", "Conv2D", "MaxPooling2D", "Conv2D",
    ]  # fmt: skip
    assert [type(layer).__name__ for layer in model.layers] == [
        "InputLayer", "Rescaling", "Sequential", "Dropout", "MaxPooling2D", "Flatten", "Dense", "Dense",
    ]  # fmt: skip
    # 3 x 3 x 3 x 32 + 32, twice 3 x 3 x 32 x 32 + 32, 18 x 18 x 32 features into 128 units, 128 into 2.
    assert model.count_params() == 896 + 2 * 9248 + (18 * 18 * 32 * 128 + 128) + (128 * 2 + 2)
    assert model.get_layer("dropout").rate == 0.5
    assert model.get_layer("dense").activation is keras.activations.relu


@pytest.mark.parametrize(
    ("preprocessing", "low", "high"), [("unit_range", 0, 1), ("mobilenet_v2", -1, 1), ("raw_range", 0, 255)]
)
def test_preprocessing_gives_the_range_it_names(preprocessing: str, low: float, high: float) -> None:
    model = build_model(compose_config(f"preprocessing={preprocessing}", "preprocessing.image_size=32"), 2, "float32")
    pixels = np.linspace(0, 255, 32 * 32 * 3, dtype=np.float32).reshape(1, 32, 32, 3)
    scaled = keras.ops.convert_to_numpy(model.get_layer("preprocessing")(pixels))
    assert (scaled.min(), scaled.max()) == pytest.approx((low, high), abs=1e-5)


APPLICATIONS = [
    ("mobilenet_v2", "mobilenet_v2", 2_257_984),
    ("mobilenet_v3_small", "raw_range", 939_120),
    ("efficientnet_v2_b0", "raw_range", 5_919_312),
    ("resnet50_v2", "mobilenet_v2", 23_564_800),
]


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "preprocessing", "parameters"), APPLICATIONS)
def test_every_shipped_backbone_builds_and_freezes(backbone: str, preprocessing: str, parameters: int) -> None:
    overrides = (f"backbone={backbone}", f"preprocessing={preprocessing}", "preprocessing.image_size=96",
                 "backbone.weights=null", "backbone.trainable_layers=all")  # fmt: skip
    model = build_model(compose_config(*overrides), 2, "float32")
    assert backbone_of(model).count_params() == parameters
    assert keras.ops.shape(model(np.zeros((1, 96, 96, 3), np.float32))) == (1, 2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MobileNetV2's weights file, random, in Keras' layout."""
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.weights.h5"
    keras.applications.MobileNetV2(input_shape=(96, 96, 3), include_top=False, weights=None).save_weights(path)
    return str(path)


def transfer(weights: str, *overrides: str) -> keras.Model:
    config = compose_config("model=mobilenet", "preprocessing.image_size=96", f"backbone.weights={weights}", *overrides)
    return build_model(config, 2, "float32")


def test_a_frozen_backbone_trains_its_head_alone(weights: str) -> None:
    model = transfer(weights)
    assert [weight.path for weight in model.trainable_weights] == [
        "dense/kernel", "dense/bias", "logits/kernel", "logits/bias",
    ]  # fmt: skip


def test_fine_tuning_trains_the_last_layers_and_leaves_batch_norms(weights: str) -> None:
    layers = backbone_of(transfer(weights, "backbone.trainable_layers=20", "speed.fold_norms=false")).layers
    norm = keras.layers.BatchNormalization
    assert not any(layer.trainable for layer in layers[:-20])
    assert all(layer.trainable == (not isinstance(layer, norm)) for layer in layers[-20:])
    assert any(isinstance(layer, norm) for layer in layers[-20:])
    everything = backbone_of(transfer(weights, "backbone.trainable_layers=all", "speed.fold_norms=false")).layers
    assert all(layer.trainable == (not isinstance(layer, norm)) for layer in everything)


def test_batch_norms_of_random_weights_train() -> None:
    model = build_model(
        compose_config("model=mobilenet", "preprocessing.image_size=96", "backbone.weights=null",
                       "backbone.trainable_layers=all"), 2, "float32")  # fmt: skip
    assert all(layer.trainable for layer in backbone_of(model).layers)


def test_more_trainable_layers_than_there_are_is_refused(weights: str) -> None:
    with pytest.raises(UserError, match="backbone=mobilenet_v2 has 154 layers, received 999"):
        transfer(weights, "backbone.trainable_layers=999")


def test_weights_that_cannot_be_loaded_are_named_with_ways_out(tmp_path, weights: str) -> None:
    missing = tmp_path / "missing.h5"
    with pytest.raises(UserError, match=r"no file .*missing\.h5.*CATDOG_WEIGHTS"):
        transfer(str(missing))
    text = tmp_path / "text.h5"
    text.write_text("not weights")
    with pytest.raises(UserError, match="not an HDF5 file"):
        transfer(str(text))
    truncated = tmp_path / "truncated.weights.h5"
    with open(weights, "rb") as file:  # noqa: PTH123
        truncated.write_bytes(file.read()[:100_000])
    with pytest.raises(UserError, match=r"backbone\.weights"):
        transfer(str(truncated))
    other = tmp_path / "other.weights.h5"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save_weights(other)
    with pytest.raises(UserError, match="cannot be loaded into MobileNetV2"):
        transfer(str(other))
    empty = tmp_path / "empty.h5"
    with h5py.File(empty, "w"):
        pass
    with pytest.raises(UserError, match="cannot be loaded into MobileNetV2"):
        transfer(str(empty))


def test_unreachable_imagenet_weights_are_said_soon(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    from catdog.data import fetch

    def refuse(url: str, timeout_s: float) -> None:
        raise OSError("no route")

    # Whether this machine has a network must not decide; the probe itself is tested where it lives.
    monkeypatch.setattr(fetch, "check_reachable", refuse)
    monkeypatch.setattr("catdog.training.model._keras_home", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"MobileNetV2.*cannot be reached \(no route\).*model=drawn_mini"):
        transfer("imagenet")


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("{layer: RandomNonsense}", "no layer 'RandomNonsense'"),
        ("{layer: RandomFlip, mood: sad}", "RandomFlip does not take"),
        ("{layer: keras}", "no layer 'keras'"),
        ("{layer: RandomCrop, height: 8, width: 8}", "must leave images at 32 x 32 x 3, but makes them 8 x 8 x 3"),
        ("{layer: Flatten}", "but makes them 3072"),
    ],
)
def test_layers_that_keras_does_not_have_are_named(layer: str, said: str) -> None:
    with pytest.raises(UserError, match=rf"augmentation\.layers\.x: .*{said}"):
        build_augmentation(compose_config(f"+augmentation.layers.x={layer}").augmentation, seed=0, image_size=32)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_the_kept_model_takes_pixels_and_answers_float32_probabilities(policy: str, tmp_path) -> None:
    config = compose_config("model=augmented", "preprocessing.image_size=32")
    trained = build_model(config, 3, policy)
    assert trained.output.dtype == "float32"
    kept = build_kept_model(config, trained, policy)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    path = tmp_path / "kept.keras"
    kept.save(path)
    loaded = keras.models.load_model(path)
    answers = loaded.predict_on_batch(pixels)
    assert answers.dtype == np.float32
    assert answers.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(answers, kept.predict_on_batch(pixels))
    logits = trained.predict_on_batch(pixels.astype(np.float32))
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    # float16 is kept as float32, which a CPU can compute; the others answer as they were trained.
    assert answers == pytest.approx(expected, abs=2e-3 if policy == "mixed_float16" else 1e-5)
    computed = {layer.compute_dtype for layer in backbone_of(backbone_of(loaded)).layers}
    assert computed == {"bfloat16" if policy == "mixed_bfloat16" else "float32"}


def test_a_frozen_model_is_kept_with_its_backbone(weights: str) -> None:
    config = compose_config("model=mobilenet", "preprocessing.image_size=96", f"backbone.weights={weights}")
    trained = build_model(config, 2, "mixed_float16")
    kept = build_kept_model(config, trained, "mixed_float16")
    assert [w.shape for w in kept.get_weights()] == [w.shape for w in trained.get_weights()]
    assert all(np.array_equal(a, b) for a, b in zip(kept.get_weights(), trained.get_weights(), strict=True))
