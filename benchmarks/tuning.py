"""Simulated searches whose truth is known: what the best score is worth, what a race proves, what halving saves.

`python benchmarks/tuning.py` prints the tables of benchmarks/tuning.md; it takes about six CPU minutes. With the names of tables
as arguments it prints only those: `python benchmarks/tuning.py race surface`.

An image is easy, so that every model gets it right, or hard. A hard image has a difficulty, each configuration has a taste for it,
and each run a whim; their sum, less what is not learned yet, is the log odds of a right answer. Half of the answers are drawn anew
at every epoch. It is the generator of fair_scores.py, with learning curves, and with a taste that can be turned off.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from catdog.search.halving import Halving, plan_rungs
from catdog.search.trials import Trial, TrialState, find_best
from catdog.statistics.contrasts import contrast
from catdog.statistics.optimism import allow_for_selection, correct_selection
from catdog.statistics.selection import cross_fit
from catdog.statistics.sequential import level_of_looks, plan_looks

# Standard deviations, in log odds, of a hard image's difficulty and a run's whim; the log odds of an easy image.
DIFFICULTY, WHIM, EASY = 4.3, 2.5, 6.0
# What is not learned yet costs LAG exp(-epoch / PACE) in log odds.
LAG, PACE = 3.0, 4.0
EPOCHS, FACTOR, TOP, SEEDS = 20, 3, 4, 5
ERROR = 0.05
RUNGS = plan_rungs(EPOCHS, 2, FACTOR)
HALVED, WHOLE = Halving(RUNGS, FACTOR, TOP), Halving((EPOCHS,), FACTOR, TOP)
# Resamples of a correction; catdog takes 1,000.
DRAWS = 200
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


# --- The generator ---


@dataclass(frozen=True)
class World:
    """What images and runs are like.

    Args:
        accuracy: the true accuracy, over all images and seeds, of a configuration without a shift, after very many epochs.
        easy: the share of easy images.
        images: the number of validation images.
        seed_spread: the standard deviation of a run's true accuracy from seed to seed.
        taste: the standard deviation, in log odds, of a configuration's taste for a hard image.
        wavering: the share of images whose answer is drawn anew at every epoch.
    """

    accuracy: float = 0.75
    easy: float = 0.4
    images: int = 800
    seed_spread: float = 0.005
    taste: float = 0.0
    wavering: float = 0.5

    @cached_property
    def level(self) -> float:
        """The mean log odds of a hard image."""
        return float(brentq(lambda level: self._accuracy_at(level, 0.0) - self.accuracy, -60, 60))

    @cached_property
    def slope(self) -> float:
        """How much the true accuracy grows with a shift in log odds."""
        return float(self.true_accuracy(0.01) - self.true_accuracy(-0.01)) / 0.02

    def _accuracy_at(self, level, shift):
        spread = np.sqrt(DIFFICULTY**2 + self.taste**2 + WHIM**2)
        hard = expit(level + np.asarray(shift)[..., None] + spread * NODES) @ WEIGHTS
        return self.easy * expit(EASY + np.asarray(shift)) + (1 - self.easy) * hard

    def true_accuracy(self, shift):
        """Returns the true accuracy, over all images, of a run with this shift in log odds."""
        return self._accuracy_at(self.level, shift)

    def mean_accuracy(self, shift: float) -> float:
        """Returns the true accuracy of a configuration with this shift, over all images and seeds."""
        return float(self.true_accuracy(shift + self.seed_spread / self.slope * NODES) @ WEIGHTS)

    def find_shift(self, difference: float) -> float:
        """Returns the shift in log odds with which a configuration is better by this difference in accuracy."""
        equal = self.mean_accuracy(0.0)
        return float(brentq(lambda shift: self.mean_accuracy(shift) - equal - difference, -9, 9))

    @property
    def effect(self) -> float:
        """The standard error, over these images, of the difference of two configurations with very many seeds each."""
        generator = np.random.default_rng(0)
        hard = self.level + DIFFICULTY * generator.standard_normal(20_000)
        both = [
            expit((hard + self.taste * generator.standard_normal(len(hard)))[:, None] + WHIM * NODES) @ WEIGHTS
            for _ in range(2)
        ]
        return float(np.sqrt((1 - self.easy) * np.mean((both[0] - both[1]) ** 2) / self.images))


@cache
def build_world(effect: float, images: int = 800) -> World:
    """Returns a world in which the effect of configuration and image has this size on 800 images."""
    world = World()
    if effect:
        taste = brentq(lambda taste: replace(world, taste=taste).effect - effect, 0.05, 30, xtol=1e-3)
        world = replace(world, taste=float(taste))
    return replace(world, images=images)


def draw_images(world: World, generator: np.random.Generator) -> np.ndarray:
    """Returns the log odds of a right answer without taste and whim: float32 (images,); NaN for easy images."""
    hard = world.level + DIFFICULTY * generator.standard_normal(world.images)
    return np.where(generator.random(world.images) < world.easy, np.nan, hard).astype(np.float32)


def measure_ease(world: World, images: np.ndarray) -> float:
    """Returns by how much these images are easier than all: it is known here, and taken off where only a bias is asked for."""
    spread = np.sqrt(world.taste**2 + WHIM**2)
    hard = expit(images[:, None].astype(float) + spread * NODES) @ WEIGHTS
    return float(np.where(np.isnan(images), expit(EASY), hard).mean() - world.accuracy)


def draw_odds(world: World, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns images as `draw_images` does, and what so many configurations make of them: float32 (count, images)."""
    images = draw_images(world, generator)
    tastes = np.float32(world.taste) * generator.standard_normal((count, world.images), dtype=np.float32)
    return images, images + tastes


