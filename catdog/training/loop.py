"""The training loop of one model: its epochs, with what is logged, shown and saved after each."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from catdog.config.metrics import ACCURACY, LOG_LOSS
from catdog.config.schema import Config, TrainerConfig
from catdog.data.epoch_answers import EpochAnswers
from catdog.statistics.metrics import NAMED
from catdog.system.clock import Clock
from catdog.system.errors import UserError
from catdog.system.memory import return_freed
from catdog.tracking.checkpoint import Checkpoint
from catdog.training.callbacks import OwnCallback, capture_states, restore_states
from catdog.training.losses import build_loss, measures_cross_entropy
from catdog.training.optimizers import build_optimizer, scale_rate
from catdog.training.outcome import NonFiniteLossError, choice_of
from catdog.training.progress import Progress
from catdog.training.step_logs import GPU_STEPS, TRAINING_STEPS, FiniteLoss, StepCallbacks, has_own
from catdog.training.validation_answers import ValidationAnswers

log = logging.getLogger(__name__)


# The metric that is measured in addition to a loss of another kind.
CROSS_ENTROPY = "cross_entropy"
# How the names of a checkpoint's arrays begin that hold the answers of each epoch.
ANSWERS = "answers/"


@dataclass
class Fit:
    """How far a training has come.

    Attributes:
        epochs: one mapping per epoch, metric name -> value, with the key `epoch` from 1.
        best_epoch: the best epoch by `trainer.keep_metric` on val; of equals, the one with the lower val loss.
        weights: the variables to keep, in the order of `list_changing`.
        spent: wall and CPU seconds by stage, of the processes that trained before this one.
        threads: number of CPU threads used in training; sums in another order differ in their last bits.
        runtime: precision, device and number of devices. A checkpoint can only be resumed with the same.
        cpu: the instructions by which the CPU's kernels are chosen; others round the last bits in another way.
        stopped: whether a custom callback has ended the training.
        callback_states: arrays by name, read from the checkpoint, to be restored into custom callbacks.
        answers: the answers to each validation image by epoch; None if they cannot be collected.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    weights: list[np.ndarray] = field(default_factory=list)
    spent: Mapping[str, Sequence[float]] = field(default_factory=dict)
    threads: int = 0
    runtime: Mapping[str, Any] = field(default_factory=dict)
    cpu: str = ""
    stopped: bool = False
    callback_states: Mapping[str, np.ndarray] | None = None
    answers: EpochAnswers | None = field(default_factory=EpochAnswers.empty)

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the best epoch."""
        return self.epochs[self.best_epoch - 1]

    @property
    def best_accuracy(self) -> float | None:
        """The val accuracy of the best epoch; None before the first validation."""
        return self.best["val/accuracy"] if self.best_epoch else None

    @property
    def last(self) -> dict[str, float]:
        """The metrics of the last epoch."""
        return self.epochs[-1]

    def is_due(self, config: TrainerConfig, until: int | None) -> bool:
        """Whether to stop: the training is done, or has come to the epoch after which it pauses."""
        return self.is_done(config) or (until is not None and len(self.epochs) >= until)

    def is_done(self, config: TrainerConfig) -> bool:
        """Whether all epochs are trained, patience has run out, or a callback has stopped the training."""
        trained = len(self.epochs)
        # Only after a validation: the kept model must have been validated.
        waited = trained - self.best_epoch if config.is_validated(trained) else 0
        return trained >= config.epochs or self.stopped or (config.patience is not None and waited >= config.patience)


def compile_model(model: Any, config: Config, policy: str, steps: int, *, jit: bool = False) -> None:
    """Compiles a model with the config's optimizer and loss on logits, and accuracy; float16 gets loss scaling.

    Args:
        model: the model to compile.
        config: its sections trainer, optimizer and loss are used.
        policy: Keras dtype policy.
        steps: batches per epoch, for the learning-rate schedule.
        jit: compile training steps with XLA.

    Raises:
        UserError: the optimizer or the loss cannot be built.
    """
    learning_rate = build_schedule(config.trainer, steps)
    optimizer = build_optimizer(config.optimizer, learning_rate, model.trainable_variables)
    if config.has_backbone_rate:
        backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
        frozen = config.trainer.freeze_epochs * steps
        scale_rate(optimizer, backbone.trainable_variables, config.trainer.backbone_rate, from_step=frozen)
    if policy == "mixed_float16":
        # Gradients below 6e-8 vanish in float16: scale the loss up, and the gradients down again in float32.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    mixed = config.augmentation.mix.is_on
    metrics: list[Any] = ["accuracy"]
    if not measures_cross_entropy(config.loss):
        # Runs with different losses must be comparable, so `val/loss` is the cross-entropy in every run.
        kind = keras.metrics.CategoricalCrossentropy if mixed else keras.metrics.SparseCategoricalCrossentropy
        metrics.append(kind(name=CROSS_ENTROPY, from_logits=True))
    model.compile(
        optimizer=optimizer,
        loss=build_loss(config.loss, mixed=mixed),
        metrics=metrics,
        auto_scale_loss=False,
        jit_compile=jit,
        steps_per_execution=choose_steps_per_execution(config, steps),
    )
    optimizer.build(model.trainable_variables)


def choose_steps_per_execution(config: Config, steps: int) -> int:
    """Returns how many steps TensorFlow takes at once: 1 where something has to be done after each step.

    Keras would take the first steps of the next epoch if the steps of an epoch were no multiple of it.
    """
    waits = config.trainer.ema is not None or bool(config.trainer.callbacks)
    most = 1 if waits else min(config.speed.steps_per_execution, steps)
    return next(number for number in range(most, 0, -1) if steps % number == 0)


def build_schedule(config: TrainerConfig, steps: int) -> Any:
    """Returns the learning rate: a number, or a Keras schedule, which depends only on the optimizer's step and has no state."""
    schedules = keras.optimizers.schedules
    warmup = config.warmup_epochs * steps
    if config.schedule == "constant":
        if not warmup:
            return config.learning_rate
        return schedules.PolynomialDecay(0.0, warmup, end_learning_rate=config.learning_rate)
    steps_down = (config.epochs - config.warmup_epochs) * steps
    if not warmup:
        return schedules.CosineDecay(config.learning_rate, steps_down)
    return schedules.CosineDecay(0.0, steps_down, warmup_target=config.learning_rate, warmup_steps=warmup)


