"""The model: preprocessing, backbone and head for training; the same with softmax, from raw pixels, for keeping."""

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

from catdog.config.schema import BackboneConfig, Config, HeadConfig, PreprocessingConfig, find_references
from catdog.system.errors import UserError
from catdog.training.fast.batchnorm_folding import fold_norms
from catdog.training.own_code import call, describe_failure, load_class
from catdog.training.precision import use_policy

log = logging.getLogger(__name__)

WAYS_OUT = (
    "Set backbone.weights (or the environment variable CATDOG_WEIGHTS) to a weights file, backbone.weights=null for random "
    "weights with backbone.trainable_layers=all, or use model=drawn_mini, which needs no download."
)
# Keras warns that weights were trained at another size than preprocessing.image_size: that is the user's choice.
UNUSUAL_SIZE = "`input_shape` is undefined or non-square"
# With the imports before it, a user hears of it within 20 s.
MAX_WEIGHTS_WAIT_S = 8.0


def build_model(config: Config, classes: int, policy: str) -> Any:
    """Returns the model that trains: images in, logits out.

    Input: uint8 or float32 (B, H, W, 3) in [0, 255], where H = W = `preprocessing.image_size`. Output: float32 logits
    (B, classes). The output layer is float32 in every policy: a softmax over 8 or 11 bits of mantissa is too coarse a loss.

    Args:
        config: preprocessing, backbone, head and speed are read.
        classes: number of classes.
        policy: Keras dtype policy of everything between input and logits.

    Raises:
        UserError: weights that cannot be had or do not fit, layers that Keras does not have.
    """
    import keras

    size = config.preprocessing.image_size
    with use_policy(policy):
        images = keras.Input((size, size, 3), dtype="float32", name="images")
        features = build_preprocessing(config.preprocessing)(images)
        if config.model.builder:
            return _build_own_model(config, images, features, classes)
        settings, relu_in_head = config.backbone, False
        # Not where the last N layers train: more layers would make the last N others.
        if config.speed.relu_after_pooling and settings.layers and settings.trainable_layers in (0, "all"):
            settings, relu_in_head = move_relus(settings, config.head)
        backbone = build_backbone(settings, size)
        if is_frozen(config):
            if config.speed.fold_norms:
                backbone = _fold_own(backbone) if has_own_layers(config) else fold_norms(backbone)
                backbone.trainable = False
            # In inference mode: dropout or drop-connect inside it would only add noise to constants.
            features = backbone(features, training=False)
        else:
            features = backbone(features)
        logits = build_head(
            config.head, features, classes, relu_after_pooling=relu_in_head, fast_dropout=config.speed.fast_dropout
        )
        return keras.Model(images, logits, name=_keras_name(config.backbone.name))


def _keras_name(name: str) -> str:
    """Returns a name with nothing in it that TensorFlow does not allow in a scope, such as the colon of module:function."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def _build_own_model(config: Config, images: Any, inputs: Any, classes: int) -> Any:
    """Returns the model of `model.builder` on preprocessed images; its logits as float32."""
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
    """Whether the user's code decides what the model computes."""
    return any(key.startswith(("model.", "backbone.")) for key in find_references(config))


def _fold_own(backbone: Any) -> Any:
    """Returns the backbone with its batch norms folded, if that computes the same; else the backbone itself.

    What the layers of a user do with their inputs is not known, nor whether they can be copied.
    """
    import numpy as np

    shape = (2, *(size or 32 for size in backbone.input_shape[1:3]), 3)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    expected = np.asarray(backbone(images, training=False), np.float32)
    try:
        folded = fold_norms(backbone)
        found = np.asarray(folded(images, training=False), np.float32)
    except Exception as error:
        log.info("its batch norms are not folded: %s", _first_line(error))
        return backbone
    rounding = 1e-3 if backbone.compute_dtype == "float32" else 5e-2
    if found.shape != expected.shape or np.abs(found - expected).max() > rounding * max(np.abs(expected).max(), 1e-6):
        log.info("its batch norms are not folded: the result would be another")
        return backbone
    return folded


