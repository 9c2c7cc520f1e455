"""Batch norm whose training step is one operation instead of many."""

from typing import Any

import keras

# oneDNN's fast kernels need channels that fill the CPU's vectors of 16 numbers. With 24 channels in bfloat16, its other ones take
# longer than Keras' element-wise operations.
LANES = 16


class FusedNorm(keras.layers.BatchNormalization):
    """Keras' batch norm, with TensorFlow's fused operation in training: the same function and the same moving averages.

    Keras takes a batch norm apart into element-wise operations in float32. The fused operation reads 16-bit features as they are,
    and computes in float32 inside. Results differ only by rounding. In inference mode, and where the fused operation does not
    apply, this is Keras' own layer. A saved model contains Keras' own layer in any case.

    Measured on 2 cores: 0.87 of the CPU time of a small network's training step in bfloat16, 0.97 in float32
    (benchmarks/README.md).

    Source: Ioffe and Szegedy (2015), "Batch normalization: accelerating deep network training by reducing internal covariate
    shift"; TensorFlow's `FusedBatchNormV3`.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Returns normalized features (B, h, w, channels); in training, with the batch's statistics, which update the averages."""
        if not (training and self.trainable and mask is None and self._can_fuse(inputs)):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        channels = inputs.shape[-1]
        extra = -channels % LANES
        scale = self.gamma.value if self.scale else tf.ones([channels])
        offset = self.beta.value if self.center else tf.zeros([channels])
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=_widen(inputs, extra) if extra else inputs,
            scale=tf.pad(scale, [[0, extra]]),
            offset=tf.pad(offset, [[0, extra]]),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation returns the unbiased variance, with n - 1 instead of n; Keras averages the biased one.
        count = tf.cast(tf.size(inputs) // channels, tf.float32)
        found = (mean[:channels], variance[:channels] * ((count - 1) / count))
        for average, value in zip((self.moving_mean, self.moving_variance), found, strict=True):
            average.assign(average * self.momentum + value * (1.0 - self.momentum))
        return tf.split(outputs, [channels, extra], axis=-1)[0] if extra else outputs

    def _can_fuse(self, inputs: Any) -> bool:
        if keras.backend.backend() != "tensorflow" or self.renorm or self.synchronized:
            return False
        import tensorflow as tf

        # Not measured on a GPU.
        return (
            len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and inputs.dtype == self.compute_dtype
            and self.compute_dtype in ("float32", "bfloat16")
            and self.variable_dtype == "float32"
            and not tf.config.list_logical_devices("GPU")
        )


def _widen(features: Any, extra: int) -> Any:
    """Returns features with channels of zeros added; as a concatenation, which copies 16-bit numbers much faster than a padding."""
    import tensorflow as tf

    return tf.concat([features, tf.zeros([*tf.unstack(tf.shape(features))[:-1], extra], features.dtype)], axis=-1)


def fuse_norms(network: Any) -> Any:
    """Returns a model with `FusedNorm` instead of each of Keras' batch norms that trains; all other layers are the network's own.

    Args:
        network: a functional or sequential model.
    """
    names = [
        layer.name for layer in network.layers if type(layer) is keras.layers.BatchNormalization and layer.trainable
    ]
    if not names:
        return network

    def swap(layer: Any) -> Any:
        return FusedNorm.from_config(layer.get_config()) if layer.name in names else layer

    # A Sequential model becomes a functional one, as in `fold_norms`.
    graph = keras.Model(network.inputs[0], network.outputs[0], name=network.name)
    fused = keras.models.clone_model(graph, clone_function=swap)
    for name in names:
        fused.get_layer(name).set_weights(network.get_layer(name).get_weights())
    return fused
