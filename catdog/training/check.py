"""Checks made before training, so that what cannot be trained is refused before any image is decoded."""

import random
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from catdog.config.schema import BLOCKS, PACKAGE, Config, find_references
from catdog.system.errors import UserError
from catdog.system.own_objects import describe_failure
from catdog.training.augmentation import build_augmentation, takes_seed
from catdog.training.augmentation_blocks import AUGMENTATION_BLOCKS, build_block
from catdog.training.blocks import Block
from catdog.training.callbacks import build_callbacks
from catdog.training.losses import check_loss
from catdog.training.model import build_kept_model, build_layers, build_model
from catdog.training.optimizers import check_optimizer
from catdog.training.own_code import quote_error
from catdog.training.own_models import check_saving, require_logits
from catdog.training.precision import use_policy
from catdog.training.sizes import check_sizes

# Layers of Keras that are known to train, and to be saved and loaded: a backbone of these alone needs no trial.
USUAL_LAYERS = {
    "Activation", "AveragePooling2D", "BatchNormalization", "Conv2D", "DepthwiseConv2D", "Dropout", "LayerNormalization",
    "LeakyReLU", "MaxPooling2D", "ReLU", "SeparableConv2D", "SpatialDropout2D", *BLOCKS,
}  # fmt: skip
BATCH = 2
MIXING = "Mixing has keys of its own: augmentation.mix.mixup=0.2, augmentation.mix.cutmix=1."


class Checked:
    """What has been checked already, so that runs of a sweep that have it in common check it once."""

    def __init__(self) -> None:
        self._keys: set[str] = set()

    def is_new(self, *read: object) -> bool:
        """Returns whether these values, all that a check reads, have not been checked before, and remembers them."""
        key = repr(read)
        new = key not in self._keys
        self._keys.add(key)
        return new


def check_run(config: Config, classes: int, policy: str, checked: Checked | None = None) -> None:
    """Raises UserError unless the model can be built, trained and saved, and the augmentation turns images into images.

    Args:
        config: the run's config.
        classes: number of classes.
        policy: Keras dtype policy of the run.
        checked: what earlier runs of the sweep have checked, which is left out; None: nothing.
    """
    checked = Checked() if checked is None else checked
    size, speed = config.preprocessing.image_size, config.speed
    for name, layer in config.augmentation.layers.items():
        if checked.is_new("augmentation", name, layer, size, speed.fast_augmentation):
            check_augmentation(config, name)
    images = (size, config.preprocessing.pixel_range)
    how = (speed.relu_after_pooling, speed.fold_norms, speed.fast_dropout, policy)
    if checked.is_new("model", images, config.trainer.sizes, config.backbone, config.head, config.model, classes, how):
        check_model(config, classes, policy)
    if checked.is_new("optimizer", config.optimizer):
        check_optimizer(config.optimizer)
    if checked.is_new("loss", config.loss, classes, config.augmentation.mix.is_on):
        check_loss(config.loss, classes, mixed=config.augmentation.mix.is_on)
    if checked.is_new("callbacks", config.trainer.callbacks, config.trainer.ema):
        build_callbacks(config.trainer)


def check_model(config: Config, classes: int, policy: str) -> None:
    """Raises UserError unless the model can be built, trained and saved.

    Args:
        config: the run's config.
        classes: number of classes.
        policy: Keras dtype policy of the run.
    """
    own_backbone = not config.model.builder and bool(config.backbone.layers)
    unusual = [
        name for name, layer in config.backbone.layers.items() if not USUAL_LAYERS.issuperset(_list_kinds(layer))
    ]
    if own_backbone and unusual:
        with use_policy(policy):
            _try_layers(config)
    what = f"backbone={config.backbone.name}"
    with _explained("backbone", f"{config.backbone.application or what} cannot be built for {_size(config)}"):
        model = build_model(config, classes, policy)
        check_sizes(config, classes)
    _check_own_model(config, model, policy)
    keras_layers = [name for name in unusual if ":" not in config.backbone.layers[name]["layer"]]
    if own_backbone and keras_layers:
        named = config.backbone.layers[keras_layers[-1]]["layer"]
        check_saving(build_kept_model(config, model, policy), f"backbone.layers.{keras_layers[-1]}", named)