def is_frozen(config: Config) -> bool:
    """Whether the backbone does not train, so that its features are a function of the images alone."""
    return config.backbone.trainable_layers == 0 and config.model.builder is None


def move_relus(backbone: BackboneConfig, head: HeadConfig) -> tuple[BackboneConfig, bool]:
    """Returns a backbone whose convolutions leave their ReLU to after the max-pooling, and whether the head has to do the last one.

    The larger of max(a, 0) and max(b, 0) is the larger of a, b and 0: the same function, with the same gradients, of a quarter
    of the elements. Dropout before the pooling only scales, or makes a 0.

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
                # A penalty on the activations would be one on what the ReLU has not seen.
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
    # float32 in every policy: the next layer casts once, instead of rounding the scale and then the offset.
    return keras.layers.Rescaling((high - low) / 255.0, low, dtype="float32", name="preprocessing")


def build_backbone(config: BackboneConfig, image_size: int) -> Any:
    """Returns the backbone: images (B, H, W, 3) in its pixel range -> features (B, h, w, channels), weights loaded.

    Args:
        config: an application of Keras, layers or a builder; weights; which layers train.
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
            backbone = _chain(build_layers("backbone.layers", config.layers), shape, _keras_name(config.name))
        if config.weights:
            path = _require_weights_file(config.weights)
            with _explain_weights(config, path):
                backbone.load_weights(path)
    _freeze(backbone, config)
    return backbone


def _chain(layers: list[Any], shape: tuple[int, int, int], name: str) -> Any:
    """Returns the layers one after the other as a model; a layer that does not fit where it stands is named."""
    import keras

    chain = keras.Sequential([keras.Input(shape)], name=name)
    features: tuple[int | None, ...] = shape
    for layer in layers:
        try:
            chain.add(layer)
            features = chain.output_shape[1:]
        except Exception as error:
            if not type(layer).__module__.startswith("keras."):
                raise describe_failure(
                    f"backbone.layers.{layer.name}", type(layer).__name__, f"taking features of shape {features}", error
                ) from error
            if not isinstance(error, TypeError | ValueError):
                raise
            raise UserError(
                f"backbone.layers.{layer.name}: {type(layer).__name__} does not fit features of shape {features}: "
                f"{_first_line(error)}. Change the layers or preprocessing.image_size."
            ) from error
    if len(features) != 3:
        raise UserError(
            f"backbone.layers: must end in feature maps of (height, width, channels), received {features}. "
            "Leave flattening to the head."
        )
    return chain


