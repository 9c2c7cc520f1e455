"""MLflow over PostgreSQL and S3, each of which goes away while several commands train: nothing is lost, and nothing is doubled."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import sqlalchemy
from shared_server import BUCKET, KEYS, SharedServer, missing, running_server
from support import PROJECT, TINY, run_catdog, start_python
from torture import describe_store, describe_study, find_differences

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

# A first look; `make torture` has eight writers, and keeps each server away for sixty seconds.
AWAY_S = float(os.environ.get("CATDOG_TEST_AWAY_S", "4"))
WRITERS = int(os.environ.get("CATDOG_TEST_SWEEPS", "2"))
EPOCHS = 30 if WRITERS == 2 else 120
STUDY = "shared"


@pytest.fixture(scope="module")
def server() -> Iterator[SharedServer]:
    with running_server() as started:
        yield started


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The same runs in a store of this machine."""
    folder = tmp_path_factory.mktemp("local")
    seeds = ",".join(map(str, range(WRITERS)))
    done = run_catdog(folder, cache, "train", "-m", f"seed={seeds}", *choose(STUDY), timeout_s=1200)
    assert done.code == 0, done.text
    return folder


def choose(study: str) -> list[str]:
    return ["model=cnn", *TINY, f"trainer.epochs={EPOCHS}", f"study={study}"]


def await_file(path: Path, words: str) -> None:
    deadline = time.monotonic() + 300
    while words not in path.read_text():
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.2)


@pytest.mark.nightly
@pytest.mark.parametrize("way", ["direct", "by the server"])
def test_what_goes_away_and_comes_back_misses_nothing(way, server, local, cache, tmp_path, monkeypatch) -> None:
    """Artifacts go to S3 from each command, or through the MLflow server."""
    for name, value in (*server.environment.items(), ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")):
        monkeypatch.setenv(name, value)
    study = f"{STUDY}-{way.replace(' ', '-')}"
    arguments = [*choose(study), "tracking=server", f"tracking.uri={server.uri}", "tracking.wait_s=400"]
    if way == "direct":
        arguments.append(f"tracking.artifacts=s3://{BUCKET}/direct")
    environment = {"CATDOG_CACHE": str(cache), "PYTHONPATH": str(PROJECT), **server.environment}
    writers = [
        start_python(tmp_path, "-m", "catdog.train", "-m", f"seed={seed}", *arguments, **environment)
        for seed in range(WRITERS)
    ]
    for writer in writers:
        assert writer.stdout is not None
        for line in writer.stdout:
            if f"2/{EPOCHS}" in line:
                break
    for name, start in (("mlflow", server.start_mlflow), ("postgres", server.start_postgres)):
        server.kill(name)
        time.sleep(AWAY_S)
        start()
    server.freeze("s3")
    time.sleep(AWAY_S)
    server.thaw("s3")
    outputs = [writer.communicate(timeout=1200)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * WRITERS, outputs
    assert not [output for output in outputs if "Traceback" in output], outputs
    mlflow.set_tracking_uri(server.uri)
    found = describe_study(mlflow.MlflowClient(server.uri, registry_uri=server.uri), study)
    expected = describe_store(local, STUDY)
    for each in (found, expected):
        each["run"].sort(key=lambda run: run["params"]["seed"])
        for run in each["run"]:
            forget_sweep(run)
    assert len(found["run"]) == WRITERS
    differences = [*find_differences(expected["run"], found["run"])]
    assert not differences, differences
    best = max(run["metrics"]["best_val_accuracy"] for run in found["run"])
    assert float(found["registry"][study]["versions"][-1][1]) <= best[0][1]
    require_no_row_twice(server)
    assert [*(tmp_path / "mlruns" / "outbox").iterdir()] == []
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in file.read_bytes(), file


def forget_sweep(run: dict[str, Any]) -> None:
    """Removes a run's name, and its settings of the store and the study; on the server, each run is a sweep of its own."""
    del run["name"], run["artifacts"]["config/config.yaml"], run["artifacts"]["config/overrides.yaml"]
    # Each sweep registers its own best run, which gets a card.
    run["artifacts"] = {path: kept for path, kept in run["artifacts"].items() if not path.startswith("model_cards/")}
    run["tags"] = {
        key: run["tags"][key] for key in run["tags"] if key not in ("catdog.registered_model", "mlflow.runName")
    }
    run["params"] = {key: value for key, value in run["params"].items() if not key.startswith(("study", "tracking."))}


def require_no_row_twice(server: SharedServer) -> None:
    engine = sqlalchemy.create_engine(server.database)
    with engine.connect() as connection:
        for table, columns in (
            ("metrics", "run_uuid, key, step"),
            ("tags", "run_uuid, key"),
            ("params", "run_uuid, key"),
        ):
            query = f"SELECT {columns}, count(*) FROM {table} GROUP BY {columns} HAVING count(*) > 1"
            twice = connection.execute(sqlalchemy.text(query)).fetchall()
            assert not [row for row in twice if not row[1].startswith("system/")], twice
    engine.dispose()
