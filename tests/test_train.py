"""Training end to end: a sweep of the four variants as a user runs it, and what it leaves in MLflow."""

import io
import json
import re

import mlflow
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image
from support import TINY, run_python

from catdog.config.names import name_job
from catdog.plots.style import PALETTE
from catdog.tracking.tags import Tags

pytestmark = pytest.mark.slow

VARIANTS = ["cnn", "augmented", "preprocessed", "drawn_mini"]
PER_EPOCH = {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "gap/accuracy", "epoch_seconds",
             "images_per_second", "learning_rate"}  # fmt: skip
AT_THE_END = {"best_val_accuracy", "best_epoch", "final_train_accuracy", "final_val_accuracy", "final_gap_accuracy",
              "final_train_loss", "final_val_loss", "clean_train_accuracy"}  # fmt: skip


@pytest.fixture(scope="module")
def client(study) -> mlflow.MlflowClient:
    mlflow.set_tracking_uri(study.uri)
    mlflow.set_registry_uri(study.uri)
    return mlflow.MlflowClient(study.uri, registry_uri=study.uri)


@pytest.fixture(scope="module")
def runs(client) -> list:
    """The sweep's runs, in the order of the command line."""
    experiment = client.get_experiment_by_name("cats_vs_dogs")
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return [run for run in found if run.data.tags["catdog.kind"] == "run" and "catdog.sweep" in run.data.tags]


@pytest.fixture(scope="module")
def parent(client, runs):
    return client.get_run(runs[0].data.tags["catdog.sweep"])


def artifact(run, path: str) -> str:
    return mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{path}")


def table(run, path: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(artifact(run, path)))


def test_the_sweep_says_what_it_did_and_what_to_do_next(study) -> None:
    out = study.sweep.out
    for expected in ("data set synthetic, digest", "train      48  cats 24, dogs 24",
                     "registered cats_vs_dogs version 1: drawn_mini", "Next: python -m catdog.compare",
                     "python -m catdog.evaluate", "python -m catdog.ui"):  # fmt: skip
        assert expected in out
    for variant in VARIANTS:
        assert re.search(rf"^ +{variant} +finished +0\.\d", out, re.M), variant
    assert re.search(r"epoch 2/2  train 0\.\d+ val 0\.\d+ gap [+-]0\.\d+ best 0\.\d+  [\d,]+ images/s  ETA 0:00", out)
    assert "\x1b" not in out, "piped output is plain"
    assert "Warning" not in study.sweep.text
    assert "absl" not in study.sweep.text, "TensorFlow's chatter stays off the terminal"


def test_images_are_decoded_once(study, runs) -> None:
    # Another test may have decoded them before the sweep was checked.
    assert len(re.findall(r"decoded \d+ images to 48 x 48|nothing decoded", study.sweep.out)) == 2
    for run in runs:
        log = artifact(run, "log/train.log")
        assert "images to 48 x 48" not in log
        assert log.count("nothing decoded") == 2


def test_one_parent_and_one_child_per_variant(runs, parent) -> None:
    assert [run.info.run_name for run in runs] == VARIANTS
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {parent.info.run_id}
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["catdog.kind"] == "sweep"
    assert "model=cnn,augmented,preprocessed,drawn_mini" in parent.data.tags["catdog.command"]
    # What MLflow's pages show.
    note = parent.data.tags["mlflow.note.content"]
    assert f"python -m catdog.compare study=cats_vs_dogs sweep={parent.info.run_id}" in note
    assert [run.data.tags["mlflow.runColor"] for run in runs] == list(PALETTE[:4])


def test_metrics_are_there_at_every_epoch(client, runs) -> None:
    for run in runs:
        for key in PER_EPOCH:
            assert [point.step for point in client.get_metric_history(run.info.run_id, key)] == [1, 2], key
        metrics = run.data.metrics
        assert set(metrics) >= AT_THE_END
        assert metrics["gap/accuracy"] == pytest.approx(metrics["train/accuracy"] - metrics["val/accuracy"])
        assert metrics["final_val_accuracy"] == metrics["val/accuracy"]
        history = table(run, "history.csv").set_index("epoch")
        # The best epoch by accuracy, ties to the lower loss.
        best = history.sort_values(["val/accuracy", "val/loss"], ascending=[False, True]).index[0]
        assert metrics["best_epoch"] == best
        assert metrics["best_val_accuracy"] == pytest.approx(history["val/accuracy"][best])


def test_the_kept_model_is_the_best_epochs(runs) -> None:
    for run in runs:
        predictions = table(run, "predictions/val.csv")
        assert list(predictions.columns) == ["file", "label", "cats", "dogs"]
        assert len(predictions) == 32
        accuracy = (predictions[["cats", "dogs"]].idxmax(axis=1) == predictions["label"]).mean()
        # bfloat16 may turn a tie; nothing more than that.
        assert accuracy == pytest.approx(run.data.metrics["best_val_accuracy"], abs=1 / 32)


