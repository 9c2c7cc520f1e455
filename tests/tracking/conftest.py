"""A store that tests of this room share."""

import shutil
from pathlib import Path

import mlflow
import pytest


@pytest.fixture
def client(tmp_path: Path, empty_store: Path) -> mlflow.MlflowClient:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    client.create_experiment("pets", artifact_location=(tmp_path / "artifacts").as_uri())
    return client