class Run:
    """A run of a configuration, which is trained as far as it is asked for.

    Args:
        world: what images and runs are like.
        odds: of the configuration, without its shift.
        shift: of the configuration.
        generator: random number generator.
    """

    def __init__(self, world: World, odds: np.ndarray, shift: float, generator: np.random.Generator) -> None:
        self.generator = generator
        self.world = world
        self.shift = shift + world.seed_spread / world.slope * generator.standard_normal()
        odds = odds + np.float32(WHIM) * generator.standard_normal(world.images, dtype=np.float32)
        self.odds = np.where(np.isnan(odds), np.float32(EASY), odds) + np.float32(self.shift)
        self.settled = generator.random(world.images, dtype=np.float32)
        self.moves = generator.random(world.images, dtype=np.float32) < world.wavering
        self.right = np.zeros((0, world.images), dtype=bool)

    def train(self, until: int) -> "Run":
        """Trains to the end of an epoch."""
        numbers = np.arange(len(self.right) + 1, until + 1)
        lag = (LAG * np.exp(-numbers / PACE)).astype(np.float32)
        fresh = self.generator.random((len(numbers), self.world.images), dtype=np.float32)
        answers = np.where(self.moves, fresh, self.settled) < expit(self.odds - lag[:, None])
        self.right = np.concatenate([self.right, answers])
        return self

    def keep_best(self, until: int) -> np.ndarray:
        """Returns the answers of the best epoch so far: bool (images,)."""
        return self.right[int(self.right[:until].sum(axis=1).argmax())]

    @cached_property
    def values(self) -> np.ndarray:
        """The cross-fitted scores of the whole training: float (images,)."""
        return cross_fit(self.right, [self.right])

    @property
    def truth(self) -> float:
        """The accuracy of the kept model on all images."""
        kept = int(self.right.sum(axis=1).argmax()) + 1
        return float(self.world.true_accuracy(self.shift - LAG * np.exp(-kept / PACE)))


# --- A search ---


@dataclass
class Searched:
    """A search that is over.

    Args:
        runs: of all trials, in order.
        trials: the same as the search knows them.
        rungs: the answers that counted at each rung, as `correct_selection` takes them.
        values: the scores of those that finished, (trials, images); NaN for the others.
    """

    runs: list[Run]
    trials: list[Trial]
    rungs: list[np.ndarray]
    values: np.ndarray


def conduct(halving: Halving, count: int, train: Callable[[Trial, int], None]) -> list[Trial]:
    """Returns the trials of a search with one job: each step is what `Halving` says, and `train` trains it.

    Args:
        halving: the rule.
        count: the number of trials.
        train: trains a trial to an epoch: sets its curve there, and its score if it was the last. A new one has no settings yet.
    """
    trials: list[Trial] = []
    while (step := halving.next_step(trials, may_add=len(trials) < count)) is not None:
        if step.trial is None:
            trials.append(Trial(len(trials), {}))
        trial = trials[-1 if step.trial is None else step.trial]
        train(trial, step.until)
        trial.epochs = step.until
        trial.state = TrialState.FINISHED if step.until == halving.rungs[-1] else TrialState.PAUSED
    return trials


