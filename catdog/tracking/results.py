"""What every run leaves behind, whoever trained it: facts of its data, its history, its answers, and their figures."""

from typing import TYPE_CHECKING

from catdog.config.schema import DatasetConfig
from catdog.tracking.run import SpooledRun, log_inputs

if TYPE_CHECKING:
    import pandas as pd

    from catdog.data.splits import Manifest

# A figure, and the columns of the history that it shows.
CURVES = {
    "accuracy": ("train/accuracy", "val/accuracy"),
    "loss": ("train/loss", "val/loss"),
    "gap": ("gap/accuracy",),
}


def log_data(run: SpooledRun, config: DatasetConfig, manifest: "Manifest") -> None:
    """Writes facts of the data, and the split of every file.

    Args:
        run: the run.
        config: of the data set.
        manifest: its images.
    """
    from catdog.data.dataset import majority_fraction

    # Facts of the data are tags: as metrics, each would get a chart of equal bars in MLflow's pages.
    run.log_tags({
        **{f"catdog.{split}_images": str(len(manifest.select(split))) for split in ("train", "val", "test")},
        "catdog.majority_fraction": f"{majority_fraction(manifest):.6f}",
        "catdog.classes": ",".join(manifest.classes),
    })  # fmt: skip
    run.log_table(manifest.images, "split.csv")
    log_inputs(run, config, manifest.images, manifest.digest)


def log_outcome(run: SpooledRun, history: "pd.DataFrame", predictions: "pd.DataFrame", kept_epoch: int) -> None:
    """Writes the history and the answers to validation images, as tables and figures.

    Args:
        run: the run.
        history: one row an epoch: `epoch`, from 1, and metrics; a curve whose metrics are not there is not drawn.
        predictions: file, label, then one probability in [0, 1] per class.
        kept_epoch: the epoch whose model gave them.
    """
    from catdog import plots
    from catdog.statistics.proportions import confusion_counts

    run.log_table(history, "history.csv")
    run.log_table(predictions, "predictions/val.csv")
    history = history.set_index("epoch")
    draw = {"accuracy": plots.plot_accuracy, "loss": plots.plot_loss, "gap": plots.plot_gap}
    for name, columns in CURVES.items():
        if set(columns) <= set(history):
            run.log_figure(draw[name](history, kept_epoch), f"figures/{name}.png")
    classes = list(predictions.columns[2:])
    labels = predictions["label"].map({name: index for index, name in enumerate(classes)}).to_numpy()
    counts = confusion_counts(labels, predictions.iloc[:, 2:].to_numpy().argmax(axis=1), len(classes))
    run.log_figure(plots.plot_confusion(counts, classes), "figures/confusion.png")
