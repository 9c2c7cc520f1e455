"""The schema of a run's config: one dataclass per group, the ranges of its keys, and the rules across groups.

Hydra composes `conf/` against these dataclasses, so an unknown key or a wrong type fails at composition. `load_config` then
turns the composed config into dataclasses. This checks the ranges of each group (its `__post_init__`) and the rules across groups
(the `__post_init__` of `Config`). No Keras, TensorFlow or MLflow is imported here: `--help`, `--cfg job` and a config error must
answer in under a second.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from catdog.config.addresses import canonical_address
from catdog.config.checks import (
    read_hints,
    require,
    require_choice,
    require_fraction,
    require_positive,
    require_reference,
)
from catdog.config.metrics import ACCURACY, FORMS, METRICS, require_keep_metric, require_metric
from catdog.system.errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent
PROJECT = PACKAGE.parent
# A wheel carries conf/ inside the package; a clone has it at the top.
CONF = next(path for path in (PACKAGE / "conf", PROJECT / "conf") if path.is_dir())

DEFAULT_STUDY = "cats_vs_dogs"
# As in conf/tracking/local.yaml; read now, because MLflow sets the variable itself once a store is open.
DEFAULT_URI = os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlruns/mlflow.db")
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
LOSSES = ("cross_entropy", "focal")
SOURCES = ("archive", "csv", "parquet", "webdataset", "drawn")
# The value of `dataset.groups` that takes the clusters of near-duplicates for groups.
NEAR_DUPLICATES = "near_duplicates"
# Parts of a backbone that are not layers of Keras but are named like them; `Residual` has layers of its own.
BLOCKS = ("Residual", "SqueezeExcite")
# The bounds of what trainer.images_seen chooses.
MIN_EPOCHS, MAX_EPOCHS = 10, 400


def option(help: str, default: Any = MISSING) -> Any:
    """Returns a dataclass field with a default and the help text that `--help` prints."""
    if isinstance(default, dict | list):
        return field(default_factory=lambda: default.copy(), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def _require_layers(key: str, layers: dict[str, Any]) -> None:
    for name, layer in layers.items():
        require(
            isinstance(layer, dict) and isinstance(layer.get("layer"), str),
            f"{key}.{name}",
            "a mapping with the key `layer` (a Keras layer's class name, or your own as module:class) and that layer's "
            "arguments",
            layer,
            f"For example: {name}: {{layer: RandomFlip, mode: horizontal}}.",
        )
        require_reference(f"{key}.{name}.layer", layer["layer"], or_name="a Keras layer's class name")
        if layer["layer"] == "Residual":
            inner = layer.get("layers")
            example = "{layer: Residual, layers: {conv: {layer: Conv2D, filters: 32, kernel_size: 3, padding: same}}}"
            require(
                isinstance(inner, dict) and bool(inner), f"{key}.{name}.layers", "the layers beside the shortcut, by name",
                inner, f"For example: {example}.",
            )  # fmt: skip
            _require_layers(f"{key}.{name}.layers", inner)


def _without_null(layers: dict[str, Any]) -> dict[str, Any]:
    """Returns the layers that are not null: null turns a layer off, and can be swept."""
    return {name: layer for name, layer in layers.items() if layer is not None}


def _find_layer_references(key: str, layers: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name, layer in layers.items():
        found[f"{key}.{name}"] = layer["layer"]
        if layer["layer"] == "Residual":
            found |= _find_layer_references(f"{key}.{name}.layers", layer["layers"])
    return found


@dataclass
class DrawingConfig:
    """What `dataset=synthetic` draws."""

    seed: int = option("seed of the drawn images", 7)
    train_per_class: int = option("drawn training images per class", 200)
    validation_per_class: int = option("drawn validation images per class, divided into val and test", 250)

    def __post_init__(self) -> None:
        require(self.seed >= 0, "dataset.drawing.seed", "0 or more", self.seed)
        require(self.train_per_class >= 1, "dataset.drawing.train_per_class", "1 or more", self.train_per_class)
        require(
            self.validation_per_class >= 2,
            "dataset.drawing.validation_per_class",
            "2 or more",
            self.validation_per_class,
        )


@dataclass
class DatasetConfig:
    """The images, and how they are divided into train, val and test."""

    name: str = option("the data set's name in tables and in MLflow")
    source: str = option(
        "archive: a URL, a zip or a folder with one folder per class; csv: a table of files; parquet, webdataset: such files, or "
        "a folder of them; drawn: pictures drawn from a seed",
        "archive",
    )
    archive: str | None = option(
        "URL, local zip or local folder with one folder per class; or what the source says", None
    )
    holdout_fraction: float = option("share of each class held out of training if the data has no validation/", 0.4)
    test_fraction: float = option(
        "share of the held-out images that becomes test; the rest is val; dataset=folder: 0.5", 0.2
    )
    split_seed: int = option("seed of the splits; `seed` never moves an image", 0)
    refresh: int = option(
        "1, 2, ...: val is drawn anew from train and val, as large as before, and test stays; 0: as the splits are", 0
    )
    near_duplicates: str = option(
        "one_side: mirrored, turned, resized, recoloured or cropped copies never end up in two splits; ignore: they may",
        "one_side",
    )
    groups: str | None = option(
        "images that belong together, such as the frames of a film: they stay in one split, and intervals count them as one. A "
        "pattern for file names, patient_(\\d+); a table, FILE.csv with the columns file,group; or near_duplicates",
        None,
    )
    max_images_per_class: int | None = option("take only the first N of each class and split, for a quick look", None)
    max_unreadable_fraction: float = option("a larger share of unreadable files than this is an error", 0.05)
    verify: str = option(
        "changed: a start reads only files whose size, times or inode have changed, and one in 1,000 of the others; full: it reads "
        "all of them", "changed",
    )  # fmt: skip
    cache: str = option("folder for downloads and decoded images (CATDOG_CACHE)", "${catdog_cache:}")
    cache_gb: float = option(
        "GB that the decoded images of train and val may take, for each size; above it training images are kept as JPEGs",
        50.0,
    )
    drawing: DrawingConfig = field(default_factory=DrawingConfig, metadata={"help": "what dataset=synthetic draws"})

    def __post_init__(self) -> None:
        require_choice("dataset.source", SOURCES, self.source)
        require(
            self.source == "drawn" or bool(self.archive),
            "dataset.archive",
            "a URL, a local zip or a local folder with one folder per class; or the file or folder of its source",
            self.archive,
            "Set dataset.archive=PATH, or use dataset=synthetic.",
        )
        require_fraction("dataset.holdout_fraction", self.holdout_fraction)
        require_fraction("dataset.test_fraction", self.test_fraction)
        require(self.split_seed >= 0, "dataset.split_seed", "0 or more", self.split_seed)
        require(self.refresh >= 0, "dataset.refresh", "0 or more", self.refresh)
        require_choice("dataset.near_duplicates", ("one_side", "ignore"), self.near_duplicates)
        require_choice("dataset.verify", ("changed", "full"), self.verify)
        require(self.cache_gb >= 0, "dataset.cache_gb", "0 or more", self.cache_gb)
        self._check_groups()
        if self.max_images_per_class is not None:
            require(self.max_images_per_class >= 1, "dataset.max_images_per_class", "1 or more, or null",
                     self.max_images_per_class)  # fmt: skip
        require(0 <= self.max_unreadable_fraction < 1, "dataset.max_unreadable_fraction", "0 or more and less than 1",
                 self.max_unreadable_fraction)  # fmt: skip

    def _check_groups(self) -> None:
        groups = self.groups
        if groups is None or is_group_file(groups):
            return
        if groups == NEAR_DUPLICATES:
            require(
                self.near_duplicates == "one_side", "dataset.groups", "something else where near-duplicates are ignored", groups,
                "Leave out dataset.near_duplicates=ignore.",
            )  # fmt: skip
            return
        allowed = (
            f"{NEAR_DUPLICATES}, a CSV file whose name ends in .csv, or a regular expression such as patient_(\\d+)"
        )
        require(bool(groups), "dataset.groups", allowed, groups)
        try:
            re.compile(groups)
        except (re.error, OverflowError, RecursionError) as error:
            require(False, "dataset.groups", allowed, groups, f"It does not compile: {error}.")


def is_group_file(groups: str) -> bool:
    """Whether a value of `dataset.groups` is the path of a table: no image's name ends like one, so no pattern does."""
    return groups.lower().endswith(".csv")


