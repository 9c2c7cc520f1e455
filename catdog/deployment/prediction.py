"""Entry: files -> classes. `python -m catdog.predict --help` explains it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from catdog.config.commands import PredictConfig
from catdog.config.schema import list_options
from catdog.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


MAX_SHEET_IMAGES = 60


def find_images(arguments: list[str]) -> list[Path]:
    """Returns the files to predict: each file as given, and every image below each folder.

    Raises:
        UserError: a path that does not exist, a folder without images, or nothing to do.
    """
    from catdog.data.images import IMAGE_SUFFIXES, is_image_file

    if not arguments:
        raise UserError("no image named. Name files or folders: python -m catdog.predict PHOTO.jpg FOLDER")
    files: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if is_image_file(file) and file.is_file())
            if not found:
                raise UserError(
                    f"{argument!r}: no images in this folder or below. Images are files that end in "
                    f"{', '.join(sorted(IMAGE_SUFFIXES))}."
                )
            files += found
        elif path.exists():
            files.append(path)
        elif "=" in argument:
            allowed = ", ".join(key for key, _, _ in list_options(PredictConfig))
            raise UserError(f"{argument!r}: neither a file nor an option; options: {allowed}.")
        else:
            raise UserError(f"{argument!r}: no such file or folder. Name files and folders that exist, or options.")
    return files


def predict(files: list[Path], uri: str, batch_size: int) -> tuple["pd.DataFrame", dict[Path, str], np.ndarray]:
    """Returns the model's answers, the reasons of files that are no readable images, and the first pictures it saw.

    Args:
        files: images of any size and format that `decode_image` reads.
        uri: MLflow model URI.
        batch_size: images per step.

    Returns:
        A table with file, class, probability, then each class's probability, in [0, 1]; reasons by file; pictures uint8
        (N, H, W, 3), those of the table's first rows, at most `MAX_SHEET_IMAGES`.
    """
    from catdog.training import preload  # noqa: F401  first of all: it keeps TensorFlow's import quiet

    # isort: split
    import keras
    import mlflow
    import pandas as pd

    from catdog.data.images import UnreadableImageError, decode_image
    from catdog.deployment.evaluation import explain_missing_artifacts, load_keras_model

    keras.utils.disable_interactive_logging()
    with explain_missing_artifacts(uri):
        metadata = mlflow.models.get_model_info(uri).metadata or {}
    classes, size = metadata["class_names"], metadata["image_size"]
    model = load_keras_model(uri)
    read: list[Path] = []
    unreadable: dict[Path, str] = {}
    pictures = np.zeros((0, size, size, 3), np.uint8)
    probabilities = [np.zeros((0, len(classes)), np.float32)]
    for start in range(0, len(files), batch_size):
        batch = []
        for file in files[start : start + batch_size]:
            try:
                batch.append(decode_image(file, size, size))
                read.append(file)
            except UnreadableImageError as error:
                unreadable[file] = str(error)
        if batch:
            images = np.stack(batch)
            probabilities.append(model.predict_on_batch(images))
            pictures = np.concatenate([pictures, images])[:MAX_SHEET_IMAGES]
    answers = np.concatenate(probabilities)
    table = pd.DataFrame({
        "file": [_in_utf8(file) for file in read],
        "class": [classes[index] for index in answers.argmax(axis=1)] if len(read) else [],
        "probability": answers.max(axis=1) if len(read) else [],
    })  # fmt: skip
    table = pd.concat([table, pd.DataFrame(answers, columns=[f"probability_{name}" for name in classes])], axis=1)
    return table, unreadable, pictures


def _in_utf8(file: Path) -> str:
    # Neither a table nor JSON holds a name whose bytes are not UTF-8: those bytes are written as \\xe9.
    return str(file).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
