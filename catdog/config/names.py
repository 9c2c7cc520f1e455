"""The names of runs: what distinguishes each from the others."""

import functools
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from catdog.config import schema

# Keys that say where things are stored or how they are called, not what a single run is.
UNNAMED_KEYS = (
    "study",
    "tracking",
    "promote",
    "experiment",
    "dataset",
    "reuse",
    "hydra",
)
# A longer name does not fit into a table beside its numbers.
LONGEST_NAME = 60
# Where the part of a long name that is kept ends.
KEPT_NAME = 36


# Keys whose defaults switch something off. At its default such a key is not named: a model without CutMix is the plain model.
OFF_KEYS = (
    "augmentation.mix.mixup", "augmentation.mix.cutmix", "loss.label_smoothing", "model.builder", "backbone.builder",
    "optimizer.clipnorm", "optimizer.global_clipnorm", "optimizer.clipvalue", "trainer.backbone_rate", "trainer.class_weights",
    "trainer.ema", "trainer.freeze_epochs", "trainer.patience", "trainer.warmup_epochs",
)  # fmt: skip
# The user's own code that takes the place of a model, the first before the second, with the group whose choice it replaces.
BUILDERS = {"model.builder": ("model", "backbone"), "backbone.builder": ("backbone",)}
# How Python writes values that a user types in another way.
_TYPED = {"None": "null", "True": "true", "False": "false"}


def name_job(model: str, overrides: Sequence[str], varying: Collection[str] | None = None) -> tuple[str, str]:
    """Returns (name, variant) of a run: what distinguishes it, with and without its seed.

    A run whose model is the user's own code has the name of that code. Keys are written as `shorten_keys` returns them. A single
    run with many overrides is named after the first of them; a digest of all of them keeps its name unique.

    Args:
        model: the choice of the group `model`, made by the command line, an experiment or the default; or what took its place in
            the name of a stored run.
        overrides: the command line's, such as ["model=cnn", "seed=1", "trainer.epochs=3"].
        varying: keys whose values differ in the sweep; None, for a single run: all keys that shape the run.
    """
    values = read_overrides(overrides)
    builder = next((key for key in BUILDERS if not _is_off(key, values.get(key, "null"))), "")
    parts = [values[builder] if builder else model]
    named = [key for key in values if (not is_under(key, UNNAMED_KEYS) if varying is None else key in varying)]
    short = shorten_keys([*named, *(varying or ())])
    for key in named:
        value = values[key]
        if key == "seed" or key == builder or _is_off(key, value) or (key == "model" and not builder):
            continue
        if builder and key in BUILDERS[builder] and value == "own":
            # This choice only says that there is a builder.
            continue
        if key == "without":
            parts += [f"without {value}"] * (value != "nothing")
            continue
        parts.append(f"{short[key]}={value}" if value else f"no {short[key]}")
    variant = " ".join(parts)
    if varying is None and len(variant) > LONGEST_NAME:
        kept = 1
        while kept < len(parts) and len(" ".join(parts[: kept + 1])) <= KEPT_NAME:
            kept += 1
        digest = hashlib.sha256(variant.encode()).hexdigest()[:6]
        variant = f"{' '.join(parts[:kept])} +{len(parts) - kept} more {digest}"
    seeded = "seed" in values and (varying is None or "seed" in varying)
    return (f"{variant} seed={values['seed']}" if seeded else variant), variant


def shorten_keys(keys: Iterable[str]) -> dict[str, str]:
    """Returns for each key the last of its parts that tell it from the others and from catdog's keys: cutmix, optimizer.options."""
    used = list(dict.fromkeys(keys))
    known = {*used, *_list_keys()}
    ends = [key.split(".") for key in known]

    def shorten(key: str) -> str:
        parts = key.split(".")
        for count in range(1, len(parts)):
            if sum(end[-count:] == parts[-count:] for end in ends) == 1:
                return ".".join(parts[-count:])
        return key

    return {key: shorten(key) for key in used}


@functools.cache
def _list_keys() -> Mapping[str, str]:
    """Returns the default of each key of a run, as a user types it."""
    return {key: show_value(str(default)) for key, default, _ in schema.list_options(schema.Config)}


def _is_off(key: str, value: str) -> bool:
    if key not in OFF_KEYS:
        return False
    default = _list_keys()[key]
    try:
        return value in ("null", "") if default == "null" else float(value) == float(default)
    except ValueError:
        return value == default


