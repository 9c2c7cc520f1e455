"""RandomResizedCrop, RandomDownscale and TrivialAugment; and layers of Keras and catdog side by side."""

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps
from support import compose_config

from catdog.config.digest import hash_config
from catdog.config.schema import AugmentationConfig
from catdog.training import trivial_augment
from catdog.training.augmentation import build_augmentation
from catdog.training.augmentation_blocks import RandomDownscale, RandomResizedCrop, crop_and_resize, draw_boxes
from catdog.training.fast.opencv_augmentation import build_kernel
from catdog.training.fast.pixel_operations import resize

SIZE = 48


def draw_images(count: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """Returns smooth pictures: uint8 (count, height, width, 3)."""
    coarse = np.random.default_rng(0).uniform(0, 255, (count, 6, 6, 3)).astype(np.float32)
    return np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC) for image in coarse]).clip(
        0, 255
    ).astype(np.uint8)  # fmt: skip


# Crops.


def test_boxes_have_areas_ratios_and_places_as_asked() -> None:
    height, width = 400, 600
    boxes = draw_boxes(np.random.default_rng(0), 4000, height, width, (0.1, 0.5), (0.5, 2.0))
    tops, lefts, heights, widths = boxes.T
    assert (tops >= 0).all()
    assert (tops + heights <= height).all()
    assert (lefts >= 0).all()
    assert (lefts + widths <= width).all()
    areas, ratios = heights * widths / (height * width), np.log(widths / heights)
    assert areas.min() == pytest.approx(0.1, abs=0.005)
    assert areas.max() == pytest.approx(0.5, abs=0.005)
    # Few large boxes do not fit, and are drawn again.
    assert areas.mean() == pytest.approx(0.3, abs=0.02)
    assert [ratios.min(), ratios.max()] == pytest.approx([-np.log(2), np.log(2)], abs=0.03)
    small = areas < 0.25
    assert ratios[small].mean() == pytest.approx(0, abs=0.03)
    assert ratios[small].std() == pytest.approx(2 * np.log(2) / 12**0.5, abs=0.02)
    for share in (tops[small] / (height - heights[small]), lefts[small] / (width - widths[small])):
        assert share.mean() == pytest.approx(0.5, abs=0.03)
        assert share.std() == pytest.approx(1 / 12**0.5, abs=0.03)


def test_a_box_that_never_fits_is_the_largest_in_the_middle() -> None:
    wide = draw_boxes(np.random.default_rng(0), 3, 40, 100, (1.0, 1.0), (1.0, 1.0))
    assert wide.tolist() == [[0, 30, 40, 40]] * 3
    high = draw_boxes(np.random.default_rng(0), 2, 90, 30, (0.99, 1.0), (2.0, 3.0))
    assert high.tolist() == [[37, 0, 15, 30]] * 2


@pytest.mark.parametrize("size", [(60, 40), (32, 32), (20, 64)])
def test_a_crop_is_that_part_of_the_image(size) -> None:
    images = draw_images(12, 60, 40)
    found = crop_and_resize(images, np.random.default_rng(5), (0.2, 0.9), (0.75, 1.33), size)
    assert found.shape == (12, *size, 3)
    boxes = draw_boxes(np.random.default_rng(5), 12, 60, 40, (0.2, 0.9), (0.75, 1.33))
    for image, result, (top, left, height, width) in zip(images, found, boxes, strict=True):
        part = image[top : top + height, left : left + width].astype(np.float32)
        reference = keras.ops.convert_to_numpy(keras.ops.image.resize(part, found.shape[1:3], antialias=True))
        difference = np.abs(result - reference)
        # Antialiasing differs: a mean of pixels here, a triangle in Keras.
        assert difference.mean() < (1 if size == (60, 40) else 2.5)


def test_resizing_averages_where_it_shrinks_and_interpolates_where_it_grows() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 12, 3), dtype=np.uint8)
    halves = image.reshape(12, 2, 12, 3).mean(axis=1)
    assert np.abs(resize(image, 12, 12) - halves).max() <= 0.5
    both = cv2.resize(np.rint(halves).astype(np.float32), (30, 12), interpolation=cv2.INTER_LINEAR)
    assert np.abs(resize(image, 12, 30) - both).max() <= 1.1


