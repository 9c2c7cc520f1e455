"""Builds the model that trains (preprocessing, backbone, head) and the one that is saved (from raw pixels to probabilities)."""

import contextlib
import dataclasses
import inspect
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from catdog.config.schema import BLOCKS, BackboneConfig, Config, HeadConfig, PreprocessingConfig, find_references
from catdog.system.errors import UserError
from catdog.system.own_objects import describe_failure
from catdog.system.wording import plural
from catdog.training.blocks import RESIDUAL, Block, Residual, SqueezeExcite
from catdog.training.fast.batchnorm_folding import fold_norms
from catdog.training.own_code import call, load_class, quote_error
from catdog.training.precision import use_policy

log = logging.getLogger(__name__)

WAYS_OUT = (
    "Set backbone.weights (or the environment variable CATDOG_WEIGHTS) to a weights file, backbone.weights=null for random "
    "weights with backbone.trainable_layers=all, or use model=drawn_mini, which needs no download."
)
# Keras warns if weights were trained at another size than preprocessing.image_size, but that is the user's choice.
UNUSUAL_SIZE = "`input_shape` is undefined or non-square"
# With the imports before it, a user gets the message within 20 s.
MAX_WEIGHTS_WAIT_S = 8.0


def build_model(config: Config, classes: int, policy: str) -> Any:
    """Returns the model that trains: images in, logits out.

    Input: uint8 or float32 (B, H, W, 3) in [0, 255], where H = W = `preprocessing.image_size`. Output: float32 logits
    (B, classes). The output layer is float32 in every policy: a softmax with an 8-bit or 11-bit mantissa makes too coarse a loss.

    Args:
        config: its sections preprocessing, backbone, head and speed are used.
        classes: number of classes.
        policy: Keras dtype policy of everything between input and logits.

    Raises:
        UserError: weights are not available or do not fit, or Keras does not have a layer.
    """
    import keras

    size = config.preprocessing.image_size
    with use_policy(policy):
        images = keras.Input((size, size, 3), dtype="float32", name="images")
        features = build_preprocessing(config.preprocessing)(images)
        if config.model.builder:
            return _build_own_model(config, images, features, classes)
        settings, relu_in_head = config.backbone, False
        # Not if only the last N layers train: with extra layers, other ones would be the last N.
        if config.speed.relu_after_pooling and settings.layers and settings.trainable_layers in (0, "all"):
            settings, relu_in_head = move_relus(settings, config.head)
        backbone = build_backbone(settings, size)
        if is_frozen(config):
            if config.speed.fold_norms:
                backbone = _fold_own(backbone) if has_own_layers(config) else fold_norms(backbone)
                backbone.trainable = False
            # In inference mode: dropout or drop-connect in a frozen backbone would only add noise.
            features = backbone(features, training=False)
        else:
            features = _speed_up_trained(config, backbone)(features)
        logits = build_head(
            config.head, features, classes, relu_after_pooling=relu_in_head, fast_dropout=config.speed.fast_dropout
        )
        return keras.Model(images, logits, name=_keras_name(config.backbone.name))


