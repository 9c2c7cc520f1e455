"""Ingredients of training: averaged weights, mixing, a rate of the backbone's own, and training accuracy on clean images."""

import contextlib

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from support import compose_config

from catdog.config.digest import complete_params, flatten, hash_config
from catdog.config.schema import MixConfig
from catdog.system.errors import UserError
from catdog.tracking.artifacts import load_predictions
from catdog.tracking.custom_objects import find_needs
from catdog.tracking.records import StoredRun
from catdog.training.augmentation import build_augmentation
from catdog.training.averaging import WeightAverage
from catdog.training.check import check_run
from catdog.training.clean_sample import MOST_IMAGES, CleanSample
from catdog.training.loop import compile_model
from catdog.training.losses import check_loss
from catdog.training.mixing import build_mixing, cut_mix, mix_up
from catdog.training.model import build_kept_model, build_model
from catdog.training.own_models import check_saving
from catdog.training.sizes import build_size_of, check_sizes
from catdog.training.views import list_views

ALL = (
    "trainer.ema=0.9", "trainer.average_flips=true", "trainer.freeze_epochs=1", "trainer.backbone_rate=0.5",
    "augmentation=trivial", "+augmentation.layers.dropout={layer: GaussianDropout, rate: 0.1}",
    "+augmentation.layers.erase={layer: RandomErasing}", "augmentation.mix.mixup=0.2", "augmentation.mix.cutmix=1",
    "loss.label_smoothing=0.1", "head.units=0", "optimizer=adamw", "trainer.schedule=cosine", "trainer.epochs=3",
    "trainer.sizes={0: 24, 0.5: 48}", "trainer.validate_every=2", "head.pooling=global_average",
)  # fmt: skip


TRAINED_NORMS = ("model=drawn_mini", "backbone.weights=null", "backbone.trainable_layers=all")
FINE_TUNED = ("model=drawn_mini", "backbone.trainable_layers=7")
# Features of the frozen layers are kept where nothing changes the images.
KEPT_FEATURES = (*FINE_TUNED, "augmentation=none", "augmentation.mix.mixup=0", "augmentation.mix.cutmix=0")
CHANGES = {"trained norms": TRAINED_NORMS, "fine-tuned": FINE_TUNED, "kept features": KEPT_FEATURES}


@pytest.mark.parametrize(
    "change",
    [pytest.param(change, id=name, marks=[pytest.mark.nightly] * (name != "fine-tuned")) for name, change in CHANGES.items()],
)  # fmt: skip
def test_with_all_ingredients_a_run_resumes_bit_for_bit(folder, change: tuple[str, ...]) -> None:
    def read(outcome) -> tuple[pd.DataFrame, list[bytes]]:
        artifacts = folder.artifacts(outcome)
        history = pd.read_csv(artifacts / "history.csv").drop(columns=["epoch_seconds", "images_per_second"])
        stored = ["val.csv", "val_epochs.npz"]
        return history, [(artifacts / "predictions" / name).read_bytes() for name in stored]

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


# Answers averaged over mirror images.


def test_the_saved_model_averages_over_mirror_images_and_training_does_not_change(folder) -> None:
    # Its backbone is frozen, and the features of images that do not change are kept.
    plain, both = (
        folder.train("model=drawn_mini", "augmentation=none", f"trainer.average_flips={value}")
        for value in ("false", "true")
    )
    histories = [
        pd.read_csv(folder.artifacts(outcome) / "history.csv").drop(columns=["epoch_seconds", "images_per_second"])
        for outcome in (plain, both)
    ]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    runs = [mlflow.get_run(outcome.run_id) for outcome in (plain, both)]
    one, two = (folder.load_model(run.data.tags["catdog.model_uri"]) for run in runs)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 3), dtype=np.uint8)
    mean = (one.predict_on_batch(pixels) + one.predict_on_batch(pixels[:, :, ::-1])) / 2
    np.testing.assert_allclose(two.predict_on_batch(pixels), mean, atol=1e-6)
    assert not np.allclose(two.predict_on_batch(pixels), one.predict_on_batch(pixels), atol=1e-4)
    # What is stored of the kept model is of the model that is saved.
    answers = load_predictions(runs[1].info.artifact_uri)
    metrics = runs[1].data.metrics
    assert metrics["kept_val_accuracy"] == answers.accuracy
    assert StoredRun(runs[1], "").kept_score == (answers.accuracy, pytest.approx(answers.mean_loss))
    assert "kept_val_accuracy" not in runs[0].data.metrics
    assert metrics["model_ms_per_image"] > 0
    assert metrics["model_ms_per_image_without_flip"] > 0


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_model_with_mirror_images_can_be_saved_in_every_precision(policy, folder) -> None:
    config = compose_config("preprocessing.image_size=32", "trainer.average_flips=true")
    kept = build_kept_model(config, build_model(config, 3, policy), policy)
    check_saving(kept, "trainer.average_flips", "averaging")
    assert [view.mirrored for view in list_views(kept)] == [False, True]
    assert not find_needs(kept)


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


# Sizes, and epochs without a validation.


SIZED = ("head.pooling=global_average", "preprocessing.image_size=32", "trainer.epochs=4")


def augment_batch(config, images: np.ndarray, batch: int) -> np.ndarray:
    augment = build_augmentation(config.augmentation, 0, 32, size_of=build_size_of(config, steps=2))
    stream = tf.data.Dataset.from_tensors((images, np.int64(batch))).map(augment)
    return next(iter(stream)).numpy()