def test_a_whole_image_is_a_crop_without_change() -> None:
    images = draw_images(3)
    block = RandomResizedCrop("x", 0, [1.0, 1.0], [1.0, 1.0])
    assert np.array_equal(block.operate(images, np.random.default_rng(0)), images)


def test_downscaling_takes_detail_from_a_share_of_the_images() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 32, 32, 3), dtype=np.uint8)
    block = RandomDownscale("x", 0, [0.25, 0.75], 0.3)
    changed = block.operate(noise, np.random.default_rng(0))
    touched = (changed != noise).any(axis=(1, 2, 3))
    assert touched.mean() == pytest.approx(0.3, abs=0.06)
    spreads = changed[touched].std(axis=(1, 2, 3))
    assert spreads.max() < 0.75 * noise.std()
    half = RandomDownscale("x", 0, [0.5, 0.5], 1.0).operate(noise, np.random.default_rng(0))
    means = np.rint(noise[0].reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))).astype(np.uint8)
    assert np.abs(half[0].astype(int) - cv2.resize(means, (32, 32), interpolation=cv2.INTER_LINEAR)).max() <= 1


# TrivialAugment: Pillow does the operations of the paper.


def shift(coefficients):
    return lambda image, amount: image.transform(
        image.size, Image.Transform.AFFINE, coefficients(amount), Image.BILINEAR
    )


def enhance(kind):
    return lambda image, amount: kind(image).enhance(1 + 0.99 * amount)


PILLOW = {
    "Identity": lambda image, amount: image,
    "ShearX": shift(lambda amount: (1, 0.99 * amount, -0.5 * 0.99 * amount, 0, 1, 0)),
    "ShearY": shift(lambda amount: (1, 0, 0, 0.99 * amount, 1, -0.5 * 0.99 * amount)),
    "TranslateX": shift(lambda amount: (1, 0, amount * SIZE / 7, 0, 1, 0)),
    "TranslateY": shift(lambda amount: (1, 0, 0, 0, 1, amount * SIZE / 7)),
    "Rotate": lambda image, amount: image.rotate(135 * amount, Image.BILINEAR),
    "Brightness": enhance(ImageEnhance.Brightness),
    "Color": enhance(ImageEnhance.Color),
    "Contrast": enhance(ImageEnhance.Contrast),
    "Sharpness": enhance(ImageEnhance.Sharpness),
    "Posterize": lambda image, amount: ImageOps.posterize(image, 8 - round(abs(amount) * 6)),
    "Solarize": lambda image, amount: ImageOps.solarize(image, 255 * (1 - abs(amount))),
    "AutoContrast": lambda image, amount: ImageOps.autocontrast(image),
    "Equalize": lambda image, amount: ImageOps.equalize(image),
}


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("amount", [0.0, 0.3, -0.7, 1.0])
def test_an_operation_is_that_of_pillow(name: str, amount: float) -> None:
    image = draw_images(3)[2] // 2 + 40
    target = np.empty_like(image)
    trivial_augment.OPERATIONS[name](image, abs(amount), -1 if amount < 0 else 1, target)
    expected = np.asarray(PILLOW[name](Image.fromarray(image), amount)).astype(int)
    difference = np.abs(target - expected)
    if name in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"):
        # At the border Pillow is black from half a pixel on, OpenCV fades.
        assert np.quantile(difference, 0.9) <= 2.5
        assert (difference > 5).mean() < 0.06
    else:
        # Pillow cuts off what is behind the point, where this rounds.
        assert difference.max() <= (0 if name in ("Identity", "Posterize", "Solarize", "Equalize") else 2)


def test_operations_strengths_and_signs_are_equally_frequent(monkeypatch) -> None:
    drawn: list[tuple[str, float, int]] = []
    recorded = {
        name: lambda image, strength, sign, target, name=name: drawn.append((name, strength, sign))
        for name in trivial_augment.OPERATIONS
    }
    assert list(recorded) == list(PILLOW)
    monkeypatch.setattr(trivial_augment, "OPERATIONS", recorded)
    count = 14_000
    trivial_augment.augment(np.zeros((count, 1, 1, 3), np.uint8), np.random.default_rng(0))
    names, strengths, signs = zip(*drawn, strict=True)
    _, frequencies = np.unique(names, return_counts=True)
    assert np.abs(frequencies - count / 14).max() < 150
    levels, frequencies = np.unique(strengths, return_counts=True)
    assert np.allclose(levels, np.arange(31) / 30)
    assert np.abs(frequencies - count / 31).max() < 100
    assert np.mean(signs) == pytest.approx(0, abs=0.03)