def build_head(
    config: HeadConfig, features: Any, classes: int, *, relu_after_pooling: bool = False, fast_dropout: bool = False
) -> Any:
    """Returns float32 logits (B, classes) of features (B, h, w, channels): dropout, pooling, dense, output.

    Args:
        relu_after_pooling: the features still lack their ReLU, see `move_relus`.
        fast_dropout: take `catdog.training.fast.dropout`'s.
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
    features = layers.Dense(config.units, activation="relu", name="dense")(features)
    assert isinstance(features, keras.KerasTensor)
    return layers.Dense(classes, dtype="float32", name="logits")(features)


def build_kept_model(config: Config, trained: Any, classes: int, policy: str) -> Any:
    """Returns the model that is saved: uint8 (B, H, W, 3) in [0, 255] in, float32 probabilities (B, classes) out.

    It keeps the precision it was trained in, but for float16, which a CPU computes far slower than float32: such a model is
    rebuilt in float32, so that it can be served anywhere.
    """
    import keras

    from catdog.training.fast.dropout import replace_fast_dropout

    # Without the optimizer and the loss, which a copy would be compiled with, whatever they need.
    trained = keras.Model(trained.inputs[0], trained.outputs[0], name=trained.name)
    if policy == "mixed_float16":
        # The weights come from the trained model: those of the backbone need not be fetched or read again.
        fresh = keras.models.clone_model(trained, clone_function=_clone_in_float32)
        fresh.set_weights(trained.get_weights())
        _finalize(fresh)
        trained = fresh
    trained = replace_fast_dropout(trained)
    size = config.preprocessing.image_size
    pixels = keras.Input((size, size, 3), dtype="uint8", name="pixels")
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(trained(pixels))
    return keras.Model(pixels, probabilities, name="kept")


def _finalize(model: Any) -> None:
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):
            # A Normalization computes with what it derives from its weights.
            layer.finalize_state()


def _clone_in_float32(layer: Any) -> Any:
    import keras

    if isinstance(layer, keras.Model):
        return keras.models.clone_model(layer, clone_function=_clone_in_float32)
    settings = layer.get_config()
    settings["dtype"] = "float32"
    return layer.__class__.from_config(settings)


def build_layers(key: str, settings: dict[str, Any], **defaults: Any) -> list[Any]:
    """Returns Keras layers from config: by name, {layer: CLASS, ...arguments}, where CLASS may be the user's own module:class.

    Args:
        key: the config key, for messages.
        settings: the layers, in order.
        defaults: arguments for all of them, which a layer's own override.

    Raises:
        UserError: a class that `keras.layers` lacks, or arguments that it refuses.
    """
    import keras

    layers: list[Any] = []
    for name, arguments in settings.items():
        arguments = dict(arguments)
        class_name = arguments.pop("layer")
        layer_class: Any = load_class(f"{key}.{name}", class_name, keras.layers, keras.layers.Layer)
        try:
            if ":" in class_name:
                layers.append(_build_own_layer(f"{key}.{name}", class_name, layer_class, name, defaults | arguments))
            else:
                layers.append(layer_class(name=name, **{**defaults, **arguments}))
        except (TypeError, ValueError) as error:
            raise UserError(f"{key}.{name}: {class_name} does not take {arguments}: {_first_line(error)}") from error
    return layers


def _build_own_layer(key: str, class_name: str, layer_class: Any, name: str, arguments: dict[str, Any]) -> Any:
    """Returns a layer of the user's; its __init__ need not take Keras' own arguments `name` and `dtype`."""
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
        raise UserError(f"backbone={config.name}: {config.application} refuses {config.options} at "
                        f"{shape[0]} x {shape[1]}: {_first_line(error)}") from error  # fmt: skip
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
    """Turns what Keras raises on weights of another architecture, or on a failed download, into a user's message."""
    try:
        with warnings.catch_warnings():
            # Keras only warns of layers that the file has nothing for, and leaves them random.
            warnings.simplefilter("error", UserWarning)
            warnings.filterwarnings("ignore", UNUSUAL_SIZE, UserWarning)
            yield
    except (ValueError, KeyError, OSError, IndexError, TypeError, UserWarning) as error:
        what = config.application or f"the layers of backbone={config.name}"
        raise UserError(
            f"backbone.weights: {str(weights)!r} cannot be loaded into {what}: it is damaged, or was saved from another "
            f"architecture. Keras says: {_first_line(error).rstrip('.:')}. {WAYS_OUT}"
        ) from error
    except Exception as error:
        # Keras' downloader raises a bare Exception.
        if type(error) is Exception:
            raise UserError(
                f"backbone.weights: {weights!r} cannot be fetched: {_first_line(error)}. {WAYS_OUT}"
            ) from error
        raise


def _require_imagenet(config: BackboneConfig) -> None:
    """Raises UserError soon where ImageNet weights are neither in Keras' cache nor within reach; Keras would wait minutes."""
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
    """Sets which layers train; batch norms of a pre-trained backbone keep their statistics whatever trains around them."""
    import keras

    train = config.trainable_layers
    count = len(backbone.layers)
    if train != "all" and train > count:
        raise UserError(f"backbone.trainable_layers: backbone={config.name} has {count} layers, received {train}.")
    first = 0 if train == "all" else count - train
    for number, layer in enumerate(backbone.layers):
        layer.trainable = number >= first
        for part in layer._flatten_layers():
            if isinstance(part, keras.layers.BatchNormalization) and config.weights is not None:
                part.trainable = False


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