def require_no_archive_of_drawn(dataset: DatasetConfig) -> None:
    """Raises a UserError if drawn images were given an archive, which nothing would read."""
    require(
        dataset.source != "drawn" or dataset.archive is None,
        "dataset.archive", f"null where the images are drawn (dataset={dataset.name})", dataset.archive,
        "For your own images set dataset=folder.",
    )  # fmt: skip


@dataclass
class MixConfig:
    """Mixing of training images and their labels."""

    mixup: float = option("alpha of MixUp, which blends two images, such as 0.2; 0: off", 0.0)
    cutmix: float = option("alpha of CutMix, which puts a part of one image into another, such as 1; 0: off", 0.0)
    probability: float = option("share of the batches that are mixed", 1.0)

    def __post_init__(self) -> None:
        for key in ("mixup", "cutmix"):
            value = getattr(self, key)
            require(0 <= value < float("inf"), f"augmentation.mix.{key}", "0 (off) or more", value)
        require(0 < self.probability <= 1, "augmentation.mix.probability", "more than 0, up to 1", self.probability)

    @property
    def is_on(self) -> bool:
        """Whether images are mixed."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass
class AugmentationConfig:
    """The layers that vary training images at random."""

    name: str = option("its name in tables")
    layers: dict[str, Any] = option(
        "Keras layers and blocks in order, each under a name you choose: {layer: RandomFlip, mode: ...}; null turns it off",
        {},
    )
    mix: MixConfig = field(default_factory=MixConfig, metadata={"help": "mixing of images and their labels"})

    def __post_init__(self) -> None:
        self.layers = _without_null(self.layers)
        _require_layers("augmentation.layers", self.layers)


@dataclass
class PreprocessingConfig:
    """The size and the pixel range in which images reach the backbone."""

    name: str = option("its name in tables")
    pixel_range: list[float] = option("the values that pixels 0 and 255 are scaled to, as [low, high]", [0.0, 1.0])
    image_size: int = option(
        "height and width in pixels that every image is resized to; 0: chosen by the training images, up to max_size",
        160,
    )
    max_size: int | None = option(
        "where image_size is 0: the size is the smallest multiple of 32 that covers the shorter side of half of the images, from "
        "64 up to this",
        None,
    )
    stored_as: str = option(
        "how the cache keeps training images: pixels; jpeg: JPEGs of this size, a fifth of the space, decoded again in each epoch; "
        "auto: jpeg if pixels would take more than dataset.cache_gb",
        "auto",
    )

    def __post_init__(self) -> None:
        require_choice("preprocessing.stored_as", ("auto", "pixels", "jpeg"), self.stored_as)
        require(
            len(self.pixel_range) == 2 and self.pixel_range[0] < self.pixel_range[1],
            "preprocessing.pixel_range", "[low, high] with low < high", self.pixel_range,
        )  # fmt: skip
        size, largest = self.image_size, self.max_size
        require(
            largest is None or 64 <= largest <= 4096, "preprocessing.max_size", "64 to 4096 pixels, or null", largest
        )
        require(8 <= size <= 4096 or (size == 0 and largest is not None), "preprocessing.image_size",
                "8 to 4096 pixels, or 0 where preprocessing.max_size is set", size)  # fmt: skip


@dataclass
class BackboneConfig:
    """The part of the model that turns images into feature maps."""

    name: str = option("its name in tables")
    application: str | None = option(
        "a model of keras.applications, such as MobileNetV2; null: built from layers", None
    )
    builder: str | None = option(
        "your own function, module:function: image shape and options -> keras.Model of feature maps; replaces application and "
        "layers",
        None,
    )
    options: dict[str, Any] = option("further arguments of the application or the builder", {})
    layers: dict[str, Any] = option("layers by name, in order, if application and builder are null", {})
    weights: str | None = option("imagenet, null (random) or a weights file (CATDOG_WEIGHTS)", None)
    trainable_layers: Any = option("0 (frozen), all, or N: the last N layers", "all")
    pixel_range: list[float] | None = option("[low, high] that its weights expect; null: any", None)

    def __post_init__(self) -> None:
        require_reference("backbone.builder", self.builder)
        if self.builder and (self.layers or self.application):
            # A builder given on the command line replaces the backbone of the chosen file, and that file's name too.
            self.layers, self.application, self.name = {}, None, self.builder
        self.layers = _without_null(self.layers)
        _require_layers("backbone.layers", self.layers)
        require(
            bool(self.builder) or bool(self.application) != bool(self.layers),
            "backbone", "one of backbone.application, backbone.layers and backbone.builder",
            {"application": self.application, "layers": list(self.layers)},
        )  # fmt: skip
        train = self.trainable_layers
        # In Python a bool is an int.
        valid = train == "all" or (isinstance(train, int) and not isinstance(train, bool) and train >= 0)
        require(valid, "backbone.trainable_layers", "0 or more, or all", self.trainable_layers)
        require(
            self.weights != "imagenet" or bool(self.application),
            "backbone.weights", "null or a weights file where the backbone is no application of Keras", self.weights,
        )  # fmt: skip
        require(
            self.trainable_layers == "all" or self.weights is not None,
            "backbone.trainable_layers", "all where backbone.weights is null", self.trainable_layers,
            "Random weights that are not trained learn nothing.",
        )  # fmt: skip


@dataclass
class HeadConfig:
    """The part of the model that turns feature maps into logits."""

    name: str = option("its name in tables")
    dropout: float = option("share of the backbone's features dropped in training", 0.5)
    pooling: str = option("max (2 x 2, then flatten), or global_average", "max")
    units: int = option("units of the dense layer before the output; 0: no such layer", 128)

    def __post_init__(self) -> None:
        require(0 <= self.dropout < 1, "head.dropout", "0 or more and less than 1", self.dropout)
        require_choice("head.pooling", ("max", "global_average"), self.pooling)
        require(self.units >= 0, "head.units", "0 (no dense layer) or more", self.units)


@dataclass
class ModelConfig:
    """A whole model of the user's own, instead of backbone and head."""

    builder: str | None = option(
        "your own function, module:function: image shape, classes and options -> keras.Model of logits; replaces backbone and "
        "head",
        None,
    )
    options: dict[str, Any] = option("further arguments of model.builder", {})

    def __post_init__(self) -> None:
        require_reference("model.builder", self.builder)
        require(
            bool(self.builder) or not self.options, "model.options", "empty where model.builder is null", self.options
        )


