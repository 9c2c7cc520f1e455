"""Ingredients of training: averaged weights, mixing, a rate of the backbone's own, and training accuracy on clean images."""

import keras
import numpy as np
import pandas as pd
import pytest
from support import compose_config

from catdog.config.schema import MixConfig, complete_params, flatten, hash_config
from catdog.system.errors import UserError
from catdog.training.averaging import WeightAverage
from catdog.training.clean_sample import MOST_IMAGES, CleanSample
from catdog.training.loop import compile_model
from catdog.training.losses import check_loss
from catdog.training.mixing import build_mixing, cut_mix, mix_up
from catdog.training.model import build_model

ALL = (
    "trainer.ema=0.9", "trainer.freeze_epochs=1", "trainer.backbone_rate=0.5", "augmentation=flip_rotate",
    "augmentation.mix.mixup=0.2", "augmentation.mix.cutmix=1", "loss.label_smoothing=0.1", "head.units=0", "optimizer=adamw",
    "trainer.schedule=cosine", "trainer.epochs=3",
)  # fmt: skip


TRAINED_NORMS = ("model=drawn_mini", "backbone.weights=null", "backbone.trainable_layers=all")
FINE_TUNED = ("model=drawn_mini", "backbone.trainable_layers=7")
# Features of the frozen layers are kept where nothing changes the images.
KEPT_FEATURES = (*FINE_TUNED, "augmentation=none", "augmentation.mix.mixup=0", "augmentation.mix.cutmix=0")
CHANGES = {"all": (), "trained norms": TRAINED_NORMS, "fine-tuned": FINE_TUNED, "kept features": KEPT_FEATURES}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_with_all_ingredients_a_run_resumes_bit_for_bit(folder, change: tuple[str, ...]) -> None:
    def read(outcome) -> tuple[pd.DataFrame, bytes]:
        artifacts = folder.artifacts(outcome)
        history = pd.read_csv(artifacts / "history.csv").drop(columns=["epoch_seconds", "images_per_second"])
        return history, (artifacts / "predictions" / "val.csv").read_bytes()

    overrides = (*ALL, *change)
    history, answers = read(folder.train(*overrides))
    with pytest.raises(KeyboardInterrupt):
        folder.train(*overrides, store="other", stop_after=1)
    again, again_answers = read(folder.train(*overrides, store="other"))
    pd.testing.assert_frame_equal(history, again, check_exact=True)
    assert answers == again_answers


# Averaged weights.


def fit(model: keras.Model, *callbacks: keras.callbacks.Callback) -> None:
    values = np.linspace(-1, 1, 24, dtype=np.float32).reshape(12, 2)
    model.fit(values, values.sum(1), batch_size=4, epochs=2, verbose=0, callbacks=callbacks,
              validation_data=(values, values.sum(1)), shuffle=False)  # fmt: skip


def test_validation_sees_the_average_and_training_does_not() -> None:
    class Watch(keras.callbacks.Callback):
        """Notes the weights after each step, and those that validation uses."""

        steps: list[np.ndarray]
        validated: list[np.ndarray]

        def on_train_begin(self, logs=None) -> None:
            self.steps, self.validated = [self.model.layers[0].get_weights()[0]], []

        def on_train_batch_end(self, batch, logs=None) -> None:
            self.steps.append(self.model.layers[0].get_weights()[0])

        def on_test_batch_end(self, batch, logs=None) -> None:
            self.validated.append(self.model.layers[0].get_weights()[0])

    def build() -> keras.Model:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        return model

    averaged, plain, watch = build(), build(), Watch()
    fit(averaged, WeightAverage(0.5), watch)
    fit(plain)
    np.testing.assert_array_equal(averaged.get_weights()[0], plain.get_weights()[0])
    average = watch.steps[0]
    for step, weights in enumerate(watch.steps[1:], 1):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weights
    np.testing.assert_allclose(watch.validated[-1], average, rtol=1e-5)
    assert not np.allclose(average, watch.steps[-1])


def test_the_average_is_of_weights_and_statistics_but_not_of_random_states(folder) -> None:
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(3), keras.layers.BatchNormalization()]
    )
    average = WeightAverage(0.9)
    average.set_model(model)
    assert len(average._list_variables()) == 2 + 4


# Mixing.


def test_mixing_is_off_unless_asked_for() -> None:
    assert build_mixing(MixConfig(), 0, 2) is None


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_mixup_blends_as_keras_does(dtype) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(dtype)
    order, weights = np.array([3, 4, 5, 0, 1, 2]), np.linspace(0, 1, 6)
    mixed, shares = mix_up(images, images[order], weights, np.random.default_rng(0))
    transformation = {"mix_weight": weights.astype(np.float32), "permutation_order": order}
    expected = keras.layers.MixUp().transform_images(images.astype(np.float32), transformation)
    assert mixed.dtype == dtype
    np.testing.assert_allclose(mixed, expected, atol=0.51 if dtype == np.uint8 else 1e-3)
    np.testing.assert_array_equal(shares, weights)


def test_cutmix_replaces_a_rectangle_of_the_area_that_the_weight_leaves() -> None:
    images, partners = np.zeros((500, 40, 60, 3), np.uint8), np.full((500, 40, 60, 3), 9, np.uint8)
    weights = np.random.default_rng(1).beta(1, 1, 500)
    mixed, shares = cut_mix(images, partners, weights, np.random.default_rng(0))
    np.testing.assert_allclose((mixed == 0).mean(axis=(1, 2, 3)), shares)
    # Sides are rounded to whole pixels.
    assert np.abs(shares - weights).max() < 0.03
    for image in mixed[:20, :, :, 0] == 9:
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        assert image.sum() == len(rows) * len(columns)