def list_changing(model: Any) -> list[Any]:
    """Returns the variables that training changes: weights, statistics of trainable layers, states of random layers."""
    kept = {id(variable) for variable in model.trainable_variables}
    for layer in model._flatten_layers():
        if layer.trainable:
            kept |= {id(variable) for variable in layer._non_trainable_variables}
        kept |= {id(generator.state) for generator in layer._seed_generators}
    return [variable for variable in model.variables if id(variable) in kept]


def capture(
    model: Any, result: Fit, spent: Mapping[str, Sequence[float]], callbacks: Sequence[OwnCallback] = ()
) -> Checkpoint:
    """Returns all that the next epoch depends on, and the history so far.

    Args:
        model: compiled.
        result: what has been trained.
        spent: wall and CPU seconds so far by stage, of all processes that trained the run.
        callbacks: the user's.
    """
    arrays = {f"model/{number}": _to_numpy(variable) for number, variable in enumerate(list_changing(model))}
    arrays |= {f"optimizer/{number}": _to_numpy(v) for number, v in enumerate(model.optimizer.variables)}
    arrays |= {f"best/{number}": weight for number, weight in enumerate(result.weights)}
    arrays |= capture_states(callbacks)
    if result.answers is not None:
        arrays |= {f"{ANSWERS}{name}": array for name, array in result.answers.to_arrays().items()}
    facts = {
        "epochs": result.epochs, "best_epoch": result.best_epoch, "spent": spent, "threads": result.threads,
        "runtime": result.runtime, "cpu": result.cpu, "stopped": result.stopped,
    }  # fmt: skip
    return Checkpoint(len(result.epochs), arrays, facts)


def restore(model: Any, checkpoint: Checkpoint) -> Fit:
    """Restores a compiled model from a checkpoint and returns how far its training had come."""
    arrays = checkpoint.arrays
    for prefix, variables in (("model", list_changing(model)), ("optimizer", model.optimizer.variables)):
        for number, variable in enumerate(variables):
            variable.assign(arrays[f"{prefix}/{number}"])
    weights = [arrays[f"best/{number}"] for number in range(sum(key.startswith("best/") for key in arrays))]
    facts = checkpoint.facts
    answers = {key.removeprefix(ANSWERS): array for key, array in arrays.items() if key.startswith(ANSWERS)}
    return Fit(
        facts["epochs"], facts["best_epoch"], weights, facts["spent"], facts["threads"], facts["runtime"], facts.get("cpu", ""),
        facts.get("stopped", False), arrays, EpochAnswers.from_arrays(answers) if answers else None,
    )  # fmt: skip


def _to_numpy(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable.value)


