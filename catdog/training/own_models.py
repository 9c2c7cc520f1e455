"""Custom models: built by the user's functions, checked, and saved once before training, so that mistakes show early."""

import logging
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from catdog.config.schema import BackboneConfig, ModelConfig
from catdog.system.errors import UserError
from catdog.system.own_objects import describe_type, explain, load_object
from catdog.system.wording import plural
from catdog.tracking.custom_objects import empty_registry, find_custom_objects
from catdog.training.own_code import call, quote_error

log = logging.getLogger(__name__)

BACKBONE = (
    "It must be a function of the image shape (height, width, 3) and the options that returns a keras.Model: float images in "
    "preprocessing.pixel_range -> feature maps (height, width, channels)"
)
CLASSIFIER = (
    "It must be a function of the image shape (height, width, 3), the number of classes and the options that returns a "
    "keras.Model: float images in preprocessing.pixel_range -> one logit for each class"
)
# The largest difference between the probabilities of a model before and after saving and loading.
TOLERANCE = 1e-3


def build_own_backbone(config: BackboneConfig, shape: tuple[int, int, int]) -> Any:
    """Returns the model that `backbone.builder` builds: float images (B, H, W, 3) -> features (B, h, w, channels).

    Raises:
        UserError: the builder cannot be called, raises an exception, or returns something else.
    """
    reference = config.builder or ""
    function = load_object("backbone.builder", reference)
    arguments = {"image_shape": shape}
    model = call("backbone.builder", reference, function, arguments, config.options, "backbone.options")
    output = _require_graph("backbone.builder", reference, model, shape, BACKBONE)
    if len(output) != 4 or None in output[1:]:
        raise UserError(
            f"backbone.builder: {reference} returned a model whose output has shape {output}. {BACKBONE}; leave pooling and "
            "flattening to the head."
        )
    return model


def build_own_classifier(config: ModelConfig, shape: tuple[int, int, int], classes: int) -> Any:
    """Returns the model that `model.builder` builds: float images (B, H, W, 3) -> logits (B, classes).

    Raises:
        UserError: the builder cannot be called, raises an exception, or returns something else.
    """
    reference = config.builder or ""
    function = load_object("model.builder", reference)
    arguments = {"image_shape": shape, "classes": classes}
    model = call("model.builder", reference, function, arguments, config.options, "model.options")
    output = _require_graph("model.builder", reference, model, shape, CLASSIFIER)
    if output[1:] != (classes,):
        raise UserError(
            f"model.builder: {reference} returned a model whose output has shape {output}, for {classes} classes. {CLASSIFIER}."
        )
    return model


def _require_graph(
    key: str, reference: str, model: Any, shape: tuple[int, ...], contract: str
) -> tuple[int | None, ...]:
    """Returns the shape of a model's output; raises UserError unless the model has one input of this shape and one output."""
    if not isinstance(model, keras.Model):
        raise UserError(f"{key}: {reference} returned {describe_type(model)}. {contract}.")
    if not is_graph(model):
        raise UserError(
            f"{key}: {reference} returned a {type(model).__name__}, whose layers Keras does not know before it is called. Make a "
            "functional model of it: inputs = keras.Input(image_shape), and return keras.Model(inputs, model(inputs))."
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(
            f"{key}: {reference} returned a model with {plural(len(model.inputs), 'input')} and "
            f"{plural(len(model.outputs), 'output')}. {contract}."
        )
    if tuple(model.inputs[0].shape[1:]) not in (shape, (None, None, 3)):
        raise UserError(
            f"{key}: {reference} returned a model that takes images of shape {tuple(model.inputs[0].shape[1:])}, for images of "
            f"shape {shape}. Build it for the image shape that it is given."
        )
    if tuple(model.inputs[0].shape[1:]) == shape:
        return tuple(model.outputs[0].shape)
    return tuple(model.compute_output_shape((None, *shape)))


def is_graph(model: Any) -> bool:
    """Whether a model is a graph of layers that Keras knows, and not a subclass with Python code of its own."""
    try:
        return bool(model.inputs) and bool(model.outputs)
    except (AttributeError, ValueError):
        return False


def require_logits(model: Any, reference: str) -> None:
    """Raises UserError if a classifier returns probabilities: the loss would treat them as logits."""
    images = np.random.default_rng(0).uniform(0, 255, (8, *model.input_shape[1:])).astype(np.float32)
    answers = np.asarray(model(images, training=False), np.float32)
    if answers.min() >= 0 and np.abs(answers.sum(axis=1) - 1).max() < 1e-3:
        raise UserError(
            f"model.builder: {reference} answers probabilities (each image's sum to 1), but must answer logits. Leave out the "
            "softmax at the end: catdog adds it to the model that is saved."
        )


def check_saving(kept: Any, key: str, reference: str) -> None:
    """Raises UserError unless a model can be saved, and predicts the same after it is loaded again.

    Args:
        kept: the model that `catdog.training.model.build_kept_model` returned.
        key: the config key of the custom code in it.
        reference: that code as module:object, for messages.
    """
    size = kept.input_shape[1:3]
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    with explain(key, reference, "answering a batch of images"):
        expected = np.asarray(kept(images, training=False))
    advice = (
        "Keras' layer does not save all that it needs: leave it out."
        if ":" not in reference
        else (
            "A layer of your own needs get_config() with all arguments of its __init__, and its weights made by add_weight(); a "
            "Lambda layer cannot be loaded elsewhere: write a class."
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        try:
            custom = find_custom_objects(kept)
            kept.save(path)
            with empty_registry():
                loaded = keras.models.load_model(path, custom_objects=custom, compile=False)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
        except Exception as error:
            raise UserError(
                f"{key}: a model with {reference} cannot be saved and loaded again: {type(error).__name__}: "
                f"{quote_error(error)}. {advice}"
            ) from error
        answers = np.asarray(loaded(images, training=False))
    if not np.isfinite(expected).all():
        raise UserError(
            f"{key}: a model with {reference} answers {expected[0]} before training, which is not finite. Check how its weights "
            "are initialized."
        )
    if np.abs(answers - expected).max() > TOLERANCE:
        raise UserError(
            f"{key}: a model with {reference} gives other probabilities after it is saved and loaded again: {answers[0]} instead "
            f"of {expected[0]}. {advice}"
        )
