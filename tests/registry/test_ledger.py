"""Looks at a test split are counted, whoever looks, and nobody gets test images without being counted."""

import re
import shutil

import mlflow
import pandas as pd
import pytest
from support import PROJECT, Study, compose_config

from catdog.data.dataset import load_dataset
from catdog.registry.ledger import describe_look, digest_test, open_look, read_looks


@pytest.fixture
def client(tmp_path, empty_store) -> mlflow.MlflowClient:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri, registry_uri=uri)


def add_run(client: mlflow.MlflowClient) -> str:
    return client.create_run("0").info.run_id


def look_at(client: mlflow.MlflowClient, run_id: str, digest: str = "a" * 64, accuracy: float = 0.9):
    with open_look(
        client, digest, study="s", model=f"model {run_id[:4]}", model_uri="models:/m-1", run_id=run_id, command="look"
    ) as look:
        look.record({"test/accuracy": accuracy})
    return look


def test_looks_are_counted_by_the_content_of_the_split(client):
    first, second = add_run(client), add_run(client)
    assert read_looks(client, "a" * 64) == []
    assert look_at(client, first, accuracy=0.8).number == 1
    look = look_at(client, second)
    assert (look.number, [earlier.accuracy for earlier in look.earlier]) == (2, [0.8])
    assert look_at(client, first, digest="b" * 64).number == 1
    assert [(look.number, look.run_id, look.accuracy) for look in read_looks(client, "a" * 64)] == [
        (1, first, 0.8),
        (2, second, 0.9),
    ]
    assert client.get_run(second).data.tags["catdog.test_looks"] == "2"


def test_of_two_looks_at_the_same_moment_one_is_the_second(client):
    run_id = add_run(client)
    with (
        open_look(client, "a" * 64, study="s", model="m", model_uri="u", run_id=run_id, command="look") as first,
        open_look(client, "a" * 64, study="s", model="m", model_uri="u", run_id=run_id, command="look") as second,
    ):
        assert {first.number, second.number} == {1, 2}


def test_a_ledger_that_was_deleted_is_taken_back(client):
    run_id = add_run(client)
    look_at(client, run_id)
    client.delete_experiment(client.get_experiment_by_name("catdog-test-ledger").experiment_id)
    assert look_at(client, run_id).number == 2


def test_a_look_that_fails_counts_and_so_does_one_that_is_deleted(client):
    run_id = add_run(client)

    def fail() -> None:
        with open_look(client, "a" * 64, study="s", model="m", model_uri="u", run_id=run_id, command="look") as look:
            # Recorded before anything could be seen.
            assert len(read_looks(client, "a" * 64)) == 1
            look.give_images()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [look.accuracy for look in read_looks(client, "a" * 64)] == [None]
    for run in client.search_runs([client.get_experiment_by_name("catdog-test-ledger").experiment_id]):
        client.delete_run(run.info.run_id)
    assert look_at(client, run_id).number == 2


def test_a_look_that_ends_before_it_had_images_is_closed_and_does_not_count(client):
    run_id = add_run(client)
    look_at(client, run_id)

    def look(fails: bool) -> None:
        with open_look(client, "a" * 64, study="s", model="m", model_uri="u", run_id=run_id, command="look") as look:
            assert look.number == 2
            if fails:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        look(fails=True)
    look(fails=False)
    assert [look.accuracy for look in read_looks(client, "a" * 64)] == [0.9]
    assert client.get_run(run_id).data.tags["catdog.test_looks"] == "1"
    ledger = client.get_experiment_by_name("catdog-test-ledger").experiment_id
    assert sorted(run.info.status for run in client.search_runs([ledger])) == ["FAILED", "FINISHED", "FINISHED"]
    assert look_at(client, run_id).number == 2


def test_a_look_by_a_run_that_was_deleted_leaves_nothing_running(client):
    run_id = add_run(client)
    client.delete_run(run_id)
    with pytest.raises(mlflow.exceptions.MlflowException, match="deleted"):
        look_at(client, run_id)
    ledger = client.get_experiment_by_name("catdog-test-ledger").experiment_id
    assert [run.info.status for run in client.search_runs([ledger])] == ["FAILED"]


def test_the_words_say_which_look_it_is(client):
    first, second = add_run(client), add_run(client)
    assert "nobody has looked at them before" in describe_look(look_at(client, first), first)
    assert "look 2 at these test images (1 look before, at 1 model)" in describe_look(look_at(client, second), second)
    assert "this model has been looked at already" in describe_look(look_at(client, first), first)


def test_registered_versions_say_how_often(client):
    run_id = add_run(client)
    client.create_registered_model("catdog")
    client.create_model_version("catdog", "file:/nowhere", run_id=run_id, description="**better**: it is.")
    look_at(client, run_id)
    look_at(client, run_id)
    version = client.get_model_version("catdog", "1")
    assert version.tags["catdog.test_looks"] == "2"
    assert version.description.startswith("**better**: it is.")
    assert version.description.count("Test split:") == 1
    assert "look 2" in version.description


def test_the_digest_is_of_content_and_class_not_of_names_and_order():
    rows = pd.DataFrame(
        {"file": ["a", "b", "c"], "label": ["x", "y", "x"], "split": ["test", "test", "val"], "sha256": ["1", "2", "3"]}
    )
    moved = rows.iloc[::-1].assign(file=["C", "B", "A"])
    assert digest_test(rows) == digest_test(moved)
    assert digest_test(rows) != digest_test(rows.assign(label="x"))
    assert digest_test(rows) == digest_test(rows.assign(sha256=["1", "2", "4"]))


def test_nobody_gets_test_images_without_an_entry(cache):
    config = compose_config(
        "dataset=synthetic", "dataset.drawing.train_per_class=2", "dataset.drawing.validation_per_class=4",
        f"dataset.cache={cache}",
    )  # fmt: skip
    dataset = load_dataset(config.dataset)
    assert len(dataset.load_split("val", 16)) > 0
    with pytest.raises(ValueError, match="ledger"):
        dataset.load_split("test", 16)
    # Only evaluate opens looks.
    openers = [
        path.name for path in (PROJECT / "catdog").rglob("*.py") if re.search(r"\bopen_look\(", path.read_text())
    ]
    assert sorted(openers) == ["evaluation.py", "ledger.py"]


@pytest.mark.slow
def test_evaluate_says_which_look_it_is_and_the_page_how_many(study: Study):
    before = read_looks_of(study)
    for number in (len(before) + 1, len(before) + 2):
        done = study.run("evaluate")
        assert done.code == 0, done.text
        assert f"look {number} at these test images" in done.out
    assert "this model has been looked at already" in done.out
    assert "earlier looks" in done.out
    compared = study.run("compare", "output=looked")
    assert compared.code == 0, compared.text
    (page,) = study.folder.glob("looked/*/comparison.html")
    # Other tests may have looked with other models.
    said = rf"The ledger records {len(before) + 2} looks at that test split, by \d+ model"
    assert re.search(said, page.read_text())


def read_looks_of(study: Study) -> list:
    client = mlflow.MlflowClient(study.uri)
    experiment = client.get_experiment_by_name("catdog-test-ledger")
    # Other tests look at other data in the same store.
    where = "tags.`catdog.study` = 'cats_vs_dogs'"
    return client.search_runs([experiment.experiment_id], where) if experiment else []
