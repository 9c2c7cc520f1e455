"""catdog: a research harness for image classification whose comparisons can be believed."""

import os

# Read by TensorFlow and Keras when they are first imported, so they are set before any module of ours can import them.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
