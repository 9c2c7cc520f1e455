"""The recipes: what they train is served from the registry without catdog."""

import io
from pathlib import Path

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support import run_catdog, run_python

RECIPES = ("transfer", "finetuned", "scratch")
# Answers with a registered model of each name, in a process that cannot import catdog.
ELSEWHERE = """
import sys
sys.modules["catdog"] = None
import mlflow
import numpy as np

mlflow.set_tracking_uri(sys.argv[1])
pixels = np.load("pixels.npy")
for name in sys.argv[2:]:
    np.save(f"{name}.npy", mlflow.pyfunc.load_model(f"models:/{name}/1").predict(pixels))
"""


def save_weights(path: Path, pixels: np.ndarray) -> None:
    """Writes random weights of MobileNetV2 whose batch norms have the statistics of some images, so that its features differ."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(input_shape=pixels.shape[1:], include_top=False, weights=None)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(pixels / 127.5 - 1, training=True)
    model.save_weights(path)


@pytest.mark.nightly
@pytest.mark.slow
def test_each_recipe_answers_without_catdog_as_predict_does(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    # Coloured noise: the pictures differ in more than what averages out.
    pixels = (rng.uniform(0, 1, (5, 1, 1, 3)) * rng.integers(0, 256, (5, 64, 64, 3))).astype(np.uint8)
    np.save(folder.path / "pixels.npy", pixels)
    weights = folder.path / "mobilenet_v2.weights.h5"
    save_weights(weights, pixels)
    monkeypatch.setenv("CATDOG_WEIGHTS", str(weights))
    uri = f"sqlite:///{folder.path}/store.db"
    runs = {}
    for recipe in RECIPES:
        outcome = folder.train(f"model={recipe}", "preprocessing.image_size=64", f"study={recipe}", "trainer.epochs=2")
        runs[recipe] = outcome.run_id
        model_uri = mlflow.get_run(outcome.run_id).data.tags["catdog.model_uri"]
        assert mlflow.register_model(model_uri, recipe).version == 1

    files = [f"{number}.png" for number in range(len(pixels))]
    for file, picture in zip(files, pixels, strict=True):
        Image.fromarray(picture).save(folder.path / file)
    done = run_python(folder.path, "-c", ELSEWHERE, uri, *RECIPES, PYTHONPATH="")
    assert done.code == 0, done.err
    for recipe, run_id in runs.items():
        said = run_catdog(folder.path, folder.cache, "predict", *files, f"model={run_id}", f"study={recipe}",
                          f"tracking.uri={uri}", "format=csv")  # fmt: skip
        assert said.code == 0, said.text
        expected = pd.read_csv(io.StringIO(said.out)).filter(like="probability_").to_numpy()
        found = np.load(folder.path / f"{recipe}.npy")
        assert found.dtype == np.float32
        assert found.shape == (5, 2)
        assert np.ptp(found[:, 0]) > 1e-3, "answers that are all the same would agree by chance"
        np.testing.assert_allclose(found, expected, atol=1e-5)
