"""Searches as a user types them, on drawn images."""

import json

import mlflow
import pytest
from support import TINY, Study, run_catdog
from torture import SEARCH, Torture, await_end, describe_store, find_differences

from catdog.config.commands import TuneConfig
from catdog.search.planning import plan_search
from catdog.sweeps.parent import open_parent
from catdog.tracking.run import hand_in

SPACE = ("trainer.learning_rate=tag(log,interval(1e-4,1e-2))", "head.units=16,32")

DEADLY = """
import os, signal
import keras

class Deadly(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if any(getattr(layer, "units", 0) == 32 for layer in self.model.layers):
            with open("deaths", "a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, cache) -> Study:
    """A search of three trials, with a race of two seeds."""
    folder = tmp_path_factory.mktemp("search")
    done = run_catdog(
        folder, cache, "tune", "model=cnn", *SPACE, *TINY, "trainer.epochs=3", "trials=3", "min_epochs=1", "top=1",
        "seeds=2", "study=tuned",
    )  # fmt: skip
    assert done.code == 0, done.text
    return Study(folder, cache, done)


@pytest.mark.slow
def test_trials_are_runs_below_the_search_and_most_are_paused(searched) -> None:
    client = mlflow.MlflowClient(searched.uri)
    (experiment,) = [item for item in client.search_experiments() if item.name == "tuned"]
    runs = client.search_runs([experiment.experiment_id])
    (search,) = [run for run in runs if "catdog.search" in run.data.tags]
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == search.info.run_id]
    assert search.info.status == "FINISHED"
    assert sorted(run.info.run_name for run in trials) == ["trial 0", "trial 1", "trial 2"]
    assert sorted(run.info.status for run in trials) == ["FINISHED", "SCHEDULED", "SCHEDULED"]
    paused = next(run for run in trials if run.info.status == "SCHEDULED")
    assert [point.step for point in client.get_metric_history(paused.info.run_id, "val/accuracy")] == [1]
    settings = json.loads(search.data.tags["catdog.trial.1"])["settings"]
    assert set(settings) == {"trainer.learning_rate", "head.units"}
    run = next(run for run in trials if run.info.run_name == "trial 1")
    assert float(run.data.params["trainer.learning_rate"]) == float(settings["trainer.learning_rate"])


@pytest.mark.slow
def test_the_best_race_against_the_default_with_other_seeds(searched) -> None:
    client = mlflow.MlflowClient(searched.uri)
    (experiment,) = [item for item in client.search_experiments() if item.name == "tuned"]
    races = [run for run in client.search_runs([experiment.experiment_id]) if "catdog.decision" in run.data.tags]
    (pair,) = json.loads(races[0].data.tags["catdog.decision"])["pairs"]
    assert pair["second"] == "default"
    members = client.search_runs([experiment.experiment_id], f"tags.`catdog.sweep` = '{races[0].info.run_id}'")
    assert {run.data.params["seed"] for run in members} == {"1", "2"}
    assert "default seed=1" in {run.info.run_name for run in members}
    assert "of what whole trainings of all of them would have taken" in searched.sweep.out


@pytest.mark.nightly
@pytest.mark.slow
def test_a_larger_search_goes_on_with_the_same_trials(searched) -> None:
    again = searched.run(
        "tune", "model=cnn", *SPACE, *TINY, "trainer.epochs=3", "trials=4", "min_epochs=1", "top=1", "seeds=0", "study=tuned",
        "format=json",
    )  # fmt: skip
    assert again.code == 0, again.text
    found = json.loads(again.out)
    client = mlflow.MlflowClient(searched.uri)
    before = client.get_run(found["search"]).data.tags
    assert len(found["trials"]) == 4
    assert [json.loads(before[f"catdog.trial.{number}"])["settings"]["head.units"] for number in range(4)] == [
        trial["head.units"] for trial in found["trials"]
    ]
    assert found["race"] is None
    assert found["epochs"] < found["full_epochs"] == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((SPACE[0].replace("1e-2", "1e-1"), SPACE[1]), "trainer.learning_rate: the search 'learning_rate units' has begun with "
         "tag(log,interval(0.0001,0.01)), received tag(log,interval(0.0001,0.1)). Give the same, or another name"),
        ((*SPACE, "factor=2"), "factor: the search 'learning_rate units' has begun with 3, received 2."),
        ((*SPACE, "sampler=random"), "sampler: the search 'learning_rate units' has begun with tpe, received random."),
    ],
)  # fmt: skip
def test_a_search_does_not_go_on_with_another_space_or_rule(searched, arguments, said) -> None:
    done = searched.run(
        "tune", "model=cnn", *arguments, *TINY, "trainer.epochs=3", "trials=3", "min_epochs=1", "study=tuned"
    )
    assert done.code == 2, done.text
    assert said in done.err + done.out


@pytest.mark.nightly
@pytest.mark.slow
def test_a_trial_that_diverges_is_a_bad_one_and_a_small_space_ends(catdog) -> None:
    done = catdog(
        "tune", "model=cnn", *TINY, "optimizer=sgd", "trainer.learning_rate=1e39,1e-3", "sampler=grid", "min_epochs=1", "top=1",
        "seeds=0", "study=bad", "format=json",
    )  # fmt: skip
    assert done.code == 0, done.text
    found = json.loads(done.out)
    assert [trial["state"] for trial in found["trials"]] == ["finished", "diverged"], "the default is trial 0"
    assert "the loss became" in found["trials"][1]["why"]
    assert found["best"] == 0
    assert "the space has 2 configurations\n2 trials of" in done.err
    assert "the space has no more than 2 configurations" in done.err


@pytest.mark.nightly
@pytest.mark.slow
def test_a_trial_that_crashes_is_tried_once_more_and_the_search_goes_on(catdog, tmp_path) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    done = catdog(
        "tune", "model=cnn", *TINY, "head.units=16,32", "trainer.callbacks=[deadly:Deadly]", "sampler=grid", "min_epochs=1",
        "top=1", "seeds=0", "study=crashing", "format=json",
    )  # fmt: skip
    found = json.loads(done.out)
    states = {trial["head.units"]: (trial["state"], trial["why"]) for trial in found["trials"]}
    assert states["16"][0] == "finished"
    assert states["32"][0] == "failed"
    assert "SIGKILL" in states["32"][1]
    assert done.err.count("starting it again from its last checkpoint, 1 of 1") == 1
    assert (tmp_path / "deaths").read_text() == "xx"
    assert done.code == 0, done.text


@pytest.mark.slow
def test_the_second_of_two_commands_says_who_leads(searched, cache, monkeypatch) -> None:
    words = ("model=cnn", *SPACE, *TINY, "trainer.epochs=3", "study=tuned")
    monkeypatch.chdir(searched.folder)
    monkeypatch.setenv("CATDOG_CACHE", str(cache))
    monkeypatch.setattr("catdog.config.schema.DEFAULT_URI", searched.uri)
    planned = plan_search(TuneConfig(min_epochs=1), words)
    assert planned.earlier is not None
    config = planned.base_config
    client = mlflow.MlflowClient(searched.uri)
    parent = open_parent(
        client, config.tracking, config.study, identity=planned.search_identity, name="search x", command="", tags={},
        before_data="", earlier=planned.earlier,
    )  # fmt: skip
    try:
        done = searched.run("tune", *words, "min_epochs=1")
    finally:
        parent.append("status", status="FINISHED", time_ms=1)
        hand_in(parent, 20)
    assert done.code == 2, done.text
    assert "is running this search right now. Wait for it, or stop it." in done.text


@pytest.mark.nightly
@pytest.mark.slow
def test_a_search_killed_again_and_again_equals_an_uninterrupted_one(tmp_path) -> None:
    """The same trials, settings, rungs, metrics, weights and winner."""
    arguments = [*SEARCH, "trials=3"]
    calm = Torture(tmp_path / "calm", tmp_path / "cache", arguments, "tune")
    tortured = Torture(tmp_path / "tortured", tmp_path / "cache", arguments, "tune")
    for each in (calm, tortured):
        each.folder.mkdir()
    assert calm.run() == 0, calm.terminal
    for moment in (
        "catdog.search.leader:Leader._record:2", "catdog.tracking.run:OutboxRun.pause:1", "mlflow.tensorflow:save_model:1"
    ):  # fmt: skip
        assert tortured.run_until(moment), (moment, tortured.terminal)
    assert tortured.run() == 0, tortured.terminal
    await_end(tortured.folder)
    differences = [*find_differences(describe_store(calm.folder), describe_store(tortured.folder))]
    assert not differences, differences


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("model=cnn",), "tune: needs a key to vary; with one value each, received model=cnn."),
        (("model=cnn,augmented", "trials=0"), "trials: must be 1 or more, received 0."),
        (("head.units=64",), "tune: needs a key to vary; with one value each, received head.units=64."),
        (("head.unit=64,128",), "head.unit"),
        (("trainer.learning_rate=interval(1,0.1)",), "trainer.learning_rate: must go from a lower number to a higher one"),
        (("trainer.learning_rate=tag(log,interval(0,0.1))",), "the lowest value must be more than 0"),
        (("head.units=interval(16,32)",), "head.units: takes whole numbers, received interval(16,32). Use int(interval(16,32))."),
        (("head.dropout=interval(0,2)",), "head.dropout"),
        (("head.units=64,many",), "head.units"),
        (("head.units=64,128", "metric=aucc"), "metric: must be accuracy"),
        (("head.units=64,128", "sampler=tpee"), "sampler: must be one of tpe, random, gp, cmaes, grid"),
        (("head.dropout=interval(0,0.5)", "sampler=grid"), "sampler: grid tries every combination, and head.dropout"),
        (("head.units=64,128", "seeds=1"), "seeds: must be 0, or 2 or more, received 1."),
        (("head.units=64,128", "+space=nowhere.yaml"), "space: there is no file nowhere.yaml."),
        (("head.units=64,128", "min_epochs=30", *TINY), "min_epochs: must be at most trainer.epochs=2, received 30."),
        (("head.units=64,128", "hydra/sweeper=optuna"), "python -m catdog.tune searches"),
    ],
)  # fmt: skip
def test_mistakes_are_named_before_anything_is_trained(catdog, arguments, said) -> None:
    done = catdog("tune", *arguments)
    assert done.code == 2, done.text
    assert said in done.text
    assert "Traceback" not in done.text
