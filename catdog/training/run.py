"""Entry: one composed config -> one tracked run. `python -m catdog.train --help` explains it."""

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from catdog.config.schema import Config, find_references
from catdog.system.clock import Clock
from catdog.tracking import Job
from catdog.tracking.identity import identify
from catdog.training.own_code import require_planned_code

if TYPE_CHECKING:
    from mlflow.entities import Run

    from catdog.data.dataset import Dataset, SplitImages
    from catdog.data.predictions import Predictions
    from catdog.training.input_stream import Rows
    from catdog.training.progress import Progress

log = logging.getLogger(__name__)


# Keys that say where things lie or what they are called, not what a single run is.
UNNAMED_KEYS = (
    "study",
    "tracking",
    "promote",
    "experiment",
    "dataset",
    "reuse",
    "hydra",
)
# What predicting takes at once, 16 images of 160 x 160: on a CPU as fast as 32, with 50 to 80 MB less, and the same answers.
PIXELS_AT_ONCE = 16 * 160 * 160


@dataclass(frozen=True)
class Outcome:
    """What a finished run is known by.

    Attributes:
        run_id: MLflow's.
        name: the run's.
        best_epoch: epoch of the highest val accuracy, from 1.
        best_val_accuracy: that accuracy, in [0, 1].
        last_train_accuracy: the last epoch's, while training, in [0, 1].
        last_val_accuracy: the last epoch's, in [0, 1].
        seconds: wall time of the whole run.
        has_arrived: whether MLflow has all of it; if not, the spool has the rest.
        undelivered: in that case, why, in words.
        promotions: a single run's new versions in the registry, as `catdog.registry.champion.Promotion` has them.
    """

    run_id: str
    name: str
    best_epoch: int
    best_val_accuracy: float
    last_train_accuracy: float
    last_val_accuracy: float
    seconds: float
    has_arrived: bool = True
    undelivered: str = ""
    promotions: list[dict[str, Any]] = field(default_factory=list)


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
    from catdog import tracking
    from catdog.data.dataset import describe_dataset, load_dataset

    clock = Clock("start")
    # Before TensorFlow is imported: what cannot be had is said at once.
    with clock.stage("data"):
        dataset = dataset or load_dataset(config.dataset)

    references = find_references(config)
    if references and job.identity:
        require_planned_code(config, job.identity)

    from catdog.training import preload  # noqa: F401  first of all: it keeps TensorFlow's import quiet

    # isort: split
    import keras

    from catdog.tracking.checkpoint import save_checkpoint
    from catdog.training import run_logging
    from catdog.training.augmentation import build_augmentation
    from catdog.training.callbacks import build_callbacks
    from catdog.training.check import check_own_code
    from catdog.training.class_weights import weigh_classes
    from catdog.training.fast.feature_cache import cut_head, keep_features
    from catdog.training.input_stream import build_eval_stream, build_train_stream, count_steps
    from catdog.training.loop import Fit, capture, compile_model, fit, restore
    from catdog.training.model import build_kept_model, build_model, is_frozen
    from catdog.training.own_code import explain_training
    from catdog.training.precision import (
        build_strategy,
        choose_jit,
        choose_precision,
        configure_gpus,
        count_threads,
        make_deterministic,
    )
    from catdog.training.progress import LiveProgress

    # A sweep has described its data before its first run; the log file of each run has it all the same.
    log.info("%s", describe_dataset(dataset), extra={"file_only": job.sweep_id is not None})
    size = config.preprocessing.image_size
    with clock.stage("data"):
        train_split, val_split = (dataset.load_split(split, size) for split in ("train", "val"))
    class_weights = weigh_classes(config.trainer, train_split.labels, dataset.classes)

    clock.enter("build")
    keras.utils.disable_interactive_logging()
    keras.utils.set_random_seed(config.seed)
    precision = choose_precision(config.trainer, job.identity.runtime if job.identity else None)
    log.info("precision %s: %s", precision.policy, precision.reason)
    make_deterministic(config.trainer)
    strategy = build_strategy(config.trainer)
    if strategy.num_replicas_in_sync > 1:
        log.info("mirrored over %d devices", strategy.num_replicas_in_sync)
    batches = {"batch_size": config.trainer.batch_size, "replicas": strategy.num_replicas_in_sync}
    steps = count_steps(len(train_split), **batches)
    jit = choose_jit(config.trainer)
    head = None
    with strategy.scope():
        model = build_model(config, len(dataset.classes), precision.policy)
        # Mirrored, Keras builds a model from a batch as the stream has it, before the head could extract features from it.
        if is_frozen(config) and config.trainer.devices == "one":
            head = cut_head(model, fast=config.speed.fast_features and not jit and not configure_gpus())
        trained = model if head is None else head
        compile_model(trained, config, precision.policy, steps, jit=jit)
    if references:
        if not job.sweep_id:
            # A sweep has done so before its first run.
            check_own_code(config, model, len(dataset.classes), precision.policy)
        # Whether there was a check must not change what the user's code draws.
        keras.utils.set_random_seed(config.seed)
    callbacks = build_callbacks(config.trainer)
    augmentation = (config.augmentation, config.seed, size)
    augment = build_augmentation(*augmentation, fast=config.speed.fast_augmentation, clock=clock)

    clock.enter("start")
    client = tracking.connect_unseen(config.tracking) if job.sweep_id else tracking.connect(config.tracking)
    clock.enter("tracking")
    identity = job.identity or identify(config, dataset.manifest.digest, precision.runtime)
    runtime = {**precision.runtime, "devices": strategy.num_replicas_in_sync}
    with tracking.open_run(client, config, job, identity, runtime) as run:
        run.postman.charge = clock.charge
        checkpoint = run.checkpoint
        if checkpoint is None:
            result = Fit(threads=count_threads(), runtime=runtime)
            run_logging.log_config(run, config, job, dataset, identity.sources)
            with clock.stage("figures"):
                # Layers of their own: training must not depend on how many examples were drawn before it.
                run_logging.log_examples(
                    run, train_split, build_augmentation(*augmentation, fast=config.speed.fast_augmentation)
                )
            run_logging.log_architecture(run, model)
        else:
            log.info("goes on after epoch %d of %d", checkpoint.epoch, config.trainer.epochs)
            result = restore(trained, checkpoint)
            clock.add_earlier(result.spent)
            if result.threads != count_threads():
                log.warning(
                    "it began with %d CPU threads and goes on with %d: the result is as good, but not the same bit for bit",
                    result.threads, count_threads(),
                )  # fmt: skip
            for epoch in result.epochs:
                # The last one may have come to the checkpoint, and no further.
                run.log_metrics(_without_epoch(epoch), step=int(epoch["epoch"]))

        train_rows: Rows = train_split
        val_rows: Rows = val_split
        if head is not None and not result.is_done(config.trainer):
            clock.enter("frozen features")
            train_rows, val_rows = keep_features(
                head,
                train_split,
                val_split,
                augmented=augment is not None,
                budget_mb=config.speed.keep_features_mb,
                **batches,
            )
        first_epoch = len(result.epochs) + 1
        with explain_training(references):
            fitted = fit(
                trained,
                build_train_stream(train_rows, **batches, seed=config.seed, first_epoch=first_epoch, augment=augment),
                build_eval_stream(val_rows, **batches),
                config.trainer,
                steps=steps,
                train_count=len(train_split),
                progress=(make_progress or LiveProgress)(job.name, config.trainer.epochs, steps, first_epoch),
                on_state=lambda state: save_checkpoint(
                    run.entry.checkpoints, capture(trained, state, clock.spent, callbacks)
                ),
                on_epoch=lambda epoch, metrics: run.log_metrics(metrics, step=epoch),
                result=result,
                clock=clock,
                class_weights=class_weights,
                own=callbacks,
            )
        clock.enter("final predictions")
        # What training alone needs, features above all, makes room for the kept model; without a collection, cycles keep it.
        del train_rows, val_rows
        gc.collect()
        kept = build_kept_model(config, model, len(dataset.classes), precision.policy)
        clean_accuracy = predict_split(kept, train_split, config.trainer.batch_size).accuracy
        predictions = predict_split(kept, val_split, config.trainer.batch_size)
        clock.enter("figures")
        run_logging.log_results(run, config, fitted, predictions, clean_accuracy)
        clock.enter("model logging")
        run_logging.log_model(run, kept, val_split, identity.sources)
        clock.enter("tracking")
        run_logging.log_time(run, clock)
        seconds, _ = clock.totals
        log.info(
            "%s: best val accuracy %.3f at epoch %d; last epoch train %.3f, val %.3f; %.0f s",
            job.name, fitted.best["val/accuracy"], fitted.best_epoch, fitted.last["train/accuracy"],
            fitted.last["val/accuracy"], seconds,
        )  # fmt: skip
    delivered = run.delivered_state
    return Outcome(
        delivered["run_id"], job.name, fitted.best_epoch, fitted.best["val/accuracy"], fitted.last["train/accuracy"],
        fitted.last["val/accuracy"], seconds, run.has_arrived,
        "" if run.has_arrived else tracking.describe_undelivered(config.tracking, run.postman), delivered.get("promotions", []),
    )  # fmt: skip


