"""Classes and functions besides Keras' own that loading a Keras model needs."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


def find_needs(model: Any) -> dict[str, tuple[str, str]]:
    """Returns what loading a model needs besides Keras: (module, name) of classes and functions, by their names in Keras.

    It is read from what Keras would save: a graph of Keras' own layers needs nothing, even if a custom function built it.
    """
    import keras

    return dict(_walk(keras.saving.serialize_keras_object(model)))


def _walk(config: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    if isinstance(config, dict):
        module = config.get("module")
        name = config.get("config") if config.get("class_name") == "function" else config.get("class_name")
        if isinstance(module, str) and isinstance(name, str) and module.partition(".")[0] not in ("keras", "builtins"):
            yield config.get("registered_name") or name, (module, name)
        for value in config.values():
            yield from _walk(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _walk(value)


def find_custom_objects(model: Any) -> dict[str, Any]:
    """Returns the custom classes and functions that loading a model needs, by their names in Keras."""
    import keras

    registered = keras.saving.get_custom_objects()
    found = {}
    for known, (module, name) in find_needs(model).items():
        value = registered.get(known, getattr(sys.modules.get(module), name, None))
        if value is not None:
            found[known] = value
    return found


@contextlib.contextmanager
def empty_registry() -> Iterator[None]:
    """Hides the classes and functions that the process has registered with Keras.

    MLflow would pickle all of them with a model, whether the model uses them or not. The model could then not be loaded without
    the modules that define them.
    """
    import keras

    registered = keras.saving.get_custom_objects()
    kept = dict(registered)
    registered.clear()
    try:
        yield
    finally:
        registered.update(kept)
