"""Scores of a model that was chosen among several, such as the best epoch: chosen on some images, counted on the others.

The best of 20 epochs is chosen on the validation images, so its accuracy on these images is too high: by 0.9 points on 800 images
if the answers change much from epoch to epoch. Two variants whose answers change differently are flattered differently. So a score
that is compared is cross-fitted: the epoch is chosen on one half of the images and counted on the other half, both ways.
"""

from collections.abc import Sequence

import numpy as np

HALVINGS = 10


def halve(images: int, halvings: int = HALVINGS, seed: int = 0, groups: np.ndarray | None = None) -> np.ndarray:
    """Returns random divisions of images into two halves.

    Args:
        images: the number N of images.
        halvings: the number H of divisions.
        seed: of the random numbers.
        groups: int (N,), the group of each image; a group is never divided. None: each image is a group of its own.

    Returns:
        bool (H, N), whether an image is in the first half. It has N // 2 images, or with groups about as many.
    """
    generator = np.random.default_rng(seed)
    if groups is None:
        first = np.arange(images) < images // 2
        return np.stack([generator.permutation(first) for _ in range(halvings)])
    _, codes = np.unique(groups, return_inverse=True)
    sizes = np.bincount(codes)
    halves = np.zeros((halvings, images), dtype=bool)
    for half in halves:
        order = generator.permutation(len(sizes))
        before = np.cumsum(sizes[order]) - sizes[order]
        chosen = np.zeros(len(sizes), dtype=bool)
        # A group goes where most of it fits.
        chosen[order] = before + sizes[order] / 2 <= images / 2
        half[:] = chosen[codes]
    return halves


def cross_fit(
    values: np.ndarray,
    criteria: Sequence[np.ndarray],
    *,
    patience: int | None = None,
    epochs: np.ndarray | None = None,
    halvings: int = HALVINGS,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Returns each image's value at the epoch that the other half of the images chooses, averaged over random halvings.

    Its mean estimates the value, on new images, of the model that half of the images choose. So it is slightly too low for the
    model that all of them choose, where the plain value of the chosen epoch is too high.

    Args:
        values: float or bool (E, N), what is counted for each epoch and image, such as whether the answer is right.
        criteria: what the choice goes by: one float or bool (E, N) or more. The epoch with the highest mean of the first is chosen;
            of equals, the one with the highest mean of the second, and so on; then the earliest.
        patience: the training stops after so many epochs without a better one, also on each half; None: never.
        epochs: int (E,), increasing: the numbers of the epochs, if not all of them were validated; None: 1 to E.
        halvings: the number of random halvings.
        seed: of the halvings. With the same seed, runs that answered the same images are halved alike, so they stay paired.
        groups: int (N,), the group of each image: a group is never divided.

    Returns:
        float64 (N,).

    Raises:
        ValueError: the shapes do not fit, or there are fewer than two images or no epoch.

    Source: choosing and judging on different folds, both ways, is cross-fitting (Chernozhukov et al. 2018, "Double/debiased machine
    learning", Econometrics Journal 21:C1-C68); that the selected score is too high: Cawley and Talbot (2010), "On over-fitting in
    model selection and subsequent selection bias in performance evaluation", Journal of Machine Learning Research 11:2079-2107.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2 or any(c.shape != values.shape for c in criteria):
        raise ValueError(
            f"needs values and criteria of one shape (epochs, images), got {values.shape} and {[c.shape for c in criteria]}"
        )
    first = halve(values.shape[1], halvings, seed, groups)
    numbers = np.arange(1, len(values) + 1) if epochs is None else np.asarray(epochs)
    total = np.zeros(values.shape[1])
    for half in (first, ~first):
        shares = half / np.maximum(half.sum(axis=1, keepdims=True), 1)
        means = [np.asarray(criterion, dtype=float) @ shares.T for criterion in criteria]
        chosen = _choose(means, numbers, patience)
        # The values at the epochs that this half chooses count for the images of the other.
        total += (values[chosen] * ~half).sum(axis=0)
    return total / halvings


def _choose(means: Sequence[np.ndarray], epochs: np.ndarray, patience: int | None) -> np.ndarray:
    """Returns the index of the chosen epoch: int (H,), by criteria (E, H)."""
    best = np.zeros(means[0].shape[1], dtype=int)
    columns = np.arange(len(best))
    for epoch in range(1, len(epochs)):
        better = np.zeros(len(best), dtype=bool)
        equal = np.ones(len(best), dtype=bool)
        for mean in means:
            # Means of the same numbers in another order may differ in their last bits.
            difference = mean[epoch] - mean[best, columns]
            same = np.abs(difference) <= 1e-12 * np.maximum(1.0, np.abs(mean[epoch]))
            better |= equal & ~same & (difference > 0)
            equal &= same
        if patience is not None:
            better &= epochs[epoch - 1] - epochs[best] < patience
        best = np.where(better, epoch, best)
    return best