@dataclass
class OptimizerConfig:
    """The optimizer and its arguments; the learning rate is in `TrainerConfig`."""

    name: str = option("its name in tables", "adam")
    algorithm: str = option("a class of keras.optimizers, or your own as module:class", "Adam")
    weight_decay: float | None = option(
        "decoupled weight decay: each step subtracts this times the learning rate times the weight; never for biases and norms; "
        "null: the class's default",
        None,
    )
    momentum: float | None = option("0 or more and less than 1; null: the class's default", None)
    nesterov: bool | None = option("use Nesterov momentum; null: the class's default", None)
    betas: list[float] | None = option(
        "decay rates of the moving averages, [first, second]; null: the class's default", None
    )
    epsilon: float | None = option("added to a divisor to avoid division by 0; null: the class's default", None)
    clipnorm: float | None = option("largest norm of each weight's gradient; null: not clipped", None)
    global_clipnorm: float | None = option("largest norm of all gradients together; null: not clipped", None)
    clipvalue: float | None = option("largest absolute value in a gradient; null: not clipped", None)
    options: dict[str, Any] = option("further arguments of the class", {})

    def __post_init__(self) -> None:
        require_reference("optimizer.algorithm", self.algorithm, or_name="a class of keras.optimizers, such as AdamW")
        decay, momentum = self.weight_decay, self.momentum
        require(decay is None or 0 <= decay < float("inf"), "optimizer.weight_decay", "0 or more, or null", decay)
        require(
            momentum is None or 0 <= momentum < 1, "optimizer.momentum", "0 or more and less than 1, or null", momentum
        )
        require(
            self.betas is None or (len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)),
            "optimizer.betas", "two numbers, each 0 or more and less than 1, or null", self.betas,
        )  # fmt: skip
        clips = ("clipnorm", "global_clipnorm", "clipvalue")
        for key in ("epsilon", *clips):
            require_positive(f"optimizer.{key}", getattr(self, key))
        chosen = [key for key in clips if getattr(self, key) is not None]
        require(len(chosen) <= 1, "optimizer", "clipped in one way: one of " + ", ".join(clips), chosen)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that are given, without those left to the class and without the name."""
        kept = {key: value for key, value in asdict(self).items() if value is not None and value != {}}
        return {key: value for key, value in kept.items() if key != "name"}


@dataclass
class LossConfig:
    """The training loss."""

    name: str = option("its name in tables", "cross_entropy")
    function: str = option(
        "cross_entropy, focal, or your own as module:function: labels and logits -> the loss of each image",
        "cross_entropy",
    )
    label_smoothing: float = option("share of each label that is spread over all classes", 0.0)
    gamma: float | None = option(
        "focal: the larger, the less an image counts that is already classified well; null: 2", None
    )
    alpha: float | None = option("focal: factor of the whole loss; null: 0.25", None)
    options: dict[str, Any] = option("further arguments of your own function", {})

    def __post_init__(self) -> None:
        require_reference("loss.function", self.function, or_name="one of " + ", ".join(LOSSES))
        own = ":" in self.function
        require(own or self.function in LOSSES, "loss.function",
                f"one of {', '.join(LOSSES)}, or your own as module:function", self.function)  # fmt: skip
        require(
            0 <= self.label_smoothing < 1, "loss.label_smoothing", "0 or more and less than 1", self.label_smoothing
        )
        require(not own or not self.label_smoothing, "loss.label_smoothing", "0 where loss.function is your own",
                self.label_smoothing, "Give it to your function as an option: loss.options.")  # fmt: skip
        for key in ("gamma", "alpha"):
            value = getattr(self, key)
            require(
                value is None or self.function == "focal", f"loss.{key}", "null where loss.function is not focal", value
            )
        require(self.gamma is None or 0 <= self.gamma < float("inf"), "loss.gamma", "0 or more, or null", self.gamma)
        require_positive("loss.alpha", self.alpha)
        require(
            own or not self.options,
            "loss.options",
            "empty where loss.function is not your own",
            self.options,
            "To sweep your own function, with options, against another loss, give it a file: conf/loss/NAME.yaml.",
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that differ from cross-entropy without smoothing, without the name."""
        default = asdict(LossConfig())
        return {key: value for key, value in asdict(self).items() if key != "name" and value != default[key]}


