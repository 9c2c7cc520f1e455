"""Custom code in a run: it trains, resumes after an interruption, is saved and loaded; errors name what is wrong."""

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from own_modules import MODELS

from catdog.config.digest import hash_config
from catdog.config.schema import find_references
from catdog.deployment.gradcam import NoMapError, compute_cams
from catdog.system.errors import UserError
from catdog.tracking.identity import identify
from catdog.training.augmentation import build_augmentation
from catdog.training.check import check_own_code
from catdog.training.model import build_kept_model, build_model
from catdog.training.own_code import require_planned_code

ALL = (
    "backbone.builder=my_models:resnet", "backbone.options={depth: 1}", "optimizer=adamw", "loss.function=my_losses:margin",
    "trainer.class_weights=balanced", "trainer.callbacks={ema: {callback: my_callbacks:Ema, decay: 0.8}}",
    "augmentation=flip_rotate", "+augmentation.layers.noise={layer: my_layers:Noise, amount: 5.0}",
    "trainer.epochs=3",
)  # fmt: skip


def read(folder, outcome) -> tuple[pd.DataFrame, bytes]:
    artifacts = folder.artifacts(outcome)
    history = pd.read_csv(artifacts / "history.csv").drop(columns=["epoch_seconds", "images_per_second"])
    return history, (artifacts / "predictions" / "val.csv").read_bytes()


def test_a_run_of_own_code_goes_on_bit_for_bit_and_is_loaded_without_it(folder, caplog) -> None:
    whole = folder.train(*ALL)
    history, answers = read(folder, whole)
    uri = mlflow.get_run(whole.run_id).data.tags["catdog.model_uri"]
    with pytest.raises(KeyboardInterrupt):
        folder.train(*ALL, store="other", stop_after=1)
    caplog.set_level("INFO")
    again = folder.train(*ALL, store="other")
    assert "resumes after epoch 1 of 3" in caplog.text
    assert "begins anew" not in caplog.text
    resumed, resumed_answers = read(folder, again)
    pd.testing.assert_frame_equal(history, resumed, check_exact=True)
    assert answers == resumed_answers
    # The source is with the run.
    assert (folder.artifacts(again) / "code" / "my_models.py").read_text() == (folder.path / "my_models.py").read_text()
    mlflow.set_tracking_uri(f"sqlite:///{folder.path}/store.db")
    # A residual network is a graph of Keras' own layers: nothing of the user's is needed, and Grad-CAM finds its maps.
    assert "needs" not in mlflow.models.get_model_info(uri).metadata
    for module in ("my_models", "my_layers", "my_losses", "my_callbacks"):
        folder.write(module, "raise RuntimeError('imported')")
    model = folder.load_model(uri)
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    assert mlflow.pyfunc.load_model(uri).predict(images) == pytest.approx(model.predict_on_batch(images))
    assert compute_cams(model, images, np.zeros((3, 1), int), side=24).shape == (3, 1, 24, 24)


def test_a_model_with_own_layers_carries_their_code(folder) -> None:
    done = folder.train("+backbone.layers.blur={layer: my_layers:Blur, sigma: 2}", "trainer.epochs=1")
    uri = mlflow.get_run(done.run_id).data.tags["catdog.model_uri"]
    assert mlflow.models.get_model_info(uri).metadata["needs"] == ["my_layers"]
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    answers = folder.load_model(uri).predict_on_batch(images)
    # As it was when it was trained, whatever becomes of the file.
    folder.write("my_layers", "raise RuntimeError('imported')")
    model = folder.load_model(uri)
    assert np.array_equal(model.predict_on_batch(images), answers)
    assert compute_cams(model, images, np.zeros((3, 1), int), side=8).shape == (3, 1, 8, 8)
    (stored,) = [path for path in (folder.path / "store").rglob("my_layers.py") if "models" in path.parts]
    stored.unlink()
    (folder.path / "my_layers.py").unlink()
    with pytest.raises(UserError, match=r"needs your own code, my_layers.*No module named 'my_layers'"):
        folder.load_model(uri)


def test_a_classifier_of_ones_own(folder) -> None:
    config = folder.compose("model=own", "model.builder=my_models:classifier", "model.options={width: 4}")
    trained = build_model(config, 3, "mixed_bfloat16")
    assert trained.output.dtype == "float32"
    check_own_code(config, trained, 3, "mixed_bfloat16")
    kept = build_kept_model(config, trained, "mixed_bfloat16")
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
    # The sum at the end of the block is the last that everything passes through before it is pooled.
    assert compute_cams(kept, images, np.zeros((2, 1), int), side=24).shape == (2, 1, 24, 24)
    with pytest.raises(NoMapError, match="no convolution"):
        compute_cams(
            keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), images, np.zeros((2, 1), int), side=2
        )


