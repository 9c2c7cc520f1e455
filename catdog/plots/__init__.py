"""Plots of arrays: every `plot_` function returns a matplotlib Figure that belongs to its caller alone.

Figures are made without pyplot, which keeps every figure alive, so memory does not grow over a sweep of many runs.
"""

from catdog.plots.confusion import plot_confusion, plot_confusions
from catdog.plots.curves import plot_accuracy_curves, plot_gap_curves, plot_loss_curves
from catdog.plots.glyphs import make_legible
from catdog.plots.images import plot_augmentation, plot_contact_sheet, plot_samples
from catdog.plots.reliability import plot_reliabilities, plot_reliability
from catdog.plots.rows import plot_differences, plot_final_accuracy, plot_parameters, plot_scores, plot_seconds
from catdog.plots.search import (
    SearchAxis,
    plot_importances,
    plot_parallel,
    plot_rungs,
    plot_search_history,
    plot_slices,
    plot_trial_curves,
)
from catdog.plots.single import plot_accuracy, plot_gap, plot_loss
from catdog.plots.times import plot_times

__all__ = [
    "SearchAxis",
    "make_legible",
    "plot_accuracy",
    "plot_accuracy_curves",
    "plot_augmentation",
    "plot_confusion",
    "plot_confusions",
    "plot_contact_sheet",
    "plot_differences",
    "plot_final_accuracy",
    "plot_gap",
    "plot_gap_curves",
    "plot_importances",
    "plot_loss",
    "plot_loss_curves",
    "plot_parallel",
    "plot_parameters",
    "plot_reliabilities",
    "plot_reliability",
    "plot_rungs",
    "plot_samples",
    "plot_scores",
    "plot_search_history",
    "plot_seconds",
    "plot_slices",
    "plot_times",
    "plot_trial_curves",
]
