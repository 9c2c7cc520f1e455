"""The weights of classes in the training loss. Without Keras, so that an unknown class is reported before its slow import."""

from collections.abc import Sequence

import numpy as np

from catdog.config.schema import TrainerConfig
from catdog.system.errors import UserError


def weigh_classes(config: TrainerConfig, labels: np.ndarray, classes: Sequence[str]) -> dict[int, float] | None:
    """Returns the weight of each class in the training loss, by class index; None if all classes have the same weight.

    Args:
        config: the config's section `trainer`.
        labels: int (N,), the class indices of the training images.
        classes: the class names, in the order of their indices.

    Raises:
        UserError: `trainer.class_weights` names an unknown class.
    """
    require_known_classes(config, classes)
    weights = config.class_weights
    if weights == "none":
        return None
    if weights == "balanced":
        counts = np.bincount(labels, minlength=len(classes))
        # The mean weight over the images is 1, so that the learning rate keeps its meaning.
        return {index: len(labels) / (len(classes) * max(int(count), 1)) for index, count in enumerate(counts)}
    named = {str(name): float(weight) for name, weight in weights.items()}
    return {index: named.get(name, 1.0) for index, name in enumerate(classes)}


def require_known_classes(config: TrainerConfig, classes: Sequence[str]) -> None:
    """Raises UserError if `trainer.class_weights` names an unknown class."""
    if not isinstance(config.class_weights, dict):
        return
    unknown = sorted({str(name) for name in config.class_weights} - set(classes))
    if unknown:
        raise UserError(
            f"trainer.class_weights: there is no class {', '.join(map(repr, unknown))}; the classes are {', '.join(classes)}."
        )
