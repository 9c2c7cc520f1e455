"""Optimizers, losses, weights of classes and callbacks: what the config says is what Keras gets."""

import logging
import sys

import keras
import numpy as np
import pytest
from own_modules import CALLBACKS
from support import compose_config

from catdog.config import schema
from catdog.config.digest import complete_params, flatten
from catdog.config.schema import LossConfig
from catdog.system.errors import UserError
from catdog.training.callbacks import OwnCallback, build_callbacks
from catdog.training.class_weights import weigh_classes
from catdog.training.fast.feature_cache import Head
from catdog.training.loop import capture, compile_model, fit, restore
from catdog.training.losses import build_loss, check_loss
from catdog.training.model import build_model
from catdog.training.optimizers import build_optimizer, check_optimizer

SIZE = "preprocessing.image_size=32"
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "lion", "muon")


def build(*overrides: str, policy: str = "float32") -> keras.Model:
    config = compose_config(SIZE, *overrides)
    keras.utils.set_random_seed(0)
    model = build_model(config, 3, policy)
    compile_model(model, config, policy, steps=5)
    return model


def step(model: keras.Model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    model.train_on_batch(images, np.arange(6) % 3)


def test_adam_at_its_defaults_is_keras_own() -> None:
    optimizer = build().optimizer
    expected = keras.optimizers.Adam(0.001).get_config()
    assert optimizer.get_config() | {"name": ""} == expected | {"name": ""}
    assert type(optimizer) is keras.optimizers.Adam


@pytest.mark.parametrize(("name", "policy"), [
    ("adam", "float32"),
    *((name, "mixed_float16") for name in OPTIMIZERS),
    *(pytest.param(name, "float32", marks=pytest.mark.nightly) for name in OPTIMIZERS[1:]),
])  # fmt: skip
def test_every_optimizer_takes_a_step(name: str, policy: str) -> None:
    model = build(f"optimizer={name}", policy=policy)
    before = model.get_weights()
    step(model)
    assert not all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.parametrize("name", ["adamw", "muon", "lion", "sgd"])
def test_weight_decay_spares_biases_and_norms(name: str) -> None:
    layers = ("+backbone.layers.a={layer: Conv2D, filters: 4, kernel_size: 3}",
              "+backbone.layers.b={layer: BatchNormalization}")  # fmt: skip
    decayed, plain = (
        build(*layers, f"optimizer={name}", f"optimizer.weight_decay={decay}", "trainer.learning_rate=0.1")
        for decay in (0.5, 0.0)
    )
    step(decayed)
    step(plain)
    same = {
        one.path: np.allclose(one.numpy(), other.numpy(), atol=1e-7)
        for one, other in zip(decayed.trainable_variables, plain.trainable_variables, strict=True)
    }
    assert any(path.endswith("gamma") for path in same)
    for path, is_same in same.items():
        assert is_same == path.endswith(("bias", "gamma", "beta")), path


def test_muon_trains_the_dense_layer_and_leaves_the_logits_to_adamw() -> None:
    optimizer = build("optimizer=muon", "optimizer.betas=[0.8,0.9]").optimizer
    assert (optimizer.adam_beta_1, optimizer.adam_beta_2) == (0.8, 0.9)
    by_adamw = {
        variable.path: velocity is not None
        for variable, velocity in zip(optimizer._trainable_variables, optimizer.adam_velocities, strict=True)
    }
    assert [path for path, is_adamw in by_adamw.items() if not is_adamw] == ["dense/kernel"]


def test_arguments_reach_the_optimizer() -> None:
    optimizer = build("optimizer=sgd", "optimizer.momentum=0.8", "optimizer.global_clipnorm=1").optimizer
    assert (optimizer.momentum, optimizer.nesterov, optimizer.global_clipnorm) == (0.8, True, 1.0)
    assert build("optimizer.algorithm=Nadam", "optimizer.betas=[0.5,0.6]").optimizer.beta_2 == 0.6
    assert build("optimizer.options={amsgrad: true}").optimizer.amsgrad is True


def test_the_old_key_says_what_it_is_called_now() -> None:
    from hydra.errors import HydraException

    from catdog.config.mistakes import explain

    with pytest.raises(HydraException) as caught:
        compose_config("trainer.optimizer=adamw")
    assert explain(caught.value, "config") == (
        "trainer.optimizer: is called optimizer=NAME, a group of its own: optimizer=adamw."
    )


def test_an_older_run_reads_as_one_that_leaves_the_new_keys_alone() -> None:
    now = {key: str(value) for key, value in flatten(compose_config()).items()}
    young = ("optimizer.", "loss.", "model.", "trainer.class_weights", "trainer.callbacks", "backbone.builder")
    then = {key: value for key, value in now.items() if not key.startswith(young)} | {"trainer.optimizer": "adam"}
    assert complete_params(then) == now
    assert complete_params(now) == now
    assert complete_params(then | {"trainer.optimizer": "sgd"})["optimizer.algorithm"] == "SGD"


LABELS = np.array([0, 2, 1, 0], np.int32)
LOGITS = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_losses_are_what_their_names_say() -> None:
    plain = build_loss(LossConfig())
    assert type(plain) is keras.losses.SparseCategoricalCrossentropy
    assert plain.from_logits
    chosen = softmax(LOGITS)[np.arange(4), LABELS]
    smooth = build_loss(LossConfig(label_smoothing=0.3))
    targets = np.eye(3)[LABELS] * 0.7 + 0.1
    assert float(smooth(LABELS, LOGITS)) == pytest.approx(
        -(targets * np.log(softmax(LOGITS))).sum(axis=1).mean(), rel=1e-5
    )
    focal = build_loss(LossConfig(function="focal", gamma=3.0, alpha=0.5))
    assert float(focal(LABELS, LOGITS)) == pytest.approx((-0.5 * (1 - chosen) ** 3 * np.log(chosen)).mean(), rel=1e-5)
    for function in ("cross_entropy", "focal"):
        check_loss(LossConfig(function=function), 3)


def test_an_own_loss_gets_integers_and_weights_count_per_image(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loss_of_mine.py").write_text(
        "import keras\n"
        "def chosen(labels, logits, scale=1.0):\n"
        "    assert labels.dtype == 'int32'\n"
        "    return -scale * keras.ops.take_along_axis(logits, labels[:, None], axis=1)[:, 0]\n"
        "class Squared(keras.losses.Loss):\n"
        "    def call(self, y_true, y_pred):\n"
        "        return keras.ops.sum(y_pred**2, axis=1)\n"
    )
    config = LossConfig(function="loss_of_mine:chosen", options={"scale": 2.0})
    check_loss(config, 3)
    weights = np.array([1.0, 0, 0, 3.0], np.float32)
    expected = (-2 * LOGITS[np.arange(4), LABELS] * weights).sum() / 4
    assert float(build_loss(config)(LABELS, LOGITS, sample_weight=weights)) == pytest.approx(expected, rel=1e-6)
    check_loss(LossConfig(function="loss_of_mine:Squared"), 3)


def train(*overrides: str, weights=None, result=None, stop=None, **options):
    """Returns the history and the model of a head that is trained on noise, with or without an interruption."""
    config = compose_config("trainer.epochs=4", "trainer.batch_size=8", "trainer.learning_rate=0.05", *overrides)
    keras.utils.set_random_seed(0)
    import tensorflow as tf

    inputs = keras.Input((4,))
    model = Head(inputs, keras.layers.Dense(2, dtype="float32", name="logits")(inputs))
    model.extract = lambda values: values
    compile_model(model, config, "float32", steps=5)
    if result is not None:
        result = restore(model, result)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype(np.float32), (rng.uniform(size=40) < 0.2).astype(np.int32)
    first = 0 if result is None else len(result.epochs)
    stream = tf.data.Dataset.from_tensor_slices((x, y)).batch(8).repeat().skip(5 * first)
    callbacks = build_callbacks(config.trainer)
    saved = []

    class Quiet:
        def __enter__(self): ...
        def __exit__(self, *error): ...
        def step(self, steps): ...
        def finish_epoch(self, epoch, metrics, best):
            if epoch == stop:
                raise KeyboardInterrupt

    try:
        fitted = fit(
            model, stream, tf.data.Dataset.from_tensor_slices((x, y)).batch(8), config.trainer, steps=5, train_count=40,
            progress=Quiet(), on_epoch=lambda epoch, metrics: None, class_weights=weights, own=callbacks, result=result,
            on_state=lambda state: saved.append(capture(model, state, {}, callbacks)),
        )  # fmt: skip
    except KeyboardInterrupt:
        return saved[-1]
    return fitted, model, (x, y)


def test_val_loss_is_cross_entropy_whatever_is_trained() -> None:
    for loss in ("loss=cross_entropy", "loss=focal", "loss.label_smoothing=0.2"):
        fitted, model, (x, y) = train(loss, "trainer.keep=last")
        answers = softmax(np.asarray(model(x)))
        assert fitted.last["val/loss"] == pytest.approx(-np.log(answers[np.arange(40), y]).mean(), rel=1e-4)


def test_weights_of_classes_count_in_training_alone() -> None:
    labels = np.array([0] * 30 + [1] * 10)
    trainer = compose_config("trainer.class_weights=balanced").trainer
    weights = weigh_classes(trainer, labels, ("cats", "dogs"))
    assert weights == {0: 40 / 60, 1: 40 / 20}
    assert sum(weights[label] for label in labels) == pytest.approx(40)
    assert weigh_classes(compose_config().trainer, labels, ("cats", "dogs")) is None
    named = compose_config("trainer.class_weights={dogs: 3}").trainer
    assert weigh_classes(named, labels, ("cats", "dogs")) == {0: 1.0, 1: 3.0}
    with pytest.raises(UserError, match="there is no class 'birds'; the classes are cats, dogs"):
        weigh_classes(compose_config("trainer.class_weights={birds: 3}").trainer, labels, ("cats", "dogs"))
    share = {}
    for weight in (1.0, 400.0):
        fast = ("trainer.keep=last", "trainer.learning_rate=0.5")
        _, model, (x, _) = train(*fast, weights={0: 1.0, 1: weight})
        share[weight] = (np.asarray(model(x)).argmax(axis=1) == 1).mean()
    # The rare class is the answer where it weighs that much.
    assert share[1.0] < 0.4
    assert share[400.0] > 0.7


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "callbacks_of_mine.py").write_text(CALLBACKS)
    yield
    sys.modules.pop("callbacks_of_mine", None)


