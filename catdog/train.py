"""Entry: one composed config -> one tracked run. `python -m catdog.train --help` explains it."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from catdog import cli
from catdog.config import Config, load_config
from catdog.track import Job

if TYPE_CHECKING:
    import pandas as pd

    from catdog.data.dataset import Dataset, SplitImages
    from catdog.fit import Fit
    from catdog.track import TrackedRun

log = logging.getLogger(__name__)

USAGE = """Trains an image classifier, or with -m a sweep of them, and tracks every run in MLflow.

  python -m catdog.train model=mobilenet
  python -m catdog.train -m model=cnn,augmented,preprocessed,mobilenet
  python -m catdog.train -m model=cnn seed=0,1,2 trainer.epochs=3
  python -m catdog.train dataset=folder dataset.archive=path/to/images study=flowers"""

# Keys that say where things lie or what they are called, not what a single run is.
UNNAMED_KEYS = (
    "study",
    "tracking",
    "promote",
    "experiment",
    "dataset",
    "hydra",
)
AUGMENTED_EXAMPLES = 7
SAMPLES_PER_CLASS = 3


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
    """

    run_id: str
    name: str
    best_epoch: int
    best_val_accuracy: float
    last_train_accuracy: float
    last_val_accuracy: float
    seconds: float


def train(config: Config, job: Job, on_start: Callable[[str], None] = lambda run_id: None) -> Outcome:
    """Trains one model as the config says and tracks it.

    Args:
        config: the run.
        job: what it is called and where it belongs.
        on_start: called with the MLflow run id as soon as there is one.

    Raises:
        UserError: the config asks for what cannot be had; no MLflow run is left behind where that shows before training.
    """
    from catdog import track
    from catdog.data.dataset import describe_dataset, load_dataset

    started = time.perf_counter()
    # Before TensorFlow is imported: what cannot be had is said at once.
    track.check_store(config.tracking)
    dataset = load_dataset(config.dataset)

    from catdog import preload  # noqa: F401  first of all: it keeps TensorFlow's import quiet

    # isort: split
    import keras

    from catdog.augment import build_augmentation
    from catdog.data.stream import build_eval_stream, build_train_stream, count_steps
    from catdog.fit import compile_model, fit
    from catdog.model import build_kept_model, build_model
    from catdog.precision import build_strategy, choose_precision

    keras.utils.disable_interactive_logging()
    keras.utils.set_random_seed(config.seed)
    precision = choose_precision(config.trainer)
    strategy = build_strategy(config.trainer)
    with strategy.scope():
        model = build_model(config, len(dataset.classes), precision.policy)
        compile_model(model, config.trainer, precision.policy)
    augment = build_augmentation(config.augmentation, config.seed, config.preprocessing.image_size)
    # A sweep has described its data before its first run; the log file of each run has it all the same.
    log.info("%s", describe_dataset(dataset), extra={"file_only": job.sweep_id is not None})
    log.info("precision %s: %s", precision.policy, precision.reason)
    if strategy.num_replicas_in_sync > 1:
        log.info("mirrored over %d devices", strategy.num_replicas_in_sync)
    train_split = dataset.load_split("train", config.preprocessing.image_size)
    val_split = dataset.load_split("val", config.preprocessing.image_size)

    client = track.connect(config.tracking)
    with track.start_run(client, config, job) as run:
        on_start(run.run_id)
        _log_config(run, config, job, dataset, precision.policy)
        # Layers of their own: training must not depend on how many examples were drawn before it.
        _log_examples(
            run, train_split, build_augmentation(config.augmentation, config.seed, config.preprocessing.image_size)
        )
        _log_architecture(run, model)
        batches = {"batch_size": config.trainer.batch_size, "replicas": strategy.num_replicas_in_sync}
        fitted = fit(
            model,
            build_train_stream(train_split, **batches, seed=config.seed, augment=augment),
            build_eval_stream(val_split, **batches),
            config.trainer,
            steps=count_steps(len(train_split), **batches),
            train_count=len(train_split),
            name=job.name,
            on_epoch=lambda epoch, metrics: run.log_metrics(metrics, step=epoch),
        )
        _, clean_accuracy = model.evaluate(build_eval_stream(train_split, **batches), verbose=0)
        kept = build_kept_model(config, model, len(dataset.classes), precision.policy)
        predictions = predict_split(kept, val_split, config.trainer.batch_size)
        _log_results(run, config, fitted, predictions, clean_accuracy)
        run.log_tags({"catdog.model_uri": _save(kept, val_split)})
        seconds = time.perf_counter() - started
        run.log_metrics({"run_seconds": seconds, "run_cpu_seconds": time.process_time()})
        outcome = Outcome(
            run.run_id, job.name, fitted.best_epoch, fitted.best["val/accuracy"],
            fitted.last["train/accuracy"], fitted.last["val/accuracy"], seconds,
        )  # fmt: skip
        log.info(
            "%s: best val accuracy %.3f at epoch %d; last epoch train %.3f, val %.3f; %.0f s; run %s",
            job.name, outcome.best_val_accuracy, outcome.best_epoch, outcome.last_train_accuracy,
            outcome.last_val_accuracy, seconds, run.run_id,
        )  # fmt: skip
    return outcome


