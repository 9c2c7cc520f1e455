"""Models that are not Keras models, called through MLflow's common interface (pyfunc)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from catdog.data.answers import SUM_TOLERANCE
from catdog.system.errors import UserError
from catdog.system.wording import plural

# The flavors that MLflow loads as Keras models.
KERAS_FLAVORS = {"tensorflow", "keras"}


def is_keras(described: Any) -> bool:
    """Whether an MLflow model, as `mlflow.models.Model` describes it, is loaded as a Keras model."""
    return bool(KERAS_FLAVORS & set(described.flavors))


class PyfuncModel:
    """A model of any flavor that answers like catdog's own.

    Args:
        loaded: what `mlflow.pyfunc.load_model` returned.
        name: the model's name, for messages.
        class_names: the classes, in the order of its answers.
        image_size: height and width in pixels that it takes.
    """

    def __init__(self, loaded: Any, name: str, class_names: Sequence[str], image_size: int) -> None:
        self._loaded = loaded
        self._name = name
        self._classes = len(class_names)
        self.input_shape = (None, image_size, image_size, 3)

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        """Returns the probabilities, float32 (B, classes), for images, uint8 (B, H, W, 3).

        Raises:
            UserError: the model fails, or returns something else.
        """
        try:
            answers = np.asarray(self._loaded.predict(images), dtype=np.float64)
        except Exception as error:
            # Any exception of the flavor's library: the model is the user's.
            problem = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise self._refuse(
                f"it failed on images (N, {', '.join(map(str, images.shape[1:]))}), uint8: {problem}"
            ) from error
        if answers.shape != (len(images), self._classes):
            raise self._refuse(f"it answered the shape {answers.shape} to {plural(len(images), 'image')}")
        sums = answers.sum(axis=1)
        if not (np.isfinite(answers).all() and answers.min() >= 0 and np.abs(sums - 1).max() <= SUM_TOLERANCE):
            raise self._refuse(f"it answered {np.round(answers[0], 3).tolist()} to the first image")
        return answers.astype(np.float32)

    def _refuse(self, problem: str) -> UserError:
        return UserError(
            f"model: {self._name} must take uint8 pixels (N, H, W, 3) and answer {self._classes} probabilities for each image: "
            f'{problem}. Save it so, such as a pipeline by mlflow.sklearn.save_model(..., pyfunc_predict_fn="predict_proba").'
        )
