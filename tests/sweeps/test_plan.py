"""The plan: every reason for which a run is reused, resumed or run, provoked and read back."""

import json
import re
import shlex
import shutil
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from support import PROJECT, run_catdog, write_images

from catdog.config.digest import complete_params
from catdog.tracking.identity import describe_code_change, describe_config_change, describe_libraries_change

pytestmark = pytest.mark.slow

SMALL = ("preprocessing.image_size=48", "trainer.batch_size=16", "trainer.epochs=2", "dataset=folder")


class Shelf:
    """A folder with images and one finished run of the variant cnn, seed 0."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        for name in ("cats", "dogs"):
            write_images(folder / "images" / name, 30)
        self.arguments = (*SMALL, f"dataset.archive={folder / 'images'}", "model=cnn")
        done = self.train()
        assert done.code == 0, done.text

    def train(self, *more: str, **environment: str):
        return run_catdog(self.folder, self.cache, "train", "-m", *self.arguments, *more, **environment)

    def plan(self, *more: str, **environment: str) -> str:
        """The plan's line for the run: its state and why."""
        done = self.train(*more, "hydra.launcher.plan_only=true", **environment)
        assert done.code == 0, done.text
        assert "python -m catdog.train -m" in done.out[done.out.index("Next:") :]
        assert "plan_only" not in done.out
        (line,) = re.findall(r"^  cnn[^│\n]*?  (?:reuse|resume|run|busy)  .*$", done.out, re.M)
        return " ".join(line.split()[1:])


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


def test_what_is_there_is_reused(shelf) -> None:
    assert re.fullmatch(r"reuse finished \d{4}-\d\d-\d\d \d\d:\d\d", shelf.plan())
    # Where things lie and what they are called is no part of what a run is.
    assert shelf.plan("tracking.system_metrics=true", "promote.enabled=false").startswith("reuse")


def test_a_list_of_variants_needs_no_brackets(shelf) -> None:
    assert shelf.plan("hydra.launcher.only=cnn").startswith("reuse")
    both = shelf.train("model=cnn,augmented", "hydra.launcher.only=cnn,augmented", "hydra.launcher.plan_only=true")
    assert both.code == 0, both.text
    assert re.search(r"^  augmented +run ", both.out, re.M)
    wrong = shelf.train("hydra.launcher.only=cn", "hydra.launcher.plan_only=true")
    assert wrong.code == 2
    assert "hydra.launcher.only: must be names of this sweep's variants (cnn), received ['cn']" in wrong.err


def test_reuse_never_runs_it_again(shelf) -> None:
    assert re.fullmatch(r"run finished .*, but reuse=never", shelf.plan("reuse=never"))


def test_another_seed_or_study_is_new(shelf) -> None:
    assert shelf.plan("seed=3") == "run no such run"
    assert shelf.plan("study=other") == "run no such run"


def test_a_changed_config_is_named(shelf) -> None:
    assert shelf.plan("trainer.epochs=5") == "run config changed: trainer.epochs 2 -> 5"
    several = shelf.plan("trainer.epochs=5", "trainer.learning_rate=0.01", "head.units=64", "trainer.keep=last")
    assert several == (
        "run config changed: head.units 128 -> 64, trainer.epochs 2 -> 5, trainer.keep best -> last and 1 more"
    )


def test_moved_data_are_the_same_data(shelf, tmp_path) -> None:
    shutil.copytree(shelf.folder / "images", tmp_path / "elsewhere" / "pets")
    assert shelf.plan(f"dataset.archive={tmp_path / 'elsewhere' / 'pets'}").startswith("reuse")


def test_changed_data_is_counted(shelf, tmp_path) -> None:
    changed = tmp_path / "images"
    shutil.copytree(shelf.folder / "images", changed)
    first, second = sorted((changed / "cats").iterdir())[:2]
    first.write_bytes(second.read_bytes()[:-2] + b"\xff\xd9\0")
    assert shelf.plan(f"dataset.archive={changed}") == "run data changed: 1 file"


