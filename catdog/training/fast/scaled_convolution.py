"""Convolutions that train, with the batch norm after them, which does not, in their weights."""

from typing import Any

import keras
import numpy as np


class _Scaled:
    """A convolution followed by a batch norm in inference mode, which scales and shifts each channel by constants.

    The kernel that trains is the one before scaling, so gradients, weight decay and regularizers are those of the two layers. Only
    the kernel is scaled in each step, instead of the features. A saved model contains Keras' own convolution instead.
    """

    def add_weight(self, *arguments: Any, **options: Any) -> Any:
        """Returns a weight that stays float32 in every policy: only the scaled kernel is rounded."""
        return super().add_weight(*arguments, **{**options, "autocast": False})  # type: ignore[misc]

    def build(self: Any, input_shape: Any) -> None:
        """Creates the convolution's weights and the norm's constants."""
        super().build(input_shape)  # type: ignore[misc]
        channels = self.compute_output_shape(input_shape)[-1:]
        for name, start in (("norm_scale", "ones"), ("norm_mean", "zeros"), ("norm_offset", "zeros")):
            setattr(self, name, self.add_weight(shape=channels, name=name, initializer=start, trainable=False))

    def scale_kernel(self: Any) -> Any:
        """Returns the scaled kernel in the type of the features."""
        shape = self.kernel.shape[2:] if isinstance(self, keras.layers.DepthwiseConv2D) else self.norm_scale.shape
        return keras.ops.cast(self.kernel * keras.ops.reshape(self.norm_scale, shape), self.compute_dtype)

    def shift(self: Any, features: Any) -> Any:
        """Returns features with the norm's offset, and the convolution's bias, added."""
        bias = self.bias if self.use_bias else 0.0
        offset = (bias - self.norm_mean) * self.norm_scale + self.norm_offset
        return keras.ops.add(features, keras.ops.cast(offset, self.compute_dtype))


class ScaledConv2D(_Scaled, keras.layers.Conv2D):
    """Conv2D with the batch norm after it."""

    def call(self, inputs: Any) -> Any:
        """Returns the norm's output, (B, h, w, channels)."""
        return self.shift(self.convolution_op(inputs, self.scale_kernel()))


class ScaledDepthwiseConv2D(_Scaled, keras.layers.DepthwiseConv2D):
    """DepthwiseConv2D with the batch norm after it."""

    def call(self, inputs: Any) -> Any:
        """Returns the norm's output, (B, h, w, channels)."""
        return self.shift(
            keras.ops.depthwise_conv(
                inputs, self.scale_kernel(), self.strides, self.padding, self.data_format, self.dilation_rate
            )
        )


# Keras' layer -> the one with a norm in it.
SCALED: dict[Any, Any] = {keras.layers.Conv2D: ScaledConv2D, keras.layers.DepthwiseConv2D: ScaledDepthwiseConv2D}


def find_scaled(convolution: Any) -> Any:
    """Returns the class for a convolution of Keras with the norm after it, or None if there is none."""
    return SCALED.get(type(convolution))


def merge_scale(
    convolution: Any, weights: list[np.ndarray], scale: np.ndarray, mean: np.ndarray, offset: np.ndarray
) -> list[np.ndarray]:
    """Returns the weights of a convolution, with bias, that includes a batch norm after it: (x - mean) * scale + offset.

    Args:
        convolution: the layer, for its kind.
        weights: its own weights.
        scale: of the norm, float32 (channels,).
        mean: of the norm, float32 (channels,).
        offset: of the norm, float32 (channels,).
    """
    own: list[Any] = weights if convolution.use_bias else [*weights, 0.0]
    *kernels, bias = own
    # A depthwise kernel has (rows, columns, channels, multiplier); the others end in their output channels.
    depthwise = isinstance(convolution, keras.layers.DepthwiseConv2D)
    kernels[-1] = kernels[-1] * (scale.reshape(kernels[-1].shape[2:]) if depthwise else scale)
    return [*kernels, (bias - mean) * scale + offset]


def restore_convolution(layer: Any) -> tuple[Any, list[np.ndarray]]:
    """Returns Keras' own convolution, not built yet, that computes what a scaled one does, and its weights."""
    kind = next(plain for plain, scaled in SCALED.items() if type(layer) is scaled)
    *own, scale, mean, offset = layer.get_weights()
    return kind.from_config({**layer.get_config(), "use_bias": True}), merge_scale(layer, own, scale, mean, offset)
