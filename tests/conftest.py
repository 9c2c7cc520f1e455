"""Fixtures that all tests share: a cache, a command line in an empty folder, one small sweep."""

from pathlib import Path

import pytest
from support import OURS, TINY, Catdog, Study, run_catdog, write_images
from xdist.scheduler import LoadFileScheduling

# The files that take the longest, measured in CPU seconds.
LONGEST = (
    "sweeps/test_supervision.py", "training/test_ingredients.py", "test_bad_input.py", "sweeps/test_torture.py",
    "tracking/test_server.py", "sweeps/test_plan.py", "tracking/test_recording.py", "test_docs.py", "test_study_results.py",
    "training/fast/test_training_parts.py", "training/test_speed.py", "training/test_recipes.py", "training/test_choices.py",
    "training/test_own_code.py",
)  # fmt: skip

# These share the study of the fixture below, which takes longer to train than most of their tests: one worker runs them all.
WITH_STUDY = (
    "test_bad_input.py",
    "test_study_results.py",
    "test_use.py",
    "test_train.py",
    "registry/test_ledger.py",
    "tracking/test_recorded_beside_own.py",
)


class ByFileOrStudy(LoadFileScheduling):
    """Gives whole files to workers, and those that share a study to one worker."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "study" if file.endswith(tuple(f"tests/{name}" for name in WITH_STUDY)) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling | None:
    return ByFileOrStudy(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then others with slow tests: what is left for the end is small, and all workers end together."""
    tests = Path(__file__).parent
    order = {tests / name: place for place, name in enumerate(LONGEST)}
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: order.get(item.path, len(order) + (item.path not in slow)))


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's settings, and those that MLflow makes, do not reach the test."""
    for name in OURS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that all tests share, so that the same drawn images are drawn and decoded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which takes it seconds to make."""
    import mlflow

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def catdog(tmp_path: Path, cache: Path) -> Catdog:
    """Runs a command in an empty folder."""
    return lambda *arguments, **options: run_catdog(tmp_path, cache, *arguments, **options)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Study:
    """The four variants of the quickstart, tiny, in one sweep."""
    folder = tmp_path_factory.mktemp("study")
    sweep = run_catdog(folder, cache, "train", "-m", "model=cnn,augmented,preprocessed,drawn_mini", *TINY)
    assert sweep.code == 0, sweep.text
    return Study(folder, cache, sweep)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with 12 noise images of each of two classes."""
    root = tmp_path / "images"
    for name in ("cats", "dogs"):
        write_images(root / name, 12)
    return root
