"""Partly trained backbones and batch norms that train: the faster parts compute what Keras' own layers do."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from support import compose_config

from catdog.config.digest import complete_params, flatten, hash_config
from catdog.config.schema import Config
from catdog.training.fast import fused_norm
from catdog.training.fast.batchnorm_folding import fold_norms
from catdog.training.fast.feature_cache import cut_trained, find_boundary
from catdog.training.fast.fused_norm import FusedNorm, fuse_norms
from catdog.training.fast.replacement import FAST
from catdog.training.fast.scaled_convolution import ScaledConv2D
from catdog.training.loop import compile_model
from catdog.training.model import build_kept_model, build_model

SIZE = 32
PARTLY = ("model=drawn_mini", f"preprocessing.image_size={SIZE}")
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
LABELS = GENERATOR.integers(0, 2, 8, dtype=np.int32)


def compose_normed(*overrides: str) -> Config:
    """A network with batch norms that train, one of them with 24 channels."""
    config = compose_config(
        "model=drawn_mini", f"preprocessing.image_size={SIZE}", "backbone.weights=null", "backbone.trainable_layers=all",
        "optimizer=adamw", *overrides,
    )  # fmt: skip
    assert config.backbone.layers["conv1"]["filters"] % fused_norm.LANES
    return config


def build(config: Config, policy: str = "float32") -> Any:
    keras.utils.set_random_seed(0)
    return build_model(config, 2, policy)


def take_steps(trained: Any, config: Config, policy: str = "float32", count: int = 2) -> list[float]:
    compile_model(trained, config, policy, 5)
    return [float(trained.train_on_batch(IMAGES, LABELS, return_dict=True)["loss"]) for _ in range(count)]


def numpy(values: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(values, "float32")))


def backbone_of(model: Any) -> Any:
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


@pytest.mark.parametrize("trainable", ["7", "all"])
def test_norms_that_do_not_train_are_folded_and_gradients_stay(trainable: str) -> None:
    config = compose_config(
        *PARTLY,
        f"backbone.trainable_layers={trainable}",
        "optimizer=sgd",
        "trainer.learning_rate=0.01",
        "head.dropout=0",
    )
    folded = build(config)
    config.speed.fold_norms = False
    plain = build(config)
    kinds = [type(layer) for layer in backbone_of(folded).layers]
    assert keras.layers.BatchNormalization not in kinds
    assert ScaledConv2D in kinds
    # Folding draws random numbers for its copies, so the head starts with other weights.
    for one, other in zip(plain.trainable_variables, folded.trainable_variables, strict=True):
        assert one.shape == other.shape
        one.assign(other)
    assert take_steps(plain, config) == pytest.approx(take_steps(folded, config), rel=1e-3)
    for one, other in zip(plain.trainable_variables, folded.trainable_variables, strict=True):
        assert numpy(one.value) == pytest.approx(numpy(other.value), abs=1e-3)


def test_a_depthwise_convolution_with_a_bias_and_a_padding_keeps_its_gradients() -> None:
    images = keras.Input((9, 9, 4))
    padded = keras.layers.ZeroPadding2D(1)(images)
    convolution = keras.layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2, bias_initializer="ones", name="conv")
    norm = keras.layers.BatchNormalization(scale=False, trainable=False)
    network = keras.Model(images, keras.layers.ReLU()(norm(convolution(padded))))
    norm.set_weights([GENERATOR.uniform(0.5, 1.5, weight.shape) for weight in norm.weights])
    folded = fold_norms(network, trains=True)
    assert [type(layer).__name__ for layer in folded.layers[1:]] == ["ScaledDepthwiseConv2D", "ReLU"]
    pixels = GENERATOR.normal(size=(2, 9, 9, 4)).astype(np.float32)
    import tensorflow as tf

    results = []
    for net in (network, folded):
        with tf.GradientTape() as tape:
            answers = net(pixels, training=True)
            loss = tf.reduce_sum(answers**2)
        variables = net.get_layer("conv").trainable_variables
        results.append([numpy(answers), *map(numpy, tape.gradient(loss, [v.value for v in variables]))])
    for one, other in zip(*results, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_what_trains_is_cut_where_all_paths_meet_and_changes_no_bit(policy: str) -> None:
    config = compose_config(*PARTLY, "backbone.trainable_layers=7", "augmentation=none")
    losses, weights = [], []
    for cut in (False, True, "fast"):
        model = build(config, policy)
        trained = cut_trained(model, fast=cut == "fast") if cut else model
        losses.append(take_steps(trained, config, policy, 3))
        weights.append([numpy(variable.value) for variable in model.trainable_variables])
    assert losses[0] == losses[1] == losses[2]
    for others in weights[1:]:
        assert all(np.array_equal(one, other) for one, other in zip(weights[0], others, strict=True))


def test_layers_that_draw_random_numbers_or_change_are_not_below_the_boundary() -> None:
    def boundary_of(*layers: Any) -> Any:
        network = keras.Sequential([keras.Input((8, 8, 3)), *layers])
        for layer in network.layers:
            layer.trainable = layer.name == "top"
        found = find_boundary(network)
        return None if found is None else found._keras_history.operation.name

    def conv(name: str) -> Any:
        return keras.layers.Conv2D(4, 3, padding="same", name=name)

    assert boundary_of(conv("one"), conv("two"), conv("top")) == "two"
    assert boundary_of(conv("one"), keras.layers.Dropout(0.2), conv("two"), conv("top")) == "one"
    assert boundary_of(conv("top"), conv("two")) is None
    # A residual connection crosses the boundary of what trains.
    images = keras.Input((8, 8, 4))
    first = conv("first")(images)
    inner = conv("inner")(first)
    summed = keras.layers.Add()([first, conv("top")(inner)])
    network = keras.Model(images, summed)
    for layer in network.layers:
        layer.trainable = layer.name == "top"
    assert find_boundary(network)._keras_history.operation.name == "first"


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_fused_norm_computes_what_keras_does(policy: str) -> None:
    features = GENERATOR.normal(2, 3, (6, 5, 5, 24)).astype(np.float32)
    images = keras.Input((5, 5, 24))
    import tensorflow as tf

    results = []
    network = keras.Model(
        images, keras.layers.BatchNormalization(momentum=0.9, epsilon=0.01, dtype=policy, name="norm")(images)
    )
    network.get_layer("norm").set_weights([GENERATOR.uniform(0.5, 2, (24,)) for _ in range(4)])
    for net in (network, fuse_norms(network)):
        layer = net.get_layer("norm")
        with tf.GradientTape() as tape:
            inputs = tf.cast(features, layer.compute_dtype)
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 3)
        wanted = [inputs, layer.gamma.value, layer.beta.value]
        results.append(
            [numpy(v) for v in (outputs, layer.moving_mean, layer.moving_variance, *tape.gradient(loss, wanted))]
        )
    assert isinstance(layer, FusedNorm)
    rounding = 1e-4 if policy == "float32" else 2e-2
    for number, (one, other) in enumerate(zip(*results, strict=True)):
        # The moving averages are float32 in both: also the biased variance, which would be off by 1/150.
        allowed = 1e-5 if number in (1, 2) else rounding
        assert np.abs(one - other).max() <= allowed * np.abs(one).max()


def test_a_network_with_fused_norms_trains_as_with_keras_norms() -> None:
    config = compose_normed()
    fused, plain = build(config), build(compose_normed("speed.fused_norms=false"))
    assert sum(isinstance(layer, FusedNorm) for layer in backbone_of(fused).layers) == 5
    assert not any(isinstance(layer, FusedNorm) for layer in backbone_of(plain).layers)
    assert take_steps(fused, config) == pytest.approx(take_steps(plain, config), rel=1e-3)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", ["partly", "fused"])
def test_a_kept_model_has_only_layers_of_keras(tmp_path: Path, kind: str, policy: str) -> None:
    config = compose_config(*PARTLY, "backbone.trainable_layers=7") if kind == "partly" else compose_normed()
    model = build(config, policy)
    take_steps(model, config, policy)
    kept = build_kept_model(config, model, policy)
    assert any(isinstance(layer, FAST) for layer in backbone_of(model).layers)
    assert all(type(layer).__module__.startswith("keras.") for layer in kept._flatten_layers())
    kept.save(tmp_path / "kept.keras")
    answers = numpy(keras.models.load_model(tmp_path / "kept.keras").predict_on_batch(IMAGES))
    assert np.array_equal(answers, numpy(kept.predict_on_batch(IMAGES)))
    expected = numpy(keras.ops.softmax(model.predict_on_batch(IMAGES)))
    assert answers == pytest.approx(expected, abs=1e-6)


def test_the_digest_counts_fused_norms_only_where_norms_train() -> None:
    def digest(*overrides: str) -> str:
        return hash_config(compose_config(*overrides), with_seed=True)

    for model in ("cnn", "mobilenet", "drawn_mini"):
        assert digest(f"model={model}") == digest(f"model={model}", "speed.fused_norms=false")
    trained = ("model=drawn_mini", "backbone.weights=null", "backbone.trainable_layers=all")
    assert digest(*trained) != digest(*trained, "speed.fused_norms=false")


def test_runs_from_before_fused_norms_had_them_only_where_none_train() -> None:
    for config, expected in ((compose_config("model=mobilenet"), "True"), (compose_normed(), "False")):
        now = {key: str(value) for key, value in flatten(config).items()}
        then = {key: value for key, value in now.items() if key != "speed.fused_norms"}
        assert complete_params(then)["speed.fused_norms"] == expected
        assert complete_params(now) == now