EMA = "trainer.callbacks={ema: {callback: callbacks_of_mine:Ema, decay: 0.7}}"


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_callback_goes_on_with_its_state_and_what_it_validated_is_kept(mine, keep: str, caplog) -> None:
    overrides = (EMA, f"trainer.keep={keep}")
    whole, model, (x, y) = train(*overrides)
    resumed, again, _ = train(*overrides, result=train(*overrides, stop=2))
    assert "begins anew" not in caplog.text
    timed = ("epoch_seconds", "images_per_second")
    for one, other in zip(whole.epochs, resumed.epochs, strict=True):
        assert all(one[key] == other[key] for key in one if key not in timed)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))
    # The average that was validated is what the model is left with.
    answers = softmax(np.asarray(model(x)))
    kept = whole.best if keep == "best" else whole.last
    assert kept["val/loss"] == pytest.approx(-np.log(answers[np.arange(40), y]).mean(), rel=1e-4)


def test_a_callback_may_stop_the_run_and_an_interruption_does_not_start_it_again(mine) -> None:
    fitted, _, _ = train("trainer.callbacks=[callbacks_of_mine:Stop]")
    assert len(fitted.epochs) == 1
    saved = train("trainer.callbacks=[callbacks_of_mine:Stop]", stop=1)
    resumed, _, _ = train("trainer.callbacks=[callbacks_of_mine:Stop]", result=saved)
    assert len(resumed.epochs) == 1


