"""The command `train`: trains a model, or a sweep of them. `python -m catdog.train --help` explains it."""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.text import Text

from catdog import cli
from catdog.config.command_lines import train_command, ui_command
from catdog.config.schema import Config, load_config
from catdog.sweeps.options import read_single_options
from catdog.system.errors import EXIT_DEFECT, EXIT_INTERRUPTED, UserError
from catdog.system.terminal import console, show_error, show_next

if TYPE_CHECKING:
    from catdog.config.composition import ComposedRun
    from catdog.sweeps.launch import SweepResult
    from catdog.sweeps.options import LauncherOptions

log = logging.getLogger(__name__)

PLAN_OPTIONS = ("hydra.launcher.plan_only=", "hydra.launcher.format=")

USAGE = """Trains an image classifier, or with -m a sweep of them, and tracks every run in MLflow.

  python -m catdog.train model=mobilenet
  python -m catdog.train -m model=cnn,augmented,preprocessed,mobilenet
  python -m catdog.train -m model=cnn seed=0,1,2 trainer.epochs=3
  python -m catdog.train dataset=folder dataset.archive=path/to/images study=flowers"""


def train_sweep(runs: "Sequence[ComposedRun]", options: "LauncherOptions", arguments: Sequence[str]) -> "SweepResult":
    """Trains a sweep, shows plan, progress and outcome, and returns the result. With `plan_only` it shows the plan and exits."""
    from catdog.sweeps.display import Display
    from catdog.sweeps.launch import plan_sweep
    from catdog.sweeps.plan import build_table
    from catdog.sweeps.summary import build_summary
    from catdog.system import interrupts
    from catdog.system.tempdir import open_scratch

    # With JSON, stdout must contain nothing but the plan.
    console.stderr = options.plan_only and options.format == "json"
    open_scratch()
    # A scheduler's SIGTERM is treated as Ctrl-C.
    interrupts.listen(once=False)
    planned = plan_sweep(runs, options, arguments)
    if options.plan_only:
        again = train_command(arguments, without=PLAN_OPTIONS)
        cli.finish_plan([job.planned for job in planned.jobs], again, options.format)
    console.print(build_table([job.planned for job in planned.jobs]))
    try:
        result = planned.run(Display)
    except KeyboardInterrupt:
        console.print(
            f"stopped at once. Resume with the same command:\n{train_command(arguments)}",
            soft_wrap=True,
            highlight=False,
        )
        sys.exit(EXIT_INTERRUPTED)
    console.print(build_summary(result.jobs))
    for job in result.jobs:
        if job.has_failed:
            console.print(Text(f"{job.name} failed: {job.error}", style="red"), soft_wrap=True)
    return result


def train_single(composed: DictConfig) -> None:
    """Trains one run, or finds that it is finished already, and says what to do next."""
    config = load_config(composed, Config)
    # Imported after the config's checks, so that a mistake is reported before pandas and MLflow are imported.
    from catdog.sweeps.plan import build_table
    from catdog.sweeps.single import plan_single
    from catdog.system import interrupts
    from catdog.system.tempdir import open_scratch

    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        # Another launcher calls this for every run of a sweep.
        raise UserError(
            f"hydra/launcher: sweeps need catdog's own launcher, received {hydra.runtime.choices['hydra/launcher']!r}. Leave "
            "hydra/launcher out."
        )
    options = read_single_options(list(hydra.overrides.hydra))
    # With JSON, stdout must contain nothing but the plan.
    console.stderr = options.plan_only and options.format == "json"
    open_scratch()
    # A scheduler's SIGTERM is treated as Ctrl-C: the run is closed, and the same command resumes it.
    interrupts.listen(once=False)
    single = plan_single(
        config, hydra.runtime.choices["model"], list(hydra.overrides.task), plan_only=options.plan_only
    )
    if options.plan_only:
        cli.finish_plan([single.planned], train_command(sys.argv[1:], without=PLAN_OPTIONS), options.format)
    outcome = None
    if single.planned.state == "reuse":
        console.print(build_table([single.planned]))
        log.info(
            "nothing to train: run %s is the same and finished; reuse=never trains it again", single.planned.run_id
        )
        single.reuse()
    else:
        outcome = single.train(Path(hydra.runtime.output_dir))
        if not outcome.has_arrived:
            show_error(outcome.undelivered)
            show_next(*single.next_commands(outcome))
            sys.exit(EXIT_DEFECT)
        log.info("run %s", outcome.run_id)
    show_next(*single.next_commands(outcome), ui_command(config.tracking.uri))


def launch(runs: "Sequence[ComposedRun]", options: "LauncherOptions") -> "SweepResult":
    """Hydra calls this for `-m`: trains a sweep, says what to do next, and exits with an error unless all runs have finished."""
    arguments = [item for item in sys.argv[1:] if not item.startswith("hydra.launcher.result_file=")]
    result = train_sweep(runs, options, arguments)
    if result.undelivered:
        show_error(result.undelivered)
    if options.result_file and result.is_complete:
        # The caller that asked for this file says what to do next.
        content = {"study": result.study, "sweep_id": result.sweep_id, "tracking": asdict(result.tracking)}
        Path(options.result_file).write_text(json.dumps(content), encoding="utf-8")
    else:
        show_next(*result.next_commands(), *([] if result.undelivered else [ui_command(result.tracking.uri)]))
    if result.interrupted:
        sys.exit(EXIT_INTERRUPTED)
    if result.undelivered or not result.is_complete:
        sys.exit(EXIT_DEFECT)
    return result


if __name__ == "__main__":
    cli.run_app("config", train_single, usage=USAGE, sweeps=True)