def test_a_shift_is_a_seventh_of_any_image() -> None:
    for size in (28, 70):
        image = np.arange(size, dtype=np.uint8).reshape(1, -1, 1).repeat(size, 0).repeat(3, 2)
        target = np.empty_like(image)
        trivial_augment.translate_x(image, 1.0, 1, target)
        assert target[0, 0, 0] == size // 7


# Side by side.

MIXED = {
    "crop": {"layer": "RandomResizedCrop"},
    "flip": {"layer": "RandomFlip", "mode": "horizontal"},
    "noise": {"layer": "GaussianDropout", "rate": 0.1},
    "dropout": {"layer": "SpatialDropout2D", "rate": 0.2},
    "down": {"layer": "RandomDownscale", "probability": 1.0},
    "trivial": {"layer": "TrivialAugment"},
    "erase": {"layer": "RandomErasing"},
}


def run(
    layers: dict, batch: int = 0, *, seed: int = 0, fast: bool = True, images: np.ndarray | None = None
) -> np.ndarray:
    images = draw_images(4) if images is None else images
    augment = build_augmentation(AugmentationConfig("x", layers), seed, images.shape[1], fast=fast)
    stream = tf.data.Dataset.from_tensors((images, np.int64(batch))).map(augment)
    return next(iter(stream)).numpy()


def test_a_layer_without_a_kernel_runs_alone_between_the_others() -> None:
    images = draw_images(4)
    found = run(MIXED, 3, seed=2)
    assert found.dtype == np.uint8
    names = list(MIXED)
    # The seed of each layer is that of its place in the whole list.
    seeded = {name: {"seed": 2000 + number, **layer} for number, (name, layer) in enumerate(MIXED.items())}
    first = run({name: seeded[name] for name in names[:2]}, 3)
    between = run({name: seeded[name] for name in names[2:4]}, 3, images=first)
    assert between.dtype == np.float32
    rounded = np.rint(between.clip(0, 255)).astype(np.uint8)
    assert np.array_equal(found, run({name: seeded[name] for name in names[4:]}, 3, images=rounded))
    assert not np.array_equal(found, images)


@pytest.mark.parametrize("fast", [True, False])
def test_draws_depend_on_seed_and_batch_alone(fast: bool) -> None:
    images = draw_images(4)
    augment = build_augmentation(AugmentationConfig("x", MIXED), 0, SIZE, fast=fast)
    stream = tf.data.Dataset.from_tensor_slices(np.array([7, 8, 7])).map(lambda batch: augment(images, batch))
    first, other, again = stream.as_numpy_iterator()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, run(MIXED, 7, seed=1, fast=fast))
    assert first.min() >= 0
    assert first.max() <= 255


def test_blocks_are_the_same_without_fast_augmentation() -> None:
    layers = {name: MIXED[name] for name in ("crop", "down", "trivial")}
    assert np.array_equal(run(layers, 5), run(layers, 5, fast=False))


def test_keras_saturation_stays_within_the_range() -> None:
    layers = {"x": {"layer": "RandomSaturation", "factor": [0.9, 0.9]}}
    slow, fast = run(layers, fast=False), run(layers)
    assert slow.min() == 0
    assert np.abs(slow - fast).max() <= 0.51


def test_blocks_take_the_size_of_the_batch() -> None:
    config = compose_config("augmentation=trivial").augmentation
    step = build_kernel([RandomResizedCrop("x", 1), RandomDownscale("x", 2)])
    for shape in ((3, 30, 50, 3), (2, 64, 64, 3)):
        assert step(np.zeros(shape, np.uint8), 0).shape == shape
    augment = build_augmentation(config, 0, SIZE)
    for size in (SIZE, 64):
        assert augment(draw_images(2, size, size), np.int64(0)).shape == (2, size, size, 3)


def test_arguments_of_blocks_count_in_the_identity() -> None:
    def digest(*overrides: str) -> str:
        return hash_config(compose_config("augmentation=trivial", *overrides), with_seed=False)

    assert digest() == digest("augmentation.name=other")
    assert digest() != digest("augmentation.layers.crop.scale=[0.5,1]")
    assert digest() != digest("~augmentation.layers.trivial")