def predict_split(kept: Any, split: "SplitImages", batch_size: int) -> "pd.DataFrame":
    """Returns the kept model's answer to every image of a split: file, label, and a probability per class.

    Args:
        kept: uint8 (B, H, W, 3) -> float32 (B, classes).
        split: the images.
        batch_size: images per step.
    """
    import numpy as np
    import pandas as pd

    batches = [
        kept.predict_on_batch(split.gather(np.arange(start, min(start + batch_size, len(split))))[0])
        for start in range(0, len(split), batch_size)
    ]
    names = [split.classes[label] for label in split.labels]
    probabilities = pd.DataFrame(np.concatenate(batches), columns=list(split.classes))
    return pd.concat([pd.DataFrame({"file": split.files, "label": names}), probabilities], axis=1)


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


def _log_config(run: "TrackedRun", config: Config, job: Job, dataset: "Dataset", policy: str) -> None:
    from catdog.data.dataset import majority_fraction
    from catdog.track import log_inputs

    run.log_text(OmegaConf.to_yaml(OmegaConf.structured(config)), "config/config.yaml")
    run.log_text(OmegaConf.to_yaml(OmegaConf.create(job.overrides)), "config/overrides.yaml")
    manifest = dataset.manifest
    # Facts of the data are tags: as metrics, each would get a chart of equal bars in MLflow's pages.
    run.log_tags({
        **{f"catdog.{split}_images": str(len(manifest.select(split))) for split in ("train", "val", "test")},
        "catdog.majority_fraction": f"{majority_fraction(dataset):.6f}",
        "catdog.data_digest": manifest.digest,
        "catdog.classes": ",".join(manifest.classes),
        "catdog.precision": policy,
    })  # fmt: skip
    run.log_table(manifest.images, "split.csv")
    log_inputs(run, config, manifest.images, manifest.digest)


def _log_examples(run: "TrackedRun", split: "SplitImages", augment: Any) -> None:
    import keras
    import numpy as np

    from catdog import plots

    samples = {}
    for index, name in enumerate(split.classes):
        samples[name] = split.gather(np.flatnonzero(split.labels == index)[:SAMPLES_PER_CLASS])[0]
    run.log_figure(plots.plot_samples(samples), "figures/samples.png")
    if augment is None:
        return
    image = split.gather(np.array([0]))[0]
    batch = np.repeat(image, AUGMENTED_EXAMPLES, axis=0).astype("float32")
    variations = keras.ops.convert_to_numpy(augment(batch))
    run.log_figure(plots.plot_augmentation(image[0], variations), "figures/augmentation.png")


