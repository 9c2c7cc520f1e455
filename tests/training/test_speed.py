"""What makes training faster changes nothing that it should not: `speed=none` is the reference."""

import logging
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import compose_config

from catdog.training.augmentation import build_augmentation
from catdog.training.fast import feature_extraction
from catdog.training.fast.batchnorm_folding import fold_norms
from catdog.training.fast.dropout import FastDropout
from catdog.training.fast.feature_cache import SplitFeatures, cut_head, keep_features
from catdog.training.input_stream import build_eval_stream, build_train_stream, count_steps
from catdog.training.loop import FiniteLoss, Fit, choose_steps_per_execution, compile_model, fit, list_changing
from catdog.training.model import build_kept_model, build_model
from catdog.training.outcome import NonFiniteLossError
from catdog.training.precision import read_cpu_flags
from catdog.training.progress import LiveProgress

SIZE = 32
NO_TRICKS = "speed=none"


class Rows:
    """Noise images with labels, as a split has them."""

    shape, dtype = (SIZE, SIZE, 3), "uint8"

    def __init__(self, count: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self.images = generator.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
        self.labels = generator.integers(0, 2, count, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.images[indices], self.labels[indices]


TRAIN, VAL = Rows(37, seed=1), Rows(21, seed=2)


def train(*overrides: str, policy: str) -> tuple[Fit, list[np.ndarray], keras.Model]:
    """Returns history, weights that train and the whole model after three epochs of batches of 8."""
    config = compose_config(f"preprocessing.image_size={SIZE}", "trainer.batch_size=8", "trainer.epochs=3", *overrides)
    keras.utils.set_random_seed(0)
    model = build_model(config, 2, policy)
    frozen = config.backbone.trainable_layers == 0 and config.speed.keep_features_mb
    head = cut_head(model, fast=config.speed.fast_features) if frozen else None
    trained = head or model
    steps = count_steps(len(TRAIN), 8)
    compile_model(trained, config, policy, steps)
    augment = build_augmentation(config.augmentation, 0, SIZE, fast=config.speed.fast_augmentation)
    rows = (TRAIN, VAL)
    if head is not None:
        budget_mb = config.speed.keep_features_mb
        rows = keep_features(head, *rows, augmented=augment is not None, budget_mb=budget_mb, batch_size=8)
    result = fit(
        trained,
        build_train_stream(rows[0], batch_size=8, seed=0, augment=augment),
        build_eval_stream(rows[1], batch_size=8),
        config.trainer,
        steps=steps,
        train_count=len(TRAIN),
        progress=LiveProgress("test", 3, steps, 1),
        on_epoch=lambda epoch, metrics: None,
    )
    return result, [keras.ops.convert_to_numpy(variable.value) for variable in list_changing(trained)], model


def assert_same_bits(one: tuple, other: tuple) -> None:
    for first, second in zip(one[0].epochs, other[0].epochs, strict=True):
        timed = ("epoch_seconds", "images_per_second")
        assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in second.items() if k not in timed}
    assert all(np.array_equal(a, b) for a, b in zip(one[1], other[1], strict=True))
    answers = [keras.ops.convert_to_numpy(result[2](VAL.images.astype(np.float32))) for result in (one, other)]
    assert np.array_equal(*answers)


def assert_same_convolutions(policy: str, one: tuple, other: tuple) -> None:
    """The same bits; but for the last one on a CPU without AVX-512, where the size of a batch decides how float32 is rounded."""
    if policy == "float32" and "avx512f" not in read_cpu_flags():
        answers = [keras.ops.convert_to_numpy(result[2](VAL.images.astype(np.float32))) for result in (one, other)]
        np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-5)
    else:
        assert_same_bits(one, other)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_relu_after_poolings_change_no_bit(policy: str) -> None:
    assert_same_bits(train(NO_TRICKS, "speed.relu_after_pooling=true", policy=policy), train(NO_TRICKS, policy=policy))


