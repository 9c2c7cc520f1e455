"""Mistakes on a command line, in catdog's words: found in the arguments before Hydra reads them, or read from Hydra's errors."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import OverrideParseException

from catdog.config import commands, schema
from catdog.config.checks import read_hints
from catdog.config.suggestions import MISSING, MOVED_KEYS, ask, find_foreign, suggest, suggest_key, suggest_path
from catdog.system.errors import UserError
from catdog.system.wording import listed

TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
# The attribute of an exception that names the overrides of the job of a sweep.
JOB = "job"
HOW = "Write KEY=VALUE, and quote a value with special characters: 'KEY=\"VALUE\"'."
SEARCHES = "python -m catdog.tune searches: 'KEY=interval(LOW,HIGH)', 'KEY=tag(log,interval(LOW,HIGH))' or KEY=A,B,C."
SWEEPS = (
    "catdog sweeps lists and ranges of values, with -m: KEY=A,B,C, 'KEY=range(START,STOP,STEP)' or 'KEY=choice(A,B)', such as "
    "-m trainer.learning_rate=0.001,0.0003 'seed=range(0,5)'."
)
# What else may be meant by the choice of a group.
ELSEWHERE = {
    "dataset": "Your own images: dataset=folder dataset.archive=PATH.",
    "augmentation": "Mixing is augmentation.mix.mixup=0.2 or augmentation.mix.cutmix=1. "
    "A layer of Keras is added by '+augmentation.layers.NAME={layer: RandomZoom, height_factor: 0.1}'.",
    "backbone": "Another model of keras.applications: backbone.application=NAME. Your own: backbone.builder=module:function.",
    "model": "A model chooses augmentation, preprocessing and backbone, and each can be chosen beside it, such as "
    "backbone=resnet50_v2. Your own: docs/own-models.md.",
    "optimizer": "Another class of keras.optimizers: optimizer.algorithm=NAME.",
    "loss": "Your own: loss.function=module:function.",
    "hydra/launcher": "catdog's own launcher trains several runs at once: -m hydra.launcher.n_jobs=2.",
}  # fmt: skip
WORD = re.compile(r"(?P<prefix>~|\+\+|\+)?(?P<key>[^=]*)(?:(?P<sign>=)(?P<value>.*))?", re.S)
# Values in which Hydra's grammar may give a comma another meaning, or replace something.
COMPOUND = re.compile(r"[\[\]{}()'\"$\\]")
NUMBER = re.compile(r"\d*\.?\d+(e-?\d+)?", re.I)
FUNCTION = re.compile(r"\b(interval|glob)\(")


def require_valid(
    words: Sequence[str],
    root: str,
    *,
    folders: Iterable[Path] = (),
    taken: Iterable[str] = (),
    intervals: bool = False,
) -> None:
    """Raises UserError for the first mistake that can be seen without composing: in spaces, keys, groups, choices and prefixes.

    Args:
        words: the overrides, as typed after the command.
        root: `config` for training, or a key of `commands.ROOTS`.
        folders: further folders with config groups, besides those of hydra.searchpath.
        taken: further keys that exist, those of a command that passes the others on.
        intervals: whether a key may be given an interval, as in a search.
    """
    _require_no_spaces(words)
    places = [schema.CONF, *folders, *_read_search_path(words)]
    for word in words:
        _require_valid_word(word, root, places, list(taken), intervals=intervals)


def _read_search_path(words: Sequence[str]) -> list[Path]:
    """Returns the folders that `hydra.searchpath=[DIR,...]` names."""
    values = [word.partition("=")[2] for word in words if word.lstrip("+").startswith("hydra.searchpath=")]
    items = [item.strip(" '\"") for value in values for item in value.strip("[]").split(",")]
    return [Path(item.removeprefix("file://")) for item in items if item and not item.startswith("pkg://")]


def _require_no_spaces(words: Sequence[str]) -> None:
    for number, word in enumerate(words):
        following = words[number + 1] if number + 1 < len(words) else ""
        key = word.partition("=")[0]
        if re.fullmatch(r"[~+]*[\w./]+", key) and (
            ("=" not in word and following.startswith("="))
            or (word == f"{key}=" and following and "=" not in following)
        ):
            value = "".join(words[number + 1 : number + 3]) if following == "=" else following
            raise UserError(f"{key}: write it without spaces: {key}={value.lstrip('=')}")
        if re.fullmatch(r"[~+]*[\w./]+:", word) and following and "=" not in following:
            raise UserError(f"{word[:-1]}: write it with an equals sign, without spaces: {word[:-1]}={following}")
        if "=" in word and word.endswith(",") and following and "=" not in following:
            raise UserError(f"{key}: write its values without spaces: {word}{following}")


def _require_valid_word(word: str, root: str, places: list[Path], taken: list[str], *, intervals: bool) -> None:
    match = WORD.fullmatch(word)
    assert match is not None
    prefix, key, value = match["prefix"] or "", match["key"], match["value"]
    if key == "hydra/sweeper" and value != "basic":
        raise UserError(f"{word}: catdog has no such sweeper. {SEARCHES} {SWEEPS}")
    if key.startswith("hydra"):
        return
    if not key:
        raise UserError(f"cannot read {word!r}. {HOW}")
    if not re.fullmatch(r"[\w./-]+", key):
        # Hydra's grammar says more about it, and its message is explained below.
        return
    groups, known = list_groups(root), [*list_keys(root), *taken]
    if match["sign"] is None and prefix != "~":
        raise UserError(f"cannot read {word!r}: {_explain_lone(word, groups, known, places)}")
    if _is_open(key, root):
        _require_possible(word, key, value or "", is_group=False, intervals=intervals)
        return
    is_group = key in groups or any((place / key).is_dir() for place in places if root == "config")
    is_known = is_group or key in known or any(each.startswith(f"{key}.") for each in known)
    if not is_known:
        raise UserError(explain_unknown(key, root, value=value, known=known))
    if prefix == "~":
        advice = f"Choose another: {', '.join(list_choices(key, places))}." if is_group else "Give it another value."
        raise UserError(f"~{key}: this cannot be removed, only changed. {advice}")
    if prefix == "+" and key != "experiment":
        raise UserError(f"+{key}: exists already; leave out the plus sign: {key}={value}")
    _require_possible(word, key, value or "", is_group=is_group, intervals=intervals)
    if is_group:
        _require_choice(key, value or "", groups, places)


def _require_possible(word: str, key: str, value: str, *, is_group: bool, intervals: bool) -> None:
    """Raises UserError for an interval outside of a search, and for `glob`, which only groups have."""
    found = FUNCTION.search(value)
    if not found or value.startswith(("'", '"')) or (found[1] == "glob" and is_group):
        return
    if found[1] != "interval":
        raise UserError(f"{word}: catdog has no files for {key}. {SWEEPS}")
    if not intervals:
        raise UserError(f"{word}: only a search takes an interval. {SEARCHES} {SWEEPS}")


def _require_choice(group: str, value: str, groups: list[str], places: list[Path]) -> None:
    if value.startswith("{"):
        allowed = ", ".join(list_choices(group, places))
        raise UserError(f"{group}: takes the name of a choice, {group}=NAME, received {value}; allowed: {allowed}.")
    if re.fullmatch(r"\[[^\[\]]*\]", value):
        # A list of choices, of which Hydra takes each.
        value = value[1:-1]
    if COMPOUND.search(value) or (group == "experiment" and value == "null"):
        return
    choices = list_choices(group, places)
    for choice in map(str.strip, value.split(",")):
        if choice not in choices and not any((place / group / f"{choice}.yaml").is_file() for place in places):
            raise UserError(explain_no_choice(group, choice, groups, places))


def explain_no_choice(group: str, choice: str, groups: Sequence[str] = (), places: Sequence[Path] = ()) -> str:
    """Returns the message for GROUP=CHOICE where the group has no such choice: all of its choices, and what may be meant."""
    choices = list_choices(group, places)
    words = f"{group}={choice}: no such option; allowed: {', '.join(choices)}."
    if not choice:
        return words
    near = suggest(choice, choices) or next((each for each in choices if each.startswith(choice.lower())), "")
    if near:
        return words + ask([f"{group}={near}"])
    if group == "dataset" and ("/" in choice or Path(choice).exists()):
        return words + f" Your own images: dataset=folder dataset.archive={choice}"
    others = [f"{other}={choice}" for other in groups if choice in list_choices(other, places)]
    if others:
        return words + ask(others)
    remark = MISSING.get(choice.lower(), "")
    return " ".join(filter(None, [words, remark, ELSEWHERE.get(group, "")]))


def _explain_lone(word: str, groups: list[str], known: list[str], places: list[Path]) -> str:
    """Returns what to write instead of a word without an equals sign."""
    if word in groups:
        return f"it needs a choice: {word}={'|'.join(list_choices(word, places))}."
    if word in known:
        return f"it needs a value: {word}=VALUE."
    owners = [group for group in groups if word in list_choices(group, places)]
    if owners:
        return "write " + " or ".join(f"{group}={word}" for group in owners) + "."
    if "dataset" in groups and ("/" in word or Path(word).exists()):
        return f"for a folder or zip of your own images write dataset=folder dataset.archive={word}"
    key, separator, value = word.partition(":")
    if separator and key in [*groups, *known]:
        return f"write {key}={value.strip()}."
    return HOW


def explain_flag(flag: str, following: str, root: str, *, sweeps: bool, taken: Iterable[str] = ()) -> str:
    """Returns the message for a flag that does not exist, such as --epochs, with the KEY=VALUE that may be meant.

    Args:
        flag: as typed, with a value or not: --epochs=3.
        following: the next argument, or "".
        root: as in `require_valid`.
        sweeps: whether the command takes -m.
        taken: as in `require_valid`.
    """
    name, _, value = flag.partition("=")
    key = name.lstrip("-").replace("-", "_")
    value = value or ("" if following.startswith("-") or "=" in following else following)
    flags = f"the flags are {'-m, ' if sweeps else ''}--cfg job and --help"
    start = f"{name}: no such flag; catdog takes KEY=VALUE, without dashes."
    known, groups = [*list_keys(root), *taken], list_groups(root)
    meant = [key] if key in [*known, *groups] else []
    if not meant:
        target, remark = find_foreign(key)
        if target and (target in [*known, *groups] or root == "config"):
            carried = value if NUMBER.fullmatch(value) and not remark else "VALUE"
            return f"{start} Write {target}={carried}.{f' {remark}' if remark else ''}"
        if remark and root == "config":
            return f"{start} {remark}"
        meant = suggest_key(key, [*known, *groups]) if len(key) > 1 else []
    if meant:
        return f"{start} Write " + " or ".join(f"{each}={value or 'VALUE'}" for each in meant) + "."
    return f"{start} --help lists the keys; {flags}."


def explain_stray(argument: str, following: str, root: str) -> str:
    """Returns the message for an argument that names neither a file nor an option, of a command that takes both.

    Args:
        argument: as typed.
        following: the next argument, or "".
        root: as in `require_valid`.
    """
    known = [*list_keys(root), *list_groups(root)]
    key, separator, _ = argument.partition("=")
    if argument.startswith("-"):
        return explain_flag(argument, following, root, sweeps=False)
    if separator:
        return f"{argument!r}: neither a file nor an option.{ask(suggest_key(key, known))} Options: {', '.join(list_keys(root))}."
    if argument in known and following.startswith("="):
        return f"{argument}: write it without spaces: {argument}=VALUE."
    near = ask([suggest_path(Path(argument))])
    return f"{argument!r}: no such file or folder.{near} Name files and folders that exist, or options."


def explain_choice(error: ValueError) -> str:
    """Returns the message for GROUP=CHOICE where the choice is not a name."""
    kind = str(error).rpartition("Got ")[2].rstrip(".")
    received = {"NoneType": "null", "int": "a number", "float": "a number", "bool": "true or false"}.get(kind, kind)
    return f"a group takes the name of a choice, GROUP=CHOICE, received {received}; --help lists the choices of each group."


def explain(error: Exception, root: str) -> str:
    """Returns the message for an error of composition: the key, what is allowed, what was received.

    In a sweep, some runs may have an entry and others not: then the message says with which run it is so.
    """
    words = _explain(error, root)
    entry = re.search(r"Could not (override|append to config|delete from config)[^']*'([^']+)'", str(error))
    if not hasattr(error, JOB) or not entry or not _is_open(entry[2], root):
        return words
    groups = list_groups(root)
    run = " ".join(word for word in getattr(error, JOB) if word.partition("=")[0] in groups) or "the default choices"
    typed = re.search(r" use \+[^=]+=(.*)|remove \+ prefix: '[^=]*=(.*)'", str(error))
    value = "null" if entry[1].startswith("delete") else typed[1] or typed[2] if typed else "VALUE"
    ending = f"If others differ in this, '++{entry[2]}={value}' fits all."
    return f"{words.rstrip('.')}. The config is that of the run with {run}. {ending}"


def _explain(error: Exception, root: str) -> str:
    text = str(error)
    cause = error.__cause__
    whole = f"{text}\n{cause}"
    several = re.search(r"Ambiguous value for argument '(.*)'", text) or re.search(
        r"Sweep parameters '(.*)' requires --multirun", text
    )
    if several:
        word = several.group(1)
        if root in ("config", "decide"):
            return f"{word}: several values make a sweep: add -m. For one list, write KEY=[A,B]."
        key, _, value = word.partition("=")
        return f"{word}: {root} takes one value of {key}. If that is a list, write {key}=[{value}]"
    if "does not support sweep type" in text:
        return SWEEPS
    unknown = re.search(r"Could not override '([^']+)'", text) or re.search(
        r"Key '[^']+' not in .*full_key: (\S+)", text, re.S
    )
    if unknown and unknown.group(1) in MOVED_KEYS:
        return f"{unknown.group(1)}: is called {MOVED_KEYS[unknown.group(1)]}."
    if unknown and "Could not override" in text and (cause is None or "not in" in str(cause)):
        # Hydra repeats what was typed: "To append to your config use +augmentation.layers.flip={layer: RandomFlip}".
        typed = re.search(r" use \+[^=]+=(.*)", text)
        return explain_unknown(unknown.group(1), root, value=typed.group(1) if typed else None)
    missing = re.search(r"Could not (?:find|load) '([^']+)/([^'/]*)'", text)
    if missing:
        return explain_no_choice(missing.group(1), missing.group(2), list_groups(root))
    placed = re.search(r"Could not (append to|delete from) config[^']*'([^']+)'", text)
    if placed and placed.group(1) == "append to":
        typed = re.search(r"remove \+ prefix: '[^=]*=(.*)'", text)
        return f"+{placed.group(2)}: exists already; leave out the plus sign: {placed.group(2)}={typed[1] if typed else 'VALUE'}"
    if placed:
        return f"~{placed.group(2)}: this config has no such entry to leave out; --cfg job shows those it has."
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}. {HOW}"
    return _explain_value(whole, root) or _explain_folder(text) or _explain_rest(whole)


def _explain_value(text: str, root: str) -> str:
    """Returns the message for a value of a wrong type, or "" if this is about something else."""
    key = re.search(r"full_key: (\S+)", text)
    if not key:
        return ""
    name = key.group(1)
    value = re.search(
        r"Value '(.*)' (?:of type '\w+' could not be converted to (\w+)|is not a valid bool \(type)", text
    )
    if value:
        kind = value.group(2) or "Boolean"
        several = f" Several are given with -m: {name}=0,1,2 or '{name}=range(0,10)'." if name == "seed" else ""
        return f"{name}: must be {TYPES.get(kind, kind)}, received {value.group(1)!r}.{several}"
    word = re.search(r"Error merging override (.*)", text)
    received = word.group(1).partition("=")[2] if word else ""
    if "not a valid bool" in text:
        return f"{name}: must be true or false, received {received}."
    if re.search(r"is not a subclass of \w+Config", text):
        return _explain_section(name, received, root)
    if "Cannot merge DictConfig with ListConfig" in text and received:
        if received.startswith("{"):
            return f"{name}: must be a list, received {received}. Write {name}=[VALUE,VALUE]"
        return _explain_section(name, received, root) or _explain_mapping(name, received)
    if "is not a ListConfig" in text:
        return f"{name}: must be a list, received {received}. Write {name}=[{received}]"
    if re.search(r"Cannot assign \w+ to Dict", text):
        return _explain_mapping(name, received)
    if "to string" in text and word:
        typed = word.group(1).partition("=")[0]
        if typed.lstrip("+") == name:
            return f"{name}: must be one value, received {received}. Write {name}=VALUE."
        return f"{typed}: no such key; {name} holds one value: {name}=VALUE."
    if "does not support deletion" in text:
        return f"~{name}: this cannot be removed, only changed. Give it another value."
    return ""


def _explain_mapping(name: str, received: str) -> str:
    return f"{name}: must be a mapping of names to values, received {received}. To add to it: '+{name}.NAME=VALUE'."


def _explain_section(name: str, received: str, root: str) -> str:
    """Returns the message for a value of a key that holds further keys, such as augmentation.mix; "" for any other key."""
    options = [option for option in schema.list_options(schema_of(root)) if option[0].startswith(f"{name}.")]
    if not options:
        return ""
    meant = next((option for option in options if option[0] == f"{name}.{received}"), None)
    key, default, help = meant or options[0]
    example = re.search(r"such as ([\d.]*\d)", help)
    return (
        f"{name}: holds further keys and no value of its own, received {received}. "
        f"Write {key}={example[1] if example else 'VALUE' if default == '' else default}. "
        f"Its keys: {', '.join(option[0] for option in options)}."
    )


def _explain_folder(text: str) -> str:
    """Returns the message for --config-name, --config-path or --config-dir, or "" if this is about something else."""
    for pattern, flag, what in (
        (r"Cannot find primary config '([^']*)'", "--config-name", "no config"),
        (r"Primary config \w+ '([^']*)' not found", "--config-path", "no folder of configs"),
        (r"Additional config directory '([^']*)' not found", "--config-dir", "no folder"),
    ):
        found = re.search(pattern, text)
        if found:
            return f"{flag}: there is {what} {found.group(1)!r}."
    return ""


def _explain_rest(text: str) -> str:
    """Returns the lines of a message that say something to a user."""
    hidden = ("See https", "object_type", "reference_type", "Config search", "provider=", "None", "Error merging")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n       ".join(dict.fromkeys(line for line in lines if not line.startswith(hidden)))


def explain_unknown(key: str, root: str, *, value: str | None = None, known: Sequence[str] = ()) -> str:
    """Returns the message for a key that does not exist: what may be meant, and what exists.

    Args:
        key: as typed.
        root: as in `require_valid`.
        value: as typed, to repeat it in a suggestion.
        known: the keys that exist; by default those of the root.
    """
    if key in MOVED_KEYS:
        return f"{key}: is called {MOVED_KEYS[key]}."
    if key.startswith("hydra.sweeper."):
        return f"{key}: no such key. {SWEEPS}"
    for name in ("slurm", "ray"):
        if key.startswith("hydra.launcher.") and key in _list_part(f"launcher/{name}"):
            return _explain_cluster_option(key, name)
    if key.startswith("hydra."):
        found = suggest_key(key, _list_hydra_keys())
        return f"{key}: no such key.{ask(found)} --help lists the options of sweeps, hydra.launcher.KEY=VALUE."
    if key in _list_mappings(schema_of(root)):
        return (
            f"{key}: cannot be replaced as a whole; add to it with '+{key}.NAME=VALUE', and leave out what it has with "
            f"'~{key}.NAME'. --cfg job shows what it has."
        )
    if _is_open(key, root):
        advice = (
            f"To add one, write a plus sign: '+{key}={value or 'VALUE'}'."
            if value != "null"
            else f"Leave {key}=null out."
        )
        return f"{key}: this config has no such entry to change; --cfg job shows those it has. {advice}"
    known = known or list_keys(root)
    groups = list_groups(root)
    # What is more than a plain value may need quotes.
    shown = f"={value}" if value and not COMPOUND.search(value) else ""
    if root != "config":
        owners = [name for name in ("config", *commands.ROOTS) if key in [*list_keys(name), *list_groups(name)]]
        if owners and not (root == "decide" and "config" in owners):
            names = ["train" if name == "config" else name for name in owners]
            return f"{key}: no such key of {root}, but of {listed(names)}.\n       {_list_allowed('', groups, known)}"
    parent = key.rpartition(".")[0]
    if parent in known:
        return f"{key}: no such key; {parent} holds one value: {parent}=VALUE."
    target, remark = find_foreign(key)
    is_new = not any(each.rpartition(".")[2] == key.rpartition(".")[2] for each in known)
    if root == "config" and is_new and (target or remark):
        # Only a number means the same to both tools.
        example = f": {target}={value}" if value and NUMBER.fullmatch(value) and not remark else ""
        called = f"In catdog it is called {target}{example}." if target else ""
        return " ".join(filter(None, [f"{key}: no such key.", called, remark]))
    tops = list(dict.fromkeys(name.partition(".")[0] for name in known))
    near = [suggest(key, [*groups, *tops])] if "." not in key and "/" not in key else []
    found = near if near and near[0] else suggest_key(key, known)
    hint = ask(f"{each}{shown}" if each in groups else each for each in found)
    return f"{key}: no such key.{hint}\n       {_list_allowed(parent, groups, known)}"


def _list_allowed(parent: str, groups: list[str], known: Sequence[str]) -> str:
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    if parent and siblings:
        return f"Allowed in {parent}: {', '.join(siblings)}; --help explains them."
    tops = list(dict.fromkeys(name.partition(".")[0] for name in known))
    single = [name for name in tops if name not in groups and name in known]
    nested = [name for name in tops if name not in known and name not in groups]
    parts = [", ".join([*single, *(f"{name}.KEY" for name in nested)])]
    if groups:
        inner = [name for name in known if name.partition(".")[0] in groups and not name.endswith(".name")]
        example = "trainer.epochs" if "trainer.epochs" in inner else inner[0]
        what = (
            f"the group {groups[0]}, and its keys"
            if len(groups) == 1
            else f"the groups {', '.join(groups)}, and their keys"
        )
        parts.append(f"{what}, such as {example}")
    return f"Allowed: {'; '.join(filter(None, parts))}; --help explains them."


def list_choices(group: str, places: Iterable[Path] = ()) -> list[str]:
    """Returns the names of a config group's files, such as ["cnn", ...] for `model`; of Hydra's own groups, what plugins bring.

    Args:
        group: its name.
        places: the folders with config groups; by default catdog's.
    """
    files = sorted({path.stem for place in places or [schema.CONF] for path in (place / group).glob("*.yaml")})
    if files or not group.startswith("hydra/"):
        return files
    return sorted(name.removesuffix(".yaml") for name in ConfigStore.instance().list(group))


def list_groups(root: str) -> list[str]:
    """Returns the config groups of which a command takes a choice, in the order of `--help`."""
    hints = read_hints(schema_of(root))
    groups = [group for group, kind in schema.GROUPS.items() if hints.get(group) is kind]
    return ["model", "without", *groups, "experiment"] if root == "config" else groups


def list_keys(root: str) -> list[str]:
    """Returns the keys of a command, such as trainer.epochs."""
    return [name for name, _, _ in schema.list_options(schema_of(root))]


def _is_open(key: str, root: str) -> bool:
    """Whether a key lies in a mapping whose names the user chooses, such as augmentation.layers.flip."""
    return any(key.startswith(f"{name}.") for name in _list_mappings(schema_of(root)))


def _list_mappings(kind: type, prefix: str = "") -> Iterator[str]:
    hints = read_hints(kind)
    for each in fields(kind):
        nested = schema.nested_schema(kind, each.name)
        if nested:
            yield from _list_mappings(nested, f"{prefix}{each.name}.")
        elif hints[each.name] is Any or hints[each.name] == dict[str, Any]:
            yield prefix + each.name


def _explain_cluster_option(key: str, name: str) -> str:
    others = [each for each in ("slurm", "ray") if each != name and key in _list_part(f"launcher/{each}")]
    clusters = " or ".join(f"hydra/launcher={each}" for each in (name, *others))
    return f"{key}: an option of a cluster. Add {clusters}; without it, this machine trains."


def _list_hydra_keys() -> list[str]:
    from hydra.conf import HydraConf

    known = [f"hydra.{name}" for name, _, _ in schema.list_options(HydraConf)]
    return known + [
        key
        for part in ("launcher/catdog", "launcher/slurm", "launcher/ray", "sweeper/basic")
        for key in _list_part(part)
    ]


def _list_part(part: str) -> list[str]:
    """Returns the keys of a choice that a plugin of Hydra brings, such as launcher/slurm."""
    node: Any = ConfigStore.instance().load(f"hydra/{part}.yaml").node
    return [f"hydra.{part.partition('/')[0]}.{name}" for name in node if not str(name).startswith("_")]


def schema_of(root: str) -> type:
    """Returns the dataclass of a primary config: `config` for training, or a key of `commands.ROOTS`."""
    return schema.Config if root == "config" else commands.ROOTS[root]
