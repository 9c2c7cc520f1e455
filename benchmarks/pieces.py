"""Compares each part that makes training faster with what it replaces, on random pixels; prints a table in Markdown.

    python benchmarks/pieces.py                  # 4 minutes on 2 cores
    python benchmarks/pieces.py augmentation     # each layer of the augmentation that OpenCV can do, 2 minutes

The table shows CPU milliseconds (user + system, all threads) for a batch of 32 images of 160 x 160, unless it names another size.
"""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from bench import describe_machine, tabulate

from catdog import cli  # noqa: F401  it registers the config's schemas
from catdog.config.schema import CONF, Config, load_config, register
from catdog.training.augmentation import build_augmentation
from catdog.training.augmentation_blocks import AUGMENTATION_BLOCKS
from catdog.training.fast.batchnorm_folding import fold_norms
from catdog.training.fast.feature_cache import cut_head, cut_trained
from catdog.training.loop import compile_model
from catdog.training.model import build_backbone, build_model
from catdog.training.precision import use_policy

BATCH, SIZE = 32, 160
GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8)
KERNELS = {
    "RandomResizedCrop": "scale: [0.35, 1.0]",
    "RandomDownscale": "probability: 1.0",
    "TrivialAugment": "",
    "RandAugment": "",
    "RandomErasing": "",
    "RandomShear": "x_factor: 0.2",
    "RandomPerspective": "scale: 0.5",
    "RandomSaturation": "factor: [0.3, 0.7]",
    "RandomHue": "factor: 0.2",
    "RandomColorJitter": "brightness_factor: 0.2, contrast_factor: 0.2, saturation_factor: [0.3, 0.7], hue_factor: 0.1",
    "RandomGrayscale": "factor: 0.5",
    "RandomColorDegeneration": "factor: 0.5",
    "RandomPosterization": "factor: 4",
    "RandomInvert": "factor: 0.5",
    "RandomSharpness": "factor: [0.0, 1.0]",
    "RandomGaussianBlur": "kernel_size: 5",
    "Solarization": "threshold_factor: 0.5",
    "AutoContrast": "",
    "Equalization": "",
}
LABELS = GENERATOR.integers(0, 2, BATCH, dtype=np.int32)


def compose(*overrides: str) -> Config:
    from hydra import compose, initialize_config_dir

    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_config(compose("config", list(overrides)), Config)


def time_call(call: Callable[[], Any], repeats: int = 20) -> float:
    """Returns the CPU milliseconds of a call: the median of three rounds, after two calls that are not counted."""
    for _ in range(2):
        call()
    rounds = []
    for _ in range(3):
        started = time.process_time()
        for _ in range(repeats):
            call()
        rounds.append((time.process_time() - started) / repeats * 1e3)
    return sorted(rounds)[1]