def search(
    world: World, odds: np.ndarray, shifts: np.ndarray, generator: np.random.Generator, halving: Halving = HALVED
) -> Searched:
    """Returns a search among configurations with these log odds (K, images) and shifts (K,)."""
    runs = [Run(world, *one, generator) for one in zip(odds, shifts, strict=True)]

    def train(trial: Trial, until: int) -> None:
        run = runs[trial.number].train(until)
        trial.curve[until] = float(run.keep_best(until).mean())
        if until == EPOCHS:
            trial.score = float(run.values.mean())

    trials = conduct(halving, len(runs), train)
    unknown = np.full(world.images, np.nan)
    rungs = [
        np.stack(
            [run.keep_best(rung) if trial.epochs >= rung else unknown for run, trial in zip(runs, trials, strict=True)]
        )
        for rung in halving.rungs[:-1]
    ]
    values = np.stack(
        [run.values if trial.score is not None else unknown for run, trial in zip(runs, trials, strict=True)]
    )
    return Searched(runs, trials, rungs, values)


def draw_shifts(world: World, count: int, better: float, generator: np.random.Generator) -> np.ndarray:
    """Returns the configurations' shifts, the default's first: all 0, or one is better by so much, and the others -6 to 1 less."""
    shifts = np.zeros(count)
    if better:
        worst, best = world.find_shift(-0.06), world.find_shift(better - 0.01)
        shifts[1:] = generator.uniform(worst, best, count - 1)
        shifts[generator.integers(1, count)] = world.find_shift(better)
    return shifts


@dataclass(frozen=True)
class Corrected:
    """What the best score of a search is worth, in points above the truth.

    Args:
        epochs: trained, as a share of what whole trainings of all trials take.
        found: the found score, above the true accuracy of the chosen model.
        plain: the score that is corrected without the rungs.
        corrected: the corrected score.
        of_configuration: the corrected score, above the true accuracy of the chosen configuration over all seeds.
        covered: the corrected score's interval covers the true accuracy of the chosen model.
    """

    epochs: float
    found: float
    plain: float
    corrected: float
    of_configuration: float
    covered: bool


@dataclass(frozen=True)
class Raced:
    """What a race after a search says, in points or as yes or no.

    Args:
        luck: by how much the difference of the best that raced, from the default, is above the truth.
        allowed: the allowance for it.
        raw_covered: the 95% interval of that difference covers the truth.
        covered: the same with the lower bound lowered by the allowance.
        raw_claim: the race says that a configuration is better than the default.
        claim: the same with the allowance.
        right: the configuration that is truly best is among those.
    """

    luck: float
    allowed: float
    raw_covered: bool
    covered: bool
    raw_claim: bool
    claim: bool
    right: bool


def correct_study(world: World, count: int, generator: np.random.Generator, halving: Halving = HALVED) -> Corrected:
    """Returns what the best score of a search among equal configurations is worth."""
    shifts = np.zeros(count)
    images, odds = draw_odds(world, count, generator)
    searched = search(world, odds, shifts, generator, halving)
    best = find_best(searched.trials)
    assert best is not None
    truth, ease = searched.runs[best.number].truth, measure_ease(world, images)
    plain = correct_selection(searched.values, draws=DRAWS)
    result = correct_selection(searched.values, rungs=searched.rungs, draws=DRAWS)
    return Corrected(
        sum(trial.epochs for trial in searched.trials) / count / EPOCHS,
        *(100 * (score - truth - ease) for score in (result.found, plain.corrected, result.corrected)),
        100 * (result.corrected - world.mean_accuracy(shifts[best.number]) - ease),
        result.low <= truth <= result.high,
    )


def race_study(world: World, count: int, generator: np.random.Generator, better: float = 0.0) -> Raced:
    """Returns what a race says after a search among so many configurations, of which the first is the default."""
    shifts = draw_shifts(world, count, better, generator)
    _, odds = draw_odds(world, count, generator)
    trials = search(world, odds, shifts, generator).trials
    finished = [trial for trial in trials if trial.score is not None and trial.number]
    entrants = [trial.number for trial in sorted(finished, key=lambda trial: -(trial.score or 0.0))[:TOP]]
    default, *seeds = (
        np.stack([Run(world, odds[number], shifts[number], generator).train(EPOCHS).values for _ in range(SEEDS)])
        for number in (0, *entrants)
    )
    looks = plan_looks(3, SEEDS)
    claims: dict[str, set[int]] = {"raw": set(), "allowed": set()}
    for look, level in zip(looks, level_of_looks(looks, ERROR / len(entrants)), strict=True):
        found = [contrast(values[:look], default[:look]) for values in seeds]
        allowance = allow_for_selection(found, count - 1)
        for number, one in zip(entrants, found, strict=True):
            low = float(one.interval(1 - level)[0])
            claims["raw"] |= {number} if low > 0 else set()
            claims["allowed"] |= {number} if low > allowance.search else set()
    named = int(np.argmax([one.estimate for one in found]))
    truth = world.mean_accuracy(shifts[entrants[named]]) - world.mean_accuracy(shifts[0])
    low, high = found[named].interval()
    return Raced(
        luck=100 * float(found[named].estimate - truth), allowed=100 * allowance.of_winner,
        raw_covered=low <= truth <= high, covered=low - allowance.of_winner <= truth <= high,
        raw_claim=bool(claims["raw"]), claim=bool(claims["allowed"]), right=int(shifts.argmax()) in claims["allowed"],
    )  # fmt: skip


