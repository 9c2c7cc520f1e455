"""Predictions of a saved model for the images of a split."""

from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.data.predictions import Predictions

if TYPE_CHECKING:
    from catdog.data.dataset import SplitImages

# Batches of 16 images of 160 x 160: on a CPU as fast as batches of 32, with 50 to 80 MB less memory and the same predictions.
PIXELS_AT_ONCE = 16 * 160 * 160


def predict_split(kept: Any, split: "SplitImages", batch_size: int) -> "Predictions":
    """Returns the predictions of a saved model for every image of a split.

    Args:
        kept: the model, uint8 (B, H, W, 3) -> float32 (B, classes).
        split: the images.
        batch_size: the most images per step; large images come in smaller batches.
    """
    batch_size = max(1, min(batch_size, PIXELS_AT_ONCE // int(np.prod(kept.input_shape[1:3]))))
    batches = [
        kept.predict_on_batch(split.gather(np.arange(start, min(start + batch_size, len(split))))[0])
        for start in range(0, len(split), batch_size)
    ]
    names = [split.classes[label] for label in split.labels]
    return Predictions.build(split.files, names, split.classes, np.concatenate(batches))