def time_alternately(*calls: Callable[[], Any], repeats: int = 8, rounds: int = 9) -> list[float]:
    """Returns the CPU milliseconds of several calls, made in turns to show differences of a few percent on a drifting machine."""
    spent: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, own in zip(calls, spent, strict=True):
            started = time.process_time()
            for _ in range(repeats):
                call()
            # The first round also builds graphs, so it does not count.
            own += [(time.process_time() - started) / repeats * 1e3] if number else []
    return [sorted(own)[rounds // 2] for own in spent]


def time_import(module: str) -> float:
    """Returns the CPU milliseconds of importing Keras and TensorFlow after `module`: the median of three new processes."""
    code = f"import time, {module}; import keras, tensorflow; print(time.process_time())"
    calls = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    return sorted(1e3 * float(call.stdout) for call in calls)[1]


def build_step(policy: str, *overrides: str, jit: bool = False) -> Callable[[], Any]:
    """Returns a training step of the model that the overrides configure."""
    config = compose(*overrides)
    model = build_model(config, 2, policy)
    compile_model(model, config, policy, 63, jit=jit)
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((PIXELS, LABELS)).repeat())
    return lambda: model.train_function(batches)


def build_normed_step(policy: str, *, fused: bool) -> Callable[[], Any]:
    """Returns a training step, from 128 x 128 pixels, of a network of convolutions with batch norms that train."""
    size = 128
    config = compose("speed.fused_norms=true" if fused else "speed.fused_norms=false", f"preprocessing.image_size={size}",
                     "head.pooling=global_average", "head.units=0", "head.dropout=0.2", "optimizer=adamw")  # fmt: skip
    convolution = {"layer": "Conv2D", "kernel_size": 3, "padding": "same", "use_bias": False}
    norm, relu = {"layer": "BatchNormalization"}, {"layer": "ReLU"}
    layers = {"stem": {**convolution, "filters": 24, "strides": 2}, "stem_norm": norm, "stem_relu": relu}
    for filters in (48, 96, 192, 384):
        wide = {**convolution, "filters": filters}
        stage = {
            "a": wide,
            "pool": {"layer": "MaxPooling2D"},
            "a_norm": norm,
            "a_relu": relu,
            "b": wide,
            "b_norm": norm,
            "b_relu": relu,
        }
        layers |= {f"{name}{filters}": layer for name, layer in stage.items()}
    config.backbone.layers = layers
    model = build_model(config, 2, policy)
    return _build_train_call(model, config, policy, PIXELS[:, :size, :size])


def build_tuning_step(*overrides: str, cut: bool = False, kept: bool = False) -> Callable[[], Any]:
    """Returns a training step, in bfloat16, of MobileNetV2 whose last 54 layers train, from images or kept features."""
    os.environ.setdefault("CATDOG_WEIGHTS", "imagenet")
    config, policy = compose("model=mobilenet", "backbone.trainable_layers=54", *overrides), "mixed_bfloat16"
    model = build_model(config, 2, policy)
    if not cut:
        return _build_train_call(model, config, policy, PIXELS)
    trained = cut_trained(model, fast=True)
    assert trained is not None
    trained.trains_on_images = not kept
    return _build_train_call(trained, config, policy, trained.extract(PIXELS) if kept else PIXELS)


def _build_train_call(model: Any, config: Config, policy: str, inputs: Any) -> Callable[[], Any]:
    compile_model(model, config, policy, 63)
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((inputs, LABELS)).repeat())
    return lambda: model.train_function(batches)


def time_augmentation(*overrides: str, fast: bool, repeats: int = 20) -> float:
    augment = build_augmentation(compose(*overrides).augmentation, 0, SIZE, fast=fast)
    # As arguments: TensorFlow computes what depends on constants alone only once.
    step, images = tf.function(augment), tf.constant(PIXELS)
    numbers = itertools.count()
    return time_call(lambda: step(images, tf.constant(next(numbers), tf.int64)), repeats)


def compare_augmentation() -> None:
    """Prints a table of Keras' layers and their kernels, and of catdog's blocks, which have no counterpart in Keras."""
    rows: list[list[object]] = []
    for layer, arguments in KERNELS.items():
        override = f"+augmentation.layers.x={{layer: {layer}{arguments and ', ' + arguments}}}"
        after = time_augmentation(override, fast=True)
        named = f"{layer} {arguments}".strip()
        if layer in AUGMENTATION_BLOCKS:
            rows.append([named, "", after, ""])
            continue
        before = time_augmentation(override, fast=False, repeats=5)
        rows.append([named, before, after, f"{after / before:.2f}"])
    print(tabulate(["layer, `speed.fast_augmentation=false`; `true`", "CPU ms before", "after", "ratio"], rows))


def time_forward(policy: str, *, folded: bool) -> float:
    config = compose("model=mobilenet", "backbone.weights=null", "backbone.trainable_layers=all")
    with use_policy(policy):
        network = build_backbone(config.backbone, SIZE)
        network = fold_norms(network) if folded else network
    images = tf.constant(PIXELS, tf.float32) / 127.5 - 1
    return time_call(tf.function(lambda: network(images, training=False)))


def time_frozen_step(*, fast: bool) -> float:
    os.environ.setdefault("CATDOG_WEIGHTS", "imagenet")
    config = compose("model=mobilenet")
    head = cut_head(build_model(config, 2, "mixed_bfloat16"), fast=fast)
    compile_model(head, config, "mixed_bfloat16", 63)
    head.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((PIXELS, LABELS)).repeat())
    return time_call(lambda: head.train_function(batches))


def time_head() -> float:
    os.environ.setdefault("CATDOG_WEIGHTS", "imagenet")
    config = compose("model=mobilenet")
    head = cut_head(build_model(config, 2, "mixed_bfloat16"))
    head.trains_on_images = False
    compile_model(head, config, "mixed_bfloat16", 63)
    head.make_train_function()
    features = tf.zeros((BATCH, *head.input.shape[1:]), head.input.dtype)
    batches = iter(tf.data.Dataset.from_tensors((features, LABELS)).repeat())
    return time_call(lambda: head.train_function(batches))


