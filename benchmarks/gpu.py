"""Measures whether the input keeps a device busy, and what its precisions are worth; prints tables in Markdown.

    python benchmarks/gpu.py [IMAGES] [STEPS]       # 2,000 random images of 160 x 160 and 20 steps: some minutes on 2 cores

It uses the first GPU, or the CPU where there is none. The input alone is read by a consumer that does nothing. The share of time
that the device waits is what a training step from the input takes longer than the same step from one batch in memory.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

from catdog.training import preload  # noqa: F401  before Keras: it keeps TensorFlow's import quiet

# isort: split
import keras
import numpy as np
import tensorflow as tf
from bench import describe_machine, tabulate
from pieces import BATCH, SIZE, compose

from catdog.training.augmentation import build_augmentation
from catdog.training.input_stream import build_train_stream, count_steps
from catdog.training.loop import compile_model
from catdog.training.model import build_model

INPUTS = ("none", "flip_rotate", "strong", "trivial")
MODELS = {
    "small CNN": ("model=cnn",),
    "MobileNetV2, all layers": ("model=mobilenet", "backbone.weights=null", "backbone.trainable_layers=all"),
}
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
ROUNDS = 3


class Images:
    """Random images, held as the cache's memory map would be."""

    def __init__(self, count: int) -> None:
        generator = np.random.default_rng(0)
        self.decoded = generator.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
        self.labels = generator.integers(0, 2, count, dtype=np.int32)
        self.shape, self.dtype = (SIZE, SIZE, 3), "uint8"

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.decoded[indices], self.labels[indices]


def build_stream(images: Images, augmentation: str) -> tf.data.Dataset:
    config = compose("model=cnn", f"augmentation={augmentation}")
    augment = build_augmentation(config.augmentation, 0, SIZE, fast=True)
    return build_train_stream(images, batch_size=BATCH, seed=0, augment=augment)


def measure(call: Callable[[], Any], steps: int) -> float:
    """Returns the wall seconds of a call: the median of some rounds of steps, after some that are not counted."""
    for _ in range(3):
        call()
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(steps):
            last = call()
        # A GPU has ended its work when a value can be read.
        if last is not None:
            float(last["loss"])
        rounds.append((time.perf_counter() - started) / steps)
    return sorted(rounds)[ROUNDS // 2]


def measure_input(images: Images, augmentation: str, steps: int) -> float:
    """Returns the images a second that the input delivers to a consumer that does nothing."""
    batches = iter(build_stream(images, augmentation))

    def read() -> None:
        next(batches)

    return BATCH / measure(read, steps)


def measure_training(images: Images, words: tuple[str, ...], policy: str, steps: int) -> list[str]:
    """Returns images a second, the share of time that the device waits, and its memory in MB."""
    keras.backend.clear_session()
    config = compose(*words)
    times = []
    for stream in (
        build_stream(images, "flip_rotate"),
        tf.data.Dataset.from_tensors(images.gather(np.arange(BATCH))).repeat(),
    ):
        model = build_model(config, 2, policy)
        compile_model(model, config, policy, count_steps(len(images), BATCH))
        model.make_train_function()
        batches = iter(stream)
        times.append(measure(lambda step=model.train_function, batches=batches: step(batches), steps))
    waits = max(0.0, 1 - times[1] / times[0])
    gpus = tf.config.list_physical_devices("GPU")
    memory = f"{tf.config.experimental.get_memory_info('GPU:0')['peak'] / 1e6:,.0f}" if gpus else "no GPU"
    return [f"{BATCH / times[0]:,.0f}", f"{waits:.0%}", memory]


def main(count: int, steps: int) -> None:
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    device = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "a GPU") if gpus else "no GPU"
    print(f"{describe_machine()}; {device}; command: `python benchmarks/gpu.py {count} {steps}`\n", flush=True)
    images = Images(count)
    rows = [[name, f"{measure_input(images, name, 5 * steps):,.0f}"] for name in INPUTS]
    print(tabulate(["augmentation", "input alone: images a second"], rows) + "\n", flush=True)
    table = []
    for name, words in MODELS.items():
        # float16 on a CPU is emulated, and takes minutes.
        for policy in POLICIES if gpus else POLICIES[:2]:
            table.append([name, policy, *measure_training(images, words, policy, steps)])
    print(tabulate(["model", "precision", "images a second", "device waits", "peak memory, MB"], table))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", type=int, nargs="?", default=2000, help="number of random images (%(default)s)")
    parser.add_argument("steps", type=int, nargs="?", default=20, help="training steps in a round (%(default)s)")
    given = parser.parse_args()
    main(given.images, given.steps)
