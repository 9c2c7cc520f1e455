"""The file of a search's winner: conf/experiment/NAME.yaml, which `python -m catdog.train experiment=NAME` trains."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from catdog.config.mistakes import list_groups
from catdog.config.names import UNNAMED_KEYS, is_under
from catdog.system.errors import UserError
from catdog.system.files import write_atomically

if TYPE_CHECKING:
    from catdog.search.tuned import Tuning

log = logging.getLogger(__name__)

FOLDER = Path("conf/experiment")
# What a search chose for all trials that says where things are, or is another choice than the configuration's.
LEFT_OUT = tuple(key for key in UNNAMED_KEYS if key not in ("dataset", "experiment"))
IDENTITY = "# Search:"
DIGITS = 12


def require_free(name: str | None, identity: str) -> None:
    """Raises a UserError if the file of the winner cannot be written: it exists and says something else, or there is no permission.

    Args:
        name: of the experiment; None: nothing is to be written.
        identity: of the search, whose own file may be replaced.
    """
    if name is None:
        return
    path = FOLDER / f"{name}.yaml"
    if path.exists():
        if f"{IDENTITY} {identity[:DIGITS]}" not in path.read_text(encoding="utf-8", errors="replace"):
            raise UserError(f"save: {path} exists already. Give another name, or remove it.")
        return
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        write_atomically(path, b"")
        path.unlink()
    except OSError as error:
        raise UserError(f"save: cannot write {path} ({error.strerror}). Start it where you may write.") from None


def save_winner(tuning: "Tuning", name: str, identity: str) -> Path | None:
    """Writes the configuration that beat the default, and returns the file; None if nothing did, which is logged.

    Raises:
        UserError: the file cannot be written.
    """
    winner = tuning.winner
    if winner is None:
        log.warning("save: nothing is written, because no configuration is shown to be better than the default")
        return None
    path = FOLDER / f"{name}.yaml"
    content = build_experiment(tuning.fixed, tuning.space.word(winner.settings))
    head = [
        "# @package _global_",
        f"# {winner.name} of the search {tuning.name!r}: better than the default by evidence.",
        "#",
        f"#   python -m catdog.train experiment={name}",
        "#",
        f"{IDENTITY} {identity[:DIGITS]}",
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join([*head, yaml.safe_dump(content, sort_keys=False, allow_unicode=True)])
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"save: cannot write {path} ({error.strerror}).") from None
    log.info("experiment %s", path)
    return path


def build_experiment(fixed: list[str], words: list[str]) -> dict[str, Any]:
    """Returns the content of an experiment's file that makes the same configuration as these overrides.

    Args:
        fixed: the overrides that all trials share.
        words: those of one trial.
    """
    groups = list_groups("config")
    content: dict[str, Any] = {}
    defaults: list[Any] = []
    for override in OverridesParser.create().parse_overrides([*fixed, *words]):
        key, value = override.get_key_element().lstrip("+~"), override.value()
        if key == "seed" or is_under(key, LEFT_OUT):
            continue
        if key in groups:
            # An experiment that was part of the command is one of this one's defaults, and comes before its own values.
            defaults.append(str(value) if key == "experiment" else {f"override /{key}": value})
            continue
        place = content
        *outer, last = key.split(".")
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = _to_plain(value)
    return ({"defaults": [*defaults, "_self_"]} if defaults else {}) | content


def _to_plain(value: Any) -> Any:
    """Returns a value of Hydra's parser as YAML holds it: quoted strings are their text."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_to_plain(item) for item in value]
    if isinstance(value, dict):
        return {_to_plain(key): _to_plain(item) for key, item in value.items()}
    return value
