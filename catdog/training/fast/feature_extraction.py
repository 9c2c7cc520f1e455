"""Extracts a frozen backbone's features on a CPU, bit for bit as the model does, but in less time."""

import math
from collections.abc import Callable
from typing import Any

# The first layers take 8 images of 160 x 160 at once: their feature maps then stay in a CPU's caches.
PIXELS_AT_ONCE = 8 * 160 * 160
# The first layers end where feature maps are still this share of the image's height.
HEIGHT_SHARE = 1 / 4
# The most numbers in a kernel that becomes a constant. TensorFlow keeps about twenty copies of a constant: making all 9 MB of
# MobileNetV2 constant took 180 MB more memory, and saved only 2 CPU ms per batch.
CONSTANT_SIZE = 10_000


def build_extractor(preprocessing: Any, backbone: Any) -> Callable[[Any], Any]:
    """Returns a function of images (B, H, W, 3) in [0, 255], uint8 or float32, that returns their features (B, h, w, channels).

    Small kernels are constants of its graph: they are cast, and laid out for oneDNN, once instead of at every step. The first
    layers have feature maps so large that those of a few images fill the caches. They process the batch in parts, one after the
    other; the remaining layers process the whole batch.

    Measured on 2 cores in bfloat16: 0.85 of the CPU time of mobilenet's training step from images (benchmarks/README.md).

    Args:
        preprocessing: layer, pixels -> the backbone's input.
        backbone: functional or sequential model, used in inference mode with its present weights.
    """
    import tensorflow as tf

    narrow = find_narrow(backbone)
    if narrow is None:
        whole = _hold_constant(preprocessing, backbone)
        return tf.function(whole, autograph=False)
    import keras

    first = _hold_constant(preprocessing, keras.Model(backbone.inputs[0], narrow))
    rest = _hold_constant(None, keras.Model(narrow, backbone.outputs[0]))
    height, width = backbone.inputs[0].shape[1:3]
    at_once = max(1, PIXELS_AT_ONCE // (height * width))

    def extract(images: Any) -> Any:
        count = tf.shape(images)[0]
        # Parts of equal size, within one image: for a single image, another kernel with other last bits could be used.
        parts = (count + at_once - 1) // at_once

        def take(part: Any, done: Any) -> tuple[Any, Any]:
            return part + 1, done.write(part, first(images[part * count // parts : (part + 1) * count // parts]))

        done = tf.TensorArray(narrow.dtype, parts, infer_shape=False, element_shape=narrow.shape)
        # One after the other: in parallel, the parts' feature maps would compete for memory and caches.
        _, done = tf.while_loop(lambda part, _: part < parts, take, (0, done), parallel_iterations=1)
        return rest(tf.ensure_shape(done.concat(), narrow.shape))

    return tf.function(extract, autograph=False)


def find_narrow(backbone: Any) -> Any:
    """Returns the smallest feature map that every path to the output passes through, the last of equals, or None.

    Its height is less than the image's, and at least `HEIGHT_SHARE` of it.
    """
    nodes = list_nodes(backbone)
    height = backbone.inputs[0].shape[1]
    narrow, size = None, float("inf")
    for node, passes_all in zip(nodes[:-1], find_bottlenecks(nodes)[:-1], strict=True):
        tensor = node.outputs[0]
        if passes_all and len(tensor.shape) == 4:
            _, rows, columns, channels = tensor.shape
            if height * HEIGHT_SHARE <= rows < height and rows * columns * channels <= size:
                narrow, size = tensor, rows * columns * channels
    return narrow


def list_nodes(graph: Any) -> list[Any]:
    """Returns the calls of layers and operations in a functional or sequential model, in topological order."""
    # A Sequential model has its graph in a functional one.
    graph = getattr(graph, "_functional", None) or graph
    return [node for depth in sorted(graph._nodes_by_depth, reverse=True) for node in graph._nodes_by_depth[depth]]


def find_bottlenecks(nodes: list[Any]) -> list[bool]:
    """Returns for each call of a graph whether later calls read nothing computed before it: every path passes through it."""
    last_read = {id(tensor): number for number, node in enumerate(nodes) for tensor in node.input_tensors}
    found = []
    reach = 0  # the last call that reads any result so far
    for number, node in enumerate(nodes):
        found.append(reach <= number and len(node.outputs) == 1)
        reach = max([reach, *(last_read.get(id(output), 0) for output in node.outputs)])
    return found


def _hold_constant(preprocessing: Any, network: Any) -> Callable[[Any], Any]:
    """Returns a function that applies preprocessing, if any, and the network in inference mode, with small kernels as constants."""
    import keras
    import tensorflow as tf

    trainable, others = network.trainable_variables, network.non_trainable_variables
    # Only kernels: TensorFlow would combine constant biases and norms in advance, which changes the last bits.
    kernels = {
        id(variable): keras.ops.convert_to_numpy(variable.value)
        for layer in network._flatten_layers()
        for variable in layer._trainable_variables + layer._non_trainable_variables
        if variable.name.endswith("kernel") and math.prod(variable.shape) <= CONSTANT_SIZE
    }

    def get(variable: Any) -> Any:
        # Created inside the graph, it is a constant; created outside, it would be an input.
        return tf.constant(kernels[id(variable)]) if id(variable) in kernels else variable.value

    def call(inputs: Any) -> Any:
        if preprocessing is not None:
            inputs = preprocessing(tf.cast(inputs, tf.float32))
        values = [[get(variable) for variable in group] for group in (trainable, others)]
        return network.stateless_call(*values, inputs, training=False)[0]

    return call
