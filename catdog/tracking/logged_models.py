"""Models that a script logs with its run: the folder of an MLflow model of any flavor, or a Keras model."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.system.errors import UserError
from catdog.tracking.custom_objects import find_needs
from catdog.tracking.run import MODEL_ARTIFACT, RESIZE, OutboxRun, log_kept_model

if TYPE_CHECKING:
    from catdog.data.dataset import SplitImages


def log_folder_model(run: OutboxRun, folder: Path, image_size: int | None, class_names: Sequence[str]) -> int:
    """Saves a copy of an MLflow model with the run; returns the image size that the model takes.

    Args:
        run: the run.
        folder: contains the file MLmodel.
        image_size: height and width in pixels; None: what its metadata or its signature says.
        class_names: in the order of the model's outputs.

    Raises:
        UserError: the folder holds no model that can predict, or its image size is unknown.
    """
    from mlflow.models import Model

    if not (folder / "MLmodel").is_file():
        raise UserError(
            f"log_model: {folder} is not the folder of an MLflow model: it has no file MLmodel. Write one with save_model of a "
            "flavor, such as mlflow.sklearn.save_model or mlflow.pytorch.save_model, or give a Keras model."
        )
    described = Model.load(str(folder / "MLmodel"))
    if "python_function" not in described.flavors:
        raise UserError(f"log_model: {folder} has no flavor python_function, so it cannot make predictions.")
    metadata = dict(described.metadata or {})
    size = image_size or metadata.get("image_size") or _size_of_signature(described)
    if not size:
        raise UserError(
            "log_model: the size of the images that this model takes is not known. Give it: image_size=160, in pixels."
        )
    described.metadata = {"resize": RESIZE, **metadata, "class_names": list(class_names), "image_size": int(size)}
    with run.entry.staged_folder() as place:
        shutil.copytree(folder, place, dirs_exist_ok=True)
        described.save(str(place / "MLmodel"))
    run.append("model", folder=place.name, name=MODEL_ARTIFACT, tags={})
    return int(size)


def _size_of_signature(described: Any) -> int | None:
    inputs = described.signature.inputs if described.signature else None
    if inputs is None or not inputs.is_tensor_spec():
        return None
    shape = inputs.inputs[0].shape
    return int(shape[1]) if len(shape) == 4 and shape[1] == shape[2] and shape[1] > 0 else None


def log_keras_model(
    run: OutboxRun,
    model: Any,
    image_size: int | None,
    class_names: Sequence[str],
    load_val: "Callable[[int], SplitImages]",
) -> int:
    """Saves a Keras model with the run; returns the image size that the model takes.

    Args:
        run: the run.
        model: uint8 (B, H, W, 3) -> float32 probabilities (B, classes).
        image_size: height and width in pixels; None: what its input says.
        class_names: the study's, in its order.
        load_val: returns the study's validation images in a size in pixels.

    Raises:
        UserError: it is not a Keras model, its outputs do not match the study's classes, or its image size is unknown.
    """
    shape, outputs = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if not hasattr(model, "predict_on_batch") or not isinstance(shape, tuple) or not isinstance(outputs, tuple):
        raise UserError(
            f"log_model: must be a Keras model with one input and one output, or the folder of an MLflow model, received "
            f"{type(model).__name__}. Write a folder with save_model of a flavor, such as mlflow.pytorch.save_model."
        )
    size = image_size or shape[1]
    if len(shape) != 4 or not size or shape[1:] != (size, size, 3):
        raise UserError(
            f"log_model: the model must take square RGB images of one size, (N, H, W, 3), received the input shape {shape} and "
            f"image_size={image_size}."
        )
    if outputs[-1] != len(class_names):
        raise UserError(
            f"log_model: the model must answer {len(class_names)} probabilities, one for each of "
            f"{', '.join(class_names)}, received the output shape {outputs}."
        )
    example: np.ndarray = load_val(int(size)).gather(np.array([0]))[0]
    answer = np.asarray(model.predict_on_batch(example))
    if not np.isfinite(answer).all() or answer.min() < 0 or np.abs(answer.sum(axis=1) - 1).max() > 1e-2:
        raise UserError(
            f"log_model: the model must answer probabilities, received {answer[0].tolist()} for an image. Add a softmax."
        )
    modules = sorted({module for module, _ in find_needs(model).values()})
    log_kept_model(run, model, example=example, class_names=tuple(class_names), needs=modules)
    return int(size)
