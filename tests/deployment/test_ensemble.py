"""Ensembles: judged by stored answers, built, checked, registered, compared, deleted; and what cannot be one."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
from support import TINY, Done, Study, run_catdog, run_python, write_images

import catdog
from catdog import UserError
from catdog.deployment.ensemble import _load_member, name_ensemble
from catdog.deployment.members import MAY_HAVE
from catdog.tracking.artifacts import load_predictions
from catdog.tracking.records import get_run

# Loads a registered model and answers, in a process that cannot import catdog.
ELSEWHERE = """
import sys
sys.modules["catdog"] = None
import mlflow
import numpy as np

mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
np.save(sys.argv[4], model.predict(np.load(sys.argv[3])))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Study:
    """A study with two seeds of one variant, whose models average over mirror images."""
    folder = tmp_path_factory.mktemp("ensemble")
    sweep = run_catdog(
        folder, cache, "train", "-m", *TINY, "study=pets", "model=cnn", "seed=0,1", "trainer.average_flips=true"
    )
    assert sweep.code == 0, sweep.text
    return Study(folder, cache, sweep)


@pytest.fixture(scope="module")
def client(trained: Study) -> mlflow.MlflowClient:
    mlflow.set_tracking_uri(trained.uri)
    return mlflow.MlflowClient(trained.uri, registry_uri=trained.uri)


@pytest.fixture(scope="module")
def members(client) -> list[str]:
    experiment = client.get_experiment_by_name("pets")
    found = client.search_runs([experiment.experiment_id], "tags.`catdog.kind` = 'run'")
    return [run.info.run_id for run in sorted(found, key=lambda run: run.data.params["seed"])]


@pytest.fixture(scope="module")
def built(trained: Study, members) -> dict:
    """What the command prints as JSON."""
    judged = trained.run("ensemble", "study=pets", "plan_only=true", "format=json")
    assert judged.code == 0, judged.text
    assert "run_id" not in json.loads(judged.out)
    done = trained.run("ensemble", "study=pets", "variant=cnn", "promote.force=true", "format=json")
    assert done.code == 0, done.text
    found = json.loads(done.out)
    assert found["val_accuracy"] == json.loads(judged.out)["val_accuracy"]
    return found


@pytest.mark.slow
def test_an_ensemble_answers_with_the_mean_of_its_members(built, client, members) -> None:
    assert built["ensemble"] == "ensemble of cnn, seeds 0, 1"
    assert [member["run_id"] for member in built["members"]] == members
    assert built["rounding"] < 1e-6
    run = client.get_run(built["run_id"])
    stored = [load_predictions(client.get_run(run_id).info.artifact_uri) for run_id in members]
    answers = load_predictions(run.info.artifact_uri)
    np.testing.assert_allclose(answers.probabilities, np.mean([one.probabilities for one in stored], axis=0), atol=1e-6)
    assert run.data.metrics["kept_val_accuracy"] == answers.accuracy
    # Its members were chosen on these images: what they are flattered by is not counted for the ensemble either.
    fair = [client.get_run(run_id).data.metrics["fair_val_accuracy"] for run_id in members]
    assert [member["val_accuracy"] for member in built["members"]] == pytest.approx(fair)
    flattery = np.mean([one.accuracy for one in stored]) - np.mean(fair)
    assert built["val_accuracy"] == pytest.approx(answers.accuracy - flattery)
    assert run.data.metrics["fair_val_accuracy"] == pytest.approx(built["val_accuracy"])
    mean = np.mean([one.accuracy for one in stored])
    assert built["difference_to_members"] == pytest.approx(answers.accuracy - mean)
    assert built["difference_to_members_low"] <= built["difference_to_members"] <= built["difference_to_members_high"]
    assert built["difference_to_champion"] is not None
    assert run.data.tags["catdog.kind"] == "ensemble"
    assert json.loads(run.data.tags["catdog.ensemble_of"]) == dict(
        zip(members, ["cnn seed=0", "cnn seed=1"], strict=True)
    )
    assert run.info.status == "FINISHED"
    assert run.data.params["trainer.keep"] == "best"


