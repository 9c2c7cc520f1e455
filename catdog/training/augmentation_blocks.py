"""Blocks of `augmentation.layers` that Keras does not have: RandomResizedCrop, RandomDownscale and TrivialAugment."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from catdog.config.checks import require
from catdog.system.errors import UserError
from catdog.training import trivial_augment
from catdog.training.fast.opencv_augmentation import AugmentationBlock
from catdog.training.fast.pixel_operations import draw_uniform, resize

# Tries to draw a rectangle that lies within the image, before it is the largest one in the middle.
ATTEMPTS = 10


class RandomResizedCrop(AugmentationBlock):
    """Cuts a rectangle of random size, shape and place out of each image, and resizes it.

    Args:
        key: its config key.
        seed: of its random numbers.
        scale: the rectangle's area, as [lowest, highest] share of the image's.
        ratio: its width divided by its height, [lowest, highest]; drawn on a logarithmic scale.

    Source: Szegedy et al. (2015), "Going deeper with convolutions"; the draws are those of torchvision's layer of that name.
    """

    def __init__(
        self, key: str, seed: int, scale: Sequence[float] = (0.08, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)
    ) -> None:
        super().__init__(key, seed)
        self.scale = _read_range(f"{key}.scale", scale, highest=1)
        self.ratio = _read_range(f"{key}.ratio", ratio)

    def operate(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Returns images, uint8 (B, H, W, 3), of the same size."""
        return self.cut(images, generator, images.shape[1:3])

    def cut(self, images: np.ndarray, generator: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
        """Returns images of another size, uint8 (B, height, width, 3)."""
        return crop_and_resize(images, generator, self.scale, self.ratio, size)


class RandomDownscale(AugmentationBlock):
    """Takes the detail out of some images: they are made smaller and then resized to their size again, as thumbnails are.

    Keras' RandomGaussianBlur is no replacement: its sigma is 1 pixel at most.

    Args:
        key: its config key.
        seed: of its random numbers.
        scale: the smaller height and width, as [lowest, highest] share of the image's.
        probability: share of the images that are changed.
    """

    def __init__(self, key: str, seed: int, scale: Sequence[float] = (0.4, 1.0), probability: float = 0.3) -> None:
        super().__init__(key, seed)
        self.scale = _read_range(f"{key}.scale", scale, highest=1)
        require(
            _is_number(probability) and 0 < probability <= 1, f"{key}.probability", "more than 0, up to 1", probability
        )
        self.probability = probability

    def operate(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Returns images, uint8 (B, H, W, 3), of the same size."""
        count, height, width = images.shape[:3]
        chosen = generator.uniform(size=count) < self.probability
        scales: np.ndarray = draw_uniform(generator, self.scale, count)
        changed = images.copy()
        for index in np.flatnonzero(chosen):
            low, narrow = (max(1, round(scales[index] * size)) for size in (height, width))
            changed[index] = resize(resize(images[index], low, narrow), height, width)
        return changed


class TrivialAugment(AugmentationBlock):
    """Changes each image by one operation of a list, with a random strength (`catdog.training.trivial_augment`)."""

    def operate(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Returns images, uint8 (B, H, W, 3), of the same size."""
        return trivial_augment.augment(images, generator)


AUGMENTATION_BLOCKS: dict[str, type[AugmentationBlock]] = {
    each.__name__: each for each in (RandomDownscale, RandomResizedCrop, TrivialAugment)
}


def build_block(key: str, settings: dict[str, Any]) -> AugmentationBlock:
    """Returns the block of these settings: `layer`, one of AUGMENTATION_BLOCKS, `seed` and the block's arguments.

    Args:
        key: its config key.
        settings: from the config.

    Raises:
        UserError: the block does not have an argument, or a value is out of range.
    """
    arguments = dict(settings)
    kind = arguments.pop("layer")
    block = AUGMENTATION_BLOCKS[kind]
    allowed = [name for name in inspect.signature(block).parameters if name != "key"]
    for argument in arguments:
        if argument not in allowed:
            raise UserError(f"{key}.{argument}: {kind} has no such argument. It has {', '.join(sorted(allowed))}.")
    seed = arguments["seed"]
    require(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0, f"{key}.seed", "0 or more", seed)
    return block(key, **arguments)


def _read_range(key: str, value: Any, *, highest: float = float("inf")) -> tuple[float, float]:
    is_pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))
    up_to = f" <= {highest}" if highest < float("inf") else ""
    require(
        is_pair and 0 < value[0] <= value[1] <= highest and value[1] < float("inf"),
        key, f"[low, high] with 0 < low <= high{up_to}", value,
    )  # fmt: skip
    return float(value[0]), float(value[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def crop_and_resize(
    images: np.ndarray,
    generator: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    size: tuple[int, int],
) -> np.ndarray:
    """Returns a random rectangle of each image in a given size, uint8 (B, height, width, 3).

    Args:
        images: uint8 (B, H, W, 3).
        generator: of the random numbers.
        scale: bounds of the rectangle's area, as a share of the image's.
        ratio: bounds of its width divided by its height.
        size: height and width of the result.
    """
    count, height, width = images.shape[:3]
    cropped = np.empty((count, *size, 3), np.uint8)
    boxes = draw_boxes(generator, count, height, width, scale, ratio)
    for image, (top, left, high, wide), target in zip(images, boxes, cropped, strict=True):
        target[...] = resize(image[top : top + high, left : left + wide], *size)
    return cropped


def draw_boxes(
    generator: np.random.Generator,
    count: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> np.ndarray:
    """Returns a random rectangle for each image: top, left, height and width in pixels, int (count, 4).

    Area and ratio are drawn until the rectangle fits into the image, ten times at most. After that it is the largest one in the
    middle whose ratio is within the bounds.
    """
    areas = draw_uniform(generator, scale, (count, ATTEMPTS)) * (height * width)
    ratios = np.exp(draw_uniform(generator, np.log(ratio), (count, ATTEMPTS)))
    heights, widths = np.rint(np.sqrt(areas / ratios)).astype(int), np.rint(np.sqrt(areas * ratios)).astype(int)
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first = fits.argmax(axis=1)
    rows, found = np.arange(count), fits.any(axis=1)
    nearest = min(max(width / height, ratio[0]), ratio[1])
    largest = max(1, min(height, round(width / nearest))), max(1, min(width, round(height * nearest)))
    heights = np.where(found, heights[rows, first], largest[0])
    widths = np.where(found, widths[rows, first], largest[1])
    tops = np.where(found, generator.integers(height - heights + 1), (height - heights) // 2)
    lefts = np.where(found, generator.integers(width - widths + 1), (width - widths) // 2)
    return np.stack([tops, lefts, heights, widths], axis=1)
