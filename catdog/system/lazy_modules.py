"""Modules that are executed when something in them is used for the first time, not when they are imported.

`importlib.util.LazyLoader` would do, but it executes a module as soon as any code looks for its `__file__`, as `inspect` and
TensorFlow do with all modules, and in Python 3.11 other threads see a module that is half executed.
"""

import contextlib
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_lock = threading.RLock()
_executing: set[str] = set()


class LazyModule(ModuleType):
    """A module that has been found and not executed. What `import` itself sets, such as `__file__` and `__path__`, is there."""

    def __getattr__(self, name: str) -> object:
        # Only what the module does not have yet comes here. `from MODULE import *` looks for __all__ first.
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _lock:
            if type(self) is LazyModule and self.__name__ not in _executing:
                _executing.add(self.__name__)
                try:
                    assert self.__spec__ is not None
                    self.__spec__.loader_state.exec_module(self)
                finally:
                    _executing.discard(self.__name__)
                # If an exception was raised, it is raised again at the next use.
                self.__class__ = ModuleType  # type: ignore[assignment]
        if type(self) is LazyModule:
            raise AttributeError(f"module {self.__name__!r}, which is being executed, has no attribute {name!r} yet")
        return getattr(self, name)


class _Postponing(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return LazyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leaves it to the module itself."""


class _Finder:
    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in self._names else None
        if spec is not None:
            spec.loader, spec.loader_state = _Postponing(), spec.loader
        return spec


@contextlib.contextmanager
def postponed(names: Collection[str]) -> Iterator[None]:
    """Does not execute the modules of these full names that the block imports until something in them is used."""
    finder = _Finder(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
