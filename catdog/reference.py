"""Generates the reference of every command, group and key from the schema, as Markdown. `make docs` writes docs/reference.md.

The allowed values of a key come from the schema's own checks: each key is set to impossible values, and the error message says what
is allowed. So the page cannot claim a range that the code does not check.
"""

import contextlib
import copy
import dataclasses
import re
import types
from collections.abc import Iterator, Sequence
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf, open_dict

from catdog import cli
from catdog.__main__ import COMMANDS
from catdog.config import commands, mistakes, schema
from catdog.sweeps import options as launcher
from catdog.system.errors import UserError

PAGE = schema.PROJECT / "docs" / "reference.md"
HEAD = """# Reference

<!-- Generated from the schema by `make docs`: do not edit. A test fails if this page and the schema differ. -->

Every command, every group and every key. A key is set on the command line as `KEY=VALUE`, a group as `GROUP=CHOICE`:

```
python -m catdog.train model=mobilenet trainer.epochs=3
```

`python -m catdog.COMMAND --help` prints the same in the terminal, and `--cfg job` prints the composed config and stops.
The column *value* gives the type and what is allowed; *default* applies if the command line does not set the key.
"""
EXIT_CODES = """## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | a defect of catdog, or at least one run of a sweep failed; the traceback is shown and logged |
| 2 | a mistake in the command, the config or the data; the message says which |
| 3 | `audit` found something as severe as `fail_on` |
| 130 | interrupted by Ctrl-C; the same command resumes |
"""
# Impossible values of each type, tried in this order.
PROBES: dict[type, tuple[Any, ...]] = {
    int: (-(10**9), 10**12, 0),
    float: (-1e9, 1e12, 0.0),
    str: ("?", ""),
    list: ([], ["?"]),
    dict: ({"?": 0},),
}
# A default longer than this, such as a backbone's layers, is easier to read in the file of the choice.
LONGEST_DEFAULT = 90


def render_reference() -> str:
    """Returns the text of docs/reference.md for the current schema."""
    roots = {"train": "config", **{name: name for name in commands.ROOTS}}
    parts = [HEAD, _render_commands()]
    for command, root in roots.items():
        parts.append(_render_command(command, *compose_command(root)))
        if root == "config":
            parts.append(_render_launcher())
    parts += [_render_groups(*compose_command("config")), _render_environment(), EXIT_CODES]
    return "\n".join(parts)


def _render_commands() -> str:
    lines = ["## Commands", "", "| command | what it does |", "|---|---|"]
    for name, meaning in COMMANDS.items():
        lines.append(f"| [`python -m catdog.{name}`](#{name}) | {_cell(meaning)} |")
    return "\n".join([*lines, ""])


def _render_command(command: str, raw: dict[str, Any], config: Any) -> str:
    """Returns the section of a command: its own keys, and which groups it composes."""
    held = _groups_of(type(config))
    rows = list(_rows(config, raw, skip=held))
    lines = [f"## {command}", ""]
    if command == "train":
        held = ["model", "without", *held, "experiment"]
    if held:
        lines += ["Groups: " + ", ".join(f"[{group}](#{group})" for group in held) + ".", ""]
    if command == "decide":
        lines += ["Every other key is passed on to [train](#train).", ""]
    return "\n".join(lines + _table(rows))


def _render_launcher() -> str:
    """Returns the section of the sweep's options, `hydra.launcher.KEY`."""
    lines = ["## Sweeps", "", "`-m` makes a sweep: `KEY=A,B` trains one run for each value, and several such keys give every",
             "combination. How its runs are trained:", ""]  # fmt: skip
    lines += _table(_list_launcher_rows(launcher.LauncherOptions(), launcher.HELP))
    for name, words in (("slurm", "a-slurm-cluster"), ("ray", "a-ray-cluster")):
        kind, help = launcher.KINDS[name]
        lines += [
            "",
            f"With `hydra/launcher={name}` ([clusters](cluster.md#{words})) also, or with another default:",
            "",
        ]
        own = {key: text for key, text in help.items() if launcher.HELP.get(key) != text}
        lines += _table(_list_launcher_rows(kind(), own))
    return "\n".join(lines)


def _list_launcher_rows(default: launcher.LauncherOptions, help: dict[str, str]) -> list[tuple[str, str, str, str]]:
    hints = get_type_hints(type(default))
    return [
        (f"hydra.launcher.{f.name}", _describe_value(default, f.name, hints[f.name]), _show(f.default), help[f.name])
        for f in dataclasses.fields(default)
        if f.name in help
    ]


def _render_groups(raw: dict[str, Any], config: Any) -> str:
    """Returns one section for each group: its choices, and its keys below `GROUP.`."""
    lines = ["## Groups", ""]
    for group in ("model", "without", *_groups_of(type(config)), "experiment"):
        lines += [f"### {group}", "", "| choice | what it is |", "|---|---|"]
        for name in mistakes.list_choices(group):
            lines.append(f"| [{name}](../conf/{group}/{name}.yaml) | {_cell(cli._describe(group, name))} |")
        lines.append("")
        if group in schema.GROUPS:
            lines += _table(list(_rows(getattr(config, group), raw[group], f"{group}.")))
    return "\n".join(lines)


