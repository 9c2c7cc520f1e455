import numpy as np

from catdog.search.importance import measure_importances
from catdog.search.space import Dimension, Space
from catdog.search.trials import Trial, TrialState

SPACE = Space((
    Dimension("rate", low=1e-4, high=1e-1, log=True),
    Dimension("drop", low=0.0, high=1.0),
    Dimension("units", choices=("16", "32")),
    Dimension("momentum", low=0.5, high=0.99, when=(("units", ("32",)),)),
))  # fmt: skip


def make_trials(count: int, rung: int = 2) -> list[Trial]:
    """Trials whose score follows from the rate, with a little noise."""
    generator = np.random.default_rng(0)
    trials = []
    for number in range(count):
        rate = 10 ** generator.uniform(-4, -1)
        settings = {
            "rate": f"{rate:.4g}",
            "drop": f"{generator.random():.3f}",
            "units": str(generator.choice(["16", "32"])),
        }
        score = 0.8 - 0.1 * (np.log10(rate) + 2.5) ** 2 + generator.normal(0, 0.01)
        trials.append(Trial(number, settings, TrialState.PAUSED, rung, {rung: float(score)}))
    return trials


def test_the_key_that_matters_has_the_largest_share() -> None:
    found = measure_importances(SPACE, make_trials(40), (2, 7))
    # A key that only some trials have cannot be compared.
    assert list(found) == ["rate", "drop", "units"]
    assert found["rate"].value > 0.6
    assert found["rate"].low > found["drop"].high
    for each in found.values():
        assert 0 <= each.low <= each.value <= each.high <= 1


def test_few_trials_and_equal_scores_say_nothing() -> None:
    assert measure_importances(SPACE, make_trials(14), (2, 7)) == {}
    equal = make_trials(20)
    for trial in equal:
        trial.curve = {2: 0.5}
    assert measure_importances(SPACE, equal, (2, 7)) == {}


def test_trials_are_compared_at_the_last_rung_that_enough_reached() -> None:
    trials = make_trials(40)
    for trial in trials[:5]:
        trial.epochs, trial.curve = 7, {**trial.curve, 7: 0.9}
    diverged = Trial(40, trials[0].settings, TrialState.DIVERGED)
    assert measure_importances(SPACE, [*trials, diverged], (2, 7)) == measure_importances(
        SPACE, make_trials(40), (2, 7)
    )
