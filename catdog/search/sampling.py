"""What the next trial of a search tries: Optuna's samplers, asked so that the answer follows from the trials so far alone.

Nothing is kept between two questions: the sampler is built anew each time, with a seed that follows from the number of the trial.
So a search that was killed goes on with the trials that it would have had.
"""

import hashlib
import importlib.util
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catdog.search.space import Space
from catdog.search.trials import Trial, TrialState
from catdog.system.errors import UserError

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

SAMPLERS = ("tpe", "random", "gp", "cmaes", "grid")
# What a sampler needs besides Optuna, and the extra of catdog that installs it.
NEEDED = {"gp": "torch", "cmaes": "cmaes"}
# So many suggestions in a row that were all tried before: the space is as good as exhausted for the sampler.
MOST_REPEATS = 20
# Before so many trials have a score, TPE draws at random.
STARTUP_TRIALS = 10


@dataclass(frozen=True)
class Suggestion:
    """The settings of a new trial.

    Attributes:
        settings: key -> value, as typed.
        origin: random or sampler.
    """

    settings: dict[str, str]
    origin: str


def require_sampler(sampler: str, space: Space) -> None:
    """Raises a UserError unless a sampler is installed and can sample the space."""
    module = NEEDED.get(sampler)
    if module and importlib.util.find_spec(module) is None:
        raise UserError(
            f"sampler: {sampler} needs the package {module}, which is not installed: pip install 'catdog[{sampler}]'."
        )
    if sampler == "grid" and not space.is_finite:
        endless = next(dimension for dimension in space if dimension.size == float("inf"))
        raise UserError(
            f"sampler: grid tries every combination, and {endless.key}={endless.words} has no end of values. Give it values, as "
            f"{endless.key}={endless.low:g},{endless.high:g}, or use another sampler."
        )


def suggest(
    space: Space, trials: Sequence[Trial], *, number: int, sampler: str, seed: int, random_share: float
) -> Suggestion | None:
    """Returns the settings of trial `number`, which no earlier trial has; None if there are none left.

    Args:
        space: what is varied.
        trials: all earlier trials, in order.
        number: of the new trial.
        sampler: one of SAMPLERS.
        seed: of the search.
        random_share: so often the settings are drawn at random, whatever the sampler would suggest.
    """
    tried = {tuple(sorted(trial.settings.items())) for trial in trials}
    if sampler == "grid":
        left = (found for found in space.list_settings() if tuple(sorted(found.items())) not in tried)
        settings = next(left, None)
        return None if settings is None else Suggestion(settings, "grid")
    generator = random.Random(f"{seed} {number}")
    at_random = sampler == "random" or generator.random() < random_share
    for attempt in range(MOST_REPEATS):
        found = _ask(
            space,
            trials,
            "random" if at_random or attempt >= MOST_REPEATS // 2 else sampler,
            _mix(seed, number, attempt),
        )
        if tuple(sorted(found.settings.items())) not in tried:
            return found
    if not space.is_finite:
        return found
    rest = [settings for settings in space.list_settings() if tuple(sorted(settings.items())) not in tried]
    return Suggestion(generator.choice(rest), "random") if rest else None


def _mix(*parts: int) -> int:
    """Returns a seed that depends on all parts, in [0, 2**32)."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def _ask(space: Space, trials: Sequence[Trial], sampler: str, seed: int) -> Suggestion:
    import optuna

    # Its messages speak of trials that are only rebuilt here.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        # The versions are pinned, and the tests show that what is experimental works.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        built = _build_sampler(sampler, seed)
    study = optuna.create_study(direction="maximize", sampler=built)
    known = [trial for trial in trials if trial.state != TrialState.FAILED]
    worst = min((trial.last for trial in known if trial.last is not None), default=0.0)
    for trial in known:
        attributes = _ask_again(space, study) if sampler == "cmaes" and trial.origin == "sampler" else {}
        study.add_trial(_freeze(space, trial, worst, attributes))
    settings = space.ask(study.ask())
    return Suggestion(settings, "random" if sampler == "random" or _is_startup(trials, sampler) else "sampler")


def _ask_again(space: Space, study: "OptunaStudy") -> dict[str, Any]:
    """Returns what the sampler stores with the trial that it suggests now: CMA-ES finds its generations by that."""
    from optuna.trial import TrialState as State

    asked = study.ask()
    # The sampler works when it is asked for the first value.
    space.ask(asked)
    attributes = dict(study.get_trials(deepcopy=False)[-1].system_attrs)
    # A trial that failed is no obstacle to the sampler.
    study.tell(asked, state=State.FAIL)
    return attributes


def _is_startup(trials: Sequence[Trial], sampler: str) -> bool:
    return sampler == "tpe" and sum(trial.last is not None for trial in trials) < STARTUP_TRIALS


def _build_sampler(sampler: str, seed: int) -> "BaseSampler":
    from optuna import samplers

    if sampler == "tpe":
        return samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed, multivariate=False, constant_liar=True)
    if sampler == "gp":
        return samplers.GPSampler(seed=seed, deterministic_objective=False)
    if sampler == "cmaes":
        return samplers.CmaEsSampler(seed=seed, consider_pruned_trials=True, warn_independent_sampling=False)
    return samplers.RandomSampler(seed=seed)


def _freeze(space: Space, trial: Trial, worst: float, attributes: dict[str, Any]) -> "FrozenTrial":
    """Returns a trial as Optuna knows it. One that waits is pruned, with the scores it has; one that diverged has the worst."""
    from optuna.trial import TrialState as State
    from optuna.trial import create_trial

    params: dict[str, Any] = {}
    for dimension in space:
        text = trial.settings.get(dimension.key)
        value = None if text is None else dimension.read(text)
        if value is not None:
            params[dimension.key] = value
    distributions = {dimension.key: dimension.distribution for dimension in space if dimension.key in params}
    state, value = State.RUNNING, None
    if trial.state == TrialState.FINISHED:
        state, value = State.COMPLETE, trial.score
    elif trial.state == TrialState.DIVERGED:
        state, value = State.COMPLETE, worst
    elif trial.state == TrialState.PAUSED:
        state = State.PRUNED
    frozen = create_trial(
        state=state, value=value, params=params, distributions=distributions, intermediate_values=dict(trial.curve),
        system_attrs=attributes,
    )  # fmt: skip
    return frozen