@dataclass
class TrainerConfig:
    """How a model is trained."""

    epochs: int = option("passes over the training images; 0: as many as images_seen takes", 20)
    images_seen: int | None = option(
        "where epochs is 0: about how many images training sees altogether, in 10 to 400 epochs", None
    )
    batch_size: int = option("images per step", 32)
    learning_rate: float = option("the optimizer's learning rate", 0.001)
    precision: str = option("auto, float32, mixed_float16 or mixed_bfloat16; auto picks the fastest safe one", "auto")
    devices: str = option("one: the first GPU, or the CPU if there is none; all: every GPU, by MirroredStrategy", "one")
    schedule: str = option("constant, or cosine: the learning rate falls to 0 over trainer.epochs", "constant")
    warmup_epochs: int = option("epochs over which the learning rate rises from 0", 0)
    patience: int | None = option("stop after this many epochs without a better one by keep_metric; null: never", None)
    deterministic: bool = option("bit-identical results every time, also after an interruption; slower on a GPU", True)
    jit: str = option(
        "compile steps with XLA: always, never, or auto: on one GPU, unless trainer.deterministic", "auto"
    )
    keep: str = option(
        "which epoch's model is kept: best: the best on the val images by keep_metric, then the lower val loss; last: the last "
        "epoch",
        "best",
    )
    keep_metric: str = option(f"what the best epoch is chosen by: {', '.join(METRICS)}", ACCURACY)
    keep_probabilities: bool = option(
        "store the probabilities for the validation images after every epoch, not only right or wrong and the loss",
        False,
    )
    ema: float | None = option(
        "average the weights over about 1 / (1 - ema) steps; validation and the kept model use the average; null: off",
        None,
    )
    sizes: Any = option(
        "smaller images in part of the training: {SHARE: SIZE}, from which share of the epochs on, in pixels or as a factor of "
        "preprocessing.image_size, such as {0: 96, 0.5: 128} or {0: 0.75, 0.5: 1}; null: always that size",
        None,
    )
    validate_every: int = option("validate after every N-th epoch and the last, instead of after each", 1)
    average_flips: bool = option(
        "the saved model answers with the mean over the image and its mirror image; twice the time an image", False
    )
    backbone_rate: float = option(
        "factor of the learning rate in the backbone, such as 0.1 to fine-tune pretrained weights", 1.0
    )
    freeze_epochs: int = option("epochs at the start in which the backbone does not change, only the head", 0)
    train_accuracy: str = option(
        "seen: accuracy on images as training sees them, augmented; clean: on a fixed sample of them as they are, after each "
        "epoch; auto: clean if augmentation.mix is on, otherwise seen",
        "auto",
    )
    class_weights: Any = option(
        "none; balanced: every class counts the same in the training loss, however many images it has; or {CLASS: WEIGHT}",
        "none",
    )
    callbacks: Any = option(
        "your own Keras callbacks: [module:class], or under a name you choose: {ema: {callback: module:class, ...its options}}",
        None,
    )

    def __post_init__(self) -> None:
        require(
            self.images_seen is None or self.images_seen >= 1,
            "trainer.images_seen",
            "1 or more, or null",
            self.images_seen,
        )
        require(self.epochs >= 1 or (self.epochs == 0 and self.images_seen is not None), "trainer.epochs",
                "1 or more, or 0 where trainer.images_seen is set", self.epochs)  # fmt: skip
        # Not known yet if the training images decide.
        epochs = self.epochs or MIN_EPOCHS
        require(self.batch_size >= 1, "trainer.batch_size", "1 or more", self.batch_size)
        require(0 < self.learning_rate < float("inf"), "trainer.learning_rate", "more than 0", self.learning_rate)
        require_choice("trainer.schedule", ("constant", "cosine"), self.schedule)
        require(0 <= self.warmup_epochs < epochs, "trainer.warmup_epochs", "0 or more and less than trainer.epochs",
                 self.warmup_epochs)  # fmt: skip
        require(self.patience is None or self.patience >= 1, "trainer.patience", "1 or more, or null", self.patience)
        require_choice("trainer.precision", PRECISIONS, self.precision)
        require_choice("trainer.devices", ("one", "all"), self.devices)
        require_choice("trainer.jit", ("auto", "always", "never"), self.jit)
        require(self.jit != "always" or not self.deterministic, "trainer.jit",
                 "auto or never where trainer.deterministic is set", self.jit,
                 "XLA does not repeat every operation bit for bit: add trainer.deterministic=false.")  # fmt: skip
        require(self.jit != "always" or self.devices == "one", "trainer.jit", "auto or never where trainer.devices is all",
                 self.jit)  # fmt: skip
        require_choice("trainer.keep", ("best", "last"), self.keep)
        require_keep_metric("trainer.keep_metric", self.keep_metric)
        require(self.ema is None or 0 < self.ema < 1, "trainer.ema", "more than 0 and less than 1, or null", self.ema)
        require(0 <= self.backbone_rate < float("inf"), "trainer.backbone_rate", "0 or more", self.backbone_rate)
        require(0 <= self.freeze_epochs < epochs, "trainer.freeze_epochs", "0 or more and less than trainer.epochs",
                 self.freeze_epochs)  # fmt: skip
        require_choice("trainer.train_accuracy", ("auto", "seen", "clean"), self.train_accuracy)
        self.sizes = _require_sizes(self.sizes)
        require(self.validate_every >= 1, "trainer.validate_every", "1 or more", self.validate_every)
        require(self.validate_every == 1 or self.callbacks is None, "trainer.validate_every",
                "1 where trainer.callbacks is set", self.validate_every,
                "Callbacks may need the results of every epoch.")  # fmt: skip
        _require_class_weights(self.class_weights)
        list_callbacks(self.callbacks)

    def list_sizes(self, image_size: int) -> dict[float, int]:
        """Returns the height and width in pixels of training images, by the share of the epochs from which on they hold.

        A factor of the size is rounded to a multiple of 8.

        Args:
            image_size: `preprocessing.image_size`, the size without `sizes`.
        """
        sizes = self.sizes or {"0": image_size}
        return {
            float(share): int(size)
            if size > 1
            else max(8, round(size * image_size / 8) * 8)
            if size < 1
            else image_size
            for share, size in sizes.items()
        }

    def find_size(self, epoch: int, image_size: int) -> int:
        """Returns the height and width in pixels of training images in an epoch, from 1; `image_size` as for `list_sizes`."""
        done = (epoch - 1) / self.epochs
        return next(size for share, size in reversed(self.list_sizes(image_size).items()) if share <= done)

    def is_validated(self, epoch: int) -> bool:
        """Whether there is a validation after an epoch, from 1."""
        return epoch % self.validate_every == 0 or epoch == self.epochs


