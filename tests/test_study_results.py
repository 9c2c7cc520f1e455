"""The results side of the Python API, in this process: tables, comparisons, models, evaluations, audits; and their JSON."""

import gc
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from support import PROJECT, TINY, run_python, write_images

import catdog
from catdog.registry.evidence import Reason

pytestmark = pytest.mark.slow

VARIANTS = {"cnn", "augmented", "preprocessed", "drawn_mini"}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(cache))


@pytest.fixture(scope="module")
def trained(study) -> catdog.Study:
    """The tiny sweep of the four variants, as the API has it."""
    return catdog.Study(tracking_uri=study.uri)


@pytest.fixture
def copied(study, tmp_path: Path) -> catdog.Study:
    """A store of its own with the same runs, for tests that change it; the artifacts are shared."""
    shutil.copy(study.folder / "mlruns" / "mlflow.db", tmp_path / "mlflow.db")
    return catdog.Study(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture(scope="module")
def comparison(trained):
    return trained.compare(gradcam="never")


@pytest.fixture(scope="module")
def photos(study) -> Path:
    # Other tests draw fewer into the same cache.
    return max(study.cache.glob("drawn/*/validation/cats"), key=lambda folder: len(list(folder.iterdir())))


# Tables


def test_runs_are_rows_with_typed_columns(trained):
    runs = trained.runs()
    ours = runs[runs["variant"].isin(VARIANTS)]
    assert set(ours["variant"]) == VARIANTS
    assert list(runs.columns[:6]) == ["run_id", "name", "variant", "seed", "status", "start"]
    assert (ours["status"] == "FINISHED").all()
    assert runs["start"].is_monotonic_increasing
    assert runs["start"].dt.tz is not None
    assert "backbone.name" in runs
    assert "trainer.batch_size" not in runs, "it is the same in all runs"
    whole = trained.runs(config="all")
    assert set(whole["trainer.batch_size"]) == {16}, "numbers, not text"
    assert whole["val/accuracy"].between(0, 1).all()
    assert {"sweep", "registered_model", "precision", "code"} <= set(whole)
    with pytest.raises(catdog.UserError, match="config: must be one of varying, all"):
        trained.runs(config="none")


def test_history_is_long(trained):
    history = trained.history()
    assert list(history.columns) == ["run_id", "name", "epoch", "metric", "value"]
    curve = history[(history["name"] == "cnn") & (history["metric"] == "val/accuracy")]
    assert list(curve["epoch"]) == [1, 2]
    runs = trained.runs().set_index("run_id")
    assert curve["value"].iloc[-1] == pytest.approx(runs.loc[curve["run_id"].iloc[0], "val/accuracy"])


# Comparisons


def test_a_comparison_is_tables(comparison):
    assert set(comparison.variants["variant"]) == VARIANTS
    assert comparison.variants["fair_val_accuracy"].is_monotonic_decreasing
    assert len(comparison.pairs) == 6
    assert set(comparison.pairs["kind"]) == {"one seed"}
    single = comparison.effects[comparison.effects["ingredients"] == 1]
    assert "augmentation none → flip_rotate" in set(single["differs_in"])
    images = comparison.images
    assert len(images) == 32
    right = images[[f"right_{name}" for name in comparison.variants["variant"]]].mean()
    assert right.to_numpy() == pytest.approx(comparison.variants["kept_val_accuracy"].to_numpy())
    assert set(images["kind"]) <= {"nearly always wrong", "fixed", "broken", "seed noise", "always right"}
    assert (images.loc[images["kind"] == "always right", right.index] == 1).all(axis=None)


def test_a_comparison_has_figures_by_name(comparison):
    assert isinstance(comparison.figure("accuracy"), Figure)
    with pytest.raises(catdog.UserError, match=r"figure: must be one of accuracy, loss, .*received 'acuracy'"):
        comparison.figure("acuracy")


def test_a_comparison_saves_the_page_and_shows_itself(comparison, tmp_path):
    page = comparison.save(tmp_path / "page.html").read_text("utf-8")
    assert "<svg" in page
    assert comparison.headline.split()[0] in page
    shown = comparison._repr_html_()
    assert shown.count("<table") == 2
    assert "data:image/png;base64," in shown
    with pytest.raises(catdog.UserError, match="cannot write"):
        comparison.save(tmp_path / "nowhere" / "page.html")


def test_single_runs_and_their_mistakes(trained):
    run_ids = list(trained.runs().query("variant in ('cnn', 'augmented')")["run_id"])[:2]
    two = trained.compare(runs=run_ids, gradcam="never")
    assert (len(two.variants), len(two.pairs), two.sweep_id) == (2, 1, "")
    one = trained.compare(runs=run_ids[:1], gradcam="never")
    assert len(one.pairs) == len(one.effects) == 0
    assert {"first", "verdict"} <= set(one.pairs), "an empty table has its columns"
    with pytest.raises(catdog.UserError, match="margin: "):
        trained.compare(margin=2)
    with pytest.raises(catdog.UserError, match="no study 'nothing'"):
        catdog.Study("nothing", tracking_uri=trained.tracking.uri).compare()


# Models


def test_the_champion_answers_files_folders_and_arrays(trained, photos):
    champion = trained.champion()
    assert (champion.name, champion.version) == ("cats_vs_dogs", "1")
    assert champion.class_names == ("cats", "dogs")
    assert champion.image_size == 48
    assert champion.evidence is not None
    assert champion.evidence.outcome == Reason.FIRST
    files = sorted(photos.glob("*.jpg"))
    whole = champion.predict(photos)
    assert list(whole.columns) == ["file", "class", "probability", "probability_cats", "probability_dogs"]
    assert list(whole["file"]) == [str(file) for file in files]
    assert (whole["probability"] == whole[["probability_cats", "probability_dogs"]].max(axis=1)).all()
    some = champion.predict([str(files[3]), files[5]], batch_size=1)
    assert some["probability"].to_numpy() == pytest.approx(whole["probability"].iloc[[3, 5]].to_numpy(), abs=0.02)
    # A PNG of the same pixels has no shortcut of JPEG's decoder in it.
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    of_array, of_list = champion.predict(pixels), champion.predict([pixels, pixels[:48, :48]])
    assert list(of_array.columns) == ["class", "probability", "probability_cats", "probability_dogs"]
    assert of_list["probability"].iloc[0] == pytest.approx(of_array["probability"].iloc[0], abs=0.02)
    assert len(champion.predict(np.stack([pixels] * 3), batch_size=2)) == 3


def test_an_array_is_answered_as_the_same_pixels_in_a_file(trained, tmp_path):
    champion = trained.champion()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert champion.predict(pixels).iloc[0].to_dict() == champion.predict(tmp_path / "a.png").iloc[0, 1:].to_dict()


def test_what_cannot_be_predicted_is_named(trained, tmp_path):
    champion = trained.champion()
    (tmp_path / "bad.jpg").write_text("no image")
    for images, said in (
        (tmp_path, "bad.jpg"),
        (tmp_path / "none.jpg", "no such file or folder"),
        ([], "images: must be a file, a folder"),
        (np.zeros((4, 4), np.uint8), "must be uint8"),
        (np.zeros((1, 4, 4, 3), np.float32), "received float32"),
    ):
        with pytest.raises(catdog.UserError, match=said):
            champion.predict(images)


def test_any_model_can_be_named(trained):
    run_id = trained.runs()["run_id"].iloc[0]
    model = trained.model(run_id)
    assert (model.run_id, model.name, model.version, model.evidence) == (run_id, None, None, None)
    with pytest.raises(catdog.UserError, match="no registered model"):
        trained.model("catdog@nobody")
    version = trained.champion().version
    assert trained.model(int(version)).run_id == trained.champion().run_id
    with pytest.raises(
        catdog.UserError, match=rf"has no version '99', received model=99; it has version.* {version}.* alias"
    ):
        trained.model(99)
    with pytest.raises(catdog.UserError, match=r"has no alias 'champoin', .* Did you mean champion\?"):
        trained.model("champoin")
    with pytest.raises(catdog.UserError, match="model: must be a run id"):
        trained.model(1.5)


def test_an_evaluation_is_counted(trained):
    first = trained.evaluate()
    second = trained.evaluate("champion", batch_size=3)
    assert second.look == first.look + 1
    assert second.accuracy == first.accuracy == first.correct / first.images
    assert first.interval[0] <= first.accuracy <= first.interval[1]
    assert list(first.classes["class"]) == ["cats", "dogs"]
    assert first.baseline == 0.5
    assert first.baseline_words.startswith("always answering one class is right on 0.500 of test")
    assert first.confusion.to_numpy().sum() == first.images == 8
    assert len(second.looks) == first.look
    assert second.looks["accuracy"].iloc[-1] == first.accuracy
    stored = trained.runs().set_index("run_id").loc[trained.champion().run_id]
    assert stored["test/accuracy"] == first.accuracy
    client = mlflow.MlflowClient(trained.tracking.uri)
    ledger = client.get_experiment_by_name("catdog-test-ledger").experiment_id
    newest = client.search_runs([ledger], order_by=["attributes.start_time DESC"], max_results=1)[0]
    assert newest.data.tags["mlflow.source.name"] == "catdog.Study('cats_vs_dogs').evaluate('cats_vs_dogs version 1')"


# Changes


def test_the_champion_can_be_forgotten(copied, study, tmp_path):
    was = copied.forget_champion()
    assert (was.name, was.version) == ("cats_vs_dogs", "1")
    with pytest.raises(catdog.UserError, match="cats_vs_dogs has 1 version, but no champion: the alias was removed"):
        copied.champion()
    with pytest.raises(catdog.UserError, match="but no champion"):
        copied.forget_champion()
    assert copied.model("1").run_id == was.run_id, "the version stays"
    # Nothing is suggested that would fail.
    options = (f"tracking.uri={copied.tracking.uri}", f"output={tmp_path}", "gradcam=never", "format=json")
    assert parse(study.run("compare", *options).out)["next"] == []


def test_a_run_can_be_deleted_but_not_the_champions(copied):
    champion = copied.champion()
    with pytest.raises(catdog.UserError, match=r"is, or has, the champion of cats_vs_dogs\. Promote another one first"):
        copied.delete_run(champion.run_id)
    runs = copied.runs()
    other = runs.loc[runs["run_id"] != champion.run_id, "run_id"].iloc[0]
    copied.delete_run(other)
    assert other not in set(copied.runs()["run_id"])
    for run_id in (other, "0" * 32, runs["sweep"].max()):
        with pytest.raises(catdog.UserError, match="run_id: "):
            copied.delete_run(run_id)
    with pytest.raises(catdog.UserError, match="no study 'quickstart'"):
        catdog.Study("quickstart", tracking_uri=copied.tracking.uri).delete_run(champion.run_id)
    copied.delete_run(champion.run_id, force=True)
    with pytest.raises(catdog.UserError, match="but no champion"):
        copied.champion()
    copied.restore_run(champion.run_id)
    assert copied.champion().run_id == champion.run_id


def test_deleted_runs_of_one_sweep_are_restored_with_it(copied, study):
    client = mlflow.MlflowClient(copied.tracking.uri)
    sweep = copied.compare(gradcam="never")
    for run_id in sweep.runs["run_id"].iloc[:2]:
        client.delete_run(run_id)
    variants = "model=cnn,augmented,preprocessed,drawn_mini"
    options = ("hydra.launcher.plan_only=true", "hydra.launcher.format=json", f"tracking.uri={copied.tracking.uri}")
    plan = parse(study.run("train", "-m", variants, *TINY, *options).out)
    assert [run["plan"] for run in plan["runs"]].count("run") == 2
    restore, train = plan["next"]
    assert restore.endswith(f"-m catdog.restore sweep={sweep.sweep_id} tracking.uri={copied.tracking.uri}")
    assert "catdog.train -m" in train


def test_a_sweep_without_one_of_its_runs_gets_no_verdict(copied, study, tmp_path, caplog):
    """The run is deleted on MLflow's own pages, then removed for good; the page with the verdicts stays."""
    client = mlflow.MlflowClient(copied.tracking.uri)
    whole = copied.compare(gradcam="never")
    before = whole.save_folder(tmp_path)
    written = (before / "comparison.html").stat().st_mtime_ns
    run_id = whole.runs.loc[whole.runs["variant"] == "augmented", "run_id"].iloc[0]
    client.delete_run(run_id)
    with caplog.at_level("WARNING"):
        left = copied.compare(gradcam="never")
    restore = f"-m catdog.restore sweep={left.sweep_id}"
    assert "1 run of this sweep was deleted in MLflow: augmented. There is no verdict on what is left" in caplog.text
    assert restore in caplog.text
    assert not left.complete
    assert set(left.pairs["kind"]) == {"incomplete"}
    options = (f"tracking.uri={copied.tracking.uri}", "gradcam=never", f"output={tmp_path}/json", "format=json")
    first, second, *_ = parse(study.run("compare", *options).out)["next"]
    assert restore in first
    assert "catdog.train -m" in second
    assert left.runs.set_index("run_id").loc[run_id, "status"] == "DELETED"
    assert "1 run of the sweep was deleted in MLflow: augmented." in left.warnings[0]
    folder = left.save_folder(tmp_path)
    assert folder.name == f"{left.sweep_id}-incomplete"
    assert "There is no verdict on what is left." in (folder / "comparison.html").read_text()
    assert (before / "comparison.html").stat().st_mtime_ns == written
    with pytest.raises(
        catdog.UserError, match=f"runs: {run_id} .augmented. was deleted in MLflow. Leave it out, or restore it"
    ):
        copied.compare(runs=[run_id])
    client._tracking_client.store._hard_delete_run(run_id)  # as `mlflow gc` does
    purged = copied.compare(gradcam="never")
    assert not purged.complete
    assert "1 run of the sweep is not in the store" in purged.warnings[0]
    client.delete_run(left.sweep_id)
    with pytest.raises(catdog.UserError, match=f"sweep: .* was deleted in MLflow. Restore it: .*{restore}"):
        copied.compare(sweep=left.sweep_id)


def test_a_champion_whose_run_was_deleted_is_served_with_a_warning_and_not_evaluated(copied, photos, caplog):
    client = mlflow.MlflowClient(copied.tracking.uri)
    ledger = client.get_experiment_by_name("catdog-test-ledger")
    looks = [run.info.run_id for run in client.search_runs([ledger.experiment_id])] if ledger else []
    champion = copied.champion()
    client.delete_run(champion.run_id)
    assert len(champion.predict(next(photos.glob("*.jpg")))) == 1
    assert (
        f"cats_vs_dogs version 1: the run that trained it, {champion.run_name} ({champion.run_id}), was deleted in MLflow."
        in caplog.text
    )
    assert f"-m catdog.restore run={champion.run_id}" in caplog.text
    with pytest.raises(
        catdog.UserError, match=r"^model: cats_vs_dogs version 1 cannot be evaluated, because its result is stored"
    ):
        copied.evaluate()
    with pytest.raises(catdog.UserError, match=r"^run_id: the run that trained it"), copied.look(champion.run_id):
        pass
    client._tracking_client.store._hard_delete_run(champion.run_id)
    with pytest.raises(catdog.UserError, match="was removed from the tracking store for good"):
        copied.evaluate()
    now = client.get_experiment_by_name("catdog-test-ledger")
    assert ([run.info.run_id for run in client.search_runs([now.experiment_id])] if now else []) == looks


def test_what_the_outbox_has_of_a_deleted_run_goes(copied, tmp_path):
    from catdog.tracking.outbox import entry_for

    run_id = copied.runs().query("variant == 'augmented'")["run_id"].iloc[0]
    copied.tracking.outbox = str(tmp_path / "outbox")
    entry = entry_for(tmp_path / "outbox", copied.tracking.uri, copied.name, "run", "identity")
    entry.claim({"kind": "run", "name": "augmented", "study": copied.name, "tracking": {"uri": copied.tracking.uri}})
    entry.save_state(run_id=run_id)
    with pytest.raises(catdog.UserError, match="works on"):
        copied.delete_run(run_id)
    assert run_id in set(copied.runs()["run_id"])
    entry.release()
    copied.delete_run(run_id)
    assert not entry.folder.exists()


# Audits


def test_an_audit_is_tables(tmp_path):
    for label in ("cats", "dogs"):
        write_images(tmp_path / "images" / label, 12, size=64)
    shutil.copy(tmp_path / "images/cats/000.jpg", tmp_path / "images/dogs/copy.jpg")
    found = catdog.Study().audit("dataset=folder", f"dataset.archive={tmp_path}/images")
    assert "label conflict" in set(found.findings["kind"])
    assert list(found.pairs["kind"]) == ["copy"]
    assert len(found.images) == 25
    assert found.severities >= {"error"}
    assert "label conflict" in found._repr_html_()
    assert "<html" in found.save(tmp_path / "audit.html").read_text()
    json.dumps(catdog_json(found.to_dict()), allow_nan=False)
    with pytest.raises(catdog.UserError, match="no such option"):
        catdog.Study().audit("dataset=photos")


def test_an_audit_takes_a_function():
    images = [np.full((4, 4, 3), value, dtype=np.uint8) for value in range(6)]
    found = catdog.Study().audit_pipeline(lambda: (images[:4], images[4:5], images[3:4]), epochs=2)
    assert found.leaks
    assert found.severities == {"error", "note"} or found.severities == {"error"}
    overlaps = found.overlaps.set_index(["split", "other"])["shared"]
    assert overlaps.to_dict() == {("test", "train"): 1, ("test", "val"): 0, ("val", "train"): 0}
    assert list(found.splits["images"]) == [4, 1, 1]
    with pytest.raises(catdog.UserError, match="epochs: must be 2 or more"):
        catdog.Study().audit_pipeline(lambda: (images, images, images), epochs=1)


# The process


def catdog_json(value):
    from catdog.system.documents import to_plain

    return to_plain(value)


def test_two_stores_do_not_disturb_each_other(trained, copied, photos, tmp_path):
    client = mlflow.MlflowClient(copied.tracking.uri, registry_uri=copied.tracking.uri)
    client.rename_experiment(client.get_experiment_by_name("cats_vs_dogs").experiment_id, "others")
    others = catdog.Study("others", tracking_uri=copied.tracking.uri)
    others.forget_champion()
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/third.db")
    try:
        assert others.compare(gradcam="never").study == "others"
        assert trained.compare(gradcam="never").study == "cats_vs_dogs"
        assert len(trained.champion().predict(photos)) > 0
        with pytest.raises(catdog.UserError, match="but no champion"):
            others.champion()
        assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path}/third.db"
        assert not (tmp_path / "third.db").exists(), "nothing asked MLflow's current store"
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


