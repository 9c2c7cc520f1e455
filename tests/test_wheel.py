"""catdog as a researcher has it: installed from a wheel, called in another folder, with a model and a loss of his own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
from forked import Forked
from support import PROJECT, TINY, run_python, start_python

pytestmark = pytest.mark.slow

MODELS = """
import keras
from keras import layers

def block(images, filters):
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(images)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization()(x) + layers.Conv2D(filters, 1)(images))

def resnet(image_shape, blocks=2, filters=8):
    images = keras.Input(image_shape)
    features = layers.Conv2D(filters, 3, strides=2, padding="same")(images)
    for _ in range(blocks):
        features = block(features, filters)
    return keras.Model(images, features)
"""
LOSSES = """
from keras import ops

def hinge(labels, logits, width=1.0):
    one_hot = ops.one_hot(labels, logits.shape[-1])
    right = ops.sum(one_hot * logits, axis=1)
    wrong = ops.max(logits - 1e9 * one_hot, axis=1)
    return ops.softplus(width + wrong - right)
"""
WORDS = (
    "backbone=own", "backbone.builder=my_models:resnet", "backbone.options={blocks: 1}", "head.pooling=global_average",
    "optimizer=adamw", "optimizer.weight_decay=0.01", "loss.function=my_losses:hinge", "augmentation=flip_rotate",
    *[word for word in TINY if not word.startswith("trainer.epochs")], "trainer.epochs=6", "seed=0,1", "study=own",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(PROJECT)], check=True)
    (wheel,) = folder.glob("catdog-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    assert (folder / "site" / "catdog" / "py.typed").exists()
    return folder / "site"


def start(folder: Path, site: Path, cache: Path, *arguments: str) -> Forked:
    env = {"CATDOG_CACHE": str(cache), "PYTHONPATH": str(site), "VIRTUAL_ENV": sys.prefix}
    folder.mkdir(exist_ok=True)
    (folder / "my_models.py").write_text(MODELS)
    (folder / "my_losses.py").write_text(LOSSES)
    return start_python(folder, "-m", *arguments, **env)


def run(folder: Path, site: Path, cache: Path, *arguments: str) -> str:
    process = start(folder, site, cache, *arguments)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


def read_runs(folder: Path) -> dict[str, tuple[str, list[str], bytes, mlflow.entities.Run]]:
    """Returns history without times, answers, and the MLflow run, by the name of the run."""
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("own")
    assert experiment is not None
    found = {}
    for each in client.search_runs([experiment.experiment_id], "tags.`catdog.kind` = 'run'"):
        artifacts = Path(each.info.artifact_uri.removeprefix("file://"))
        rows = [line.split(",") for line in (artifacts / "history.csv").read_text().splitlines()]
        timed = {rows[0].index(name) for name in ("epoch_seconds", "images_per_second")}
        history = [",".join(cell for place, cell in enumerate(row) if place not in timed) for row in rows]
        answers = (artifacts / "predictions" / "val.csv").read_bytes()
        found[each.info.run_name] = (each.info.status, history, answers, each)
    return found


@pytest.mark.nightly
def test_own_code_is_swept_killed_resumed_compared_promoted_and_served(tmp_path, site, cache) -> None:
    where = run(tmp_path / "whole", site, cache, "catdog", "--help")
    assert "train a model" in where
    located = run_python(tmp_path, "-c", "import catdog; print(catdog.__file__)", PYTHONPATH=str(site))
    assert Path(located.out.strip()).is_relative_to(site)
    run(tmp_path / "whole", site, cache, "catdog.train", "-m", *WORDS)

    killed = tmp_path / "killed"
    process = start(killed, site, cache, "catdog.train", "-m", *WORDS)
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            if "epoch 3/6" in line:
                break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    time.sleep(0.5)
    again = run(killed, site, cache, "catdog.train", "-m", *WORDS)
    assert "resume" in again
    assert "interrupted after epoch" in again
    whole, resumed = read_runs(tmp_path / "whole"), read_runs(killed)
    assert set(whole) == set(resumed)
    assert len(whole) == 2
    for name in whole:
        assert whole[name][:3] == resumed[name][:3], name
        assert whole[name][0] == "FINISHED"

    said = run(killed, site, cache, "catdog.compare", "study=own", "gradcam=never")
    assert "2 seeds" in said or "seeds" in said
    run(killed, site, cache, "catdog.evaluate", "study=own")
    # From the registry, without catdog and without the user's modules: a graph of Keras' own layers needs neither.
    serve = (
        "import mlflow, numpy as np, sys\n"
        f"mlflow.set_tracking_uri('sqlite:///{killed}/mlruns/mlflow.db')\n"
        "model = mlflow.pyfunc.load_model('models:/own@champion')\n"
        "answers = np.asarray(model.predict(np.zeros((3, 48, 48, 3), np.uint8)))\n"
        "assert answers.shape == (3, 2) and np.allclose(answers.sum(axis=1), 1, atol=1e-3), answers\n"
        "assert 'catdog' not in sys.modules and 'my_models' not in sys.modules\n"
        "print('served')\n"
    )
    served = run_python(tmp_path, "-c", serve, PYTHONPATH="")
    assert served.out.endswith("served\n"), served.err
    assert np.isfinite(next(iter(whole.values()))[3].data.metrics["best_val_accuracy"])
