"""The weights of classes in the training loss. No Keras here: a class that there is not is found before it is imported."""

from collections.abc import Sequence

import numpy as np

from catdog.config.schema import TrainerConfig
from catdog.system.errors import UserError


def weigh_classes(config: TrainerConfig, labels: np.ndarray, classes: Sequence[str]) -> dict[int, float] | None:
    """Returns the weight of each class' images in the training loss by class index, or None where all count the same.

    Args:
        config: the trainer's section.
        labels: int (N,), of the training images.
        classes: their names.

    Raises:
        UserError: `trainer.class_weights` names a class that there is not.
    """
    require_known_classes(config, classes)
    weights = config.class_weights
    if weights == "none":
        return None
    if weights == "balanced":
        counts = np.bincount(labels, minlength=len(classes))
        # Their mean over the images is 1, so that the learning rate keeps its meaning.
        return {index: len(labels) / (len(classes) * max(int(count), 1)) for index, count in enumerate(counts)}
    named = {str(name): float(weight) for name, weight in weights.items()}
    return {index: named.get(name, 1.0) for index, name in enumerate(classes)}


def require_known_classes(config: TrainerConfig, classes: Sequence[str]) -> None:
    """Raises UserError where `trainer.class_weights` names a class that there is not."""
    if not isinstance(config.class_weights, dict):
        return
    unknown = sorted({str(name) for name in config.class_weights} - set(classes))
    if unknown:
        raise UserError(
            f"trainer.class_weights: there is no class {', '.join(map(repr, unknown))}; the classes are {', '.join(classes)}."
        )
