"""Builds the augmentation of training images from the config, with Keras layers or with faster OpenCV kernels."""

import contextlib
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from catdog.config.schema import AugmentationConfig
from catdog.system.clock import Clock
from catdog.system.errors import UserError
from catdog.system.own_objects import explain
from catdog.training.augmentation_blocks import AUGMENTATION_BLOCKS, RandomResizedCrop, build_block
from catdog.training.fast.opencv_augmentation import AugmentationBlock, Step, build_generator, build_kernel, has_kernel
from catdog.training.fast.pixel_operations import MAX_PIXEL, resize
from catdog.training.model import build_layers
from catdog.training.own_code import load_class

# More random draws than any layer makes for a batch.
DRAWS_PER_BATCH = 64


def build_augmentation(
    config: AugmentationConfig,
    seed: int,
    image_size: int,
    *,
    fast: bool = True,
    size_of: Callable[[int], int] | None = None,
    clock: Clock | None = None,
) -> Callable[[Any, Any], Any] | None:
    """Returns a function that augments a batch, or None where the config has no layers and all batches have one size.

    The function takes images, uint8 (B, H, W, 3) in [0, 255], and the number of the batch since training began, an int64 scalar
    from 0. It returns images in [0, 255]: uint8 where a fast kernel comes last, float32 where a Keras layer does. Augmentation
    comes before preprocessing, so the `value_range` of a layer that has one is [0, 255]. The random draws of a layer depend only
    on its seed and the batch number: a resumed run augments as if it had never stopped.

    Args:
        config: the layers, by name, in order.
        seed: the run's seed. The seed of each layer is derived from it, unless the config gives one.
        image_size: H = W in pixels.
        fast: use the kernels of `catdog.training.fast.opencv_augmentation` for the layers that have one; Keras does the others.
        size_of: returns the height and width in pixels that the images of a batch are to have, by its number. The images are
            resized before the first layer, or by it if it is a RandomResizedCrop: it cuts from the images as they are.
        clock: where the time of the kernels is counted.

    Raises:
        UserError: Keras does not have a layer, a layer does not take its arguments, or it changes the shape of images.
    """
    if not config.layers and size_of is None:
        return None

    layers = _build_layers(config, seed)
    for layer in layers:
        if isinstance(layer, AugmentationBlock):
            continue
        shape = _find_shape(layer, (None, image_size, image_size, 3))
        if shape[1:] != (image_size, image_size, 3):
            raise UserError(
                f"augmentation.layers.{layer.name}: {type(layer).__name__} must leave images at {image_size} x {image_size} x 3, "
                f"but makes them {' x '.join(map(str, shape[1:]))}. Leave sizes to preprocessing.image_size."
            )

    parts: list[Callable[[Any, Any], Any]] = []
    if size_of is not None:
        crop = layers.pop(0) if layers and isinstance(layers[0], RandomResizedCrop) else None
        parts.append(_wrap_kernel(_build_sizing(size_of, crop), clock, fixed_size=False))
    for is_fast, group in itertools.groupby(
        layers, lambda layer: isinstance(layer, AugmentationBlock) or (fast and has_kernel(layer))
    ):
        members = list(group)
        kernel = build_kernel(members) if is_fast else None
        parts.append(_wrap_kernel(kernel, clock) if kernel else _wrap_layers(members))

    def augment(images: Any, batch: Any) -> Any:
        for part in parts:
            images = part(images, batch)
        return images

    return augment


def _build_sizing(size_of: Callable[[int], int], crop: RandomResizedCrop | None) -> Step:
    """Returns a function that gives the images of a batch, uint8 (B, H, W, 3), the size that `size_of` says."""

    def resize_batch(images: np.ndarray, batch: int) -> np.ndarray:
        # One thread: the training step uses the others.
        cv2.setNumThreads(1)
        size = size_of(batch)
        if crop is not None:
            return crop.cut(images, build_generator(crop, batch), (size, size))
        if images.shape[1:3] == (size, size):
            return images
        return np.stack([resize(image, size, size) for image in images])

    return resize_batch


def _build_layers(config: AugmentationConfig, seed: int) -> list[Any]:
    """Returns the Keras layers and blocks of the config, in order, each with its seed if it takes one."""
    layers: list[Any] = []
    for number, (name, settings) in enumerate(config.layers.items()):
        key = f"augmentation.layers.{name}"
        if settings["layer"] in AUGMENTATION_BLOCKS:
            layers.append(build_block(key, {"seed": seed * 1000 + number, **settings}))
            continue
        if takes_seed(key, settings["layer"]):
            settings = {"seed": seed * 1000 + number, **settings}
        # Always float32: the stream runs on the host, and rotations computed with an 8-bit mantissa shift pixels.
        layers += build_layers("augmentation.layers", {name: settings}, dtype="float32")
    return layers


def takes_seed(key: str, class_name: str) -> bool:
    """Whether a layer is random: its class has the argument `seed`."""
    import keras

    layer_class = load_class(key, class_name, keras.layers, keras.layers.Layer, also=tuple(AUGMENTATION_BLOCKS))
    return "seed" in inspect.signature(layer_class).parameters


def _find_shape(layer: Any, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """Returns the shape of a layer's output for float32 images of this shape."""
    import keras

    if type(layer).__module__.startswith("keras."):
        return tuple(layer.compute_output_shape(shape))
    with explain(f"augmentation.layers.{layer.name}", type(layer).__name__, f"taking images of shape {shape}"):
        return tuple(layer(keras.KerasTensor(shape, dtype="float32"), training=True).shape)


def _wrap_kernel(kernel: Step, clock: Clock | None, *, fixed_size: bool = True) -> Callable[[Any, Any], Any]:
    import keras
    import tensorflow as tf

    def run(images: np.ndarray, batch: int) -> np.ndarray:
        with clock.threaded("augmentation") if clock else contextlib.nullcontext():
            return kernel(images, batch)

    def augment(images: Any, batch: Any) -> Any:
        if keras.backend.standardize_dtype(images.dtype) != "uint8":
            # A Keras layer comes before.
            images = keras.ops.cast(keras.ops.round(keras.ops.clip(images, 0, MAX_PIXEL)), "uint8")
        augmented = tf.numpy_function(run, [images, batch], tf.uint8)
        return tf.ensure_shape(augmented, images.shape if fixed_size else (None, None, None, 3))

    return augment


def _wrap_layers(layers: list[Any]) -> Callable[[Any, Any], Any]:
    import keras

    # Keras' saturation makes pixels below 0.
    leaving_range = (keras.layers.RandomSaturation, keras.layers.RandomColorJitter)
    generators = [
        (generator, generator.get_config()["seed"])
        for layer in layers
        for part in layer._flatten_layers()
        for generator in part._seed_generators
    ]

    def augment(images: Any, batch: Any) -> Any:
        images = keras.ops.cast(images, "float32")
        for generator, first in generators:
            # A generator's state is its seed and the number of its draws so far.
            counter = keras.ops.cast(batch * DRAWS_PER_BATCH, generator.state.dtype)
            generator.state.assign(keras.ops.stack([keras.ops.cast(first, generator.state.dtype), counter]))
        for layer in layers:
            images = layer(images, training=True)
            if type(layer) in leaving_range:
                images = keras.ops.clip(images, 0, MAX_PIXEL)
        return images

    return augment
