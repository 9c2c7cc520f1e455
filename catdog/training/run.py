"""One composed config -> one tracked run: prepare, build, fit, finish."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from catdog.config.schema import Config
from catdog.system.clock import Clock
from catdog.tracking import Job, describe_undelivered
from catdog.training.outcome import Outcome
from catdog.training.preparation import prepare

if TYPE_CHECKING:
    from catdog.data.dataset import Dataset
    from catdog.training.progress import Progress


def train(
    config: Config,
    job: Job,
    make_progress: "Callable[[str, int, int, int], Progress] | None" = None,
    dataset: "Dataset | None" = None,
) -> Outcome:
    """Trains one model as the config says and tracks it; goes on where an interrupted training of it stopped.

    Args:
        config: the run.
        job: what it is called and where it belongs.
        make_progress: called with name, epochs, steps and first epoch, returns what shows progress; None for a live line.
        dataset: the config's, where the caller has loaded it: every file of it is read and hashed for that.

    Raises:
        UserError: the config asks for what cannot be had; no MLflow run is left behind where that shows before training.
        BusyError: another process trains this very run.
    """
    clock = Clock("start")
    # Before TensorFlow is imported: what cannot be had is said at once.
    prepared = prepare(config, job, clock, dataset)

    from catdog.training import preload  # noqa: F401  before Keras: it keeps TensorFlow's import quiet

    # isort: split
    from catdog.training.stages import build, finish, fit_model, open_tracked, start_or_resume

    built = build(prepared)
    with open_tracked(prepared, built) as run:
        fit = start_or_resume(prepared, built, run)
        fit_model(prepared, built, run, fit, make_progress)
        finish(prepared, built, run, fit)
    delivered = run.delivered_state
    return Outcome(
        delivered["run_id"], job.name, fit.best_epoch, fit.best["val/accuracy"], fit.last["train/accuracy"],
        fit.last["val/accuracy"], clock.totals[0], run.has_arrived,
        "" if run.has_arrived else describe_undelivered(config.tracking, run.delivery), delivered.get("promotions", []),
    )  # fmt: skip