def test_a_frozen_backbone_of_ones_own_is_folded_where_that_is_the_same(folder, caplog) -> None:
    folder.write(
        "my_sums",
        """
import keras
from keras import layers
def net(image_shape):
    inputs = keras.Input(image_shape)
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    # The convolution is read twice: by the norm, and by the sum.
    y = layers.BatchNormalization(moving_mean_initializer="ones")(x) + x
    y = layers.BatchNormalization(moving_mean_initializer="ones")(layers.Conv2D(4, 3)(y))
    return keras.Model(inputs, y)
""",
    )
    keras.utils.set_random_seed(0)
    free = build_model(folder.compose("backbone.builder=my_sums:net"), 2, "float32")
    backbone = next(layer for layer in free.layers if isinstance(layer, keras.Model))
    backbone.save_weights(folder.path / "net.weights.h5")
    frozen = (
        "backbone.builder=my_sums:net",
        f"backbone.weights={folder.path}/net.weights.h5",
        "backbone.trainable_layers=0",
    )
    models = [
        build_model(folder.compose(*frozen, f"speed.fold_norms={fold}"), 2, "float32") for fold in ("true", "false")
    ]
    folded, plain = (next(layer for layer in model.layers if isinstance(layer, keras.Model)) for model in models)
    norms = [sum(isinstance(layer, keras.layers.BatchNormalization) for layer in b.layers) for b in (folded, plain)]
    assert norms == [1, 2], "the norm after the sum's convolution is folded, the other is not"
    images = np.random.default_rng(0).uniform(0, 1, (2, 48, 48, 3)).astype(np.float32)
    assert np.asarray(folded(images)) == pytest.approx(np.asarray(plain(images)), abs=1e-4)


