"""The check before the first run: every layer, application and optimizer of Keras either trains or is refused in a sentence."""

import dataclasses
import inspect
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from support import compose_config

from catdog.config.schema import Config
from catdog.system.errors import UserError
from catdog.training.check import Checked, check_augmentation, check_run
from catdog.training.loop import compile_model
from catdog.training.model import build_model
from catdog.training.optimizers import check_optimizer

SIZE = 32


def list_classes(library: Any, parent: type) -> list[str]:
    """Returns the names of a library's classes, without aliases such as Convolution2D."""
    found = {name: getattr(library, name) for name in dir(library)}
    return [
        name
        for name, each in found.items()
        if inspect.isclass(each) and issubclass(each, parent) and each.__name__ == name
    ]


LAYERS = list_classes(keras.layers, keras.layers.Layer)
# The arguments that a layer needs.
ARGUMENTS: dict[str, dict[str, Any]] = {
    name: arguments
    for names, arguments in (
        ("Conv1D Conv2D Conv3D Conv1DTranspose Conv2DTranspose Conv3DTranspose SeparableConv1D SeparableConv2D ConvLSTM1D "
         "ConvLSTM2D ConvLSTM3D", {"filters": 3, "kernel_size": 3}),
        ("DepthwiseConv1D DepthwiseConv2D", {"kernel_size": 3}),
        ("AdaptiveAveragePooling1D AdaptiveMaxPooling1D AdaptiveAveragePooling2D AdaptiveMaxPooling2D AdaptiveAveragePooling3D "
         "AdaptiveMaxPooling3D", {"output_size": 4}),
        ("AveragePooling1D AveragePooling2D AveragePooling3D", {"pool_size": 2}),
        ("Activation", {"activation": "relu"}),
        ("AlphaDropout Dropout GaussianDropout SpatialDropout1D SpatialDropout2D SpatialDropout3D", {"rate": 0.2}),
        ("GaussianNoise", {"stddev": 1.0}),
        ("CenterCrop RandomCrop Resizing", {"height": 8, "width": 8}),
        ("Dense GRU GRUCell LSTM LSTMCell SimpleRNN SimpleRNNCell", {"units": 3}),
        ("EinsumDense", {"equation": "bhwc,cd->bhwd", "output_shape": [None, None, 3]}),
        ("Embedding ReversibleEmbedding", {"input_dim": 256, "output_dim": 3}),
        ("Hashing HashedCrossing", {"num_bins": 4}),
        ("Discretization", {"bin_boundaries": [100.0]}),
        ("CategoryEncoding", {"num_tokens": 4}),
        ("MultiHeadAttention", {"num_heads": 2, "key_dim": 3}),
        ("Dot", {"axes": 1}),
        ("Permute", {"dims": [2, 1, 3]}),
        ("RepeatVector", {"n": 2}),
        ("Reshape", {"target_shape": [SIZE, SIZE, 3]}),
        ("Rescaling", {"scale": 1.0}),
        ("GroupNormalization", {"groups": 1}),
        ("RandomBrightness RandomContrast RandomRotation RandomHue RandomColorDegeneration RandomSharpness RandomSaturation",
         {"factor": 0.2}),
        ("RandomPosterization", {"factor": 4}),
        ("RandomZoom", {"height_factor": 0.2}),
        ("RandomTranslation", {"height_factor": 0.2, "width_factor": 0.2}),
        ("RandomShear", {"x_factor": 0.2}),
        ("MaxNumBoundingBoxes", {"max_number": 3}),
    )
    for name in names.split()
}  # fmt: skip
# Layers of Keras 3.15 that augment images as they are; all others are refused.
AUGMENTING = (
    "Activation ActivityRegularization AlphaDropout AutoContrast ContrastLimitedAdaptiveHistogramEqualization Cropping2D "
    "Discretization Dropout ELU Equalization GaussianDropout GaussianNoise Identity LeakyReLU Masking MaxNumBoundingBoxes Permute "
    "RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast RandomElasticTransform RandomErasing "
    "RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation "
    "RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom ReLU Rescaling Reshape Softmax Solarization "
    "SpatialDropout2D UnitNormalization"
)  # fmt: skip
# Layers that can stand in a backbone, after a convolution; all others are refused.
BACKBONE = (
    "Activation ActivityRegularization AdaptiveAveragePooling2D AdaptiveMaxPooling2D AlphaDropout AutoContrast AveragePooling2D "
    "BatchNormalization CenterCrop ContrastLimitedAdaptiveHistogramEqualization Conv2D Conv2DTranspose Cropping2D Dense "
    "DepthwiseConv2D Dropout ELU GaussianDropout GaussianNoise GroupNormalization Identity LayerNormalization LeakyReLU "
    "Masking MaxNumBoundingBoxes MaxPooling2D Normalization Permute PReLU RandomBrightness RandomColorJitter RandomContrast "
    "RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomInvert RandomPerspective RandomPosterization "
    "RandomRotation RandomSharpness RandomTranslation RandomZoom ReLU Rescaling Resizing RMSNormalization SeparableConv2D Softmax "
    "Solarization SpatialDropout2D UnitNormalization UpSampling2D ZeroPadding2D"
)  # fmt: skip
OPTIMIZERS = list_classes(keras.optimizers, keras.optimizers.Optimizer)
REFUSED_OPTIMIZERS = {"LossScaleOptimizer", "MultiOptimizer", "Optimizer"}
APPLICATIONS = [name for name in dir(keras.applications) if name[0].isupper()]
# The smallest images, in pixels, of applications that do not take 32.
SMALLEST = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
QUICK = {"ConvNeXtTiny", "MobileNet", "MobileNetV2", "MobileNetV3Small", "VGG16", "Xception"}


