"""ONNX: one .onnx file in float32, for ONNX Runtime and everything else that reads ONNX."""

import json
from pathlib import Path
from typing import Any

from catdog.deployment.export.conversion import Format, Source, converting

LOADS = '''
import onnxruntime


def load():
    """Returns a function: a photo, uint8 (SIDE, SIDE, 3) -> its probabilities, float32 (classes,)."""
    model = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    return lambda pixels: model.run(["probabilities"], {"pixels": pixels[np.newaxis]})[0][0]
'''
# The names of its input and output, and of their first dimension.
PIXELS, PROBABILITIES, BATCH = "pixels", "probabilities", "batch"


def write_onnx(source: Source, path: Path) -> None:
    """Writes the model: pixels, uint8 (batch, H, W, 3) -> probabilities, float32 (batch, classes); the classes are in its metadata.

    Source: Keras' own export, which calls tf2onnx. tf2onnx alone fails with NumPy 2, and Keras corrects that.

    Raises:
        UserError: tf2onnx has no counterpart for one of its operations.
    """
    import onnx

    with converting("onnx", path, "format=savedmodel or format=litert"):
        source.model.export(str(path), format="onnx", verbose=False, input_signature=[source.specify_pixels()])
        model = onnx.load(str(path))
        _name_ends(model.graph)
        onnx.helper.set_model_props(
            model, {"classes": json.dumps(source.class_names), "image_size": str(source.image_size)}
        )
        onnx.checker.check_model(model)
        onnx.save(model, str(path))


def _name_ends(graph: Any) -> None:
    """Gives the input and the output of a graph their names, instead of those that the converter made up."""
    (taken,), (given,) = graph.input, graph.output
    names = {taken.name: PIXELS, given.name: PROBABILITIES}
    for node in graph.node:
        for ends in (node.input, node.output):
            for place, name in enumerate(ends):
                ends[place] = names.get(name, name)
    for end in (taken, given):
        end.name = names[end.name]
        end.type.tensor_type.shape.dim[0].dim_param = BATCH


ONNX = Format(
    "onnx", "ONNX", "model.onnx", "read_onnx.py", "ONNX Runtime", "onnxruntime", ("tf2onnx", "onnx", "onnxruntime"),
    ("tensorflow", "keras", "catdog"), LOADS, write_onnx,
)  # fmt: skip
