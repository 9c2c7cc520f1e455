"""catdog: a research harness for image classification whose comparisons can be believed."""

import os
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from catdog.comparison.result import Comparison
    from catdog.study import Study
    from catdog.system.errors import UserError

__version__ = "0.1.0"
__all__ = ["Comparison", "Study", "UserError", "__version__"]

# Read by TensorFlow and Keras when they are first imported, so they are set before any module of ours can import them.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Read by MLflow. catdog keeps what a server does not accept and delivers it later, so MLflow need not retry for minutes itself.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

# MLflow imports a progress bar that, in a notebook without ipywidgets, warns that it has none.
warnings.filterwarnings("ignore", "IProgress not found")

# Imported when they are first used: every command starts with `import catdog`, so it has to be fast.
_PUBLIC = {"Comparison": "catdog.comparison.result", "Study": "catdog.study", "UserError": "catdog.system.errors"}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'catdog' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
