"""Kernels of Keras' layers that change a neighbourhood or a part of an image: blur, sharpness, erasing."""

from typing import Any

import cv2
import numpy as np

from catdog.training.fast.colours import Operation
from catdog.training.fast.pixel_operations import MAX_PIXEL, draw_uniform, sharpen

# Keras adds it to sigma.
EPSILON = 1e-6


def build_blur(layer: Any) -> Operation | None:
    """Returns RandomGaussianBlur, or None for a kernel that is not square, which Keras computes from a mixed-up matrix.

    As in Keras, all images of a batch are blurred with the same sigmas, and beyond the border pixels are 0.
    """
    size, other = layer.kernel_size
    if size != other:
        return None
    places = np.arange(size) - (size - 1) / 2

    def blur(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        count = len(images)
        chosen = draw_uniform(generator, layer.factor, count) > generator.uniform(0, 1, count)
        weights = np.exp(-0.5 * (places / (draw_uniform(generator, layer.sigma, 2)[:, np.newaxis] + EPSILON)) ** 2)
        across, down = weights / weights.sum(axis=1, keepdims=True)
        blurred = images.copy()
        for index in np.flatnonzero(chosen):
            cv2.sepFilter2D(images[index], -1, across, down, dst=blurred[index], borderType=cv2.BORDER_CONSTANT)
        return blurred

    return blur


def build_sharpness(layer: Any) -> Operation:
    """Returns RandomSharpness: from blurred to sharper than the image."""

    def change(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        changed = np.empty_like(images)
        for image, factor, target in zip(
            images, draw_uniform(generator, layer.factor, len(images)), changed, strict=True
        ):
            sharpen(image, 2 * factor, target)
        return changed

    return change


def build_erasing(layer: Any) -> Operation | None:
    """Returns RandomErasing, or None for a `fill_value` that Keras refuses.

    Width and height are each the square root of an own draw from `scale`, as shares of the image's. Without a `fill_value` the
    rectangle is filled with normal noise, clipped to [0, 255].
    """
    fill = layer.fill_value
    is_colour = isinstance(fill, tuple | list) and len(fill) == 3
    if not (fill is None or isinstance(fill, int | float) or is_colour):
        return None

    def erase(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        count, height, width = images.shape[:3]
        sizes = np.sqrt(draw_uniform(generator, layer.scale, (count, 2))) * (width, height)
        lefts = generator.uniform(0, 1, count) * (width - sizes[:, 0])
        tops = generator.uniform(0, 1, count) * (height - sizes[:, 1])
        chosen = draw_uniform(generator, layer.factor, count) > generator.uniform(0, 1, count)
        # A pixel is erased if its corner lies in the rectangle.
        firsts = np.ceil(np.stack([tops, lefts], axis=1)).astype(int)
        ends = np.ceil(np.stack([tops + sizes[:, 1], lefts + sizes[:, 0]], axis=1)).astype(int)
        erased = images.copy()
        for index in np.flatnonzero(chosen):
            (top, left), (bottom, right) = firsts[index], ends[index]
            part = erased[index, top:bottom, left:right]
            if fill is None:
                noise = generator.standard_normal(part.shape, np.float32)
                np.multiply(noise.clip(0, 1), MAX_PIXEL, out=noise)
                part[...] = np.rint(noise)
            else:
                part[...] = np.rint(np.clip(fill, 0, MAX_PIXEL))
        return erased

    return erase
