import math

import pytest

from catdog.search.sampling import require_sampler, suggest
from catdog.search.space import Dimension, Space
from catdog.search.trials import Trial, TrialState
from catdog.system.errors import UserError

SPACE = Space((Dimension("rate", low=1e-4, high=1e-1, log=True), Dimension("units", choices=("16", "32", "64"))))
SMALL = Space((Dimension("units", choices=("16", "32")), Dimension("drop", choices=("0", "0.5"))))


def search(space: Space, count: int, sampler: str = "tpe", seed: int = 0, share: float = 0.0) -> list[Trial]:
    """Trials of a surface whose best rate is 0.003, with 32 units."""
    trials: list[Trial] = []
    for number in range(count):
        found = suggest(space, trials, number=number, sampler=sampler, seed=seed, random_share=share)
        if found is None:
            break
        trial = Trial(number, found.settings, TrialState.FINISHED, 1, origin=found.origin)
        rate = float(found.settings.get("rate", 0.003))
        trial.score = 1 - (math.log10(rate / 0.003)) ** 2 - 0.1 * (found.settings["units"] != "32")
        trials.append(trial)
    return trials


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_what_is_tried_follows_from_the_trials_so_far_alone(sampler) -> None:
    trials = search(SPACE, 15, sampler)
    again = suggest(SPACE, trials[:12], number=12, sampler=sampler, seed=0, random_share=0.0)
    assert again is not None
    assert again.settings == trials[12].settings
    assert trials != search(SPACE, 15, sampler, seed=1)


def test_cmaes_finds_the_region_although_it_is_built_anew_for_each_trial() -> None:
    pytest.importorskip("cmaes", reason="needs the extra cmaes")
    space = Space((Dimension("rate", low=1e-4, high=1e-1, log=True), Dimension("drop", low=0.0, high=1.0)))
    trials: list[Trial] = []
    for number in range(80):
        found = suggest(space, trials, number=number, sampler="cmaes", seed=0, random_share=0.0)
        assert found is not None
        trial = Trial(number, found.settings, TrialState.FINISHED, 1)
        rate, drop = float(found.settings["rate"]), float(found.settings["drop"])
        trial.score = 1 - math.log10(rate / 0.003) ** 2 - (drop - 0.3) ** 2
        trials.append(trial)
    scores = [trial.score or 0.0 for trial in trials]
    assert sum(scores[-20:]) > sum(scores[:20]) + 3


def test_tpe_finds_the_region() -> None:
    late = search(SPACE, 40)[20:]
    near = [trial for trial in late if 0.001 < float(trial.settings["rate"]) < 0.01]
    assert len(near) >= 10
    assert sum(trial.settings["units"] == "32" for trial in late) >= 10
    assert {trial.origin for trial in late} == {"sampler"}


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_nothing_is_tried_twice_and_a_finite_space_ends(sampler) -> None:
    trials = search(SMALL, 10, sampler)
    assert len(trials) == 4
    assert len({tuple(trial.settings.items()) for trial in trials}) == 4


def test_a_share_is_drawn_at_random() -> None:
    origins = [trial.origin for trial in search(SPACE, 40, share=0.5)[10:]]
    assert 5 <= origins.count("random") <= 25


def test_trials_that_wait_fail_or_diverge_are_no_obstacle() -> None:
    states = [TrialState.PAUSED, TrialState.FAILED, TrialState.DIVERGED, TrialState.RUNNING, TrialState.FINISHED]
    trials = [
        Trial(number, {"rate": "0.001", "units": "16"}, state, 2, {1: 0.4, 2: 0.5})
        for number, state in enumerate(states)
    ]
    trials[-1].score = 0.6
    found = suggest(SPACE, trials, number=5, sampler="tpe", seed=0, random_share=0.0)
    assert found is not None
    assert set(found.settings) == {"rate", "units"}


def test_a_key_whose_condition_does_not_hold_is_not_set() -> None:
    space = Space((
        Dimension("units", choices=("16", "32")),
        Dimension("rate", low=1e-4, high=1e-1, log=True, when=(("units", ("32",)),)),
    ))  # fmt: skip
    trials = search(space, 20)
    assert all(("rate" in trial.settings) == (trial.settings["units"] == "32") for trial in trials)


def test_grid_needs_values() -> None:
    with pytest.raises(UserError, match="sampler: grid tries every combination, and rate="):
        require_sampler("grid", SPACE)
    require_sampler("grid", SMALL)
