"""`audit pipeline=` with whatever gives batches that NumPy can read."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import PROJECT

from catdog.auditing.pipeline import Traffic, watch_pipeline
from catdog.system.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(40) % 2
SIZE = 8


class Tensor:
    """What a tensor of PyTorch's is to whoever does not import it: an array only once it has left the graph and the GPU."""

    def __init__(self, values: np.ndarray, ready: bool = False) -> None:
        self.values, self.ready = values, ready

    def detach(self) -> "Tensor":
        return Tensor(self.values)

    def cpu(self) -> "Tensor":
        return Tensor(self.values, ready=True)

    def numpy(self) -> np.ndarray:
        if not self.ready:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self.values


class Loader:
    """A DataLoader's protocol: it can be iterated again and again, knows its length, and gives [images, labels]."""

    def __init__(self, places: range) -> None:
        self.places = places

    def __len__(self) -> int:
        return -(-len(self.places) // SIZE)

    def __iter__(self):
        for start in range(0, len(self.places), SIZE):
            chosen = self.places[start : start + SIZE]
            pixels = np.moveaxis(IMAGES[list(chosen)], -1, 1).astype(np.float32)
            yield [Tensor(pixels), Tensor(LABELS[list(chosen)])]


def make_numbered(places: range):
    """Returns Keras' own: batches by number, told where an epoch ends."""
    # Imported here, as commands do that the tests run in this process: only when it is needed.
    from catdog.training import preload  # noqa: F401

    # isort: split
    import keras

    class Numbered(keras.utils.PyDataset):
        epochs = 0

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int):
            half = len(places) // 2
            chosen = list(places)[index * half : (index + 1) * half]
            return IMAGES[chosen], LABELS[chosen]

        def on_epoch_end(self) -> None:
            self.epochs += 1

    return Numbered()


def make_tf(places: range):
    from catdog.training import preload  # noqa: F401

    # isort: split
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((IMAGES[list(places)], LABELS[list(places)])).batch(5)


class MapStyle:
    """A data set that is read by numbers, and does not say where it ends but by its length."""

    def __init__(self, places: range) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int):
        return {"label": 0, "image": IMAGES[self.places[index % len(self.places)]]}


def make_generator(places: range):
    def generate():
        for place in places:
            yield IMAGES[place], LABELS[place]

    return generate


KINDS = {
    "a DataLoader": Loader,
    "a PyDataset": make_numbered,
    "a map-style data set": MapStyle,
    "a generator function": make_generator,
    "a list": lambda places: [(IMAGES[list(places)], LABELS[list(places)])],
    "tf.data": make_tf,
}


def watch(make, train: range, val: range, test: range) -> Traffic:
    return watch_pipeline(lambda: (make(train), make(val), make(test)), "build", 2)


@pytest.mark.parametrize("kind", KINDS)
def test_splits_that_share_no_image_do_not_leak(kind: str):
    traffic = watch(KINDS[kind], range(20), range(20, 30), range(30, 40))
    assert traffic.counts == {"train": [20, 20], "val": [10, 10], "test": [10, 10]}
    assert not traffic.leaks


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_two_splits_share_are_counted(kind: str):
    traffic = watch(KINDS[kind], range(20), range(16, 30), range(28, 40))
    assert traffic.overlap("val", "train") == 4
    assert traffic.overlap("test", "val") == 2
    assert traffic.overlap("test", "train") == 0


def test_an_image_is_the_same_whichever_tool_gives_it():
    """Colours first or last, floating point or not: train by PyTorch's protocol, val by Keras', test as a list."""
    traffic = watch_pipeline(lambda: (Loader(range(10)), make_numbered(range(4, 14)), [IMAGES[12:]]), "build", 2)
    assert traffic.overlap("val", "train") == 6
    assert traffic.overlap("test", "val") == 2


def test_an_epoch_of_keras_own_data_set_is_told_where_it_ends():
    train = make_numbered(range(20))
    watch_pipeline(lambda: (train, make_numbered(range(20, 30)), make_numbered(range(30, 40))), "build", 3)
    assert train.epochs == 3


def test_what_can_be_iterated_once_only_is_named():
    once = iter([IMAGES[:4]])
    with pytest.raises(
        UserError, match=r"^pipeline: train of build\(\) has no images after its first epoch. Return a func"
    ):
        watch_pipeline(lambda: (once, [IMAGES[4:8]], [IMAGES[8:]]), "build", 2)


def test_what_is_nothing_to_iterate_over_is_named():
    with pytest.raises(UserError, match=r"^pipeline: val of build\(\) must be something to iterate over.*received int"):
        watch_pipeline(lambda: ([IMAGES], 3, [IMAGES]), "build", 2)


@pytest.mark.slow
def test_the_command_imports_no_tensorflow_for_a_pipeline_that_needs_none(tmp_path: Path):
    (tmp_path / "their_data.py").write_text(
        "import numpy as np\n"
        "images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)\n"
        "def build():\n    return [images[:6]], [images[6:9]], [images[9:]]\n"
    )
    script = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print('loaded:', 'tensorflow' in sys.modules))\n"
        "sys.argv = ['audit', 'pipeline=their_data:build', 'epochs=2']\n"
        "runpy.run_module('catdog.audit', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin"}, text=True,
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert "no image of test or val served elsewhere" in done.stdout, done.stdout + done.stderr
    assert "loaded: False" in done.stdout
