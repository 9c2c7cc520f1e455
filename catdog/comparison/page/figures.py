"""The comparison's figures: passes the data of the records to the plot functions, which only know arrays."""

import numpy as np
from matplotlib.figure import Figure

from catdog.comparison.analysis import Analysis
from catdog.comparison.atlas import Atlas
from catdog.comparison.records import NAN
from catdog.comparison.variants import Variant
from catdog.plots import (
    plot_accuracy_curves,
    plot_confusions,
    plot_differences,
    plot_final_accuracy,
    plot_gap_curves,
    plot_loss_curves,
    plot_parameters,
    plot_reliabilities,
    plot_scores,
    plot_seconds,
    plot_times,
)
from catdog.plots.style import variant_looks
from catdog.statistics.metrics import Metric


def build_figures(analysis: Analysis, atlas: Atlas | None = None) -> dict[str, Figure]:
    """Returns all figures that the finished runs allow, under names that also serve as file names.

    Returns:
        The figures of `build_charts`; `confusion`, the kept models' matrices side by side, if their classes are the same; and with
        an atlas `reliability`, their reliability diagrams.
    """
    figures = build_charts(analysis)
    classes = {record.class_names for variant in analysis.drawn for record in variant.records}
    if len(classes) == 1:
        counts = {variant.name: variant.confusion for variant in analysis.drawn}
        figures["confusion"] = plot_confusions(counts, classes.pop())
    if atlas and atlas.calibrations:
        looks = variant_looks(analysis.colours)
        figures["reliability"] = plot_reliabilities(atlas.calibrations, {name: look[0] for name, look in looks.items()})
    return figures


def build_charts(analysis: Analysis) -> dict[str, Figure]:
    """Returns the figures that show the variants in one chart: all variants, or only the best if there are many.

    Returns:
        accuracy, loss, gap, final_accuracy, score (of another metric), differences, effects, times, seconds and parameters ->
        Figure; those without data are omitted.
    """
    variants, figures = analysis.colours, {}
    trained = [variant for variant in analysis.drawn if variant.histories]
    if trained:
        histories = {name: history for variant in trained for name, history in variant.histories.items()}
        of_runs = {record.name: variant.name for variant in analysis.variants for record in variant.records}
        # A variant's colour follows from its place among all variants. This keeps it the same as in figures with a row per variant.
        of_runs = {name: name for name in variants} | of_runs
        # Another tool's runs have the metrics that its script logged.
        known = set().union(*histories.values())
        if known & {"train/accuracy", "val/accuracy"}:
            figures["accuracy"] = plot_accuracy_curves(histories, of_runs, analysis.comparison.baseline)
        if known & {"train/loss", "val/loss"}:
            figures["loss"] = plot_loss_curves(histories, of_runs)
        if "gap/accuracy" in known:
            figures["gap"] = plot_gap_curves(histories, of_runs)
    measured = {variant.name: _accuracies(variant, analysis) for variant in analysis.drawn}
    if any(measured.values()):
        seeds = {variant.name: variant.accuracies.tolist() for variant in analysis.drawn}
        figures["final_accuracy"] = plot_final_accuracy(
            measured, variants, analysis.comparison.baseline, seeds,
            "kept model, validation, fair" if analysis.is_cross_fitted else "kept model, validation",
        )  # fmt: skip
    metric = analysis.metric
    if not metric.is_accuracy:
        scores = {variant.name: (variant.value, *variant.value_interval) for variant in analysis.drawn}
        figures["score"] = plot_scores(
            scores, variants, f"{metric.words[0].upper()}{metric.words[1:]} with 95 % intervals",
            f"{_label(analysis)}; {metric.direction}",
            {variant.name: variant.values.tolist() for variant in analysis.drawn}, metric.scale,
        )  # fmt: skip
    figures |= _build_differences(analysis)
    figures |= _build_times(analysis)
    timed = {variant.name: variant.seconds_per_epoch for variant in trained}
    timed = {name: value for name, value in timed.items() if not np.isnan(value)}
    if timed:
        figures["seconds"] = plot_seconds(timed, variants)
    models = {variant.name: variant.representative for variant in analysis.drawn}
    sized = {
        name: (record.parameters, record.trainable_parameters)
        for name, record in models.items()
        if not np.isnan(record.parameters)
    }
    if sized:
        figures["parameters"] = plot_parameters(sized, variants)
    return figures


def _label(analysis: Analysis) -> str:
    """Returns what is compared, for an axis: "fair val accuracy %"."""
    return f"{analysis.compared.removesuffix(analysis.metric.words)}{analysis.metric.heading}"


def _build_times(analysis: Analysis) -> dict[str, Figure]:
    """Returns the figure of the variants whose times are known, if there are several, all of one kind of device."""
    timed = [variant for variant in analysis.drawn if all(record.seconds > 0 for record in variant.records)]
    devices = {record.device for variant in timed for record in variant.records}
    if len(timed) < 2 or len(devices) > 1:
        return {}
    metric = analysis.metric
    figure = plot_times(
        {variant.name: [record.seconds for record in variant.records] for variant in timed},
        {variant.name: (variant.value, *variant.value_interval) for variant in timed},
        analysis.colours,
        _label(analysis) if metric.higher_is_better else f"{_label(analysis)}; {metric.direction}",
        "time of a run" if devices == {"gpu"} else "CPU time of a run",
        metric.scale,
    )
    return {"times": figure}


def _build_differences(analysis: Analysis) -> dict[str, Figure]:
    drawn = {variant.name for variant in analysis.drawn}
    shown = [v for v in analysis.verdicts if {v.first.name, v.second.name} <= drawn]
    metric, figures = analysis.metric, {}
    unit = metric.unit or metric.words
    axis = (analysis.margin, unit if metric.higher_is_better else f"{unit}, {metric.direction}", metric.scale)
    if shown:
        pairs = {
            f"{v.first.name} \N{MINUS SIGN} {v.second.name}": _turn(
                metric, (v.accuracy.estimate, v.accuracy.low, v.accuracy.high)
            )
            for v in shown
        }
        figures["differences"] = plot_differences(pairs, "Differences, 95 %", *axis)
    single = {
        f"{effect.ingredients[0].words} ({effect.before.name})": _turn(metric, effect.difference)
        for effect in analysis.effects
        if effect.is_single and {effect.before.name, effect.after.name} <= drawn
    }
    if single:
        figures["effects"] = plot_differences(single, "One ingredient, 95 %", *axis)
    return figures


def _turn(metric: Metric, difference: tuple[float, float, float]) -> tuple[float, float, float]:
    """Returns a difference and its bounds in the metric's own sign, given what is better about the first."""
    value, low, high = difference
    return difference if metric.higher_is_better else (-value, -high, -low)


def _accuracies(variant: Variant, analysis: Analysis) -> dict[str, tuple[float, float, float]]:
    measured = {}
    single = variant.records[0] if len(variant.records) == 1 else None
    if variant.histories:
        images = {"train": analysis.comparison.train_images, "val": variant.records[0].kept_images}
        for key, count in images.items():
            # Only the accuracy of the last epoch's models is known, so over several seeds there is no interval.
            # Nor is there one over groups of images.
            is_known = single and (key == "train" or analysis.comparison.val_groups is None)
            low, high = single.last_interval(f"{key}/accuracy", count) if single and is_known else (NAN, NAN)
            mean = variant.mean_of(f"{key}/accuracy")
            if not np.isnan(mean):
                measured[key] = (mean, low, high)
    if not np.isnan(variant.interval[0]):
        measured["kept val"] = (variant.accuracy, *variant.interval)
    return measured