def test_relu_after_poolings_stand_after_the_pooling() -> None:
    layers = build_model(compose_config("model=cnn"), 2, "float32")
    backbone = next(layer for layer in layers.layers if isinstance(layer, keras.Model))
    assert [layer.name for layer in backbone.layers] == [
        "conv1",
        "pool1",
        "pool1_relu",
        "conv2",
        "pool2",
        "pool2_relu",
        "conv3",
    ]
    names = [layer.name for layer in layers.layers]
    assert names[names.index("pooling") + 1] == "relu"
    # Global average pooling does not commute with a ReLU.
    averaged = build_model(compose_config("model=cnn", "head.pooling=global_average"), 2, "float32")
    assert "relu" not in [layer.name for layer in averaged.layers]
    backbone = next(layer for layer in averaged.layers if isinstance(layer, keras.Model))
    assert backbone.get_layer("conv3").activation is keras.activations.relu


@pytest.mark.parametrize(
    "change",
    [
        "+backbone.layers.conv1.activity_regularizer=l2",
        "backbone.layers.conv1.activation=elu",
        "+backbone.layers.pool1_relu={layer: BatchNormalization}",
    ],
)
def test_a_relu_that_must_not_be_moved_or_lost_is_not(change: str) -> None:
    size = f"preprocessing.image_size={SIZE}"
    answers = []
    for speed in ("speed=none", "speed.fast_dropout=false"):
        keras.utils.set_random_seed(0)
        model = build_model(compose_config("model=cnn", size, change, speed), 2, "float32")
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        answers.append(model.evaluate(VAL.images.astype(np.float32), VAL.labels, verbose=0))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.3])
def test_fast_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    keras.utils.set_random_seed(0)
    layer = FastDropout(rate)
    ones = np.ones((64, 10, 10, 16), np.float32)
    one, two = (keras.ops.convert_to_numpy(layer(ones, training=True)) for _ in range(2))
    assert set(np.unique(one)) == {0.0, np.float32(one.max())}
    assert one.max() == pytest.approx(1 / (1 - rate), rel=1e-4)
    # 102,400 elements: the share dropped is known to about 0.0016.
    assert (one == 0).mean() == pytest.approx(rate, abs=0.007)
    # Neighbours share a random word, and are as independent as others.
    assert (one[..., 0::2] * one[..., 1::2] != 0).mean() == pytest.approx((1 - rate) ** 2, abs=0.01)
    # So are the steps.
    assert (one * two != 0).mean() == pytest.approx((1 - rate) ** 2, abs=0.01)
    assert np.array_equal(keras.ops.convert_to_numpy(layer(ones, training=False)), ones)
    keras.utils.set_random_seed(0)
    again = FastDropout(rate)
    assert np.array_equal(keras.ops.convert_to_numpy(again(ones, training=True)), one)


def test_a_kept_model_has_keras_own_dropout() -> None:
    config = compose_config("model=cnn", f"preprocessing.image_size={SIZE}")
    model = build_model(config, 2, "float32")
    assert isinstance(model.get_layer("dropout"), FastDropout)
    kept = build_kept_model(config, model, "float32")
    inside = next(layer for layer in kept.layers if isinstance(layer, keras.Model))
    assert type(inside.get_layer("dropout")) is keras.layers.Dropout
    # The same weights, not a copy: nothing is to be kept in step.
    assert inside.get_layer("dense").kernel is model.get_layer("dense").kernel


FROZEN = ("model=drawn_mini",)


@pytest.mark.parametrize(("augmentation", "policy"), [
    ("none", "float32"),
    ("flip_rotate", "mixed_bfloat16"),
    pytest.param("none", "mixed_bfloat16", marks=pytest.mark.nightly),
    pytest.param("flip_rotate", "float32", marks=pytest.mark.nightly),
])  # fmt: skip
def test_kept_features_change_no_bit(augmentation: str, policy: str) -> None:
    overrides = (*FROZEN, f"augmentation={augmentation}")
    assert_same_convolutions(
        policy, train(*overrides, policy=policy), train(*overrides, "speed.keep_features_mb=0", policy=policy)
    )