def test_params_are_every_leaf_of_the_config(runs) -> None:
    params = runs[-1].data.params
    assert params["trainer.epochs"] == "2"
    assert params["augmentation.layers.rotation.factor"] == "0.2"
    assert params["backbone.trainable_layers"] == "0"
    config = OmegaConf.create(artifact(runs[-1], "config/config.yaml"))
    assert config.backbone.name == "drawn_mini"
    assert "model=drawn_mini" in OmegaConf.create(artifact(runs[-1], "config/overrides.yaml"))


def test_tags_identify_data_config_and_code(runs) -> None:
    tags = [Tags(run.data.tags) for run in runs]
    assert len({tag["catdog.data_digest"] for tag in tags}) == 1
    assert len({tag["catdog.code_digest"] for tag in tags}) == 1
    assert len({tag["catdog.config_digest"] for tag in tags}) == 4
    assert [tag["catdog.variant"] for tag in tags] == VARIANTS
    inputs = runs[0].inputs.dataset_inputs
    assert {item.dataset.name for item in inputs} == {"synthetic train", "synthetic val"}
    assert all(tags[0]["catdog.data_digest"].startswith(item.dataset.digest) for item in inputs)


def test_artifacts_are_complete(client, runs) -> None:
    for run in runs:

        def names(folder: str = "", run=run) -> set[str]:
            return {item.path for item in client.list_artifacts(run.info.run_id, folder or None)}

        figures = {f"figures/{name}.png" for name in ("samples", "accuracy", "loss", "gap", "confusion")}
        if run.info.run_name != "cnn":
            figures.add("figures/augmentation.png")
        assert names("figures") - {"figures/confusion_test.png"} == figures
        assert names() >= {"history.csv", "split.csv", "model_summary.txt", "config", "log", "predictions"}
        assert "epoch 2/2" in artifact(run, "log/train.log")
        split = table(run, "split.csv")
        assert split.groupby("split").size().to_dict() == {"test": 8, "train": 48, "val": 32}
        assert not split["sha256"].duplicated().any()
        assert "Trainable params" in artifact(run, "model_summary.txt")


SERVE = """
import builtins, sys
real = builtins.__import__
def guarded(name, *args, **kwargs):
    if name.split(".")[0] == "catdog":
        raise ImportError("catdog is not installed here")
    return real(name, *args, **kwargs)
builtins.__import__ = guarded
import json, mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
pixels = np.load(sys.argv[3])
answers = model.predict(pixels)
assert not any(name.split(".")[0] == "catdog" for name in sys.modules)
print(json.dumps({"answers": answers.tolist(), "dtype": str(answers.dtype), "names": model.metadata.metadata["class_names"],
                  "input": str(model.metadata.signature.inputs), "example": model.input_example is not None}))
"""


def test_the_model_serves_where_catdog_cannot_be_imported(study, runs, tmp_path) -> None:
    from catdog.data.cache import load_cached_images

    run = runs[0]
    split = table(run, "split.csv")
    rows = split[split["split"] == "val"]
    decoded = load_cached_images(list(rows["sha256"]), height=48, width=48, cache=study.cache)
    np.save(tmp_path / "pixels.npy", decoded.images)
    done = run_python(tmp_path, "-c", SERVE, study.uri, run.data.tags["catdog.model_uri"], str(tmp_path / "pixels.npy"))
    assert done.code == 0, done.err
    served = json.loads(done.out.splitlines()[-1])
    assert served["names"] == ["cats", "dogs"]
    assert served["dtype"] == "float32"
    assert "uint8" in served["input"]
    assert served["example"]
    # The answers that compare pairs: pixel for pixel the ones stored with the run.
    stored = table(run, "predictions/val.csv")[["cats", "dogs"]].to_numpy()
    assert np.array(served["answers"]) == pytest.approx(stored, abs=1e-3)


def test_the_best_run_is_registered_and_is_champion(client, runs, parent) -> None:
    best = max(runs, key=lambda run: (run.data.metrics["best_val_accuracy"], -run.data.metrics["best_val_loss"]))
    champion = client.get_model_version_by_alias("cats_vs_dogs", "champion")
    assert champion.run_id == best.info.run_id
    assert champion.tags["catdog.run"] == best.info.run_id
    assert float(champion.tags["catdog.val_accuracy"]) == pytest.approx(
        best.data.metrics["best_val_accuracy"], abs=1e-6
    )
    assert parent.data.tags["catdog.registered_model"] == "cats_vs_dogs"


def test_a_run_repeats_bit_for_bit(study, client, runs) -> None:
    again = study.run("train", "model=augmented", *TINY, "study=again", "promote.enabled=false")
    assert again.code == 0, again.text
    run_id = re.search(r"run ([0-9a-f]{32})", again.out).group(1)
    for key in ("train/loss", "val/loss", "val/accuracy"):
        first, second = (
            [point.value for point in client.get_metric_history(run, key)] for run in (runs[1].info.run_id, run_id)
        )
        assert first == second, key
    assert artifact(client.get_run(run_id), "predictions/val.csv") == artifact(runs[1], "predictions/val.csv")
    again, first = Tags(client.get_run(run_id).data.tags), Tags(runs[1].data.tags)
    assert again.config_digest == first.config_digest


