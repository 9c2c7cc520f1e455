"""The tracking store: opens it, creates it at first use, and explains in a user's words what is wrong with it."""

import contextlib
import errno
import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote as quote_path
from urllib.parse import urlparse

from catdog.config.command_lines import next_command, quote
from catdog.config.schema import DEFAULT_STUDY, DEFAULT_URI, TrackingConfig
from catdog.system.errors import TRAIN_COMMAND, UserError
from catdog.system.memory import long_lived_imports
from catdog.tracking.pages import complete_study, is_older, study_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

SERVER_TIMEOUT_S = 10
DATABASES = ("postgresql", "mysql", "mssql")
NAME_ANOTHER = "Run in a folder you may write to, or name another file: tracking.uri=sqlite:///PATH/mlflow.db."


class DeletedStudyError(UserError):
    """The study was deleted in MLflow, and keeps its name until it is restored or removed for good."""


def check_store(config: TrackingConfig) -> None:
    """Raises unless runs can be tracked. It creates nothing, so a mistake found later leaves no empty database behind.

    Raises:
        UserError: as `connect`, or the folder for artifacts cannot be written.
    """
    database = _database_file(config.uri)
    if database is None or database.exists():
        connect(config)
    else:
        _require_writable("tracking.uri", database)
    if config.artifacts and not config.uri.startswith("http") and not _is_remote(config.artifacts):
        _require_writable("tracking.artifacts", Path(config.artifacts) / "study")
    if config.artifacts and config.artifacts.startswith("s3:") and find_spec("boto3") is None:
        raise UserError(
            f"tracking.artifacts: {config.artifacts!r} needs boto3, which is not installed: pip install 'catdog[s3]'."
        )


def connect_existing(config: TrackingConfig) -> "MlflowClient | None":
    """Returns a client of the tracking store, or None if there is no database yet; creates nothing.

    Raises:
        UserError: as `check_store`.
    """
    database = _database_file(config.uri)
    if database is None or database.exists():
        return connect(config)
    check_store(config)
    return None


def connect(config: TrackingConfig, *, create: bool = True) -> "MlflowClient":
    """Returns a client of the tracking store and its registry; MLflow's current store is not changed.

    Args:
        config: the tracking section.
        create: whether to create a missing database; without one there is nothing to read. If not, a database that exists may be
            without permission to write: then it can be read alone.

    Raises:
        UserError: the store cannot be written, reached or read.
    """
    uri = config.uri
    kind = urlparse(uri).scheme.partition("+")[0]
    database = _database_file(uri)
    if kind in ("http", "https"):
        _require_server(uri)
    elif database:
        _require_place(database, create)
        if create:
            require_writable(uri)
    elif kind not in DATABASES:
        problem = "MLflow is retiring plain folders" if kind in ("", "file") else "catdog knows no store of this kind"
        raise UserError(f"tracking.uri: {problem}, received {uri!r}. Use sqlite:///PATH/mlflow.db or http://HOST:PORT.")
    with long_lived_imports():
        import mlflow

        if kind not in ("http", "https"):
            # The client imports it below, but then with garbage collection.
            import mlflow.store.tracking.sqlalchemy_store
    from filelock import FileLock
    from mlflow.exceptions import MlflowException

    try:
        # The first use makes MLflow create the tables. Two processes at once would fail on each other's tables.
        with (
            FileLock(f"{database}.lock") if database and is_writable(uri) else contextlib.nullcontext(),
            _quiet_loggers("mlflow", "alembic"),
        ):
            if database and database.exists():
                _require_database(database)
            client = mlflow.MlflowClient(tracking_uri=absolute_uri(uri), registry_uri=absolute_uri(uri))
            client.search_experiments(max_results=1)
    except UserError:
        raise
    except MlflowException as error:
        raise UserError(_explain_store(uri, str(error))) from error
    except Exception as error:
        # Databases other than SQLite have their own drivers, whose exceptions share no class.
        raise UserError(
            f"tracking.uri: {uri!r} cannot be opened: {str(error).splitlines()[0]}. {NAME_ANOTHER}"
        ) from error
    return client


