"""Progressive image sizes: smaller training images in a part of the epochs, which cost less (`trainer.sizes`)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from catdog.config.schema import Config
from catdog.system.errors import UserError
from catdog.training.model import build_model

# The largest difference between the float32 logits of one model at a size and those of a model built for this size, as a share of
# the largest logit.
TOLERANCE = 1e-3


def build_size_of(config: Config, steps: int) -> Callable[[int], int] | None:
    """Returns a function from the number of a batch since training began to the height and width of its images in pixels.

    None if `trainer.sizes` is not set.

    Args:
        config: its sections trainer and preprocessing are used.
        steps: batches per epoch.

    Source: Howard (2018), "Training ImageNet in 3 hours for 25 minutes"; Tan and Le (2021), "EfficientNetV2: smaller models and
    faster training".
    """
    if config.trainer.sizes is None:
        return None
    trainer, largest = config.trainer, config.preprocessing.image_size
    return lambda batch: trainer.find_size(int(batch) // steps + 1, largest)


def check_sizes(config: Config, classes: int) -> None:
    """Raises UserError unless the model answers images of each of `trainer.sizes` as one that is built for this size.

    Args:
        config: the run's config.
        classes: number of classes.
    """
    full = config.preprocessing.image_size
    sizes = set(config.trainer.list_sizes(full).values()) - {full}
    model = build_model(config, classes, "float32") if sizes else None
    for size in sorted(sizes):
        smaller = replace(config, preprocessing=replace(config.preprocessing, image_size=size),
                          trainer=replace(config.trainer, sizes=None))  # fmt: skip
        what = config.model.builder or f"backbone={config.backbone.name}"
        try:
            expected = build_model(smaller, classes, "float32")
        except UserError as error:
            said = str(error).partition(" The images are too small")[0]
            raise UserError(f"trainer.sizes: {what} does not take images of {size} x {size} pixels. {said}") from error
        images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.float32)
        if not _agree(model, expected, images):
            raise UserError(
                f"trainer.sizes: {what}, built for images of {full} x {full} pixels, is another model for {size} x {size}. Use a "
                "size that fits, such as a multiple of 32, or layers that do not depend on the image size."
            )


def _agree(model: Any, expected: Any, images: np.ndarray) -> bool:
    """Whether two models have the same weights, and with the same values in them the same answers."""
    import tensorflow as tf

    weights = model.get_weights()
    if [weight.shape for weight in weights] != [weight.shape for weight in expected.get_weights()]:
        return False
    expected.set_weights(weights)

    # As training does it: in a graph that does not know the size.
    answer = tf.function(
        lambda batch: model(batch, training=False), input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)]
    )

    wanted = np.asarray(expected(images, training=False), np.float32)
    try:
        found = np.asarray(answer(images), np.float32)
    except (ValueError, tf.errors.InvalidArgumentError):
        return False
    return found.shape == wanted.shape and np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()