@pytest.mark.slow
def test_it_is_registered_on_evidence_like_any_other_and_is_the_same_model_without_catdog(
    built, client, trained
) -> None:
    (version,) = built["versions"]
    assert (version["name"], version["is_champion"]) == ("pets", True)
    registered = client.get_model_version("pets", version["version"])
    assert registered.tags["catdog.evidence_outcome"] in ("forced", "better", "not worse")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), dtype=np.uint8)
    np.save(trained.folder / "pixels.npy", pixels)
    done = run_python(
        trained.folder,
        "-c",
        ELSEWHERE,
        trained.uri,
        "models:/pets@champion",
        "pixels.npy",
        "answers.npy",
        PYTHONPATH="",
    )
    assert done.code == 0, done.err
    study = catdog.Study("pets", tracking_uri=trained.uri)
    expected = study.model(built["run_id"]).predict(pixels).filter(like="probability_").to_numpy()
    found = np.load(trained.folder / "answers.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    each = [study.model(member["run_id"]).loaded.predict_on_batch(pixels) for member in built["members"]]
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-6)


@pytest.mark.slow
def test_the_same_ensemble_is_not_built_twice(built, trained, members) -> None:
    again = trained.run("ensemble", f"runs={members[1]},{members[0]}")
    assert again.code == 0, again.text
    assert f"exists already: run {built['run_id']}" in again.text
    assert "it is the champion, pets version" in again.text
    assert f"python -m catdog.compare runs={built['run_id']},{members[0]},{members[1]} study=pets" in again.text


@pytest.mark.slow
def test_compare_shows_a_variant_of_its_own_and_the_sweep_stays_what_it_was(built, trained, members) -> None:
    done = trained.run("compare", f"runs={built['run_id']},{members[0]},{members[1]}", "output=with")
    assert done.code == 0, done.text
    # One model has neither a number of seeds nor a spread.
    assert re.search(r"^ *ensemble of cnn\S* .*\N{EN DASH} .*\] +\N{EN DASH} ", done.out, re.M)
    assert re.search(r"^ *cnn +2 ", done.out, re.M)
    assert "one model, which answers with the mean probability of cnn seed=0 and cnn seed=1." in " ".join(
        done.out.split()
    )
    assert "is one model" in " ".join(done.out.split())
    assert "Grad-CAM of ensemble of cnn, seeds 0, 1" in done.text
    page = next(trained.folder.glob("with/*/comparison.html")).read_text("utf-8")
    assert "with the mean probability of cnn seed=0 and cnn seed=1." in page
    assert "does not belong to the kept model" not in page
    alone = trained.run("compare", "study=pets", "output=without", "gradcam=never")
    assert alone.code == 0, alone.text
    assert "ensemble" not in alone.text
    assert [*catdog.Study("pets", tracking_uri=trained.uri).runs()["run_id"]] == members
    planned = trained.run("train", "-m", *TINY, "study=pets", "model=cnn", "seed=0,1", "trainer.average_flips=true",
                          "hydra.launcher.plan_only=true", "hydra.launcher.format=json")  # fmt: skip
    assert [run["plan"] for run in json.loads(planned.out)["runs"]] == ["reuse", "reuse"]


@pytest.mark.slow
def test_it_is_evaluated_and_predicts(built, trained, client) -> None:
    done = trained.run("evaluate", "study=pets")
    assert done.code == 0, done.text
    assert "ensemble of cnn, seeds 0, 1" in done.out
    assert "test/accuracy" in client.get_run(built["run_id"]).data.metrics
    photos = next(trained.cache.glob("drawn/*/validation/cats"))
    predicted = trained.run("predict", str(photos), "study=pets", "format=json", f"model={built['run_id']}")
    assert predicted.code == 0, predicted.text


