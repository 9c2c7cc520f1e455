"""How many CPUs this process has."""

import os
import sys


def count_cpus() -> int:
    """Returns the CPUs that this process may use."""
    # A container or a cluster job may have fewer than the machine.
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
