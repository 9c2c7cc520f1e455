"""TrivialAugment: one operation of a list for each image, with a random strength, on 8-bit pixels.

Source: Mueller and Hutter (2021), "TrivialAugment: tuning-free yet state-of-the-art data augmentation", with the strengths of its
space "wide". Operations are those of Pillow that the paper uses, but with bilinear interpolation.
"""

from collections.abc import Callable

import cv2
import numpy as np

from catdog.training.fast.pixel_operations import (
    GREY,
    LEVELS,
    MAX_PIXEL,
    count_levels,
    fade_to_grey,
    look_up,
    mix_channels,
    sharpen,
    stretch_contrast,
)
from catdog.training.fast.warps import centre, turn

# The strengths are 0, 1/30, ..., 1.
STEPS = 30
MAX_FACTOR, MAX_DEGREES, MIN_BITS = 0.99, 135.0, 2
# The paper's 32 pixels, as a share of the 224 of its photos.
MAX_SHIFT = 32 / 224


def augment(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns images, uint8 (B, H, W, 3), each after one of `OPERATIONS`, drawn with equal probabilities.

    The strength is drawn with equal probabilities from 0, 1/30, ..., 1, and its sign too where an operation has two directions.
    """
    kinds = generator.integers(len(OPERATIONS), size=len(images))
    strengths = generator.integers(STEPS + 1, size=len(images)) / STEPS
    signs = generator.choice([-1, 1], size=len(images))
    operations = list(OPERATIONS.values())
    augmented = np.empty_like(images)
    for image, kind, strength, sign, target in zip(images, kinds, strengths, signs, augmented, strict=True):
        operations[kind](image, strength, sign, target)
    return augmented


def leave(image: np.ndarray, strength: float, sign: int, target: np.ndarray) -> None:
    """Writes the image as it is."""
    del strength, sign
    target[...] = image


def shear_x(image: np.ndarray, strength: float, sign: int, target: np.ndarray) -> None:
    """Writes the image with rows shifted in proportion to their distance from the upper edge."""
    _warp(image, np.array([[1, sign * strength * MAX_FACTOR, 0], [0, 1, 0]]), target)


def shear_y(image: np.ndarray, strength: float, sign: int, target: np.ndarray) -> None:
    """Writes the image with columns shifted in proportion to their distance from the left edge."""
    _warp(image, np.array([[1, 0, 0], [sign * strength * MAX_FACTOR, 1, 0]]), target)


def translate_x(image: np.ndarray, strength: float, sign: int, target: np.ndarray) -> None:
    """Writes the image shifted to the side by up to a seventh of its width."""
    _warp(image, np.array([[1, 0, sign * strength * MAX_SHIFT * image.shape[1]], [0, 1, 0]]), target)


def translate_y(image: np.ndarray, strength: float, sign: int, target: np.ndarray) -> None:
    """Writes the image shifted up or down by up to a seventh of its height."""
    _warp(image, np.array([[1, 0, 0], [0, 1, sign * strength * MAX_SHIFT * image.shape[0]]]), target)


def rotate(image: np.ndarray, strength: float, sign: int, target: np.ndarray) -> None:
    """Writes the image rotated around its middle by up to 135 degrees."""
    matrices = np.eye(3)[np.newaxis].copy()
    turn(matrices, np.deg2rad(np.array([sign * strength * MAX_DEGREES])))
    centre(matrices, *image.shape[:2])
    _warp(image, matrices[0, :2], target)


def _warp(image: np.ndarray, matrix: np.ndarray, target: np.ndarray) -> None:
    height, width = image.shape[:2]
    # Black beyond the border, as in the paper's code.
    cv2.warpAffine(
        image, matrix.astype(float), (width, height), dst=target, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )


def brighten(image: np.ndarray, strength: float, sign: int, target: np.ndarray) -> None:
    """Writes a blend of the image and black."""
    look_up(image, LEVELS * (1 + sign * strength * MAX_FACTOR), target)


def colour(image: np.ndarray, strength: float, sign: int, target: np.ndarray) -> None:
    """Writes a blend of the image and its grey copy."""
    mix_channels(image, fade_to_grey(-sign * strength * MAX_FACTOR), target)


def contrast(image: np.ndarray, strength: float, sign: int, target: np.ndarray) -> None:
    """Writes a blend of the image and the mean of its grey copy."""
    mean = np.rint(GREY @ cv2.mean(image)[:3])
    look_up(image, mean + (LEVELS - mean) * (1 + sign * strength * MAX_FACTOR), target)


def sharpness(image: np.ndarray, strength: float, sign: int, target: np.ndarray) -> None:
    """Writes a blend of the image and its blurred copy, with the outermost pixels as they are."""
    sharpen(image, 1 + sign * strength * MAX_FACTOR, target)
    target[[0, -1]], target[:, [0, -1]] = image[[0, -1]], image[:, [0, -1]]


def posterize(image: np.ndarray, strength: float, sign: int, target: np.ndarray) -> None:
    """Writes the image with the 8 to 2 highest bits of each pixel."""
    del sign
    dropped = round(strength * (8 - MIN_BITS))
    look_up(image, LEVELS.astype(int) >> dropped << dropped, target)


def solarize(image: np.ndarray, strength: float, sign: int, target: np.ndarray) -> None:
    """Writes the image with pixels from a threshold on inverted; the stronger, the lower the threshold."""
    del sign
    look_up(image, np.where(MAX_PIXEL * (1 - strength) > LEVELS, LEVELS, MAX_PIXEL - LEVELS), target)


def auto_contrast(image: np.ndarray, strength: float, sign: int, target: np.ndarray) -> None:
    """Writes the image with each channel stretched to [0, 255]."""
    del strength, sign
    stretch_contrast(image, target)


def equalize(image: np.ndarray, strength: float, sign: int, target: np.ndarray) -> None:
    """Writes the image with all values about equally frequent in each channel, by Pillow's rule."""
    del strength, sign
    counts = count_levels(image)
    table = np.empty(counts.shape)
    for channel, count in enumerate(counts.T):
        step = (count.sum() - count[np.flatnonzero(count)[-1]]) // MAX_PIXEL
        before = np.cumsum(count) - count
        table[:, channel] = (step // 2 + before) // step if step else LEVELS
    look_up(image, table, target)


# Each writes the result of (image uint8 (H, W, 3), strength in [0, 1], sign) to the target.
Operate = Callable[[np.ndarray, float, int, np.ndarray], None]
OPERATIONS: dict[str, Operate] = {
    "Identity": leave,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Rotate": rotate,
    "Brightness": brighten,
    "Color": colour,
    "Contrast": contrast,
    "Sharpness": sharpness,
    "Posterize": posterize,
    "Solarize": solarize,
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
}
