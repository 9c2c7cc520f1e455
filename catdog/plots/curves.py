"""Curves of several runs by epoch, on shared axes.

`histories` maps the runs that are shown to their histories. `variants` maps every run of the comparison, shown or not, to its
variant, so that a variant has the same colour in all figures.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from catdog.plots.style import (
    BASELINE_LINE,
    MUTED,
    baseline_words,
    build_figure,
    marker_step,
    name_in_legend,
    set_epoch_axis,
    set_titles,
    styled,
    variant_looks,
)

# Names at the ends of lines are faster to read than a legend, as long as they are few and short.
LABELS_AT_LINES_UP_TO = 6
LABEL_LENGTH_UP_TO = 14


@styled
def plot_accuracy_curves(
    histories: Mapping[str, pd.DataFrame], variants: Mapping[str, str], baseline: float | None = None
) -> Figure:
    """Accuracy by epoch: validation solid, training dashed, one colour per variant.

    Args:
        histories: run name -> history with `train/accuracy` and `val/accuracy` in [0, 1], index `epoch` from 1.
        variants: run name -> variant.
        baseline: accuracy of always answering the most common class, in [0, 1], drawn as a line.
    """
    figure = build_figure(height_in=3.9)
    axes = figure.subplots()
    set_titles(axes, "Accuracy by epoch", _explain("solid: validation, dashed: training", histories, variants))
    axes.set_ylabel("accuracy (%)")
    _draw_curves(axes, histories, variants, "train/accuracy", dashed=True)
    ends = _draw_curves(axes, histories, variants, "val/accuracy")
    if baseline is not None:
        _draw_baseline(axes, baseline)
    lowest, _ = axes.get_ylim()
    axes.set_ylim(max(-2, lowest), 101.5)
    _name_curves(figure, axes, histories, variants, ends)
    return figure


@styled
def plot_loss_curves(histories: Mapping[str, pd.DataFrame], variants: Mapping[str, str]) -> Figure:
    """Loss by epoch: validation solid, training dashed, one colour per variant.

    Args:
        histories: run name -> history with `train/loss` and `val/loss` (mean cross-entropy), index `epoch` from 1.
        variants: run name -> variant.
    """
    figure = build_figure(height_in=3.9)
    axes = figure.subplots()
    set_titles(axes, "Loss by epoch", _explain("solid: validation, dashed: training", histories, variants))
    axes.set_ylabel("cross-entropy (nats)")
    _draw_curves(axes, histories, variants, "train/loss", dashed=True, scale=1)
    ends = _draw_curves(axes, histories, variants, "val/loss", scale=1)
    axes.set_ylim(bottom=0)
    _name_curves(figure, axes, histories, variants, ends)
    return figure


@styled
def plot_gap_curves(histories: Mapping[str, pd.DataFrame], variants: Mapping[str, str]) -> Figure:
    """The overfitting gap by epoch, training minus validation accuracy, one colour per variant.

    Args:
        histories: run name -> history with `gap/accuracy` in [-1, 1], index `epoch` from 1.
        variants: run name -> variant.
    """
    figure = build_figure(height_in=3.9)
    axes = figure.subplots()
    set_titles(axes, "Overfitting gap by epoch", _explain("above 0: better on training images", histories, variants))
    axes.set_ylabel("train − val accuracy (points)")  # noqa: RUF001
    axes.axhline(0, color=MUTED, linewidth=1)
    ends = _draw_curves(axes, histories, variants, "gap/accuracy")
    _name_curves(figure, axes, histories, variants, ends)
    return figure


def _draw_curves(
    axes: Axes,
    histories: Mapping[str, pd.DataFrame],
    variants: Mapping[str, str],
    column: str,
    dashed: bool = False,
    scale: float = 100,
) -> dict[str, float]:
    """Draws the mean and the range of a column for each variant, and returns the last value of each mean."""
    looks = variant_looks(variants.values())
    ends = {}
    for variant, curves in _by_variant(histories, variants, column).items():
        colour, marker = looks[variant]
        mean = scale * curves.mean(axis=1)
        if curves.shape[1] > 1 and not dashed:
            low, high = scale * curves.min(axis=1), scale * curves.max(axis=1)
            axes.fill_between(mean.index, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            mean.index, mean,
            color=colour, linestyle=(0, (3, 2)) if dashed else "-", linewidth=1.2 if dashed else 1.9,
            # The dashed line needs its marker only where it would otherwise be a single, invisible point.
            marker=marker if not dashed or len(mean) == 1 else None, markevery=marker_step(len(mean)),
            markerfacecolor="none" if dashed else colour,
        )  # fmt: skip
        if len(mean):
            ends[variant] = float(mean.iloc[-1])
    # Of all curves that are on the axes by now: validation may have been measured after some epochs alone.
    drawn = [np.asarray(line.get_xdata()) for line in axes.lines]
    set_epoch_axis(axes, pd.Index([max((int(epochs[-1]) for epochs in drawn if len(epochs)), default=1)]))
    return ends


def _by_variant(
    histories: Mapping[str, pd.DataFrame], variants: Mapping[str, str], column: str
) -> dict[str, pd.DataFrame]:
    """Returns a column's values by epoch (rows) and run (columns) for each variant.

    If runs stopped early, the mean ends with the shortest run, because a mean over fewer runs would jump. Runs without the column,
    such as those of other tools, are left out.
    """
    grouped: dict[str, dict[str, pd.Series]] = {}
    for name, history in histories.items():
        if column in history:
            grouped.setdefault(variants[name], {})[name] = history[column]
    return {variant: _side_by_side(series).dropna() for variant, series in grouped.items()}


def _side_by_side(series: dict[str, pd.Series]) -> pd.DataFrame:
    first = next(iter(series.values()))
    if all(one.index.equals(first.index) for one in series.values()):
        # Much faster with hundreds of series, which pandas would align one by one.
        return pd.DataFrame(np.stack([one.to_numpy() for one in series.values()], axis=1), first.index, list(series))
    return pd.DataFrame(series)


def _has_bands(histories: Mapping[str, pd.DataFrame], variants: Mapping[str, str]) -> bool:
    return len({variants[name] for name in histories}) < len(histories)


def _explain(words: str, histories: Mapping[str, pd.DataFrame], variants: Mapping[str, str]) -> str:
    return f"{words}; mean and range of seeds" if _has_bands(histories, variants) else words


def _name_curves(
    figure: Figure,
    axes: Axes,
    histories: Mapping[str, pd.DataFrame],
    variants: Mapping[str, str],
    ends: Mapping[str, float],
) -> None:
    """Labels the lines with their variants: at the line's end if names are few and short, else in a legend below."""
    looks = variant_looks(variants.values())
    shown = list(dict.fromkeys(variants[name] for name in histories))
    if len(shown) > LABELS_AT_LINES_UP_TO or max(map(len, shown), default=0) > LABEL_LENGTH_UP_TO:
        name_in_legend(figure, {variant: looks[variant] for variant in shown})
        return
    low, high = axes.get_ylim()
    for variant, y in zip(ends, _spread(list(ends.values()), 0.058 * (high - low)), strict=True):
        axes.text(
            1.015, (y - low) / (high - low), variant,
            transform=axes.transAxes, color=looks[variant][0], va="center", fontsize=10.5, fontweight="bold",
        )  # fmt: skip


def _spread(values: list[float], apart: float) -> list[float]:
    """Returns the values, moved until neighbours are at least `apart`, because labels must not overlap."""
    order = np.argsort(values)
    moved = np.asarray(values, dtype=float)[order]
    for _ in range(200):
        short = apart - np.diff(moved)
        if not (short > 1e-6).any():
            break
        push = np.where(short > 0, short / 2, 0)
        moved[:-1] -= push
        moved[1:] += push
    spread = np.empty(len(moved))
    spread[order] = moved
    return spread.tolist()


def _draw_baseline(axes: Axes, baseline: float) -> None:
    axes.axhline(100 * baseline, **BASELINE_LINE)
    axes.annotate(
        baseline_words(baseline), (1, 100 * baseline), xycoords=("axes fraction", "data"), xytext=(-2, 3),
        textcoords="offset points", fontsize=9, color=MUTED, va="bottom", ha="right",
    )  # fmt: skip
