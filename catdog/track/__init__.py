"""Tracking: the store, and the life of one MLflow run from its config to its saved model."""

from catdog.track.run import Job, TrackedRun, describe_code, log_inputs, log_kept_model, start_run
from catdog.track.store import check_store, connect, open_study, ui_command

__all__ = [
    "Job",
    "TrackedRun",
    "check_store",
    "connect",
    "describe_code",
    "log_inputs",
    "log_kept_model",
    "open_study",
    "start_run",
    "ui_command",
]