def add_parts(add: Callable[[str, float, float], None]) -> None:
    """Adds the rows of networks with batch norms that train, and of partly trained backbones."""
    for policy, name in (("mixed_bfloat16", "bfloat16"), ("float32", "float32")):
        times = time_alternately(*(build_normed_step(policy, fused=fused) for fused in (False, True)), repeats=4)
        add(
            f"training step of a network with batch norms, 128 x 128, {name}: Keras' norms; `speed.fused_norms`", *times
        )
    plain, folded, cut, kept = time_alternately(
        build_tuning_step("speed.fold_norms=false"),
        build_tuning_step(),
        build_tuning_step(cut=True),
        build_tuning_step(cut=True, kept=True),
        repeats=2,
    )
    add("MobileNetV2 with 54 layers that train, bfloat16: as Keras builds it; `speed.fold_norms`", plain, folded)
    add("the same, folded, from images: the model as it is; `speed.fast_features`", folded, cut)
    add("the same, folded: from images with `speed.fast_features`; from kept features", cut, kept)
    add("the same: as Keras builds it, from images; folded, from kept features", plain, kept)


def main() -> None:
    command = " ".join(["python benchmarks/pieces.py", *sys.argv[1:]])
    print(f"{describe_machine()}; command: `{command}`\n", flush=True)
    if "augmentation" in sys.argv[1:]:
        compare_augmentation()
        return
    keras.utils.set_random_seed(0)
    rows: list[list[object]] = []

    def add(what: str, before: float, after: float) -> None:
        rows.append([what, before, after, f"{after / before:.2f}"])

    add("import of Keras and TensorFlow: as it is; by `catdog.training.process`, without garbage collection",
        time_import("math"), time_import("catdog.training.process"))  # fmt: skip
    add("flip and rotation: Keras' layers; `speed.fast_augmentation`",
        *(time_augmentation("augmentation=flip_rotate", fast=fast) for fast in (False, True)))  # fmt: skip
    add("`augmentation=strong`, six layers: the same",
        *(time_augmentation("augmentation=strong", fast=fast) for fast in (False, True)))  # fmt: skip
    plain, half, late, dropout, both = time_alternately(
        build_step("float32", "speed=none"),
        build_step("mixed_bfloat16", "speed=none"),
        build_step("mixed_bfloat16", "speed=none", "speed.relu_after_pooling=true"),
        build_step("mixed_bfloat16", "speed=none", "speed.fast_dropout=true"),
        build_step("mixed_bfloat16"),
    )
    add("small CNN's training step: float32; bfloat16", plain, half)
    add("the same in bfloat16: ReLU before pooling; `speed.relu_after_pooling`", half, late)
    add("the same in bfloat16: Keras' dropout; `speed.fast_dropout`", half, dropout)
    add("the same in bfloat16: neither; both", half, both)
    xla = time_call(build_step("mixed_bfloat16", "speed=none", jit=True), repeats=2)
    add("the same in bfloat16: `trainer.jit=never`; `always` (XLA)", half, xla)
    frozen = {
        (policy, folded): time_forward(policy, folded=folded)
        for policy in ("float32", "mixed_bfloat16") for folded in (False, True)
    }  # fmt: skip
    base = frozen["float32", False]
    add(
        "frozen MobileNetV2's forward pass, float32: as Keras builds it; `speed.fold_norms`",
        base,
        frozen["float32", True],
    )
    add("the same: float32 as Keras builds it; bfloat16 as Keras builds it", base, frozen["mixed_bfloat16", False])
    add("the same: float32 as Keras builds it; bfloat16 with `speed.fold_norms`", base, frozen["mixed_bfloat16", True])
    whole, parts = (time_frozen_step(fast=fast) for fast in (False, True))
    add(
        "mobilenet's training step from images, bfloat16, folded: the model as it is; `speed.fast_features`",
        whole,
        parts,
    )
    head = time_head()
    add("mobilenet's training step, bfloat16, folded: from images; from kept features",
        frozen["mixed_bfloat16", True] + head, head)  # fmt: skip
    add_parts(add)
    print(tabulate(["what, before; after", "CPU ms before", "after", "ratio"], rows))


if __name__ == "__main__":
    main()