def average(found: Sequence[Corrected] | Sequence[Raced], key: str) -> float:
    """Returns the mean of what came of searches."""
    return float(np.mean([getattr(one, key) for one in found]))


# --- A known surface in place of training ---

SPACE = (
    "trainer.learning_rate=tag(log,interval(1e-4,1e-1))",
    "head.dropout=interval(0,0.7)",
    "head.units=32,64,128,256",
    "trainer.weight_decay=tag(log,interval(1e-6,1e-2))",
)
SURFACE_TRIALS = 40
# The noise of a score from seed to seed and from epoch to epoch.
SEED_NOISE, EPOCH_NOISE = 0.006, 0.004
# A configuration that is at most this much worse than the best one is in the region.
REGION = 0.015
PEAK = 0.85


def true_score(settings: dict[str, str], epoch: float = np.inf) -> float:
    """Returns the score of a configuration after an epoch, without noise.

    Low learning rates and wide heads with much dropout learn more slowly, so the curves cross: what leads at epoch 2 is not what
    leads at the end.
    """
    rate = np.log10(float(settings["trainer.learning_rate"]))
    dropout, units = float(settings["head.dropout"]), int(settings["head.units"])
    decay = np.log10(float(settings["trainer.weight_decay"]))
    wide = np.log2(units / 128)
    # Wide heads ask for more dropout; weight decay hardly matters.
    end = PEAK - 0.06 * (rate + 2.7) ** 2 - 0.25 * (dropout - 0.35 - 0.08 * wide) ** 2 - 0.008 * wide**2
    end -= 0.001 * (decay + 4) ** 2
    pace = 1.5 + 1.5 * max(-2.0 - rate, 0.0) + 2.0 * dropout
    return float(end - 0.25 * np.exp(-epoch / pace))


def search_surface(seed: int, halving: Halving = HALVED) -> tuple[bool, float, float]:
    """Returns what a search of catdog finds: whether the region, the loss against the best, the share of epochs."""
    from catdog.search.sampling import suggest

    space, generator = read_surface(), np.random.default_rng([15, 7, seed])
    noise: dict[int, float] = {}
    known: list[Trial] = []

    def train(trial: Trial, until: int) -> None:
        if trial.number == len(known):
            suggested = suggest(space, known, number=trial.number, sampler="tpe", seed=seed, random_share=0.1)
            assert suggested is not None
            trial.settings = suggested.settings
            noise[trial.number] = SEED_NOISE * generator.standard_normal()
            known.append(trial)
        for epoch in range(trial.epochs + 1, until + 1):
            score = true_score(dict(trial.settings), epoch) + noise[trial.number]
            score += EPOCH_NOISE * generator.standard_normal()
            trial.curve[epoch] = max(score, trial.curve.get(epoch - 1, score))
        if until == EPOCHS:
            trial.score = score

    trials = conduct(halving, SURFACE_TRIALS, train)
    best = find_best(trials)
    assert best is not None
    loss = PEAK - true_score(dict(best.settings), EPOCHS)
    return loss <= REGION, loss, sum(trial.epochs for trial in trials) / EPOCHS / SURFACE_TRIALS


