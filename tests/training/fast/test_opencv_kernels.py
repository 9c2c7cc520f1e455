"""Kernels of colours, filters, shear, perspective and erasing do to images what Keras' layers do: the layers are the reference."""

import cv2
import keras
import numpy as np
import pytest

from catdog.training.fast import opencv_augmentation
from catdog.training.fast.opencv_augmentation import build_kernel, find_operation

SIZE, COUNT = 40, 16
L = keras.layers


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth pictures whose colours reach both ends of the range: uint8 (COUNT, SIZE, SIZE, 3)."""
    coarse = np.random.default_rng(0).uniform(-60, 315, (COUNT, 8, 8, 3)).astype(np.float32)
    smooth = keras.ops.convert_to_numpy(keras.ops.image.resize(coarse, (SIZE, SIZE)))
    return smooth.round().clip(0, 255).astype(np.uint8)


class Given:
    """A generator whose next draws are given."""

    def __init__(self, *draws) -> None:
        self.draws = [np.asarray(draw) for draw in draws]

    def uniform(self, low, high, size=None) -> np.ndarray:
        drawn = self.draws.pop(0).reshape(size)
        assert low <= drawn.min()
        assert drawn.max() <= high
        return drawn


def assert_equal(result: np.ndarray, reference, *, within: float = 0.51) -> None:
    """Asserts that pixels differ by rounding; those of Keras outside [0, 255] are clipped."""
    assert result.dtype == np.uint8
    assert np.abs(result - keras.ops.convert_to_numpy(reference).clip(0, 255)).max() <= within


@pytest.mark.parametrize(
    ("layer", "within"),
    [
        (L.RandomGrayscale(1.0, seed=1), 1.01),
        (L.RandomColorDegeneration((0.4, 0.4), seed=1), 1.01),
        (L.RandomColorDegeneration((-0.7, -0.7), seed=1), 1.01),
        (L.RandomSaturation((0.7, 0.7), seed=1), 0.51),
        (L.RandomSaturation((0.3, 0.3), seed=1), 0.51),
        (L.RandomSaturation((-0.3, -0.3), seed=1), 0.51),
        (L.RandomSaturation((1.0, 1.0), seed=1), 0.51),
        (L.RandomPosterization((3, 3), seed=1), 0),
        (L.RandomInvert((1.0, 1.0), seed=1), 0),
        (L.RandomSharpness((0.1, 0.1), seed=1), 0.51),
        (L.RandomSharpness((0.9, 0.9), seed=1), 0.51),
        (L.RandomGaussianBlur((1.0, 1.0), sigma=(0.8, 0.8), seed=1), 1.01),
        (L.RandomGaussianBlur((1.0, 1.0), kernel_size=7, sigma=(1.0, 1.0), seed=1), 1.01),
        (L.AutoContrast(), 0.51),
        (L.Equalization(), 0),
        (L.Solarization((0.0, 0.0), (0.0, 0.0), seed=1), 0),
    ],
)  # fmt: skip
def test_a_layer_with_a_fixed_factor_changes_the_same_pixels(images, layer, within: float) -> None:
    assert_equal(build_kernel([layer])(images, 3), layer(images.astype(np.float32), training=True), within=within)


def test_hue(images) -> None:
    layer = L.RandomHue((0.1, 0.9), seed=1)
    turns = np.linspace(0.1, 0.9, COUNT)
    signs = np.where(np.arange(COUNT) % 2, 1.0, 0.0)
    result = find_operation(layer)(images, Given(signs, turns))
    drawn = {"factor": (np.where(signs > 0.5, -1, 1) * turns * 0.5).astype(np.float32)}
    assert_equal(result, layer.transform_images(images.astype(np.float32), drawn))


def test_colour_jitter_is_its_parts_in_order(images) -> None:
    layer = L.RandomColorJitter(
        brightness_factor=0.2, contrast_factor=0.5, saturation_factor=(0.3, 0.7), hue_factor=0.2, seed=1
    )
    draws = np.random.default_rng(0).uniform(size=(5, COUNT))
    deltas, contrasts, saturations = 102 * draws[0] - 51, 1 + 0.5 * draws[1], 0.3 + 0.4 * draws[2]
    turns = 0.2 * draws[3]
    result = find_operation(layer)(images, Given(deltas, contrasts, saturations, np.zeros(COUNT), turns))
    expected = images.astype(np.float32)
    for part, drawn in (
        (layer.random_brightness, {"rgb_delta": deltas.reshape(-1, 1, 1, 1)}),
        (layer.random_contrast, {"contrast_factor": contrasts.reshape(-1, 1, 1, 1).astype(np.float32)}),
        (layer.random_saturation, {"factor": (saturations / (1 - saturations)).astype(np.float32)}),
        (layer.random_hue, {"factor": (turns / 2).astype(np.float32)}),
    ):
        expected = np.asarray(part.transform_images(expected, drawn)).clip(0, 255)
    difference = np.abs(result - expected)
    # The parts round to 8 bits, and the saturation multiplies what was rounded before.
    assert difference.mean() < 0.7
    assert difference.max() < 6


def test_solarization(images) -> None:
    layer = L.Solarization((0.0, 0.4), (0.1, 0.8), seed=1)
    additions, thresholds = np.linspace(0, 0.4 * 255, COUNT), np.linspace(0.1, 0.8 * 255, COUNT)
    result = find_operation(layer)(images, Given(additions, thresholds))
    drawn = {
        "additions": additions.reshape(-1, 1, 1, 1).astype(np.float32),
        "thresholds": thresholds.reshape(-1, 1, 1, 1).astype(np.float32),
    }
    assert_equal(result, layer.transform_images(images.astype(np.float32), drawn))


def test_shear(images) -> None:
    layer = L.RandomShear((0.1, 0.3), 0.2, fill_mode="constant", fill_value=20.0, seed=1)
    drawn = layer.get_random_transformation(images.astype(np.float32))
    factors = np.asarray(drawn["shear_factor"])
    signs = np.sign(factors[:, 0])
    result = find_operation(layer)(images, Given(signs < 0, signs * factors[:, 1], signs * factors[:, 0]))
    difference = np.abs(result - np.asarray(layer.transform_images(images.astype(np.float32), drawn)))
    assert difference.mean() < 0.7
    assert np.quantile(difference, 0.99) < 4


def test_perspective(images) -> None:
    layer = L.RandomPerspective((0.5, 0.5), scale=0.4, fill_value=30.0, seed=1)
    drawn = layer.get_random_transformation(images.astype(np.float32))
    start, end = np.asarray(drawn["start_points"]), np.asarray(drawn["end_points"])
    moves = np.divide(end - start, start, out=np.zeros_like(start), where=start > 0)
    chosen = np.asarray(drawn["apply_perspective"])
    assert 0 < chosen.sum() < COUNT
    result = find_operation(layer)(images, Given(np.full(COUNT, 0.5), np.where(chosen, 0.2, 0.7), moves))
    difference = np.abs(result - np.asarray(layer.transform_images(images.astype(np.float32), drawn)))
    assert np.array_equal(result[~chosen], images[~chosen])
    assert difference.mean() < 0.7
    assert np.quantile(difference, 0.99) < 4


@pytest.mark.parametrize("fill", [7, [10, 20.4, 300]])
def test_erasing(images, fill) -> None:
    layer = L.RandomErasing((0.6, 0.6), scale=(0.02, 0.33), fill_value=fill, seed=1)
    generator = np.random.default_rng(3)
    scales, lefts, tops = generator.uniform(0.02, 0.33, (COUNT, 2)), *generator.uniform(size=(2, COUNT))
    chosen = np.arange(COUNT) % 3 > 0
    given = Given(scales, lefts, tops, np.full(COUNT, 0.6), np.where(chosen, 0.5, 0.7))
    result = find_operation(layer)(images, given)
    sizes = np.sqrt(scales) * SIZE
    left, top = lefts * (SIZE - sizes[:, 0]), tops * (SIZE - sizes[:, 1])
    corners = [each.astype(np.float32) for each in (left, left + sizes[:, 0], top, top + sizes[:, 1])]
    drawn = {
        "apply_erasing": chosen,
        "batch_masks": layer._generate_batch_mask(images.shape, corners),
        "fill_value": layer._get_fill_value(images, images.shape, 0),
    }
    assert_equal(result, layer.transform_images(images.astype(np.float32), drawn))


def test_erased_areas_and_noise_are_distributed_as_in_keras() -> None:
    layer = L.RandomErasing((0.2, 0.8), scale=(0.1, 0.5), seed=1)
    grey = np.full((100, SIZE, SIZE, 3), 100, np.uint8)
    step = build_kernel([layer])
    found = np.concatenate([step(grey, batch) for batch in range(20)])
    reference = np.concatenate([np.asarray(layer(grey.astype(np.float32), training=True)) for _ in range(20)])
    shares = [(each != 100).any(axis=3).mean(axis=(1, 2)) for each in (found, reference)]
    assert (shares[0] > 0).mean() == pytest.approx((shares[1] > 0).mean(), abs=0.05)
    for quantile in (0.6, 0.75, 0.9, 1):
        assert np.quantile(shares[0], quantile) == pytest.approx(np.quantile(shares[1], quantile), abs=0.03)
    noise = [each[each != 100].astype(float) for each in (found, reference)]
    assert noise[0].mean() == pytest.approx(noise[1].mean(), abs=1)
    assert (noise[0] == 0).mean() == pytest.approx((noise[1] == 0).mean(), abs=0.01)


@pytest.mark.parametrize(
    "layer",
    [
        L.RandomColorDegeneration(0.5, seed=1),
        L.RandomSaturation((0.2, 0.9), seed=1),
        L.RandomPosterization((1, 8), seed=1),
        L.RandomInvert((0.1, 0.5), seed=1),
        L.RandomGrayscale(0.3, seed=1),
        L.RandomSharpness((0.0, 1.0), seed=1),
        L.Solarization((0.1, 0.3), (0.2, 0.9), seed=1),
        L.RandomGaussianBlur(0.5, kernel_size=5, sigma=1.0, seed=1),
        L.RandomHue(0.5, seed=1),
        L.RandomShear(0.3, seed=1),
        L.RandomPerspective(0.7, scale=0.5, seed=1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_strengths_are_distributed_as_in_keras(images, layer) -> None:
    """The mean absolute change of an image, over 1,600 draws."""
    image = np.repeat(images[3:4], 100, axis=0)
    step = build_kernel([layer])
    found = np.concatenate([step(image, batch) for batch in range(16)])
    reference = np.concatenate([np.asarray(layer(image.astype(np.float32), training=True)) for _ in range(16)])
    changes = [np.abs(each.astype(float).clip(0, 255) - image[0]).mean(axis=(1, 2, 3)) for each in (found, reference)]
    spread = changes[1].std()
    assert spread > 1
    # Blur draws one sigma for a whole batch, so 16 draws are all there are.
    tolerance = 0.35 if isinstance(layer, L.RandomGaussianBlur) else 0.15
    assert changes[0].mean() == pytest.approx(changes[1].mean(), abs=tolerance * spread)
    assert changes[0].std() == pytest.approx(spread, rel=tolerance)


def test_rand_augment_is_two_operations_on_a_whole_batch(images) -> None:
    layer = L.RandAugment(num_ops=2, factor=(0.5, 0.5), seed=1)
    step = build_kernel([layer])
    names = layer._AUGMENT_LAYERS
    drawn: set[int] = set()
    for batch in range(30):
        generator = opencv_augmentation.build_generator(layer, batch)
        first, second = generator.integers(len(names), size=2)
        seeds = generator.integers(2**32, size=len(names))
        expected = images
        for index in (first, second):
            operation = find_operation(getattr(layer, names[index]))
            expected = operation(expected, np.random.default_rng(seeds[index]))
        assert np.array_equal(step(images, batch), expected)
        drawn |= {first, second}
    assert len(drawn) == len(names) == 11


@pytest.mark.parametrize(
    "layer",
    [
        L.RandomColorJitter(brightness_factor=0.2, value_range=(0, 1), seed=1),
        L.RandAugment(value_range=(0, 1), seed=1),
        L.RandomSaturation(0.2, value_range=(0, 1), seed=1),
        L.Equalization(bins=64),
        L.RandomGaussianBlur(kernel_size=(3, 5), seed=1),
        L.RandomShear(0.2, fill_mode="wrap", seed=1),
        L.RandomErasing(data_format="channels_first", seed=1),
        L.RandomInvert(),
        L.RandomElasticTransform(seed=1),
        L.RandomCrop(8, 8, seed=1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_would_not_mean_the_same_has_no_kernel(layer) -> None:
    assert not opencv_augmentation.has_kernel(layer)


def test_flips_before_perspective_are_one_resampling(images) -> None:
    flip, perspective = L.RandomFlip(seed=1), L.RandomPerspective(1.0, scale=0.3, seed=2)
    one_by_one = build_kernel([perspective])(build_kernel([flip])(images, 4), 4)
    together = build_kernel([flip, perspective])(images, 4)
    assert np.quantile(np.abs(together.astype(int) - one_by_one), 0.99) <= 3


def test_height_and_width_are_those_of_the_batch() -> None:
    layers = [
        L.RandomErasing(1.0, seed=1), L.RandomShear(0.2, seed=2), L.RandomPerspective(1.0, seed=3), L.RandAugment(seed=4),
        L.RandomHue(0.3, seed=5), L.RandomRotation(0.1, seed=6), L.AutoContrast(),
    ]  # fmt: skip
    step = build_kernel(layers)
    for shape in ((3, 24, 56, 3), (2, 61, 17, 3)):
        batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        assert step(batch, 0).shape == shape
        assert np.array_equal(step(batch, 5), step(batch, 5))
        assert not np.array_equal(step(batch, 5), step(batch, 6))


def test_the_first_kernels_draw_and_compute_what_they_always_did(images) -> None:
    """Bit for bit: results of runs with flip_rotate must not change with the code."""
    layers = [L.RandomFlip("horizontal", seed=3000), L.RandomRotation(0.2, seed=3001), L.RandomContrast(0.2, seed=3002)]
    result = build_kernel(layers)(images, 77)
    flipped = np.random.default_rng([3000, 77]).uniform(size=COUNT) <= 0.5
    angles = 2 * np.pi * np.random.default_rng([3001, 77]).uniform(-0.2, 0.2, COUNT)
    amounts = np.random.default_rng([3002, 77]).uniform(1.0, 1.2, COUNT)
    middle = (SIZE - 1) / 2
    for index in range(COUNT):
        cosine, sine = np.cos(angles[index]), np.sin(angles[index])
        matrix = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        matrix[:2, 2] = middle - matrix[:2, :2] @ [middle, middle]
        if flipped[index]:
            matrix = np.array([[-1, 0, SIZE - 1], [0, 1, 0], [0, 0, 1]]) @ matrix
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image = cv2.warpAffine(images[index], matrix[:2], (SIZE, SIZE), flags=flags, borderMode=cv2.BORDER_REFLECT)
        mean = np.array(cv2.mean(image)[:3], np.float32)
        table = (np.arange(256, dtype=np.float32)[:, np.newaxis] - mean) * amounts[index] + mean
        expected = cv2.LUT(image, np.rint(table.clip(0, 255)).astype(np.uint8)[:, np.newaxis])
        assert np.array_equal(result[index], expected)
