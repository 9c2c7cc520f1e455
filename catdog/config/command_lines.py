"""Commands to be typed next, as catdog prints them."""

import os
import shlex
import sys
from collections.abc import Sequence

from catdog.config import schema


def next_command(command: str, study: str, uri: str, *arguments: str) -> str:
    """Returns a catdog command to be copied into a shell: it works on the same study in the same store.

    Args:
        command: train, compare, evaluate or predict.
        study: left out where it is the default.
        uri: tracking address, left out where it is the default.
        arguments: further ones.
    """
    options = [*arguments]
    if study != schema.DEFAULT_STUDY:
        options.append(f"study={study}")
    if uri != schema.DEFAULT_URI:
        options.append(f"tracking.uri={uri}")
    return shlex.join([python_command(), "-m", f"catdog.{command}", *options])


def train_command(arguments: Sequence[str], *, without: Sequence[str] = ()) -> str:
    """Returns a command line of `train`, to be typed again.

    Args:
        arguments: its words.
        without: beginnings of words that are left out.
    """
    kept = [item for item in arguments if not item.startswith(tuple(without))]
    return shlex.join([python_command(), "-m", "catdog.train", *kept])


def quote(value: str) -> str:
    """Returns a value as Hydra's grammar takes it: in quotation marks where it has more than plain characters."""
    plain = bool(value) and all(character.isalnum() or character in "_-./:" for character in value)
    return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def python_command() -> str:
    """Returns how this Python is called: by its path where it is a virtual environment's that is not activated."""
    if sys.prefix == sys.base_prefix or os.environ.get("VIRTUAL_ENV") == sys.prefix:
        return "python"
    relative = os.path.relpath(sys.executable)
    return sys.executable if relative.startswith("..") else relative


def ui_command(uri: str) -> str:
    """Returns the command, or the address, that shows the store in a browser."""
    if uri.startswith("http"):
        return uri
    python = python_command()
    return f"{'mlflow' if python == 'python' else python + ' -m mlflow'} ui --backend-store-uri {uri}"
