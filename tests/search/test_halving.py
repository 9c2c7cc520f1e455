import pytest

from catdog.search.halving import Halving, Step, plan_rungs
from catdog.search.trials import Trial, TrialState


def trial(number: int, epochs: int, score: float, state: TrialState = TrialState.PAUSED) -> Trial:
    found = Trial(number, {}, state, epochs, dict.fromkeys(range(1, epochs + 1), score))
    found.score = score if state == TrialState.FINISHED else None
    return found


RULE = Halving((1, 3, 9), 3, finishers=1)


@pytest.mark.parametrize(
    ("epochs", "fewest", "factor", "rungs"),
    [(20, 2, 3, (2, 7, 20)), (9, 1, 3, (1, 3, 9)), (60, 6, 3, (7, 20, 60)), (2, 2, 3, (2,)), (8, 1, 2, (1, 2, 4, 8))],
)
def test_rungs_shrink_from_the_last_epoch(epochs, fewest, factor, rungs) -> None:
    assert plan_rungs(epochs, fewest, factor) == rungs


def test_rungs_end_with_a_validation() -> None:
    assert plan_rungs(20, 2, 3, lambda epoch: epoch % 5 == 0 or epoch == 20) == (5, 10, 20)


def test_trials_are_added_until_one_of_three_may_go_on() -> None:
    assert RULE.next_step([], may_add=True) == Step(1)
    two = [trial(0, 1, 0.5), trial(1, 1, 0.6)]
    assert RULE.next_step(two, may_add=True) == Step(1)
    assert RULE.next_step([*two, trial(2, 1, 0.4)], may_add=True) == Step(3, 1)


def test_of_equal_scores_the_first_goes_on() -> None:
    assert RULE.next_step([trial(number, 1, 0.5) for number in range(3)], may_add=True) == Step(3, 0)


def test_a_trial_goes_on_when_later_ones_make_it_one_of_the_best() -> None:
    trials = [
        trial(0, 1, 0.7),
        trial(1, 1, 0.6),
        trial(2, 1, 0.5),
        trial(3, 1, 0.4),
        trial(4, 1, 0.3),
        trial(5, 1, 0.2),
    ]
    trials[0] = trial(0, 3, 0.7)
    assert RULE.next_step(trials, may_add=True) == Step(3, 1)


def test_the_highest_rung_comes_first() -> None:
    trials = [trial(0, 3, 0.7), trial(1, 3, 0.8), trial(2, 3, 0.6), *(trial(number, 1, 0.5) for number in range(3, 12))]
    assert RULE.next_step(trials, may_add=True) == Step(9, 1)


def test_a_diverged_trial_is_a_bad_one_and_a_failed_one_says_nothing() -> None:
    two = [trial(0, 1, 0.5), trial(1, 1, 0.4)]
    assert RULE.next_step([*two, Trial(2, {}, TrialState.DIVERGED)], may_add=False) == Step(3, 0)
    failed = [*two, Trial(2, {}, TrialState.FAILED)]
    assert RULE.next_step(failed, may_add=True) == Step(1)


def test_with_no_more_trials_the_best_is_trained_to_the_end() -> None:
    trials = [trial(0, 1, 0.5), trial(1, 1, 0.6)]
    assert RULE.next_step(trials, may_add=False) == Step(3, 1)
    assert RULE.next_step([trials[0], trial(1, 9, 0.6, TrialState.FINISHED)], may_add=False) is None


def test_nothing_is_trained_beyond_need_while_others_climb() -> None:
    trials = [trial(0, 1, 0.5), trial(1, 1, 0.6, TrialState.RUNNING)]
    assert RULE.next_step(trials, may_add=False) is None


def test_so_many_finish_as_will_race() -> None:
    rule = Halving((1, 3), 3, finishers=2)
    trials = [trial(0, 3, 0.9, TrialState.FINISHED), trial(1, 1, 0.5), trial(2, 1, 0.6)]
    assert rule.next_step(trials, may_add=False) == Step(3, 2)
    ending = [trial(0, 3, 0.9, TrialState.FINISHED), trial(1, 1, 0.5), trial(2, 1, 0.6, TrialState.RUNNING)]
    assert rule.next_step(ending, may_add=False) is None


def test_without_rungs_every_trial_is_trained_to_the_end() -> None:
    rule = Halving((4,), 3, finishers=1)
    assert rule.next_step([trial(0, 4, 0.5, TrialState.FINISHED)], may_add=True) == Step(4)


def test_an_interrupted_trial_goes_on_to_its_rung() -> None:
    assert [RULE.target_of(trial(0, epochs, 0.5)) for epochs in (0, 1, 2, 3, 8, 9)] == [1, 3, 3, 9, 9, 9]


def test_how_many_epochs_a_search_takes() -> None:
    assert Halving((2, 7, 20), 3, finishers=4).expect_epochs(40) == 40 * 2 + 13 * 5 + 4 * 13
    assert Halving((20,), 3, finishers=4).expect_epochs(40) == 800
    assert Halving((2, 7, 20), 3, finishers=4).expect_epochs(2) == 40
