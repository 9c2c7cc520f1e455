"""The commands that catdog suggests to a user, ready to be copied into a shell."""

import os
import shlex
import sys
from collections.abc import Sequence

from catdog.config import schema


def next_command(command: str, study: str, uri: str, *arguments: str) -> str:
    """Returns a catdog command that can be copied into a shell. It works on the same study in the same store.

    Args:
        command: compare, evaluate, ui and so on.
        study: the study's name; the default is not written out.
        uri: the tracking address; the default is not written out.
        arguments: further arguments of the command.
    """
    options = [*arguments]
    if study != schema.DEFAULT_STUDY:
        options.append(f"study={study}")
    if uri != schema.DEFAULT_URI:
        options.append(f"tracking.uri={uri}")
    return shlex.join([python_command(), "-m", f"catdog.{command}", *options])


def train_command(arguments: Sequence[str], *, without: Sequence[str] = ()) -> str:
    """Returns a `train` command line that can be run again.

    Args:
        arguments: the arguments of the command.
        without: prefixes; an argument that starts with one of them is left out.
    """
    kept = [item for item in arguments if not item.startswith(tuple(without))]
    return shlex.join([python_command(), "-m", "catdog.train", *kept])


def quote(value: str) -> str:
    """Returns a value in Hydra's grammar. It is quoted if it contains anything but plain characters."""
    plain = bool(value) and all(character.isalnum() or character in "_-./:" for character in value)
    return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def python_command() -> str:
    """Returns the command that starts this Python: its path if it belongs to a virtual environment that is not activated."""
    if sys.prefix == sys.base_prefix or os.environ.get("VIRTUAL_ENV") == sys.prefix:
        return "python"
    relative = os.path.relpath(sys.executable)
    return sys.executable if relative.startswith("..") else relative
