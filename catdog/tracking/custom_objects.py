"""Classes and functions besides Keras' own that loading a Keras model needs."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from catdog.system.errors import UserError

REGISTER = "keras.saving.register_keras_serializable"
# Where Keras looks for a function of which it has written the name alone.
KERAS_FUNCTIONS = ("activations", "constraints", "initializers", "losses", "metrics", "optimizers", "regularizers")


def find_needs(model: Any) -> dict[str, tuple[str, str]]:
    """Returns what loading a model needs besides Keras: (module, name) of classes and functions, by their names in Keras.

    It is read from what Keras would save: a graph of Keras' own layers needs nothing, even if a custom function built it.

    Raises:
        UserError: Keras could not load the model again, or with another class: a function is not registered, or two have one name.
    """
    import keras

    registered = keras.saving.get_custom_objects()
    config = keras.saving.serialize_keras_object(model)
    if getattr(type(model), "compile", None) is not keras.Model.compile:
        # Keras leaves it to the model to be compiled again.
        config.pop("compile_config", None)
    needs: dict[str, tuple[str, str]] = {}
    for known, need in _walk(config, registered):
        other = needs.setdefault(known, need)
        if _find_imported(*other) is not _find_imported(*need):
            raise UserError(
                f"the model has two classes or functions named {known}, {'.'.join(other)} and {'.'.join(need)}, and Keras would "
                f"load one for both. Register each in a package of its own: @{REGISTER}(package=NAME)."
            )
    return needs


def _find_imported(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, None)


def _walk(config: Any, registered: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    # Keras writes only the registered name of a function, or the name alone of one that it cannot find again.
    if isinstance(config, str) and config in registered:
        value = registered[config]
        yield config, (value.__module__, getattr(value, "__name__", config))
    elif isinstance(config, dict):
        if config.get("class_name") == "function" and config.get("module") == "builtins":
            _require_findable(str(config.get("config")), registered)
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


def _require_findable(function: str, registered: Mapping[str, Any]) -> None:
    import keras

    if function in registered or any(hasattr(getattr(keras, place), function) for place in KERAS_FUNCTIONS):
        return
    raise UserError(
        f"the model uses the function {function}, which Keras would not find again when it loads the model. Decorate it with "
        f"@{REGISTER}(), or, if it is a loss or metric of a compiled model, save keras.Model(model.inputs, model.outputs)."
    )


def find_custom_objects(model: Any) -> dict[str, Any]:
    """Returns the custom classes and functions that loading a model needs, by their names in Keras."""
    import keras

    registered = keras.saving.get_custom_objects()
    found = {}
    for known, (module, name) in find_needs(model).items():
        value = registered.get(known, _find_imported(module, name))
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
