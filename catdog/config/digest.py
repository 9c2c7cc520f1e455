"""What a result depends on in a config, as a digest, and what the params of runs from before a key existed mean."""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from stat import S_ISREG
from typing import Any

from catdog.config.metrics import ACCURACY
from catdog.config.schema import Config, LossConfig, MixConfig, ModelConfig, OptimizerConfig, list_callbacks

# The groups on which a result depends.
RESULT_GROUPS = (
    "augmentation", "preprocessing", "backbone", "head", "model", "optimizer", "loss", "trainer", "speed",
)  # fmt: skip


# Keys of `speed` that change no bit of a result.
SAME_RESULT = ("relu_after_pooling", "fast_features", "keep_features_mb", "steps_per_execution")


# Keys that were added later, with the defaults that change nothing: what such a key's absence means in an older run.
LATER_KEYS = {"trainer.ema": None, "trainer.backbone_rate": 1.0, "trainer.freeze_epochs": 0, "trainer.train_accuracy": "auto",
              "trainer.sizes": None, "trainer.validate_every": 1, "trainer.images_seen": None, "trainer.average_flips": False,
              "trainer.keep_probabilities": False, "trainer.keep_metric": ACCURACY, "preprocessing.max_size": None,
              "preprocessing.stored_as": "pixels",
              "dataset.groups": None, "dataset.refresh": 0, "augmentation.mix": asdict(MixConfig()),
              "speed.fused_norms": False}  # fmt: skip


def flatten(config: Any) -> dict[str, Any]:
    """Returns the value of every leaf of a config dataclass under its dotted key, such as `trainer.epochs`."""
    return _flatten(asdict(config))


def _flatten(content: dict[str, Any]) -> dict[str, Any]:
    leaves: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                visit(f"{prefix}.{key}" if prefix else str(key), item)
        else:
            leaves[prefix] = value

    visit("", content)
    return leaves