def _require_sizes(sizes: Any) -> dict[str, float] | None:
    """Returns `trainer.sizes` in the order of its shares; raises UserError unless they are shares of the epochs."""
    if sizes is None:
        return None
    allowed = "null, or {SHARE: SIZE} with shares of the epochs from 0 to below 1, such as {0: 96, 0.5: 128} or {0: 0.75, 0.5: 1}"
    require(isinstance(sizes, dict) and bool(sizes), "trainer.sizes", allowed, sizes)
    found: dict[float, float] = {}
    for share, size in sizes.items():
        try:
            number = float(share)
        except (TypeError, ValueError):
            number = -1.0
        is_size = not isinstance(size, bool) and (
            (isinstance(size, int) and 8 <= size <= 4096) or (isinstance(size, int | float) and 0 < size <= 1)
        )
        require(0 <= number < 1 and number not in found and is_size, "trainer.sizes",
                f"{allowed}; sizes are 8 to 4096 pixels, or a factor above 0, up to 1", sizes)  # fmt: skip
        found[number] = size
    require(
        0 in found, "trainer.sizes", "a mapping that begins with the share 0", sizes, "For example: {0: 96, 0.5: 128}."
    )
    # As text, so that the config reads the same after a detour by YAML or JSON.
    return {f"{share:g}": found[share] for share in sorted(found)}


