"""What a run needs, imported once by the server that a sweep's processes are forked from; the process is set up as a command's.

TensorFlow is imported, never run: a fork of a process whose TensorFlow has started its threads would hang.
"""

import warnings

from catdog.system.memory import own_process

# A fork imports what leads the sweep, catdog.train as __main__, once more under a name of its own; runpy wonders at that.
warnings.filterwarnings("ignore", "'catdog.train' found in sys.modules", RuntimeWarning)
own_process()

# isort: split
from catdog.training import preload  # noqa: E402, F401  after the process is set up
