"""What runs have stored, read back."""

import io
import tempfile
from pathlib import Path

import pandas as pd

# Names stay as they are: a class or file called "NA" or "007" is no missing value and no number. As objects, for pandas' own
# strings take longer to make than all the rest.
NAMES = {"file": object, "label": object, "sha256": object}


def load_bytes(artifact_uri: str, path: str) -> bytes | None:
    """Returns the content of a run's artifact, None where there is none or it cannot be read."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    try:
        if is_local_uri(artifact_uri):
            # MLflow's own way of reading a file takes milliseconds, which add up over a thousand runs.
            return (Path(local_file_uri_to_path(artifact_uri)) / path).read_bytes()
        with tempfile.TemporaryDirectory() as folder:
            return Path(mlflow.artifacts.download_artifacts(f"{artifact_uri}/{path}", dst_path=folder)).read_bytes()
    except (MlflowException, OSError):
        return None


def load_table(artifact_uri: str, path: str) -> pd.DataFrame:
    """Returns a run's CSV file, file, label and sha256 as text, whatever they look like; empty where there is none."""
    content = load_bytes(artifact_uri, path)
    return pd.DataFrame() if content is None else pd.read_csv(io.BytesIO(content), dtype=NAMES, keep_default_na=False)