@pytest.mark.slow
def test_it_is_deleted_and_restored_and_its_members_may_go(built, trained, client, members) -> None:
    wanted = f"run={members[0]}"
    done = trained.run("delete", wanted, "yes=true")
    assert done.code == 0, done.text
    assert f"ensemble of cnn, seeds 0, 1 ({built['run_id']}) was built from it, and stays" in done.out
    gone = trained.run("ensemble", f"runs={members[0]},{members[1]}")
    assert gone.code == 2
    assert re.search(
        rf"runs: .*cnn seed=0 \({members[0]}\), was deleted in MLflow. Restore it: .*restore {wanted}", gone.err
    )
    assert trained.run("restore", wanted).code == 0
    done = trained.run("delete", f"run={built['run_id']}", "yes=true")
    assert done.code == 0, done.text
    assert "is the champion: the alias is removed" in done.out
    assert client.get_run(built["run_id"]).info.lifecycle_stage == "deleted"
    done = trained.run("restore", f"run={built['run_id']}")
    assert done.code == 0, done.text
    assert "the champion" in done.out


# What cannot be one: runs as if they had been trained, made in a moment.

FILES = [f"cats/{number}.jpg" for number in range(4)] + [f"dogs/{number}.jpg" for number in range(4)]


@dataclass(frozen=True)
class Stored:
    """A store with finished runs that have no files of models."""

    folder: Path
    cache: Path
    client: mlflow.MlflowClient

    @property
    def study(self) -> catdog.Study:
        return catdog.Study("pets", tracking_uri=f"sqlite:///{self.folder}/mlruns/mlflow.db")

    def add(
        self, variant: str = "cnn", seed: int = 0, *, study: str = "pets", data: str = "d0", classes: str = "cats,dogs",
        size: int = 16, model: bool = True, val: int = 2, kind: str = "run", files: Sequence[str] = FILES, right: int = 4,
    ) -> str:  # fmt: skip
        """Adds a run that is right about some of four validation images, and returns its id."""
        experiment = self.client.get_experiment_by_name(study)
        place = experiment.experiment_id if experiment else self.client.create_experiment(study)
        tags = {"catdog.kind": kind, "catdog.variant": variant, "catdog.variant_digest": variant, "catdog.code_digest": "c",
                "catdog.data_digest": data, "catdog.classes": classes}  # fmt: skip
        if model:
            tags["catdog.model_uri"] = "models:/m-0"
        run_id = self.client.create_run(place, tags=tags, run_name=f"{variant} seed={seed}").info.run_id
        for key, value in {"seed": seed, "preprocessing.image_size": size, "trainer.keep": "best"}.items():
            self.client.log_param(run_id, key, value)
        for key, value in {"best_val_accuracy": right / 4, "best_val_loss": 0.5}.items():
            self.client.log_metric(run_id, key, value)
        splits = ["val" if int(file[5]) < val else "train" for file in files]
        rows = [f"{file},{file[:4]},{split},{file}" for file, split in zip(files, splits, strict=True)]
        self.client.log_text(run_id, "\n".join(["file,label,split,sha256", *rows]), "split.csv")
        asked = [file for file, split in zip(files, splits, strict=True) if split == "val"]
        answers = [
            (0.8, 0.2) if (file[:4] == "cats") is (number < right) else (0.2, 0.8) for number, file in enumerate(asked)
        ]
        rows = [f"{file},{file[:4]},{cat},{dog}" for file, (cat, dog) in zip(asked, answers, strict=True)]
        self.client.log_text(run_id, "\n".join(["file,label,cats,dogs", *rows]), "predictions/val.csv")
        self.client.set_terminated(run_id)
        return run_id

    def refuse(self, *arguments: str) -> str:
        """Returns what the command says of a mistake."""
        done: Done = run_catdog(self.folder, self.cache, "ensemble", *arguments)
        assert done.code == 2, done.text
        assert "Traceback" not in done.text
        assert done.err.count("error: ") == 1
        return " ".join(done.err.split())


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, empty_store: Path) -> Stored:
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_store, tmp_path / "mlruns" / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CATDOG_CACHE", str(cache))
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    return Stored(tmp_path, cache, mlflow.MlflowClient(uri, uri))


