"""Kernels of Keras' layers that change colours, each pixel by itself or by what its image or batch looks like.

Each `build_` function takes a built Keras layer and returns the operation: (images uint8 (B, H, W, 3), generator of random numbers)
-> images of the same shape and type. Names and bounds of what is drawn are those of the layers' own code in Keras 3.
"""

from collections.abc import Callable, Iterable
from typing import Any

import cv2
import numpy as np

from catdog.training.fast.pixel_operations import (
    LEVELS,
    MAX_PIXEL,
    count_levels,
    draw_uniform,
    fade_to_grey,
    look_up,
    mix_channels,
    stretch_contrast,
)

Operation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
# Keras adds it to a denominator.
EPSILON = 1e-7


def _look_up_each(images: np.ndarray, tables: Iterable[np.ndarray]) -> np.ndarray:
    changed = np.empty_like(images)
    for image, table, target in zip(images, tables, changed, strict=True):
        look_up(image, table, target)
    return changed


def build_contrast(layer: Any) -> Operation:
    """Returns RandomContrast: contrast around each channel's mean."""
    low, high = layer.factor

    def change(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        amounts = generator.uniform(1 - low, 1 + high, size=len(images))
        means = (np.array(cv2.mean(image)[:3], np.float32) for image in images)
        return _look_up_each(
            images,
            ((LEVELS[:, np.newaxis] - mean) * amount + mean for mean, amount in zip(means, amounts, strict=True)),
        )

    return change


def build_brightness(layer: Any) -> Operation:
    """Returns RandomBrightness: a number is added to all pixels."""
    low, high = layer.factor

    def change(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        amounts = generator.uniform(MAX_PIXEL * low, MAX_PIXEL * high, size=len(images))
        return _look_up_each(images, (LEVELS + amount for amount in amounts))

    return change


def build_grayscale(layer: Any) -> Operation:
    """Returns RandomGrayscale: some images without colour."""

    def change(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        changed = images.copy()
        for index in np.flatnonzero(generator.uniform(0, 1, len(images)) < layer.factor):
            mix_channels(images[index], fade_to_grey(1), changed[index])
        return changed

    return change


def build_degeneration(layer: Any) -> Operation:
    """Returns RandomColorDegeneration: less colour, or more where the factor is below 0."""

    def change(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        changed = np.empty_like(images)
        for image, share, target in zip(
            images, draw_uniform(generator, layer.factor, len(images)), changed, strict=True
        ):
            mix_channels(image, fade_to_grey(share), target)
        return changed

    return change


def build_saturation(layer: Any) -> Operation:
    """Returns RandomSaturation.

    Keras multiplies the saturation in HSV. With hue and value fixed, this moves each channel to or from the pixel's highest
    channel, in proportion. Where Keras' pixels fall below 0, these are 0.
    """

    def change(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        factors = draw_uniform(generator, layer.factor, len(images))
        # More than 255 is the same as 255 for whole numbers, and costs no digits in OpenCV's float32.
        amounts = np.clip(factors / (1 - factors + EPSILON), 0, MAX_PIXEL)
        changed = np.empty_like(images)
        for image, amount, target in zip(images, amounts, changed, strict=True):
            red, green, blue = cv2.split(image)
            highest = cv2.max(cv2.max(red, green), blue)
            cv2.addWeighted(image, amount, cv2.merge([highest] * 3), 1 - amount, 0, dst=target)
        return changed

    return change


def build_hue(layer: Any) -> Operation:
    """Returns RandomHue: a rotation of the hue in HSV."""

    def change(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        signs = np.where(generator.uniform(0, 1, len(images)) > 0.5, -1, 1)
        turns = signs * draw_uniform(generator, layer.factor, len(images)) * 0.5
        changed = np.empty_like(images)
        for image, degrees, target in zip(images, 360 * turns, changed, strict=True):
            # In float32: OpenCV's 8-bit HSV has 256 hues at most.
            hsv = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)
            hsv[..., 0] += degrees % 360
            hue = hsv[..., 0]
            np.subtract(hue, 360, out=hue, where=hue >= 360)
            cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), dst=target)
        return changed

    return change


def build_posterization(layer: Any) -> Operation:
    """Returns RandomPosterization: only the highest bits of each pixel are kept."""
    low, high = layer.factor
    values = np.arange(MAX_PIXEL + 1)

    def change(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        count = len(images)
        bits = generator.integers(low, high, count) if low != high else np.full(count, int(low))
        return _look_up_each(images, (values >> (8 - kept) << (8 - kept) for kept in bits))

    return change


def build_invert(layer: Any) -> Operation:
    """Returns RandomInvert: some images as their negatives."""

    def change(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        count = len(images)
        chosen = draw_uniform(generator, layer.factor, count) > generator.uniform(0, 1, count)
        return np.where(chosen[:, np.newaxis, np.newaxis, np.newaxis], MAX_PIXEL - images, images)

    return change


def build_solarization(layer: Any) -> Operation:
    """Returns Solarization: pixels from a threshold on are inverted, after a number was added to all."""
    (low, high), (first, last) = layer.addition_factor, layer.threshold_factor

    def change(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        # In Keras only the upper bounds are multiplied by 255.
        additions = generator.uniform(low, high * MAX_PIXEL, len(images))
        thresholds = generator.uniform(first, last * MAX_PIXEL, len(images))

        def tabulate(addition: float, threshold: float) -> np.ndarray:
            raised = np.clip(LEVELS + addition, 0, MAX_PIXEL)
            return np.where(raised < threshold, raised, MAX_PIXEL - raised)

        return _look_up_each(images, map(tabulate, additions, thresholds))

    return change


def build_auto_contrast(layer: Any) -> Operation:
    """Returns AutoContrast: each channel of an image stretched to [0, 255]."""
    del layer

    def change(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        del generator
        changed = np.empty_like(images)
        for image, target in zip(images, changed, strict=True):
            stretch_contrast(image, target)
        return changed

    return change


def build_equalization(layer: Any) -> Operation | None:
    """Returns Equalization: all values equally frequent in each channel; None unless it has 256 bins.

    As in Keras, each channel of the whole batch has one histogram, not that of an image.
    """
    if layer.bins != MAX_PIXEL + 1:
        return None
    # Keras' way from a pixel to its bin, in float32: some pixels fall into the bin below.
    bins = (LEVELS / np.float32(MAX_PIXEL) * np.float32(MAX_PIXEL)).astype(np.int64)

    def change(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        del generator
        count, height, width = images.shape[:3]
        totals = np.cumsum(count_levels(images.reshape(count * height, width, 3)), axis=0)
        table = np.empty((MAX_PIXEL + 1, 3))
        for channel in range(3):
            total = totals[:, channel]
            lowest = total[total > 0][0]
            is_flat = total[-1] == lowest
            table[:, channel] = (
                LEVELS if is_flat else np.rint((total - lowest) * MAX_PIXEL / (total[-1] - lowest))[bins]
            )
        return _look_up_each(images, [table] * count)

    return change
