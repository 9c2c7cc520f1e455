"""What follows a sweep: compare, evaluate and predict, as a user types them."""

import io
import json
import re
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(study) -> mlflow.MlflowClient:
    mlflow.set_tracking_uri(study.uri)
    mlflow.set_registry_uri(study.uri)
    return mlflow.MlflowClient(study.uri, registry_uri=study.uri)


@pytest.fixture(scope="module")
def compared(study):
    done = study.run("compare")
    assert done.code == 0, done.text
    return done


@pytest.fixture(scope="module")
def photos(study):
    """The folder of drawn validation cats."""
    return next(study.cache.glob("drawn/*/validation/cats"))


def test_compare_prints_a_table_and_writes_csv_page_and_figures(study, compared) -> None:
    for variant in ("cnn", "augmented", "preprocessed", "drawn_mini"):
        assert re.search(rf"^ *{variant} ", compared.out, re.M)
    assert "Next: open comparisons/" in compared.out
    # Other tests compare other studies in the same folder.
    folder = study.folder / re.search(r"open (comparisons/\w+)/", compared.out).group(1)
    table = pd.read_csv(folder / "table.csv")
    assert len(table) == 4
    page = (folder / "comparison.html").read_text("utf-8")
    assert "<svg" in page
    assert "data:image/jpeg;base64," in page, "mistakes are shown as pictures"
    assert {path.stem for path in (folder / "figures").glob("*.png")} >= {
        "accuracy",
        "gap",
        "final_accuracy",
        "confusion",
        "reliability",
    }


def test_grad_cam_is_computed_once_and_stored_with_the_runs(study, client, compared) -> None:
    page = next(path for path in study.folder.glob("comparisons/*/comparison.html")).read_text("utf-8")
    assert '"cams":{"images":' in page
    # Another file of tests may have compared these runs before.
    assert compared.out.count("Grad-CAM of ") in (0, 4)
    experiment = client.get_experiment_by_name("cats_vs_dogs")
    runs = client.search_runs([experiment.experiment_id], "tags.`catdog.kind` = 'run'")
    stored = [run for run in runs if client.list_artifacts(run.info.run_id, "gradcam")]
    assert {run.data.tags["catdog.variant"] for run in stored} == {"cnn", "augmented", "preprocessed", "drawn_mini"}
    again = study.run("compare", "output=again", "gradcam=never")
    assert again.code == 0, again.text
    assert "Grad-CAM of" not in again.out
    assert '"cams":{"images":' in next(path for path in study.folder.glob("again/*/comparison.html")).read_text("utf-8")


def test_a_model_that_is_gone_costs_its_grad_cam_not_the_page(study, client, tmp_path) -> None:
    experiment = client.get_experiment_by_name("cats_vs_dogs")
    run = client.search_runs([experiment.experiment_id], "tags.`catdog.kind` = 'run'", max_results=1)[0]
    uri = run.data.tags["catdog.model_uri"]
    client.set_tag(run.info.run_id, "catdog.model_uri", "models:/m-00000000000000000000000000000000")
    stored = Path(run.info.artifact_uri.removeprefix("file://")) / "gradcam" / "val.npz"
    content = stored.read_bytes() if stored.exists() else None
    stored.unlink(missing_ok=True)
    try:
        done = study.run("compare", f"runs={run.info.run_id}", f"output={tmp_path}")
    finally:
        client.set_tag(run.info.run_id, "catdog.model_uri", uri)
        if content is not None:
            stored.write_bytes(content)
    assert done.code == 0, done.text
    assert "the files of its kept model are gone" in next(tmp_path.glob("*/comparison.html")).read_text("utf-8")


def test_the_page_is_stored_on_the_sweep(client, compared) -> None:
    experiment = client.get_experiment_by_name("cats_vs_dogs")
    (sweep,) = client.search_runs([experiment.experiment_id], "tags.`catdog.kind` = 'sweep'")
    stored = {item.path for item in client.list_artifacts(sweep.info.run_id, "comparison")}
    assert stored >= {"comparison/comparison.html", "comparison/table.csv"}


def test_compare_takes_a_sweep_or_single_runs(study, client, compared) -> None:
    experiment = client.get_experiment_by_name("cats_vs_dogs")
    (sweep,) = client.search_runs([experiment.experiment_id], "tags.`catdog.kind` = 'sweep'")
    runs = client.search_runs([experiment.experiment_id], "tags.`catdog.kind` = 'run'", max_results=2)
    chosen = study.run("compare", f"runs=[{','.join(run.info.run_id for run in runs)}]", "output=two")
    assert chosen.code == 0, chosen.text
    assert len(pd.read_csv(next(study.folder.glob("two/*/table.csv")))) == 2
    # Without brackets it is the same list.
    plain = study.run("compare", f"runs={','.join(run.info.run_id for run in runs)}", "output=plain", "gradcam=never")
    assert plain.code == 0, plain.text
    assert [path.name for path in study.folder.glob("plain/*")] == [path.name for path in study.folder.glob("two/*")]
    # Copies of one run are no seeds, and a comparison of one run does not lie where that of two does.
    again = study.run("compare", f"runs={runs[0].info.run_id},{runs[0].info.run_id}", "output=two")
    assert again.code == 0, again.text
    assert sorted(len(pd.read_csv(table)) for table in study.folder.glob("two/*/table.csv")) == [1, 2]
    assert "There is nothing to compare: this is one run." in again.out
    assert re.search(
        rf"Next: open .*\n +python -m catdog.compare runs={runs[0].info.run_id},[0-9a-f]{{32}}\n", again.out
    )
    assert re.search(r"python -m catdog.train -m .*trainer.learning_rate=0.001,0.0003 seed=0,1,2\n", again.out)
    assert study.run("compare", f"sweep={runs[0].info.run_id}").code == 2
    assert study.run("compare", f"sweep={sweep.info.run_id}", "output=again").code == 0


