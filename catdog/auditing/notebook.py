"""The input pipeline of the notebook that catdog grew from, as an example for `audit pipeline=catdog.auditing.notebook:build`."""

import os
from pathlib import Path
from typing import Any

IMAGE_SIZE, BATCH_SIZE = (160, 160), 32


def build() -> tuple[Any, Any, Any]:
    """Returns (train, val, test) as the notebook and Keras's transfer learning tutorial make them.

    The validation folder is reshuffled each time it is read, and a fifth of its batches becomes test, so the two mix. It reads the
    data set cats_dogs from CATDOG_ARCHIVE, or downloads it.

    Source: https://www.tensorflow.org/tutorials/images/transfer_learning, "Data preprocessing".
    """
    from catdog.training import preload  # noqa: F401  must come first: it keeps TensorFlow's import quiet

    # isort: split
    import keras
    import tensorflow as tf
    from omegaconf import OmegaConf

    from catdog.config.schema import CONF, default_cache
    from catdog.data.fetch import fetch_archive

    archive = os.environ.get("CATDOG_ARCHIVE")
    if archive is None:
        stored = OmegaConf.load(CONF / "dataset" / "cats_dogs.yaml")
        archive = str(stored.archive)
    root = fetch_archive(archive, Path(default_cache()))
    options: dict[str, Any] = {"shuffle": True, "batch_size": BATCH_SIZE, "image_size": IMAGE_SIZE, "verbose": False}
    train = keras.utils.image_dataset_from_directory(root / "train", **options)
    val = keras.utils.image_dataset_from_directory(root / "validation", **options)
    batches = tf.data.experimental.cardinality(val)
    test = val.take(batches // 5)
    val = val.skip(batches // 5)
    return train, val, test
