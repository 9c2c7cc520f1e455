"""The answers to single images after each epoch, collected during validation."""

import logging

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from catdog.data.epoch_answers import EpochAnswers
from catdog.statistics.metrics import NAMED
from catdog.tracking.artifacts import load_epoch_answers, load_predictions
from catdog.training.validation_answers import ValidationAnswers

IMAGES, CLASSES = 11, 3


class OwnStep(keras.Model):
    """A model with a test step of its own, which updates its metrics one by one."""

    def test_step(self, data):
        images, labels = data
        logits = self(images, training=False)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(self.compute_loss(y=labels, y_pred=logits))
            else:
                metric.update_state(labels, logits)
        return {metric.name: metric.result() for metric in self.metrics}


def build(kind: type[keras.Model] = keras.Model) -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    model = kind(inputs, keras.layers.Dense(CLASSES)(inputs))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def draw(one_hot: bool = False) -> tuple[np.ndarray, np.ndarray, tf.data.Dataset]:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(IMAGES, 4)).astype(np.float32), rng.integers(CLASSES, size=IMAGES)
    given = keras.utils.to_categorical(labels, CLASSES) if one_hot else labels
    return rows, labels, tf.data.Dataset.from_tensor_slices((rows, given)).batch(4)


@pytest.mark.parametrize("one_hot", [False, True], ids=["labels", "distributions"])
def test_each_image_has_its_own_answer_in_order(one_hot: bool) -> None:
    model = build()
    if one_hot:
        model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    rows, labels, stream = draw(one_hot)
    collected = ValidationAnswers(model, IMAGES, CLASSES, keep_probabilities=True)
    collected.start()
    means = model.evaluate(stream, verbose=0, return_dict=True)
    answers = collected.add_to(EpochAnswers.empty(), 1)
    assert answers is not None
    assert answers.probabilities is not None
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(model(rows)))
    assert answers.probabilities[0] == pytest.approx(probabilities, abs=1e-3)
    assert answers.right[0].tolist() == (probabilities.argmax(axis=1) == labels).tolist()
    assert answers.right.mean() == pytest.approx(means["accuracy"])
    assert answers.losses.astype(float).mean() == pytest.approx(means["loss"], rel=1e-3)


def test_training_steps_and_other_measurements_leave_no_trace() -> None:
    rows, labels, stream = draw()
    plain, watched = build(), build()
    collected = ValidationAnswers(watched, IMAGES, CLASSES)
    for model in (plain, watched):
        collected.start()
        model.fit(rows, labels, epochs=2, batch_size=3, shuffle=False, verbose=0)
    found = [model.evaluate(stream, verbose=0) for model in (plain, watched)]
    assert found[0] == found[1]
    first = collected.add_to(EpochAnswers.empty(), 1)
    # More images than there are in validation, as in the measurement on clean training images.
    watched.evaluate(stream.repeat(3), verbose=0)
    collected.start()
    watched.evaluate(stream, verbose=0)
    again = collected.add_to(EpochAnswers.empty(), 1)
    assert first is not None
    assert again is not None
    assert np.array_equal(first.losses, again.losses)


def test_a_test_step_that_bypasses_keras_metrics_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model = build(OwnStep)
    collected = ValidationAnswers(model, IMAGES, CLASSES)
    collected.start()
    model.evaluate(draw()[2], verbose=0)
    with caplog.at_level(logging.WARNING):
        assert collected.add_to(EpochAnswers.empty(), 1) is None
    assert "test_step does not call compute_metrics" in caplog.text
    assert collected.add_to(None, 2) is None


@pytest.mark.slow
def test_a_run_stores_them_and_its_fair_accuracy(folder) -> None:
    outcome = folder.train("model=cnn", "trainer.epochs=4", "trainer.keep_probabilities=true")
    artifacts = folder.artifacts(outcome)
    answers = load_epoch_answers(str(artifacts))
    history = pd.read_csv(artifacts / "history.csv")
    predictions = load_predictions(str(artifacts))
    assert answers is not None
    assert answers.probabilities is not None
    assert answers.right.mean(axis=1) == pytest.approx(history["val/accuracy"].to_numpy())
    place = answers.place_of(outcome.best_epoch)
    # The saved model is the same network in float32, so a probability may differ in its last digits.
    assert answers.probabilities[place] == pytest.approx(predictions.probabilities, abs=0.03)
    import mlflow

    metrics = mlflow.get_run(outcome.run_id).data.metrics
    fair = answers.cross_fit(predictions, outcome.best_epoch)
    assert fair is not None
    assert metrics["fair_val_accuracy"] == pytest.approx(fair.mean())
    last = mlflow.get_run(folder.train("model=cnn", "trainer.epochs=4", "trainer.keep=last").run_id).data.metrics
    assert last["fair_val_accuracy"] == last["final_val_accuracy"], "nothing was chosen"


@pytest.mark.nightly
@pytest.mark.slow
def test_the_best_epoch_by_another_metric_goes_on_bit_for_bit(folder) -> None:
    import mlflow

    chosen = ("model=cnn", "trainer.epochs=4", "trainer.keep_metric=brier", "trainer.patience=2")
    whole = folder.train(*chosen, store="whole")
    with pytest.raises(KeyboardInterrupt):
        folder.train(*chosen, stop_after=2)
    resumed = folder.train(*chosen)
    history = pd.read_csv(folder.artifacts(resumed) / "history.csv")
    assert resumed.best_epoch == 1 + int(np.argmin(history["val/brier"]))
    first, second = (load_predictions(str(path)) for path in (folder.artifacts(resumed), _artifacts(whole, folder)))
    assert np.array_equal(first.probabilities, second.probabilities)
    metrics = mlflow.MlflowClient(f"sqlite:///{folder.path}/store.db").get_run(resumed.run_id).data.metrics
    answers = load_epoch_answers(str(folder.artifacts(resumed)))
    assert answers is not None
    assert answers.probabilities is None, "of two classes, the losses are enough"
    fair = answers.cross_fit(first, resumed.best_epoch, keep_metric=NAMED["brier"], patience=2)
    assert fair is not None
    assert metrics["fair_val_accuracy"] == pytest.approx(fair.mean())


def _artifacts(outcome, folder) -> str:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder.path}/whole.db")
    return client.get_run(outcome.run_id).info.artifact_uri.removeprefix("file://")