def _require_class_weights(weights: Any) -> None:
    valid = weights in ("none", "balanced") or (
        isinstance(weights, dict)
        and bool(weights)
        and all(
            isinstance(w, int | float) and not isinstance(w, bool) and 0 <= w < float("inf") for w in weights.values()
        )
    )
    require(
        valid,
        "trainer.class_weights",
        "none, balanced, or a number of 0 or more for each class, {CLASS: WEIGHT}",
        weights,
    )


def list_callbacks(callbacks: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """Returns what `trainer.callbacks` names, in order: (config key, NAME of Keras or module:class, options).

    Raises:
        UserError: it is neither a list nor a mapping of callbacks.
    """
    if callbacks is None:
        return []
    key = "trainer.callbacks"
    allowed = "a list such as [my_callbacks:Ema], or a mapping such as {ema: {callback: my_callbacks:Ema, decay: 0.99}}"
    require(isinstance(callbacks, list | dict), key, allowed, callbacks)
    named = callbacks.items() if isinstance(callbacks, dict) else enumerate(callbacks)
    found = []
    for name, item in named:
        settings = {"callback": item} if isinstance(item, str) else item
        require(
            isinstance(settings, dict) and isinstance(settings.get("callback"), str), f"{key}.{name}", allowed, item
        )
        options = {option: value for option, value in settings.items() if option != "callback"}
        require_reference(f"{key}.{name}", settings["callback"], or_name="a class of keras.callbacks")
        found.append((f"{key}.{name}", settings["callback"], options))
    return found


@dataclass
class SpeedConfig:
    """Switches for the parts of training that make it faster."""

    name: str = option("its name in tables")
    fold_norms: bool = option(
        "fold batch norms that do not train, as those of a pretrained backbone, into the convolutions", True
    )
    fused_norms: bool = option("on a CPU, a batch norm that trains is one operation instead of many", True)
    relu_after_pooling: bool = option(
        "ReLU after max-pooling instead of before it: the same result from fewer elements", True
    )
    fast_dropout: bool = option("dropout in the head draws 8 random bits for each element instead of 32", True)
    fast_augmentation: bool = option("augment with OpenCV on 8-bit pixels, where it supports the Keras layers", True)
    fast_features: bool = option(
        "on a CPU, extract the features of a backbone's frozen layers with constant weights, and run the first layers on a few "
        "images at a time",
        True,
    )
    keep_features_mb: int = option(
        "memory for the features, made by a backbone's frozen layers, of images that are not augmented; features that do not fit "
        "are computed again every epoch",
        1024,
    )
    steps_per_execution: int = option(
        "most steps that TensorFlow takes without a word to Python, for small models on a GPU; a divisor of the steps of an epoch "
        "is taken, and 1 with trainer.ema or callbacks",
        1,
    )

    def __post_init__(self) -> None:
        require(self.keep_features_mb >= 0, "speed.keep_features_mb", "0 or more", self.keep_features_mb)
        require(self.steps_per_execution >= 1, "speed.steps_per_execution", "1 or more", self.steps_per_execution)


@dataclass
class TrackingConfig:
    """Where runs are recorded."""

    uri: str = option("MLflow's tracking address (MLFLOW_TRACKING_URI)")
    artifacts: str | None = option(
        "folder, or s3://BUCKET/PATH, for artifacts of new studies; null: the server decides", None
    )
    system_metrics: bool = option("log CPU, memory and GPU use while a run lasts", False)
    outbox: str = option(
        "folder for unfinished runs: their checkpoints, and the records that MLflow does not have yet", "mlruns/outbox"
    )
    wait_s: float = option("how long a finished command waits for a tracking server that does not answer", 60.0)

    def __post_init__(self) -> None:
        self.uri = canonical_address(self.uri)
        require(self.wait_s >= 0, "tracking.wait_s", "0 or more seconds", self.wait_s)


@dataclass
class PromoteConfig:
    """When the best run of a sweep becomes champion."""

    enabled: bool = option("register the best run of a sweep", True)
    registered_model: str | None = option("name in the MLflow registry; null: that of the study", None)
    replace_other_data: bool = option(
        "if the images or the splits have changed, the best run on the new ones becomes champion", True
    )
    rule: str = option(
        "better: a new model becomes champion if it is shown to be better; not_worse: if it is better in the mean, and shown not "
        "to be worse by more than the margin",
        "better",
    )
    error: float = option(
        "probability that a champion is ever replaced by one that is no better, in all challenges on the same images",
        0.05,
    )
    metric: str = option(f"what models are compared by: {FORMS}", ACCURACY)
    margin: float = option(
        "differences up to this, in the metric's unit, are as good as none, and what rule=not_worse has to exclude",
        0.01,
    )
    calibration_margin: float = option("and its calibration error may be at most this much worse", 0.02)
    force: bool = option("make it champion in any case, and record that it was forced", False)

    def __post_init__(self) -> None:
        name = self.registered_model
        valid = name is None or (bool(name.strip(". ")) and not set("/:@'\"") & set(name))
        require(valid, "promote.registered_model", "a name without / : @ and quotes, or null", name)
        require_choice("promote.rule", ("better", "not_worse"), self.rule)
        require(0 < self.error < 1, "promote.error", "more than 0 and less than 1", self.error)
        require_metric("promote.metric", self.metric)
        most = 1 if self.metric == ACCURACY else float("inf")
        allowed = "0 or more and less than 1" if self.metric == ACCURACY else "0 or more"
        require(0 <= self.margin < most, "promote.margin", allowed, self.margin)
        require(0 <= self.calibration_margin <= 1, "promote.calibration_margin", "0 to 1", self.calibration_margin)


@dataclass
class Config:
    """One composed run."""

    study: str = option("the question; one MLflow experiment", DEFAULT_STUDY)
    seed: int = option("seed of the initial weights, the order of images, augmentation and dropout", 0)
    reuse: str = option(
        "exact: a finished run of the same config, data, code, libraries and precision is not repeated; never: it is",
        "exact",
    )
    dataset: DatasetConfig = MISSING
    augmentation: AugmentationConfig = MISSING
    preprocessing: PreprocessingConfig = MISSING
    backbone: BackboneConfig = MISSING
    head: HeadConfig = MISSING
    # Not a config group: the files in conf/model/ choose other groups.
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = MISSING
    loss: LossConfig = MISSING
    trainer: TrainerConfig = MISSING
    speed: SpeedConfig = MISSING
    tracking: TrackingConfig = MISSING
    promote: PromoteConfig = MISSING

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", "0 to 2147483647", self.seed)
        require_choice("reuse", ("exact", "never"), self.reuse)
        require_study(self.study)
        require(
            not self.has_backbone_rate or (self.model.builder is None and self.backbone.trainable_layers != 0),
            "trainer.freeze_epochs" if self.trainer.freeze_epochs else "trainer.backbone_rate",
            "left out where no backbone trains (backbone.trainable_layers=0, or model.builder)",
            self.trainer.freeze_epochs or self.trainer.backbone_rate,
            "Let a part of the backbone train: backbone.trainable_layers=20.",
        )
        mixing = self.augmentation.mix.is_on
        require(
            not mixing or self.trainer.class_weights == "none", "trainer.class_weights", "none where augmentation.mix is on",
            self.trainer.class_weights, "A mixed image has no single class that could be weighed.",
        )  # fmt: skip
        require(
            not mixing or self.trainer.train_accuracy != "seen", "trainer.train_accuracy",
            "auto or clean where augmentation.mix is on", self.trainer.train_accuracy, "A mixed image has no single right answer.",
        )  # fmt: skip
        require(
            self.trainer.sizes is None or self.model.builder is not None or self.head.pooling == "global_average",
            "trainer.sizes", "null where head.pooling is max", self.trainer.sizes,
            "Flattened features have as many weights as the image has pixels: use head.pooling=global_average.",
        )  # fmt: skip
        size = self.preprocessing.image_size
        require(
            size == 0 or max(self.trainer.list_sizes(size).values()) <= size, "trainer.sizes",
            f"at most preprocessing.image_size={size}", self.trainer.sizes,
        )  # fmt: skip
        require_no_archive_of_drawn(self.dataset)
        expected = self.backbone.pixel_range
        if (
            self.model.builder is None
            and expected is not None
            and list(expected) != list(self.preprocessing.pixel_range)
        ):
            raise UserError(
                f"preprocessing={self.preprocessing.name} gives pixels in {self.preprocessing.pixel_range}, but "
                f"backbone={self.backbone.name} expects {list(expected)}. {_advise_range(list(expected))}"
            )

    @property
    def has_clean_accuracy(self) -> bool:
        """Whether train/accuracy is measured on a fixed sample of images as they are."""
        return self.trainer.train_accuracy == "clean" or self.augmentation.mix.is_on

    @property
    def fuses_norms(self) -> bool:
        """Whether the backbone has batch norms that train, in Keras' own layers, and `speed.fused_norms` makes them faster."""
        backbone = self.backbone
        if self.model.builder or backbone.builder or backbone.weights is not None or not self.speed.fused_norms:
            return False
        own = any(":" in name for name in _find_layer_references("backbone.layers", backbone.layers).values())
        return not own and (bool(backbone.application) or _has_norm(backbone.layers))

    @property
    def has_backbone_rate(self) -> bool:
        """Whether the backbone has a learning rate of its own."""
        return self.trainer.backbone_rate != 1 or self.trainer.freeze_epochs > 0


GROUPS: dict[str, type] = {
    "dataset": DatasetConfig,
    "augmentation": AugmentationConfig,
    "preprocessing": PreprocessingConfig,
    "backbone": BackboneConfig,
    "head": HeadConfig,
    "optimizer": OptimizerConfig,
    "loss": LossConfig,
    "trainer": TrainerConfig,
    "speed": SpeedConfig,
    "tracking": TrackingConfig,
    "promote": PromoteConfig,
}


AnyConfig = TypeVar("AnyConfig")


def load_tracking(uri: str) -> TrackingConfig:
    """Returns the tracking section for a store: `conf/tracking/local.yaml`, or `server.yaml` for a server, with this address."""
    choice = "server" if uri.startswith(("http://", "https://")) else "local"
    content = OmegaConf.load(CONF / "tracking" / f"{choice}.yaml")
    assert isinstance(content, DictConfig)
    content.pop("defaults")
    content["uri"] = uri
    loaded = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrackingConfig), content))
    assert isinstance(loaded, TrackingConfig)
    return loaded


