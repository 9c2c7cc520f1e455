"""A single run: planned, then trained, or found finished; the counterpart of `catdog.sweeps.launch` for one run."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from catdog.config.command_lines import next_command
from catdog.config.schema import DEFAULT_STUDY, Config

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.data.dataset import Dataset
    from catdog.sweeps.plan import PlannedRun
    from catdog.training.outcome import Outcome

log = logging.getLogger(__name__)


@dataclass
class SingleRun:
    """A run that is not part of a sweep.

    Attributes:
        planned: the plan for it: reuse, resume, run, or busy.
        variant: its name without the seed.
        overrides: the command line's.
        dataset: the data set of its config.
        client: of the tracking store; None if there is none yet.
    """

    planned: "PlannedRun"
    variant: str
    overrides: list[str]
    dataset: "Dataset" = field(repr=False)
    client: "MlflowClient | None" = field(repr=False)

    @property
    def config(self) -> Config:
        """The config of the run."""
        return self.planned.config

    def reuse(self) -> None:
        """Compares the finished run with the champion again: there may be a new champion, or promote.force may be set."""
        from catdog.registry.champion import promote

        assert self.client is not None
        promote(self.client, self.config.promote, [self.planned.run_id])

    def train(self, output_dir: Path) -> "Outcome":
        """Trains the run, or resumes it, in this process.

        Args:
            output_dir: folder that contains its log.

        Raises:
            UserError: another process is training it, or it cannot be trained.
            KeyboardInterrupt: Ctrl-C or SIGTERM stopped it.
        """
        from catdog.sweeps.busy import busy_run
        from catdog.sweeps.check import check_single
        from catdog.sweeps.plan import discard_entries
        from catdog.tracking import BusyError, Job
        from catdog.training.outcome import Pause
        from catdog.training.run import train

        planned = self.planned
        if planned.state == "busy":
            raise busy_run(planned.name, planned.why, planned.config)
        if planned.state == "run":
            # Before the images are decoded, which may take long.
            check_single(self.config, len(self.dataset.classes), planned.identity)
        discard_entries([planned])
        log.info("%s: %s", {"run": "new", "resume": "resuming"}[planned.state], planned.why)
        job = Job(planned.name, self.variant, self.overrides, output_dir, identity=planned.identity)
        try:
            outcome = train(self.config, job, dataset=self.dataset)
        except BusyError as busy:
            why = f"{busy.owner or 'another process'} trains it right now"
            raise busy_run(planned.name, why, planned.config) from None
        assert not isinstance(outcome, Pause)
        return outcome

    def next_commands(self, outcome: "Outcome | None" = None) -> list[str]:
        """Returns the commands to type next, after the run was trained or found finished."""
        from catdog.comparison.single import find_partner

        if outcome and not outcome.has_arrived:
            return [next_command("deliver", DEFAULT_STUDY, self.config.tracking.uri)]
        place = (self.config.study, self.config.tracking.uri)
        run_id = outcome.run_id if outcome else self.planned.run_id
        # A model from a quick look is not meant to be evaluated on the test split.
        is_whole = self.config.dataset.max_images_per_class is None
        is_promoted = is_whole and outcome is not None and bool(outcome.promotions)
        tested = [next_command("evaluate", *place)] if is_promoted and self._has_champion() else []
        partner = find_partner(self.client, self.config.study, run_id) if self.client else None
        runs = [run_id, partner.run_id] if partner else [run_id]
        return [*tested, next_command("compare", *place, f"runs={','.join(runs)}")]

    def _has_champion(self) -> bool:
        from catdog import tracking
        from catdog.registry.champion import has_champion_to_test

        return has_champion_to_test(tracking.connect(self.config.tracking), self.config.study)


def plan_single(config: Config, model: str, overrides: list[str], *, plan_only: bool = False) -> SingleRun:
    """Returns the plan for a run; delivers and closes what earlier processes have left behind.

    Args:
        config: the run's.
        model: the choice of the group `model`.
        overrides: the command line's.
        plan_only: deliver and close nothing.

    Raises:
        UserError: a store or data set is not available.
    """
    from catdog import tracking
    from catdog.config.names import name_job
    from catdog.data.dataset import load_dataset, require_cats_and_dogs
    from catdog.registry.champion import promote
    from catdog.sweeps.fitting import fit_configs
    from catdog.sweeps.plan import PlannedRun, close_dead, plan_runs
    from catdog.tracking.identity import identify
    from catdog.tracking.settlement import settle_earlier
    from catdog.training.precision import plan_precision

    name, variant = name_job(model, overrides)
    client = tracking.connect_existing(config.tracking)
    if client:
        tracking.check_study(client, config.study)
    dataset = load_dataset(config.dataset)
    require_cats_and_dogs(dataset)
    (config,) = fit_configs([(name, config)], [dataset])
    identity = identify(config, dataset.manifest.digest, plan_precision(config.trainer).runtime)
    planned = PlannedRun(name, config, identity, images=dataset.manifest.images)
    if client and not plan_only:
        settle_earlier(client, config.tracking, promote)
        close_dead(client, config)
    plan_runs(client, [planned])
    return SingleRun(planned, variant, overrides, dataset, client)