@pytest.mark.parametrize("mix", [MixConfig(mixup=0.2), MixConfig(cutmix=1.0), MixConfig(mixup=0.4, cutmix=1.0)])
def test_labels_are_shares_of_two_classes_and_depend_on_seed_and_batch_alone(mix) -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 10, 10, 3)).astype(np.uint8)
    labels = np.arange(16, dtype=np.int32) % 3
    build = build_mixing(mix, 7, 3)
    first, targets = build(images, labels, 5)
    again, same = build_mixing(mix, 7, 3)(images, labels, 5)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(targets, same)
    assert not np.array_equal(build(images, labels, 6)[1], targets)
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    assert ((targets > 0).sum(1) <= 2).all()


def test_the_share_of_mixed_batches_is_as_asked() -> None:
    images, labels = np.zeros((8, 4, 4, 3), np.uint8), np.arange(8, dtype=np.int32) % 2
    mix = build_mixing(MixConfig(mixup=1.0, probability=0.25), 0, 2)
    mixed = [bool((mix(images, labels, batch)[1] % 1).any()) for batch in range(800)]
    assert 0.2 < np.mean(mixed) < 0.3


def test_a_loss_that_wants_class_numbers_is_refused_with_mixing(folder) -> None:
    config = compose_config("loss.function=my_losses:margin").loss
    check_loss(config, 3)
    with pytest.raises(UserError, match=r"loss.function: my_losses:margin .*float32 \(B, classes\)"):
        check_loss(config, 3, mixed=True)


# The backbone's own rate.


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_the_backbone_learns_at_its_own_rate(policy: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)

    def move(*overrides: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns what two steps change: a kernel of the backbone by the first and by the second step, one of the head."""
        config = compose_config("preprocessing.image_size=32", "optimizer=sgd", "optimizer.weight_decay=0.1",
                                "speed.fast_dropout=false", *overrides)  # fmt: skip
        keras.utils.set_random_seed(0)
        model = build_model(config, 3, policy)
        compile_model(model, config, policy, steps=1)
        states = [model.get_weights()]
        for _ in range(2):
            model.train_on_batch(images, np.arange(6) % 3)
            states.append(model.get_weights())
        return states[1][0] - states[0][0], states[2][0] - states[1][0], states[1][-2] - states[0][-2]

    plain, halved, frozen = move(), move("trainer.backbone_rate=0.5"), move("trainer.freeze_epochs=1")
    # float16 itself rounds the weights of the forward pass, but the first step starts from the same ones.
    np.testing.assert_allclose(halved[0], plain[0] / 2, rtol=1e-3, atol=1e-7)
    assert not frozen[0].any()
    assert frozen[1].any()
    for moved in (halved, frozen):
        np.testing.assert_allclose(moved[2], plain[2], rtol=1e-5)


# Accuracy on clean images.


def test_the_clean_sample_is_the_same_images_every_time() -> None:
    class Rows:
        shape, dtype = (1,), "uint8"

        def __len__(self) -> int:
            return 1300

        def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return indices[:, np.newaxis], indices.astype(np.int32)

    sample = CleanSample(Rows())
    assert len(sample) == MOST_IMAGES
    images, _ = sample.gather(np.arange(len(sample)))
    assert images[0] == 0
    assert images[-1] == 1299
    assert len(np.unique(images)) == MOST_IMAGES


# The config.


def test_ingredients_that_are_off_leave_a_run_what_it_was() -> None:
    config = compose_config("model=augmented")
    off = compose_config(
        "model=augmented", "trainer.ema=null", "augmentation.mix.mixup=0", "augmentation.mix.probability=0.5"
    )
    assert hash_config(config, with_seed=True) == hash_config(off, with_seed=True)
    # Of a run before the keys existed.
    assert hash_config(config, with_seed=True) == "07dd36aa35c1c14d7b8c44ae2ac62fe8baab9f9a72089038b69a8a3a5b0487ce"
    for key in ("trainer.ema=0.9", "trainer.backbone_rate=0.1", "trainer.freeze_epochs=1", "augmentation.mix.mixup=0.2",
                "trainer.train_accuracy=clean"):  # fmt: skip
        assert hash_config(compose_config("model=augmented", key), with_seed=True) != hash_config(
            config, with_seed=True
        )
    params = {key: str(value) for key, value in flatten(config).items()}
    old = {key: value for key, value in params.items() if "mix." not in key and key != "trainer.ema"}
    assert complete_params(old) == params


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.ema=1", "trainer.ema: must be more than 0 and less than 1, or null, received 1.0"),
        ("trainer.backbone_rate=-1", "trainer.backbone_rate: must be 0 or more, received -1.0"),
        ("trainer.freeze_epochs=20", "trainer.freeze_epochs: must be 0 or more and less than trainer.epochs, received 20"),
        ("model=mobilenet trainer.freeze_epochs=2", "trainer.freeze_epochs: must be left out where no backbone trains"),
        ("augmentation.mix.mixup=-1", "augmentation.mix.mixup: must be 0 (off) or more, received -1.0"),
        ("augmentation.mix.probability=0", "augmentation.mix.probability: must be more than 0, up to 1, received 0.0"),
        ("augmentation.mix.cutmix=1 trainer.class_weights=balanced", "trainer.class_weights: must be none where augmentation.mix"),
        ("augmentation.mix.cutmix=1 trainer.train_accuracy=seen", "trainer.train_accuracy: must be auto or clean where"),
        ("trainer.train_accuracy=all", "trainer.train_accuracy: must be one of auto, seen, clean, received 'all'"),
        ("head.units=-1", "head.units: must be 0 (no dense layer) or more, received -1"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(override: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        compose_config(*override.split())
    assert said in str(error.value)
