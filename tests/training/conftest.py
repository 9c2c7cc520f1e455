"""A user's folder: modules of their own, and runs of them in this process."""

import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from own_modules import CALLBACKS, LAYERS, LOSSES, MODELS
from support import TINY, compose_config

from catdog.config.schema import Config
from catdog.deployment.prediction import load_keras_model
from catdog.tracking import Job
from catdog.training.outcome import Outcome
from catdog.training.run import train

with warnings.catch_warnings():
    # MLflow says that it does not check a type; a run imports this when its model is saved.
    warnings.simplefilter("ignore", UserWarning)
    import mlflow.pyfunc


class Folder:
    """A user's folder with a store of its own."""

    def __init__(self, path: Path, cache: Path, empty_store: Path) -> None:
        self.path, self.cache, self.empty_store = path, cache, empty_store

    def write(self, module: str, text: str) -> None:
        """Writes a module, as new to Python."""
        (self.path / f"{module}.py").write_text(text, encoding="utf-8")
        sys.modules.pop(module, None)

    def compose(self, *overrides: str, store: str = "store") -> Config:
        place = (f"tracking.uri=sqlite:///{self.path}/{store}.db", f"tracking.artifacts={self.path}/{store}",
                 f"tracking.outbox={self.path}/{store}-outbox", f"dataset.cache={self.cache}")  # fmt: skip
        return compose_config(*TINY, *place, "promote.enabled=false", *overrides)

    def train(self, *overrides: str, store: str = "store", stop_after: int | None = None) -> Outcome:
        """Trains in this process, or is interrupted by Ctrl-C after an epoch."""
        config = self.compose(*overrides, store=store)
        if not (self.path / f"{store}.db").exists():
            shutil.copy(self.empty_store, self.path / f"{store}.db")
        mlflow.set_tracking_uri(config.tracking.uri)
        # Another test may have set it, and then it does not follow the tracking address.
        mlflow.set_registry_uri(config.tracking.uri)
        make = Silent if stop_after is None else (lambda *figures: Silent(*figures, stop_after=stop_after))
        return train(config, Job("run", "run", list(overrides), self.path / "output"), make)

    def load_model(self, uri: str) -> Any:
        """Returns a saved model of the store called `store`."""
        return load_keras_model(mlflow.MlflowClient(f"sqlite:///{self.path}/store.db"), uri)

    def artifacts(self, outcome: Outcome) -> Path:
        uri = mlflow.get_run(outcome.run_id).info.artifact_uri
        return Path(uri.removeprefix("file://"))


class Silent:
    """Shows nothing; presses Ctrl-C after an epoch where it is told to."""

    def __init__(self, name: str, epochs: int, steps: int, first_epoch: int, stop_after: int | None = None) -> None:
        self.stop_after = stop_after

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def step(self, steps: int) -> None:
        pass

    def finish_epoch(self, epoch: int, metrics: dict, best: float) -> None:
        if epoch == self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture
def folder(tmp_path: Path, cache: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = Folder(tmp_path, cache, empty_store)
    texts = {"my_models": MODELS, "my_layers": LAYERS, "my_losses": LOSSES, "my_callbacks": CALLBACKS}
    for module, text in texts.items():
        made.write(module, text)
    (tmp_path / "output").mkdir()
    yield made
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
