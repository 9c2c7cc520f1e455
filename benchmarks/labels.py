"""Simulates labels of which some are wrong: which of them the rule suspects, for models of any accuracy.

`python benchmarks/labels.py` prints the table of benchmarks/statistics.md.
"""

import functools
import sys

import numpy as np
from scipy import optimize, special
from scipy.stats import norm

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
    main(*map(int, sys.argv[1:]))
