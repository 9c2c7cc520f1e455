"""The race: the best configurations of a search against the default, with seeds that the search did not use.

A search's best score is the best of many noisy ones, so it proves nothing. In the verdict only the fresh seeds count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from catdog.config.commands import DecideConfig
from catdog.config.composition import compose_sweep
from catdog.search.decisions import IncompleteRoundError, Round
from catdog.search.planning import DEFAULT, PlannedSearch
from catdog.search.trials import Trial, TrialState
from catdog.statistics.judgements import Judgement
from catdog.sweeps.options import build_options
from catdog.system.errors import UserError

if TYPE_CHECKING:
    from catdog.config.composition import ComposedRun
    from catdog.search.decisions import Decision, Pair
    from catdog.sweeps.launch import SweepResult
    from catdog.sweeps.options import LauncherOptions

# Seeds before the first look.
FIRST_SEEDS = 3


class RunSweep(Protocol):
    """Trains a sweep, as `catdog.training_view.train_sweep`."""

    def __call__(
        self,
        runs: "Sequence[ComposedRun]",
        options: "LauncherOptions",
        arguments: Sequence[str],
        *,
        command: str = ...,
        names: "Sequence[tuple[str, str]] | None" = ...,
    ) -> "SweepResult":
        """Returns the result of the sweep."""


@dataclass
class RaceTrainer:
    """Trains each round of the race as a sweep; a `catdog.search.decisions.Trainer`.

    Args:
        planned: the search.
        entrants: the trials that race; the default races against them.
        command: the arguments of the search's command.
        run: trains a sweep.
    """

    planned: PlannedSearch
    entrants: Sequence[Trial]
    command: Sequence[str]
    run: RunSweep

    def __call__(self, seeds: int, only: list[str] | None) -> Round:
        """Trains so many fresh seeds of the configurations in `only`, or of all; existing runs are reused.

        Raises:
            UserError: a run failed, or the tracking store does not have all runs.
            KeyboardInterrupt: Ctrl-C.
        """
        from catdog import tracking

        first = self.planned.base_config.seed + 1
        fixed = [item for item in self.planned.fixed if not item.startswith("seed=")]
        values = ",".join(str(first + place) for place in range(seeds))
        runs: list[ComposedRun] = []
        names: list[tuple[str, str]] = []
        launcher = None
        for name, words in [
            (DEFAULT, []),
            *((each.name, self.planned.space.word(each.settings)) for each in self.entrants),
        ]:
            found, launcher = compose_sweep([*fixed, *words, f"seed={values}"])
            runs += found
            names += [(f"{name} seed={run.config.seed}", name) for run in found]
        assert launcher is not None
        for number, run in enumerate(runs):
            run.composed.hydra.job.num = number
            run.composed.hydra.job.id = f"{number}"
            run.composed.hydra.sweep.dir = runs[0].composed.hydra.sweep.dir
            run.composed.hydra.sweep.subdir = names[number][0].replace(" ", "-")
        options = build_options(launcher, {"only": only})
        result = self.run(runs, options, self.command, command="tune", names=names)
        if result.interrupted:
            raise KeyboardInterrupt
        if result.undelivered:
            raise UserError(result.undelivered)
        if not result.is_complete:
            failed = [f"{job.name}: {job.error or 'not started'}" for job in result.jobs if not job.outcome]
            raise IncompleteRoundError(
                f"the race needs all of its runs, and {'; '.join(failed)}. Fix that, and repeat the command."
            )
        return Round(tracking.connect(result.tracking, create=False), result.tracking, result.sweep_id)


def choose_entrants(trials: Sequence[Trial], count: int, default: dict[str, str] | None) -> list[Trial]:
    """Returns the finished trials with the highest scores, without the default settings: those race anyway."""
    finished = [trial for trial in trials if trial.state == TrialState.FINISHED and trial.settings != default]
    return sorted(finished, key=lambda trial: (-(trial.score or 0.0), trial.number))[:count]


def build_race_config(planned: PlannedSearch) -> DecideConfig:
    """Returns the options of the race: the search's metric, margin and error, and the looks."""
    config = planned.config
    return DecideConfig(config.margin, config.error, min(FIRST_SEEDS, config.seeds), config.seeds, metric=config.metric)


def find_winner(decision: "Decision") -> "Pair | None":
    """Returns the pair whose first configuration beats the default by evidence; of several, the one with the largest difference."""
    beaten = [pair for pair in decision.pairs if pair.outcome == Judgement.BETTER and pair.found is not None]
    return max(beaten, key=lambda pair: float(pair.found.estimate) if pair.found else 0.0, default=None)
