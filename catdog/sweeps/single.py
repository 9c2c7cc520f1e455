"""Leading a single run: planned, trained or found finished, registered; what `catdog.sweeps.launch` is to a sweep."""

import logging
import sys
from pathlib import Path

from omegaconf import DictConfig

from catdog.config.command_lines import next_command, this_command, ui_command
from catdog.config.schema import DEFAULT_STUDY, Config, load_config
from catdog.system.errors import EXIT_DEFECT, InterruptedRunError, UserError
from catdog.tracking import BusyError, Job
from catdog.tracking.identity import identify

log = logging.getLogger(__name__)


def run_single(composed: DictConfig) -> None:
    """Trains one run, or finds it finished, registers it, and says what to do next."""
    config = load_config(composed, Config)
    # After the config's checks: a mistake is said before pandas and MLflow are imported.
    from hydra.core.hydra_config import HydraConfig

    from catdog import tracking
    from catdog.data.dataset import load_dataset
    from catdog.registry.champion import promote
    from catdog.sweeps.plan import PlannedRun, build_table, close_dead_runs, discard_entries, plan_runs
    from catdog.system import interrupts
    from catdog.system.tempdir import open_scratch
    from catdog.system.terminal import console, show_error, show_next
    from catdog.tracking.settlement import settle_entries
    from catdog.training.run import name_job, train

    hydra = HydraConfig.get()
    plan_only = _read_plan_only(list(hydra.overrides.hydra))
    open_scratch()
    # A scheduler's polite end is Ctrl-C: the run is closed, and the same command goes on with it.
    interrupts.listen(once=False)
    overrides = list(hydra.overrides.task)
    name, variant = name_job(hydra.runtime.choices["model"], overrides)
    client = tracking.connect_existing(config.tracking)
    dataset = load_dataset(config.dataset)
    planned = PlannedRun(name, config, identify(config, dataset.manifest.digest), images=dataset.manifest.images)
    if client and not plan_only:
        settle_entries(client, Path(config.tracking.spool), config.tracking.uri, config.tracking.wait_s)
        close_dead_runs(client, config)
    plan_runs(client, [planned])
    place = (config.study, config.tracking.uri)
    if plan_only:
        console.print(build_table([planned]))
        show_next(this_command(without="hydra.launcher.plan_only="))
        return
    if planned.state == "busy":
        raise UserError(f"{name}: {planned.why}. Wait for it, or train another seed: seed=1.")
    if planned.state == "reuse":
        assert client is not None
        console.print(build_table([planned]))
        log.info("nothing to train: run %s is this one; reuse=never trains it again", planned.run_id)
        promote(client, config.promote, [planned.run_id])
        show_next(next_command("compare", *place, f"runs=[{planned.run_id}]"), ui_command(config.tracking.uri))
        return
    discard_entries([planned])
    log.info("%s: %s", {"run": "new", "resume": "goes on"}[planned.state], planned.why)
    try:
        outcome = train(
            config,
            Job(name, variant, overrides, Path(hydra.runtime.output_dir), identity=planned.identity),
            dataset=dataset,
        )
    except BusyError as busy:
        raise UserError(f"{name}: {busy.owner or 'another process'} trains it right now. Wait for it.") from None
    except KeyboardInterrupt:
        raise InterruptedRunError from None
    if not outcome.has_arrived:
        show_error(outcome.undelivered)
        show_next(next_command("deliver", DEFAULT_STUDY, config.tracking.uri))
        sys.exit(EXIT_DEFECT)
    log.info("run %s", outcome.run_id)
    whole = config.dataset.max_images_per_class is None
    show_next(
        # The model of a quick look is no model to test.
        *([next_command("evaluate", *place)] if outcome.promotions and whole else []),
        next_command("compare", *place, f"runs=[{outcome.run_id}]"),
        ui_command(config.tracking.uri),
    )


def _read_plan_only(overrides: list[str]) -> bool:
    """Returns whether a single run is to be planned only; the launcher's other options need a sweep.

    Raises:
        UserError: there is one of those.
    """
    options = [item.removeprefix("hydra.launcher.") for item in overrides if item.startswith("hydra.launcher.")]
    for option in options:
        if not option.startswith("plan_only="):
            raise UserError(f"hydra.launcher.{option}: a launcher runs sweeps. Add -m: one run is a sweep of one.")
    return any(option.partition("=")[2].lower() == "true" for option in options)
