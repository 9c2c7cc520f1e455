"""Imports Keras and TensorFlow without TensorFlow's messages on the terminal, and without what few use of Keras and imports much.

It changes nothing else in the process.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from catdog.system.lazy_modules import postponed
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


# They import scikit-learn, SciPy and Matplotlib: a third of the time of Keras' import, TensorFlow's included, and 85 MB.
SELDOM_USED = ("keras.wrappers", "keras.visualization", "keras.src.visualization")

with long_lived_imports(), quiet_native_log(), postponed(SELDOM_USED):
    import keras
    import tensorflow
del keras, tensorflow
