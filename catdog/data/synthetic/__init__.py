"""Drawn cats and dogs: a data set for tests and the quickstart that needs no download.

An image is a function of its seed, split, kind and index alone: other counts leave it as it is, bit for bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from catdog.data.synthetic import animals, camera, kinds, scenes, things

KINDS: tuple[str, ...] = tuple(kinds.KINDS)
"""What `draw_animal` can draw."""

# Pillow's polygons have hard edges: draw larger, then average.
_OVERSAMPLING = 2
_SIDE_RANGE_PX = (100, 220)


def draw_animal(kind: str, rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """A picture of one animal, with its surroundings.

    Args:
        kind: One of `KINDS`.
        rng: Source of every choice: pose, coat, place, light. The same state gives the same pixels.
        height: Pixels.
        width: Pixels.

    Returns:
        RGB, `width` x `height`.

    Raises:
        ValueError: `kind` is not one of `KINDS`.
    """
    if kind not in kinds.KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; received {kind!r}")
    canvas, brush = scenes.draw_background(width * _OVERSAMPLING, height * _OVERSAMPLING, rng)
    right = width / height
    things.draw_clutter(brush, right, rng)
    reach = min(1.0, right) * rng.uniform(0.5, 0.68)
    x = right / 2 + rng.uniform(-1, 1) * max(0.04, right / 2 - reach * 0.8)
    y = 0.54 + rng.uniform(-1, 1) * max(0.04, 0.5 - reach * 0.9)
    # Tilted, by 17 degrees in the typical case: rotation, as augmentation, then has something to be good for.
    animals.draw(brush.at(x, y, reach, rng.normal(0, 0.3), mirror=rng.random() < 0.5), kind, rng)
    things.draw_foreground(brush, right, rng)
    return camera.photograph(canvas.reduce(_OVERSAMPLING), rng)


def write_drawn_images(
    folder: Path,
    *,
    seed: int,
    train_per_class: int,
    validation_per_class: int,
    kinds: Sequence[str] = ("cat", "dog"),
) -> None:
    """Writes JPEGs as `folder/{train,validation}/cats/cat.00001.jpg`, one class folder for each kind.

    Args:
        folder: Made if it does not exist; files of the same name are overwritten.
        seed: Of the whole data set. Another seed gives other images.
        train_per_class: Number of training images of each kind.
        validation_per_class: Number of validation images of each kind.
        kinds: Kinds of `KINDS`; a class folder is called after its kind, with an s.
    """
    for split, count in (("train", train_per_class), ("validation", validation_per_class)):
        for kind in kinds:
            class_folder = folder / split / f"{kind}s"
            class_folder.mkdir(parents=True, exist_ok=True)
            for index in range(1, count + 1):
                rng = _image_rng(seed, split, kind, index)
                height, width = (int(side) for side in rng.integers(*_SIDE_RANGE_PX, 2, endpoint=True))
                image = draw_animal(kind, rng, height, width)
                image.save(class_folder / f"{kind}.{index:05d}.jpg", quality=int(rng.integers(60, 96)))


def _image_rng(seed: int, split: str, kind: str, index: int) -> np.random.Generator:
    # Not hash(): it differs from process to process.
    return np.random.default_rng([seed, zlib.crc32(split.encode()), zlib.crc32(kind.encode()), index])
