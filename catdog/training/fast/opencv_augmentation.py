"""Fast kernels: the image transforms of Keras' random layers, on 8-bit pixels, with OpenCV's SIMD code."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np

from catdog.training.fast import colours, filters
from catdog.training.fast.colours import Operation
from catdog.training.fast.pixel_operations import MAX_PIXEL
from catdog.training.fast.warps import can_warp, warp

# One step for a batch: (images uint8 (B, H, W, 3), number of the batch) -> images of the same shape and type.
Step = Callable[[np.ndarray, int], np.ndarray]

# Keras' layers that have a kernel, beside the flip and those of `can_warp`.
BUILDERS: dict[str, Callable[[Any], Operation | None]] = {
    "AutoContrast": colours.build_auto_contrast,
    "Equalization": colours.build_equalization,
    "RandomBrightness": colours.build_brightness,
    "RandomColorDegeneration": colours.build_degeneration,
    "RandomContrast": colours.build_contrast,
    "RandomErasing": filters.build_erasing,
    "RandomGaussianBlur": filters.build_blur,
    "RandomGrayscale": colours.build_grayscale,
    "RandomHue": colours.build_hue,
    "RandomInvert": colours.build_invert,
    "RandomPosterization": colours.build_posterization,
    "RandomSaturation": colours.build_saturation,
    "RandomSharpness": filters.build_sharpness,
    "Solarization": colours.build_solarization,
}
# Layers without random numbers.
FIXED = ("AutoContrast", "Equalization")


class AugmentationBlock:
    """A part of the augmentation that is no layer of Keras: always an operation on 8-bit pixels.

    Args:
        key: its config key, for messages.
        seed: of its random numbers.
    """

    def __init__(self, key: str, seed: int) -> None:
        self.key, self.seed = key, seed

    def operate(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Returns augmented images, uint8 (B, H, W, 3), of such images."""
        raise NotImplementedError


def has_kernel(layer: Any) -> bool:
    """Whether `build_kernel` can do what this built Keras layer does."""
    return build_kernel([layer]) is not None


def build_kernel(layers: Sequence[Any]) -> Step | None:
    """Returns a function that augments a batch as these Keras layers would, or None if there is no kernel for one of them.

    Ranges, interpolation, fill mode and order are those of the layers. The random numbers are not those that Keras would draw, and
    pixels are rounded to 8 bits after each step. Flips and the transform after them are combined into one step; this is exact,
    because a flip only moves pixels.

    The function takes images, uint8 (B, H, W, 3), and the number of the batch since training began, and returns images of the same
    shape and type. H and W may differ from batch to batch. Its random numbers depend only on the layers' seeds and the
    batch number.

    Measured on 2 cores, flip and rotation of 32 images of 160 x 160: 0.13 of the CPU time of Keras' layers (benchmarks/README.md).

    Args:
        layers: built Keras layers, each with a seed, and catdog's blocks (`catdog.training.augmentation_blocks`).
    """
    import keras

    steps: list[Step] = []
    flips: list[Any] = []
    for layer in layers:
        is_random = type(layer).__name__ not in FIXED
        if is_random and getattr(layer, "seed", None) is None:
            return None
        if type(layer) is keras.layers.RandomFlip and layer.data_format == "channels_last":
            flips.append(layer)
            continue
        if layer_warps := can_warp(layer) and layer.data_format == "channels_last":
            flips.append(layer)
        if flips:
            steps.append(partial(_warp, flips))
            flips = []
        if not layer_warps:
            operation = find_operation(layer)
            if operation is None:
                return None
            steps.append(partial(_operate, operation, layer if is_random else None))
    steps += [partial(_warp, flips)] if flips else []

    def augment(images: np.ndarray, batch: int) -> np.ndarray:
        # One thread: the training step uses the others.
        cv2.setNumThreads(1)
        for step in steps:
            images = step(images, batch)
        return images

    return augment


def build_generator(layer: Any, batch: int) -> np.random.Generator:
    """Returns the generator of a layer's random numbers for a batch, from the layer's seed and the batch's number alone."""
    return np.random.default_rng([abs(int(layer.seed)) if layer is not None else 0, int(batch)])


def _warp(layers: Sequence[Any], images: np.ndarray, batch: int) -> np.ndarray:
    return warp(images, layers, [build_generator(layer, batch) for layer in layers])


def _operate(operation: Operation, layer: Any, images: np.ndarray, batch: int) -> np.ndarray:
    return operation(images, build_generator(layer, batch))


def find_operation(layer: Any) -> Operation | None:
    """Returns what a Keras layer or a block of catdog does, on 8-bit pixels; None if there is no kernel.

    The operation takes images uint8 (B, H, W, 3) and the generator of its random numbers, and returns images of the same shape and
    type.
    """
    import keras

    if isinstance(layer, AugmentationBlock):
        return layer.operate
    name = type(layer).__name__
    if type(layer) is not getattr(keras.layers, name, None):
        return None
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return None
    if can_warp(layer):
        return lambda images, generator: warp(images, [layer], [generator])
    if name == "RandomColorJitter":
        return _build_jitter(layer)
    if name == "RandAugment":
        return _build_rand_augment(layer)
    if name not in BUILDERS or list(getattr(layer, "value_range", (0, MAX_PIXEL))) != [0, MAX_PIXEL]:
        return None
    return BUILDERS[name](layer)


def _build_jitter(layer: Any) -> Operation | None:
    """Returns RandomColorJitter: brightness, contrast, saturation and hue, as far as they are on, in this order."""
    parts = [layer.random_brightness, layer.random_contrast, layer.random_saturation, layer.random_hue]
    operations = [find_operation(part) for part in parts if part is not None]
    known = [operation for operation in operations if operation]
    if len(known) < len(operations):
        return None

    def change(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        for operation in known:
            images = operation(images, generator)
        return images

    return change


def _build_rand_augment(layer: Any) -> Operation | None:
    """Returns RandAugment: `num_ops` of eleven operations, one after the other.

    As in Keras, all images of a batch get the same operations, each image with its own strength. An operation that is drawn twice
    has the same strengths both times.
    """
    operations = [find_operation(getattr(layer, name)) for name in layer._AUGMENT_LAYERS]
    known = [operation for operation in operations if operation]
    if len(known) < len(operations):
        return None

    def change(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        chosen = generator.integers(len(known), size=layer.num_ops)
        seeds = generator.integers(2**32, size=len(known))
        for index in chosen:
            images = known[index](images, np.random.default_rng(seeds[index]))
        return images

    return change
