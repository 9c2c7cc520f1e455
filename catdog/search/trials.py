"""The trials of a search: what each has tried, how far it has come, and what it is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class TrialState(StrEnum):
    """How a trial stands."""

    # It has a process, or had one that was interrupted: it goes on before anything else is decided.
    RUNNING = "running"
    # It waits at its checkpoint.
    PAUSED = "paused"
    # All of its epochs are trained.
    FINISHED = "finished"
    # Its loss became infinite: a bad trial.
    DIVERGED = "diverged"
    # Its process crashed, also when it was tried again. It says nothing about its settings.
    FAILED = "failed"


@dataclass
class Trial:
    """One configuration that a search tries, which is one run.

    Attributes:
        number: from 0; trial 0 has the default settings if they lie in the space.
        settings: key -> value, as typed on a command line. A key whose condition does not hold is missing.
        state: how it stands.
        epochs: how many epochs are trained.
        curve: epoch -> the best score up to it, as far as the epochs were validated; the higher the better, whatever the metric.
        score: the score that counts of a finished trial: that of its kept model, chosen on one half of the images and counted on
            the other. The higher the better. None if it has not finished.
        run_id: of its run in MLflow; "" if it has none yet.
        seconds: how long it has trained.
        why: what went wrong, if it failed or diverged.
        origin: default, random, sampler, or reused if the run existed before the search.
    """

    number: int
    settings: Mapping[str, str]
    state: TrialState = TrialState.RUNNING
    epochs: int = 0
    curve: dict[int, float] = field(default_factory=dict)
    score: float | None = None
    run_id: str = ""
    seconds: float = 0.0
    why: str = ""
    origin: str = "sampler"

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"trial {self.number}"

    @property
    def is_over(self) -> bool:
        """Whether it will never train again."""
        return self.state in (TrialState.FINISHED, TrialState.DIVERGED, TrialState.FAILED)

    @property
    def last(self) -> float | None:
        """The score that is known: the one that counts, or else the best so far; None before the first validation."""
        if self.score is not None:
            return self.score
        return self.curve[max(self.curve)] if self.curve else None

    def score_at(self, epoch: int) -> float | None:
        """Returns the best score up to an epoch; None if it has not come that far, or failed. One that diverged has the lowest."""
        if self.state == TrialState.DIVERGED:
            return float("-inf")
        if self.epochs < epoch or self.state == TrialState.FAILED:
            return None
        known = [number for number in self.curve if number <= epoch]
        return self.curve[max(known)] if known else None


def find_best(trials: Sequence[Trial]) -> Trial | None:
    """Returns the finished trial with the highest score, of equals the first; None if none has finished."""
    finished = [trial for trial in trials if trial.state == TrialState.FINISHED and trial.score is not None]
    return max(finished, key=lambda trial: (trial.score or 0.0, -trial.number), default=None)
