"""The import of Keras and TensorFlow: quiet, without the libraries that few use, and complete for those who do."""

import subprocess
import sys

STATEMENTS = """
import sys
from catdog.training import preload
print(sorted({"sklearn", "scipy.stats", "matplotlib.pyplot"} & set(sys.modules)))
import keras, tensorflow
print(keras.wrappers.SKLearnClassifier.__name__, tensorflow.keras.visualization.plot_image_gallery.__name__)
from keras.src.wrappers.utils import sklearn
print(sklearn is not None)
"""


def test_parts_of_keras_that_import_much_are_imported_at_their_first_use() -> None:
    done = subprocess.run([sys.executable, "-c", STATEMENTS], capture_output=True, text=True, timeout=300)

    assert done.stdout.splitlines() == ["[]", "SKLearnClassifier plot_image_gallery", "True"], done.stderr
    assert not done.stderr
