"""SavedModel: a folder that TensorFlow and TensorFlow Serving read, without Keras."""

from pathlib import Path

from catdog.deployment.export.conversion import Format, Source, converting

LOADS = '''
import tensorflow as tf


def load():
    """Returns a function: a photo, uint8 (SIDE, SIDE, 3) -> its probabilities, float32 (classes,)."""
    model = tf.saved_model.load(str(MODEL))
    return lambda pixels: model.serve(tf.constant(pixels[np.newaxis])).numpy()[0]
'''


def write_saved_model(source: Source, path: Path) -> None:
    """Writes the model: uint8 (B, H, W, 3) -> float32 (B, classes), as the endpoints `serve` and `serving_default`.

    Raises:
        UserError: Keras cannot trace it.
    """
    with converting("savedmodel", path, "format=onnx or format=litert"):
        signature = [source.specify_pixels()]
        source.model.export(str(path), format="tf_saved_model", verbose=False, input_signature=signature)


SAVED_MODEL = Format(
    "savedmodel", "SavedModel", "savedmodel", "read_savedmodel.py", "TensorFlow", "tensorflow", (), ("keras", "catdog"),
    LOADS, write_saved_model,
)  # fmt: skip
