"""Tracking: the store, the outbox before it, and the life of one MLflow run from its config to its saved model."""

from catdog.tracking.ownership import BusyError
from catdog.tracking.run import (
    Job,
    OutboxRun,
    TrackedRun,
    describe_undelivered,
    log_inputs,
    log_kept_model,
    member_tags,
    open_run,
)
from catdog.tracking.store import check_store, connect, connect_existing, connect_unseen, open_study

__all__ = [
    "BusyError",
    "Job",
    "OutboxRun",
    "TrackedRun",
    "check_store",
    "connect",
    "connect_existing",
    "connect_unseen",
    "describe_undelivered",
    "log_inputs",
    "log_kept_model",
    "member_tags",
    "open_run",
    "open_study",
]
