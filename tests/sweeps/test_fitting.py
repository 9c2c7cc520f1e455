"""Epochs and image size that the training images decide."""

from pathlib import Path

import pytest
from PIL import Image
from support import TINY, Catdog, compose_config, write_images

from catdog.comparison.settings import counts
from catdog.config.digest import hash_config
from catdog.data.dataset import load_dataset
from catdog.data.image_sizes import measure_shorter_side
from catdog.sweeps.fitting import fit_configs
from catdog.system.errors import UserError

FITTED = ("head.pooling=global_average", "trainer.epochs=0", "trainer.images_seen=600", "preprocessing.image_size=0",
          "preprocessing.max_size=128")  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path, cache: Path) -> tuple[str, ...]:
    """Twenty training images of two classes, 40 pixels wide."""
    for label in ("a", "b"):
        for split, count in (("train", 10), ("validation", 8)):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            write_images(folder, count, seed=hash_of(split, label), size=40)
    return ("dataset=folder", f"dataset.archive={tmp_path / 'photos'}", f"dataset.cache={cache}")


def hash_of(*words: str) -> int:
    return sum(map(ord, "".join(words)))


def fit(*overrides: str):
    config = compose_config(*overrides)
    return fit_configs([("run", config)], [load_dataset(config.dataset)])[0]


def test_epochs_and_size_follow_from_the_training_images(photos: tuple[str, ...]) -> None:
    fitted = fit(*photos, *FITTED)
    assert (fitted.trainer.epochs, fitted.preprocessing.image_size) == (30, 64)
    # The same config, and the same run, as with these numbers.
    plain = compose_config(*photos, "head.pooling=global_average", "trainer.epochs=30", "preprocessing.image_size=64")
    assert hash_config(fitted, with_seed=True) == hash_config(plain, with_seed=True)


@pytest.mark.parametrize(
    ("override", "epochs", "size"),
    [("trainer.images_seen=20", 10, 64), ("trainer.images_seen=1000000", 400, 64), ("preprocessing.max_size=80", 30, 64),
     ("trainer.epochs=3", 3, 64), ("preprocessing.image_size=24", 30, 24)],
)  # fmt: skip
def test_bounds_hold_and_given_numbers_win(photos: tuple[str, ...], override: str, epochs: int, size: int) -> None:
    fitted = fit(*photos, *FITTED, override)
    assert (fitted.trainer.epochs, fitted.preprocessing.image_size) == (epochs, size)


@pytest.mark.parametrize(("shorter", "chosen"), [(8, 64), (64, 64), (65, 96), (500, 128)])
def test_the_size_covers_the_images_up_to_the_largest(
    photos: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, shorter: int, chosen: int
) -> None:
    monkeypatch.setattr("catdog.data.image_sizes.measure_shorter_side", lambda root, files: shorter)
    assert fit(*photos, *FITTED).preprocessing.image_size == chosen


def test_factors_of_the_size_follow(photos: tuple[str, ...]) -> None:
    fitted = fit(*photos, *FITTED, "trainer.sizes={0: 0.5, 0.5: 1}")
    assert fitted.trainer.list_sizes(fitted.preprocessing.image_size) == {0.0: 32, 0.5: 64}


def test_pixels_above_the_chosen_size_are_refused(photos: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"trainer.sizes: must be at most preprocessing.image_size=64"):
        fit(*photos, *FITTED, "trainer.sizes={0: 96}")


@pytest.mark.parametrize(
    ("override", "said"),
    [("trainer.epochs=0", "trainer.epochs: must be 1 or more, or 0 where trainer.images_seen is set, received 0"),
     ("preprocessing.image_size=0", "preprocessing.image_size: must be 8 to 4096 pixels, or 0 where preprocessing.max_size is set"),
     ("preprocessing.max_size=8", "preprocessing.max_size: must be 64 to 4096 pixels, or null, received 8"),
     ("trainer.images_seen=0", "trainer.images_seen: must be 1 or more, or null, received 0")],
)  # fmt: skip
def test_wrong_values_are_named(override: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        compose_config(override)
    assert said in str(error.value)


def test_the_median_counts_and_what_cannot_be_read_does_not(tmp_path: Path) -> None:
    for number, size in enumerate([(10, 90), (30, 20), (70, 50)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    assert measure_shorter_side(tmp_path, [f"{number}.png" for number in range(5)]) == 20
    assert measure_shorter_side(tmp_path, ["3.png"]) == 1


@pytest.mark.slow
def test_a_sweep_says_what_was_chosen_and_trains_it(catdog: Catdog, photos: tuple[str, ...]) -> None:
    done = catdog("train", "-m", *TINY, *photos, *FITTED, "seed=0,1", "trainer.images_seen=200")
    assert done.code == 0, done.text
    assert (
        "cnn seed=0 and 1 more run: 10 epochs of 20 training images, 64 x 64 pixels, as the shorter side of the"
        in " ".join(done.text.split())
    )
    again = catdog(
        "train", *TINY, *photos, "head.pooling=global_average", "trainer.epochs=10", "preprocessing.image_size=64"
    )
    assert "finished" in again.text
    assert "reuse" in again.text or "nothing to train" in again.text


def test_training_images_above_the_limit_are_kept_as_jpegs(photos: tuple[str, ...]) -> None:
    plain = fit(*photos, "preprocessing.image_size=64")
    assert plain.preprocessing.stored_as == "pixels"
    images = load_dataset(compose_config(*photos).dataset).manifest.images
    limit = (images["split"] != "test").sum() * 64 * 64 * 3 / 1e9
    assert fit(*photos, "preprocessing.image_size=64", f"dataset.cache_gb={limit}").preprocessing.stored_as == "pixels"
    above = fit(*photos, "preprocessing.image_size=64", f"dataset.cache_gb={0.99 * limit}")
    assert above.preprocessing.stored_as == "jpeg"
    given = fit(*photos, "preprocessing.image_size=64", "dataset.cache_gb=0", "preprocessing.stored_as=pixels")
    assert given.preprocessing.stored_as == "pixels"
    # Other pixels, so another run; but the limit itself is in no run's identity.
    digests = [hash_config(each, with_seed=True) for each in (plain, above, given)]
    assert digests[0] == digests[2] != digests[1]
    assert counts("preprocessing.stored_as")
    assert not counts("dataset.cache_gb")


def test_sizes_that_are_stored_in_two_ways_are_warned_of(
    photos: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    configs = [
        compose_config(*photos, f"preprocessing.image_size={size}", "dataset.cache_gb=0.0005") for size in (32, 128)
    ]
    jobs = [(str(number), config) for number, config in enumerate(configs)]
    fitted = fit_configs(jobs, [load_dataset(configs[0].dataset)] * 2)
    assert [each.preprocessing.stored_as for each in fitted] == ["pixels", "jpeg"]
    assert "differ in that as well; preprocessing.stored_as=jpeg makes it the same" in caplog.text
