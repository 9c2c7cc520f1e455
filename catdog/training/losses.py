"""The loss that the config describes: cross-entropy, focal loss, or a custom one."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from catdog.config.schema import LossConfig
from catdog.system.errors import UserError
from catdog.system.own_objects import describe_type, explain, load_object
from catdog.training.own_code import call

KEY = "loss.function"
CONTRACT = (
    "It must be a function of labels, int32 (B,), and logits, float32 (B, classes), that returns the loss of each image, "
    "float32 (B,); or a keras.losses.Loss"
)

MIXED = (
    "With augmentation.mix the labels are the share of each class, float32 (B, classes), instead of int32 (B,): the loss must take "
    "these, or turn mixing off: augmentation.mix.mixup=0 augmentation.mix.cutmix=0"
)


def build_loss(config: LossConfig, *, mixed: bool = False) -> keras.losses.Loss:
    """Returns the loss of labels, int (B,), and logits, float32 (B, classes).

    Args:
        config: the config's section `loss`.
        mixed: whether the labels are shares of each class, float32 (B, classes), because images are mixed.

    Raises:
        UserError: a custom loss cannot be loaded, or is not a loss.
    """
    smoothing = config.label_smoothing
    if config.function == "cross_entropy":
        if mixed:
            return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
        if not smoothing:
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return ImageLoss(_on_one_hot(keras.losses.categorical_crossentropy, label_smoothing=smoothing), "cross_entropy")
    if config.function == "focal":
        given = {"gamma": config.gamma, "alpha": config.alpha}
        options = {name: value for name, value in given.items() if value is not None}
        if mixed:
            return keras.losses.CategoricalFocalCrossentropy(from_logits=True, label_smoothing=smoothing, **options)
        function = _on_one_hot(keras.losses.categorical_focal_crossentropy, label_smoothing=smoothing, **options)
        return ImageLoss(function, "focal")
    return _build_own(config, mixed)


def measures_cross_entropy(config: LossConfig) -> bool:
    """Whether the validation loss is the cross-entropy; if not, the cross-entropy is measured as well."""
    return not config.settings


def _build_own(config: LossConfig, mixed: bool) -> keras.losses.Loss:
    found = load_object(KEY, config.function)
    if inspect.isclass(found) and issubclass(found, keras.losses.Loss):
        found = call(KEY, config.function, found, {}, config.options, "loss.options")
    elif isinstance(found, keras.losses.Loss):
        if config.options:
            raise UserError(
                f"loss.options: {config.function} is a loss object, which takes no options. Name its class in {KEY} instead."
            )
    elif inspect.isclass(found) or not callable(found):
        raise UserError(f"{KEY}: {config.function} is {describe_type(found)}. {CONTRACT}.")
    else:
        name = getattr(found, "__name__", "own")
        return ImageLoss(functools.partial(found, **config.options), name, "float32" if mixed else "int32")
    if found.reduction not in ("sum_over_batch_size", "mean"):
        raise UserError(
            f"{KEY}: the reduction of {config.function} must be sum_over_batch_size, received {found.reduction}."
        )
    return found


class ImageLoss(keras.losses.Loss):
    """The mean over a batch of a function of labels, int32 (B,) or float32 (B, classes), and logits, float32 (B, classes).

    Keras' own wrapper would pass all labels to the function as float32.
    """

    def __init__(self, function: Callable[[Any, Any], Any], name: str, labels: str = "int32") -> None:
        super().__init__(name=name)
        self.function = function
        self.labels = labels

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each image: float32 (B,)."""
        return self.function(keras.ops.cast(y_true, self.labels), y_pred)


def _on_one_hot(function: Callable[..., Any], **options: Any) -> Callable[[Any, Any], Any]:
    def compute(labels: Any, logits: Any) -> Any:
        targets = keras.ops.one_hot(labels, logits.shape[-1])
        return function(targets, logits, from_logits=True, **options)

    return compute


def check_loss(config: LossConfig, classes: int, *, mixed: bool = False) -> None:
    """Raises UserError unless a custom loss returns a finite number for each image, and has a gradient.

    The loss is traced as in training, so that code which works only on arrays, such as NumPy functions, fails here.

    Args:
        config: the config's section `loss`.
        classes: number of classes.
        mixed: whether the labels are shares of each class, float32 (B, classes), because images are mixed.
    """
    import tensorflow as tf

    loss = build_loss(config, mixed=mixed)
    if ":" not in config.function:
        return
    # Not as many images as classes, so that the two cannot be mistaken for each other.
    count = classes + 1
    labels = tf.constant(np.arange(count) % classes, tf.int32)
    if mixed:
        labels = tf.one_hot(labels, classes)
    logits = tf.constant(np.random.default_rng(0).normal(size=(count, classes)), tf.float32)

    def compute(labels: Any, logits: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = loss.call(tf.cast(labels, tf.float32), logits)
            _require_shape(config, losses, count, mixed)
            total = loss(labels, logits)
        gradient = tape.gradient(total, logits)
        return losses, gradient

    labels_in_words = " of mixed images (augmentation.mix makes labels float32 (B, classes))" if mixed else ""
    with explain(KEY, config.function, f"computing the loss of a small batch{labels_in_words}"):
        losses, gradient = tf.function(compute, autograph=False)(labels, logits)
    if gradient is None:
        raise UserError(
            f"{KEY}: {config.function} has no gradient with respect to the logits, so the model could not learn. Use "
            "TensorFlow or Keras operations that have one."
        )
    for name, values in (("loss", losses), ("gradient", gradient)):
        found = keras.ops.convert_to_numpy(values)
        if not np.isfinite(found).all():
            raise UserError(
                f"{KEY}: {config.function} gives a {name} that is not finite for random logits: {found.ravel()[:4]}. Check "
                "its logarithms, divisions and square roots."
            )


def _require_shape(config: LossConfig, losses: Any, count: int, mixed: bool) -> None:
    shape = getattr(losses, "shape", None)
    if shape is None:
        raise UserError(f"{KEY}: {config.function} returned {describe_type(losses)}. {CONTRACT}.")
    if tuple(shape) != (count,) and mixed:
        raise UserError(f"{KEY}: {config.function} returned shape {tuple(shape)} for {count} mixed images. {MIXED}.")
    if tuple(shape) != (count,):
        raise UserError(
            f"{KEY}: {config.function} returned shape {tuple(shape)} for {count} images. {CONTRACT}: one number an image, not "
            "their mean."
        )
