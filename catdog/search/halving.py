"""Successive halving: most trials stop early, at a rung, and only the best of each rung go on.

Trials that stop are paused at their checkpoints, so one that proves to be among the best of its rung later, when there are more to
compare it with, goes on from there.

Source: Li et al. (2020), "A system for massively parallel hyperparameter tuning" (asynchronous successive halving), MLSys 2020.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from catdog.search.trials import Trial, TrialState


@dataclass(frozen=True)
class Step:
    """What to do next.

    Attributes:
        until: the epoch to train to, the rung.
        trial: the number of the trial that goes on; None: a new one.
    """

    until: int
    trial: int | None = None


def plan_rungs(
    epochs: int, min_epochs: int, factor: int, is_validated: Callable[[int], bool] = lambda _: True
) -> tuple[int, ...]:
    """Returns the epochs at which trials are compared, increasing; the last is the last epoch.

    Args:
        epochs: of a whole training.
        min_epochs: the first rung has at least so many.
        factor: one of so many trials of a rung goes on, and has about so many times the epochs at the next.
        is_validated: whether an epoch ends with a validation. Rungs are moved to the next that does.
    """
    rungs = {epochs}
    shrunk = epochs / factor
    while round(shrunk) >= min_epochs and round(shrunk) >= 1:
        epoch = round(shrunk)
        while not is_validated(epoch):
            epoch += 1
        rungs.add(epoch)
        shrunk /= factor
    return tuple(sorted(rungs))


@dataclass(frozen=True)
class Halving:
    """The rule by which the next step of a search follows from its trials, and from nothing else.

    Attributes:
        rungs: epochs at which trials are compared, increasing.
        factor: one of so many trials of a rung goes on.
        finishers: so many trials are trained to the end at least, if there are so many.
    """

    rungs: tuple[int, ...]
    factor: int
    finishers: int

    def describe(self, trials: int) -> str:
        """Returns the rule in a sentence."""
        *early, last = self.rungs
        if not early:
            return f"{trials} trials of {last} epochs"
        words = ", ".join(map(str, early[:-1])) + (" and " if early[:-1] else "") + str(early[-1])
        return (
            f"{trials} trials of at most {last} epochs, compared after {words}: at each, one of {self.factor} goes on, and the "
            "others are paused"
        )

    def expect_epochs(self, trials: int) -> int:
        """Returns how many epochs a search of so many trials takes in all, about."""
        total, before, alive = 0, 0, trials
        for rung in self.rungs:
            total += alive * (rung - before)
            before, alive = rung, min(alive, max(alive // self.factor, self.finishers))
        return total

    def next_step(self, trials: Sequence[Trial], *, may_add: bool, may_go_on: bool = True) -> Step | None:
        """Returns what to do next; None if there is nothing to do as long as no running trial reports.

        Args:
            trials: all so far; those in state RUNNING have a process.
            may_add: whether there may be another trial.
            may_go_on: whether trials below the last rung may still go on; if not, only `finishers` are seen to.
        """
        if may_go_on:
            for place in range(len(self.rungs) - 2, -1, -1):
                best = self._find_promotable(trials, place)
                if best is not None:
                    return Step(self.rungs[place + 1], best.number)
        if may_add:
            return Step(self.rungs[0])
        return self._complete(trials)

    def _find_promotable(self, trials: Sequence[Trial], place: int) -> Trial | None:
        """Returns the best trial that waits at a rung and is among the best of all that came there; None if there is none."""
        reached = [(score, trial) for trial in trials if (score := trial.score_at(self.rungs[place])) is not None]
        reached.sort(key=lambda pair: (-pair[0], pair[1].number))
        for _, trial in reached[: len(reached) // self.factor]:
            if trial.state == TrialState.PAUSED and self._place_of(trial) == place:
                return trial
        return None

    def _complete(self, trials: Sequence[Trial]) -> Step | None:
        """Returns a step for one more trial to finish, if too few do."""
        ends = [trial for trial in trials if trial.state == TrialState.FINISHED or self._heads_for_end(trial)]
        climbing = [trial for trial in trials if trial.state == TrialState.RUNNING and trial not in ends]
        if climbing or len(ends) >= self.finishers:
            return None
        waiting = [trial for trial in trials if trial.state == TrialState.PAUSED]
        best = max(waiting, key=lambda trial: (self._place_of(trial), trial.last or 0.0, -trial.number), default=None)
        return None if best is None else Step(self.rungs[self._place_of(best) + 1], best.number)

    def _heads_for_end(self, trial: Trial) -> bool:
        return trial.state == TrialState.RUNNING and self._place_of(trial) >= len(self.rungs) - 2

    def _place_of(self, trial: Trial) -> int:
        """Returns the place of the last rung that a trial has passed; -1 if it has passed none."""
        return sum(trial.epochs >= rung for rung in self.rungs) - 1

    def target_of(self, trial: Trial) -> int:
        """Returns the rung that an unfinished trial trains to when it goes on."""
        # A run may have been interrupted after its last epoch, before its results were recorded.
        return next((rung for rung in self.rungs if rung > trial.epochs), self.rungs[-1])
