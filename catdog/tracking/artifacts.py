"""Reads back the artifacts that runs have stored."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from catdog.data.epoch_answers import EpochAnswers
from catdog.data.history import History
from catdog.data.predictions import Predictions
from catdog.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

# The answers to the validation images after each epoch.
EPOCH_ANSWERS = "predictions/val_epochs.npz"
# Longer tables are Parquet files.
CSV_ROWS = 50_000
# These columns stay text: a class or file called "NA" or "007" is neither a missing value nor a number. The type is object because
# pandas' own string type takes longer to build than everything else together.
NAMES = {"file": object, "label": object, "sha256": object, "group": object}


def resolve_address(client: "MlflowClient", artifact_uri: str) -> str:
    """Returns an artifact's address in a form that can be read without its store, whichever store is MLflow's current one.

    A server reports `mlflow-artifacts:/PATH`, a path relative to itself. All other addresses are complete.
    """
    if not artifact_uri.startswith("mlflow-artifacts:"):
        return artifact_uri
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    return str(MlflowArtifactsRepository.resolve_uri(artifact_uri, client.tracking_uri))


def load_bytes(artifact_uri: str, path: str) -> bytes | None:
    """Returns the content of a run's artifact, or None if there is no such artifact.

    Args:
        artifact_uri: the run's artifact address, as `resolve_address` returns it.
        path: the artifact's path below that address.

    Raises:
        UserError: the artifact exists, or may exist, but cannot be read. Continuing without it would answer a different question.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    try:
        if is_local_uri(artifact_uri):
            # MLflow's own way of reading a file takes milliseconds, which add up over a thousand runs.
            return (Path(local_file_uri_to_path(artifact_uri)) / path).read_bytes()
        parent, _, name = f"{artifact_uri}/{path}".rpartition("/")
        if name not in {Path(item.path).name for item in mlflow.artifacts.list_artifacts(parent)}:
            return None
        with tempfile.TemporaryDirectory() as place:
            return Path(mlflow.artifacts.download_artifacts(f"{artifact_uri}/{path}", dst_path=place)).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{artifact_uri}/{path} cannot be read: {str(error).splitlines()[0]}. Make it readable, or try again; if it is lost, "
            "delete its run in MLflow: the command that trained it then trains it again."
        ) from error


def encode_table(table: "pd.DataFrame", path: str) -> tuple[bytes, str]:
    """Returns a table as the content of an artifact, and the artifact's path: that of a CSV file, or Parquet if it has many rows.

    Args:
        table: the rows, without their index.
        path: the path of the CSV file.
    """
    # Parquet cannot hold two columns of one name, as where a class is called "file".
    if len(table) <= CSV_ROWS or not table.columns.is_unique:
        return table.to_csv(index=False).encode(), path
    return table.to_parquet(index=False), _name_parquet(path)


def load_table(artifact_uri: str, path: str) -> "pd.DataFrame":
    """Returns a table that `encode_table` made; empty if there is none. The columns file, label, sha256 and group are always text.

    Args:
        artifact_uri: the run's artifact address, as `resolve_address` returns it.
        path: the path of the CSV file below that address.

    Raises:
        UserError: as `load_bytes`, or the file is not a valid table.
    """
    import pandas as pd

    content = load_bytes(artifact_uri, path)
    if content is not None:
        with _damage_named(artifact_uri, path):
            return pd.read_csv(io.BytesIO(content), dtype=NAMES, keep_default_na=False)
    found = _load_parquet(artifact_uri, path)
    return pd.DataFrame() if found is None else found


def _load_parquet(artifact_uri: str, path: str) -> "pd.DataFrame | None":
    import pandas as pd

    content = load_bytes(artifact_uri, _name_parquet(path))
    if content is None:
        return None
    with _damage_named(artifact_uri, _name_parquet(path)):
        try:
            return pd.read_parquet(io.BytesIO(content))
        except OSError as error:
            # What pyarrow raises for some kinds of damage.
            raise ValueError(str(error)) from error


def _name_parquet(path: str) -> str:
    return path.removesuffix(".csv") + ".parquet"


def load_predictions(artifact_uri: str, split: str = "val") -> Predictions:
    """Returns the predictions that a run stored for the images of a split; empty if it stored none.

    Raises:
        UserError: as `load_table`.
    """
    path = f"predictions/{split}.csv"
    content = load_bytes(artifact_uri, path)
    if content is not None:
        with _damage_named(artifact_uri, path):
            return Predictions.from_csv(content)
    found = _load_parquet(artifact_uri, path)
    if found is None:
        return Predictions.empty()
    with _damage_named(artifact_uri, _name_parquet(path)):
        return Predictions.from_frame(found)


def load_epoch_answers(artifact_uri: str) -> EpochAnswers | None:
    """Returns the answers to the validation images after each epoch; None if the run has not stored them.

    Raises:
        UserError: as `load_table`.
    """
    content = load_bytes(artifact_uri, EPOCH_ANSWERS)
    if content is None:
        return None
    with _damage_named(artifact_uri, EPOCH_ANSWERS):
        return EpochAnswers.from_bytes(content)


def load_history(artifact_uri: str) -> History | None:
    """Returns a run's metrics by epoch, which it stores when it finishes; None before that.

    Raises:
        UserError: as `load_table`.
    """
    content = load_bytes(artifact_uri, "history.csv")
    if content is None:
        return None
    with _damage_named(artifact_uri, "history.csv"):
        return History.from_csv(content)


@contextmanager
def _damage_named(artifact_uri: str, path: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UserError(
            f"{artifact_uri}/{path} is damaged: {str(error).splitlines()[0]}. Delete its run in MLflow: the command that "
            "trained it then trains it again."
        ) from error