def test_members_that_do_not_fit_are_named_in_one_message(stored) -> None:
    first = stored.add("a")
    modelless, large = stored.add("plain", model=False), stored.add("large", size=24)
    split, other = stored.add("split", data="d1", val=1), stored.add("other", data="d2", files=FILES[1:])
    birds = stored.add("zoo", data="d3", classes="birds,cats")
    said = stored.refuse(f"runs={first},{modelless},{large},{split},{other},{birds}")
    assert said == (
        "error: runs: the members of an ensemble must have a saved Keras model, and the same images, splits, classes and image "
        f"size: large seed=0 ({large}) has another image size than a seed=0: 24 instead of 16 pixels; "
        f"other seed=0 ({other}) has other images than a seed=0; "
        f"plain seed=0 ({modelless}) has no saved model; "
        f"split seed=0 ({split}) has other splits than a seed=0; "
        f"zoo seed=0 ({birds}) has other classes than a seed=0: birds, cats instead of cats, dogs. Leave them out."
    )


def test_mistakes_with_runs_are_one_message_each(stored) -> None:
    first, second = stored.add(), stored.add(seed=1)
    assert "runs: an ensemble needs 2 to 50 different runs, received 1. Train more seeds" in stored.refuse(
        f"runs={first},{first}"
    )
    assert f"runs: no run or sweep '{'0' * 32}' in this tracking store" in stored.refuse(f"runs={'0' * 32}")
    assert "variant: must be left out where runs are named, received 'cnn'" in stored.refuse(
        "variant=cnn", f"runs={first},{second}"
    )

    def say(*runs: str) -> str:
        with pytest.raises(UserError) as error:
            stored.study.plan_ensemble(runs=runs)
        return str(error.value)

    assert f"runs: no run '{'0' * 32}' in this tracking store" in say(first, "0" * 32)
    other = stored.add(study="zoo")
    assert f"runs: {other} (cnn seed=0) is of the study 'zoo', not of 'pets'" in say(first, other)
    built = stored.add("ensemble of cnn", kind="ensemble")
    assert f"runs: {built} (ensemble of cnn seed=0) is an ensemble itself: name its members." in say(first, built)
    sweep = stored.add("sweep", kind="sweep")
    assert f"runs: {sweep} (sweep seed=0) is not a training run." in say(first, sweep)
    stored.client.delete_run(second)
    assert re.search(
        rf"runs: .* cnn seed=1 \({second}\), was deleted in MLflow. Restore it: .* Or leave it out", say(first, second)
    )
    stored.client.restore_run(second)
    stored.client.update_run(second, status="FAILED")
    assert f"runs: {second} (cnn seed=1) is FAILED. Name finished runs." in say(first, second)
    with pytest.raises(UserError, match="variant: must be left out where runs are named"):
        stored.study.plan_ensemble(variant="cnn", runs=[first, second])


def test_mistakes_with_variants_and_options_are_one_message_each(stored) -> None:
    stored.add()
    said = stored.refuse("study=pets", "variant=cnm")
    assert "variant: no finished run of a variant 'cnm' in study 'pets'; variants: cnn. Did you mean cnn?" in said
    assert "variant: an ensemble needs 2 to 50 finished seeds, and cnn has 1" in stored.refuse(
        "study=pets", "variant=cnn"
    )
    assert "variant: no variant of study 'pets' has 2 finished seeds with saved models" in stored.refuse("study=pets")
    assert "study: no study 'zoe'" in stored.refuse("study=zoe")
    assert "batch_size: must be 1 or more, received 0" in stored.refuse("batch_size=0")
    assert "format: must be one of table, json, received 'xml'" in stored.refuse("format=xml")
    assert "plan_only: must be true or false, received 'perhaps'" in stored.refuse("plan_only=perhaps")
    assert "promote.margin: must be 0 or more and less than 1, received 2.0" in stored.refuse("promote.margin=2")


