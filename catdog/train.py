"""The command `train`: trains a model, or a sweep of them. `python -m catdog.train --help` explains it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from catdog import cli
from catdog.config.command_lines import next_command, train_command
from catdog.config.schema import Config, load_config
from catdog.sweeps.options import read_single_options
from catdog.system.errors import EXIT_DEFECT, EXIT_INTERRUPTED, UserError
from catdog.system.terminal import show_error, show_next

if TYPE_CHECKING:
    from catdog.config.composition import ComposedRun
    from catdog.sweeps.launch import SweepResult
    from catdog.sweeps.options import LauncherOptions

RESULT_FILE = "hydra.launcher.result_file="
USAGE = """Trains an image classifier, or with -m a sweep of them, and tracks every run in MLflow.

  python -m catdog.train model=mobilenet
  python -m catdog.train -m model=cnn,augmented,preprocessed,mobilenet
  python -m catdog.train -m model=cnn seed=0,1,2 trainer.epochs=3
  python -m catdog.train dataset=folder dataset.archive=path/to/images study=flowers"""


def run(composed: DictConfig) -> None:
    """Trains one run, or finds that it is finished already, and says what to do next."""
    config = load_config(composed, Config)
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        # Another launcher calls this for every run of a sweep.
        raise UserError(
            f"hydra/launcher: sweeps need catdog's own launcher, received {hydra.runtime.choices['hydra/launcher']!r}. Leave "
            "hydra/launcher out."
        )
    options = read_single_options(list(hydra.overrides.hydra))
    if not options.plan_only:
        from catdog.sweeps.busy import require_idle

        require_idle([config], sweep=False)
    # Imported after the config's checks, so that a mistake is reported before pandas and MLflow are imported.
    from catdog import training_view
    from catdog.sweeps.single import plan_single

    training_view.prepare(options)
    overrides = list(hydra.overrides.task)
    single = plan_single(config, hydra.runtime.choices["model"], overrides, plan_only=options.plan_only)
    if options.plan_only:
        again = train_command(sys.argv[1:], without=training_view.PLAN_OPTIONS)
        cli.finish_plan([single.planned], again, options.format)
    outcome = training_view.train_single(single, Path(hydra.runtime.output_dir))
    show_next(*single.next_commands(outcome), next_command("ui", config.study, config.tracking.uri))


def launch(runs: "Sequence[ComposedRun]", options: "LauncherOptions") -> "SweepResult":
    """Hydra calls this for `-m`: trains a sweep, says what to do next, and exits with an error unless all runs have finished."""
    if not options.plan_only and options.only is None:
        from catdog.sweeps.busy import require_idle

        require_idle([run.config for run in runs], sweep=True)
    from catdog.training_view import train_sweep

    result = train_sweep(runs, options, [item for item in sys.argv[1:] if not item.startswith(RESULT_FILE)])
    if result.undelivered:
        show_error(result.undelivered)
    if options.result_file and result.is_complete:
        # The caller that asked for this file says what to do next.
        result.save(Path(options.result_file))
    else:
        browse = next_command("ui", result.study, result.tracking.uri)
        show_next(*result.next_commands(), *([browse] if result.has_ended and not result.undelivered else []))
    if result.interrupted:
        sys.exit(EXIT_INTERRUPTED)
    if result.left and not result.undelivered:
        sys.exit(0)
    if result.undelivered or not result.is_complete:
        sys.exit(EXIT_DEFECT)
    return result


if __name__ == "__main__":
    cli.run_app("config", run, usage=USAGE, sweeps=True)