def require_study(study: str) -> None:
    """Raises a UserError unless this is a valid name of a study."""
    is_name = isinstance(study, str) and bool(study.strip()) and "/" not in study
    require(is_name, "study", "a name without slashes", study)


def _advise_range(expected: list[float]) -> str:
    files = sorted((CONF / "preprocessing").glob("*.yaml"))
    names = [path.stem for path in files if OmegaConf.select(OmegaConf.load(path), "pixel_range") == expected]
    return "Use " + " or ".join(f"preprocessing={name}" for name in names) + "." if names else ""


def default_cache() -> str:
    """Returns the folder for downloads and decoded images: CATDOG_CACHE, or the user's cache folder."""
    import platformdirs

    return os.environ.get("CATDOG_CACHE") or platformdirs.user_cache_dir("catdog", appauthor=False)


def _epochs_below(most: int, epochs: int) -> int:
    """Returns the epochs of a recipe's warm-up or frozen backbone: `most`, or fewer so that the training is longer.

    Args:
        most: as the recipe has it.
        epochs: `trainer.epochs`, whose 0 stands for `MIN_EPOCHS` or more.
    """
    return max(0, min(most, (epochs or MIN_EPOCHS) - 1))


def register() -> None:
    """Registers a run's schemas with Hydra, and the resolvers that `conf/` uses."""
    OmegaConf.register_new_resolver("catdog_cache", default_cache, replace=True)
    OmegaConf.register_new_resolver("catdog_file", lambda path: str(PROJECT / path), replace=True)
    OmegaConf.register_new_resolver("catdog_epochs_below", _epochs_below, replace=True)
    store = ConfigStore.instance()
    for name, schema in (GROUPS | {"config": Config}).items():
        store.store(group="schema", name=name, node=_open_options(OmegaConf.structured(schema)), provider="catdog")