def test_only_what_stays_the_same_is_kept() -> None:
    config = compose_config(*FROZEN, f"preprocessing.image_size={SIZE}")
    head = cut_head(build_model(config, 2, "float32"))
    both = keep_features(head, TRAIN, VAL, augmented=False, budget_mb=1, batch_size=8)
    assert all(isinstance(rows, SplitFeatures) for rows in both)
    assert not head.trains_on_images
    assert not head.tests_on_images
    train_rows, val_rows = keep_features(head, TRAIN, VAL, augmented=True, budget_mb=1, batch_size=8)
    assert train_rows is TRAIN
    assert isinstance(val_rows, SplitFeatures)
    assert len(val_rows) == len(VAL)
    assert np.array_equal(val_rows.labels, VAL.labels)
    assert head.trains_on_images
    assert not head.tests_on_images


def test_features_beyond_the_budget_are_computed_every_epoch(caplog) -> None:
    config = compose_config(*FROZEN, f"preprocessing.image_size={SIZE}")
    head = cut_head(build_model(config, 2, "float32"))
    many = Rows(1, seed=3)
    many.images = np.broadcast_to(many.images, (4096, SIZE, SIZE, 3))
    many.labels = np.zeros(4096, np.int32)
    with caplog.at_level(logging.INFO):
        # 4,096 images with 2 x 2 x 128 features of 4 bytes: 8 MB.
        train_rows, val_rows = keep_features(head, many, VAL, augmented=False, budget_mb=2, batch_size=8)
    assert train_rows is many
    assert isinstance(val_rows, SplitFeatures)
    assert re.search(
        r"features of train need 8 MB, more than is left of speed\.keep_features_mb=2: .* every epoch", caplog.text
    )


APPLICATIONS = [
    ("mobilenet_v2", "mobilenet_v2", 0),
    ("mobilenet_v3_small", "raw_range", 0),
    ("efficientnet_v2_b0", "raw_range", 0),
    # Its first norm of each block stands before a convolution, and stays.
    ("resnet50_v2", "mobilenet_v2", 17),
    ("drawn_mini", "mobilenet_v2", 0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "preprocessing", "left"), APPLICATIONS)
def test_every_frozen_backbone_that_ships_can_be_folded(backbone: str, preprocessing: str, left: int) -> None:
    from catdog.training.model import build_backbone

    overrides = [f"backbone={backbone}", f"preprocessing={preprocessing}"]
    if backbone != "drawn_mini":
        overrides += ["backbone.weights=null", "backbone.trainable_layers=all"]
    config = compose_config(*overrides)
    network = build_backbone(config.backbone, 96)
    generator = np.random.default_rng(0)
    if backbone != "drawn_mini":
        # As training leaves them: fresh norms would do next to nothing.
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                positive = {"gamma", "moving_variance"}
                layer.set_weights([
                    generator.uniform(*((0.5, 1.5) if weight.name in positive else (-0.3, 0.3)), weight.shape)
                    for weight in layer.weights
                ])  # fmt: skip
    images = generator.uniform(*config.preprocessing.pixel_range, (2, 96, 96, 3)).astype(np.float32)
    folded = fold_norms(network)
    expected, found = (keras.ops.convert_to_numpy(net(images, training=False)) for net in (network, folded))
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in folded.layers) == left
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers) > left


