"""The drawn data set: reproducible, varied, and not to be solved by colour."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catdog.data import synthetic


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 training and 50 validation images per class."""
    folder = tmp_path_factory.mktemp("drawn")
    synthetic.write_drawn_images(folder, seed=7, train_per_class=150, validation_per_class=50)
    return folder


def test_write_drawn_images_makes_a_class_folder_per_kind_and_split(drawn: Path) -> None:
    counts = {
        path.relative_to(drawn).as_posix(): len(list(path.glob("*.jpg"))) for path in drawn.glob("*/*") if path.is_dir()
    }
    assert counts == {"train/cats": 150, "train/dogs": 150, "validation/cats": 50, "validation/dogs": 50}
    assert (drawn / "train/cats/cat.00001.jpg").is_file()
    assert (drawn / "validation/dogs/dog.00050.jpg").is_file()


def test_same_arguments_give_the_same_bytes_in_another_process(drawn: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from catdog.data.synthetic import write_drawn_images; "
        "write_drawn_images(Path(sys.argv[1]), seed=7, train_per_class=6, validation_per_class=3)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, cwd=Path(__file__).parents[2])
    again = _digests(tmp_path)
    assert len(again) == 18
    # The larger set holds the smaller one: a count changes no other image.
    assert again.items() <= _digests(drawn).items()


def test_another_seed_gives_other_images(drawn: Path, tmp_path: Path) -> None:
    synthetic.write_drawn_images(tmp_path, seed=8, train_per_class=5, validation_per_class=5)
    assert not set(_digests(tmp_path).values()) & set(_digests(drawn).values())


def test_no_two_images_are_the_same(drawn: Path) -> None:
    digests = list(_digests(drawn).values())
    assert len(set(digests)) == len(digests) == 400


def test_sizes_and_aspect_ratios_are_mixed(drawn: Path) -> None:
    sizes = []
    for path in drawn.rglob("*.jpg"):
        with Image.open(path) as image:
            assert image.mode == "RGB"
            sizes.append(image.size)
    sides = np.array(sizes)
    assert sides.min() >= 100
    assert sides.max() <= 220
    assert len(set(sizes)) > 300
    ratios = sides[:, 0] / sides[:, 1]
    assert ratios.min() < 0.7
    assert ratios.max() > 1.4


def _colour_features(path: Path) -> np.ndarray:
    """What colour alone says: mean, spread and an 8-bin histogram of each channel."""
    with Image.open(path) as image:
        pixels = np.asarray(image, float).reshape(-1, 3) / 255
    histograms = [np.histogram(channel, 8, (0, 1))[0] / len(channel) for channel in pixels.T]
    return np.concatenate([pixels.mean(0), pixels.std(0), *histograms])


def _load_colours(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, 30) and labels (N,), 1 for dogs."""
    rows = [(_colour_features(path), path.parent.name == "dogs") for path in sorted(folder.rglob("*.jpg"))]
    return np.array([features for features, _ in rows]), np.array([label for _, label in rows], float)


def test_colour_does_not_give_the_class_away(drawn: Path) -> None:
    features, labels = _load_colours(drawn / "train")
    unseen, truth = _load_colours(drawn / "validation")
    mean, spread = features.mean(0), features.std(0) + 1e-9

    centres = np.stack([features[labels == label].mean(0) for label in (0, 1)])
    distances = np.linalg.norm((unseen[:, None] - centres) / spread, axis=2)
    nearest = np.mean(distances.argmin(1) == truth)

    # Ridge regression onto +-1: a linear classifier in closed form.
    design = np.c_[(features - mean) / spread, np.ones(len(features))]
    weights = np.linalg.solve(design.T @ design + 10 * np.eye(design.shape[1]), design.T @ (2 * labels - 1))
    linear = np.mean((np.c_[(unseen - mean) / spread, np.ones(len(unseen))] @ weights > 0) == truth)

    # 100 validation images: 0.65 is chance plus three standard errors.
    assert nearest < 0.65
    assert linear < 0.65


@pytest.mark.parametrize("kind", synthetic.KINDS)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 220), (220, 100)])
def test_every_kind_is_drawn_at_every_size(kind: str, height: int, width: int) -> None:
    for seed in range(3):
        image = synthetic.draw_animal(kind, np.random.default_rng(seed), height, width)
        assert image.size == (width, height)
        assert np.asarray(image).std() > 8


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"cat, dog, .*received 'unicorn'"):
        synthetic.draw_animal("unicorn", np.random.default_rng(0), 100, 100)