def test_a_callback_without_a_state_is_warned_of(mine, caplog) -> None:
    caplog.set_level(logging.WARNING)
    choice = "trainer.callbacks=[{callback: ReduceLROnPlateau, monitor: val_loss}]"
    train(choice, result=train(choice, stop=2))
    assert "trainer.callbacks.0: ReduceLROnPlateau has no get_state() and set_state()" in caplog.text


def test_a_state_that_no_checkpoint_holds_is_refused() -> None:
    class Odd(keras.callbacks.Callback):
        def get_state(self):
            return {"name": "text"}

        def set_state(self, state): ...

    from catdog.training.callbacks import capture_states

    with pytest.raises(UserError, match=r"get_state.. of my:Odd must return arrays and numbers, but 'name' is 'text'"):
        capture_states([OwnCallback("trainer.callbacks.0", "my:Odd", Odd())])


def test_options_of_unknown_arguments_are_named() -> None:
    with pytest.raises(UserError, match=r"optimizer.momentum: Adam takes no such argument"):
        check_optimizer(compose_config("optimizer.momentum=0.9").optimizer)
    with pytest.raises(UserError, match="optimizer: must be clipped in one way"):
        compose_config("optimizer.clipnorm=1", "optimizer.clipvalue=1")
    assert build_optimizer(compose_config().optimizer, 0.1, []) is not None


def test_a_users_folder_of_yaml_files_is_searched(tmp_path, monkeypatch) -> None:
    from hydra import compose, initialize_config_dir

    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "deep.yaml").write_text(
        "defaults:\n  - /schema/backbone@_here_\n  - _self_\nname: deep\nbuilder: my_models:resnet\noptions: {depth: 3}\n"
    )
    schema.register()
    with initialize_config_dir(str(schema.CONF), version_base="1.3"):
        composed = compose("config", overrides=["backbone=deep", f"hydra.searchpath=[{tmp_path}]"])
    loaded = schema.load_config(composed, schema.Config)
    assert (loaded.backbone.name, loaded.backbone.builder, loaded.backbone.options) == (
        "deep",
        "my_models:resnet",
        {"depth": 3},
    )