def _without_epoch(epoch: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in epoch.items() if key != "epoch"}


def predict_split(kept: Any, split: "SplitImages", batch_size: int) -> "Predictions":
    """Returns the kept model's answers to every image of a split.

    Args:
        kept: uint8 (B, H, W, 3) -> float32 (B, classes).
        split: the images.
        batch_size: images per step, at most; fewer where they are large.
    """
    import numpy as np

    from catdog.data.predictions import Predictions

    batch_size = max(1, min(batch_size, PIXELS_AT_ONCE // int(np.prod(kept.input_shape[1:3]))))
    batches = [
        kept.predict_on_batch(split.gather(np.arange(start, min(start + batch_size, len(split))))[0])
        for start in range(0, len(split), batch_size)
    ]
    names = [split.classes[label] for label in split.labels]
    return Predictions.build(split.files, names, split.classes, np.concatenate(batches))


def name_job(model: str, overrides: list[str], varying: set[str] | None = None) -> tuple[str, str]:
    """Returns (name, variant) of a run: what tells it apart, with and without its seed.

    Args:
        model: the choice of the group `model`, whether the command line, an experiment or the default made it.
        overrides: the command line's, such as ["model=cnn", "seed=1", "trainer.epochs=3"].
        varying: keys whose values differ in the sweep; None, for a single run, takes all that shape the run.
    """
    values = {key: value for key, _, value in (item.lstrip("+~").partition("=") for item in overrides)}
    parts = [model]
    for key, value in values.items():
        unnamed = any(key == name or key.startswith(name + ".") for name in UNNAMED_KEYS)
        if key not in ("model", "seed") and (not unnamed if varying is None else key in varying):
            parts.append(f"{key.removeprefix('trainer.')}={value}" if value else f"no {key}")
    variant = " ".join(parts)
    seeded = "seed" in values and (varying is None or "seed" in varying)
    return (f"{variant} seed={values['seed']}" if seeded else variant), variant


def read_outcome(run: "Run") -> Outcome:
    """Returns the outcome of a finished run in MLflow."""
    metrics = run.data.metrics
    return Outcome(
        run.info.run_id, run.info.run_name, int(metrics["best/epoch"]), metrics["best/val_accuracy"],
        metrics["final/train_accuracy"], metrics["final/val_accuracy"], metrics.get("run_seconds", 0.0),
    )  # fmt: skip
