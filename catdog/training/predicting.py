"""A kept model's answers to the images of a split."""

from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.data.predictions import Predictions

if TYPE_CHECKING:
    from catdog.data.dataset import SplitImages

# What predicting takes at once, 16 images of 160 x 160: on a CPU as fast as 32, with 50 to 80 MB less, and the same answers.
PIXELS_AT_ONCE = 16 * 160 * 160


def predict_split(kept: Any, split: "SplitImages", batch_size: int) -> "Predictions":
    """Returns the kept model's answers to every image of a split.

    Args:
        kept: uint8 (B, H, W, 3) -> float32 (B, classes).
        split: the images.
        batch_size: images per step, at most; fewer where they are large.
    """
    batch_size = max(1, min(batch_size, PIXELS_AT_ONCE // int(np.prod(kept.input_shape[1:3]))))
    batches = [
        kept.predict_on_batch(split.gather(np.arange(start, min(start + batch_size, len(split))))[0])
        for start in range(0, len(split), batch_size)
    ]
    names = [split.classes[label] for label in split.labels]
    return Predictions.build(split.files, names, split.classes, np.concatenate(batches))
