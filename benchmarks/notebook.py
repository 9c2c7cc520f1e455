"""The reference for catdog's timings: the notebook in plain Keras, with JPEGs decoded every epoch, float32 and no tracking.

    python benchmarks/notebook.py cnn|augmented|preprocessed|mobilenet FOLDER [EPOCHS]

FOLDER holds train/ and validation/. CATDOG_WEIGHTS names a file with MobileNetV2's weights; without it, Keras downloads them.
"""

import json
import os
import sys
import time

import keras
from keras import layers

SIZE = (160, 160)


def build_model(variant: str) -> keras.Model:
    augmentation = [layers.RandomFlip("horizontal"), layers.RandomRotation(0.2)]
    low = [layers.Rescaling(1 / 255)]
    both = [layers.Rescaling(1 / 127.5, offset=-1)]
    convolutions = [
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(32, 3, activation="relu"),
    ]
    head = [
        layers.Dropout(0.5),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dense(2),
    ]
    if variant == "mobilenet":
        weights = os.environ.get("CATDOG_WEIGHTS", "imagenet")
        backbone = keras.applications.MobileNetV2(input_shape=(*SIZE, 3), include_top=False, weights=weights)
        backbone.trainable = False
        images = keras.Input((*SIZE, 3))
        features = images
        for layer in augmentation + both:
            features = layer(features)
        features = backbone(features, training=False)
        for layer in head:
            features = layer(features)
        return keras.Model(images, features)
    return keras.Sequential(
        [keras.Input((*SIZE, 3))]
        + {"cnn": low, "augmented": augmentation + low, "preprocessed": augmentation + both}[variant]
        + convolutions
        + head
    )


class EpochTimes(keras.callbacks.Callback):
    """Measures each epoch's CPU seconds (user and system, all threads)."""

    def __init__(self) -> None:
        super().__init__()
        self.cpu_seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        del epoch, logs
        self.started = time.process_time()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        del epoch, logs
        self.cpu_seconds.append(time.process_time() - self.started)


def main(variant: str, folder: str, epochs: int = 20) -> None:
    keras.utils.set_random_seed(0)
    read = {"shuffle": True, "batch_size": 32, "image_size": SIZE}
    train = keras.utils.image_dataset_from_directory(f"{folder}/train", **read)
    validation = keras.utils.image_dataset_from_directory(f"{folder}/validation", **read)
    # The notebook's split. It leaks, because the data set is reshuffled at each pass: see experiments/cats_vs_dogs.
    batches = int(validation.cardinality()) // 5
    test = validation.take(batches).prefetch(-1)
    validation = validation.skip(batches).prefetch(-1)

    model = build_model(variant)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    times = EpochTimes()
    history = model.fit(train.prefetch(-1), validation_data=validation, epochs=epochs, verbose=2, callbacks=[times])
    _, accuracy = model.evaluate(test, verbose=0)
    last = {key: values[-1] for key, values in history.history.items()}
    print(json.dumps({**last, "test_accuracy": accuracy, "epoch_cpu_seconds": times.cpu_seconds}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
