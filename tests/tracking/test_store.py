"""How a tracking database is opened."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from support import run_python

from catdog.config.schema import TrackingConfig
from catdog.system.errors import UserError
from catdog.tracking import connect, store

LOCK = """
import sqlite3, sys
try:
    sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError as error:
    print(error)
"""


def test_opening_a_database_leaves_the_locks_of_other_threads(tmp_path: Path, empty_store: Path) -> None:
    """A thread writes, here by another connection; another process must not write meanwhile."""
    path = tmp_path / "mlflow.db"
    shutil.copy(empty_store, path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert run_python(tmp_path, "-c", LOCK, str(path)).out.strip() == "database is locked"
        connect(TrackingConfig(f"sqlite:///{path}"))
        assert run_python(tmp_path, "-c", LOCK, str(path)).out.strip() == "database is locked"


def test_a_folder_in_the_place_of_a_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*mlflow.db \(Is a directory\)"):
        connect(TrackingConfig(f"sqlite:///{tmp_path}/mlflow.db"))


def test_a_database_that_another_process_works_on_is_not_called_damaged(tmp_path, empty_store, monkeypatch) -> None:
    monkeypatch.setattr(store, "SERVER_TIMEOUT_S", 0.01)
    path = tmp_path / "mlflow.db"
    shutil.copy(empty_store, path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            UserError, match=r"mlflow.db \(database is locked\)\. If another process works on it, try again"
        ):
            connect(TrackingConfig(f"sqlite:///{path}"))
