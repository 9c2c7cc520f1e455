"""Imports Keras and TensorFlow without TensorFlow's messages on the terminal; it changes nothing else in the process."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

from catdog.system.memory import long_lived_imports


@contextlib.contextmanager
def quiet_native_log() -> Iterator[None]:
    """Hides what native code writes to stderr, unless the body raises an exception: then it is shown.

    On import, TensorFlow writes about missing CUDA drivers and rounding; no log level applies to those lines.
    """
    try:
        stderr = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # no real stderr, as in some notebooks and tests
        yield
        return
    sys.stderr.flush()
    kept = os.dup(stderr)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), stderr)
        try:
            yield
        except BaseException:
            os.dup2(kept, stderr)
            written.seek(0)
            os.write(stderr, written.read())
            raise
        finally:
            os.dup2(kept, stderr)
            os.close(kept)


class _Postponed:
    """A finder of modules that lets some parts of Keras be executed at their first use.

    They import scikit-learn, SciPy and Matplotlib: a third of the time of Keras' import, TensorFlow's included, and 85 MB.
    """

    PACKAGES = ("keras", "keras.src", "keras._tf_keras.keras")
    PARTS = ("wrappers", "visualization")

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None, target: ModuleType | None = None, /) -> ModuleSpec | None:
        package, _, part = name.rpartition(".")
        spec = PathFinder.find_spec(name, path, target) if package in cls.PACKAGES and part in cls.PARTS else None
        if spec and spec.loader:
            spec.loader = LazyLoader(spec.loader)
        return spec


@contextlib.contextmanager
def _parts_postponed() -> Iterator[None]:
    sys.meta_path.insert(0, _Postponed)
    try:
        yield
    finally:
        sys.meta_path.remove(_Postponed)


with long_lived_imports(), quiet_native_log(), _parts_postponed():
    import keras
    import tensorflow
del keras, tensorflow