def _log_architecture(run: "TrackedRun", model: Any) -> None:
    lines: list[str] = []
    model.summary(
        print_fn=lambda line, **_: lines.append(line), expand_nested=True, show_trainable=True, line_length=110
    )
    run.log_text("\n".join(lines), "model_summary.txt")
    trainable = sum(int(weight.shape.num_elements() or 0) for weight in model.trainable_weights)
    run.log_metrics({"model/parameters": model.count_params(), "model/trainable_parameters": trainable})


def _log_results(
    run: "TrackedRun", config: Config, fitted: "Fit", predictions: "pd.DataFrame", clean_accuracy: float
) -> None:
    import pandas as pd

    from catdog import plots
    from catdog.statistics import confusion_counts

    kept = fitted.best if config.trainer.keep == "best" else fitted.last
    run.log_metrics({
        "best/epoch": fitted.best_epoch,
        "best/val_accuracy": fitted.best["val/accuracy"],
        "best/val_loss": fitted.best["val/loss"],
        **{"final/" + key.replace("/", "_"): fitted.last[key] for key in
           ("train/accuracy", "train/loss", "val/accuracy", "val/loss", "gap/accuracy")},
        "kept/epoch": kept["epoch"],
        "train/accuracy_clean": clean_accuracy,
    })  # fmt: skip
    history = pd.DataFrame(fitted.epochs)
    run.log_table(history, "history.csv")
    run.log_table(predictions, "predictions/val.csv")
    history = history.set_index("epoch")
    epoch = int(kept["epoch"])
    run.log_figure(plots.plot_accuracy(history, epoch), "figures/accuracy.png")
    run.log_figure(plots.plot_loss(history, epoch), "figures/loss.png")
    run.log_figure(plots.plot_gap(history, epoch), "figures/gap.png")
    classes = list(predictions.columns[2:])
    labels = predictions["label"].map({name: index for index, name in enumerate(classes)}).to_numpy()
    counts = confusion_counts(labels, predictions.iloc[:, 2:].to_numpy().argmax(axis=1), len(classes))
    run.log_figure(plots.plot_confusion(counts, classes), "figures/confusion.png")


def _save(kept: Any, val_split: "SplitImages") -> str:
    import numpy as np

    from catdog.track import log_kept_model

    example: np.ndarray = val_split.gather(np.array([0]))[0]
    return log_kept_model(kept, example=example, class_names=val_split.classes)


def run_job(
    composed: DictConfig,
    *,
    sweep_id: str | None = None,
    varying: set[str] | None = None,
    on_start: Callable[[str], None] = lambda run_id: None,
) -> Outcome:
    """Trains the run that Hydra composed, in Hydra's output folder.

    Args:
        composed: the config.
        sweep_id: MLflow run id of the sweep it belongs to.
        varying: keys that differ between the sweep's runs.
        on_start: called with the MLflow run id as soon as there is one.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    name, variant = name_job(hydra.runtime.choices["model"], overrides, varying)
    job = Job(name, variant, sweep_id, overrides, Path(hydra.runtime.output_dir))
    return train(load_config(composed, Config), job, on_start)


def run_single(composed: DictConfig) -> None:
    """Trains one run, registers it, and says what to do next."""
    from catdog.console import show_next

    config = load_config(composed, Config)
    outcome = run_job(composed)
    from catdog import track
    from catdog.promote import promote

    promotions = promote(track.connect(config.tracking), config, [outcome.run_id])
    place = (config.study, config.tracking.uri)
    show_next(
        *([cli.next_command("evaluate", *place)] if promotions else []),
        cli.next_command("compare", *place, f"runs=[{outcome.run_id}]"),
        track.ui_command(config.tracking.uri),
    )


if __name__ == "__main__":
    cli.run_app("config", run_single, usage=USAGE, sweeps=True)
