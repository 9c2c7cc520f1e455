"""Rounds of a decision whose runs are trained by other tools and recorded."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from catdog.config.schema import TrackingConfig
from catdog.search.decisions import Round
from catdog.system.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.tracking.recording import Recording


class RecordingTrainer:
    """Trains each round with one function per variant, which records the run of one seed; a `Trainer` for `decide`.

    Args:
        client: of the tracking store.
        tracking: the tracking section of that store.
        open_recording: opens the sweep for the runs of a round, given its name, like `Study.recording`.
        train: variant -> function of a seed, which records one run of that variant and seed. It is called again in later rounds;
            `run.is_finished` then tells that there is nothing to train.

    Raises:
        UserError: there are fewer than two variants.
    """

    def __init__(
        self,
        client: "MlflowClient",
        tracking: TrackingConfig,
        open_recording: "Callable[[str], AbstractContextManager[Recording]]",
        train: Mapping[str, Callable[[int], Any]],
    ) -> None:
        if len(train) < 2:
            raise UserError(
                f"train: a comparison needs two variants or more, received {', '.join(train) or 'none'}. Give a function for each: "
                'train={"sgd": train_sgd, "forest": train_forest}.'
            )
        self.client = client
        self.tracking = tracking
        self.open_recording = open_recording
        self.train = train

    def __call__(self, seeds: int, only: list[str] | None) -> Round:
        """Records the seeds 0 to `seeds` - 1 of the variants in `only`, or of all variants; existing runs are reused.

        Raises:
            UserError: a function recorded something other than one run of its variant and seed.
        """
        wanted = list(self.train) if only is None else only
        with self.open_recording(f"decision, {seeds} seeds") as recording:
            for variant in wanted:
                for seed in range(seeds):
                    before = len(recording.members)
                    self.train[variant](seed)
                    recorded = [(member.variant, member.seed) for member in recording.members[before:]]
                    if recorded != [(variant, seed)]:
                        found = ", ".join(f"{name} seed={number}" for name, number in recorded) or "no run"
                        raise UserError(
                            f"train: the function of {variant!r} must record one run, of variant={variant!r} and seed={seed}; it "
                            f"recorded {found}."
                        )
        return Round(self.client, self.tracking, recording.sweep_id)