def _keras_name(name: str) -> str:
    """Returns a name without characters that TensorFlow forbids in a scope, such as the colon of module:function."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def _build_own_model(config: Config, images: Any, inputs: Any, classes: int) -> Any:
    """Returns the model of `model.builder`, applied to preprocessed images, with float32 logits."""
    import keras

    from catdog.training.own_models import build_own_classifier

    size = config.preprocessing.image_size
    classifier = build_own_classifier(config.model, (size, size, 3), classes)
    logits = classifier(inputs)
    if logits.dtype != "float32":
        log.info("the logits of %s are %s: give its last layer dtype='float32'", config.model.builder, logits.dtype)
        logits = keras.layers.Activation("linear", dtype="float32", name="float32_logits")(logits)
    return keras.Model(images, logits, name="own")


def has_own_layers(config: Config) -> bool:
    """Whether the model contains custom code."""
    return any(key.startswith(("model.", "backbone.")) for key in find_references(config))


def _fold_own(backbone: Any) -> Any:
    """Returns the backbone with its batch norms folded if the result is the same, else the backbone itself.

    Custom layers may do anything with their inputs, and may not be copyable, so the result is checked.
    """
    import numpy as np

    shape = (2, *(size or 32 for size in backbone.input_shape[1:3]), 3)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    expected = np.asarray(backbone(images, training=False), np.float32)
    try:
        folded = fold_norms(backbone)
        found = np.asarray(folded(images, training=False), np.float32)
    except Exception as error:
        log.info("the backbone's batch norms are not folded into its convolutions: %s", quote_error(error))
        return backbone
    rounding = 1e-3 if backbone.compute_dtype == "float32" else 5e-2
    if found.shape != expected.shape or np.abs(found - expected).max() > rounding * max(np.abs(expected).max(), 1e-6):
        log.info("the backbone's batch norms are not folded into its convolutions: its output would change")
        return backbone
    return folded


def _speed_up_trained(config: Config, backbone: Any) -> Any:
    """Returns a backbone, of which at least a part trains, with its batch norms folded or fused, as the config says."""
    if config.backbone.weights is not None:
        folds = config.speed.fold_norms and not has_own_layers(config)
        return fold_norms(backbone, trains=True) if folds else backbone
    if config.fuses_norms:
        from catdog.training.fast.fused_norm import fuse_norms

        return fuse_norms(backbone)
    return backbone


def has_frozen_part(config: Config) -> bool:
    """Whether a part of the backbone may be frozen while another one trains; custom layers could depend on training mode."""
    return (
        config.model.builder is None
        and config.backbone.trainable_layers not in (0, "all")
        and not has_own_layers(config)
    )


def is_frozen(config: Config) -> bool:
    """Whether the backbone does not train, so that its features depend only on the images."""
    return config.backbone.trainable_layers == 0 and config.model.builder is None


def move_relus(backbone: BackboneConfig, head: HeadConfig) -> tuple[BackboneConfig, bool]:
    """Returns a backbone with each ReLU moved behind the max-pooling that follows it, and whether the head must do the last one.

    The maximum of max(a, 0) and max(b, 0) is max(a, b, 0): the function and its gradients stay the same, but the ReLU works on a
    quarter of the elements. Dropout before the pooling changes nothing in this, as it only scales a value or sets it to 0.

    Measured on 2 cores in bfloat16: 0.93 of the CPU time of the small CNN's training step (benchmarks/README.md).
    """
    layers: dict[str, Any] = {}
    pending = False
    following = [*list(backbone.layers.values())[1:], {"layer": "MaxPooling2D"} if head.pooling == "max" else {}]
    for (name, layer), after in zip(backbone.layers.items(), following, strict=True):
        layer = dict(layer)
        if (
            layer["layer"] == "Conv2D"
            and layer.get("activation") == "relu"
            and after.get("layer") == "MaxPooling2D"
            and (
                # An activity penalty would then apply to values before the ReLU.
                "activity_regularizer" not in layer
            )
        ):
            del layer["activation"]
            layers[name], pending = layer, True
            continue
        layers[name] = layer
        if pending:
            layers[_find_free_name(f"{name}_relu", backbone.layers)], pending = {"layer": "ReLU"}, False
    return dataclasses.replace(backbone, layers=layers), pending


def _find_free_name(name: str, taken: dict[str, Any]) -> str:
    while name in taken:
        name += "_"
    return name


def build_preprocessing(config: PreprocessingConfig) -> Any:
    """Returns the layer that maps pixels in [0, 255] to `preprocessing.pixel_range`, in float32."""
    import keras

    low, high = config.pixel_range
    # float32 in every policy: then only the next layer's cast rounds, not the scaling and the offset as well.
    return keras.layers.Rescaling((high - low) / 255.0, low, dtype="float32", name="preprocessing")


def build_backbone(config: BackboneConfig, image_size: int) -> Any:
    """Returns the backbone with its weights loaded: images (B, H, W, 3) in its pixel range -> features (B, h, w, channels).

    Args:
        config: a Keras application, layers or a builder; the weights; and which layers train.
        image_size: H = W in pixels.

    Raises:
        UserError: as `build_model`.
    """
    shape = (image_size, image_size, 3)
    if config.application:
        backbone = _build_application(config, shape)
    else:
        if config.builder:
            from catdog.training.own_models import build_own_backbone

            backbone = build_own_backbone(config, shape)
        else:
            layers = build_layers("backbone.layers", config.layers)
            connect = _connect if any(isinstance(layer, Block) for layer in layers) else _chain
            backbone = connect(layers, shape, _keras_name(config.name))
        if config.weights:
            path = _require_weights_file(config.weights)
            with _explain_weights(config, path):
                backbone.load_weights(path)
    _freeze(backbone, config)
    return backbone


def _connect(layers: list[Any], shape: tuple[int, int, int], name: str) -> Any:
    """Returns a model of layers and blocks in sequence; an error names the one that does not fit."""
    import keras

    images = keras.Input(shape)
    features = images
    for layer in layers:
        with _explain_fit(layer, features.shape[1:]):
            features = layer(features)
    _require_maps(features.shape[1:])
    return keras.Model(images, features, name=name)


def _chain(layers: list[Any], shape: tuple[int, int, int], name: str) -> Any:
    """Returns a Sequential model of the layers; an error names the layer that does not fit."""
    import keras

    chain = keras.Sequential([keras.Input(shape)], name=name)
    features: tuple[int | None, ...] = shape
    for layer in layers:
        with _explain_fit(layer, features):
            chain.add(layer)
            features = chain.output_shape[1:]
    _require_maps(features)
    return chain


@contextlib.contextmanager
def _explain_fit(layer: Any, features: tuple[int | None, ...]) -> Iterator[None]:
    """Turns an exception of a layer that is called on features of this shape into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not type(layer).__module__.startswith(("keras.", "catdog.")):
            raise describe_failure(
                f"backbone.layers.{layer.name}", type(layer).__name__, f"taking features of shape {features}", error
            ) from error
        if not isinstance(error, TypeError | ValueError):
            raise
        raise UserError(
            f"backbone.layers.{layer.name}: {type(layer).__name__} does not fit features of shape {features}: "
            f"{quote_error(error)}. "
            + (
                "The images are too small for these layers: use a larger"
                if "negative" in str(error).lower()
                else "Change the layers or"
            )
            + " preprocessing.image_size."
        ) from error


