"""What a saved Keras model needs besides Keras."""

import sys
from types import ModuleType

import pytest

from catdog.system.errors import UserError
from catdog.tracking.custom_objects import find_needs

BLOCK = """
import keras

class Block(keras.layers.Layer):
    def call(self, values):
        return values
"""


def squash(values):
    return values / 2


def make_model(*layers, activation="softmax"):
    import keras

    outputs = inputs = keras.Input((4,))
    for layer in (*layers, keras.layers.Dense(2, activation=activation)):
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def test_a_function_that_keras_would_not_find_again_is_named(monkeypatch) -> None:
    import keras

    with pytest.raises(
        UserError, match=r"uses the function squash, .* @keras\.saving\.register_keras_serializable\(\)"
    ):
        find_needs(make_model(activation=squash))
    compiled = make_model()
    compiled.compile(loss=squash)
    with pytest.raises(UserError, match=r"save keras\.Model\(model\.inputs, model\.outputs\)"):
        find_needs(compiled)
    assert find_needs(keras.Model(compiled.inputs, compiled.outputs)) == {}

    class Own(keras.Model):
        def compile(self, loss):
            super().compile(loss=loss)

    own = Own(compiled.inputs, compiled.outputs)
    own.compile(loss=squash)
    assert [name for name, _ in find_needs(own).values()] == [__name__]
    monkeypatch.setitem(keras.saving.get_custom_objects(), "squash", squash)
    assert find_needs(make_model(activation=squash)) == {"squash": (squash.__module__, "squash")}
    assert find_needs(make_model(activation=keras.activations.relu)) == {}
    compiled = make_model()
    compiled.compile(optimizer="adam", loss=keras.losses.categorical_crossentropy, metrics=["accuracy"])
    assert find_needs(compiled) == {}


def test_two_classes_of_one_name_are_refused(monkeypatch) -> None:
    blocks = []
    for name in ("first_layers", "second_layers"):
        monkeypatch.setitem(sys.modules, name, module := ModuleType(name))
        exec(BLOCK, module.__dict__)
        blocks.append(module.Block)
    first, second = blocks
    assert find_needs(make_model(first(), first())) == {"Block": ("first_layers", "Block")}
    with pytest.raises(UserError, match=r"named Block, first_layers\.Block and second_layers\.Block"):
        find_needs(make_model(first(), second()))
