"""Simulated studies under conditions that make scores unfair: how far intervals, verdicts and the champion can be trusted there.

`python benchmarks/fair_scores.py` prints the tables of benchmarks/fair_scores.md; it takes a few CPU minutes. With the names of
conditions as arguments it runs only those: `python benchmarks/fair_scores.py selection groups`.

The generator is not that of studies.py. An image is easy, so that every model gets it right, or hard. A hard image has a
difficulty, each variant has a taste for it, and each run a whim. Their sum is the log odds of a right answer. Answers that are
drawn anew at every epoch flip from epoch to epoch; their probability stays, so all epochs are equally good, and the truth is known.

Every condition is a function that draws studies and returns what is compared today ("before") and, where there is a fix, what is
compared with it ("after"). Where there is none, it returns None, and the table shows one number.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from catdog.config.schema import PromoteConfig
from catdog.registry.evidence import MOVES, Challenge, weigh
from catdog.statistics.contrasts import Contrast, accuracy_interval, contrast
from catdog.statistics.failures import find_diverged
from catdog.statistics.judgements import Judgement, judge
from catdog.statistics.proportions import CONFIDENCE, correct_by_holm
from catdog.statistics.selection import cross_fit
from catdog.statistics.sequential import RESERVE, level_of_looks, plan_looks, spend_on_unplanned_look
from catdog.statistics.summaries import summarize_pair, summarize_seeds

# Standard deviations, in log odds, of a hard image's difficulty, a variant's taste and a run's whim. With these, the errors of two
# seeds of a variant correlate by about 0.5 and those of two variants by about 0.4, as in experiments/cats_vs_dogs.
DIFFICULTY, TASTE, WHIM = 4.3, 2.0, 2.5
# An easy image is answered right with these log odds.
EASY = 6.0
# The standard deviation of a run's true accuracy from seed to seed, if nothing else is said.
SPREAD = 0.005
EPOCHS = 20
MARGIN = 0.02
CHANCE = 0.5
ARROW = "\N{RIGHTWARDS ARROW}"
# Studies that are drawn at a time: all of them at once would take gigabytes.
CHUNK = 100
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


# --- The generator ---


@dataclass(frozen=True)
class World:
    """What images and runs are like.

    Args:
        accuracy: the true accuracy, over all images and seeds, of a variant without a shift.
        easy: the share of easy images.
        images: the number of validation images.
        seed_spread: the standard deviation of a run's true accuracy from seed to seed.
        group: images come in groups of so many that are nearly identical.
    """

    accuracy: float = 0.9
    easy: float = 0.6
    images: int = 800
    seed_spread: float = SPREAD
    group: int = 1

    @cached_property
    def level(self) -> float:
        """The mean log odds of a hard image."""
        return float(brentq(lambda level: self._accuracy_at(level, 0.0) - self.accuracy, -60, 60))

    @cached_property
    def slope(self) -> float:
        """How much the true accuracy grows with a variant's or a run's shift in log odds."""
        level = self.level
        return (self._accuracy_at(level, 0.01) - self._accuracy_at(level, -0.01)) / 0.02

    def _accuracy_at(self, level: float, shift: float | np.ndarray) -> float | np.ndarray:
        spread = np.sqrt(DIFFICULTY**2 + TASTE**2 + WHIM**2)
        hard = expit(level + np.asarray(shift)[..., None] + spread * NODES) @ WEIGHTS / WEIGHTS.sum()
        return self.easy * expit(EASY + np.asarray(shift)) + (1 - self.easy) * hard

    def true_accuracy(self, shift: float | np.ndarray) -> np.ndarray:
        """Returns the true accuracy, over all images, of a run with this shift in log odds; (...) -> (...)."""
        return np.asarray(self._accuracy_at(self.level, shift))

    def mean_accuracy(self, shift: float) -> float:
        """Returns the true accuracy of a variant with this shift, over all images and seeds."""
        return float(self.true_accuracy(shift + self.seed_spread / self.slope * NODES) @ WEIGHTS / WEIGHTS.sum())

    def find_shift(self, difference: float) -> float:
        """Returns the shift in log odds with which a variant is better by this difference in accuracy."""
        equal = self.mean_accuracy(0.0)
        return float(brentq(lambda shift: self.mean_accuracy(shift) - equal - difference, -5, 5))


def draw_images(world: World, studies: int, generator: np.random.Generator) -> np.ndarray:
    """Returns the log odds that a run without taste and whim is right: float32 (studies, 1, images)."""
    kinds = (studies, 1, world.images // world.group)
    hard = world.level + DIFFICULTY * generator.standard_normal(kinds, dtype=np.float32)
    odds = np.where(generator.random(kinds) < world.easy, np.nan, hard).astype(np.float32)
    return np.repeat(odds, world.group, axis=-1)


def draw_odds(
    world: World, images: np.ndarray, seeds: int, generator: np.random.Generator, shift: float | np.ndarray = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the log odds that each run is right on each image, and the runs' true accuracies.

    Args:
        world: what images and runs are like.
        images: as `draw_images` returns.
        seeds: runs of the variant.
        generator: random number generator.
        shift: of the variant, in log odds, or of each study's variant: (studies, 1).

    Returns:
        float32 (studies, seeds, images) and float64 (studies, seeds).
    """
    studies, kinds = len(images), images.shape[-1] // world.group
    runs = shift + world.seed_spread / world.slope * generator.standard_normal((studies, seeds))
    taste = TASTE * generator.standard_normal((studies, 1, kinds), dtype=np.float32)
    whim = WHIM * generator.standard_normal((studies, seeds, kinds), dtype=np.float32)
    # Near-identical images are liked and answered alike.
    own = np.repeat(taste + whim, world.group, axis=-1) if world.group > 1 else taste + whim
    odds = np.where(np.isnan(images), np.float32(EASY), images + own)
    return odds + runs[..., None].astype(np.float32), world.true_accuracy(runs)