@pytest.fixture(scope="module")
def evaluated(study):
    done = study.run("evaluate")
    assert done.code == 0, done.text
    return done


def test_evaluate_prints_and_logs_the_champions_figures(client, evaluated) -> None:
    found = re.search(r"test accuracy (0\.\d+|1\.000), 95% interval ([\d.]+) to ([\d.]+) \((\d+) of 8 images\), loss [\d.]+",
                      evaluated.out)  # fmt: skip
    accuracy, low, high, correct = (float(group) for group in found.groups())
    assert low <= accuracy <= high
    assert accuracy == pytest.approx(correct / 8, abs=1e-3)
    for name in ("cats", "dogs"):
        assert re.search(rf"^ +{name} +4 ", evaluated.out, re.M)
    assert "Next: python -m catdog.predict" in evaluated.out
    run = client.get_run(client.get_model_version_by_alias("cats_vs_dogs", "champion").run_id)
    assert run.data.metrics["test/accuracy"] == pytest.approx(accuracy, abs=1e-3)
    assert {"test/loss", "test/recall_cats", "test/recall_dogs", "test/accuracy_low"} <= set(run.data.metrics)
    assert "figures/confusion_test.png" in {i.path for i in client.list_artifacts(run.info.run_id, "figures")}
    predictions = pd.read_csv(io.StringIO(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/predictions/test.csv")))
    split = pd.read_csv(io.StringIO(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/split.csv")))
    assert list(predictions["file"]) == list(split[split["split"] == "test"]["file"])


@pytest.mark.parametrize("name", ["1", "RUN"])
def test_evaluate_takes_a_version_or_a_run(study, client, evaluated, name: str) -> None:
    version = client.get_model_version_by_alias("cats_vs_dogs", "champion")
    done = study.run("evaluate", f"model={version.run_id if name == 'RUN' else name}")
    assert done.code == 0, done.text
    line = re.search(r"test accuracy .*", evaluated.out).group()
    assert line in done.out
    assert not done.err, "TensorFlow's chatter stays off the terminal"


def test_only_evaluate_reads_test(study, evaluated) -> None:
    assert "test: " not in study.sweep.out
    assert "test: 8 images" in evaluated.out


def test_evaluate_refuses_other_data_under_the_same_name(study, client, tmp_path) -> None:
    """A run on a folder whose images have changed since: test images might have been trained on."""
    from support import TINY, write_images

    for number, name in enumerate(("cats", "dogs")):
        write_images(tmp_path / "data" / name, 20, seed=number)
    trained = study.run("train", "model=cnn", *TINY[3:], "dataset=folder", f"dataset.archive={tmp_path / 'data'}",
                        "study=moved", "trainer.epochs=1")  # fmt: skip
    assert trained.code == 0, trained.text
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    assert study.run("evaluate", "study=moved").code == 2
    found = study.run("evaluate", "study=moved", f"dataset.archive={tmp_path / 'elsewhere'}")
    assert found.code == 0, found.text
    write_images(tmp_path / "elsewhere" / "cats", 1, seed=99)
    changed = study.run("evaluate", "study=moved", f"dataset.archive={tmp_path / 'elsewhere'}")
    assert changed.code == 2
    assert "is not the data that run" in changed.err
    # compare needs the images no more: they are in the cache.
    del client


def test_predict_answers_as_table_csv_and_json(study, photos) -> None:
    files = sorted(photos.glob("*.jpg"))
    # Near by, as a table folds long paths.
    shutil.copy(files[0], study.folder / "one.jpg")
    shown = study.run("predict", "one.jpg", str(files[1]))
    assert shown.code == 0, shown.text
    assert "one.jpg" in shown.out
    csv = study.run("predict", str(photos), "format=csv")
    table = pd.read_csv(io.StringIO(csv.out))
    assert list(table.columns) == ["file", "class", "probability", "probability_cats", "probability_dogs"]
    assert list(table["file"]) == [str(file) for file in files]
    assert (table["probability"] == table[["probability_cats", "probability_dogs"]].max(axis=1)).all()
    rows = json.loads(study.run("predict", str(photos), "format=json").out)
    assert [row["class"] for row in rows] == list(table["class"])
    # The same pictures that val or test held, and the same answers that the run stored for them.
    stored = pd.concat(
        pd.read_csv(path) for path in study.folder.glob("mlruns/artifacts/cats_vs_dogs/*/artifacts/predictions/val.csv")
    )
    name = table["file"].str.extract(r"(validation/cats/.*)")[0]
    assert set(name) & set(stored["file"])


def test_predict_writes_a_contact_sheet(study, photos, tmp_path) -> None:
    sheet = tmp_path / "sheet.png"
    done = study.run("predict", str(photos), f"sheet={sheet}", "model=1")
    assert done.code == 0, done.text
    with Image.open(sheet) as image:
        assert min(image.size) > 200


def test_predict_answers_the_readable_files_and_names_the_others(study, photos, tmp_path) -> None:
    good = tmp_path / 'it\'s a cat, née "Mia".jpg'
    shutil.copy(next(photos.glob("*.jpg")), good)
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    done = study.run("predict", str(tmp_path), "format=csv")
    assert done.code == 2
    assert list(pd.read_csv(io.StringIO(done.out))["file"]) == [str(good)]
    assert "bad.jpg" in done.err
    assert "1 of 2 files cannot be read as images" in done.err