def is_writable(uri: str) -> bool:
    """Returns whether this process may write to a store: False for a database file without permission, or in such a folder."""
    database = _database_file(uri)
    # SQLite writes a journal beside the file.
    return (
        database is None
        or not database.exists()
        or all(os.access(path, os.W_OK) for path in (database, database.parent))
    )


def require_writable(uri: str, advice: str = NAME_ANOTHER) -> None:
    """Raises a UserError, which ends with the advice, if this process may not write to a store."""
    database = _database_file(uri)
    if database is not None and not is_writable(uri):
        raise UserError(f"tracking.uri: cannot write {database} ({os.strerror(errno.EACCES)}). {advice}")


@contextlib.contextmanager
def _quiet_loggers(*names: str) -> Iterator[None]:
    """Silences messages of these loggers below WARNING: creating a database logs a line for each of its tables."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def connect_unseen(config: TrackingConfig) -> "MlflowClient":
    """Returns a client of a store that the leader of the sweep has checked already.

    The store is not contacted here: it may be down by now, and nothing should wait for it.
    """
    import mlflow

    return mlflow.MlflowClient(tracking_uri=config.uri, registry_uri=config.uri)


def absolute_uri(uri: str) -> str:
    """Returns the address with the database's absolute path: MLflow caches stores by address, and a process may change folders."""
    database = _database_file(uri)
    return uri if database is None else f"sqlite:///{database.absolute()}"


def relative_uri(uri: str) -> str:
    """Returns the address with the database's path below the current folder, if it is there: a project may be moved as a whole."""
    database = _database_file(uri)
    if database is None or not database.is_absolute() or not database.is_relative_to(Path.cwd()):
        return uri
    return f"sqlite:///{database.relative_to(Path.cwd())}"


def is_same_store(uri: str, other: str) -> bool:
    """Returns whether two addresses, each as `TrackingConfig` holds it, name one store."""
    return absolute_uri(uri) == absolute_uri(other)


def _require_server(uri: str) -> None:
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=SERVER_TIMEOUT_S).raise_for_status()
    except requests.RequestException as error:
        raise UserError(
            f"tracking.uri: no MLflow server answers at {uri!r} ({type(error).__name__}). Start one with `mlflow server`, or "
            "use tracking=local."
        ) from error


def _database_file(uri: str) -> Path | None:
    """Returns the file of an SQLite address, or None for another kind of store."""
    if not uri.startswith("sqlite:"):
        return None
    name = uri.removeprefix("sqlite:").removeprefix("///").partition("?")[0]
    if name in ("", "//", ":memory:"):
        raise UserError(f"tracking.uri: must name a file, as in sqlite:///PATH/mlflow.db, received {uri!r}.")
    return Path(name)


def _require_writable(key: str, path: Path) -> None:
    """Raises unless `path`, which need not exist, could be created; creates nothing."""
    try:
        existing = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        advice = NAME_ANOTHER if key == "tracking.uri" else f"Set {key}=PATH to a folder you may write to."
        raise UserError(f"{key}: cannot write to {path.parent} ({error.strerror}). {advice}") from error


def _require_place(path: Path, create: bool) -> None:
    if path.exists():
        return
    if not create:
        raise UserError(
            f"tracking.uri: there is no tracking database {path}, so nothing has been trained here. Train first: "
            f"{TRAIN_COMMAND}. Or run in the folder where you trained, or name its database: "
            "tracking.uri=sqlite:///PATH/mlflow.db."
        )
    _require_writable("tracking.uri", path)
    path.parent.mkdir(parents=True, exist_ok=True)


def _require_database(path: Path) -> None:
    # Never open() it here: when that is closed, the system drops the locks that SQLite holds on the file for other threads of this
    # process, and another process may overwrite what they write (https://www.sqlite.org/howtocorrupt.html, 2.2).
    try:
        if path.is_dir() or not os.access(path, os.R_OK):
            raise OSError(errno.EISDIR if path.is_dir() else errno.EACCES, "")
        empty = path.stat().st_size == 0
        with contextlib.closing(sqlite3.connect(path, timeout=SERVER_TIMEOUT_S)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not empty and "alembic_version" not in tables:
            raise UserError(f"tracking.uri: {path} is an SQLite database, but not MLflow's. {NAME_ANOTHER}")
    except OSError as error:
        raise UserError(
            f"tracking.uri: cannot read {path} ({os.strerror(error.errno or 0)}). {NAME_ANOTHER}"
        ) from error
    except sqlite3.OperationalError as error:
        raise UserError(
            f"tracking.uri: cannot read {path} ({error}). If another process works on it, try again later. {NAME_ANOTHER}"
        ) from error
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"tracking.uri: {path} is no SQLite database, or is damaged ({error}). {NAME_ANOTHER}"
        ) from error


