"""Commands to be typed next, as catdog prints them."""

import os
import shlex
import sys

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


def this_command(*, without: str = "") -> str:
    """Returns the command line that is running, to be typed again; arguments that begin with `without` are left out."""
    hidden = ("hydra.launcher.result_file=", *([without] if without else []))
    arguments = [item for item in sys.argv[1:] if not item.startswith(hidden)]
    return shlex.join([python_command(), "-m", "catdog.train", *arguments])


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