def test_changed_code_is_named(shelf, tmp_path) -> None:
    for name in ("catdog", "conf", "hydra_plugins"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    model = tmp_path / "catdog" / "training" / "model.py"
    text = model.read_text()
    model.write_text(text + "# What a file says of itself changes nothing.\n")
    with (tmp_path / "catdog" / "system" / "wording.py").open("a") as file:
        file.write("NO_PART_OF_TRAINING = 1\n")
    assert shelf.plan(PYTHONPATH=str(tmp_path)).startswith("reuse")
    assert text.count('dtype="float32"') > 0
    model.write_text(text.replace('dtype="float32"', 'dtype="float64"'))
    assert shelf.plan(PYTHONPATH=str(tmp_path)) == "run code changed: catdog/training/model.py"


def test_another_precision_is_named(shelf) -> None:
    """Auto is what it becomes on the machine: the same as that precision by name."""
    client = mlflow.MlflowClient(f"sqlite:///{shelf.folder}/mlruns/mlflow.db")
    experiment_id = client.get_experiment_by_name("cats_vs_dogs").experiment_id
    run = client.search_runs([experiment_id], "tags.`catdog.kind` = 'run'", order_by=["attributes.start_time"])[0]
    found = run.data.tags["catdog.precision"]
    assert shelf.plan(f"trainer.precision={found}").startswith("reuse")
    other = {"float32": "mixed_bfloat16"}.get(found, "float32")
    assert shelf.plan(f"trainer.precision={other}") == f"run precision {found} -> {other}"


def test_another_library_is_named(shelf, tmp_path) -> None:
    older = tmp_path / "tensorflow-2.20.0.dist-info"
    older.mkdir()
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorflow\nVersion: 2.20.0\n")
    assert re.fullmatch(r"run tensorflow \d+\.\d+\.\d+ -> 2\.20\.0", shelf.plan(PYTHONPATH=f"{tmp_path}:{PROJECT}"))


@pytest.mark.nightly
def test_an_interrupted_run_whose_checkpoints_are_gone_starts_again(shelf) -> None:
    failing = ("study=gone", "trainer.learning_rate=1e39")
    assert shelf.train(*failing).code == 1
    assert shelf.plan(*failing) == "resume failed before the end of its first epoch"
    shutil.rmtree(shelf.folder / "mlruns" / "outbox")
    assert shelf.plan(*failing) == "run failed before, and its checkpoints are gone"


@pytest.mark.nightly
def test_an_interrupted_run_that_was_deleted_in_mlflow_starts_anew(shelf) -> None:
    failing = ("study=deleted", "trainer.learning_rate=1e39")
    assert shelf.train(*failing).code == 1
    client = mlflow.MlflowClient(f"sqlite:///{shelf.folder}/mlruns/mlflow.db")
    experiment_id = client.get_experiment_by_name("deleted").experiment_id
    (run,) = client.search_runs([experiment_id], "tags.`catdog.kind` = 'run'")
    client.delete_run(run.info.run_id)
    restore = f"restore run={run.info.run_id}"
    # The rest of the line, with the command, is on the next one.
    assert shelf.plan(*failing).startswith("run interrupted before, but its run was deleted in MLflow:")
    assert f"Next: python -m catdog.{restore}\n" in shelf.train(*failing, "hydra.launcher.plan_only=true").out
    again = shelf.train(*failing)
    assert again.code == 1
    assert "Traceback" not in again.text
    (fresh,) = client.search_runs([experiment_id], "tags.`catdog.kind` = 'run'")
    assert fresh.info.run_id != run.info.run_id
    assert fresh.info.status == "FAILED"


def test_a_finished_run_that_was_deleted_is_rather_restored_than_trained_again(shelf) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{shelf.folder}/mlruns/mlflow.db")
    experiment_id = client.get_experiment_by_name("cats_vs_dogs").experiment_id
    run_id = client.search_runs([experiment_id], "tags.`catdog.kind` = 'run' AND params.seed = '0'")[0].info.run_id
    client.delete_run(run_id)
    plan = shelf.train("hydra.launcher.plan_only=true")
    assert re.search(rf"Next: python -m catdog.restore run={run_id}\n +python -m catdog.train -m ", plan.out)
    assert run_catdog(shelf.folder, shelf.cache, "restore", f"run={run_id}").code == 0
    assert shelf.plan().startswith("reuse")


def test_a_single_run_is_planned_too(shelf) -> None:
    done = run_catdog(shelf.folder, shelf.cache, "train", *shelf.arguments, "seed=9", "hydra.launcher.plan_only=true")
    assert done.code == 0, done.text
    assert re.search(r"cnn .*seed=9 +run +no such run", done.out)
    assert "epoch 1" not in done.out
    refused = run_catdog(shelf.folder, shelf.cache, "train", *shelf.arguments, "hydra.launcher.timeout_s=5")
    assert refused.code == 2
    assert "hydra.launcher.timeout_s=5: a launcher runs sweeps. Add -m" in refused.err


def test_a_run_left_open_by_a_dead_process_is_closed(shelf) -> None:
    """Open in MLflow, with no entry in the outbox: told by the pid and start time that it carries."""
    client = mlflow.MlflowClient(f"sqlite:///{shelf.folder}/mlruns/mlflow.db")
    experiment_id = client.get_experiment_by_name("cats_vs_dogs").experiment_id
    done = client.search_runs([experiment_id], "tags.`catdog.kind` = 'run'")[0]
    dead = client.create_run(experiment_id, tags={
        "catdog.kind": "run", "catdog.owner": done.data.tags["catdog.owner"], "catdog.key": "x"})  # fmt: skip
    foreign = client.create_run(experiment_id, run_name="somebody else's")
    assert shelf.train().code == 0
    assert client.get_run(dead.info.run_id).info.status == "KILLED"
    assert client.get_run(foreign.info.run_id).info.status == "RUNNING"
    client.delete_run(foreign.info.run_id)
    client.delete_run(dead.info.run_id)


def test_two_jobs_that_are_the_same_train_once(shelf) -> None:
    done = run_catdog(shelf.folder, shelf.cache, "train", "-m", *shelf.arguments[:-1], "model=cnn,augmented",
                      "augmentation=none", "study=twins")  # fmt: skip
    assert done.code == 0, done.text
    assert re.search(r"augmented +reuse +the same as cnn", done.out)
    assert re.search(r"augmented +as cnn", done.out)
    assert done.out.count("epoch 2/2") == 1


def test_a_sweep_shares_what_an_earlier_one_trained(shelf) -> None:
    done = shelf.train("seed=0,1")
    assert done.code == 0, done.text
    assert re.search(r"cnn seed=0 +reused", done.out)
    assert re.search(r"cnn seed=1 +finished", done.out)
    compared = run_catdog(shelf.folder, shelf.cache, "compare")
    assert compared.code == 0, compared.text
    (table,) = shelf.folder.glob("comparisons/*/table.csv")
    # The reused run is there, by its name in this sweep.
    assert list(pd.read_csv(table)["name"]) == ["cnn seed=0", "cnn seed=1"]
    assert re.search(r"^ cnn +2 +\d+\.\d", compared.out, re.M)


def test_a_plan_over_many_runs_is_quick(shelf) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{shelf.folder}/mlruns/mlflow.db")
    experiment_id = client.create_experiment("crowded")
    for number in range(200):
        client.create_run(experiment_id, tags={"catdog.kind": "run", "catdog.identity": f"{number:064d}"})
    began = time.monotonic()
    assert shelf.plan("study=crowded") == "run no such run"
    crowded_s = time.monotonic() - began
    began = time.monotonic()
    shelf.plan("study=empty")
    assert crowded_s < 3 * (time.monotonic() - began) + 2


def test_changes_in_words() -> None:
    assert describe_libraries_change({"keras": "3.12"}, {"keras": "3.12"}) == ""
    assert describe_libraries_change({"keras": "3.12"}, {"keras": "3.13", "numpy": "2"}) == (
        "keras 3.12 -> 3.13, numpy none -> 2"
    )
    assert describe_code_change({}, {"catdog/a.py": "1"}) == "code changed: catdog/a.py"
    assert describe_config_change({"seed": "1"}, {"seed": "1"}) == ""
    assert (
        describe_config_change({"trainer.epochs": "1"}, {"trainer.epochs": "2"})
        == "config changed: trainer.epochs 1 -> 2"
    )


def test_a_mapping_that_comes_or_goes_is_named_once() -> None:
    crop = {"augmentation.layers.crop.layer": "RandomCrop", "augmentation.layers.crop.height": "8"}
    flip = {"augmentation.layers.flip.layer": "RandomFlip"}
    added, removed = "augmentation.layers.crop none -> RandomCrop", "augmentation.layers.crop RandomCrop -> none"
    assert describe_config_change(flip, flip | crop) == f"config changed: {added}"
    assert describe_config_change(flip | crop, flip) == f"config changed: {removed}"
    sizes = {"trainer.sizes.0": "0.6", "trainer.sizes.0.5": "0.8"}
    assert (
        describe_config_change(sizes, {"trainer.sizes": "None"})
        == "config changed: trainer.sizes {0: 0.6, 0.5: 0.8} -> null"
    )
    assert (
        describe_config_change(sizes, sizes | {"trainer.sizes.0": "0.7"})
        == "config changed: trainer.sizes.0 0.6 -> 0.7"
    )


def test_a_run_with_a_mapping_does_not_have_its_default_too() -> None:
    stored = {"optimizer.algorithm": "Adam", "trainer.sizes.0": "0.6", "trainer.sizes.0.5": "0.8"}
    assert "trainer.sizes" not in complete_params(stored)
    assert complete_params({"optimizer.algorithm": "Adam"})["trainer.sizes"] == "None"


@pytest.mark.parametrize("swept", [True, False])
def test_a_plan_as_json_is_all_that_stdout_has(shelf, swept: bool) -> None:
    done = run_catdog(
        shelf.folder, shelf.cache, "train", *(["-m"] if swept else []), *shelf.arguments, "hydra.launcher.plan_only=true",
        "hydra.launcher.format=json",
    )  # fmt: skip
    assert done.code == 0, done.text
    plan = json.loads(done.out)
    assert (plan["format_version"], plan["command"]) == (1, "plan")
    (run,) = plan["runs"]
    assert set(run) == {"run", "plan", "why", "run_id", "seed"}
    assert plan["next"][0].endswith(" ".join(map(shlex.quote, shelf.arguments)))
