"""Figures of one run by epoch.

Every function takes `history`: a DataFrame whose index `epoch` counts from 1, with the float columns `train/loss`,
`train/accuracy`, `val/loss`, `val/accuracy` and `gap/accuracy` (accuracies are fractions in [0, 1]), NaN in epochs without a
validation. One row is enough.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from catdog.plots.style import INK, MUTED, PALETTE, build_figure, marker_step, set_epoch_axis, styled


@styled
def plot_accuracy(history: pd.DataFrame, kept_epoch: int | None = None) -> Figure:
    """Training and validation accuracy by epoch, the kept epoch ringed if it is given."""
    figure, axes = _epoch_figure(history, "Accuracy", "accuracy (%)")
    _draw_pair(axes, 100 * history["train/accuracy"], 100 * history["val/accuracy"], kept_epoch)
    return figure


@styled
def plot_loss(history: pd.DataFrame, kept_epoch: int | None = None) -> Figure:
    """Training and validation loss (mean cross-entropy, in nats) by epoch, the kept epoch ringed if it is given."""
    figure, axes = _epoch_figure(history, "Loss", "cross-entropy (nats)")
    _draw_pair(axes, history["train/loss"], history["val/loss"], kept_epoch)
    axes.set_ylim(bottom=0)
    return figure


@styled
def plot_gap(history: pd.DataFrame, kept_epoch: int | None = None) -> Figure:
    """The overfitting gap, training minus validation accuracy, by epoch, the kept epoch ringed if it is given."""
    figure, axes = _epoch_figure(history, "Overfitting gap", "train − val accuracy (points)")  # noqa: RUF001
    gap = 100 * history["gap/accuracy"].dropna()
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.plot(gap.index, gap, color=INK, marker="o", markevery=marker_step(len(gap)))
    _ring(axes, gap, kept_epoch)
    return figure


def _epoch_figure(history: pd.DataFrame, title: str, y_label: str) -> tuple[Figure, Axes]:
    figure = build_figure()
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_ylabel(y_label)
    set_epoch_axis(axes, history.index)
    return figure, axes


def _draw_pair(axes: Axes, train: pd.Series, val: pd.Series, kept_epoch: int | None) -> None:
    looks = ((train, "training", MUTED, "--", "s"), (val, "validation", PALETTE[0], "-", "o"))
    for values, name, color, line, marker in looks:
        known = values.dropna()
        axes.plot(
            known.index,
            known,
            color=color,
            linestyle=line,
            marker=marker,
            markevery=marker_step(len(known)),
            label=name,
        )
    _ring(axes, val, kept_epoch)
    # Outside the axes, because in any corner inside it would cover the curves of some runs.
    axes.figure.legend(loc="outside lower center", ncols=3)


def _ring(axes: Axes, values: pd.Series, kept_epoch: int | None) -> None:
    if kept_epoch is not None and kept_epoch in values.index:
        axes.plot(
            [kept_epoch], [values.loc[kept_epoch]], "o",
            markersize=11, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4,
            label=f"kept (epoch {kept_epoch})",
        )  # fmt: skip
