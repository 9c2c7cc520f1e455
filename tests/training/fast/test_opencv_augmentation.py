"""The fast kernels do to images what Keras' layers do: the layers are the reference."""

import keras
import numpy as np
import pytest
from support import compose_config

from catdog.training.augmentation import build_augmentation
from catdog.training.fast import opencv_augmentation, warps

SIZE, COUNT = 40, 16


class Fixed:
    """A generator whose draws are given; it notes the bounds that were asked for."""

    def __init__(self, *draws: np.ndarray) -> None:
        self.draws = list(draws)
        self.bounds: list[tuple[float, float]] = []

    def uniform(self, low: float = 0.0, high: float = 1.0, size: int | None = None) -> np.ndarray:
        self.bounds.append((low, high))
        return self.draws.pop(0)


@pytest.fixture
def images() -> np.ndarray:
    """Smooth pictures: uint8 (COUNT, SIZE, SIZE, 3)."""
    coarse = np.random.default_rng(0).uniform(0, 255, (COUNT, 8, 8, 3)).astype(np.float32)
    return keras.ops.convert_to_numpy(keras.ops.image.resize(coarse, (SIZE, SIZE))).round().astype(np.uint8)


def run_keras(layer: keras.layers.Layer, images: np.ndarray, transformation: dict) -> np.ndarray:
    return keras.ops.convert_to_numpy(layer.transform_images(images.astype(np.float32), transformation))


def run_kernel(layer, images: np.ndarray, monkeypatch, *draws: np.ndarray) -> tuple[np.ndarray, Fixed]:
    fixed = Fixed(*(np.asarray(draw, np.float64).ravel() for draw in draws))
    monkeypatch.setattr(opencv_augmentation, "build_generator", lambda layer, batch: fixed)
    result = opencv_augmentation.build_kernel([layer])(images, 0)
    assert result.dtype == np.uint8
    return result, fixed


def assert_same_picture(result: np.ndarray, reference: np.ndarray) -> None:
    difference = np.abs(result - reference)
    # Half a level is lost by rounding; a border pixel may fall to the other side of the image's edge.
    assert difference.mean() < 0.5
    assert np.quantile(difference, 0.995) < 2.5


@pytest.mark.parametrize("fill_mode", ["reflect", "constant", "nearest"])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_rotation(images, monkeypatch, fill_mode: str, interpolation: str) -> None:
    layer = keras.layers.RandomRotation(
        (-0.1, 0.3), fill_mode=fill_mode, interpolation=interpolation, fill_value=30.0, seed=1
    )
    drawn = layer.get_random_transformation(images)
    result, fixed = run_kernel(layer, images, monkeypatch, np.asarray(drawn["angle"]) / 360)
    assert fixed.bounds == [(-0.1, 0.3)]
    if interpolation == "bilinear":
        assert_same_picture(result, run_keras(layer, images, drawn))
    else:
        # Where a pixel's source lies between two, either is the nearest.
        assert (result == run_keras(layer, images, drawn)).mean() > 0.9


def test_translation(images, monkeypatch) -> None:
    layer = keras.layers.RandomTranslation((-0.2, 0.1), (-0.3, 0.05), seed=1)
    drawn = layer.get_random_transformation(images)
    moved = np.asarray(drawn["translations"]) / SIZE
    result, fixed = run_kernel(layer, images, monkeypatch, moved[:, 1], moved[:, 0])
    assert fixed.bounds == [(-0.2, 0.1), (-0.3, 0.05)]
    assert_same_picture(result, run_keras(layer, images, drawn))


@pytest.mark.parametrize("width", [None, (-0.1, 0.4)])
def test_zoom(images, monkeypatch, width) -> None:
    layer = keras.layers.RandomZoom((-0.3, 0.2), width, seed=1)
    drawn = layer.get_random_transformation(images)
    zooms = [np.asarray(drawn["height_zoom"]) - 1] + ([np.asarray(drawn["width_zoom"]) - 1] if width else [])
    result, fixed = run_kernel(layer, images, monkeypatch, *zooms)
    assert fixed.bounds == [(-0.3, 0.2), *([width] if width else [])]
    assert_same_picture(result, run_keras(layer, images, drawn))