def _require_maps(features: tuple[int | None, ...]) -> None:
    if len(features) != 3:
        raise UserError(
            f"backbone.layers: must end in feature maps of (height, width, channels), received {features}. "
            "Leave flattening to the head."
        )


def build_head(
    config: HeadConfig, features: Any, classes: int, *, relu_after_pooling: bool = False, fast_dropout: bool = False
) -> Any:
    """Returns float32 logits (B, classes) of features (B, h, w, channels): dropout, pooling, dense, output.

    Args:
        config: the config's section `head`.
        features: symbolic Keras tensor, the backbone's output.
        classes: number of classes.
        relu_after_pooling: whether the features still lack their last ReLU, see `move_relus`.
        fast_dropout: whether to use `catdog.training.fast.dropout` instead of Keras' dropout.

    Raises:
        UserError: the features are too small for max-pooling.
    """
    import keras
    from keras import layers

    from catdog.training.fast.dropout import FastDropout

    dropout = FastDropout if fast_dropout else layers.Dropout
    features = dropout(config.dropout, name="dropout")(features)
    if config.pooling == "max":
        if min(features.shape[1:3]) < 2:
            raise UserError(
                f"head.pooling: max needs features of at least 2 x 2, received {features.shape[1]} x {features.shape[2]}. "
                "Use head.pooling=global_average or a larger preprocessing.image_size."
            )
        features = layers.MaxPooling2D(name="pooling")(features)
        features = layers.ReLU(name="relu")(features) if relu_after_pooling else features
        features = layers.Flatten(name="flatten")(features)
    else:
        features = layers.GlobalAveragePooling2D(name="pooling")(features)
    if config.units:
        features = layers.Dense(config.units, activation="relu", name="dense")(features)
    assert isinstance(features, keras.KerasTensor)
    return layers.Dense(classes, dtype="float32", name="logits")(features)


