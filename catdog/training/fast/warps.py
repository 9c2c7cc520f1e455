"""Kernels of Keras' layers that move pixels: flip, rotation, translation, zoom, shear and perspective."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from catdog.training.fast.pixel_operations import draw_uniform

# OpenCV's names for Keras' `fill_mode`. `wrap` is missing: its period is not the same in OpenCV.
BORDERS = {"reflect": "BORDER_REFLECT", "constant": "BORDER_CONSTANT", "nearest": "BORDER_REPLICATE"}
INTERPOLATIONS = {"bilinear": "INTER_LINEAR", "nearest": "INTER_NEAREST"}


def can_warp(layer: Any) -> bool:
    """Whether one of Keras' layers that resample images is one that `warp` can do: the others are RandomFlip and colours."""
    import keras

    known = keras.layers
    movers = (
        known.RandomRotation, known.RandomTranslation, known.RandomZoom, known.RandomShear, known.RandomPerspective,
    )  # fmt: skip
    return type(layer) in movers and _fill_mode(layer) in BORDERS and layer.interpolation in INTERPOLATIONS


def _fill_mode(layer: Any) -> str:
    import keras

    # Keras' perspective has no `fill_mode`: it always fills with `fill_value`.
    return "constant" if isinstance(layer, keras.layers.RandomPerspective) else getattr(layer, "fill_mode", "nearest")


def warp(images: np.ndarray, layers: Sequence[Any], generators: Sequence[np.random.Generator]) -> np.ndarray:
    """Returns images after flips and, if the last layer is one, a transform, with a single resampling.

    Args:
        images: uint8 (B, H, W, 3).
        layers: RandomFlip any number of times, then at most one of the layers of `can_warp`.
        generators: of the random numbers of each layer.
    """
    import keras

    last = layers[-1]
    flags = getattr(cv2, INTERPOLATIONS[getattr(last, "interpolation", "nearest")]) | cv2.WARP_INVERSE_MAP
    border = getattr(cv2, BORDERS[_fill_mode(last)])
    fill = (float(getattr(last, "fill_value", 0.0)),) * 3
    count, height, width = images.shape[:3]
    matrices = np.broadcast_to(np.eye(3), (count, 3, 3))
    for layer, generator in zip(layers, generators, strict=True):
        matrices = matrices @ draw_matrices(layer, generator, count, height, width)
    is_affine = not isinstance(last, keras.layers.RandomPerspective)
    apply = cv2.warpAffine if is_affine else cv2.warpPerspective
    warped = np.empty_like(images)
    for image, matrix, target in zip(images, matrices, warped, strict=True):
        apply(
            image, matrix[:2] if is_affine else matrix, (width, height),
            dst=target, flags=flags, borderMode=border, borderValue=fill,
        )  # fmt: skip
    return warped


def draw_matrices(layer: Any, generator: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """Returns a random matrix for each image: float64 (count, 3, 3), from pixel (x, y, 1) of the result to that of the image.

    Source: the layers' own code in Keras 3 (`keras/src/layers/preprocessing/image_preprocessing`).
    """
    import keras

    if isinstance(layer, keras.layers.RandomPerspective):
        return _draw_perspectives(layer, generator, count, height, width)
    matrices = np.tile(np.eye(3), (count, 1, 1))
    if isinstance(layer, keras.layers.RandomFlip):
        for axis, name, size in ((0, "horizontal", width), (1, "vertical", height)):
            if name in layer.mode:
                flipped = generator.uniform(size=count) <= 0.5
                matrices[flipped, axis, axis] = -1
                matrices[flipped, axis, 2] = size - 1
        return matrices
    if isinstance(layer, keras.layers.RandomTranslation):
        matrices[:, 1, 2] = -height * generator.uniform(layer.height_lower, layer.height_upper, count)
        matrices[:, 0, 2] = -width * generator.uniform(layer.width_lower, layer.width_upper, count)
        return matrices
    if isinstance(layer, keras.layers.RandomShear):
        # Around the upper left corner, as in Keras.
        signs = np.where(generator.uniform(0, 1, count) > 0.5, -1, 1)
        matrices[:, 1, 0] = signs * draw_uniform(generator, layer.y_factor, count)
        matrices[:, 0, 1] = signs * draw_uniform(generator, layer.x_factor, count)
        return matrices
    if isinstance(layer, keras.layers.RandomZoom):
        zoom_y = zoom_x = 1 + generator.uniform(layer.height_lower, layer.height_upper, count)
        if layer.width_factor is not None:
            zoom_x = 1 + generator.uniform(layer.width_lower, layer.width_upper, count)
        matrices[:, 0, 0], matrices[:, 1, 1] = zoom_x, zoom_y
    else:
        turn(matrices, 2 * np.pi * generator.uniform(layer.factor[0], layer.factor[1], count))
    centre(matrices, height, width)
    return matrices


def turn(matrices: np.ndarray, angles: np.ndarray) -> None:
    """Makes matrices (count, 3, 3) those of rotations by angles in radians around pixel (0, 0)."""
    matrices[:, 0, 0] = matrices[:, 1, 1] = np.cos(angles)
    matrices[:, 1, 0] = np.sin(angles)
    matrices[:, 0, 1] = -matrices[:, 1, 0]


def centre(matrices: np.ndarray, height: int, width: int) -> None:
    """Moves the fixed point of matrices (count, 3, 3) to the middle of the image."""
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    matrices[:, :2, 2] = middle - matrices[:, :2, :2] @ middle


def _draw_perspectives(layer: Any, generator: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    chosen = draw_uniform(generator, layer.factor, count) > generator.uniform(0, 1, count)
    moves = generator.uniform(-0.5 * layer.scale, 0.5 * layer.scale, (count, 4, 2))
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], np.float32)
    moved = (corners * (1 + moves)).astype(np.float32)
    matrices = np.tile(np.eye(3), (count, 1, 1))
    for index in np.flatnonzero(chosen):
        matrices[index] = cv2.getPerspectiveTransform(moved[index], corners)
    return matrices
