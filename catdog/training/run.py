"""Turns one composed config into one tracked run: prepare, build, fit, finish."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from catdog.config.schema import Config
from catdog.system.clock import Clock
from catdog.tracking import Job, describe_undelivered
from catdog.training.outcome import Outcome, Pause
from catdog.training.preparation import prepare

if TYPE_CHECKING:
    from catdog.data.dataset import Dataset
    from catdog.training.progress import Progress


def train(
    config: Config,
    job: Job,
    make_progress: "Callable[[str, int, int, int], Progress] | None" = None,
    dataset: "Dataset | None" = None,
) -> Outcome | Pause:
    """Trains and tracks one model as the config says; an interrupted training of it is resumed where it stopped.

    It returns a Pause if `job.until` says so, and otherwise the Outcome.

    Args:
        config: the run's config.
        job: the run's name, sweep and planned identity.
        make_progress: called with name, epochs, steps and first epoch; returns the progress display. None shows a live line.
        dataset: the config's data set, if the caller has loaded it already; loading reads and hashes every file.

    Raises:
        UserError: the config asks for something impossible. If that shows before training, no MLflow run is left behind.
        BusyError: another process is training the same run.
    """
    clock = Clock("start")
    # Before TensorFlow is imported, so that errors come at once.
    prepared = prepare(config, job, clock, dataset)

    from catdog.training import preload  # noqa: F401  before Keras: it keeps TensorFlow's import quiet

    # isort: split
    from catdog.training.stages import build, explain_reading, finish, fit_model, open_tracked, start_or_resume

    built = build(prepared)
    with open_tracked(prepared, built) as run, explain_reading(prepared.train, prepared.val):
        fit = start_or_resume(prepared, built, run)
        fit_model(prepared, built, run, fit, make_progress)
        is_done = fit.is_done(config.trainer)
        if is_done:
            finish(prepared, built, run, fit)
        else:
            run.pause()
    if not is_done:
        return Pause(fit.epochs, clock.totals[0], run.has_arrived)
    delivered = run.delivered_state
    return Outcome(
        delivered["run_id"], job.name, fit.best_epoch, fit.best["val/accuracy"], fit.last["train/accuracy"],
        fit.last["val/accuracy"], clock.totals[0], run.has_arrived,
        "" if run.has_arrived else describe_undelivered(config.tracking, run.delivery), delivered.get("promotions", []),
    )  # fmt: skip