def test_an_own_layer_augments_with_the_runs_seed_and_keeps_other_layers(folder) -> None:
    config = folder.compose("+augmentation.layers.noise={layer: my_layers:Noise, amount: 5.0}").augmentation
    images = np.full((4, 48, 48, 3), 100, np.uint8)
    first, again, other = (
        keras.ops.convert_to_numpy(build_augmentation(config, seed, 48)(images, batch))
        for seed, batch in ((0, 7), (0, 7), (1, 7))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_digest_counts_what_the_config_names_of_own_code(folder) -> None:
    def digest(*overrides: str) -> str:
        return hash_config(folder.compose(*overrides), with_seed=True)

    base = digest()
    assert digest("optimizer=adam", "loss=cross_entropy", "trainer.callbacks=[]", "trainer.class_weights=none") == base
    own = digest("backbone.builder=my_models:resnet")
    assert own not in (base, digest("backbone.builder=my_models:resnet", "backbone.options={depth: 2}"))
    assert digest("backbone=own", "backbone.builder=my_models:resnet") == own, (
        "what it takes the place of makes no difference"
    )
    whole = ("model=own", "model.builder=my_models:classifier")
    assert digest(*whole, "head.units=3", "backbone=drawn_mini") == digest(*whole) != base


def test_what_the_config_names_of_own_code_is_found(folder) -> None:
    overrides = ("backbone.builder=my_models:resnet", "backbone.options={other: a:b}", "optimizer.algorithm=my.optimizers:Mine",
                 "trainer.callbacks=[TerminateOnNaN, my_callbacks:Ema]", "model=augmented",
                 "+augmentation.layers.x={layer: my_layers:Blur}", "dataset=folder", "dataset.archive=c:d")  # fmt: skip
    assert find_references(folder.compose(*overrides)) == {
        "backbone.builder": "my_models:resnet",
        "optimizer.algorithm": "my.optimizers:Mine",
        "trainer.callbacks.1": "my_callbacks:Ema",
        "augmentation.layers.x": "my_layers:Blur",
    }


def test_code_that_changes_after_the_plan_is_not_trained(folder) -> None:
    config = folder.compose("backbone.builder=my_models:resnet")
    planned = identify(config, "data", {"precision": "float32", "device": "cpu"})
    folder.write("my_models", MODELS + "# Another comment.\n")
    require_planned_code(config, planned)
    folder.write("my_models", MODELS.replace("strides=2", "strides=1"))
    with pytest.raises(UserError, match=r"my_models.py changed since this run was planned"):
        require_planned_code(config, planned)


def test_a_module_that_is_missing_is_named_with_its_key_before_anything_is_imported(folder) -> None:
    config = folder.compose("loss.function=my_lossses:margin")
    with pytest.raises(UserError, match=r"loss.function: my_lossses:margin: there is no module my_lossses"):
        identify(config, "data", {"precision": "float32", "device": "cpu"})


MISTAKES = [
    ("backbone.builder=my_modles:resnet", "backbone.builder: there is no module 'my_modles'"),
    ("backbone.builder=my_models:resnt",
     r"backbone.builder: my_models \(.*my_models.py\) has no 'resnt'.*Did you mean my_models:resnet"),
    ("backbone.builder=bad:broken",
     r"backbone.builder: bad:broken failed: ValueError: no such depth\n.*bad.py\", line 4, in broken"),
    ("backbone.builder=syntax:net", r"backbone.builder: syntax:net failed while importing syntax:.*syntax.py\", line 1"),
    ("backbone.builder=needs:net", r"failed while importing needs: ModuleNotFoundError: No module named 'nowhere'"),
    ("backbone.builder=bad:number", "bad:number must be a function or a class, but is an object of type int"),
    ("backbone.builder=bad:nothing", "bad:nothing returned None. It must be a function of the image shape"),
    ("backbone.builder=bad:flat",
     r"returned a model whose output has shape \(None, 6912\).*leave pooling and flattening to the head"),
    ("backbone.builder=bad:other_size", r"takes images of shape \(32, 32, 3\), for images of shape \(48, 48, 3\)"),
    ("backbone.builder=bad:subclassed",
     r"returned a Code, whose layers Keras does not know.*keras.Model\(inputs, model\(inputs\)\)"),
    ("backbone.builder=my_models:resnet backbone.options.dept=2",
     r"is called as resnet\(image_shape, dept=2\), but takes \(image_shape, depth=1, width=8\)"),
    ("backbone.builder=bad:lambda_layer", "backbone.builder: a model with bad:lambda_layer cannot be saved and loaded again"),
    ("backbone.builder=bad:forgets", "gives other probabilities after it is saved and loaded again"),
    ("backbone.builder=bad:without_config", r"cannot be saved and loaded again.*get_config\(\)"),
    ("model=own", "model.builder: must be your own as module:object"),
    ("model.builder=my_models:resnet",
     r"model.builder: my_models:resnet is called as resnet\(image_shape, classes\)|output has shape"),
    ("model.builder=bad:probabilities", "answers probabilities.*must answer logits"),
    ("model.builder=bad:one_logit", r"output has shape \(None, 1\), for 2 classes"),
    ("+backbone.layers.x={layer: my_models:resnet}",
     "backbone.layers.x: my_models:resnet must be a subclass of keras.layers.Layer, but is the function resnet"),
    ("+backbone.layers.x={layer: bad:Raises}", r"backbone.layers.x: Raises failed while taking features.*not today"),
    ("+augmentation.layers.x={layer: bad:Raises}", r"augmentation.layers.x: Raises failed while taking images.*not today"),
    ("+augmentation.layers.x={layer: my_layers:Noise}", r"augmentation.layers.x: my_layers:Noise is called as Noise\("),
    ("optimizer.algorithm=adamw", "has no optimizer 'adamw'. Did you mean AdamW"),
    ("optimizer.algorithm=my_losses:margin", "must be a subclass of keras.optimizers.Optimizer, but is the function margin"),
    ("optimizer.momentum=0.9", r"optimizer.momentum: Adam takes no such argument. It takes weight_decay|It takes beta_1"),
    ("optimizer.options={lr: 1}", "optimizer.options.lr: Adam takes no such argument"),
    ("optimizer.options={learning_rate: 1}", "optimizer.options.learning_rate: cannot be set here. Use trainer.learning_rate"),
    ("optimizer.options={beta_1: 1}", "cannot be set here. Use optimizer.betas"),
    ("optimizer.options={use_ema: true}", "Average them in a callback"),
    ("loss.function=my_layers:Blur", "loss.function: my_layers:Blur is the class Blur. It must be a function of labels"),
    ("loss.function=bad:mean_loss", r"bad:mean_loss returned shape \(\) for 3 images.*not their mean"),
    ("loss.function=bad:none_loss", "bad:none_loss returned None. It must be"),
    ("loss.function=bad:hard_loss", "has no gradient with respect to the logits"),
    ("loss.function=bad:log_loss", "gives a loss that is not finite"),
    ("loss.function=bad:numpy_loss", r"loss.function: bad:numpy_loss failed while computing.*bad.py\", line \d+, in numpy_loss"),
    ("trainer.callbacks=[my_callbacks:Emma]",
     "trainer.callbacks.0: my_callbacks .* has no 'Emma'.*Did you mean my_callbacks:Ema"),
    ("trainer.callbacks=[my_losses:margin]", "must be a subclass of keras.callbacks.Callback"),
    ("trainer.callbacks={e: {callback: my_callbacks:Ema, dekay: 1}}",
     r"trainer.callbacks.e: my_callbacks:Ema is called as Ema\(dekay=1\)"),
    ("trainer.callbacks={e: {dekay: 1}}", "trainer.callbacks.e: must be a list such as"),
]  # fmt: skip
BAD = """
import keras
from keras import layers, ops
def broken(image_shape): raise ValueError("no such depth")
number = 3
def nothing(image_shape): pass
def flat(image_shape):
    inputs = keras.Input(image_shape)
    return keras.Model(inputs, layers.Flatten()(inputs))
def other_size(image_shape):
    inputs = keras.Input((32, 32, 3))
    return keras.Model(inputs, layers.Conv2D(2, 3)(inputs))
class Code(keras.Model):
    def call(self, x): return x
def subclassed(image_shape): return Code()
def lambda_layer(image_shape):
    inputs = keras.Input(image_shape)
    return keras.Model(inputs, layers.Lambda(lambda x: x * 2)(inputs))
class Forgets(layers.Layer):
    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor
    def call(self, x): return x * self.factor
    def get_config(self): return super(layers.Layer, self).get_config() | {"name": self.name}
def forgets(image_shape):
    inputs = keras.Input(image_shape)
    return keras.Model(inputs, Forgets(30.0)(layers.Conv2D(2, 3)(inputs)))
class WithoutConfig(layers.Layer):
    def __init__(self, table):
        super().__init__()
        self.table = table
    def call(self, x): return x
def without_config(image_shape):
    inputs = keras.Input(image_shape)
    return keras.Model(inputs, WithoutConfig(object())(inputs))
def probabilities(image_shape, classes):
    inputs = keras.Input(image_shape)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(layers.Flatten()(inputs)))
def one_logit(image_shape, classes):
    inputs = keras.Input(image_shape)
    return keras.Model(inputs, layers.Dense(1)(layers.Flatten()(inputs)))
class Raises(layers.Layer):
    def call(self, x): raise RuntimeError("not today")
def mean_loss(labels, logits): return ops.mean(logits)
def none_loss(labels, logits): pass
def hard_loss(labels, logits): return ops.cast(ops.argmax(logits, axis=1) != labels, "float32")
def log_loss(labels, logits): return ops.log(logits[:, 0])
def numpy_loss(labels, logits):
    import numpy as np
    return np.asarray(logits)[:, 0]
"""


def check(folder, *overrides: str) -> None:
    """What a sweep does before its first run."""
    config = folder.compose(*overrides)
    model = build_model(config, 2, "float32")
    build_augmentation(config.augmentation, 0, 48)
    check_own_code(config, model, 2, "float32")


@pytest.mark.parametrize(("overrides", "said"), MISTAKES)
def test_what_is_wrong_is_named_before_anything_is_trained(folder, overrides: str, said: str) -> None:
    folder.write("bad", BAD)
    folder.write("syntax", "def net(:\n    pass\n")
    folder.write("needs", "import nowhere\n")
    with pytest.raises(UserError, match=f"(?s){said}") as caught:
        # Not at the spaces of a mapping.
        check(folder, *(overrides.split() if " backbone" in overrides else [overrides]))
    assert "site-packages" not in str(caught.value).replace(str(folder.path), ""), "the lines shown are the user's"


FALLS = """
import keras
class Over(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs):
        raise KeyError("gone")
"""


def test_an_exception_in_training_shows_the_users_lines(folder) -> None:
    folder.write("falls", FALLS)
    said = (
        r"(?s)trainer.callbacks.0: falls:Over failed while training: KeyError: 'gone'\n.*line 5, in on_train_batch_end"
    )
    with pytest.raises(UserError, match=said):
        folder.train("trainer.callbacks=[falls:Over]")