def test_two_threads_read(trained, copied, photos):
    client = mlflow.MlflowClient(copied.tracking.uri)
    client.rename_experiment(client.get_experiment_by_name("cats_vs_dogs").experiment_id, "others")
    others = catdog.Study("others", tracking_uri=copied.tracking.uri)

    def read(study: catdog.Study) -> tuple[str, list[str], pd.DataFrame]:
        compared = study.compare(gradcam="never")
        compared.figure("accuracy")
        return compared.study, list(compared.variants["variant"]), study.champion().predict(photos)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(read, [trained, others] * 3))
    assert [study for study, _, _ in found] == ["cats_vs_dogs", "others"] * 3
    for _, names, answers in found[1:]:
        assert names == found[0][1]
        pd.testing.assert_frame_equal(answers, found[0][2])


SCRIPT = """
import gc, logging, os, signal, sys, warnings
arguments, sys.argv = sys.argv[1:], ["script"]
gc.unfreeze()  # the libraries, which were imported before the fork
def state():
    return (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), list(sys.argv), list(sys.path),
            signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), logging.getLogger().handlers[:])
before = state()
import catdog
study = catdog.Study(tracking_uri=arguments[0])
study.runs(), study.history()
study.compare(runs=list(study.runs()["run_id"])[:1]).save(arguments[2])
study.champion().predict(arguments[1])
study.evaluate()
assert state() == before, (state(), before)
import mlflow
assert not mlflow.tracking.is_tracking_uri_set()
assert logging.getLogger("mlflow").level == logging.INFO
"""


