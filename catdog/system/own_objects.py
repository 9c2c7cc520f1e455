"""Objects that a user's config names as `module:object`: loads them, and explains what is wrong with them."""

import contextlib
import difflib
import importlib
import inspect
import linecache
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from catdog.system.errors import UserError

MOST_FRAMES = 8
MOST_MESSAGE_LINES = 12
CATDOG = Path(__file__).resolve().parent.parent


def load_object(key: str, reference: str) -> Any:
    """Returns the object that the config names.

    It adds the current folder to `sys.path`, as `python -m` does.

    Args:
        key: the config key, for messages.
        reference: module:object, such as my_models:resnet.

    Raises:
        UserError: there is no such module or object, or the import raises an exception.
    """
    module_name, _, path = reference.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # A file may be newer than Python's cached listing of the folder.
    importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise describe_failure(key, reference, f"importing {module_name}", error) from error
        raise UserError(
            f"{key}: there is no module {module_name!r}, received {reference!r}. It must be importable: the file "
            f"{module_name.replace('.', '/')}.py in {folder}, or an installed package."
        ) from error
    except Exception as error:
        raise describe_failure(key, reference, f"importing {module_name}", error) from error
    for name in path.split("."):
        if not hasattr(found, name):
            close = difflib.get_close_matches(name, [known for known in dir(found) if not known.startswith("_")], n=1)
            raise UserError(
                f"{key}: {_place(found)} has no {name!r}, received {reference!r}."
                + (f" Did you mean {reference.removesuffix(name)}{close[0]}?" if close else "")
            )
        found = getattr(found, name)
    return found


@contextlib.contextmanager
def explain(key: str, reference: str, doing: str = "") -> Iterator[None]:
    """Turns an exception in the body into a UserError that shows the lines of the custom code."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise describe_failure(key, reference, doing, error) from error


def describe_failure(key: str, reference: str, doing: str, error: BaseException) -> UserError:
    """Returns the error for an exception in custom code: the exception, and the lines of that code that led to it."""
    message = "\n".join("".join(traceback.format_exception_only(error)).strip().splitlines()[:MOST_MESSAGE_LINES])
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)][-MOST_FRAMES:]
    # Drops cached lines of modules that have changed on disk.
    linecache.checkcache()
    lines = "".join(traceback.format_list(frames)).rstrip()
    return UserError(
        f"{key}: {reference} failed{f' while {doing}' if doing else ''}: {message}" + (f"\n{lines}" if lines else "")
    )


def describe_type(value: Any) -> str:
    """Returns such as "None", "the module my_models" or "an object of type int"."""
    if value is None:
        return "None"
    if inspect.ismodule(value):
        return f"the module {value.__name__}"
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    return f"an object of type {type(value).__name__}"


def _place(found: Any) -> str:
    file = getattr(found, "__file__", None)
    return f"{found.__name__} ({file})" if file else str(getattr(found, "__name__", found))


def _is_users(file: str) -> bool:
    """Whether a file belongs neither to catdog nor to a library."""
    path = Path(file)
    if not path.is_file():
        return False
    path = path.resolve()
    return not any(path.is_relative_to(folder) for folder in (CATDOG, *_library_folders()))


def _library_folders() -> list[Path]:
    return [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
