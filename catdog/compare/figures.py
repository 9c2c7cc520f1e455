"""The comparison's figures: from records to the plot functions, which know arrays only."""

from matplotlib.figure import Figure

from catdog.compare.records import Comparison, RunRecord
from catdog.plots import (
    plot_accuracy_curves,
    plot_confusions,
    plot_final_accuracy,
    plot_gap_curves,
    plot_loss_curves,
    plot_parameters,
    plot_seconds,
)


def build_figures(comparison: Comparison) -> dict[str, Figure]:
    """All figures that the finished runs allow, by names that serve as file names.

    Returns:
        Those of `build_charts`, and confusion: the kept models' matrices side by side, if their classes are the same.
    """
    figures = build_charts(comparison)
    classes = {record.class_names for record in comparison.ranked}
    if len(classes) == 1:
        counts = {record.name: record.confusion for record in comparison.finished if record.kept_images}
        figures["confusion"] = plot_confusions(counts, classes.pop())
    return figures


def build_charts(comparison: Comparison) -> dict[str, Figure]:
    """The figures that show all runs in one chart.

    Returns:
        accuracy, loss, gap, final_accuracy, seconds and parameters -> Figure; one without data is left out.
    """
    variants, figures = comparison.variants, {}
    trained = [record for record in comparison.finished if record.epochs]
    if trained:
        histories = {record.name: record.history for record in trained}
        figures["accuracy"] = plot_accuracy_curves(histories, variants, comparison.baseline)
        figures["loss"] = plot_loss_curves(histories, variants)
        figures["gap"] = plot_gap_curves(histories, variants)
    measured = {record.name: _accuracies(record, comparison) for record in comparison.finished}
    if any(measured.values()):
        figures["final_accuracy"] = plot_final_accuracy(measured, variants, comparison.baseline)
    if trained:
        figures["seconds"] = plot_seconds({record.name: record.seconds_per_epoch for record in trained}, variants)
    sized = {
        record.name: (record.metric("model/parameters"), record.metric("model/trainable_parameters"))
        for record in comparison.finished
        if "model/parameters" in record.metrics
    }
    if sized:
        figures["parameters"] = plot_parameters(sized, variants)
    return figures


def _accuracies(record: RunRecord, comparison: Comparison) -> dict[str, tuple[float, float, float]]:
    measured = {}
    if record.epochs:
        for key, column, images in (
            ("train", "train/accuracy", comparison.train_images),
            ("val", "val/accuracy", record.kept_images or comparison.val_images),
        ):
            measured[key] = (record.last(column), *record.last_interval(column, images))
    if record.kept_images:
        measured["kept val"] = (record.kept_accuracy, *record.kept_interval)
    return measured