def fit(
    model: Any,
    train: Any,
    val: Any,
    config: TrainerConfig,
    *,
    steps: int,
    train_count: int,
    progress: Progress,
    on_epoch: Callable[[int, dict[str, float]], None],
    on_state: Callable[[Fit], None] = lambda _: None,
    result: Fit | None = None,
    until: int | None = None,
    clock: Clock | None = None,
    class_weights: Mapping[int, float] | None = None,
    own: Sequence[OwnCallback] = (),
    clean: Any = None,
    answers: ValidationAnswers | None = None,
) -> Fit:
    """Trains a compiled model and returns its history. Afterwards the model has the weights that `trainer.keep` names.

    With custom callbacks, these are the weights that validation used: a callback may swap in other weights during validation,
    from `on_test_begin` to `on_test_end`.

    Args:
        model: compiled by `compile_model`.
        train: endless batches, `steps` per epoch, starting with the first epoch that `result` lacks.
        val: batches with every validation image once.
        config: the config's section `trainer`.
        steps: batches per epoch.
        train_count: number of training images.
        progress: shows the progress.
        on_epoch: called after each epoch with its number, from 1, and its metrics.
        on_state: called just before `on_epoch`, when the model is as the next epoch will find it: the moment for a checkpoint.
        result: what `restore` returned, to resume from there; None starts from the beginning.
        until: the epoch after which to pause; None: train to the end.
        clock: where the time of training, validation, checkpoints and tracking is counted.
        class_weights: the weight of each class in the training loss, by class index; None gives all the same weight.
        own: the custom callbacks.
        clean: batches of training images as they are, on which train/loss and train/accuracy are then measured after each epoch;
            None: these are the means over the epoch of what training saw.
        answers: collects the model's answer to each validation image.

    Raises:
        NonFiniteLossError: the loss is not finite; the message names the epoch and step.
        UserError: the answers cannot be collected, which `trainer.keep_metric` needs.
    """
    result = result or Fit()
    if not result.is_due(config, until):
        clock = clock or Clock("training")
        validated = Validated() if own else None
        record = Record(
            result, config, train_count, on_state, on_epoch, progress, clock, validated, own, clean, answers, until
        )
        # Custom callbacks run between catdog's own: a non-finite loss ends the run before they see it, and the checkpoint
        # includes what they do at the end of an epoch.
        waits = any(
            has_own(item.callback, *TRAINING_STEPS) and not hasattr(item.callback, "takes_tensors") for item in own
        )
        finite = FiniteLoss(steps, GPU_STEPS if keras.distribution.list_devices("gpu") and not waits else 1)
        callbacks = StepCallbacks(
            [finite, *([validated] if validated else []), *(item.callback for item in own), record],
            add_history=True, model=model, verbose=0, epochs=config.epochs, steps=steps,
        )  # fmt: skip
        with progress, _explain_determinism():
            # shuffle=False: the stream is already shuffled.
            model.fit(
                train, validation_data=val, initial_epoch=len(result.epochs), epochs=config.epochs, steps_per_epoch=steps,
                callbacks=callbacks, shuffle=False, verbose=0, class_weight=class_weights,
                validation_freq=[epoch for epoch in range(1, config.epochs + 1) if config.is_validated(epoch)],
            )  # fmt: skip
    if result.weights and result.is_done(config):
        for variable, value in zip(list_changing(model), result.weights, strict=True):
            variable.assign(value)
    return result


@contextlib.contextmanager
def _explain_determinism() -> Iterator[None]:
    import tensorflow as tf

    try:
        yield
    except tf.errors.UnimplementedError as error:
        # TensorFlow's words: "A deterministic GPU implementation of ... is not currently available."
        if "determinis" not in str(error):
            raise
        raise UserError(
            f"trainer.deterministic: an operation of this model has no deterministic version on this device "
            f"({str(error).splitlines()[0][:200]}). Use trainer.deterministic=false; such a run cannot be repeated bit for bit."
        ) from error


class Validated(keras.callbacks.Callback):
    """Copies the weights that validation used, before a custom callback swaps them back at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[np.ndarray] = []

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Copies the weights."""
        del logs
        self.weights = [_to_numpy(variable) for variable in list_changing(self.model)]