def show_value(text: str) -> str:
    """Returns a value that Python has written, such as a param in MLflow, as a user types it: null, true, false."""
    return _TYPED.get(text, text)


def fold_mappings(configs: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Returns configs in which a mapping that not all of them have, such as a layer, is one setting instead of one for each key.

    Its value is the layer's name, or the whole mapping if that does not tell it from what another config has.

    Args:
        configs: dotted key -> value as text, such as {"augmentation.layers.flip.layer": "RandomFlip", "seed": "1"}.
    """
    configs = drop_empty(configs)
    partial = set(find_partial(configs))
    outermost = {mapping for mapping in partial if not partial.intersection(list_mappings(mapping))}
    if not outermost:
        return configs
    divided = [_divide(config, outermost) for config in configs]
    contents: dict[str, set[str]] = {}
    for kept, inner in divided:
        for mapping in outermost:
            if mapping in inner:
                contents.setdefault(mapping, set()).add(_write_mapping(inner[mapping]))
            elif mapping in kept:
                contents.setdefault(mapping, set()).add(kept[mapping])
    return [
        kept | {
            mapping: content["layer"]
            if _is_layer(mapping) and "layer" in content and len(contents[mapping]) == 1 else _write_mapping(content)
            for mapping, content in inner.items()
        }
        for kept, inner in divided
    ]  # fmt: skip


def find_partial(configs: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns the keys of the mappings that some of the configs have and others lack, outer ones before those inside them."""
    around = [{mapping for key in config for mapping in list_mappings(key)} for config in configs]
    partial = set().union(*around) - set(around[0]).intersection(*around) if around else set()
    return sorted(partial, key=lambda mapping: (mapping.count("."), mapping))


def drop_empty(configs: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Returns configs without the key of an empty mapping, such as augmentation.layers, where another config fills it."""
    around = {".".join(parts[:count]) for parts in {tuple(key.split(".")) for config in configs for key in config}
              for count in range(2, len(parts))}  # fmt: skip
    return [{key: value for key, value in config.items() if value != "{}" or key not in around} for config in configs]


@functools.lru_cache(4096)
def list_mappings(key: str) -> tuple[str, ...]:
    """Returns the keys of the mappings around a key that are a unit, outermost first: not its group, and not all layers.

    The keys of trainer.sizes are numbers, and may have a dot; so may names of libraries.
    """
    parts = key.split(".")
    if parts[0] == "libraries":
        return ()
    return tuple(
        ".".join(parts[: place + 1]) for place in range(1, len(parts) - 1)
        if parts[place] != "layers" and (not parts[place].isdecimal() or parts[place - 1] == "layers")
    )  # fmt: skip


def _divide(config: Mapping[str, str], mappings: Collection[str]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Returns the settings outside of the mappings, and the content of each mapping."""
    kept: dict[str, str] = {}
    inner: dict[str, dict[str, str]] = {}
    for key, value in config.items():
        mapping = next((each for each in list_mappings(key) if each in mappings), None)
        if mapping is None:
            kept[key] = value
        else:
            inner.setdefault(mapping, {})[key.removeprefix(f"{mapping}.")] = value
    return kept, inner


def _is_layer(mapping: str) -> bool:
    return mapping.split(".")[-2] == "layers"


def _write_mapping(content: Mapping[str, str]) -> str:
    """Returns a mapping as text, the same for any order of its keys; the layer comes first."""
    keys = sorted(content, key=lambda key: (key != "layer", key))
    return "{" + ", ".join(f"{key}: {show_value(content[key])}" for key in keys) + "}"


def read_overrides(overrides: Sequence[str]) -> dict[str, str]:
    """Returns key -> value of overrides; the value of a key that is removed is empty."""
    words = (item.lstrip("+~").partition("=") for item in overrides)
    return {key: _unquote(re.sub(r"\\(.)", r"\1", value)) for key, _, value in words}


def _unquote(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" and value[0] not in value[1:-1]
    return value[1:-1] if quoted else value


def unescape(override: str) -> str:
    """Returns an override without the backslashes that Hydra puts into a swept value before colons, such as module:function.

    Hydra reads colons without them too. Before other characters they are needed, or the override could not be typed again.
    """
    return override.replace("\\:", ":")


def is_under(key: str, groups: Collection[str]) -> bool:
    """Returns whether a config key is one of these, or lies in one of these groups."""
    return any(key == group or key.startswith(f"{group}.") for group in groups)
