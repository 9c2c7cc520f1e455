"""What the best of many configurations is worth: the luck of being chosen, taken off again; arrays in, numbers out.

The best of 40 noisy scores is 1.5 to 2.5 points too high on 800 images, if all 40 are equal. Two things help. `correct_selection`
repeats the choice on some of the images and counts it on the others: what the best model of a search will reach on new images.
`allow_for_selection` is for a race with fresh seeds, which has one kind of luck left: configurations that were chosen on these
images suit these images, whatever the seed. `benchmarks/tuning.md` shows both in simulated searches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from catdog.statistics.contrasts import Contrast, mean
from catdog.statistics.proportions import CONFIDENCE

DRAWS = 1000
CURVE_DRAWS = 500
# The answers that stopped trials would have given are imputed so often, with new random residuals.
IMPUTATIONS = 10
# Means that differ by less are equal: sums in another order may differ in their last bits.
EQUAL = 1e-12


@dataclass(frozen=True)
class Correction:
    """The score of the best of several configurations, as found and as it would be on new images; the higher the better.

    Attributes:
        found: the highest mean.
        corrected: the estimate for new images of the kind.
        low: lower bound of its 95% interval.
        high: upper bound.
        leader: the row of the best configuration; of equals, the first.
    """

    found: float
    corrected: float
    low: float
    high: float
    leader: int

    @property
    def optimism(self) -> float:
        """By how much the found score is too high."""
        return self.found - self.corrected


def correct_selection(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    rungs: Sequence[np.ndarray] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> Correction:
    """Returns what the best of several trained configurations is worth on new images.

    The choice is repeated on resampled images, and what it chooses is counted on the images that were not drawn (BBC-CV). It is
    an estimate for the trained model of the best configuration; training it again with another seed is another question. Where
    configurations truly differ, it is a little too low (by 0.3 points where they spread by 2), because each repeated choice
    knows fewer images than the real one.

    If most trials were stopped early, those that finished have been chosen as well, at the rungs, on the same images. Give `rungs`,
    or the result stays too high by about a third of a point. Then the whole halving is repeated on the resampled images. A trial
    that passes there but was stopped in reality needs answers that it never gave. They are imputed: the mean answer of the
    trials that went on, plus the regression on the answers at the rung before, plus the residual of one of those trials at random.

    Args:
        values: float or bool (K, N): what each configuration counts for on each image, the higher the better, such as whether it is
            right, or its cross-fitted score; NaN in the whole row of one that was not trained to the end.
        groups: int (N,), the group of each image: groups are drawn as a whole. None: every image is drawn by itself.
        rungs: for each rung, the lowest first, float or bool (K, N): the same for the model that counted at this rung; NaN in the
            rows of those that did not come so far. Trials that diverged are left out, or NaN everywhere.
        draws: the number of resamples.
        seed: of the random numbers.

    Raises:
        ValueError: the shapes do not fit, no configuration is known to the end, or there are fewer than two images or groups.

    Source: Tsamardinos, Greasidou and Borboudakis (2018), "Bootstrapping the out-of-sample predictions for efficient and accurate
    cross-validation", Machine Learning 107:1895-1922; Little and Rubin (2002), "Statistical Analysis with Missing Data", 2nd
    edition, chapter 4, for imputation by regression with residuals of others (answers are missing at random, given the rung).
    """
    levels = _read_levels(values, rungs, groups)
    final = levels[-1].mean(axis=1)
    best = _find_best(final)
    spread = mean(levels[-1][best : best + 1], groups)
    counts = [int(_is_known(level).sum()) for level in levels]
    outside, chosen_means = [], []
    for filled, weights in _resample(levels, groups, draws, seed):
        inside, out = _weigh(filled, weights, groups)
        chosen = _replay(inside, counts)
        outside.append(_count(out, chosen, levels[-1]))
        chosen_means.append(filled[-1].mean(axis=1)[chosen])
    corrected = float(np.nanmean(np.concatenate(outside)))
    # The noise of one model's mean over images, and that of which model is chosen.
    error = np.sqrt(spread.standard_error() ** 2 + np.concatenate(chosen_means).var())
    half = float(special.stdtrit(spread.freedom(), 0.5 + CONFIDENCE / 2) * error)
    return Correction(float(final[best]), corrected, corrected - half, corrected + half, best)


def trace_selection(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    rungs: Sequence[np.ndarray] = (),
    draws: int = CURVE_DRAWS,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the found and the corrected score of the best of the first k configurations, for every k.

    Args:
        values: as for `correct_selection`, the configurations in the order of their trials.
        groups: as there.
        rungs: as there.
        draws: the number of resamples.
        seed: of the random numbers.

    Returns:
        float64 (K,) each; NaN as long as no configuration is known to the end.

    Raises:
        ValueError: as for `correct_selection`.
    """
    levels = _read_levels(values, rungs, groups)
    known = np.stack([_is_known(level) for level in levels])
    count = known.shape[1]
    means = np.where(known[-1], np.nan_to_num(levels[-1]).mean(axis=1), -np.inf)
    highest = np.maximum.accumulate(means)
    found = np.where(np.isfinite(highest), highest, np.nan)
    corrected = np.full(count, np.nan)
    outside: list[list[np.ndarray]] = [[] for _ in range(count)]
    for filled, weights in _resample(levels, groups, draws, seed):
        inside, out = _weigh(filled, weights, groups)
        for last in map(int, np.flatnonzero(np.cumsum(known[-1]) > 0)):
            first = slice(0, last + 1)
            chosen = _replay([level[first] for level in inside], [int(level[first].sum()) for level in known])
            outside[last].append(_count(out[first], chosen, levels[-1][first]))
    for last, parts in enumerate(outside):
        if parts:
            corrected[last] = np.nanmean(np.concatenate(parts))
    return found, corrected