def test_a_norm_that_also_reads_something_else_is_left_alone() -> None:
    images = keras.Input((8, 8, 3))
    norm = keras.layers.BatchNormalization()
    network = keras.Model(
        images, keras.layers.Add()([norm(keras.layers.Conv2D(3, 3, padding="same")(images)), norm(images)])
    )
    norm.set_weights([np.full(3, value, np.float32) for value in (2, 1, 3, 4)])
    pixels = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    expected, found = (
        keras.ops.convert_to_numpy(net(pixels, training=False)) for net in (network, fold_norms(network))
    )
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_normalization_keeps_what_it_was_adapted_to() -> None:
    images = keras.Input((8, 8, 3))
    normalization = keras.layers.Normalization()
    pixels = np.random.default_rng(0).normal(5, 3, (20, 8, 8, 3)).astype(np.float32)
    normalization.adapt(pixels)
    network = keras.Model(images, keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(normalization(images))))
    expected, found = (
        keras.ops.convert_to_numpy(net(pixels, training=False)) for net in (network, fold_norms(network))
    )
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_convolution_that_others_read_too_is_left_alone() -> None:
    images = keras.Input((8, 8, 3))
    convolved = keras.layers.Conv2D(4, 3, padding="same")(images)
    normed = keras.layers.BatchNormalization()(convolved)
    network = keras.Model(images, keras.layers.Add()([convolved, normed]))
    folded = fold_norms(network)
    assert any(isinstance(layer, keras.layers.BatchNormalization) for layer in folded.layers)


def test_fine_tuning_starts_from_the_network_as_it_was() -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (2, SIZE, SIZE, 3)).astype(np.float32)
    for trainable in ("0", "3", "all"):
        words = (*FROZEN, f"preprocessing.image_size={SIZE}", f"backbone.trainable_layers={trainable}")
        folded, plain = (
            build_model(compose_config(*words, f"speed.fold_norms={fold}"), 2, "float32") for fold in ("true", "false")
        )
        parts = [next(layer for layer in model.layers if isinstance(layer, keras.Model)) for model in (folded, plain)]
        norms = [sum(type(part).__name__ == "BatchNormalization" for part in each.layers) for each in parts]
        assert norms[0] == 0 < norms[1]
        features = [keras.ops.convert_to_numpy(each(images, training=False)) for each in parts]
        assert features[0] == pytest.approx(features[1], abs=1e-3)


def test_a_folded_model_is_kept_and_comes_back(tmp_path) -> None:
    config = compose_config(*FROZEN, f"preprocessing.image_size={SIZE}")
    kept = build_kept_model(config, build_model(config, 2, "mixed_bfloat16"), "mixed_bfloat16")
    kept.save(tmp_path / "kept.keras")
    answers = keras.models.load_model(tmp_path / "kept.keras").predict_on_batch(VAL.images)
    assert np.array_equal(answers, kept.predict_on_batch(VAL.images))


def test_what_changes_no_bit_changes_no_digest() -> None:
    from catdog.config.digest import hash_config

    digest = hash_config(compose_config("model=mobilenet"), with_seed=True)
    same = (
        "speed.relu_after_pooling=false", "speed.keep_features_mb=0", "speed.fast_features=false", "speed.steps_per_execution=8",
    )  # fmt: skip
    other = ("speed.fold_norms=false", "speed.fast_augmentation=false", "speed.fast_dropout=false")
    assert all(hash_config(compose_config("model=mobilenet", key), with_seed=True) == digest for key in same)
    assert all(hash_config(compose_config("model=mobilenet", key), with_seed=True) != digest for key in other)


@pytest.mark.parametrize(("policy", "steps"), [
    ("float32", 100),
    ("mixed_bfloat16", 2),
    pytest.param("float32", 2, marks=pytest.mark.nightly),
    pytest.param("mixed_bfloat16", 100, marks=pytest.mark.nightly),
])  # fmt: skip
def test_several_steps_at_once_change_no_bit(policy: str, steps: int) -> None:
    overrides = ("model=cnn", "augmentation=flip_rotate")
    assert_same_bits(
        train(*overrides, f"speed.steps_per_execution={steps}", policy=policy), train(*overrides, policy=policy)
    )