def hash_text(text: str) -> str:
    """Returns the sha256 of a text as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _hash_file(path: str, size: int, changed_ns: int) -> str:
    """Returns the sha256 of a file, which is read only once while its size and modification time stay the same."""
    # They are only there for the cache's key.
    del size, changed_ns
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_files(value: Any) -> Any:
    """Returns a setting with the sha256 of its content in place of each text that names a file, such as a file of weights.

    Only texts with a suffix count, so that a file called "constant" does not stand for trainer.schedule.
    """
    if isinstance(value, dict):
        return {key: _digest_files(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_digest_files(item) for item in value]
    if not isinstance(value, str) or not Path(value).suffix:
        return value
    try:
        found = Path(value).stat()
        return _hash_file(value, found.st_size, found.st_mtime_ns) if S_ISREG(found.st_mode) else value
    except (OSError, ValueError):  # not a path, such as a long text or one with a null character
        return value


def hash_config(config: Config, *, with_seed: bool) -> str:
    """Returns the digest of those parts of the config that affect training. Names do not, and of files only the content does.

    `trainer.precision` is left out. A run's identity contains the precision that was really used, beside this digest: `auto` that
    became float32 is the same as float32.

    Args:
        config: the config of a run.
        with_seed: False gives the digest of the variant, which all seeds share.
    """
    content = asdict(config)
    relevant = {group: content[group] for group in RESULT_GROUPS}
    relevant["trainer"].pop("precision")
    for key in SAME_RESULT:
        relevant["speed"].pop(key)
    _drop_defaults(relevant, config)
    for group in relevant.values():
        group.pop("name", None)
        if "layers" in group:
            # As a list, because their order matters: a flip before a rotation is not a rotation before a flip.
            group["layers"] = _list_layers(group["layers"])
    relevant = _digest_files(relevant)
    if with_seed:
        relevant["seed"] = content["seed"]
    return hash_text(json.dumps(relevant, sort_keys=True))


def _drop_defaults(relevant: dict[str, Any], config: Config) -> None:
    """Removes keys that were added to the schema later from what is hashed, if they have their defaults.

    So a run from before such a key existed has the same digest as a new run that does not set the key.
    """
    relevant["optimizer"], relevant["loss"] = config.optimizer.settings, config.loss.settings
    if config.optimizer.settings == OptimizerConfig().settings:
        del relevant["optimizer"]
        relevant["trainer"]["optimizer"] = "adam"
    if not config.loss.settings:
        del relevant["loss"]
    if not config.augmentation.mix.is_on:
        # The share of batches that are not mixed has no meaning then.
        relevant["augmentation"]["mix"] = LATER_KEYS["augmentation.mix"]
    if relevant["preprocessing"]["stored_as"] == "auto":
        # Not fitted to its data set yet; nearly all have room for pixels.
        relevant["preprocessing"]["stored_as"] = "pixels"
    # Without batch norms that train, the key has no effect.
    relevant["speed"]["fused_norms"] = config.fuses_norms
    trainer, backbone = relevant["trainer"], relevant["backbone"]
    callbacks = [[name, options] for _, name, options in list_callbacks(trainer.pop("callbacks"))]
    if callbacks:
        trainer["callbacks"] = callbacks
    if trainer["class_weights"] == "none":
        del trainer["class_weights"]
    for key, default in LATER_KEYS.items():
        group, name = key.split(".")
        if group in relevant and relevant[group][name] == default:
            del relevant[group][name]
    if backbone["builder"] is None:
        del backbone["builder"]
    if config.model.builder:
        # The builder replaces backbone and head.
        del relevant["backbone"], relevant["head"]
    else:
        del relevant["model"]


def _older_fused_norms(params: Mapping[str, str]) -> str:
    """Returns what `speed.fused_norms` means in a run from before the key: false where batch norms trained.

    Elsewhere the key has no effect, and the present value keeps such runs from looking different.
    """
    has_norms = params.get("backbone.application", "None") != "None" or "BatchNormalization" in params.values()
    trained = has_norms and params.get("backbone.weights", "None") == "None"
    return str(not trained and params.get("speed.name") != "none")


def older_optimizer(former: str) -> dict[str, Any]:
    """Returns the section `optimizer` of an old run, whose optimizer was a key of the trainer: adam, adamw, sgd or rmsprop."""
    names = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "rmsprop": "RMSprop"}
    return asdict(OptimizerConfig(name=former, algorithm=names[former]))


def complete_params(params: Mapping[str, str]) -> dict[str, str]:
    """Returns a run's MLflow params, and adds those that did not exist yet when it was trained, with the values it used."""
    later = {key: str(value) for key, value in _flatten(LATER_KEYS).items()}
    # A mapping, such as trainer.sizes, is one param for each of its keys.
    mappings = {".".join(key.split(".")[:2]) for key in params}
    later = {key: value for key, value in later.items() if key not in mappings}
    later["speed.fused_norms"] = _older_fused_norms(params)
    if "optimizer.algorithm" in params:
        return later | dict(params)
    sections = {"optimizer": older_optimizer(params.get("trainer.optimizer", "adam")), "loss": asdict(LossConfig()),
                "model": asdict(ModelConfig())}  # fmt: skip
    added = {f"{group}.{key}": str(value) for group, section in sections.items() for key, value in section.items()}
    added |= {"trainer.class_weights": "none", "trainer.callbacks": "None", "backbone.builder": "None"}
    return later | added | {key: value for key, value in params.items() if key != "trainer.optimizer"}


def _list_layers(layers: dict[str, Any]) -> list[Any]:
    """Returns layers as a list, also those inside others, because their order matters: JSON sorts a mapping's keys."""
    return [
        [name, layer | {"layers": _list_layers(layer["layers"])} if isinstance(layer.get("layers"), dict) else layer]
        for name, layer in layers.items()
    ]
