"""What every run records, whoever trained it: facts about its data, its history, its predictions, and their figures."""

from typing import TYPE_CHECKING

from catdog.config.schema import NEAR_DUPLICATES, DatasetConfig
from catdog.tracking import tags as tag
from catdog.tracking.run import OutboxRun, log_inputs

if TYPE_CHECKING:
    from catdog.data.history import History
    from catdog.data.predictions import Predictions
    from catdog.data.splits import Manifest

# Each figure, and the columns of the history that it shows.
CURVES = {
    "accuracy": ("train/accuracy", "val/accuracy"),
    "loss": ("train/loss", "val/loss"),
    "gap": ("gap/accuracy",),
}


def log_data(run: OutboxRun, config: DatasetConfig, manifest: "Manifest") -> None:
    """Writes facts about the data, and the split of every file.

    Args:
        run: the run.
        config: the config of the data set.
        manifest: its images and their splits.
    """
    from catdog.data.dataset import majority_fraction

    counts = manifest.readable["split"].value_counts()
    # These facts are tags: as metrics, each would get a chart of equal bars on MLflow's pages.
    run.log_tags({
        **{tag.IMAGES.format(split=split): str(counts.get(split, 0)) for split in ("train", "val", "test")},
        tag.MAJORITY_FRACTION: f"{majority_fraction(manifest):.6f}",
        tag.CLASSES: ",".join(manifest.classes),
        **({tag.GROUPS: manifest.groups.by if manifest.groups else NEAR_DUPLICATES} if "group" in manifest.images else {}),
    })  # fmt: skip
    run.log_table(manifest.images, "split.csv")
    log_inputs(run, config, manifest.images, manifest.digest)


def log_outcome(run: OutboxRun, history: "History", predictions: "Predictions", kept_epoch: int) -> None:
    """Writes the history and the predictions for the validation images, as tables and figures.

    Args:
        run: the run.
        history: by epoch. A curve is drawn only if its metrics are there.
        predictions: those of the kept model.
        kept_epoch: the epoch of the kept model.
    """
    from catdog import plots

    run.log_text(history.to_csv(), "history.csv")
    run.log_table(predictions.to_frame(), "predictions/val.csv")
    by_epoch = history.to_frame()
    draw = {"accuracy": plots.plot_accuracy, "loss": plots.plot_loss, "gap": plots.plot_gap}
    for name, columns in CURVES.items():
        if all(column in history for column in columns):
            run.log_figure(draw[name](by_epoch, kept_epoch), f"figures/{name}.png")
    confusion = plots.plot_confusion(predictions.confusion, list(predictions.class_names))
    run.log_figure(plots.make_legible(confusion), "figures/confusion.png")
