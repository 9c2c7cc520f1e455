"""Simulates studies whose truth is known: how often intervals cover it, and which differences they detect.

`python benchmarks/studies.py` prints the tables of benchmarks/statistics.md; it takes some minutes.
"""

import numpy as np
from scipy.stats import norm

from catdog.statistics.contrasts import accuracy_interval, bootstrap_interval, bootstrap_means, contrast
from catdog.statistics.judgements import Judgement
from catdog.statistics.sequential import level_of_looks, plan_looks

# Standard deviations of the parts of a latent score: an image's difficulty, a variant's taste (for an image) and a model's whim.
# With these, the errors of two seeds of a variant correlate by 0.5, and those of two variants by 0.4. In experiments/cats_vs_dogs
# the correlations are 0.43 to 0.49 (mobilenet 0.77), and 0.08 to 0.42.
DIFFICULTY, TASTE, WHIM = 1.5, 0.7, 1.0
CASES = [(200, 0.6, 0.2), (800, 0.6, 0.06), (800, 0.6, 0.2), (800, 4.0, 0.1)]


def draw_studies(
    studies: int, seeds: int, images: int, *, generator: np.random.Generator, better: float = 0.0, level: float = 0.6,
    seed_spread: float = 0.06,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Returns whether each answer of two variants is right: two arrays, bool (studies, seeds, images).

    An image is easy or hard for all models, and easier for one variant than for the other; each model also varies at random. As in
    real runs, the errors of any two models are correlated.

    Args:
        studies: number of studies.
        seeds: number of runs of each variant.
        images: number of images, the same for all runs.
        generator: random number generator.
        better: advantage of the first variant over the second, in units of the latent score; 0: none.
        level: mean latent score of both variants; `true_accuracy` converts it to an accuracy.
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


def draw_grouped_studies(
    studies: int, seeds: int, sizes: np.ndarray, *, generator: np.random.Generator, level: float = 0.6,
    seed_spread: float = 0.06,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Returns studies as `draw_studies` does, of two equal variants, whose images come in groups; and the group of each image.

    The images of a group are nearly the same: difficulty and taste are the group's, and half of the variance of a model's whim.

    Args:
        studies: number of studies.
        seeds: number of runs of each variant.
        sizes: int (groups,), the number of images of each group.
        generator: random number generator.
        level: mean latent score of both variants.
        seed_spread: standard deviation of a run's latent level.
    """
    of = np.repeat(np.arange(len(sizes)), sizes)
    shared = generator.normal(0, DIFFICULTY, (studies, 1, len(sizes))).astype(np.float32)
    answers = []
    for _ in range(2):
        latent = shared + generator.normal(0, TASTE, (studies, 1, len(sizes))).astype(np.float32)
        latent = latent + generator.normal(0, seed_spread, (studies, seeds, 1)).astype(np.float32)
        latent += generator.standard_normal((studies, seeds, len(sizes)), dtype=np.float32) * np.float32(WHIM / 2**0.5)
        latent = latent[..., of]
        latent += generator.standard_normal(latent.shape, dtype=np.float32) * np.float32(WHIM / 2**0.5)
        answers.append(latent + np.float32(level) > 0)
    return answers[0], answers[1], of


def true_accuracy(level: float, seed_spread: float) -> float:
    """Returns the accuracy, in [0, 1], of a variant with this latent level, over all seeds and images."""
    return float(norm.cdf(level / np.sqrt(DIFFICULTY**2 + TASTE**2 + WHIM**2 + seed_spread**2)))


def find_shift(difference: float, level: float, seed_spread: float) -> float:
    """Returns the value of `better` for which the first variant's accuracy is higher by `difference`."""
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
                    low, high = bootstrap_interval(*bootstrap_means([first[k], second[k]], draws=400, seed=k))
                    drawn += low <= 0 <= high
            spread = first.mean(axis=2).std(axis=1, ddof=1).mean()
            print(
                f"| {images} | {truth:.2f} | {100 * spread:.1f} points | {seeds} | {covered / studies:.3f} "
                f"| {alone / studies:.3f} | {drawn / bootstrapped:.3f} |",
                flush=True,
            )


def print_groups(studies: int = 1000) -> None:
    """Prints how often 95% intervals cover the truth if images come in groups, and the groups are named or not."""
    cases = {
        "200 groups of 4": np.full(200, 4),
        "50 groups of 4": np.full(50, 4),
        "20 groups of 4": np.full(20, 4),
        "100 of 1, 50 of 4, 20 of 10": np.repeat([1, 4, 10], [100, 50, 20]),
    }
    print("| images | seeds | difference, named | unnamed | one variant, named | unnamed |\n|" + 6 * "---|")
    truth = true_accuracy(0.6, 0.06)
    for name, sizes in cases.items():
        for seeds in (2, 3, 5, 10):
            generator = np.random.default_rng([seeds, len(sizes)])
            covered = np.zeros(4)
            for _ in range(4):
                first, second, groups = draw_grouped_studies(studies // 4, seeds, sizes, generator=generator)
                for place, known in enumerate((groups, None)):
                    found = contrast(first, second, known)
                    low, high = accuracy_interval(first, groups=known)
                    covered[place] += ((found.low <= 0) & (found.high >= 0)).sum()
                    covered[2 + place] += ((low <= truth) & (truth <= high)).sum()
            shares = " | ".join(f"{share:.3f}" for share in covered / (studies // 4 * 4))
            print(f"| {name} | {seeds} | {shares} |", flush=True)


def print_power(studies: int = 1000, level: float = 0.6, seed_spread: float = 0.06) -> None:
    """Prints the fraction of studies in which a difference in accuracy is detected at 95% confidence."""
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


def decide_all(first: np.ndarray, second: np.ndarray, looks: list[int], error: float, margin: float) -> tuple:
    """Returns what `catdog.decide` would conclude for many studies, and after how many seeds.

    Args:
        first: bool (studies, seeds, images), with as many seeds as the last look has.
        second: the same for the other variant.
        looks: number of seeds at each look.
        error: error rate of all looks together.
        margin: differences up to this count as equivalent.

    Returns:
        outcome: str (studies,), values of `Judgement`, from the first variant's view; seeds: int (studies,).
    """
    outcome = np.full(len(first), Judgement.UNDECIDED.value, dtype="U10")
    seeds = np.full(len(first), looks[-1])
    for count, level in zip(looks, level_of_looks(looks, error), strict=True):
        found = contrast(first[:, :count], second[:, :count])
        low, high = found.interval(1 - level)
        equivalent = np.maximum(-low, high) <= margin
        decided = {Judgement.BETTER: low > 0, Judgement.WORSE: high < 0, Judgement.EQUIVALENT: equivalent}
        for decision, holds in decided.items():
            new = holds & (outcome == Judgement.UNDECIDED.value)
            outcome[new], seeds[new] = decision.value, count
    return outcome, seeds


def print_decisions(studies: int = 1000, most: int = 12, margin: float = 0.02) -> None:
    """Prints the outcomes of sequential decisions, and how many seeds they take."""
    print("| images | seed spread | true difference | better | worse | no difference | undecided | seeds, mean |")
    print("|" + 8 * "---|")
    for images, level, seed_spread in CASES:
        for difference in (0.0, 0.02, 0.05) if level < 1 else (0.0, 0.005, 0.015):
            generator = np.random.default_rng(images)
            better = find_shift(difference, level, seed_spread)
            counts, spent = dict.fromkeys(("better", "worse", "equivalent", "undecided"), 0), 0
            for _ in range(10):
                first, second = draw_studies(
                    studies // 10,
                    most,
                    images,
                    generator=generator,
                    better=better,
                    level=level,
                    seed_spread=seed_spread,
                )
                outcome, seeds = decide_all(first, second, plan_looks(3, most), 0.05, margin)
                for name in counts:
                    counts[name] += int((outcome == name).sum())
                spent += int(seeds.sum())
            shares = " | ".join(f"{count / studies:.3f}" for count in counts.values())
            spread = f"{100 * first.mean(axis=2).std(axis=1, ddof=1).mean():.1f} points"
            print(
                f"| {images} | {spread} | {100 * difference:.1f} points | {shares} | {spent / studies:.1f} |",
                flush=True,
            )


def print_plain_looks(studies: int = 2000, most: int = 12) -> None:
    """Prints how often equal variants seem different to someone who looks as often, with a plain 95% interval each time."""
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(10):
        first, second = draw_studies(studies // 10, most, 800, generator=generator)
        found = [contrast(first[:, :count], second[:, :count]) for count in plan_looks(3, most)]
        wrong += np.any([(look.low > 0) | (look.high < 0) for look in found], axis=0).sum()
    print(f"equal variants that seem different with plain 95% intervals at every look: {wrong / studies:.3f}")


if __name__ == "__main__":
    print_coverage()
    print()
    print_groups()
    print()
    print_power()
    print()
    print_decisions()
    print()
    print_plain_looks()