@dataclass(frozen=True)
class Allowance:
    """By how much a race with fresh seeds flatters configurations that were chosen, on the same images, for racing.

    Attributes:
        search: the luck of the search: chosen configurations suit these images better than others. A claim that one of them is
            better than the default holds only if its lower bound is above this.
        race: the luck of the race: the best of those that race is the luckiest of them. It matters only where that one is named and
            its difference is shown; intervals of all pairs that hold together do not need it.
    """

    search: float
    race: float

    @property
    def of_winner(self) -> float:
        """By how much the lower bound of the 95% interval of the best one's difference from the default must be lowered."""
        return self.search + self.race


def allow_for_selection(found: Sequence[Contrast], trials: int) -> Allowance:
    """Returns how much luck is left in a race between the best configurations of a search and the default.

    The race has fresh seeds, so the luck of seeds and of single runs is gone. But a configuration suits some images more than
    others, whatever the seed. The search has seen single runs, whose scores vary by this effect of configuration and image (the
    variance of their difference that more seeds would not reduce, halved) and by their seed. The best of K such scores is
    above their mean by the expected maximum of K normal variables, and the effect's share of this luck is its share of the
    variance. This is what it is if all configurations are equal; where they differ, there is less, so it errs to the safe side.

    Args:
        found: the configurations that raced, each minus the default, on the images of the search.
        trials: the number K of configurations that the search tried, the default not counted.

    Raises:
        ValueError: nothing raced.

    Source: Searle, Casella and McCulloch (1992), "Variance Components", chapter 4, for the components of crossed factors, and
    section 7.2 for the share by which a predicted effect shrinks.
    """
    if not found:
        raise ValueError("needs the contrast of a configuration that raced")
    effect = float(np.mean([one.image_variance for one in found])) / 2
    by_seed = float(np.mean([variance for one in found for variance in one.seed_variances]))
    seeds = min(one.seeds[0] for one in found)
    seen = effect + by_seed
    search = expect_highest(trials) * effect / np.sqrt(seen) if seen > 0 else 0.0
    noise = effect + by_seed / seeds
    # If the differences spread more than luck does, the configurations differ, and the best is less of a lucky one.
    spread = float(np.var([one.estimate for one in found], ddof=1)) if len(found) > 1 else 0.0
    race = expect_highest(len(found)) * noise / np.sqrt(max(noise, spread)) if noise > 0 else 0.0
    return Allowance(float(search), float(race))


def expect_highest(count: int) -> float:
    """Returns the expected maximum of so many independent standard normal variables; 0 for one or none."""
    if count <= 1:
        return 0.0
    from scipy.stats import norm

    points = np.linspace(-8, 8, 2001)
    return float(np.trapezoid(points * count * norm.pdf(points) * norm.cdf(points) ** (count - 1), points))


def _read_levels(values: np.ndarray, rungs: Sequence[np.ndarray], groups: np.ndarray | None) -> list[np.ndarray]:
    """Returns the values at every rung and at the end, float64 (K, N); what is known later fills what is missing before."""
    levels = [np.asarray(level, dtype=float) for level in (*rungs, values)]
    shape = levels[-1].shape
    if len(shape) != 2 or any(level.shape != shape for level in levels) or shape[1] < 2:
        raise ValueError(
            f"needs values and rungs of one shape (configurations, images), got {[one.shape for one in levels]}"
        )
    if groups is not None and (len(groups) != shape[1] or len(np.unique(groups)) < 2):
        raise ValueError(
            f"needs a group for each of {shape[1]} images, two or more, got {len(np.unique(groups))} in {len(groups)}"
        )
    if not _is_known(levels[-1]).any():
        raise ValueError("needs a configuration that was trained to the end")
    for place in range(len(levels) - 2, -1, -1):
        missing = ~_is_known(levels[place])
        levels[place] = np.where(missing[:, None], levels[place + 1], levels[place])
    return levels


