"""The custom code that a saved model needs: found in the model, saved with it, and isolated when it is loaded."""

import contextlib
import importlib.metadata
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catdog.tracking.code_digest import SITE
from catdog.tracking.custom_objects import find_needs


@dataclass(frozen=True)
class NeededCode:
    """What loading a model needs besides Keras.

    Attributes:
        sources: text of the modules that are saved with the model, by path.
        requirements: installed packages with versions, such as "my-layers==1.2".
        needs: the names of the modules, for the model's metadata.
    """

    sources: Mapping[str, str]
    requirements: list[str]
    needs: list[str]

    @contextlib.contextmanager
    def write(self) -> Iterator[list[str]]:
        """Yields the paths of files and folders with the sources, for MLflow to copy."""
        with tempfile.TemporaryDirectory() as folder:
            for path, text in self.sources.items():
                file = Path(folder) / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            yield sorted(str(path) for path in Path(folder).iterdir())


def describe_needed_code(model: Any, sources: Mapping[str, str]) -> NeededCode:
    """Returns what loading a model needs; that is nothing for a graph of Keras' own layers.

    Args:
        model: the model to save.
        sources: text of the custom modules, by path in the folder that they are imported from.
    """
    modules = sorted({module for module, _ in find_needs(model).values()})
    if not modules:
        return NeededCode({}, [], [])
    # An installed package is named, not copied.
    sources = {path: text for path, text in sources.items() if not path.startswith(f"{SITE}/")}
    saved = {path.partition("/")[0].removesuffix(".py") for path in sources}
    packages = {module.partition(".")[0] for module in modules} - saved
    distributions = importlib.metadata.packages_distributions()
    names = sorted({name for package in packages for name in distributions.get(package, [])})
    requirements = [f"{name}=={importlib.metadata.version(name)}" for name in ("cloudpickle", *names)]
    return NeededCode(sources, requirements, modules)


@contextlib.contextmanager
def isolate_code() -> Iterator[None]:
    """Undoes what loading a model does to `sys.path` and `sys.modules`: another model may have another version of a module."""
    path, known = list(sys.path), set(sys.modules)
    try:
        yield
    finally:
        added = [Path(folder).resolve() for folder in sys.path if folder not in path]
        sys.path[:] = path
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            if file and any(Path(file).resolve().is_relative_to(folder) for folder in added):
                del sys.modules[name]