def build_kept_model(config: Config, trained: Any, policy: str) -> Any:
    """Returns the model that is saved: uint8 (B, H, W, 3) in [0, 255] in, float32 probabilities (B, classes) out.

    It keeps the precision that it was trained in. The exception is float16: on a CPU it is far slower than float32, so such a
    model is rebuilt in float32, to be served anywhere. With `trainer.average_flips`, its answer is the mean over the image and its
    mirror image.

    Args:
        config: the image size and `trainer.average_flips` are used.
        trained: the model that trained, images -> logits.
        policy: Keras dtype policy that it was trained with.
    """
    import keras

    from catdog.training.fast.replacement import replace_fast_layers
    from catdog.training.rebuild import rebuild_in_float32
    from catdog.training.views import average_flips

    # A new model without optimizer and loss: a clone would be compiled with them, and they may need custom code.
    trained = keras.Model(trained.inputs[0], trained.outputs[0], name=trained.name)
    if policy == "mixed_float16":
        # The weights are copied from the trained model, so the backbone's need not be downloaded or read again.
        trained = rebuild_in_float32(trained)
    trained = replace_fast_layers(trained)
    size = config.preprocessing.image_size
    pixels = keras.Input((size, size, 3), dtype="uint8", name="pixels")
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(trained(pixels))
    if config.trainer.average_flips:
        return average_flips(keras.Model(pixels, probabilities, name="one_view"), name="kept")
    return keras.Model(pixels, probabilities, name="kept")


def build_layers(key: str, settings: dict[str, Any], prefix: str = "", **defaults: Any) -> list[Any]:
    """Returns the layers that the config describes as {layer: CLASS, ...arguments}; CLASS may be a custom module:class.

    Args:
        key: the config key, for messages.
        settings: the layers by name, in order; in a backbone, also blocks (`catdog.training.blocks`).
        prefix: what the layers' names in Keras begin with.
        defaults: arguments for all layers; a layer's own arguments override them.

    Raises:
        UserError: `keras.layers` does not have a class, or a class does not take its arguments.
    """
    import keras

    layers: list[Any] = []
    for name, arguments in settings.items():
        arguments = dict(arguments)
        class_name = arguments.pop("layer")
        if class_name in BLOCKS and key.startswith("backbone."):
            layers.append(_build_block(f"{key}.{name}", class_name, prefix + name, arguments, defaults))
            continue
        layer_class: Any = load_class(f"{key}.{name}", class_name, keras.layers, keras.layers.Layer)
        try:
            if ":" in class_name:
                layers.append(
                    _build_own_layer(f"{key}.{name}", class_name, layer_class, prefix + name, defaults | arguments)
                )
            else:
                layers.append(layer_class(name=prefix + name, **{**defaults, **arguments}))
        except (TypeError, ValueError) as error:
            raise UserError(f"{key}.{name}: {class_name} does not take {arguments}: {quote_error(error)}.") from error
    return layers


def _build_block(key: str, kind: str, name: str, arguments: dict[str, Any], defaults: dict[str, Any]) -> Block:
    inner = arguments.pop("layers", None)
    allowed = ("drop",) if kind == RESIDUAL else ("ratio",)
    for argument in arguments:
        if argument not in allowed:
            raise UserError(f"{key}.{argument}: {kind} has no such argument. It has {', '.join(allowed)}.")
    if kind == RESIDUAL:
        return Residual(key, name, build_layers(f"{key}.layers", inner, f"{name}_", **defaults), **arguments)
    return SqueezeExcite(key, name, **arguments)


def _build_own_layer(key: str, class_name: str, layer_class: Any, name: str, arguments: dict[str, Any]) -> Any:
    """Returns a custom layer; its __init__ need not take Keras' usual arguments `name` and `dtype`."""
    parameters = inspect.signature(layer_class).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not takes_any:
        arguments = {key: value for key, value in arguments.items() if key != "dtype" or "dtype" in parameters}
    given = {"name": name} if takes_any or "name" in parameters else {}
    layer = call(key, class_name, layer_class, {}, given | arguments, key)
    layer.name = name
    return layer


