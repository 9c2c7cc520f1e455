"""Operations on an image of 8-bit pixels, uint8 (H, W, 3), which the kernels of Keras' layers and catdog's blocks share."""

from typing import Any

import cv2
import numpy as np

MAX_PIXEL = 255
LEVELS = np.arange(MAX_PIXEL + 1, dtype=np.float32)
# Shares of red, green and blue in a grey image: ITU-R BT.601, in the digits of Keras.
GREY = np.array([0.2989, 0.5870, 0.1140])
# Weights of the mean that blurs an image before it is sharpened: those of Pillow and Keras.
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13


def draw_uniform(generator: np.random.Generator, bounds: Any, size: int | tuple[int, ...]) -> np.ndarray:
    """Returns random numbers, float64 of a given shape, uniform between the bounds (low, high)."""
    low, high = bounds
    return generator.uniform(low, high, size)


def look_up(image: np.ndarray, table: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
    """Returns the image with each pixel replaced by the value of a table, rounded and clipped to [0, 255].

    Args:
        image: uint8 (H, W, 3).
        table: the new value of each of the 256 values: float (256,), or (256, 3) with one column for each channel.
        target: where the result is written, uint8 (H, W, 3); None: a new array.
    """
    rounded = np.rint(table.clip(0, MAX_PIXEL)).astype(np.uint8)
    return cv2.LUT(image, rounded[:, np.newaxis] if rounded.ndim == 2 else rounded, dst=target)


def mix_channels(image: np.ndarray, matrix: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
    """Returns the image with each pixel's (red, green, blue) multiplied by a matrix, float (3, 3)."""
    return cv2.transform(image, matrix, dst=target)


def fade_to_grey(share: float) -> np.ndarray:
    """Returns the matrix for `mix_channels` that replaces a share of the colour by grey: 1 all of it; below 0: more colour."""
    return (1 - share) * np.eye(3) + share * np.tile(GREY, (3, 1))


def sharpen(image: np.ndarray, amount: float, target: np.ndarray | None = None) -> np.ndarray:
    """Returns a blend of the image and its blurred copy: amount 0 the blurred copy, 1 the image, above 1 sharper than it.

    Beyond the border pixels are 0, so amounts other than 1 change the brightness of the outermost pixels.
    """
    kernel = (1 - amount) * SMOOTH
    kernel[1, 1] += amount
    return cv2.filter2D(image, -1, kernel, dst=target, borderType=cv2.BORDER_CONSTANT)


def count_levels(image: np.ndarray) -> np.ndarray:
    """Returns how many pixels of each channel have each value: int64 (256, 3)."""
    counts = [cv2.calcHist([image], [channel], None, [MAX_PIXEL + 1], [0, MAX_PIXEL + 1]) for channel in range(3)]
    # OpenCV 4 returns columns, OpenCV 5 rows.
    return np.stack([count.ravel() for count in counts], axis=1).astype(np.int64)


def stretch_contrast(image: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
    """Returns the image with each channel's lowest value at 0 and its highest at 255; a channel of one value stays as it is."""
    height, width = image.shape[:2]
    rows = image.reshape(height, width * 3)
    low = cv2.reduce(rows, 0, cv2.REDUCE_MIN).reshape(width, 3).min(axis=0).astype(np.float32)
    high = cv2.reduce(rows, 0, cv2.REDUCE_MAX).reshape(width, 3).max(axis=0).astype(np.float32)
    span = np.where(high > low, high - low, 1)
    stretched = (LEVELS[:, np.newaxis] - low) * (MAX_PIXEL / span)
    return look_up(image, np.where(high > low, stretched, LEVELS[:, np.newaxis]), target)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns an image in another size: with the mean of pixels along an axis that shrinks, bilinear along one that grows."""
    low, narrow = min(height, image.shape[0]), min(width, image.shape[1])
    if (low, narrow) != image.shape[:2]:
        image = cv2.resize(image, (narrow, low), interpolation=cv2.INTER_AREA)
    if (low, narrow) != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image
