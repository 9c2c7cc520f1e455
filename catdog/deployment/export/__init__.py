"""A trained model as files for other runtimes, each scored again by its own runtime: `export_model` and `Export` are for others."""

from catdog.deployment.export.exporting import Request, export_model
from catdog.deployment.export.result import Export

__all__ = ["Export", "Request", "export_model"]