def check_own_code(config: Config, model: keras.Model, classes: int, policy: str) -> None:
    """Raises UserError unless optimizer, loss and callbacks can be built, and a custom model can be saved and loaded again.

    Args:
        config: the run's config.
        model: the model that `catdog.training.model.build_model` returned.
        classes: number of classes.
        policy: Keras dtype policy that the model was built with.
    """
    check_optimizer(config.optimizer)
    check_loss(config.loss, classes, mixed=config.augmentation.mix.is_on)
    build_callbacks(config.trainer)
    _check_own_model(config, model, policy)


def _check_own_model(config: Config, model: keras.Model, policy: str) -> None:
    own = {key: name for key, name in find_references(config).items() if key.startswith(("model.", "backbone."))}
    if own:
        key, reference = next(iter(own.items()))
        if config.model.builder:
            require_logits(model, reference)
        check_saving(build_kept_model(config, model, policy), key, reference)


def check_augmentation(config: Config, name: str) -> None:
    """Raises UserError unless a layer of the augmentation turns a batch of images into images, without their labels.

    Args:
        config: the run's config.
        name: the layer's name below `augmentation.layers`.
    """
    import tensorflow as tf

    key, settings = f"augmentation.layers.{name}", config.augmentation.layers[name]
    class_name, size = settings["layer"], config.preprocessing.image_size
    if class_name in AUGMENTATION_BLOCKS:
        # It takes and returns images of any size, and depends on nothing but its arguments.
        build_block(key, {"seed": config.seed, **settings})
        return
    with _explained(key, f"Keras cannot build {class_name}", class_name):
        # Where Keras has no such layer, this message also names the blocks.
        takes_seed(key, class_name)
        (layer,) = build_layers("augmentation.layers", {name: settings})
    if _changes_labels(layer):
        raise UserError(
            f"{key}: {class_name} mixes images and changes their labels, and layers get images alone. {MIXING}"
        )
    images = np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), dtype=np.uint8)
    with _explained(key, f"{class_name} cannot augment a batch of images of {_size(config)}", class_name):
        _require_images(key, class_name, layer(images.astype(np.float32), training=True), (BATCH, size, size, 3))
        _require_seeded(key, class_name, layer, images.astype(np.float32))
        if layer.trainable_weights:
            raise UserError(
                f"{key}: {class_name} has weights, and nothing trains them in the augmentation. A layer that learns belongs into "
                "backbone.layers."
            )
        alone = replace(config.augmentation, layers={name: settings})
        augment = build_augmentation(alone, config.seed, size, fast=config.speed.fast_augmentation)
        try:
            # As training does it: in TensorFlow's graph, where some layers cannot be built.
            stream = tf.data.Dataset.from_tensors((images, np.int64(0))).map(augment)
            _require_images(key, class_name, next(iter(stream)), (BATCH, size, size, 3))
        except Exception:
            if any(
                each.get_config()["seed"] is None for part in layer._flatten_layers() for each in part._seed_generators
            ):
                raise UserError(
                    f"{key}: {class_name} draws random numbers without a seed. A layer must take the argument `seed`, which catdog "
                    "sets unless the config gives another number, and draw with it."
                ) from None
            raise


def _changes_labels(layer: Any) -> bool:
    """Whether a layer for images, called with labels as well, changes the labels too, as MixUp does."""
    if not hasattr(layer, "transform_labels"):
        return False
    images = np.random.default_rng(0).uniform(0, 255, (8, 16, 16, 3)).astype(np.float32)
    labels = np.eye(8, dtype=np.float32)
    try:
        # A layer may leave a batch as it is by chance.
        for _ in range(4):
            changed = layer({"images": images, "labels": labels}, training=True)
            if not np.array_equal(np.asarray(changed["labels"]), labels):
                return True
    except Exception:
        # What is wrong shows when it is called with images alone.
        return False
    return False


def _require_seeded(key: str, class_name: str, layer: Any, images: Any) -> None:
    """Raises UserError if a layer of Keras draws from Python's own random numbers, as AugMix of Keras 3.15 does.

    TensorFlow runs such code once, when it builds the graph: the layer would do the same to every batch, and something else
    after an interruption.
    """
    former = random.getstate()
    layer(images, training=True)
    if random.getstate() != former and ":" not in class_name:
        raise UserError(
            f"{key}: {class_name} draws from Python's random numbers, and a training does that only once: it would change every "
            "batch in the same way. Use another layer, such as RandAugment."
        )