class Record(keras.callbacks.Callback):
    """Passes on each epoch's metrics under catdog's names, and copies the weights to keep."""

    takes_tensors = True

    def __init__(
        self,
        result: Fit,
        config: TrainerConfig,
        train_count: int,
        on_state: Callable[[Fit], None],
        on_epoch: Callable[[int, dict[str, float]], None],
        progress: Progress,
        clock: Clock,
        validated: Validated | None = None,
        own: Sequence[OwnCallback] = (),
        clean: Any = None,
        answers: ValidationAnswers | None = None,
        until: int | None = None,
    ) -> None:
        super().__init__()
        self.until = until
        self.clean = clean
        self.answers = answers
        self.validated = validated
        self.own = own
        self.clock = clock
        self.result = result
        self.config = config
        self.train_count = train_count
        self.on_state = on_state
        self.on_epoch = on_epoch
        self.progress = progress
        self.started = self.trained = 0.0
        self.last_batch = -1

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the states of custom callbacks when a run resumes."""
        del logs
        if self.result.callback_states is not None:
            restore_states(self.own, self.result.callback_states)
            self.result.callback_states = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the epoch's clock."""
        del epoch, logs
        self.clock.enter("training")
        self.last_batch = -1
        return_freed()
        self.started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Shows the progress."""
        del logs
        self.progress.step(batch - self.last_batch)
        self.last_batch = batch

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Stops the clock of the epoch's training, and starts that of its validation."""
        del logs
        if self.answers is not None:
            self.answers.start()
        self.clock.enter("validation")
        self.trained = time.perf_counter()

    def _measure_clean(self) -> dict[str, float]:
        """Returns the loss, as cross-entropy, and the accuracy on the clean images, with the weights that validation used."""
        callbacks = StepCallbacks([item.callback for item in self.own], model=self.model)
        found = self.model.evaluate(self.clean, verbose=0, return_dict=True, callbacks=callbacks)
        return {"loss": found.get(CROSS_ENTROPY, found["loss"]), "accuracy": found["accuracy"]}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Collects the epoch's metrics and weights, saves a checkpoint, and reports the epoch."""
        logs = dict(logs or {})
        ended = time.perf_counter()
        is_validated = self.config.is_validated(epoch + 1)
        if is_validated and self.answers is not None:
            self.result.answers = self.answers.add_to(self.result.answers, epoch + 1)
        metrics = self._collect_accuracies(logs, epoch + 1) | self._measure_choice() if is_validated else {}
        if not is_validated and self.clean is None:
            metrics = {"train/loss": float(logs["loss"]), "train/accuracy": float(logs["accuracy"])}
        metrics |= {
            "epoch_seconds": ended - self.started,
            "images_per_second": self.train_count / ((self.trained if is_validated else ended) - self.started),
            "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
        }
        self.result.epochs.append({"epoch": epoch + 1, **metrics})
        by = self.config.keep_metric
        is_best = is_validated and (not self.result.best_epoch or _score(metrics, by) > _score(self.result.best, by))
        if is_best:
            self.result.best_epoch = epoch + 1
        if self.validated and is_validated and (is_best or self.config.keep == "last"):
            self.result.weights = self.validated.weights
        elif is_best and self.config.keep == "best":
            self.result.weights = [_to_numpy(variable) for variable in list_changing(self.model)]
        self.result.stopped = bool(self.own) and bool(self.model.stop_training)
        self.clock.enter("checkpoints")
        # The checkpoint comes first: then a reported epoch is never lost. After a crash in between, the resumed run reports it.
        self.on_state(self.result)
        self.clock.enter("tracking")
        self.on_epoch(epoch + 1, metrics)
        self.progress.finish_epoch(epoch + 1, metrics, self.result.best_accuracy)
        self.model.stop_training = self.result.is_due(self.config, self.until)

    def _measure_choice(self) -> dict[str, float]:
        """Returns the metric by which the best epoch is chosen, if it is neither the accuracy nor the loss."""
        name = self.config.keep_metric
        if name in (ACCURACY, LOG_LOSS):
            return {}
        if self.answers is None or self.result.answers is None:
            raise UserError(
                f"trainer.keep_metric: {name} needs the answer to each validation image, and the model's own test_step does not "
                "call compute_metrics. Call it there, or use trainer.keep_metric=accuracy or log_loss."
            )
        return {f"val/{name}": self.answers.measure_last(self.result.answers, NAMED[name])}

    def _collect_accuracies(self, logs: dict[str, Any], epoch: int) -> dict[str, float]:
        """Returns losses and accuracies after an epoch with a validation.

        Raises:
            NonFiniteLossError: the validation loss is not finite.
        """
        if self.clean is not None:
            logs = logs | self._measure_clean()
        metrics = {
            "train/loss": float(logs["loss"]),
            "train/accuracy": float(logs["accuracy"]),
            "val/loss": float(logs.get(f"val_{CROSS_ENTROPY}", logs["val_loss"])),
            "val/accuracy": float(logs["val_accuracy"]),
            "gap/accuracy": float(logs["accuracy"]) - float(logs["val_accuracy"]),
        }
        if not math.isfinite(metrics["val/loss"]):
            raise NonFiniteLossError(
                f"the validation loss became {metrics['val/loss']} at epoch {epoch}. Lower trainer.learning_rate, or use "
                "trainer.precision=float32."
            )
        return metrics


def _score(metrics: dict[str, float], by: str) -> tuple[float, float]:
    """Returns what epochs are compared by, the higher the better: the metric of `trainer.keep_metric`, then the loss."""
    return NAMED[by].orient(choice_of(metrics, by)), -metrics["val/loss"]
