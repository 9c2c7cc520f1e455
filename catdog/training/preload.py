"""Imports what a run needs; the server that a sweep's processes are forked from does so once for all of them.

TensorFlow is imported, never run: a fork of a process whose TensorFlow has started its threads would hang.
"""

import contextlib
import gc
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

from catdog.system.memory import use_one_heap


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


# A fork imports what leads the sweep, catdog.train as __main__, once more under a name of its own; runpy wonders at that.
warnings.filterwarnings("ignore", "'catdog.train' found in sys.modules", RuntimeWarning)
use_one_heap()
# Half a million objects that stay: looking through them for garbage while they come is a quarter of the import, and every
# collection later, in each fork and at the end of each process, would look through them again.
collected = gc.isenabled()
gc.disable()
with quiet_native_log():
    import keras
    import tensorflow
gc.freeze()
if collected:
    gc.enable()
del keras, tensorflow
