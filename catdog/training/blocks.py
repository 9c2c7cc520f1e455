"""Blocks in lists of layers: residual connections with stochastic depth, and squeeze-and-excitation, made of Keras' own layers.

They are graphs, not layer classes, so that a saved model needs no code of catdog to be loaded.
"""

from collections.abc import Callable, Sequence
from typing import Any

from catdog.config.schema import BLOCKS
from catdog.system.errors import UserError

RESIDUAL, SQUEEZE_EXCITE = BLOCKS


class Block:
    """A part of a backbone that is called like a layer, on symbolic features.

    Args:
        key: its config key, for messages.
        name: its name, with which its layers' names begin.
    """

    def __init__(self, key: str, name: str) -> None:
        self.key, self.name = key, name


class Residual(Block):
    """Adds its input to what its layers make of it.

    Where the layers change the shape, a 1 x 1 convolution takes the input to the new one. In training, with probability `drop`, an
    image skips the layers altogether.

    Args:
        key: its config key.
        name: its name.
        layers: called one after the other.
        drop: 0 or more and less than 1.

    Source: He et al. (2016), "Deep residual learning for image recognition"; for `drop`, Huang et al. (2016), "Deep networks with
    stochastic depth", in the form of timm and ConvNeXt: the branch is scaled by 1 / (1 - drop) in training.
    """

    def __init__(self, key: str, name: str, layers: Sequence[Callable[[Any], Any]], drop: float = 0.0) -> None:
        super().__init__(key, name)
        if not isinstance(drop, int | float) or not 0 <= drop < 1:
            raise UserError(f"{key}.drop: must be 0 or more and less than 1, received {drop!r}.")
        self.layers, self.drop = layers, drop

    def __call__(self, features: Any) -> Any:
        """Returns symbolic features (B, h', w', channels') of features (B, h, w, channels)."""
        from keras import layers

        branch = features
        for layer in self.layers:
            branch = layer(branch)
        shortcut = features
        if branch.shape != features.shape:
            shortcut = self._project(features, branch)
        if self.drop:
            noise_shape = (None,) + (1,) * (len(branch.shape) - 1)
            branch = layers.Dropout(self.drop, noise_shape=noise_shape, name=f"{self.name}_drop")(branch)
        return layers.Add(name=f"{self.name}_add")([shortcut, branch])

    def _project(self, features: Any, branch: Any) -> Any:
        from keras import layers

        before, after = features.shape[1:], branch.shape[1:]
        strides = [-(-old // new) for old, new in zip(before[:2], after[:2], strict=True)] if len(after) == 3 else []
        if not strides or [-(-old // step) for old, step in zip(before[:2], strides, strict=True)] != list(after[:2]):
            raise UserError(
                f"{self.key}: its layers make features of {_by(after)} of {_by(before)}, and a 1 x 1 convolution with strides "
                "cannot do the same for the shortcut. Use padding: same in its convolutions and pooling."
            )
        return layers.Conv2D(after[2], 1, strides=strides, name=f"{self.name}_shortcut")(features)


class SqueezeExcite(Block):
    """Scales each channel by a number between 0 and 1 that depends on the means of all channels.

    Args:
        key: its config key.
        name: its name.
        ratio: units of its hidden layer, as a share of the channels.

    Source: Hu et al. (2018), "Squeeze-and-excitation networks".
    """

    def __init__(self, key: str, name: str, ratio: float = 0.25) -> None:
        super().__init__(key, name)
        if not isinstance(ratio, int | float) or not 0 < ratio <= 1:
            raise UserError(f"{key}.ratio: must be more than 0, up to 1, received {ratio!r}.")
        self.ratio = ratio

    def __call__(self, features: Any) -> Any:
        """Returns scaled symbolic features of the same shape."""
        from keras import layers

        channels = features.shape[-1]
        means = layers.GlobalAveragePooling2D(keepdims=True, name=f"{self.name}_squeeze")(features)
        hidden = layers.Dense(max(1, round(channels * self.ratio)), activation="relu", name=f"{self.name}_reduce")(
            means
        )
        scales = layers.Dense(channels, activation="sigmoid", name=f"{self.name}_expand")(hidden)
        return layers.Multiply(name=f"{self.name}_scale")([features, scales])


def _by(shape: Sequence[int | None]) -> str:
    return " x ".join(map(str, shape))
