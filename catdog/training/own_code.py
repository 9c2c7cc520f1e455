"""Custom code in a run: calls it, and explains what is wrong; `catdog.system.own_objects` loads it."""

import contextlib
import difflib
import inspect
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from catdog.config.schema import Config
from catdog.system.errors import UserError
from catdog.system.own_objects import describe_failure, describe_type, explain, load_object
from catdog.tracking.identity import Identity, identify

MOST_LETTERS = 300


def call(
    key: str, reference: str, function: Any, arguments: dict[str, Any], options: dict[str, Any], where: str
) -> Any:
    """Returns the result of calling a custom function or class.

    Args:
        key: the config key.
        reference: module:object.
        function: what `load_object` returned.
        arguments: the positional arguments, under the names that messages use.
        options: the keyword arguments.
        where: the config key of the options.

    Raises:
        UserError: it is not callable, does not take these arguments, or raises an exception.
    """
    if not callable(function):
        raise UserError(f"{key}: {reference} must be a function or a class, but is {describe_type(function)}.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        signature = None
    if signature:
        try:
            signature.bind(*arguments.values(), **options)
        except TypeError as error:
            given = ", ".join([*arguments, *(f"{name}={value!r}" for name, value in options.items())])
            raise UserError(
                f"{key}: {reference} is called as {function.__name__}({given}), but takes {signature}: {error}. Change the "
                f"function, or {where}."
            ) from error
    with explain(key, reference):
        return function(*arguments.values(), **options)


@contextlib.contextmanager
def explain_training(references: Mapping[str, str]) -> Iterator[None]:
    """Turns an exception in the body into a UserError if it comes from a module that the config names.

    Args:
        references: module:object by config key.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        key, reference = find_culprit(references, error)
        if not key:
            raise
        raise describe_failure(key, reference, "training", error) from error


def find_culprit(references: Mapping[str, str], error: BaseException) -> tuple[str, str]:
    """Returns config key and module:object of the custom module that an exception came from, or ("", "")."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    for file in reversed(files):
        for key, reference in references.items():
            module = sys.modules.get(reference.partition(":")[0])
            if module is not None and getattr(module, "__file__", None) == file:
                return key, reference
    return "", ""


def quote_error(error: BaseException) -> str:
    """Returns the first line of a library's exception that says something, without colours, names of nodes and of the call."""
    lines = (re.sub(r"\x1b\[[0-9;]*m|\{\{.*?\}\}|\[Op:.*", "", line).strip() for line in str(error).splitlines())
    dull = ("Exception encountered when", "in user code", "File ", "Arguments received", "Graph execution error")
    said = (line for line in lines if line and not line.startswith(dull))
    return next(said, type(error).__name__)[:MOST_LETTERS].rstrip(".:")


def require_planned_code(config: Config, identity: Identity) -> None:
    """Raises UserError if a custom module has changed since the run was planned.

    catdog's own modules have been in memory since then; custom modules are imported anew in the process of each run.
    """
    now = identify(config, identity.data, identity.runtime)
    changed = [
        name for name in sorted({*now.sources, *identity.sources}) if now.files.get(name) != identity.files.get(name)
    ]
    if changed:
        raise UserError(
            f"{', '.join(changed)} changed since this run was planned. Run the same command again to plan it anew."
        )


def load_class(key: str, name: str, library: Any, parent: type, *, also: tuple[str, ...] = ()) -> type:
    """Returns a Keras class by its name, or a custom class by module:class.

    Args:
        key: the config key, for messages.
        name: the name of a Keras class, or module:class.
        library: where Keras' classes are, such as keras.layers.
        parent: the class that it must be a subclass of.
        also: what may stand there besides, for messages.

    Raises:
        UserError: there is no such class.
    """
    import keras

    wanted = f"keras.{library.__name__.rpartition('.')[2]}.{parent.__name__}"
    if ":" in name:
        found = load_object(key, name)
        if not (inspect.isclass(found) and issubclass(found, parent)):
            raise UserError(f"{key}: {name} must be a subclass of {wanted}, but is {describe_type(found)}.")
        return found
    found = getattr(library, name, None)
    if not (inspect.isclass(found) and issubclass(found, parent)):
        known = [item for item in dir(library) if inspect.isclass(getattr(library, item)) and item != parent.__name__]
        library_name = wanted.rpartition(".")[0]
        lowered = {item.lower(): item for item in [*known, *also]}
        close = [lowered[item] for item in difflib.get_close_matches(name.lower(), lowered, n=1)]
        raise UserError(
            f"{key}: Keras {keras.__version__} has no {parent.__name__.lower()} {name!r}."
            + (f" Did you mean {close[0]}?" if close else "")
            + f" Use {', '.join([f'a class name of {library_name}', *also])}, or your own as module:class."
        )
    return found