def test_the_api_prints_nothing_and_changes_nothing_of_the_process(study, photos, tmp_path, monkeypatch):
    frozen = gc.get_freeze_count()
    monkeypatch.delenv("MLFLOW_LOGGING_LEVEL", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    done = run_python(tmp_path, "-c", SCRIPT, study.uri, str(photos), str(tmp_path / "page.html"))
    assert done.code == 0, done.err
    assert done.text == ""
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"], "no store of MLflow's own is made"
    assert gc.get_freeze_count() == frozen


# JSON


def parse(text: str) -> dict:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_commands_print_one_json_document(study, tmp_path):
    compared = study.run("compare", "format=json", f"output={tmp_path}", "gradcam=never")
    assert compared.code == 0, compared.text
    found = parse(compared.out)
    assert (found["format_version"], found["command"], found["complete"]) == (1, "compare", True)
    assert {row["variant"] for row in found["variants"]} == VARIANTS
    assert found["variants"][0]["fair_val_seed_sd"] is None, "one seed has no spread"
    assert found["pairs"][0].keys() >= {"first", "second", "kind", "verdict", "accuracy_difference", "low", "high"}
    assert Path(study.folder, found["page"]).is_file()
    # Other tests may have looked at this test split before.
    assert ("catdog.predict" if found["test_looks"] else "catdog.evaluate") in found["next"][0]
    evaluated = study.run("evaluate", "format=json")
    assert evaluated.code == 0, evaluated.text
    found = parse(evaluated.out)
    assert (found["format_version"], found["command"], found["images"], found["baseline"]) == (1, "evaluate", 8, 0.5)
    assert found["low"] <= found["accuracy"] <= found["high"]
    assert "evaluating cats_vs_dogs version 1" in evaluated.err
    tested = parse(study.run("compare", "format=json", f"output={tmp_path}", "gradcam=never").out)
    assert "catdog.predict PHOTO.jpg" in tested["next"][0], "no other look is suggested"
    wrong = study.run("compare", "format=xml")
    assert (wrong.code, wrong.out) == (2, "")


def test_an_audit_prints_json_and_its_exit_code_stays(catdog, tmp_path):
    for label in ("cats", "dogs"):
        write_images(tmp_path / "images" / label, 12, size=64)
    shutil.copy(tmp_path / "images/cats/000.jpg", tmp_path / "images/dogs/copy.jpg")
    done = catdog("audit", "dataset=folder", f"dataset.archive={tmp_path / 'images'}", "format=json", "fail_on=error")
    assert done.code == 3, done.text
    found = parse(done.out)
    assert (found["command"], found["images"]) == ("audit", 25)
    assert {"severity", "kind", "words", "files"} == set(found["findings"][0])
    assert len(found["pairs"]) == 1