@pytest.fixture(scope="module")
def base() -> Config:
    return compose_config(f"preprocessing.image_size={SIZE}")


def with_augmentation(base: Config, layer: dict[str, Any]) -> Config:
    return dataclasses.replace(base, augmentation=dataclasses.replace(base.augmentation, layers={"x": layer}))


def with_backbone(base: Config, **changed: Any) -> Config:
    return dataclasses.replace(base, backbone=dataclasses.replace(base.backbone, **changed))


def refuse(check: Callable[[], None], key: str) -> str:
    """Returns the message with which a check refuses: one line, which names the key."""
    with pytest.raises(UserError) as caught:
        check()
    message = str(caught.value)
    assert message.startswith(key), message
    assert "\n" not in message
    assert "\x1b" not in message
    assert message.endswith("."), message
    return message


def train_step(config: Config, policy: str = "float32") -> None:
    model = build_model(config, 3, policy)
    compile_model(model, config, policy, steps=5)
    size = config.preprocessing.image_size
    images = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    model.train_on_batch(images, np.arange(4) % 3)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_augments_or_is_refused(base: Config, name: str) -> None:
    layer = describe_layer(name)
    if name == "RandomHue":
        layer["value_range"] = [0, 255]
    # The check augments a batch as training does.
    if name in AUGMENTING.split():
        check_augmentation(with_augmentation(base, layer), "x")
        return
    message = refuse(lambda: check_augmentation(with_augmentation(base, layer), "x"), "augmentation.layers.x: ")
    assert ("changes their labels" in message) == (name in ("MixUp", "CutMix"))


def describe_layer(name: str) -> dict[str, Any]:
    return {"layer": name, **ARGUMENTS.get(name, {})}


CONV = {"layer": "Conv2D", "filters": 4, "kernel_size": 3, "padding": "same"}


@pytest.mark.nightly
# Keras says that some layers do not pass on masks or gradients, which is right.
@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_all_layers_that_can_be_in_a_backbone_train_together(base: Config) -> None:
    config = with_backbone(
        base, layers={"conv": CONV, **{name: describe_layer(name) for name in sorted(BACKBONE.split())}}
    )
    check_run(config, 3, "float32")
    train_step(config)