def _render_environment() -> str:
    """Returns the section of the environment variables that set the default of a key."""
    found: dict[str, set[str]] = {"CATDOG_CACHE": {"dataset.cache"}}
    for path in sorted(schema.CONF.glob("*/*.yaml")):
        for key, value in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).items():
            named = re.match(r"\$\{oc\.env:(\w+)", str(value))
            if named:
                found.setdefault(named[1], set()).add(f"{path.parent.name}.{key}")
    lines = ["## Environment variables", "", "Each sets the default of a key; the command line wins.", ""]
    lines += ["| variable | key |", "|---|---|"]
    lines += [f"| `{name}` | {', '.join(f'`{key}`' for key in sorted(keys))} |" for name, keys in sorted(found.items())]
    return "\n".join([*lines, ""])


def compose_command(root: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], Any]:
    """Returns (config before interpolation, config as dataclasses) of a command line.

    Args:
        root: `config` for training, or a key of `commands.ROOTS`.
        overrides: in Hydra's grammar, one value for each key.

    Raises:
        UserError: a value is missing or out of range.
        HydraException: there is no such key, choice or type of value.
    """
    with _own_store():
        schema.register()
        folder = schema.CONF
        if root != "config":
            commands.register()
            folder = schema.CONF / "command"
        with initialize_config_dir(str(folder), version_base="1.3"):
            composed = compose(root, overrides=list(overrides), return_hydra_config=True)
    # Hydra's section is only composed so that a mistake in hydra.launcher is found.
    with open_dict(composed):
        del composed["hydra"]
    raw = OmegaConf.to_container(composed, resolve=False)
    return cast(dict[str, Any], raw), schema.load_config(composed, commands.ROOTS.get(root, schema.Config))


@contextlib.contextmanager
def _own_store() -> Iterator[None]:
    """Undoes what the block registers in Hydra's store, which is global to the process.

    Otherwise the groups that the commands register would hide those of the same name in `conf/` when a run is composed later.
    """
    # Hydra's plugins register their configs only once, so they must do it before the store is copied.
    Plugins.instance()
    store = ConfigStore.instance()
    former = store.repo
    store.repo = copy.deepcopy(former)
    try:
        yield
    finally:
        store.repo = former


def _groups_of(kind: type) -> list[str]:
    names = [field.name for field in dataclasses.fields(kind)]
    return [name for name in names if name in schema.GROUPS and schema.nested_schema(kind, name) is schema.GROUPS[name]]


def _rows(
    section: Any, raw: dict[str, Any], prefix: str = "", skip: Sequence[str] = ()
) -> Iterator[tuple[str, str, str, str]]:
    """Yields (key, allowed values, default, help) of a section's keys, including those of sections within it."""
    hints = get_type_hints(type(section))
    for field in dataclasses.fields(section):
        if field.name in skip:
            continue
        if schema.nested_schema(type(section), field.name):
            yield from _rows(getattr(section, field.name), raw[field.name], f"{prefix}{field.name}.")
            continue
        value = _describe_value(section, field.name, hints[field.name])
        yield prefix + field.name, value, _show(raw[field.name]), field.metadata.get("help", "")


def _describe_value(section: Any, name: str, hint: Any) -> str:
    """Returns a key's type and the values that its error message allows, such as `int: 1 or more`."""
    union = get_origin(hint) in (types.UnionType, Union)
    members = [member for member in get_args(hint) if member is not type(None)] if union else [hint]
    kinds = [get_origin(member) or member for member in members]
    words = " or ".join(_name_type(member) for member in members)
    allowed = next((found for kind in kinds for found in _probe(section, name, kind)), "")
    optional = union and len(members) < len(get_args(hint)) and "null" not in allowed
    if allowed.startswith("one of "):
        words, allowed = allowed, ""
    return words + (f": {allowed}" if allowed else "") + (", or null" if optional else "")


def _probe(section: Any, name: str, kind: type) -> Iterator[str]:
    """Yields the allowed values, in the words of the error messages that impossible values raise."""
    for impossible in PROBES.get(kind, ("?", -1) if kind is Any else ()):
        try:
            dataclasses.replace(section, **{name: impossible})
        except UserError as error:
            found = re.match(rf"(?:\S+\.)?{re.escape(name)}: must be (.*?), received ", str(error), re.S)
            if found:
                yield found[1]


def _name_type(hint: Any) -> str:
    names = {int: "int", float: "float", str: "str", bool: "true or false", Any: "any", dict: "mapping"}
    if get_origin(hint) is list:
        return f"list of {_name_type(get_args(hint)[0])}"
    return names.get(get_origin(hint) or hint, str(hint))


def _show(value: Any) -> str:
    """Returns a default as a user would type it; empty if there is none."""
    text = str(value)
    from_environment = re.fullmatch(r"\$\{oc\.env:\w+,(.*)\}", text)
    if text == "???":
        return ""
    if text.startswith("${catdog_cache:"):
        return "the user's cache folder"
    if from_environment:
        text = from_environment[1]
    elif not isinstance(value, str):
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("...").strip()
    return f"`{text}`" if len(text) <= LONGEST_DEFAULT else "in the choice's file"


def _table(rows: list[tuple[str, str, str, str]]) -> list[str]:
    if not rows:
        return []
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{key}` | {_cell(value)} | {_cell(default)} | {_cell(help)} |" for key, value, default, help in rows]
    return [*lines, ""]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render_reference(), encoding="utf-8")
