"""Mixing of images: MixUp and CutMix, which make of each image and its label a mixture of two."""

from collections.abc import Callable

import cv2
import numpy as np

from catdog.config.schema import MixConfig

# (images (B, H, W, 3), labels int32 (B,), number of the batch) -> (mixed images, targets float32 (B, classes)).
Mix = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
# Keeps the draws of mixing apart from those of the order of images and of augmentation.
STREAM = 0x6D6978


def build_mixing(config: MixConfig, seed: int, classes: int) -> Mix | None:
    """Returns a function that mixes each image of a batch with another one, and the labels with them; None if mixing is off.

    Each image has a partner: a random permutation of the batch. Its weight is drawn from Beta(alpha, alpha). MixUp blends the two
    images with this weight. CutMix puts a rectangle of the partner into the image, of the area that the weight leaves, somewhere
    inside the image; the labels get the areas as weights. If both are on, each batch gets one of them, with equal probability.

    The draws depend only on the seed and the number of the batch: a resumed run mixes as if it had never stopped.

    Args:
        config: the config's section `augmentation.mix`.
        seed: the run's seed.
        classes: number of classes.

    Source: Zhang et al. (2018), "mixup: beyond empirical risk minimization"; Yun et al. (2019), "CutMix: regularization strategy to
    train strong classifiers with localizable features". Weights per image, and rectangles inside the image, as in Keras' layers.
    """
    kinds = [(kind, alpha) for kind, alpha in ((mix_up, config.mixup), (cut_mix, config.cutmix)) if alpha]
    if not kinds:
        return None

    def mix(images: np.ndarray, labels: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
        targets = np.eye(classes, dtype=np.float32)[labels]
        generator = np.random.default_rng([STREAM, seed, int(batch)])
        if generator.uniform() >= config.probability:
            return images, targets
        kind, alpha = kinds[generator.integers(len(kinds))]
        partners = generator.permutation(len(images))
        weights = generator.beta(alpha, alpha, size=len(images))
        mixed, weights = kind(images, images[partners], weights, generator)
        weights = weights[:, np.newaxis].astype(np.float32)
        return mixed, weights * targets + (1 - weights) * targets[partners]

    return mix


def mix_up(
    images: np.ndarray, partners: np.ndarray, weights: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images blended with their partners, in the images' type, and the weights of the images, float64 (B,)."""
    del generator
    mixed = np.empty_like(images)
    for image, partner, weight, target in zip(images, partners, weights, mixed, strict=True):
        cv2.addWeighted(image, weight, partner, 1 - weight, 0, dst=target)
    return mixed, weights


def cut_mix(
    images: np.ndarray, partners: np.ndarray, weights: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images with a rectangle of their partners, and the share of each image that is left, float64 (B,)."""
    count, height, width = images.shape[:3]
    ratios = np.sqrt(1 - weights)
    heights, widths = np.rint(ratios * height).astype(int), np.rint(ratios * width).astype(int)
    tops, lefts = generator.integers(height - heights + 1), generator.integers(width - widths + 1)
    mixed = images.copy()
    for index in range(count):
        rows = slice(tops[index], tops[index] + heights[index])
        columns = slice(lefts[index], lefts[index] + widths[index])
        mixed[index, rows, columns] = partners[index, rows, columns]
    return mixed, 1 - heights * widths / (height * width)
