"""What a training records in its run: config, examples, architecture, results, the saved model and the time of each stage."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from catdog.config.schema import Config
from catdog.statistics.metrics import NAMED
from catdog.system.clock import Clock, describe
from catdog.tracking import Job, metric_names
from catdog.tracking.artifacts import EPOCH_ANSWERS

if TYPE_CHECKING:
    import numpy as np

    from catdog.data.dataset import Dataset, SplitImages
    from catdog.data.predictions import Predictions
    from catdog.tracking import OutboxRun
    from catdog.training.loop import Fit

log = logging.getLogger(__name__)

# The folder of a run's artifacts with the source of custom modules.
CODE_FOLDER = "code"
AUGMENTED_EXAMPLES = 7
SAMPLES_PER_CLASS = 3


def log_config(run: "OutboxRun", config: Config, job: Job, dataset: "Dataset", sources: Mapping[str, str]) -> None:
    """Records the composed config, the source of custom modules, facts about the data, and the split of every file."""
    from catdog.tracking.results import log_data

    run.log_text(OmegaConf.to_yaml(OmegaConf.structured(config)), "config/config.yaml")
    run.log_text(OmegaConf.to_yaml(OmegaConf.create(job.overrides)), "config/overrides.yaml")
    for path, text in sources.items():
        run.log_text(text, f"{CODE_FOLDER}/{path}")
    manifest = dataset.manifest
    log_data(run, config.dataset, manifest)


def log_examples(run: "OutboxRun", split: "SplitImages", augment: Any) -> None:
    """Records figures of some images of each class, and of one image with several augmentations."""
    import keras
    import numpy as np

    from catdog import plots

    samples = {}
    for index, name in enumerate(split.classes):
        samples[name] = split.gather(np.flatnonzero(split.labels == index)[:SAMPLES_PER_CLASS])[0]
    run.log_figure(plots.make_legible(plots.plot_samples(samples)), "figures/samples.png")
    if augment is None:
        return
    image = split.gather(np.array([0]))[0]
    batch = np.repeat(image, AUGMENTED_EXAMPLES, axis=0)
    variations = keras.ops.convert_to_numpy(augment(batch, 0))
    run.log_figure(plots.plot_augmentation(image[0], variations), "figures/augmentation.png")


def log_architecture(run: "OutboxRun", model: Any) -> None:
    """Records the layers and the number of parameters of a model."""
    lines: list[str] = []
    model.summary(
        print_fn=lambda line, **_: lines.append(line), expand_nested=True, show_trainable=True, line_length=110
    )
    run.log_text("\n".join(lines), "model_summary.txt")
    trainable = sum(int(weight.shape.num_elements() or 0) for weight in model.trainable_weights)
    run.log_metrics({metric_names.PARAMETERS: model.count_params(), metric_names.TRAINABLE_PARAMETERS: trainable})


def log_results(
    run: "OutboxRun",
    config: Config,
    fitted: "Fit",
    predictions: "Predictions",
    clean_accuracy: float,
    groups: "np.ndarray | None" = None,
) -> None:
    """Records the results: metrics of the best, last and kept epoch, history, validation predictions, and figures.

    Args:
        run: where to record them.
        config: the run's config.
        fitted: the finished training.
        predictions: the saved model's, for the validation images.
        clean_accuracy: the saved model's accuracy on training images without augmentation, in [0, 1].
        groups: int (N,), the group of each validation image; None: each is its own.
    """
    from catdog.data.history import History
    from catdog.tracking.results import log_outcome

    kept = fitted.best if config.trainer.keep == "best" else fitted.last
    if config.trainer.average_flips:
        # Otherwise the epoch's own numbers are those of the saved model.
        run.log_metrics(
            {metric_names.KEPT_VAL_ACCURACY: predictions.accuracy, metric_names.KEPT_VAL_LOSS: predictions.mean_loss}
        )
    run.log_metrics(
        {
            metric_names.BEST_EPOCH: fitted.best_epoch,
            metric_names.BEST_VAL_ACCURACY: fitted.best["val/accuracy"],
            metric_names.BEST_VAL_LOSS: fitted.best["val/loss"],
            **{name: fitted.last[key] for key, name in metric_names.FINAL.items()},
            metric_names.KEPT_EPOCH: kept["epoch"],
            metric_names.CLEAN_TRAIN_ACCURACY: clean_accuracy,
        }
    )
    if fitted.answers:
        run.log_bytes(fitted.answers.to_bytes(), EPOCH_ANSWERS)
        score = predictions.right if config.trainer.keep == "last" else None
        if score is None:
            trainer = config.trainer
            score = fitted.answers.cross_fit(
                predictions,
                fitted.best_epoch,
                keep_metric=NAMED[trainer.keep_metric],
                patience=trainer.patience,
                groups=groups,
            )
        if score is not None:
            run.log_metrics({metric_names.FAIR_VAL_ACCURACY: float(score.mean())})
    log_outcome(run, History.from_epochs(fitted.epochs), predictions, int(kept["epoch"]))


def log_flips(run: "OutboxRun", kept: Any, val_split: "SplitImages", batch_size: int) -> None:
    """Records what an answer of the saved model costs, and what it would cost without the mirror image.

    Args:
        run: where to record it.
        kept: a model that averages over the image and its mirror image.
        val_split: the images to measure with.
        batch_size: images per step.
    """
    from catdog.training.predicting import time_answers
    from catdog.training.views import list_views

    both, one = (time_answers(model, val_split, batch_size) for model in (kept, list_views(kept)[0].model))
    run.log_metrics({metric_names.MS_PER_IMAGE: both, metric_names.MS_PER_IMAGE_WITHOUT_FLIP: one})
    log.info("with its mirror image an image takes the saved model %.2f ms, and %.2f ms without", both, one)


def log_model(run: "OutboxRun", kept: Any, val_split: "SplitImages", sources: Mapping[str, str]) -> None:
    """Saves the model with the run, together with the custom code that is needed to load it.

    Args:
        run: where to save it.
        kept: the model, uint8 (B, H, W, 3) -> float32 (B, classes).
        val_split: its first image is the example of the model's input.
        sources: text of the custom modules, by path in the folder that they are imported from.
    """
    import numpy as np

    from catdog.tracking import log_kept_model
    from catdog.training.saved_code import describe_needed_code

    example: np.ndarray = val_split.gather(np.array([0]))[0]
    code = describe_needed_code(kept, sources)
    with code.write() as paths:
        log_kept_model(
            run, kept, example=example, class_names=val_split.classes, code_paths=paths, requirements=code.requirements,
            needs=code.needs,
        )  # fmt: skip


def log_time(run: "OutboxRun", clock: Clock) -> None:
    """Records the time of each stage as a table, and the total; writes both to the log."""
    import pandas as pd

    spent = clock.spent
    rows = [(name, wall_s, cpu_s) for name, (wall_s, cpu_s) in spent.items()]
    run.log_table(pd.DataFrame(rows, columns=["stage", "wall_seconds", "cpu_seconds"]).round(3), "time.csv")
    wall_s, cpu_s = clock.totals
    run.log_metrics({"run_seconds": wall_s, "run_cpu_seconds": cpu_s})
    log.info("%s", describe(spent))