def _open_options(node: Any) -> Any:
    """Returns a schema whose `options` accept any key without Hydra's `+`: only the user's function knows which keys are valid."""
    for key in node:
        held = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(held, DictConfig):
            if key == "options":
                OmegaConf.set_struct(held, False)
            else:
                _open_options(held)
    return node


def load_config(composed: DictConfig, schema: type[AnyConfig]) -> AnyConfig:
    """Returns the composed config as the dataclass `schema`, checked.

    Raises:
        UserError: a value is missing, out of range, or contradicts another group.
    """
    _require_known(composed, schema)
    try:
        loaded = OmegaConf.to_object(composed)
    except MissingMandatoryValue as error:
        key = error.full_key or "?"
        hint = {"tracking.uri": "for example tracking.uri=http://127.0.0.1:5000"}.get(key, f"set {key}=...")
        raise UserError(f"{key}: has no value; {hint}.") from error
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0] + (f" (key {error.full_key})" if error.full_key else "")) from error
    assert isinstance(loaded, schema)
    return loaded


def nested_schema(schema: type, name: str) -> type | None:
    """Returns the dataclass that the field `name` of a schema holds, or None for a plain value."""
    hint = read_hints(schema)[name]
    return hint if isinstance(hint, type) and is_dataclass(hint) else None


def _require_known(composed: DictConfig, schema: type, prefix: str = "") -> None:
    """Refuses keys that were added with Hydra's `+`: they would be accepted, but nothing would read them."""
    known = [f.name for f in fields(schema)]
    for name in map(str, composed):
        require(name in known, f"{prefix}{name}", "a key that catdog knows: " + ", ".join(known), name)
        nested = nested_schema(schema, name)
        if nested and not OmegaConf.is_missing(composed, name):
            _require_known(composed[name], nested, f"{prefix}{name}.")


def _has_norm(layers: Mapping[str, Any]) -> bool:
    """Whether layers of a backbone, or of blocks in it, contain a batch norm."""
    return any(
        layer["layer"] == "BatchNormalization" or (layer["layer"] in BLOCKS and _has_norm(layer.get("layers") or {}))
        for layer in layers.values()
    )


def find_references(config: Config) -> dict[str, str]:
    """Returns the user's own code that the config names: config key -> module:object."""
    named = {
        "model.builder": config.model.builder,
        "optimizer.algorithm": config.optimizer.algorithm,
        "loss.function": config.loss.function,
        **{key: name for key, name, _ in list_callbacks(config.trainer.callbacks)},
        **{f"augmentation.layers.{name}": layer["layer"] for name, layer in config.augmentation.layers.items()},
    }
    if not config.model.builder:
        named["backbone.builder"] = config.backbone.builder
        named |= _find_layer_references("backbone.layers", config.backbone.layers)
    return {key: name for key, name in named.items() if name and ":" in name}


def list_options(schema: type, prefix: str = "") -> list[tuple[str, Any, str]]:
    """Returns (dotted key, default or "", help) of every leaf of a schema, for `--help` and for error messages."""
    options: list[tuple[str, Any, str]] = []
    for f in fields(schema):
        nested = nested_schema(schema, f.name)
        if nested:
            options += list_options(nested, f"{prefix}{f.name}.")
            continue
        # Containers have a default factory instead of a default. An interpolation such as ${catdog_cache:} tells a reader nothing.
        plain = f.default is not dataclasses.MISSING and f.default != MISSING and not str(f.default).startswith("${")
        options.append((prefix + f.name, f.default if plain else "", f.metadata.get("help", "")))
    return options
