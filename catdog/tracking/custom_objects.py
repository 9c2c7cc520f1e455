"""Classes and functions besides Keras' own that loading a Keras model needs."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any


def find_needs(model: Any) -> dict[str, tuple[str, str]]:
    """Returns what loading a model needs besides Keras: (module, name) of classes and functions, by their names in Keras.

    It is read from what Keras would save: a graph of Keras' own layers needs nothing, even if a custom function built it.
    """
    import keras

    registered = keras.saving.get_custom_objects()
    return dict(_walk(keras.saving.serialize_keras_object(model), registered))


def _walk(config: Any, registered: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    # Keras writes only the registered name of a function, or the name alone of one that it cannot find again.
    if isinstance(config, str) and config in registered:
        value = registered[config]
        yield config, (value.__module__, getattr(value, "__name__", config))
    elif isinstance(config, dict):
        # Of what a script or notebook defines, Keras does not write the module.
        module = config.get("module", "keras") or "__main__"
        name = config.get("class_name")
        if isinstance(name, str) and module.partition(".")[0] not in ("keras", "builtins"):
            yield config.get("registered_name") or name, (module, name)
        for value in config.values():
            yield from _walk(value, registered)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _walk(value, registered)


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
