"""Simulated studies whose truth is known: how often intervals cover it, and how large a difference they find.

python benchmarks/studies.py       # the tables of benchmarks/README.md, some minutes
"""

import numpy as np
from scipy.stats import norm

from catdog.contrast import accuracy_interval, bootstrap_interval, contrast

DIFFICULTY, TASTE, WHIM = 1.5, 0.7, 1.0
# What an image's difficulty, a variant's taste and a model's whim do to a latent score; with them the simulated runs agree
# as often as the real study's do.
CASES = [(200, 0.6, 0.2), (800, 0.6, 0.06), (800, 0.6, 0.2), (800, 4.0, 0.1)]


def draw_studies(
    studies: int, seeds: int, images: int, *, generator: np.random.Generator, better: float = 0.0, level: float = 0.6,
    seed_spread: float = 0.06,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Returns the answers of two variants, whether each is right: bool (studies, seeds, images), twice.

    An image is easy or hard for all, easier for one variant than for the other, and each model has its good and bad days: as in
    real runs, the errors of any two models are correlated.

    Args:
        studies: how many.
        seeds: runs of each variant.
        images: that all runs answer.
        generator: of random numbers.
        better: what the first variant has over the second, in units of the latent score; 0: nothing.
        level: of both; `true_accuracy` says what accuracy that is.
        seed_spread: standard deviation of a run's latent level.
    """
    shared = generator.normal(0, DIFFICULTY, (studies, 1, images)).astype(np.float32)
    answers = []
    for shift in (better, 0.0):
        latent = shared + generator.normal(0, TASTE, (studies, 1, images)).astype(np.float32)
        latent = latent + generator.normal(0, seed_spread, (studies, seeds, 1)).astype(np.float32)
        latent += generator.standard_normal((studies, seeds, images), dtype=np.float32) * np.float32(WHIM)
        answers.append(latent + np.float32(level + shift) > 0)
    return answers[0], answers[1]


def true_accuracy(level: float, seed_spread: float) -> float:
    """Returns the accuracy, in [0, 1], of a variant of that level over all seeds and images."""
    return float(norm.cdf(level / np.sqrt(DIFFICULTY**2 + TASTE**2 + WHIM**2 + seed_spread**2)))


def find_shift(difference: float, level: float, seed_spread: float) -> float:
    """Returns what `better` must be for the first variant's accuracy to be higher by `difference`."""
    spread = np.sqrt(DIFFICULTY**2 + TASTE**2 + WHIM**2 + seed_spread**2)
    return float(norm.ppf(true_accuracy(level, seed_spread) + difference) * spread - level)


def print_coverage(studies: int = 2000, bootstrapped: int = 400) -> None:
    """Prints how often 95% intervals cover the truth."""
    print("| images | accuracy | seed spread | seeds | difference | one variant | plain bootstrap |\n|" + 7 * "---|")
    for images, level, seed_spread in CASES:
        truth = true_accuracy(level, seed_spread)
        for seeds in (2, 3, 5, 10):
            generator = np.random.default_rng([images, seeds])
            covered = alone = drawn = 0
            for _ in range(10):
                first, second = draw_studies(
                    studies // 10, seeds, images, generator=generator, level=level, seed_spread=seed_spread
                )
                found = contrast(first, second)
                covered += ((found.low <= 0) & (found.high >= 0)).sum()
                low, high = accuracy_interval(first)
                alone += ((low <= truth) & (truth <= high)).sum()
                for k in range(bootstrapped // 10):
                    low, high = bootstrap_interval(first[k], second[k], draws=400, seed=k)
                    drawn += low <= 0 <= high
            spread = first.mean(axis=2).std(axis=1, ddof=1).mean()
            print(
                f"| {images} | {truth:.2f} | {100 * spread:.1f} points | {seeds} | {covered / studies:.3f} "
                f"| {alone / studies:.3f} | {drawn / bootstrapped:.3f} |",
                flush=True,
            )


def print_power(studies: int = 1000, level: float = 0.6, seed_spread: float = 0.06) -> None:
    """Prints in how many studies a difference in accuracy is found at 95%."""
    differences = (0.01, 0.02, 0.03, 0.05)
    heads = " | ".join(f"{100 * difference:.0f} points" for difference in differences)
    print(f"| images | seeds | {heads} |\n|---|---|" + len(differences) * "---|")
    for images in (200, 800, 3000):
        for seeds in (2, 3, 5, 10):
            generator = np.random.default_rng([images, seeds])
            shares = []
            for difference in differences:
                better = find_shift(difference, level, seed_spread)
                hits = 0
                for _ in range(10):
                    first, second = draw_studies(
                        studies // 10, seeds, images, generator=generator, better=better, level=level,
                        seed_spread=seed_spread,
                    )  # fmt: skip
                    hits += (contrast(first, second).low > 0).sum()
                shares.append(f"{hits / studies:.2f}")
            print(f"| {images} | {seeds} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    print_coverage()
    print()
    print_power()