def _explain_store(uri: str, message: str) -> str:
    """Returns what the user can do if MLflow refuses to open a store; MLflow calls both older and newer schemas "out-of-date"."""
    found = re.search(r"database schema \(found version (\w+)", message)
    if found is None:
        return f"tracking.uri: {uri!r} cannot be opened: {message.splitlines()[0]}. {NAME_ANOTHER}"
    import mlflow

    revisions = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if any(revisions.glob(f"{found[1]}_*.py")):
        return (
            f"tracking.uri: {uri!r} was written by an older version of MLflow than this one, {mlflow.__version__}. Back it "
            f"up, then bring it up to date: mlflow db upgrade {uri}. Or name another file: tracking.uri=sqlite:///PATH/mlflow.db."
        )
    return (
        f"tracking.uri: {uri!r} was written by a newer version of MLflow than this one, {mlflow.__version__} (its schema, "
        f"{found[1]}, is not known here). Install that version or a later one: pip install --upgrade mlflow. Or name another "
        "file: tracking.uri=sqlite:///PATH/mlflow.db."
    )


def _is_remote(place: str) -> bool:
    """Returns whether artifacts go to a service, such as s3://bucket, and not to a folder."""
    return "://" in place and not place.startswith("file:")


def open_study(client: "MlflowClient", study: str, config: TrackingConfig) -> str:
    """Returns the experiment id of a study; creates the study at first use, and completes one of an older catdog.

    Raises:
        DeletedStudyError: the study was deleted.
        UserError: its artifact folder cannot be written.
    """
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        location = None
        if config.artifacts and _is_remote(config.artifacts):
            location = f"{config.artifacts.rstrip('/')}/{quote_path(study)}"
        elif config.artifacts and not config.uri.startswith("http"):
            folder = Path(config.artifacts).resolve() / study
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"tracking.artifacts: cannot write {folder} ({error.strerror}).") from error
            location = folder.as_uri()
        from mlflow.exceptions import MlflowException

        try:
            return client.create_experiment(study, artifact_location=location, tags=study_tags(study))
        except MlflowException:
            # Another process may have been faster.
            experiment = client.get_experiment_by_name(study)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise _deleted_study(client, study)
    if is_older(experiment):
        from mlflow.exceptions import MlflowException

        # What MLflow's pages show must not stop a run.
        with contextlib.suppress(MlflowException):
            complete_study(client, experiment.experiment_id)
    return experiment.experiment_id


def check_study(client: "MlflowClient", study: str) -> None:
    """Raises if a study was deleted in MLflow; a study that does not exist yet is fine.

    Raises:
        DeletedStudyError: the study was deleted.
    """
    experiment = client.get_experiment_by_name(study)
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        raise _deleted_study(client, study)


def _deleted_study(client: "MlflowClient", study: str) -> DeletedStudyError:
    named = f"study={quote(study)}"
    return DeletedStudyError(
        f"study: {study!r} was deleted in MLflow. Restore it: {store_command(client, 'restore', named)}. Or remove it for good, "
        f"which frees its name: {store_command(client, 'clean', named, 'older_than_days=0', 'yes=true')}. Or choose another "
        "study=NAME."
    )


def store_command(client: "MlflowClient", command: str, *arguments: str) -> str:
    """Returns a catdog command on a client's store that can be copied into a shell.

    Args:
        client: of the store.
        command: the command's name.
        arguments: its arguments in Hydra's grammar, without the store.
    """
    uri = str(client.tracking_uri)
    return next_command(command, DEFAULT_STUDY, DEFAULT_URI if uri == absolute_uri(DEFAULT_URI) else uri, *arguments)
