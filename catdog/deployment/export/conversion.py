"""What the formats share: a description of each, converters that are quiet, and errors that a user can act on."""

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catdog.system.errors import UserError

# Libraries that log their progress while they convert.
CHATTY = ("tensorflow", "absl", "tf2onnx", "onnx")
LONGEST_ERROR = 200
# How converters say that a format has no counterpart for an operation: LiteRT's, tf2onnx's and ONNX's checker.
MISSING_OPERATION = re.compile(r"flex op|custom op|not supported|unsupported|No Op registered|failed to legalize", re.I)


@dataclass(frozen=True)
class Source:
    """A model to export.

    Attributes:
        model: Keras, float32, uint8 (B, H, W, 3) in [0, 255] -> float32 probabilities (B, classes).
        class_names: the classes, in the order of the outputs.
        image_size: H = W in pixels.
        calibration: training images, uint8 (M, H, W, 3) in [0, 255], from which int8 takes its ranges; M = 0 without int8.
    """

    model: Any
    class_names: tuple[str, ...]
    image_size: int
    calibration: np.ndarray

    def specify_pixels(self, images: int | None = None, kind: str = "uint8") -> Any:
        """Returns TensorFlow's description of its input, named "pixels"; images: how many it takes at a time, None: any number.

        Keras' exporters find out by themselves only if the model has been called before.
        """
        import tensorflow as tf

        return tf.TensorSpec((images, self.image_size, self.image_size, 3), kind, name="pixels")


@dataclass(frozen=True)
class Format:
    """A format of model files.

    Attributes:
        name: in options, tags and metrics, such as "onnx".
        title: in sentences, such as "ONNX".
        file: the name of the model's file or folder.
        reader: the name of the script that reads it.
        runtime: what runs it, as the card says it.
        installs: what has to be installed for that, as pip names it.
        packages: the modules that writing and running it take, besides catdog's own dependencies.
        kept_out: the modules that must not be imported where it is scored.
        loads: the code of its reader that loads the model, see `catdog.deployment.export.readers`.
        write: writes a model to a path.
    """

    name: str
    title: str
    file: str
    reader: str
    runtime: str
    installs: str
    packages: tuple[str, ...]
    kept_out: tuple[str, ...]
    loads: str
    write: Callable[[Source, Path], None]


@contextlib.contextmanager
def converting(name: str, path: Path, instead: str) -> Iterator[None]:
    """Keeps converters in the block quiet, and turns what they raise into a UserError.

    Args:
        name: the value of `format=`, for messages.
        path: the file that they write.
        instead: other formats to try.
    """
    from catdog.training.preload import quiet_native_log

    loggers = [logging.getLogger(each) for each in CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings(), quiet_native_log():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
    except UserError:
        raise
    except Exception as error:
        # The converters raise many types.
        raise explain_failure(error, name, path, instead) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def explain_failure(error: Exception, name: str, path: Path, instead: str) -> UserError:
    """Returns what a converter's exception means for a user; arguments as for `converting`."""
    if isinstance(error, OSError | MemoryError) or not MISSING_OPERATION.search(str(error)):
        named = error.strerror if isinstance(error, OSError) and error.strerror else name_error(error)
        return UserError(f"format: writing {path.name} failed: {named}. Try again, or use {instead}.")
    return UserError(
        f"format: {name} cannot hold this model: {_name_operations(error)}. Use {instead}, or train a model without these layers."
    )


def _name_operations(error: Exception) -> str:
    """Returns the operations that a converter has no counterpart for, or the first line of its message."""
    text = str(error)
    flex = re.search(r"Flex ops: ([\w, ]+)", text)
    named = re.findall(r"'tf\.(\w+)' op is neither", text)
    if flex:
        named = [name.removeprefix("Flex") for name in flex[1].split(", ")]
    if named:
        return f"LiteRT has no kernel for {', '.join(dict.fromkeys(named))}"
    return name_error(error)


def name_error(error: Exception) -> str:
    """Returns the type of an exception and the first line of its message, shortened."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line[:LONGEST_ERROR].rstrip('. ')}" if line else type(error).__name__