def _build_application(config: BackboneConfig, shape: tuple[int, int, int]) -> Any:
    import keras

    application = getattr(keras.applications, config.application or "", None)
    if not callable(application):
        known = [name for name in dir(keras.applications) if name[0].isupper()]
        raise UserError(f"backbone.application: must be one of {', '.join(known)}, received {config.application!r}.")
    weights = config.weights
    if weights == "imagenet":
        _require_imagenet(config)
    elif weights:
        weights = str(_require_weights_file(weights))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", UNUSUAL_SIZE, UserWarning)
            backbone = application(input_shape=shape, include_top=False, weights=None, **config.options)
    except (TypeError, ValueError) as error:
        raise UserError(f"backbone={config.name}: {config.application} refuses {config.options or 'images'} at "
                        f"{shape[0]} x {shape[1]}: {quote_error(error)}.") from error  # fmt: skip
    if weights == "imagenet":
        with _explain_weights(config, weights):
            backbone = application(input_shape=shape, include_top=False, weights="imagenet", **config.options)
    elif weights:
        with _explain_weights(config, weights):
            backbone.load_weights(weights)
    return backbone


def _require_weights_file(weights: str) -> Path:
    import h5py

    path = Path(weights)
    if not path.is_file():
        raise UserError(f"backbone.weights: no file {weights!r}. {WAYS_OUT}")
    if not h5py.is_hdf5(path):
        raise UserError(
            f"backbone.weights: {weights!r} is not an HDF5 file, or is damaged. It must be a Keras weights file "
            f"(.h5 or .weights.h5). {WAYS_OUT}"
        )
    return path


@contextlib.contextmanager
def _explain_weights(config: BackboneConfig, weights: Any) -> Iterator[None]:
    """Turns Keras' exceptions for weights of another architecture, or for a failed download, into a UserError."""
    try:
        with warnings.catch_warnings():
            # For layers that the file has no weights for, Keras only warns and leaves them random.
            warnings.simplefilter("error", UserWarning)
            warnings.filterwarnings("ignore", UNUSUAL_SIZE, UserWarning)
            yield
    except (ValueError, KeyError, OSError, IndexError, TypeError, UserWarning) as error:
        what = config.application or f"the layers of backbone={config.name}"
        raise UserError(
            f"backbone.weights: {str(weights)!r} cannot be loaded into {what}: it is damaged, or was saved from another "
            f"architecture. Keras says: {quote_error(error).rstrip('.:')}. {WAYS_OUT}"
        ) from error
    except Exception as error:
        # Keras' downloader raises a bare Exception.
        if type(error) is Exception:
            raise UserError(
                f"backbone.weights: {weights!r} cannot be fetched: {quote_error(error)}. {WAYS_OUT}"
            ) from error
        raise


def _require_imagenet(config: BackboneConfig) -> None:
    """Raises UserError early if ImageNet weights are neither in Keras' cache nor reachable; Keras itself would wait minutes."""
    from catdog.data.fetch import check_reachable

    folder = Path(_keras_home()) / "models"
    wanted = _squash(config.application or "")
    if folder.is_dir() and any(wanted in _squash(path.name) for path in folder.iterdir()):
        return
    url = "https://storage.googleapis.com/tensorflow/keras-applications/"
    try:
        check_reachable(url, timeout_s=MAX_WEIGHTS_WAIT_S)
    except OSError as error:
        raise UserError(
            f"backbone.weights: the ImageNet weights of {config.application} are not in {folder}, and {url} cannot be "
            f"reached ({error}). {WAYS_OUT}"
        ) from error


def _keras_home() -> str:
    return os.environ.get("KERAS_HOME") or str(Path.home() / ".keras")


def _squash(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _freeze(backbone: Any, config: BackboneConfig) -> None:
    """Sets which layers train. Batch norms of a pre-trained backbone always keep their statistics."""
    import keras

    train = config.trainable_layers
    count = len(backbone.layers)
    if train != "all" and train > count:
        raise UserError(
            f"backbone.trainable_layers: backbone={config.name} has {plural(count, 'layer')}, received {train}."
        )
    first = 0 if train == "all" else count - train
    for number, layer in enumerate(backbone.layers):
        layer.trainable = number >= first
        for part in layer._flatten_layers():
            if isinstance(part, keras.layers.BatchNormalization) and config.weights is not None:
                part.trainable = False
