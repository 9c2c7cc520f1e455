"""A store with a study as if it had been trained: made in a second, for tests that delete."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import LoggedModelOutput
from support import Done, run_catdog

import catdog


@dataclass(frozen=True)
class Stored:
    """A folder with a store. Its study `pets` has two sweeps: both have `augmented`, only the first has `cnn`, the champion's run.

    Attributes:
        folder: the folder, as a user's working folder.
        client: of its store.
        runs: the run ids by name, "cnn", "augmented", and of the sweeps, "first", "second".
    """

    folder: Path
    cache: Path
    client: mlflow.MlflowClient
    runs: dict[str, str]

    def run(self, *arguments: str) -> Done:
        """Runs a command in the folder."""
        return run_catdog(self.folder, self.cache, *arguments)

    @property
    def study(self) -> catdog.Study:
        study = catdog.Study("pets", tracking_uri=f"sqlite:///{self.folder}/mlruns/mlflow.db")
        study.tracking.outbox = str(self.folder / "mlruns" / "outbox")
        return study

    def is_deleted(self, name: str) -> bool:
        return self.client.get_run(self.runs[name]).info.lifecycle_stage == "deleted"

    def find_champion(self) -> str | None:
        """The run id of the champion's run."""
        version = self.client.get_registered_model("catdog").aliases.get("champion")
        return version and self.client.get_model_version("catdog", version).run_id

    def artifacts(self, name: str) -> Path:
        return Path(self.client.get_run(self.runs[name]).info.artifact_uri.removeprefix("file://"))


@pytest.fixture
def stored(tmp_path: Path, empty_store: Path) -> Stored:
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_store, tmp_path / "mlruns" / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    client = mlflow.MlflowClient(uri, registry_uri=uri)
    experiment_id = client.create_experiment("pets", artifact_location=(tmp_path / "mlruns/artifacts/pets").as_uri())
    add = _adder(client, experiment_id)
    runs = {"first": add("sweep of 2", "sweep"), "second": add("sweep of 1", "sweep")}
    runs["cnn"] = add("cnn", "run", runs["first"])
    runs["augmented"] = add("augmented", "run", runs["first"], runs["second"])
    client.create_registered_model("catdog")
    source = client.get_run(runs["cnn"]).info.artifact_uri
    evidence = json.dumps({"outcome": "first", "words": "there was no champion to compare with"})
    client.create_model_version("catdog", source, run_id=runs["cnn"], tags={"catdog.evidence": evidence})
    client.set_registered_model_alias("catdog", "champion", "1")
    return Stored(tmp_path, tmp_path / "cache", client, runs)


def _adder(client: mlflow.MlflowClient, experiment_id: str) -> Callable[..., str]:
    def add(name: str, kind: str, *sweeps: str) -> str:
        tags = {"catdog.kind": kind, "catdog.registered_model": "catdog"}
        tags |= {f"catdog.member.{sweep}": json.dumps([0, name, name]) for sweep in sweeps}
        run_id = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
        client.log_text(run_id, "x" * 100_000, "figures/accuracy.png")
        if kind == "run":
            model = client.create_logged_model(experiment_id, name="model", source_run_id=run_id)
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
            folder = Path(model.artifact_location.removeprefix("file://"))
            folder.mkdir(parents=True)
            (folder / "MLmodel").write_text("y" * 50_000)
        client.set_terminated(run_id)
        return run_id

    return add
