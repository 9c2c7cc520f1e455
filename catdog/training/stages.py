"""The stages of a run that need Keras: the model is built, its epochs are trained, and the results are recorded."""

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

from catdog import tracking
from catdog.config.metrics import ACCURACY
from catdog.config.schema import TrainerConfig
from catdog.registry.champion import promote
from catdog.statistics.metrics import NAMED, PROBABILITIES
from catdog.tracking.identity import Identity, identify
from catdog.training import run_logging
from catdog.training.augmentation import build_augmentation
from catdog.training.callbacks import build_callbacks
from catdog.training.check import check_own_code
from catdog.training.clean_sample import CleanSample
from catdog.training.fast.feature_cache import compute_features, cut_head, cut_trained, keep_features
from catdog.training.input_stream import build_eval_stream, build_train_stream, count_steps
from catdog.training.loop import Fit, capture, compile_model, fit, restore
from catdog.training.mixing import build_mixing
from catdog.training.model import build_kept_model, build_model, has_frozen_part, is_frozen
from catdog.training.outcome import choice_of
from catdog.training.own_code import explain_training
from catdog.training.precision import (
    Precision,
    build_strategy,
    choose_jit,
    choose_precision,
    configure_gpus,
    count_threads,
    make_deterministic,
    name_cpu,
)
from catdog.training.predicting import predict_split
from catdog.training.preparation import Prepared
from catdog.training.progress import LiveProgress, Progress
from catdog.training.sizes import build_size_of
from catdog.training.validation_answers import ValidationAnswers

if TYPE_CHECKING:
    from catdog.data.dataset import SplitImages
    from catdog.tracking import OutboxRun
    from catdog.training.input_stream import Rows
    from catdog.training.mixing import Mix

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """A run that is ready to train.

    Attributes:
        model: the whole model, images -> logits.
        head: the part of it that trains, if the features of frozen layers are computed separately; None: the whole model trains.
        augment: (uint8 images, number of the batch) -> augmented images; None: no augmentation.
        mix: mixes the augmented images of a batch, and their labels; None: no mixing.
        callbacks: the custom callbacks.
        precision: the dtype policy and the kind of device.
        identity: digests of all that the run's result depends on.
        replicas: number of devices that share each batch.
        steps: batches per epoch.
    """

    model: keras.Model
    head: Any
    augment: Any
    mix: "Mix | None"
    callbacks: list[keras.callbacks.Callback]
    precision: Precision
    identity: Identity
    replicas: int
    steps: int

    @property
    def trained(self) -> Any:
        """The model that `fit` trains: the head, or the whole model."""
        return self.model if self.head is None else self.head

    @property
    def runtime(self) -> dict[str, Any]:
        """The precision and devices that a checkpoint must share to be resumed."""
        return {**self.precision.runtime, "devices": self.replicas}


def build(prepared: Prepared) -> Built:
    """Returns the run's compiled model, with everything else that its training needs.

    Raises:
        UserError: weights are not available, layers do not fit, or a custom function returns the wrong thing.
    """
    config, clock = prepared.config, prepared.clock
    clock.enter("build")
    keras.utils.disable_interactive_logging()
    keras.utils.set_random_seed(config.seed)
    precision = choose_precision(config.trainer, prepared.job.identity.runtime if prepared.job.identity else None)
    log.info("precision %s: %s", precision.policy, precision.reason)
    make_deterministic(config.trainer)
    strategy = build_strategy(config.trainer)
    replicas = strategy.num_replicas_in_sync
    if replicas > 1:
        log.info("mirrored over %d devices", replicas)
    steps = count_steps(len(prepared.train), batch_size=config.trainer.batch_size, replicas=replicas)
    jit = choose_jit(config.trainer)
    classes = len(prepared.dataset.classes)
    head = None
    with strategy.scope():
        model = build_model(config, classes, precision.policy)
        # With several devices, Keras builds the model from a batch of the stream, before the head can extract its features.
        splits = is_frozen(config) or has_frozen_part(config)
        if splits and config.trainer.devices == "one" and config.trainer.sizes is None:
            cut = cut_head if is_frozen(config) else cut_trained
            head = cut(model, fast=config.speed.fast_features and not jit and not configure_gpus())
        compile_model(model if head is None else head, config, precision.policy, steps, jit=jit)
    if prepared.references:
        if not prepared.job.sweep_id:
            # A sweep makes this check once, before its first run.
            check_own_code(config, model, classes, precision.policy)
        # The check must not change the random numbers that custom code draws.
        keras.utils.set_random_seed(config.seed)
    callbacks = build_callbacks(config.trainer)
    mix = build_mixing(config.augmentation.mix, config.seed, classes)
    augment = _build_augmentation(prepared, steps, clocked=True)
    identity = prepared.job.identity or identify(config, prepared.dataset.manifest.digest, precision.runtime)
    return Built(model, head, augment, mix, callbacks, precision, identity, replicas, steps)


