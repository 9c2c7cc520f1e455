"""Simulates labels of which some are wrong, or plants them among images: which of them the rule suspects.

`python benchmarks/labels.py` prints the table of benchmarks/statistics.md, for models of any accuracy. `python benchmarks/labels.py
FOLDER BACKBONE [FRACTION ...]` copies a folder of images, moves a fraction of them (0.02) to another class, and audits the copy.
"""

import functools
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import optimize, special
from scipy.stats import norm

from catdog import Study
from catdog.data.images import is_image_file
from catdog.statistics.labels import doubt_labels

IMAGES = 800


@functools.cache
def find_strength(accuracy: float, classes: int) -> float:
    """Returns how far the true class' mean score must lie above the others', in standard deviations, for this accuracy."""
    scores = np.linspace(-8, 16, 2401)

    def miss(strength: float) -> float:
        density = norm.pdf(scores - strength) * norm.cdf(scores) ** (classes - 1)
        return float(np.trapezoid(density, scores)) - accuracy

    return float(optimize.brentq(miss, 0, 8))


def draw_answers(
    generator: np.random.Generator, *, classes: int, accuracy: float, wrong: float, sharpness: float = 1.0,
    unusual: float = 0.0, images: int = IMAGES,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Returns a model's probabilities, float32 (N, C), the labels, int64 (N,), and which are wrong, bool (N,).

    Args:
        generator: random number generator.
        classes: number of classes.
        accuracy: of the model, by the true classes.
        wrong: probability that a label is another class than the true one, at random.
        sharpness: factor of the model's logits; 1: it is calibrated, 3: it is very overconfident.
        unusual: fraction of images that look like those of a random class, whatever their own; their labels may be right.
        images: number of images.
    """
    true = generator.integers(classes, size=images)
    looks = np.where(generator.random(images) < unusual, generator.integers(classes, size=images), true)
    strength = find_strength(accuracy, classes)
    scores = generator.normal(size=(images, classes))
    scores[np.arange(images), looks] += strength
    probabilities = special.softmax(sharpness * strength * scores, axis=1).astype(np.float32)
    is_wrong = generator.random(images) < wrong
    labels = np.where(is_wrong, (true + generator.integers(1, classes, size=images)) % classes, true)
    return probabilities, labels, is_wrong


def confident_learning(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns which labels confident learning's thresholds alone suspect, as catdog did before: bool (N,)."""
    images, classes = probabilities.shape
    usual = np.array(
        [probabilities[labels == one, one].mean() if (labels == one).any() else 2 for one in range(classes)]
    )
    confident = np.where(probabilities >= usual, probabilities, -1.0)
    belongs = confident.argmax(axis=1)
    return (confident[np.arange(images), belongs] > 0) & (belongs != labels)


def measure(studies: int, **settings: float) -> tuple[list[tuple[float, float, float]], float]:
    """Returns shown, precision and recall of confident learning alone and of the rule, and the mean `findable`."""
    generator = np.random.default_rng([int(1000 * value) for value in settings.values()])
    totals, findable = np.zeros((2, 2)), 0.0
    wrong = 0
    for _ in range(studies):
        probabilities, labels, is_wrong = draw_answers(generator, **settings)  # type: ignore[arg-type]
        doubts = doubt_labels(probabilities, labels)
        for row, suspect in enumerate((confident_learning(probabilities, labels), doubts.suspect)):
            totals[row] += suspect.sum(), (suspect & is_wrong).sum()
        wrong += int(is_wrong.sum())
        findable += doubts.findable / studies
    return [(shown / studies, hits / max(shown, 1), hits / max(wrong, 1)) for shown, hits in totals], findable


def plant(source: Path, target: Path, fraction: float, seed: int) -> set[str]:
    """Copies a folder of images, SPLIT/CLASS/FILE or CLASS/FILE, and moves a fraction to another class; returns their new names."""
    generator = random.Random(seed)
    shutil.copytree(source, target)
    planted = set()
    for path in sorted(path for path in target.rglob("*") if is_image_file(path)):
        if generator.random() < fraction:
            others = [
                place for place in sorted(path.parent.parent.iterdir()) if place.is_dir() and place != path.parent
            ]
            moved = generator.choice(others) / f"{path.parent.name}-{path.name}"
            planted.add(path.rename(moved).relative_to(target).as_posix())
    return planted


def print_planted(folder: str, backbone: str, fractions: Sequence[float], seeds: int = 3) -> None:
    """Prints how many of the labels that were made wrong are suspect, and how many others are."""
    print(
        "| wrong labels | seed | planted | shown | planted among them | precision | recall | accuracy | findable | CPU s |"
    )
    print("|" + 10 * "---|")
    for fraction in fractions:
        for seed in range(seeds if fraction else 1):
            with tempfile.TemporaryDirectory() as temporary:
                planted = plant(Path(folder), Path(temporary, "images"), fraction, seed)
                words = ("dataset=folder", f"dataset.archive={temporary}/images", f"dataset.cache={temporary}/cache")
                start = time.process_time()
                found = Study().audit(*words, labels=backbone)
                spent = time.process_time() - start
            images = found.images
            planted &= set(images["file"][images["used"] & (images["split"] != "test")])
            shown = set(found.labels.suspects["file"])
            hits = len(shown & planted)
            print(
                f"| {fraction:.1%} | {seed} | {len(planted)} | {len(shown)} | {hits} | {hits / max(len(shown), 1):.2f} "
                f"| {hits / max(len(planted), 1):.2f} | {found.labels.accuracy:.3f} | {found.labels.findable:.2f} | {spent:.0f} |",
                flush=True,
            )


def main(studies: int = 20) -> None:
    print(
        "| classes | accuracy | model | wrong labels | before: shown, precision, recall | now: shown, precision, recall |"
    )
    print("|" + 6 * "---|")
    kinds = {"calibrated": (1.0, 0.0), "overconfident": (3.0, 0.0), "1% unusual images": (1.0, 0.01)}
    for classes in (2, 10):
        for accuracy in (0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99):
            for kind, (sharpness, unusual) in kinds.items():
                if unusual and accuracy < 0.9:
                    continue
                for wrong in (0.0, 0.02, 0.05):
                    rows, _ = measure(
                        studies, classes=classes, accuracy=accuracy, wrong=wrong, sharpness=sharpness, unusual=unusual
                    )
                    cells = [f"{shown:.1f}, {precision:.2f}, {recall:.2f}" if wrong else f"{shown:.1f}"
                             for shown, precision, recall in rows]  # fmt: skip
                    print(f"| {classes} | {accuracy} | {kind} | {wrong:.0%} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print_planted(sys.argv[1], sys.argv[2], [float(word) for word in sys.argv[3:]] or [0.02])
    else:
        main(*map(int, sys.argv[1:]))
