"""Tracking: the store, the spool before it, and the life of one MLflow run from its config to its saved model."""

from catdog.track.owner import BusyError
from catdog.track.run import (
    Job,
    SpooledRun,
    TrackedRun,
    describe_undelivered,
    log_inputs,
    log_kept_model,
    member_tag,
    open_run,
)
from catdog.track.store import check_store, connect, connect_existing, connect_unseen, open_study, ui_command

__all__ = [
    "BusyError",
    "Job",
    "SpooledRun",
    "TrackedRun",
    "check_store",
    "connect",
    "connect_existing",
    "connect_unseen",
    "describe_undelivered",
    "log_inputs",
    "log_kept_model",
    "member_tag",
    "open_run",
    "open_study",
    "ui_command",
]