def _build_augmentation(prepared: Prepared, steps: int, *, clocked: bool) -> Any:
    config = prepared.config
    return build_augmentation(
        config.augmentation,
        config.seed,
        config.preprocessing.image_size,
        fast=config.speed.fast_augmentation,
        size_of=build_size_of(config, steps),
        **({"clock": prepared.clock} if clocked else {}),
    )


def open_tracked(prepared: Prepared, built: Built) -> "AbstractContextManager[OutboxRun]":
    """Returns the run in MLflow, either a new or the interrupted one, as a context manager that closes it."""
    config, job, clock = prepared.config, prepared.job, prepared.clock
    clock.enter("start")
    client = tracking.connect_unseen(config.tracking) if job.sweep_id else tracking.connect(config.tracking)
    clock.enter("tracking")
    return tracking.open_run(client, config, job, built.identity, built.runtime, promote)


def start_or_resume(prepared: Prepared, built: Built, run: "OutboxRun") -> Fit:
    """Returns how far the training has come, from its last checkpoint; without one, records config and examples of a new run."""
    config, clock = prepared.config, prepared.clock
    run.delivery.charge = clock.charge
    checkpoint = run.checkpoint
    if checkpoint is None:
        run_logging.log_config(run, config, prepared.job, prepared.dataset, built.identity.sources)
        with clock.stage("figures"):
            # Separate layers: training must not depend on how many examples were drawn before it.
            run_logging.log_examples(run, prepared.train, _build_augmentation(prepared, built.steps, clocked=False))
        run_logging.log_architecture(run, built.model)
        return Fit(threads=count_threads(), runtime=built.runtime, cpu=name_cpu())
    log.info("resumes after epoch %d of %d", checkpoint.epoch, config.trainer.epochs)
    result = restore(built.trained, checkpoint)
    clock.add_earlier(result.spent)
    for difference in name_differences(result):
        log.warning("%s: the result is as good, but not the same bit for bit", difference)
    for epoch in result.epochs:
        # The last epoch may be in the checkpoint but not in MLflow.
        metrics = {key: value for key, value in epoch.items() if key != "epoch"}
        run.log_metrics(metrics, step=int(epoch["epoch"]))
    return result


def fit_model(
    prepared: Prepared,
    built: Built,
    run: "OutboxRun",
    result: Fit,
    make_progress: Callable[[str, int, int, int], Progress] | None = None,
) -> None:
    """Trains the epochs that `result` lacks and adds them to it; each epoch is checkpointed and recorded when it ends.

    Args:
        prepared: the run's data.
        built: the run's model.
        run: where epochs are recorded and checkpoints are written.
        result: how far the training has come.
        make_progress: called with name, epochs, steps and first epoch; returns the progress display. None shows a live line.
    """
    config, clock = prepared.config, prepared.clock
    batches = {"batch_size": config.trainer.batch_size, "replicas": built.replicas}
    train_rows: Rows = prepared.train
    val_rows: Rows = prepared.val
    clean_rows: Rows | None = CleanSample(prepared.train) if config.has_clean_accuracy else None
    if built.head is not None and not result.is_done(config.trainer):
        clock.enter("frozen features")
        train_rows, val_rows = keep_features(
            built.head,
            prepared.train,
            prepared.val,
            augmented=built.augment is not None or built.mix is not None,
            budget_mb=config.speed.keep_features_mb,
            **batches,
        )
        if clean_rows is not None and not built.head.tests_on_images:
            clean_rows = compute_features(built.head, clean_rows, **batches)
    first_epoch = len(result.epochs) + 1
    classes = len(prepared.dataset.classes)
    one_hot = classes if built.mix is not None else 0
    progress = (make_progress or LiveProgress)(prepared.job.name, config.trainer.epochs, built.steps, first_epoch)
    with explain_training(prepared.references):
        fit(
            built.trained,
            build_train_stream(
                train_rows,
                **batches,
                seed=config.seed,
                first_epoch=first_epoch,
                augment=built.augment,
                mix=built.mix,
                classes=classes,
            ),
            build_eval_stream(val_rows, **batches, one_hot=one_hot),
            config.trainer,
            steps=built.steps,
            train_count=len(prepared.train),
            progress=progress,
            on_state=lambda state: run.save_checkpoint(capture(built.trained, state, clock.spent, built.callbacks)),
            on_epoch=lambda epoch, metrics: run.log_metrics(metrics, step=epoch),
            result=result,
            until=prepared.job.until,
            clock=clock,
            class_weights=prepared.class_weights,
            own=built.callbacks,
            clean=None if clean_rows is None else build_eval_stream(clean_rows, **batches, one_hot=one_hot),
            answers=_watch_validation(prepared, built.trained),
        )


