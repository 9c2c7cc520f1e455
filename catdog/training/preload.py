"""Imports Keras and TensorFlow without what TensorFlow writes to the terminal meanwhile; changes nothing else of the process."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from catdog.system.memory import long_lived_imports


@contextlib.contextmanager
def quiet_native_log() -> Iterator[None]:
    """Keeps what native code writes to stderr off the terminal, unless the body raises: then it is shown.

    While it is imported, TensorFlow writes of missing CUDA drivers and of rounding; no log level reaches those lines.
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


with long_lived_imports(), quiet_native_log():
    import keras
    import tensorflow
del keras, tensorflow
