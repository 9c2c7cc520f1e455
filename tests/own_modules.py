"""The modules of a user: models, layers, a loss and callbacks, as texts that tests write into a folder."""

MODELS = """
import keras
from keras import layers, ops

def block(x, filters):
    y = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    y = layers.BatchNormalization()(y)
    y = layers.ReLU()(y)
    y = layers.Conv2D(filters, 3, padding="same", use_bias=False)(y)
    return layers.ReLU()(layers.BatchNormalization()(y) + layers.Conv2D(filters, 1)(x))

def resnet(image_shape, depth=1, width=8):
    inputs = keras.Input(image_shape)
    x = layers.Conv2D(width, 3, strides=2, padding="same")(inputs)
    for _ in range(depth):
        x = block(x, width)
    return keras.Model(inputs, x)

def classifier(image_shape, classes, width=8):
    inputs = keras.Input(image_shape)
    x = block(layers.Conv2D(width, 3, strides=2, padding="same")(inputs), width)
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(classes, dtype="float32")(x))
"""
LAYERS = """
import keras
from keras import ops

class Blur(keras.layers.Layer):
    def __init__(self, sigma=1.0, **kwargs):
        super().__init__(**kwargs)
        self.sigma = sigma

    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

    def call(self, x):
        return x * ops.cast(self.gain, x.dtype) / self.sigma

    def get_config(self):
        return {**super().get_config(), "sigma": self.sigma}

class Noise(keras.layers.Layer):
    def __init__(self, amount, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(seed)
        self.amount = amount

    def call(self, x, training=False):
        return x + self.amount * keras.random.normal(ops.shape(x), seed=self.generator) if training else x
"""
LOSSES = """
import keras
from keras import ops

def margin(labels, logits, width=1.0):
    one_hot = ops.one_hot(labels, logits.shape[-1])
    right = ops.sum(one_hot * logits, axis=1)
    wrong = ops.max(logits - 1e9 * one_hot, axis=1)
    return ops.softplus(width + wrong - right)
"""
CALLBACKS = """
import keras
import numpy as np

class Ema(keras.callbacks.Callback):
    \"\"\"Validates, and keeps, the moving average of the weights.\"\"\"

    def __init__(self, decay=0.9):
        super().__init__()
        self.decay, self.steps, self.average = decay, 0, None

    def on_train_begin(self, logs=None):
        self.average = [np.array(v) for v in self.model.trainable_variables]

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        for average, variable in zip(self.average, self.model.trainable_variables):
            average += (1 - self.decay) * (np.array(variable) - average)

    def on_test_begin(self, logs=None):
        self.raw = [np.array(v) for v in self.model.trainable_variables]
        for variable, average in zip(self.model.trainable_variables, self.average):
            variable.assign(average)

    def on_test_end(self, logs=None):
        for variable, raw in zip(self.model.trainable_variables, self.raw):
            variable.assign(raw)

    def get_state(self):
        return {"steps": self.steps, **{f"average{n}": a for n, a in enumerate(self.average)}}

    def set_state(self, state):
        self.steps = state["steps"]
        self.average = [state[f"average{n}"] for n in range(len(self.average))]

class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True
"""