def _is_known(level: np.ndarray) -> np.ndarray:
    return np.asarray(~np.isnan(level[:, 0]))


def _find_best(means: np.ndarray) -> int:
    """Returns the place of the highest mean; of equals, the first."""
    highest = np.nanmax(means)
    return int(np.flatnonzero(means >= highest - EQUAL * max(1.0, abs(highest)))[0])


def _resample(
    levels: Sequence[np.ndarray], groups: np.ndarray | None, draws: int, seed: int
) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """Yields the levels with what is missing imputed, and the weights of images, or of groups, in some draws: float (G, draws)."""
    generator = np.random.default_rng(seed)
    units = levels[-1].shape[1] if groups is None else len(np.unique(groups))
    parts = IMPUTATIONS if len(levels) > 1 else 1
    for part in np.array_split(np.arange(draws), parts):
        if len(part):
            filled = _impute(levels, generator)
            yield filled, generator.multinomial(units, np.full(units, 1 / units), len(part)).T.astype(float)


def _impute(levels: Sequence[np.ndarray], generator: np.random.Generator) -> list[np.ndarray]:
    """Returns the levels with the rows of trials that were stopped filled from the level before; NaN stays in the first level."""
    filled = [levels[0]]
    for level in levels[1:]:
        before, known = filled[-1], _is_known(level)
        missing = np.flatnonzero(~known & _is_known(before))
        if len(missing):
            level = level.copy()
            level[missing] = _continue(before[known], level[known], before[missing], generator)
        filled.append(level)
    return filled


def _continue(before: np.ndarray, after: np.ndarray, others: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns the answers that other trials might have given later: float (M, N), from those of T trials before and after.

    How much of an image's luck lasts is estimated from deviations of single answers, less those of whole trials and images: the
    means of few trials would say little.
    """
    start, end = before - before.mean(axis=0), after - after.mean(axis=0)
    start_answers, end_answers = (part - part.mean(axis=1, keepdims=True) for part in (start, end))
    total = float((start_answers**2).sum())
    slope = float((start_answers * end_answers).sum()) / total if total > 0 else 1.0
    residuals = (end - slope * start) * np.sqrt(len(after) / max(len(after) - 1, 1))
    drawn = residuals[generator.integers(len(after), size=len(others))]
    return np.asarray(after.mean(axis=0) + slope * (others - before.mean(axis=0)) + drawn)


def _weigh(
    levels: Sequence[np.ndarray], weights: np.ndarray, groups: np.ndarray | None
) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns each level's means over the images that were drawn, and the last one's over the others: (K, draws); -inf: unknown."""
    sizes = np.ones(levels[0].shape[1])
    sums = [np.nan_to_num(level) for level in levels]
    if groups is not None:
        _, codes = np.unique(groups, return_inverse=True)
        sizes = np.bincount(codes).astype(float)
        sums = [np.stack([np.bincount(codes, row) for row in level]) for level in sums]
    inside = [
        np.where(_is_known(level)[:, None], total @ weights / (sizes @ weights), -np.inf)
        for level, total in zip(levels, sums, strict=True)
    ]
    left = (weights == 0).astype(float)
    count = sizes @ left
    # With very few images all may have been drawn: such a draw says nothing.
    return inside, np.where(count > 0, sums[-1] @ left / np.maximum(count, 1), np.nan)


def _replay(inside: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    """Returns the configuration that halving chooses in each draw: int (draws,).

    Args:
        inside: the means at each level, (K, draws).
        counts: how many configurations came to each level in reality; so many come there now.
    """
    alive = np.ones(inside[0].shape, dtype=bool)
    for level, count in zip(inside, counts[1:], strict=False):
        scores = np.where(alive, level, -np.inf)
        if count < len(scores):
            passed = np.argsort(-scores, axis=0, kind="stable")[:count]
            alive = np.zeros_like(alive)
            np.put_along_axis(alive, passed, True, axis=0)
    return np.asarray(np.where(alive, inside[-1], -np.inf).argmax(axis=0))


def _count(out: np.ndarray, chosen: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Returns what the chosen configurations count for on the images that were not drawn: float (draws,).

    Some draws leave out easier images than others. The mean of all models shows by how much, and it is taken off, which changes
    nothing on average, but a tenth of the draws is enough.
    """
    known = _is_known(final)
    luck = out[known].mean(axis=0) - final[known].mean()
    return np.asarray(out[chosen, np.arange(len(chosen))] - luck)