def search_by_optuna(seed: int, count: int = SURFACE_TRIALS) -> tuple[bool, float, float]:
    """Returns the same of Optuna's own loop, with whole trainings."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, generator = read_surface(), np.random.default_rng([15, 8, seed])
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    losses = []
    for _ in range(count):
        asked = study.ask()
        truth = true_score(space.ask(asked), EPOCHS)
        losses.append(PEAK - truth)
        study.tell(asked, truth + np.hypot(SEED_NOISE, EPOCH_NOISE) * generator.standard_normal())
    loss = losses[study.best_trial.number]
    return loss <= REGION, loss, count / SURFACE_TRIALS


@cache
def read_surface():
    """Returns the space of the surface."""
    from catdog.search.space import read_space, split_overrides

    return read_space(split_overrides(SPACE)[1])


# --- Tables ---


def print_row(*cells) -> None:
    """Prints a row of a table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def print_heads(*heads: str) -> None:
    """Prints the head of a table."""
    print_row(*heads)
    print("|" + len(heads) * "---|", flush=True)


def print_correction(studies: int = 200) -> None:
    """Prints how far the best score is from the truth, as found and corrected."""
    print_heads(
        "configurations", "searched by", "images", "effect, points", "searches", "epochs", "found", "corrected, no rungs",
        "corrected", "of the configuration", "covers",
    )  # fmt: skip
    rows = [(count, HALVED, effect, 800) for count in (20, 50, 100) for effect in (0.0, 0.005, 0.01)]
    rows += [(50, HALVED, 0.005, 200), (50, HALVED, 0.005, 3000)]
    rows += [(count, WHOLE, 0.005, 800) for count in (20, 50, 100)]
    for place, (count, halving, effect, images) in enumerate(rows):
        wanted = studies if halving is HALVED and images < 3000 else studies // 3
        world = build_world(effect, images)
        found = [
            correct_study(world, count, np.random.default_rng([15, 1, place, study]), halving)
            for study in range(wanted)
        ]
        points = [f"{average(found, key):+.2f}" for key in ("found", "plain", "corrected", "of_configuration")]
        print_row(
            count, "halving" if halving is HALVED else "whole trainings", images, f"{100 * effect:g}", wanted,
            f"{average(found, 'epochs'):.2f}", *points, f"{average(found, 'covered'):.3f}",
        )  # fmt: skip


def print_race(studies: int = 300) -> None:
    """Prints what the race of the best configurations against the default says, without and with the allowance."""
    arrow = " \N{RIGHTWARDS ARROW} "
    print_heads(
        "configurations", "truly", "effect, points", "searches", "too high by", "allowance", "covers", "better than the default",
        "the best one confirmed",
    )  # fmt: skip
    rows = [(count, effect, 0.0) for count in (20, 50, 100) for effect in (0.0, 0.005, 0.01)]
    rows += [(40, effect, 0.03) for effect in (0.0, 0.005, 0.01)]
    for place, (count, effect, better) in enumerate(rows):
        world = build_world(effect)
        found = [
            race_study(world, count, np.random.default_rng([15, 2, place, study]), better) for study in range(studies)
        ]
        print_row(
            count, f"one {100 * better:g} points better" if better else "equal", f"{100 * effect:g}", studies,
            f"{average(found, 'luck'):+.2f}", f"{average(found, 'allowed'):.2f}",
            arrow.join(f"{average(found, key):.3f}" for key in ("raw_covered", "covered")),
            arrow.join(f"{average(found, key):.3f}" for key in ("raw_claim", "claim")),
            f"{average(found, 'right'):.2f}" if better else "",
        )  # fmt: skip


def print_surface(searches: int = 100) -> None:
    """Prints how often the region of a known surface is found, and at what cost."""
    print_heads("search", "searches", "finds the region", "loss, points", "epochs")
    kinds: list[tuple[str, Callable[[int], tuple[bool, float, float]]]] = [
        ("catdog, halving", search_surface),
        ("catdog, whole trainings", lambda seed: search_surface(seed, WHOLE)),
        ("Optuna's own loop, whole trainings", search_by_optuna),
        ("Optuna's own loop, a third of the trials", lambda seed: search_by_optuna(seed, SURFACE_TRIALS // 3)),
    ]
    for name, look in kinds:
        hit, loss, epochs = np.mean([look(seed) for seed in range(searches)], axis=0)
        print_row(name, searches, f"{hit:.2f}", f"{100 * loss:.2f}", f"{epochs:.2f}")


PRINTS = {"correction": print_correction, "race": print_race, "surface": print_surface}


def main(wanted: Sequence[str]) -> None:
    """Prints the tables that are wanted; none: all."""
    if unknown := set(wanted) - set(PRINTS):
        sys.exit(f"no such table: {', '.join(sorted(unknown))}; there are {', '.join(PRINTS)}")
    for name, show in PRINTS.items():
        if not wanted or name in wanted:
            print(f"\n{name}\n")
            show()


if __name__ == "__main__":
    main(sys.argv[1:])
