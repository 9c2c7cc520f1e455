"""Builds the augmentation of training images from the config, with Keras layers or with faster OpenCV kernels."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from catdog.config.schema import AugmentationConfig
from catdog.system.clock import Clock
from catdog.system.errors import UserError
from catdog.training.fast.opencv_augmentation import Step, build_kernel
from catdog.training.model import build_layers
from catdog.training.own_code import explain, load_class

# More random draws than any layer makes for a batch.
DRAWS_PER_BATCH = 64


def build_augmentation(
    config: AugmentationConfig,
    seed: int,
    image_size: int,
    *,
    fast: bool = True,
    fixed_size: bool = True,
    clock: Clock | None = None,
) -> Callable[[Any, Any], Any] | None:
    """Returns a function that augments a batch, or None where the config has no layers.

    The function takes images, uint8 (B, H, W, 3) in [0, 255], and the number of the batch since training began, an int64 scalar
    from 0. It returns images in [0, 255]: uint8 from the fast kernels, float32 from Keras layers. Augmentation comes before
    preprocessing, so the `value_range` of a layer that has one is [0, 255]. The random draws depend only on the seed and the
    batch number: a resumed run augments as if it had never stopped.

    Args:
        config: the layers, by name, in order.
        seed: the run's seed. The seed of each layer is derived from it, unless the config gives one.
        image_size: H = W in pixels.
        fast: use the kernels of `catdog.training.fast.opencv_augmentation` if they cover every layer.
        fixed_size: whether all batches have images of that size; otherwise it is the largest.
        clock: where the time of the kernels is counted.

    Raises:
        UserError: Keras does not have a layer, a layer does not take its arguments, or it changes the shape of images.
    """
    if not config.layers:
        return None

    settings = {
        name: {"seed": seed * 1000 + number, **layer} if _takes_seed(name, layer["layer"]) else layer
        for number, (name, layer) in enumerate(config.layers.items())
    }
    # Always float32: the stream runs on the host, and rotations computed with an 8-bit mantissa shift pixels.
    layers = build_layers("augmentation.layers", settings, dtype="float32")

    for layer in layers:
        shape = _find_shape(layer, (None, image_size, image_size, 3))
        if shape[1:] != (image_size, image_size, 3):
            raise UserError(
                f"augmentation.layers.{layer.name}: {type(layer).__name__} must leave images at {image_size} x {image_size} x 3, "
                f"but makes them {' x '.join(map(str, shape[1:]))}. Leave sizes to preprocessing.image_size."
            )

    kernel = build_kernel(layers) if fast else None
    return _wrap_kernel(kernel, image_size if fixed_size else None, clock) if kernel else _wrap_layers(layers)


def _takes_seed(name: str, class_name: str) -> bool:
    """Whether a layer is random: Keras' layers are recognized by their name, custom ones by their argument `seed`."""
    if ":" not in class_name:
        return class_name.startswith("Random")
    import keras

    layer_class = load_class(f"augmentation.layers.{name}", class_name, keras.layers, keras.layers.Layer)
    return "seed" in inspect.signature(layer_class).parameters


def _find_shape(layer: Any, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """Returns the shape of a layer's output for float32 images of this shape."""
    import keras

    if type(layer).__module__.startswith("keras."):
        return tuple(layer.compute_output_shape(shape))
    with explain(f"augmentation.layers.{layer.name}", type(layer).__name__, f"taking images of shape {shape}"):
        return tuple(layer(keras.KerasTensor(shape, dtype="float32"), training=True).shape)


def _wrap_kernel(kernel: Step, image_size: int | None, clock: Clock | None) -> Callable[[Any, Any], Any]:
    import tensorflow as tf

    def run(images: np.ndarray, batch: int) -> np.ndarray:
        with clock.threaded("augmentation") if clock else contextlib.nullcontext():
            return kernel(images, batch)

    def augment(images: Any, batch: Any) -> Any:
        augmented = tf.numpy_function(run, [images, batch], tf.uint8)
        return tf.ensure_shape(augmented, (None, image_size, image_size, 3))

    return augment


def _wrap_layers(layers: list[Any]) -> Callable[[Any, Any], Any]:
    import keras

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
        return images

    return augment