def answer(odds: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns whether each answer is right: bool, in the shape of the log odds."""
    return generator.random(odds.shape, dtype=np.float32) < expit(odds)


def draw_variant(
    world: World, images: np.ndarray, seeds: int, generator: np.random.Generator, shift: float | np.ndarray = 0.0
) -> np.ndarray:
    """Returns a variant's answers: bool (studies, seeds, images)."""
    return answer(draw_odds(world, images, seeds, generator, shift)[0], generator)


def fail(values: np.ndarray, failed: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns the answers of a variant of which some runs diverged, and guess between two classes.

    Args:
        values: bool (studies, seeds, images).
        failed: bool (studies, seeds), which runs.
        generator: random number generator.
    """
    values = values.copy()
    values[failed] = generator.random((int(failed.sum()), values.shape[-1])) < CHANCE
    return values


def draw_epochs(odds: np.ndarray, wavering: float, generator: np.random.Generator) -> np.ndarray:
    """Returns the answers at every epoch: bool (epochs, studies, seeds, images).

    Args:
        odds: as `draw_odds` returns.
        wavering: the share of images whose answer is drawn anew at every epoch; the others keep theirs. At any single epoch the
            answers have the same distribution, so this changes no true accuracy.
        generator: random number generator.
    """
    probability = expit(odds)
    settled = generator.random(odds.shape, dtype=np.float32) < probability
    if not wavering:
        return np.broadcast_to(settled, (EPOCHS, *odds.shape))
    moves = generator.random(odds.shape, dtype=np.float32) < wavering
    epochs = np.empty((EPOCHS, *odds.shape), dtype=bool)
    for epoch in epochs:
        fresh = generator.random(odds.shape, dtype=np.float32) < probability
        epoch[:] = np.where(moves, fresh, settled)
    return epochs


# --- The fixes that others may still be building ---


def keep_best(epochs: np.ndarray) -> np.ndarray:
    """Returns the answers of the epoch with the highest accuracy on these very images: bool (studies, seeds, images)."""
    best = epochs.sum(axis=-1, dtype=np.int32).argmax(axis=0)
    return np.take_along_axis(epochs, best[None, ..., None], axis=0)[0]


def cross_fit_all(epochs: np.ndarray) -> np.ndarray:
    """Returns every run's cross-fitted scores, float (studies, seeds, images)."""
    scores = np.empty(epochs.shape[1:], dtype=np.float32)
    for place in np.ndindex(scores.shape[:-1]):
        right = epochs[(slice(None), *place)]
        scores[place] = cross_fit(right, [right])
    return scores


def in_rows(world: World) -> np.ndarray:
    """Returns the group of each image: int (images,)."""
    return np.repeat(np.arange(world.images // world.group), world.group)


# --- What is measured ---


@dataclass(frozen=True, eq=False)
class Drawn:
    """Studies with several variants, as one analysis sees them.

    Args:
        variants: the answers or scores, each (studies, seeds, images); the first two are the pair that is reported.
        truths: the variants' true mean accuracies.
        groups: int (images,), groups of images for the analysis; None: every image is its own.
        separate: the variances of two variants are kept apart, as they were before "few and unequal seeds".
    """

    variants: tuple[np.ndarray, ...]
    truths: tuple[float, ...]
    groups: np.ndarray | None = None
    separate: bool = False

    def contrast(self, one: int, other: int, seeds: int | None = None) -> Contrast:
        """Returns the difference of two variants, from the first `seeds` seeds of each."""
        found = contrast(self.variants[one][:, :seeds], self.variants[other][:, :seeds], groups=self.groups)
        return SeparateContrast(**vars(found)) if self.separate else found


class SeparateContrast(Contrast):
    """A contrast as it was before few and unequal seeds were treated."""

    def _choose(self, seeds: tuple[int, ...]) -> tuple:
        return self._variance(self.seed_variances, [n - 1 for n in seeds], seeds)


@dataclass(frozen=True)
class Tally:
    """What came out of studies, as shares of them unless said otherwise.

    Args:
        covered: the 95% interval of the first pair covers the truth.
        better: it lies above 0.
        worse: it lies below 0.
        holm: any of the verdicts on all pairs is wrong.
        decide: the sequential rule tells the first pair apart against the truth.
        alone: the 95% interval of the first variant's accuracy covers the truth.
        bias: of the first pair's difference, the mean.
        half_width: of its interval, the mean.
    """

    covered: float
    better: float
    worse: float
    holm: float
    decide: float
    alone: float
    bias: float
    half_width: float

    @classmethod
    def of(cls, drawn: Drawn) -> "Tally":
        """Returns the shares in these studies."""
        found = drawn.contrast(0, 1)
        truth = drawn.truths[0] - drawn.truths[1]
        low, high = found.interval()
        own = accuracy_interval(drawn.variants[0], groups=drawn.groups)
        return cls(
            covered=((low <= truth) & (truth <= high)).mean(),
            better=(low > 0).mean(),
            worse=(high < 0).mean(),
            holm=wrong_by_holm(drawn).mean(),
            decide=wrong_by_looks(drawn).mean(),
            alone=((own[0] <= drawn.truths[0]) & (drawn.truths[0] <= own[1])).mean(),
            bias=(found.estimate - truth).mean(),
            half_width=(high - low).mean() / 2,
        )


def wrong_by_holm(drawn: Drawn) -> np.ndarray:
    """Returns whether any verdict on a pair, after Holm's correction, contradicts the truth: bool (studies,).

    A pair whose truth is 0 may not be decided; another one not in the wrong direction.
    """
    pairs = list(combinations(range(len(drawn.variants)), 2))
    found = [drawn.contrast(*pair) for pair in pairs]
    p = np.stack([one.p for one in found], axis=1)
    decided = np.array([correct_by_holm(row) for row in p]) < 1 - CONFIDENCE
    truths = np.array([drawn.truths[one] - drawn.truths[other] for one, other in pairs])
    signs = np.sign(np.stack([one.estimate for one in found], axis=1))
    return (decided & (signs != np.sign(np.round(truths, 9)))).any(axis=1)


def wrong_by_looks(drawn: Drawn) -> np.ndarray:
    """Returns whether `decide` would tell the first pair apart against the truth at any of its looks: bool (studies,)."""
    seeds = min(len(values[0]) for values in drawn.variants[:2])
    looks = plan_looks(min(3, seeds), seeds)
    truth = drawn.truths[0] - drawn.truths[1]
    wrong = np.zeros(len(drawn.variants[0]), dtype=bool)
    open_ = ~wrong
    for count, level in zip(looks, level_of_looks(looks, 1 - CONFIDENCE), strict=True):
        low, high = drawn.contrast(0, 1, count).interval(1 - level)
        wrong |= open_ & (((low > 0) & (truth <= 0)) | ((high < 0) & (truth >= 0)))
        open_ &= ~((low > 0) | (high < 0))
    return wrong


# --- The conditions: each draws studies, and returns them as they are compared today and with the fix ---

Analyses = tuple[Drawn, Drawn | None]
# Whether the alias moves, from the difference of the variants, that of the two models that are served, and the challenge's number.
Rule = Callable[[Contrast, Contrast, int], bool]
VARIANTS = 4


def clean(world: World, seeds: int, studies: int, generator: np.random.Generator) -> Analyses:
    """Four equal variants; nothing is wrong."""
    images = draw_images(world, studies, generator)
    values = tuple(draw_variant(world, images, seeds, generator) for _ in range(VARIANTS))
    return Drawn(values, (world.mean_accuracy(0.0),) * VARIANTS), None


def selection(
    world: World,
    seeds: int,
    wavering: tuple[float, float],
    studies: int,
    generator: np.random.Generator,
    better: float = 0.0,
) -> Analyses:
    """The kept epoch is the best of 20 on the images that are compared; the first variant's answers waver more than the others'.

    Args:
        world: what images and runs are like.
        seeds: of each variant.
        wavering: share of answers that are drawn anew at every epoch, in the first variant and in the others.
        studies: how many.
        generator: random number generator.
        better: how much higher the first variant's true accuracy is than the others'.
    """
    images = draw_images(world, studies, generator)
    shift = world.find_shift(-better) if better else 0.0
    kept, crossed = [], []
    for variant in range(VARIANTS):
        odds, _ = draw_odds(world, images, seeds, generator, shift if variant else 0.0)
        epochs = draw_epochs(odds, wavering[min(variant, 1)], generator)
        kept.append(keep_best(epochs))
        crossed.append(cross_fit_all(epochs))
    truths = (world.mean_accuracy(0.0), *(world.mean_accuracy(0.0) - better,) * (VARIANTS - 1))
    return Drawn(tuple(kept), truths), Drawn(tuple(crossed), truths)


def divergence(world: World, seeds: int, studies: int, generator: np.random.Generator, rate: float = 0.1) -> Analyses:
    """Every run of the first variant diverges with probability `rate`: it then guesses between two classes."""
    before, _ = clean(world, seeds, studies, generator)
    first = fail(before.variants[0], generator.random((studies, seeds)) < rate, generator)
    truth = before.truths[0]
    truths = ((1 - rate) * truth + rate * CHANCE, *before.truths[1:])
    return Drawn((first, *before.variants[1:]), truths), None


def groups(world: World, seeds: int, studies: int, generator: np.random.Generator) -> Analyses:
    """Images come in groups of near-identical ones."""
    before, _ = clean(world, seeds, studies, generator)
    return before, replace(before, groups=in_rows(world))


def unequal(world: World, seeds: tuple[int, int], studies: int, generator: np.random.Generator) -> Analyses:
    """The first variant has fewer or more seeds than the second."""
    images = draw_images(world, studies, generator)
    values = tuple(draw_variant(world, images, count, generator) for count in seeds)
    after = Drawn(values, (world.mean_accuracy(0.0),) * 2)
    return replace(after, separate=True), after


def training_sets(world: World, seeds: int, studies: int, generator: np.random.Generator, spread: float) -> Analyses:
    """What is claimed is about all training sets of the kind, but all seeds of a study share one.

    Args:
        world: what images and runs are like.
        seeds: of each variant.
        studies: how many.
        generator: random number generator.
        spread: standard deviation of a variant's true mean accuracy from one training set to another.
    """
    images = draw_images(world, studies, generator)
    values = []
    for _ in range(VARIANTS):
        moved = spread / world.slope * generator.standard_normal((studies, 1))
        values.append(draw_variant(world, images, seeds, generator, moved))
    # Training sets as a third factor of `contrast` belong here.
    return Drawn(tuple(values), (world.mean_accuracy(0.0),) * VARIANTS), None


# --- What users do with the numbers ---


def pick(found: Contrast, place: int) -> Contrast:
    """Returns one study's contrast out of many."""

    def at(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(at(part) for part in value)
        return value[place] if isinstance(value, np.ndarray) else value

    return type(found)(**{name: at(value) for name, value in vars(found).items()})


def follow_advice(
    world: World, seeds: int, studies: int, generator: np.random.Generator, most: int = 40
) -> list[np.ndarray]:
    """Returns in which studies of four equal variants a verdict is wrong if users train more seeds because it is not decided.

    After each of up to four comparisons the user trains as many seeds as the most promising undecided pair seems to need, if that
    is at most `most`.

    Returns:
        Five arrays, bool (studies,): wrong at the first comparison; at any, with every look at the same level, and with the levels
        of `spend_on_unplanned_look`; at the first comparison or at a look of `decide` afterwards; and if `decide` looked from the
        start, at 3 to 12 seeds.
    """
    pairs = list(combinations(range(VARIANTS), 2))
    together = 1 - (1 - CONFIDENCE) / len(pairs)
    first, ever, counted, then, instead = np.zeros((5, studies), dtype=bool)
    planned = plan_looks(3, 12)
    later = plan_looks(seeds, max(12, 2 * seeds))
    for study in range(studies):
        images = draw_images(world, 1, generator)
        odds = [draw_odds(world, images, most, generator)[0] for _ in range(VARIANTS)]
        answers = np.concatenate([answer(one, generator) for one in odds])
        sides = [answers[[pair[side] for pair in pairs]] for side in (0, 1)]
        instead[study] = _is_ever_decided(sides, planned, (1 - CONFIDENCE) / len(pairs))
        then[study] = _is_ever_decided(sides, later, RESERVE * (1 - CONFIDENCE) / len(pairs))
        count = seeds
        for look in range(4):
            found = contrast(*(side[:, :count] for side in sides))
            corrected = correct_by_holm(found.p)
            decided = corrected < 1 - CONFIDENCE
            first[study] |= look == 0 and decided.any()
            ever[study] |= decided.any()
            counted[study] |= (corrected < spend_on_unplanned_look(look + 1, 1 - CONFIDENCE)).any()
            singles = [pick(found, place) for place in np.flatnonzero(~decided)]
            hopeful = [one for one in singles if not one.is_futile(MARGIN, together)]
            advised = [one.seeds_to_decide(MARGIN, together, most) for one in hopeful]
            needed = [number for number in advised if number is not None]
            if counted[study] or not needed:
                break
            count = min(needed)
    return [first, ever, counted, first | then, instead]


def _is_ever_decided(sides: Sequence[np.ndarray], looks: Sequence[int], error: float) -> bool:
    """Returns whether an interval of `decide` excludes 0 at one of its looks, for any of the pairs."""
    return any(
        (np.abs(found.estimate) > np.diff(found.interval(1 - level), axis=0)[0] / 2).any()
        for look, level in zip(looks, level_of_looks(looks, error), strict=True)
        for found in [contrast(*(side[:, :look] for side in sides))]
    )


def sentences(world: World, seeds: int, studies: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns in which studies of four equal variants a sentence, or a verdict, says that variants differ.

    The variants differ in one ingredient from one to the next, so there are three sentences and six verdicts.
    """
    drawn, _ = clean(world, seeds, studies, generator)
    claimed = np.zeros(studies, dtype=bool)
    for one, other in ((0, 1), (1, 2), (2, 3)):
        found = drawn.contrast(one, other)
        claimed |= (found.low > 0) | (found.high < 0)
    return claimed, wrong_by_holm(drawn)


@dataclass(frozen=True, eq=False)
class Chain:
    """What became of the alias in many chains of challengers.

    Args:
        moves: how often it moved, int (chains,).
        drift: the last champion's true mean accuracy less the first one's.
        flattery: the val accuracy of the model that is served less its true accuracy.
        worse: of all moves, the share to a model that is truly more than 1 point worse than the one it replaces.
    """

    moves: np.ndarray
    drift: np.ndarray
    flattery: np.ndarray
    worse: float


def run_chain(
    world: World, seeds: int, chains: int, generator: np.random.Generator, behind: float, rule: Rule,
    challengers: int = 10,
) -> Chain:  # fmt: skip
    """Returns what the rule does with challengers that are each `behind` worse than the champion that they meet.

    Args:
        world: what images and runs are like; the images are the same for the whole chain.
        seeds: of each variant; the one with the best val accuracy is served.
        chains: how many.
        generator: random number generator.
        behind: how much worse each challenger's true mean accuracy is.
        rule: whether the alias moves.
        challengers: in a chain.
    """
    images = draw_images(world, chains, generator)
    shift, step = np.zeros((chains, 1)), world.find_shift(-behind) if behind else 0.0
    odds, true = draw_odds(world, images, seeds, generator, shift)
    answers = answer(odds, generator)
    moves, worse = np.zeros(chains, dtype=int), 0
    for number in range(1, challengers + 1):
        odds, other_true = draw_odds(world, images, seeds, generator, shift + step)
        others = answer(odds, generator)
        found = contrast(others, answers)
        own = contrast(best_run(others), best_run(answers))
        moved = np.array([rule(pick(found, place), pick(own, place), number) for place in range(chains)])
        worse += int((moved & (served(other_true, others) < served(true, answers) - 0.01)).sum())
        answers = np.where(moved[:, None, None], others, answers)
        true = np.where(moved[:, None], other_true, true)
        shift = np.where(moved[:, None], shift + step, shift)
        moves += moved
    drift = np.array([world.mean_accuracy(float(one)) for one in np.unique(shift)])
    drift = drift[np.unique(shift, return_inverse=True)[1].ravel()] - world.mean_accuracy(0.0)
    flattery = answers.mean(axis=-1).max(axis=-1) - served(true, answers)
    return Chain(moves, drift, flattery, worse / max(int(moves.sum()), 1))


def served(true: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Returns the true accuracy of the seed with the best val accuracy: float (chains,)."""
    return np.take_along_axis(true, answers.mean(axis=-1).argmax(axis=-1)[:, None], axis=1)[:, 0]


def best_run(answers: np.ndarray) -> np.ndarray:
    """Returns the answers of the seed with the best val accuracy, which is the one that is served: bool (chains, 1, images)."""
    best = answers.mean(axis=-1).argmax(axis=-1)
    return np.take_along_axis(answers, best[:, None, None], axis=1)


def moves_not_worse(found: Contrast, _own: Contrast, _number: int) -> bool:
    """Whether the alias moves by the rule at the time of "before": higher in the mean, and not worse by the margin or more."""
    return bool(found.estimate > 0 and found.low > -PromoteConfig().margin)


def moves_now(found: Contrast, own: Contrast, number: int) -> bool:
    """Whether the alias moves by the rule of `catdog.registry.evidence.weigh` as it is now, if both are calibrated alike."""
    config = PromoteConfig()
    confidence = Challenge().confidence(number, config.error)
    return weigh(found, (0.0, 0.0), config, confidence, own)[0] in MOVES


@dataclass(frozen=True, eq=False)
class Warned:
    """What a page says of studies in which failures may hide; bool (studies,).

    Args:
        wrong: the verdict says that the first variant is better, or that the two are equivalent, and the truth is that it is worse.
        shown: a run of the first variant is flagged as diverged.
        overturned: the verdict says that one hidden failure in ten seeds would overturn it.
    """

    wrong: np.ndarray
    shown: np.ndarray
    overturned: np.ndarray


def warn(
    world: World, seeds: int, studies: int, generator: np.random.Generator, better: float, rate: float = 0.1
) -> Warned:
    """Returns what is said of a variant that is better where it does not diverge, and diverges at a rate, so its mean is lower."""
    images = draw_images(world, studies, generator)
    first = draw_variant(world, images, seeds, generator, world.find_shift(better))
    second = draw_variant(world, images, seeds, generator)
    first = fail(first, generator.random((studies, seeds)) < rate, generator)
    found, diverged = contrast(first, second), find_diverged(first, CHANCE).diverged
    wrong, overturned = np.zeros((2, studies), dtype=bool)
    for study in range(studies):
        one = pick(found, study)
        verdict = judge(one, MARGIN)
        wrong[study] = verdict in (Judgement.BETTER, Judgement.EQUIVALENT)
        sides = (summarize_seeds(first[study], CHANCE), summarize_seeds(second[study], CHANCE))
        overturned[study] = summarize_pair(one, *sides, verdict, CHANCE, MARGIN).hidden.overturned
    return Warned(wrong, diverged.any(axis=1), overturned)


# --- The tables ---

NINE, SEVEN, SURE = World(), World(0.7, 0.0), World(0.98, 0.93, seed_spread=0.003)
# A condition, what it is set to, how to draw it, and how many studies.
Row = tuple[str, str, Callable[[int, np.random.Generator], Analyses], int]


def _of(draw: Callable[..., Analyses], *settings: object, **options: object) -> Callable[..., Analyses]:
    """Returns the condition with its settings; studies and generator are still to come."""
    return lambda studies, generator: draw(*settings, studies=studies, generator=generator, **options)


def list_rows() -> list[Row]:
    """Returns the rows of the first table."""
    rows: list[Row] = []
    for world, seeds in (
        (replace(SEVEN, images=48), 5), (replace(SEVEN, images=200), 3), (replace(SEVEN, images=200), 10), (NINE, 3), (NINE, 5),
        (NINE, 10), (SURE, 5), (replace(NINE, images=3000), 5),
    ):  # fmt: skip
        studies = 2000 if world.images < 3000 else 600
        rows.append(("clean", _words(world, seeds), _of(clean, world, seeds), studies))
    for world in (replace(NINE, images=200), NINE, replace(NINE, seed_spread=0.015)):
        rows.append(("selection", f"{_words(world, 5)}; 5% flip, none", _of(selection, world, 5, (1.0, 0.0)), 800))
    for seeds in (5, 10):
        settings = (SEVEN, seeds, (1.0, 0.15))
        rows.append(("selection", f"{_words(SEVEN, seeds)}; 12% flip, 2%", _of(selection, *settings), 400))
    worse = _of(selection, SEVEN, 5, (1.0, 0.15), better=-0.01)
    rows.append(("selection", f"{_words(SEVEN, 5)}; the same, truly 1 point worse", worse, 400))
    rows += [("divergence", _words(SURE, seeds), _of(divergence, SURE, seeds), 2000) for seeds in (3, 5, 10)]
    for world in (replace(NINE, group=4), replace(SEVEN, images=200, group=4), replace(SURE, group=4)):
        rows.append(("groups", f"{_words(world, 10)}; groups of 4", _of(groups, world, 10), 1000))
    for seeds in ((2, 2), (2, 3), (2, 10), (3, 10)):
        for world in (NINE, replace(SEVEN, images=200, seed_spread=0.03)):
            rows.append(("unequal", _words(world, f"{seeds[0]} against {seeds[1]}"), _of(unequal, world, seeds), 2000))
    for spread in (0.0025, 0.005, 0.01):
        label = f"{_words(NINE, 5)}; {100 * spread:g} points from set to set"
        rows.append(("training_sets", label, _of(training_sets, NINE, 5, spread=spread), 1500))
    return rows


def _words(world: World, seeds: object) -> str:
    spread = f", spread {100 * world.seed_spread:g}" if world.seed_spread != SPREAD else ""
    return f"{world.images:,} images, {world.accuracy:g}{spread}, {seeds} seeds"


def measure(draw: Callable[..., Analyses], studies: int, generator: np.random.Generator) -> tuple[Tally, Tally | None]:
    """Returns what comes out before and after; without a fix there is no after."""
    found: list[tuple[Tally, Tally | None]] = []
    for _ in range(max(1, studies // CHUNK)):
        before, after = draw(min(studies, CHUNK), generator)
        found.append((Tally.of(before), None if after is None else Tally.of(after)))
    after = [one for _, one in found if one is not None]
    return _mean([one for one, _ in found]), _mean(after) if after else None


def _mean(tallies: Sequence[Tally]) -> Tally:
    return Tally(**{name: float(np.mean([getattr(one, name) for one in tallies])) for name in vars(tallies[0])})


def print_rows(wanted: Sequence[str]) -> None:
    """Prints how often intervals and verdicts are right, under every condition."""
    rows = [(number, *row) for number, row in enumerate(list_rows()) if not wanted or row[0] in wanted]
    if not rows:
        return
    heads = (
        "condition", "setting", "studies", "covers", "better", "worse", "Holm", "decide", "one variant", "bias, points",
        "\N{PLUS-MINUS SIGN} points",
    )  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|" + len(heads) * "---|")
    for number, name, label, draw, studies in rows:
        both = measure(draw, studies, np.random.default_rng([14, number]))
        shares = [_cell(both, key) for key in ("covered", "better", "worse", "holm", "decide", "alone")]
        points = [_cell(both, key, 100, 2) for key in ("bias", "half_width")]
        print(f"| {' | '.join([name, label, f'{studies:,}', *shares, *points])} |", flush=True)


def _cell(both: tuple[Tally, Tally | None], key: str, factor: float = 1, digits: int = 3) -> str:
    shown = [f"{factor * getattr(one, key):.{digits}f}" for one in both if one is not None]
    return shown[0] if len(set(shown)) == 1 else f" {ARROW} ".join(shown)


def print_advice(studies: int = 800) -> None:
    """Prints how often users who train the advised number of seeds are told something wrong about four equal variants."""
    print(
        "| setting | studies | wrong at the first comparison | at any of up to four | at any, looks counted | at the first, or by "
        "`decide` afterwards | by `decide` alone |\n|---|---|---|---|---|---|---|"
    )
    for world, seeds in (
        (replace(SEVEN, images=200), 3),
        (replace(SEVEN, images=200), 5),
        (replace(NINE, images=400), 3),
    ):
        wrong = follow_advice(world, seeds, studies, np.random.default_rng([14, 100, seeds, world.images]))
        shares = " | ".join(f"{one.mean():.3f}" for one in wrong)
        print(f"| {_words(world, seeds)} | {studies:,} | {shares} |", flush=True)


def print_sentences(studies: int = 2000) -> None:
    """Prints how often a sentence claims that an ingredient adds something, where none does."""
    print("| setting | studies | any of three sentences claims it | any of six verdicts |\n|---|---|---|---|")
    for world, seeds in ((replace(SEVEN, images=200), 5), (NINE, 5)):
        generator = np.random.default_rng([14, 200, world.images])
        both = [sentences(world, seeds, CHUNK, generator) for _ in range(studies // CHUNK)]
        claimed, wrong = (np.mean([one[side] for one in both]) for side in (0, 1))
        print(f"| {_words(world, seeds)} | {studies:,} | {claimed:.3f} | {wrong:.3f} |", flush=True)


def print_chains(chains: int = 800) -> None:
    """Prints what becomes of the alias in chains of ten challengers."""
    heads = (
        "setting", "each challenger", "chains with a move", "moves a chain", "drift, points", "in the worst 5% of chains",
        "val accuracy too high by, points", "moves to a model 1 point worse",
    )  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|" + len(heads) * "---|")
    for world, seeds in ((NINE, 5), (replace(NINE, seed_spread=0.01), 5), (replace(SEVEN, seed_spread=0.01), 3)):
        for behind in (0.0, 0.005):
            seed = [14, 300, seeds, int(1000 * behind)]
            both = [
                run_chain(world, seeds, chains, np.random.default_rng(seed), behind, rule)
                for rule in (moves_not_worse, moves_now)
            ]
            shown = [
                (f"{(one.moves > 0).mean():.2f}", f"{one.moves.mean():.1f}", f"{100 * one.drift.mean():+.2f}",
                 f"{100 * np.quantile(one.drift, 0.05):+.2f}", f"{100 * one.flattery.mean():.2f}", f"{one.worse:.2f}")
                for one in both
            ]  # fmt: skip
            told = [
                before if before == after else f"{before} {ARROW} {after}" for before, after in zip(*shown, strict=True)
            ]
            kind = f"{100 * behind:g} points worse" if behind else "equal"
            print(f"| {' | '.join([_words(world, seeds), kind, *told])} |", flush=True)


def print_failures(variants: int = 2000, studies: int = 1000) -> None:
    """Prints how often a diverged run is found, how often one is called so that is none, and what is said where failures hide."""
    print("| setting | variants | false alarms | one that guesses is found |\n|---|---|---|---|")
    for world in (
        replace(SEVEN, images=48), replace(SEVEN, images=200), replace(SEVEN, seed_spread=0.03), replace(NINE, seed_spread=0.015),
        replace(NINE, seed_spread=0.03), SURE, replace(SURE, seed_spread=0.01),
    ):  # fmt: skip
        for seeds in (3, 5, 10):
            generator = np.random.default_rng([14, 400, seeds, world.images])
            alarms, hits = [], []
            for _ in range(variants // CHUNK):
                values = draw_variant(world, draw_images(world, CHUNK, generator), seeds, generator)
                alarms.append(find_diverged(values, CHANCE).count > 0)
                failed = np.arange(seeds)[None] == np.zeros((CHUNK, 1))
                hits.append(find_diverged(fail(values, failed, generator), CHANCE).diverged[:, 0])
            print(
                f"| {_words(world, seeds)} | {variants:,} | {np.mean(alarms):.3f} | {np.mean(hits):.3f} |", flush=True
            )
    heads = ("setting", "studies", "wrong verdict", "with a run shown as diverged", "with the warning", "with neither")
    print(f"\n| {' | '.join(heads)} |\n|" + len(heads) * "---|")
    for better in (0.0, 0.01):
        for seeds in (3, 5, 10):
            generator = np.random.default_rng([14, 500, seeds, int(1000 * better)])
            found = [warn(SURE, seeds, CHUNK, generator, better) for _ in range(studies // CHUNK)]
            wrong, shown, overturned = (np.concatenate([getattr(one, key) for one in found]) for key in vars(found[0]))
            parts = (wrong, wrong & shown, wrong & overturned, wrong & ~shown & ~overturned)
            told = " | ".join(f"{one.mean():.3f}" for one in parts)
            label = f"{_words(SURE, seeds)}; {100 * better:g} points better if it does not diverge"
            print(f"| {label} | {studies:,} | {told} |", flush=True)


PRINTS = {"advice": print_advice, "sentences": print_sentences, "chain": print_chains, "failures": print_failures}


def main(wanted: Sequence[str]) -> None:
    """Prints the tables of the conditions that are wanted; none: of all."""
    known = {*PRINTS, *(row[0] for row in list_rows())}
    if unknown := set(wanted) - known:
        sys.exit(f"no such condition: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    print_rows(wanted)
    for name, show in PRINTS.items():
        if not wanted or name in wanted:
            print(f"\n{name}\n")
            show()


if __name__ == "__main__":
    main(sys.argv[1:])
