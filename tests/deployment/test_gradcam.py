import numpy as np
import pytest

from catdog.deployment.gradcam import NoMapError, _average, compute_cams
from catdog.training.views import average_flips, average_members, list_views

SIZE = 32


def planted(row: int, column: int, colour: int) -> np.ndarray:
    """A grey picture with a bright patch of 6 x 6 in one colour: uint8 (32, 32, 3)."""
    image = np.full((SIZE, SIZE, 3), 40, np.uint8)
    image[row : row + 6, column : column + 6, colour] = 250
    return image


def build_detector(policy: str = "float32", relu_after_pooling: bool = False, nested: bool = True):
    """A kept model whose first class is red, second green: one convolution that adds up the colour, no training needed."""
    import keras
    from keras import layers

    convolution = layers.Conv2D(2, 3, padding="same", activation=None if relu_after_pooling else "relu", dtype=policy)
    chain = keras.Sequential([keras.Input((SIZE, SIZE, 3)), convolution])
    inputs = keras.Input((SIZE, SIZE, 3))
    features = layers.Rescaling(1 / 255, dtype="float32")(inputs)
    features = chain(features) if nested else convolution(features)
    features = layers.MaxPooling2D(dtype=policy)(layers.Dropout(0.5, dtype=policy)(features))
    features = layers.ReLU(dtype=policy)(features) if relu_after_pooling else features
    logits = layers.Dense(2, name="logits", dtype="float32")(layers.Flatten(dtype=policy)(features))
    model = keras.Model(inputs, logits)
    kernel = np.zeros((3, 3, 3, 2), np.float32)
    kernel[:, :, 0, 0] = kernel[:, :, 1, 1] = 1 / 9
    convolution.set_weights([kernel, np.full(2, -0.2, np.float32)])
    dense = np.zeros((16 * 16 * 2, 2), np.float32)
    dense[0::2, 0] = dense[1::2, 1] = 0.1
    model.get_layer("logits").set_weights([dense, np.zeros(2, np.float32)])
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    return keras.Model(pixels, layers.Softmax(dtype="float32")(model(pixels)))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("relu_after_pooling", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_the_map_of_a_patch_detector_peaks_at_the_patch(policy, relu_after_pooling, nested):
    model = build_detector(policy, relu_after_pooling, nested)
    images = np.stack([planted(3, 20, 0), planted(20, 5, 1), planted(3, 20, 0)])
    cams = compute_cams(model, images, np.array([[0, 1], [1, 0], [1, 0]]), side=16)
    assert cams.shape == (3, 2, 16, 16)
    for image, row, column in ((0, 3, 20), (1, 20, 5)):
        # Rows and columns of the picture over those of the map.
        peak = np.divmod(cams[image, 0].argmax(), 16)
        assert row <= 2 * peak[0] + 1 < row + 7
        assert column <= 2 * peak[1] + 1 < column + 7
        assert cams[image, 0].max() == 1
        beside = np.delete(cams[image, 0], np.s_[row // 2 - 1 : row // 2 + 5], axis=0)
        assert beside.max() == 0
    # Nothing green in the picture with the red patch.
    assert cams[0, 1].max() == 0
    assert cams[2, 1].argmax() == cams[0, 0].argmax()


def test_small_maps_stay_as_they_are_and_large_ones_are_averaged():
    model = build_detector()
    image, classes = planted(8, 8, 0)[None], np.array([[0]])
    assert compute_cams(model, image, classes, side=100).shape == (1, 1, 32, 32)
    assert compute_cams(model, image, classes, side=14).shape == (1, 1, 14, 14)


def test_the_map_of_an_averaged_answer_is_the_mean_of_the_maps_of_its_views():
    detector = build_detector()
    both = average_members([average_flips(detector, "flips"), build_detector()], "ensemble")
    assert [view.mirrored for view in list_views(both)] == [False, True, False]
    images, classes = np.stack([planted(3, 20, 0), planted(20, 5, 1)]), np.array([[0], [1]])
    # The detector sees the same in a mirror, so the three maps are the same.
    np.testing.assert_allclose(
        compute_cams(both, images, classes, side=14), compute_cams(detector, images, classes, side=14), atol=0.05
    )


def test_maps_of_several_sizes_are_averaged_in_the_largest():
    maps = _average([np.ones((2, 1, 4, 4), np.float32), np.zeros((2, 1, 8, 8), np.float32)], side=14)
    assert maps.shape == (2, 1, 8, 8)


def test_batches_do_not_matter(monkeypatch):
    model = build_detector()
    images = np.stack([planted(2 * index, index, index % 2) for index in range(7)])
    classes = np.arange(7)[:, None] % 2
    whole = compute_cams(model, images, classes, side=14)
    monkeypatch.setattr("catdog.deployment.gradcam.BATCH", 3)
    assert np.array_equal(compute_cams(model, images, classes, side=14), whole)


def test_a_model_without_convolution_and_one_that_branches_say_why():
    import keras
    from keras import layers

    pixels = keras.Input((8, 8, 3), dtype="uint8")
    flat = layers.Flatten()(layers.Rescaling(1 / 255)(pixels))
    dense = keras.Model(pixels, layers.Dense(2, activation="softmax")(flat))
    images, classes = np.zeros((1, 8, 8, 3), np.uint8), np.array([[0]])
    with pytest.raises(NoMapError, match="no convolution"):
        compute_cams(dense, images, classes, side=14)
    scaled = layers.Rescaling(1 / 255)(pixels)
    both = layers.Concatenate()([layers.GlobalMaxPooling2D()(layers.Conv2D(2, 3)(scaled)), layers.Flatten()(scaled)])
    with pytest.raises(NoMapError, match="not a chain"):
        compute_cams(keras.Model(pixels, layers.Dense(2, activation="softmax")(both)), images, classes, side=14)


@pytest.mark.parametrize("name", ["cnn", "drawn_mini"])
def test_the_models_of_this_project_are_understood(name):
    import keras
    from support import compose_config

    from catdog.training.model import build_kept_model, build_model

    # Of some random weights every map is 0.
    keras.utils.set_random_seed(0)
    config = compose_config(f"model={name}", "preprocessing.image_size=48")
    model = build_kept_model(config, build_model(config, 3, "float32"), "float32")
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
    cams = compute_cams(model, images, np.array([[0, 1, 2]] * 2), side=14)
    assert cams.shape[:2] == (2, 3)
    assert 0 < cams.max() <= 1
