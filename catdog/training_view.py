"""Shows the training of a sweep, or of one run, in the terminal: the plan, the progress, the outcome."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from catdog import cli
from catdog.config.command_lines import train_command
from catdog.system.errors import EXIT_DEFECT
from catdog.system.terminal import console, show_error, show_next, show_table
from catdog.system.wording import plural

if TYPE_CHECKING:
    from catdog.config.composition import ComposedRun
    from catdog.sweeps.launch import SweepResult
    from catdog.sweeps.options import LauncherOptions
    from catdog.sweeps.single import SingleRun
    from catdog.training.outcome import Outcome

log = logging.getLogger(__name__)

PLAN_OPTIONS = ("hydra.launcher.plan_only=", "hydra.launcher.format=")


def prepare(options: "LauncherOptions") -> None:
    """Prepares this process for training: where it prints, its temporary folder, and what SIGTERM does."""
    from catdog.system import interrupts
    from catdog.system.tempdir import open_scratch

    # With JSON, stdout must contain nothing but the plan.
    console.stderr = options.plan_only and options.format == "json"
    open_scratch()
    # A scheduler's SIGTERM is treated as Ctrl-C: runs are closed, and the same command resumes them.
    interrupts.listen(once=False)


def train_sweep(
    runs: "Sequence[ComposedRun]",
    options: "LauncherOptions",
    arguments: Sequence[str],
    *,
    command: str = "train",
    names: "Sequence[tuple[str, str]] | None" = None,
) -> "SweepResult":
    """Trains a sweep, shows plan, progress and outcome, and returns the result. With `plan_only` it shows the plan and exits."""
    from catdog.sweeps.display import Display
    from catdog.sweeps.launch import plan_sweep
    from catdog.sweeps.plan import build_table
    from catdog.sweeps.summary import build_summary

    prepare(options)
    planned = plan_sweep(runs, options, arguments, command=command, names=names)
    plan = [job.planned for job in planned.jobs]
    if options.plan_only:
        cli.finish_plan(plan, train_command(arguments, without=PLAN_OPTIONS), options.format)
    show_table(build_table(plan))
    result = planned.run(Display)
    show_table(build_summary(result.jobs))
    for job in result.jobs:
        if job.has_failed:
            console.print(Text(f"{job.name} failed: {job.error}", style="red"), soft_wrap=True)
    if result.left:
        queued = f"{plural(result.left, 'run')} {'is' if result.left == 1 else 'are'} in the queue"
        log.info("%s. The same command shows how they stand, and finishes the sweep", queued)
    elif result.lacks_promotion:
        finished = f"{len(result.outcomes)} of {plural(len(result.jobs), 'run')}"
        log.info("nothing was promoted: the sweep is incomplete, %s finished", finished)
    return result


def train_single(single: "SingleRun", output_dir: Path) -> "Outcome | None":
    """Trains one run and returns its outcome; None if it is finished already. Exits if its results cannot be delivered."""
    from catdog.sweeps.plan import build_table

    if single.planned.state == "reuse":
        show_table(build_table([single.planned]))
        run_id = single.planned.run_id
        log.info("nothing to train: run %s is the same and finished; reuse=never trains it again", run_id)
        single.reuse()
        return None
    outcome = single.train(output_dir)
    if not outcome.has_arrived:
        show_error(outcome.undelivered)
        show_next(*single.next_commands(outcome))
        sys.exit(EXIT_DEFECT)
    log.info("run %s", outcome.run_id)
    return outcome