def _require_images(key: str, class_name: str, found: Any, shape: tuple[int, ...]) -> None:
    if not hasattr(found, "shape"):
        what = "None" if found is None else f"an object of type {type(found).__name__}"
        raise UserError(f"{key}: {class_name} returns {what} for a batch of images, but must return the images.")
    if tuple(found.shape) != shape:
        raise UserError(
            f"{key}: {class_name} must leave images at {_times(shape[1:])}, but makes them {_times(found.shape[1:])}. Leave "
            "sizes to preprocessing.image_size."
        )


def _try_layers(config: Config) -> None:
    """Raises UserError for the first of `backbone.layers` that cannot train on a batch, or whose output Keras foresees wrongly."""
    size = config.preprocessing.image_size
    low, high = config.preprocessing.pixel_range
    features: Any = np.random.default_rng(0).uniform(low, high, (BATCH, size, size, 3)).astype(np.float32)
    for name, settings in config.backbone.layers.items():
        key, class_name = f"backbone.layers.{name}", settings["layer"]
        with _explained(key, f"Keras cannot build {class_name}", class_name):
            (layer,) = build_layers("backbone.layers", {name: settings})
        # Both blocks can be called, but their parent does not say so.
        if isinstance(layer, Block):
            with _explained(key, f"{class_name} does not fit features of {_times(features.shape[1:])}"):
                start = keras.Input(features.shape[1:])
                layer = keras.Model(start, layer(start), name=name)  # type: ignore[operator]
        if _changes_labels(layer):
            raise UserError(
                f"{key}: {class_name} mixes images and changes their labels, and a backbone gets no labels. {MIXING}"
            )
        shape = tuple(features.shape)
        with _explained(key, f"{class_name} cannot be trained on features of {_times(shape[1:])}", class_name):
            foreseen = layer(keras.KerasTensor((None, *shape[1:]), dtype=layer.compute_dtype))
            found = {training: layer(features, training=training) for training in _modes(layer)}
            if True in found:
                _require_seeded(key, class_name, layer, features)
        for output in found.values():
            if not hasattr(output, "shape"):
                raise UserError(f"{key}: {class_name} returns {type(output).__name__}, but must return features.")
            if tuple(output.shape[1:]) != tuple(getattr(foreseen, "shape", (None,))[1:]):
                raise UserError(
                    f"{key}: {class_name} makes features of {_times(output.shape[1:])}, where Keras foresees "
                    f"{_times(getattr(foreseen, 'shape', (None,))[1:])}. Such a layer cannot be part of a model."
                )
        features = found[max(found)]
        if not keras.backend.is_float_dtype(features.dtype.name):
            raise UserError(
                f"{key}: {class_name} makes features of type {features.dtype.name}, but training needs real numbers: through whole "
                "numbers it has no gradient."
            )


def _list_kinds(settings: dict[str, Any]) -> Iterator[str]:
    """Yields the class of a layer, or of a block of `catdog.training.blocks` and the layers in it."""
    yield settings["layer"]
    for inner in settings.get("layers", {}).values() if settings["layer"] in BLOCKS else ():
        yield from _list_kinds(inner)


def _modes(layer: Any) -> tuple[bool, ...]:
    return (False, True) if layer._call_has_training_arg else (False,)


@contextmanager
def _explained(key: str, what: str, reference: str = "") -> Iterator[None]:
    """Turns an exception in the body into a UserError: of custom code with its lines, of Keras with Keras' own sentence.

    An exception that catdog itself raised stays what it is: a defect.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if ":" in reference:
            raise describe_failure(key, reference, "being tried on a batch", error) from error
        if Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(PACKAGE):
            raise
        raise UserError(f"{key}: {what}. Keras says: {quote_error(error)}.") from error


def _size(config: Config) -> str:
    return f"{config.preprocessing.image_size} x {config.preprocessing.image_size} pixels"


def _times(shape: Any) -> str:
    return " x ".join(map(str, shape))