@pytest.mark.nightly
def test_a_failing_run_does_not_end_the_sweep(study, client) -> None:
    """A learning rate without measure: that run FAILS with its step, traceback and log; the other one finishes."""
    done = study.run("train", "-m", "model=cnn", "trainer.learning_rate=1e39,0.001", *TINY, "study=failing")
    assert done.code == 1
    # Again is the first thing to do: it reuses what finished and tries the other one again.
    assert "Next: python -m catdog.train -m model=cnn trainer.learning_rate=1e39,0.001" in done.out
    assert "python -m catdog.compare study=failing" in done.out
    assert re.search(
        r"^cnn learning_rate=1e\+39 failed: the loss became (nan|inf) at epoch 1, step \d of 3", done.out, re.M
    )
    assert re.search(r"learning_rate=0.001 +finished", done.out)
    experiment = client.get_experiment_by_name("failing")
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    status = {run.info.run_name: run.info.status for run in found}
    assert status == {
        "sweep of 2": "FAILED",
        "cnn learning_rate=1e+39": "FAILED",
        "cnn learning_rate=0.001": "FINISHED",
    }
    failed = next(run for run in found if run.info.run_name == "cnn learning_rate=1e+39")
    assert "NonFiniteLossError" in artifact(failed, "traceback.txt")
    assert re.search(r"at epoch \d+", artifact(failed, "log/train.log"))
    compared = study.run("compare", "study=failing")
    assert compared.code == 0, compared.text
    assert "FAILED" in compared.out


def test_keep_last_keeps_the_last_epoch(study, client) -> None:
    done = study.run("train", "model=cnn", *TINY, "trainer.epochs=4", "trainer.keep=last", "study=last",
                     "promote.enabled=false")  # fmt: skip
    assert done.code == 0, done.text
    run = client.get_run(re.search(r"run ([0-9a-f]{32})", done.out).group(1))
    assert run.data.metrics["kept_epoch"] == 4
    predictions = table(run, "predictions/val.csv")
    accuracy = (predictions[["cats", "dogs"]].idxmax(axis=1) == predictions["label"]).mean()
    assert accuracy == pytest.approx(run.data.metrics["final_val_accuracy"], abs=1 / 32)


def test_an_image_of_ones_own_trains(study, tmp_path) -> None:
    """dataset=folder, three classes, names with spaces and non-ASCII letters, files that are no images."""
    rng = np.random.default_rng(0)
    for name, colour in (("rot", 0), ("grün é", 1), ("it's blue", 2)):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 90, (30, 40, 3), dtype=np.uint8)
            pixels[..., colour] += 150
            Image.fromarray(pixels).save(folder / f"photo {number}.png")
        (folder / ".DS_Store").write_bytes(b"\0")
        (folder / "Thumbs.db").write_bytes(b"\0")
    (tmp_path / "images" / "rot" / "broken.jpg").write_text("no image")
    done = study.run("train", "model=cnn", *TINY[3:], "dataset=folder", f"dataset.archive={tmp_path / 'images'}",
                     "study=colours", "trainer.epochs=6")  # fmt: skip
    assert done.code == 0, done.text
    assert "grün é 12" in done.out
    if "broken.jpg" in done.out:
        assert "unreadable" in done.out
    evaluated = study.run("evaluate", "study=colours")
    assert evaluated.code == 0, evaluated.text
    accuracy = float(re.search(r"test accuracy ([\d.]+)", evaluated.out).group(1))
    assert accuracy > 0.6, "three colours are told apart"


@pytest.mark.nightly
def test_system_metrics_and_a_named_experiment(study, client) -> None:
    done = study.run("train", "experiment=quickstart", "model=cnn", *TINY, "study=one", "tracking.system_metrics=true")
    assert done.code == 0, done.text
    experiment = client.get_experiment_by_name("one")
    names = {run.info.run_name for run in client.search_runs([experiment.experiment_id])}
    assert names == {"sweep of 1", "cnn"}


@pytest.mark.parametrize(
    ("overrides", "varying", "name", "variant"),
    [
        (["model=cnn"], {"model"}, "cnn", "cnn"),
        (["model=cnn", "seed=1"], {"model", "seed"}, "cnn seed=1", "cnn"),
        (["model=cnn", "seed=1", "trainer.epochs=3"], {"seed"}, "cnn seed=1", "cnn"),
        (["model=mobilenet", "augmentation=none"], {"augmentation"}, "mobilenet augmentation=none", "mobilenet augmentation=none"),
        (["trainer.epochs=3", "seed=2", "tracking.uri=x"], None, "cnn epochs=3 seed=2", "cnn epochs=3"),
        (["loss.function=my_losses\\:poly"], {"loss.function"}, "cnn function=my_losses:poly",
         "cnn function=my_losses:poly"),
        (["~augmentation.layers.flip", "model=augmented"], None, "augmented no flip",
         "augmented no flip"),
    ],
)  # fmt: skip
def test_runs_are_named_by_what_differs(overrides, varying, name: str, variant: str) -> None:
    model = next((item.partition("=")[2] for item in overrides if item.startswith("model=")), "cnn")
    assert name_job(model, overrides, varying) == (name, variant)
