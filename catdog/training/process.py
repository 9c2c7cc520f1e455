"""Imports what a run needs, once, in the server process that a sweep's processes are forked from, and sets the process up.

TensorFlow is imported but never run: once TensorFlow has started its threads, a fork of the process would hang.
"""

import warnings

from catdog.system.memory import own_process

# A fork imports catdog.train, the sweep's __main__, again under another name, and runpy warns about that.
warnings.filterwarnings("ignore", "'catdog.train' found in sys.modules", RuntimeWarning)
own_process()

# isort: split
from catdog.training import preload  # noqa: E402, F401  after the process is set up
