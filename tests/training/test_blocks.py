"""Residual blocks and squeeze-and-excitation in lists of layers."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import yaml
from support import compose_config

from catdog.config.digest import hash_config
from catdog.config.schema import BackboneConfig, Config, find_references
from catdog.system.errors import UserError
from catdog.training.model import build_kept_model, build_model

CONV = "{layer: Conv2D, filters: 4, kernel_size: 3, padding: same}"
STEM = f"{{stem: {CONV}, block: {{layer: Residual, %s layers: {{conv: {CONV}%s}}}}}}"


def compose(layers: str) -> Config:
    config = compose_config("preprocessing.image_size=16")
    return replace(config, backbone=BackboneConfig(name="blocks", layers=yaml.safe_load(layers)))


def build(layers: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    return build_model(compose(layers), 2, "float32")


def backbone_of(model: keras.Model) -> keras.Model:
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def test_a_residual_block_adds_its_input(tmp_path) -> None:
    backbone = backbone_of(build(STEM % ("", "")))
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    stem = np.asarray(backbone.get_layer("stem")(images))
    expected = stem + np.asarray(backbone.get_layer("block_conv")(stem))
    np.testing.assert_allclose(np.asarray(backbone(images)), expected, rtol=1e-5, atol=1e-6)


def test_a_shortcut_of_another_shape_is_a_convolution() -> None:
    strided = ", down: {layer: MaxPooling2D, padding: same}, wide: {layer: Conv2D, filters: 6, kernel_size: 1}"
    backbone = backbone_of(build(STEM % ("", strided)))
    shortcut = backbone.get_layer("block_shortcut")
    assert (shortcut.strides, shortcut.filters, backbone.output_shape) == ((2, 2), 6, (None, 8, 8, 6))


def test_stochastic_depth_skips_whole_images_in_training_alone() -> None:
    backbone = backbone_of(build(STEM % ("drop: 0.5,", "")))
    images = np.random.default_rng(0).normal(size=(64, 16, 16, 3)).astype(np.float32)
    stem = np.asarray(backbone.get_layer("stem")(images))
    branch = np.asarray(backbone.get_layer("block_conv")(stem))
    np.testing.assert_allclose(np.asarray(backbone(images)), stem + branch, rtol=1e-5, atol=1e-5)
    added = np.asarray(backbone(images, training=True)) - stem
    skipped = np.abs(added).max(axis=(1, 2, 3)) < 1e-5
    assert 16 < skipped.sum() < 48
    np.testing.assert_allclose(added[~skipped], 2 * branch[~skipped], rtol=1e-4, atol=1e-4)


def test_squeeze_and_excitation_scales_channels() -> None:
    backbone = backbone_of(build(f"{{stem: {CONV}, excite: {{layer: SqueezeExcite, ratio: 0.5}}}}"))
    assert backbone.get_layer("excite_reduce").units == 2
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    scales = np.asarray(backbone(images)) / np.asarray(backbone.get_layer("stem")(images))
    assert ((scales > 0) & (scales < 1)).all()
    np.testing.assert_allclose(scales.std(axis=(1, 2)), 0, atol=1e-5)


def test_a_model_of_blocks_is_loaded_by_keras_alone(tmp_path) -> None:
    config = compose(STEM % ("drop: 0.2,", ", norm: {layer: BatchNormalization}, excite: {layer: SqueezeExcite}"))
    kept = build_kept_model(config, build_model(config, 2, "float32"), "float32")
    kept.save(tmp_path / "kept.keras")
    loaded = keras.models.load_model(tmp_path / "kept.keras", custom_objects={}, safe_mode=True)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(kept.predict_on_batch(images), loaded.predict_on_batch(images))
    assert {type(layer).__module__.partition(".")[0] for layer in loaded._flatten_layers()} == {"keras"}


def test_the_order_inside_a_block_counts_and_own_layers_there_are_found() -> None:
    a, b = "a: {layer: ReLU}", "b: {layer: BatchNormalization}"
    digests = {hash_config(compose(STEM % ("", f", {inner}")), with_seed=True) for inner in (f"{a}, {b}", f"{b}, {a}")}
    assert len(digests) == 2
    config = compose(STEM % ("", ", blur: {layer: 'my_layers:Blur'}"))
    assert find_references(config) == {"backbone.layers.block.layers.blur": "my_layers:Blur"}


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ("{a: {layer: Residual}}", "backbone.layers.a.layers: must be the layers beside the shortcut, by name, received None"),
        ("{a: {layer: Residual, layers: {b: {filters: 3}}}}", "backbone.layers.a.layers.b: must be a mapping with the key `layer`"),
        (f"{{a: {{layer: Residual, drop: 1, layers: {{b: {CONV}}}}}}}", "backbone.layers.a.drop: must be 0 or more"),
        (f"{{a: {{layer: Residual, dropp: 1, layers: {{b: {CONV}}}}}}}", "backbone.layers.a.dropp: Residual has no such argument"),
        ("{a: {layer: Residual, layers: {b: {layer: Conv2D, filters: 3, kernel_size: 4}}}}", "Use padding: same"),
        ("{a: {layer: SqueezeExcite, ratio: 2}}", "backbone.layers.a.ratio: must be more than 0, up to 1, received 2"),
        ("{a: {layer: Residual, layers: {b: {layer: Convv2D}}}}", "backbone.layers.a.layers.b"),
        ("{a: {layer: Residual, layers: {b: {layer: Flatten}}}}", "backbone.layers.a"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(layers: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        build(layers)
    assert said in str(error.value)