@pytest.mark.parametrize("name", sorted(set(LAYERS) - set(BACKBONE.split())))
def test_every_other_layer_is_refused_in_a_backbone(base: Config, name: str) -> None:
    config = with_backbone(base, layers={"conv": CONV, "x": describe_layer(name)})
    refuse(lambda: check_run(config, 3, "float32"), "backbone.layers")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_a_step_or_is_refused(base: Config, name: str) -> None:
    config = dataclasses.replace(base, optimizer=dataclasses.replace(base.optimizer, algorithm=name))
    if name in REFUSED_OPTIMIZERS:
        with pytest.raises(UserError, match=r"^optimizer") as caught:
            check_optimizer(config.optimizer)
        assert "\n" not in str(caught.value)
        return
    check_optimizer(config.optimizer)


NIGHTLY = pytest.mark.skipif(
    not os.environ.get("CATDOG_TEST_APPLICATIONS"),
    reason="the larger applications take a minute of CPU: make torture, or CATDOG_TEST_APPLICATIONS=1",
)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else NIGHTLY) for name in APPLICATIONS])
def test_every_application_is_built_and_too_small_images_are_refused(base: Config, name: str) -> None:
    smallest = SMALLEST.get(name, 32)
    head = dataclasses.replace(base.head, pooling="global_average")
    config = with_backbone(dataclasses.replace(base, head=head), application=name, layers={})

    def sized(size: int) -> Config:
        return dataclasses.replace(config, preprocessing=dataclasses.replace(config.preprocessing, image_size=size))

    check_run(sized(smallest), 3, "float32")
    if name == "VGG16":
        train_step(sized(smallest))
    message = refuse(lambda: check_run(sized(smallest - 1), 3, "float32"), "backbone=")
    assert f"at {smallest - 1} x {smallest - 1}: Input size must be at least {smallest}x{smallest}" in message


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["preprocessing.image_size=16"], "backbone.layers.conv3: Conv2D .*The images are too small for these layers: use"),
        (["preprocessing.image_size=8"], "backbone.layers.pool2: MaxPooling2D .*The images are too small for these layers"),
        (["+augmentation.layers.mixup={layer: MixUp}"], "augmentation.layers.mixup: MixUp mixes images and changes their labels"),
        (["+augmentation.layers.x={layer: RandomZoom, height_factor: 0.1, fill_mode: x}"], "Keras says: Unknown `fill_mode` x"),
        (["+augmentation.layers.x={layer: Dense, units: 3}"], "x: Dense has weights, and nothing trains them"),
        (["+augmentation.layers.x={layer: AugMix, seed: 1}"], "x: AugMix draws from Python's random numbers"),
        (["+augmentation.layers.x={layer: NoSuch}"],
         "augmentation.layers.x: Keras .* has no layer 'NoSuch'. Use a class name of keras.layers, RandomDownscale, "),
        (["+augmentation.layers.x={layer: TrivialAugmentWide}"], "Did you mean TrivialAugment\\?"),
        (["+augmentation.layers.x={layer: TrivialAugment, strength: 3}"],
         "^augmentation.layers.x.strength: TrivialAugment has no such argument. It has seed.$"),
        (["+augmentation.layers.x={layer: RandomResizedCrop, scale: [0.5, 2]}"],
         r"^augmentation.layers.x.scale: must be \[low, high\] with 0 < low <= high <= 1, received \[0.5, 2\].$"),
        (["+augmentation.layers.x={layer: RandomResizedCrop, ratio: 1.5}"],
         r"^augmentation.layers.x.ratio: must be \[low, high\] with 0 < low <= high, received 1.5.$"),
        (["+augmentation.layers.x={layer: RandomDownscale, probability: 0}"],
         "^augmentation.layers.x.probability: must be more than 0, up to 1, received 0.$"),
        (["+augmentation.layers.x={layer: RandomDownscale, seed: x}"],
         "^augmentation.layers.x.seed: must be 0 or more, received 'x'.$"),
        (["+augmentation.layers.x={layer: RandomFlip, seed: null}"],
         "^augmentation.layers.x: RandomFlip draws random numbers without a seed. A layer must take the argument `seed`"),
        (["+backbone.layers.x={layer: RandomShear, x_factor: 0.1}"], "cannot be saved and loaded again: .* leave it out"),
        (["model=mobilenet", "backbone.weights=null", "backbone.trainable_layers=all", "backbone.options={alpha: x}"],
         r"MobileNetV2 refuses {'alpha': 'x'} at 32 x 32"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_in_a_sentence(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_run(compose_config(f"preprocessing.image_size={SIZE}", *overrides), 3, "float32")


def test_a_layer_of_your_own_that_returns_nothing_is_refused(folder) -> None:
    folder.write(
        "forgot",
        "import keras\n\n\nclass Nothing(keras.layers.Layer):\n    def call(self, images):\n        images * 2\n",
    )
    for key in ("augmentation", "backbone"):
        config = folder.compose(f"+{key}.layers.x={{layer: forgot:Nothing}}")
        with pytest.raises(UserError, match=rf"^{key}.layers.x: forgot:Nothing returns None"):
            check_run(config, 2, "float32")


def test_layers_within_a_block_are_tried_too(base: Config) -> None:
    def residual(inner: str) -> Config:
        block = {"layer": "Residual", "layers": {"x": describe_layer(inner), "conv": CONV}}
        return with_backbone(base, layers={"conv": CONV, "block": block})

    check_run(residual("UnitNormalization"), 3, "float32")
    for inner in ("RandAugment", "Discretization", "GRU", "CategoryEncoding"):
        refuse(lambda: check_run(residual(inner), 3, "float32"), "backbone.layers.block")  # noqa: B023


def test_gradient_accumulation_is_an_option_of_the_optimizer() -> None:
    check_optimizer(compose_config("optimizer.options.gradient_accumulation_steps=2").optimizer)


def test_a_single_run_is_refused_before_its_images_are_decoded(catdog, tmp_path, cache) -> None:
    tiny = ("dataset=synthetic", "dataset.drawing.train_per_class=24", "dataset.drawing.validation_per_class=20")
    before = set((cache / "decoded").glob("*"))
    done = catdog("train", *tiny, "preprocessing.image_size=19", "+augmentation.layers.mixup={layer: MixUp}")
    assert done.code == 2
    assert "augmentation.layers.mixup: MixUp mixes images and changes their labels" in done.err
    assert "defect" not in done.text
    assert set((cache / "decoded").glob("*")) == before
    assert not (tmp_path / "mlruns").exists()


def test_what_runs_of_a_sweep_have_in_common_is_checked_once() -> None:
    asked: list[tuple[object, bool]] = []

    class Watched(Checked):
        def is_new(self, *read: object) -> bool:
            new = super().is_new(*read)
            asked.append((read[0], new))
            return new

    def new_for(*overrides: str, policy: str = "float32", classes: int = 2) -> list[object]:
        asked.clear()
        check_run(compose_config("preprocessing.image_size=32", *overrides), classes, policy, checked)
        return [what for what, new in asked if new]

    checked = Watched()
    assert new_for("model=cnn") == ["model", "optimizer", "loss", "callbacks"]
    # What the check does not read.
    assert new_for("model=cnn", "seed=3", "trainer.learning_rate=0.1", "trainer.epochs=3", "study=other") == []
    assert new_for("model=cnn", "speed.keep_features_mb=1", "trainer.batch_size=8") == []
    assert new_for("model=augmented") == ["augmentation", "augmentation"]
    assert new_for("model=preprocessed") == ["model"]
    assert new_for("model=cnn", "optimizer=sgd") == ["optimizer"]
    assert new_for("model=cnn", "loss=focal") == ["loss"]
    assert new_for("model=cnn", "trainer.ema=0.9") == ["callbacks"]
    # The precision is part of the model.
    assert new_for("model=cnn", policy="mixed_bfloat16") == ["model"]
    assert new_for("model=cnn", classes=3) == ["model", "loss"]