@pytest.mark.parametrize("mode", ["horizontal", "vertical", "horizontal_and_vertical"])
def test_flips_are_exact(images, mode: str) -> None:
    layer = keras.layers.RandomFlip(mode, seed=3)
    result = opencv_augmentation.build_kernel([layer])(images, 5)
    views = {"horizontal": [images, images[:, :, ::-1]], "vertical": [images, images[:, ::-1]]}
    views["horizontal_and_vertical"] = [*views["horizontal"], images[:, ::-1], images[:, ::-1, ::-1]]
    found = [[np.array_equal(result[i], view[i]) for view in views[mode]] for i in range(COUNT)]
    assert all(sum(row) == 1 for row in found)
    # Every case occurs.
    assert np.any(found, axis=0).all()


def test_contrast(images, monkeypatch) -> None:
    layer = keras.layers.RandomContrast((0.4, 0.5), seed=1)
    drawn = layer.get_random_transformation(images)
    result, fixed = run_kernel(layer, images, monkeypatch, drawn["contrast_factor"])
    assert fixed.bounds == [(0.6, 1.5)]
    assert np.abs(result - run_keras(layer, images, drawn)).max() <= 0.51


def test_brightness(images, monkeypatch) -> None:
    layer = keras.layers.RandomBrightness((-0.4, 0.2), seed=1)
    drawn = layer.get_random_transformation(images)
    result, fixed = run_kernel(layer, images, monkeypatch, drawn["rgb_delta"])
    assert fixed.bounds == [pytest.approx((-0.4 * 255, 0.2 * 255))]
    assert np.abs(result - run_keras(layer, images, drawn)).max() <= 0.51


def test_a_flip_and_a_rotation_are_one_resampling(images) -> None:
    flip, rotation = keras.layers.RandomFlip(seed=1), keras.layers.RandomRotation(0.2, seed=2)
    one_by_one = opencv_augmentation.build_kernel([rotation])(opencv_augmentation.build_kernel([flip])(images, 4), 4)
    together = opencv_augmentation.build_kernel([flip, rotation])(images, 4)
    assert np.abs(together.astype(int) - one_by_one).max() <= 1


def test_draws_are_spread_over_their_range() -> None:
    layer = keras.layers.RandomRotation(0.2, seed=1)
    matrices = np.concatenate(
        [
            warps.draw_matrices(layer, opencv_augmentation.build_generator(layer, batch), 32, SIZE, SIZE)
            for batch in range(100)
        ]
    )
    turns = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]) / (2 * np.pi)
    # Uniform in +-0.2: standard deviation 0.2 / sqrt(3) = 0.1155; 3,200 draws know it to about 0.001.
    assert abs(turns).max() <= 0.2
    assert turns.std() == pytest.approx(0.1155, abs=0.004)
    assert turns.mean() == pytest.approx(0, abs=0.008)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.GaussianNoise(1.0, seed=1),
        keras.layers.RandomContrast(0.2, value_range=(0, 1), seed=1),
        keras.layers.RandomFlip(),
        keras.layers.RandomZoom(0.2, fill_mode="wrap", seed=1),
        keras.layers.Rescaling(2.0),
    ],
)
def test_what_has_no_kernel_is_left_to_keras(layer) -> None:
    assert opencv_augmentation.build_kernel([keras.layers.RandomRotation(0.2, seed=1), layer]) is None


@pytest.mark.parametrize("choice", ["flip_rotate", "strong"])
@pytest.mark.parametrize("fast", [True, False])
def test_augmentation_is_seeded_and_keeps_the_range(choice: str, fast: bool, images) -> None:
    def augmented(seed: int, batch: int = 0) -> np.ndarray:
        augment = build_augmentation(compose_config(f"augmentation={choice}").augmentation, seed, SIZE, fast=fast)
        return keras.ops.convert_to_numpy(augment(images, batch))

    assert augmented(1).dtype == (np.uint8 if fast else np.float32)
    assert np.array_equal(augmented(1), augmented(1))
    assert not np.array_equal(augmented(1), augmented(2))
    # What is drawn depends on the batch's number, not on what was drawn before: a resumed run augments as the first did.
    assert not np.array_equal(augmented(1, batch=0), augmented(1, batch=1))
    assert np.array_equal(augmented(1, batch=7), augmented(1, batch=7))
    changed = augmented(1)
    assert changed.shape == images.shape
    assert not np.allclose(changed, images)
    assert changed.min() >= 0
    assert changed.max() <= 255


def test_no_layers_are_no_augmentation() -> None:
    assert build_augmentation(compose_config("augmentation=none").augmentation, 0, SIZE) is None
