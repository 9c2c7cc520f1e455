"""LiteRT: one .tflite file of LiteRT's own operations, so that the stock interpreter runs it; in float32 or in whole numbers."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from catdog.deployment.export.conversion import Format, Source, converting
from catdog.system.errors import UserError

WIDTH = 2  # of (B, H, W, 3)
LOADS = '''
from ai_edge_litert.interpreter import Interpreter


def load():
    """Returns a function: a photo, uint8 (SIDE, SIDE, 3) -> its probabilities, float32 (classes,)."""
    model = Interpreter(str(MODEL), num_threads=os.cpu_count())
    model.allocate_tensors()
    taken, given = model.get_input_details()[0]["index"], model.get_output_details()[0]
    scale, zero = given["quantization"]  # of an int8 model; otherwise 0

    def answer(pixels):
        model.set_tensor(taken, pixels[np.newaxis])
        model.invoke()
        found = model.get_tensor(given["index"])[0]
        return (found.astype(np.float32) - zero) * np.float32(scale) if scale else found

    return answer
'''


def write_litert(source: Source, path: Path) -> None:
    """Writes the model in float32: uint8 (1, H, W, 3) -> float32 (1, classes).

    Raises:
        UserError: LiteRT has no kernel for one of its operations.
    """
    with converting("litert", path, "format=onnx or format=savedmodel"):
        path.write_bytes(_convert(source, source.model, "uint8"))


def write_int8(source: Source, path: Path) -> None:
    """Writes the model in whole numbers: uint8 (1, H, W, 3) -> uint8 (1, classes), probabilities in steps of 1/256.

    The ranges of the numbers between layers are those that the calibration images reach; that of probabilities is
    fixed. Two pixels of the first image are set to 0 and 255: the range of the input is then exactly that of pixels, so
    that it takes them as they are.

    Raises:
        UserError: LiteRT has no kernel in whole numbers for one of its operations.
    """
    from catdog.training.rebuild import rebuild_in_float32

    images = source.calibration.copy()
    images[0, 0, 0], images[0, -1, -1] = 0, 255
    with converting("litert with int8=true", path, "int8=false"):
        path.write_bytes(_convert(source, rebuild_in_float32(source.model, float_pixels=True), "float32", images))
        _require_whole_numbers(path)


def _convert(source: Source, model: Any, pixels: str, calibration: np.ndarray | None = None) -> bytes:
    import keras
    import tensorflow as tf

    # Of a single image: the interpreter would take another number of images only after it is told so.
    signature = [source.specify_pixels(1, pixels)]
    with tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        archive.track(model)
        answer = _answer_in_range if calibration is not None else _answer
        archive.add_endpoint("answer", lambda pixels: answer(model, pixels), input_signature=signature)
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["answer"])
        # Not SELECT_TF_OPS: such a file needs TensorFlow's own kernels, which the stock interpreter does not have.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if calibration is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: _list_examples(calibration)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        return bytes(converter.convert())


def _answer(model: Any, pixels: Any) -> Any:
    return model(pixels, training=False)


def _answer_in_range(model: Any, pixels: Any) -> Any:
    """Returns a model's probabilities, and has the converter give them, and sums of them, the range that probabilities have.

    A softmax has that range anyway. A mean of answers would get the range that the calibration images reach, and more certain
    answers would be cut off.
    """
    import tensorflow as tf

    from catdog.training.views import find_parts

    parts = find_parts(model)
    total = None
    for count, part in enumerate(parts, 1):
        answer = _answer_in_range(part.model, tf.reverse(pixels, [WIDTH]) if part.mirrored else pixels)
        total = answer if total is None else _set_range(total + answer, count)
    return _set_range(_answer(model, pixels) if total is None else total / len(parts), 1)


def _set_range(values: Any, most: int) -> Any:
    """Returns values in [0, most), which the converter will store in steps of most / 256."""
    import tensorflow as tf

    return tf.quantization.fake_quant_with_min_max_args(values, 0, most * 255 / 256)


def _list_examples(images: np.ndarray) -> Iterator[list[np.ndarray]]:
    for image in images:
        yield [image[np.newaxis].astype(np.float32)]


def _require_whole_numbers(path: Path) -> None:
    """Raises a UserError unless a file takes pixels as they are, uint8, and answers uint8 in steps of 1/256."""
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter(str(path))
    (taken,), (given,) = model.get_input_details(), model.get_output_details()
    found = [(np.dtype(end["dtype"]).name, *end["quantization"]) for end in (taken, given)]
    for (kind, scale, zero), step in zip(found, (1, 1 / 256), strict=True):
        if kind != "uint8" or zero != 0 or abs(scale / step - 1) > 1e-6:
            words = [f"{kind} in steps of {scale:g} from {zero}" for kind, scale, zero in found]
            raise UserError(
                f"int8: the converter made a model that takes {words[0]} and answers {words[1]}, instead of uint8 pixels as they "
                "are and uint8 in steps of 1/256. Use int8=false."
            )


LITERT = Format(
    "litert", "LiteRT", "model.tflite", "read_litert.py", "LiteRT's interpreter", "ai-edge-litert", ("ai_edge_litert",),
    ("tensorflow", "keras", "catdog"), LOADS, write_litert,
)  # fmt: skip
INT8 = Format(
    "litert_int8", "LiteRT int8", "model_int8.tflite", "read_litert_int8.py", "LiteRT's interpreter", "ai-edge-litert",
    ("ai_edge_litert",), ("tensorflow", "keras", "catdog"), LOADS, write_int8,
)  # fmt: skip