def test_what_is_done_after_each_step_needs_single_steps() -> None:
    steps = ("speed.steps_per_execution=4",)
    assert choose_steps_per_execution(compose_config("model=cnn", *steps), 8) == 4
    assert choose_steps_per_execution(compose_config("model=cnn", *steps), 9) == 3
    assert choose_steps_per_execution(compose_config("model=cnn", *steps), 3) == 3
    assert choose_steps_per_execution(compose_config("model=cnn", *steps, "trainer.ema=0.9"), 8) == 1
    own = compose_config("model=cnn", *steps, "trainer.callbacks=[TerminateOnNaN]")
    assert choose_steps_per_execution(own, 8) == 1


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("broken_at", [0, 2, 8, 9])
def test_a_loss_that_is_not_finite_is_told_by_its_step_before_the_epoch_ends(steps: int, broken_at: int) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse", steps_per_execution=steps)
    values = np.zeros((10, 1), np.float32)
    values[broken_at] = np.nan
    ended = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ended.append(epoch))
    stream = tf.data.Dataset.from_tensor_slices((np.zeros((10, 1), np.float32), values)).batch(1)
    expected = broken_at + 1 if steps == 1 else min(10, (broken_at // steps + 1) * steps)
    with pytest.raises(NonFiniteLossError, match=rf"became nan at epoch 1, step {expected} of 10"):
        model.fit(stream, callbacks=[FiniteLoss(10), watch], verbose=0, shuffle=False)
    assert not ended


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_fast_features_change_no_bit(monkeypatch, policy: str) -> None:
    # Parts of 2 or 3 of a batch's 8 images, of 1 or 2 of its last 5.
    monkeypatch.setattr(feature_extraction, "PIXELS_AT_ONCE", 3 * SIZE * SIZE)
    overrides = (*FROZEN, "augmentation=flip_rotate")
    assert_same_convolutions(
        policy, train(*overrides, policy=policy), train(*overrides, "speed.fast_features=false", policy=policy)
    )


def test_the_first_layers_end_where_the_feature_maps_are_smallest() -> None:
    images = keras.Input((32, 32, 3))
    tall = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="tall")(images)
    wide = keras.layers.Conv2D(40, 1, name="wide")(tall)
    narrow = keras.layers.Add(name="narrow")([tall, keras.layers.Conv2D(8, 1, name="beside")(wide)])
    low = keras.layers.Conv2D(4, 3, strides=4, padding="same", name="low")(narrow)
    assert feature_extraction.find_narrow(keras.Model(images, low))._keras_history.operation.name == "narrow"
    # All that is beyond the image is too low.
    assert feature_extraction.find_narrow(keras.Model(images, keras.layers.Conv2D(2, 3, strides=8)(images))) is None


@pytest.mark.parametrize(("size", "pads"), [(8, (0, 1)), (9, (1, 1)), (8, (1, 1)), (9, (1, 0))])
@pytest.mark.parametrize("kind", [keras.layers.Conv2D, keras.layers.DepthwiseConv2D])
def test_a_padding_is_folded_where_the_convolution_would_pad_the_same(kind, size: int, pads: tuple[int, int]) -> None:
    images = keras.Input((size, size, 3))
    convolution = kind(**({"filters": 4} if kind is keras.layers.Conv2D else {}), kernel_size=3, strides=2)
    network = keras.Model(images, convolution(keras.layers.ZeroPadding2D((pads, pads))(images)))
    pixels = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    folded = fold_norms(network)
    kept = any(isinstance(layer, keras.layers.ZeroPadding2D) for layer in folded.layers)
    assert kept == ((size, pads) not in [(8, (0, 1)), (9, (1, 1))])
    expected, found = (keras.ops.convert_to_numpy(net(pixels)) for net in (network, folded))
    assert np.array_equal(expected, found)