def test_the_members_are_the_newest_runs_of_the_best_variant_on_the_newest_data(stored) -> None:
    for seed in range(3):
        stored.add("old", seed, data="d9")
    stored.add("good", 0, right=4)
    good = [stored.add("good", seed, right=4) for seed in (1, 0)]
    for seed in range(3):
        stored.add("bad", seed, right=2)
    stored.add("single", right=4)
    plan = stored.study.plan_ensemble()
    assert plan.name == "ensemble of good, seeds 0, 1"
    assert [run.run_id for run in plan.members] == good[::-1]
    assert plan.accuracy == 1
    assert plan.interval[0] < 1
    assert (plan.to_champion, plan.no_champion) == (None, "the study has none")
    assert [run.variant for run in stored.study.plan_ensemble(variant="bad").members] == ["bad"] * 3
    assert "  less the champion    the study has none" in plan.describe()


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (
            "flavors: {tensorflow: {}}\nmetadata: {needs: [my_layers]}",
            "has layers of your own code (my_layers), and an ensemble is",
        ),
        ("flavors: {python_function: {}, sklearn: {}}", "has no Keras model. Leave it out."),
    ],
)
def test_members_that_keras_alone_cannot_load_are_refused_by_name(stored, described, said) -> None:
    (stored.folder / "model").mkdir()
    (stored.folder / "model" / "MLmodel").write_text(described)
    run_id = stored.add()
    stored.client.set_tag(run_id, "catdog.model_uri", str(stored.folder / "model"))
    with pytest.raises(UserError) as error:
        _load_member(stored.client, get_run(stored.client, run_id))
    assert f"runs: {MAY_HAVE}: cnn seed=0 ({run_id}) " in str(error.value)
    assert said in str(error.value)


def build_net(seed: int, size: int = 16):
    import keras

    keras.utils.set_random_seed(seed)
    return keras.Sequential([
        keras.Input((size, size, 3), dtype="uint8"), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(),
        keras.layers.Dense(2, activation="softmax"),
    ])  # fmt: skip


@pytest.mark.slow
def test_an_ensemble_of_recorded_models_is_built_if_they_answer_as_stored(stored) -> None:
    for name in ("cats", "dogs"):
        write_images(stored.folder / "pets" / name, 12)
    study, data = stored.study, ("dataset=folder", "dataset.archive=pets")
    val = study.split("val", dataset=data)
    pixels = study._load_dataset(data).load_split("val", 16).gather(np.arange(len(val)))[0]
    runs = []
    for seed in range(3):
        model = build_net(seed)
        answers = model.predict_on_batch(pixels)
        with study.record("net", seed, promote=False, code=[]) as run:
            run.log_model(model)
            # The third stores other answers than its model gives.
            run.log_validation(val.files, val.labels, answers[:, ::-1] if seed == 2 else answers)
        runs.append(run.run_id)
    with pytest.raises(
        UserError, match=r"runs: the ensemble does not answer as the mean of .* differs by 0\.\d+ for .*jpg"
    ):
        study.ensemble(runs=runs)
    experiment = stored.client.get_experiment_by_name("pets")
    assert not stored.client.search_runs([experiment.experiment_id], "tags.`catdog.kind` = 'ensemble'")
    built = study.ensemble(runs=runs[:2], promote=False)
    assert (built.is_new, built.promotions, built.plan.name) == (True, [], "ensemble of net, seeds 0, 1")
    assert not study.ensemble(runs=runs[:2], promote=False).is_new
    comparison = study.compare(runs=[built.run_id, *runs[:2]], gradcam="never")
    assert {variant.name: len(variant.records) for variant in comparison.analysis.variants} == {
        "ensemble of net, seeds 0, 1": 1, "net": 2,
    }  # fmt: skip
    assert not comparison.analysis.effects


def test_names_say_the_members_as_far_as_they_fit() -> None:
    class Run:
        def __init__(self, variant: str, seed: int) -> None:
            self.variant, self.seed, self.name = variant, seed, f"{variant} seed={seed}"

    assert name_ensemble([Run("cnn", 0), Run("mobilenet", 1)]) == "ensemble of cnn seed=0 and mobilenet seed=1"
    assert name_ensemble([Run("cnn", seed) for seed in range(30)]) == "ensemble of cnn, 30 runs"
    assert name_ensemble([Run(name, 0) for name in "abcdefghij"]) == "ensemble of 10 runs"