@contextlib.contextmanager
def explain_reading(*splits: "SplitImages") -> Iterator[None]:
    """Raises the UserError of an image that cannot be read in place of TensorFlow's exception."""
    try:
        yield
    except Exception as error:
        for split in splits:
            failure = getattr(split.decoded, "failure", None)
            if failure is not None:
                raise failure from error
        raise


def _watch_validation(prepared: Prepared, model: Any) -> ValidationAnswers:
    """Returns what collects a model's answers to the validation images."""
    names, val = tuple(prepared.dataset.classes), prepared.val
    kept = _keeps_probabilities(prepared.config.trainer, len(names))
    return ValidationAnswers(model, len(val), len(names), keep_probabilities=kept, labels=val.labels, class_names=names)


def _keeps_probabilities(config: TrainerConfig, classes: int) -> bool:
    """Whether the probabilities after each epoch are collected: of two classes they follow from the losses."""
    return config.keep_probabilities or (NAMED[config.keep_metric].needs == PROBABILITIES and classes > 2)


def finish(prepared: Prepared, built: Built, run: "OutboxRun", result: Fit) -> None:
    """Records the saved model, its predictions for the validation images, and the time of each stage."""
    config, clock = prepared.config, prepared.clock
    clock.enter("final predictions")
    # Frees what only training needed, above all features, before the saved model is built; reference cycles would keep it.
    gc.collect()
    kept = build_kept_model(config, built.model, built.precision.policy)
    clean_accuracy = predict_split(kept, prepared.train, config.trainer.batch_size).accuracy
    predictions = predict_split(kept, prepared.val, config.trainer.batch_size)
    clock.enter("figures")
    groups = prepared.dataset.manifest.code_groups(predictions.files)
    run_logging.log_results(run, config, result, predictions, clean_accuracy, groups)
    if config.trainer.average_flips:
        run_logging.log_flips(run, kept, prepared.val, config.trainer.batch_size)
    clock.enter("model logging")
    run_logging.log_model(run, kept, prepared.val, built.identity.sources)
    clock.enter("tracking")
    run_logging.log_time(run, clock)
    by = config.trainer.keep_metric
    chosen = (
        ""
        if by == ACCURACY
        else f" (best by {NAMED[by].words}, {NAMED[by].show_with_unit(choice_of(result.best, by))})"
    )
    log.info(
        "%s: %s val accuracy %.3f at epoch %d%s; last epoch train %.3f, val %.3f; %.0f s",
        prepared.job.name, "best" if by == ACCURACY else "kept", result.best["val/accuracy"], result.best_epoch, chosen,
        result.last["train/accuracy"],
        result.last["val/accuracy"], clock.totals[0],
    )  # fmt: skip


def name_differences(result: Fit) -> list[str]:
    """Returns in words how this machine differs from the one that began a training, as far as it changes the last bits."""
    found = []
    if result.threads != count_threads():
        found.append(f"the training began with {result.threads} CPU threads and resumes with {count_threads()}")
    if result.cpu not in ("", name_cpu()):
        found.append(
            f"the training began on a CPU with {result.cpu} and resumes on one with {name_cpu() or 'other ones'}"
        )
    return found
