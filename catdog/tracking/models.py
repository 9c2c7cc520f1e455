"""Finds and reads the models that runs have saved, by way of the store that holds them."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog.system.errors import UserError
from catdog.tracking.artifacts import resolve_address

if TYPE_CHECKING:
    from mlflow import MlflowClient

# A registered version names a logged model, which in turn names its files.
MOST_STEPS = 4


def find_model_address(client: "MlflowClient", uri: str) -> str:
    """Returns where the files of a model are, as an address that needs no store.

    Args:
        client: of the store that knows the model.
        uri: MLflow's: models:/m-ID, models:/NAME/VERSION, runs:/RUN_ID/PATH, or already an address of files.

    Raises:
        MlflowException: the store does not know the model.
    """
    for _ in range(MOST_STEPS):
        if uri.startswith("models:/"):
            name, _, version = uri.removeprefix("models:/").partition("/")
            uri = (
                client.get_model_version_download_uri(name, version)
                if version
                else client.get_logged_model(name).artifact_location
            )
        elif uri.startswith("runs:/"):
            run_id, _, path = uri.removeprefix("runs:/").partition("/")
            uri = f"{client.get_run(run_id).info.artifact_uri}/{path}"
        else:
            break
    return resolve_address(client, uri)


@contextlib.contextmanager
def open_model(client: "MlflowClient", uri: str) -> Iterator[Path]:
    """Yields the folder with a model's files: the original if it is on this machine, otherwise a temporary copy.

    Raises:
        UserError: the files cannot be read.
    """
    import mlflow
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    with contextlib.ExitStack() as stack:
        with explain_missing_artifacts(uri):
            address = find_model_address(client, uri)
            if is_local_uri(address):
                folder = Path(local_file_uri_to_path(address))
            else:
                place = stack.enter_context(tempfile.TemporaryDirectory())
                folder = Path(mlflow.artifacts.download_artifacts(address, dst_path=place))
            (folder / "MLmodel").stat()
        yield folder


def describe_model(client: "MlflowClient", uri: str) -> Any:
    """Returns what MLflow says of a model, an `mlflow.models.Model`: its flavors, signature and metadata.

    Raises:
        UserError: its files cannot be read.
    """
    from mlflow.models import Model
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    with explain_missing_artifacts(uri):
        address = find_model_address(client, uri)
        # Of a model elsewhere, only this file is fetched.
        return Model.load(local_file_uri_to_path(address) if is_local_uri(address) else address)


def load_model_metadata(client: "MlflowClient", uri: str) -> dict[str, Any]:
    """Returns the metadata saved with a model: `class_names` and `image_size` for catdog's own models.

    Raises:
        UserError: its files cannot be read.
    """
    return describe_model(client, uri).metadata or {}


@contextlib.contextmanager
def explain_missing_artifacts(what: str) -> Iterator[None]:
    """Turns MLflow's exceptions about missing files of a run or a model into a user's message."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise UserError(
            f"model: the files of {what} cannot be read: {str(error).splitlines()[0]} Were they moved or removed? The tracking "
            "store remembers where they were written; name another model (model=...), or train again."
        ) from error