def test_each_epoch_has_images_of_its_size() -> None:
    sizes = (
        "head.pooling=global_average",
        "preprocessing.image_size=32",
        "trainer.epochs=4",
        "trainer.sizes={0: 16, 0.5: 24, 0.75: 1}",
    )
    config = compose_config(*sizes)
    assert [config.trainer.find_size(epoch, 32) for epoch in (1, 2, 3, 4)] == [16, 16, 24, 32]
    checks = np.indices((32, 32)).sum(0) % 2 * np.full((2, 1, 1), 254)
    images = np.repeat(checks[..., np.newaxis], 3, axis=3).astype(np.uint8)
    assert [augment_batch(config, images, batch).shape for batch in (3, 4, 6)] == [
        (2, 16, 16, 3),
        (2, 24, 24, 3),
        (2, 32, 32, 3),
    ]
    # Each pixel is the mean of four, not one of them.
    assert (augment_batch(config, images, 0) == 127).all()
    assert (augment_batch(config, images, 6) == images).all()
    # Layers come after the change of size.
    flipped = compose_config(*sizes, "augmentation=flip_rotate")
    assert augment_batch(flipped, images, 0).shape == (2, 16, 16, 3)


def test_a_crop_is_cut_from_the_images_as_they_are() -> None:
    crop = "{layer: RandomResizedCrop, scale: [0.25, 0.25], ratio: [1, 1]}"
    config = compose_config(*SIZED, "trainer.sizes={0: 16}", f"+augmentation.layers.crop={crop}")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    cut = augment_batch(config, images, 0)
    # A quarter of 32 x 32 is 16 x 16: each crop lies in its image, pixel by pixel.
    for image, part in zip(images, cut, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(image, (16, 16), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
        assert (windows == part).all(axis=(2, 3, 4)).any()


@pytest.mark.parametrize(
    ("size", "said"),
    [(24, ""), (12, "backbone=conv3 does not take images of 12 x 12 pixels. backbone.layers.conv3: Conv2D does not fit")],
)  # fmt: skip
def test_a_size_that_the_layers_do_not_take_is_refused(size: int, said: str) -> None:
    config = compose_config(
        "head.pooling=global_average", "preprocessing.image_size=32", f"trainer.sizes={{0: {size}}}"
    )
    with pytest.raises(UserError) if said else contextlib.nullcontext() as error:
        check_run(config, 2, "float32")
    assert not said or f"trainer.sizes: {said}" in str(error.value)


def test_a_model_that_depends_on_the_size_is_refused() -> None:
    # MobileNetV2 pads images of odd sizes in another way.
    config = compose_config(
        "model=mobilenet", "head.pooling=global_average", "preprocessing.image_size=64", "backbone.weights=null",
        "backbone.trainable_layers=all", "trainer.sizes={0: 32, 0.1: 47}",
    )  # fmt: skip
    with pytest.raises(
        UserError, match=r"trainer.sizes: backbone=mobilenet_v2, built for .* is another model for 47 x 47"
    ):
        check_sizes(config, 2)


def test_epochs_without_a_validation_leave_gaps(folder) -> None:
    outcome = folder.train(
        "trainer.epochs=5", "trainer.validate_every=2", "trainer.patience=2", "trainer.learning_rate=1e-12"
    )
    history = pd.read_csv(folder.artifacts(outcome) / "history.csv", index_col="epoch")
    # Without patience it would be five epochs; patience counts only where there is a validation.
    assert history["val/accuracy"].notna().to_dict() == {1: False, 2: True, 3: False, 4: True}
    assert history["train/accuracy"].notna().all()
    assert outcome.best_epoch in (2, 4)


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
                "trainer.train_accuracy=clean", "trainer.validate_every=2", "trainer.average_flips=true"):  # fmt: skip
        assert hash_config(compose_config("model=augmented", key), with_seed=True) != hash_config(
            config, with_seed=True
        )
    pooled = compose_config("model=augmented", "head.pooling=global_average", "trainer.sizes={0: 32}")
    assert hash_config(pooled, with_seed=True) != hash_config(
        compose_config("model=augmented", "head.pooling=global_average"), with_seed=True
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
        ("trainer.sizes=96", "trainer.sizes: must be null, or {SHARE: SIZE}"),
        ("trainer.sizes={0.5:96}", "trainer.sizes: must be a mapping that begins with the share 0, received {0.5: 96}"),
        ("trainer.sizes={0:96,1:128}", "trainer.sizes: must be null, or {SHARE: SIZE} with shares of the epochs from 0 to below 1"),
        ("trainer.sizes={0:96.5}", "trainer.sizes: must be null, or {SHARE: SIZE}"),
        ("trainer.sizes={0:96}", "trainer.sizes: must be null where head.pooling is max"),
        ("trainer.sizes={0:192} head.pooling=global_average", "trainer.sizes: must be at most preprocessing.image_size=160"),
        ("trainer.validate_every=0", "trainer.validate_every: must be 1 or more, received 0"),
        ("trainer.validate_every=2 trainer.callbacks=[EarlyStopping]", "trainer.validate_every: must be 1 where trainer.callbacks"),
        ("trainer.train_accuracy=all", "trainer.train_accuracy: must be one of auto, seen, clean, received 'all'"),
        ("head.units=-1", "head.units: must be 0 (no dense layer) or more, received -1"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(override: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        compose_config(*override.split())
    assert said in str(error.value)
