"""Figures of numbers of several variants, one row each from the top down.

`variants` maps every row's name, shown or not, to its variant, so that a variant has the same colour in all figures. The other
mappings contain the rows to show, under the same names.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from catdog.plots.style import (
    BASELINE_LINE,
    GRID,
    INK,
    MUTED,
    PALETTE,
    baseline_words,
    build_figure,
    styled,
    variant_looks,
    wrapped,
)
from catdog.system.wording import compact_count, seconds


@styled
def plot_final_accuracy(
    accuracies: Mapping[str, Mapping[str, tuple[float, float, float]]],
    variants: Mapping[str, str],
    baseline: float | None = None,
    seeds: Mapping[str, Sequence[float]] | None = None,
    kept: str = "kept model, validation",
) -> Figure:
    """Accuracies as points with their 95% intervals, one row each.

    Args:
        accuracies: name -> what was measured (`train`, `val`, `kept val`; any may be missing) -> value, low, high
            in [0, 1]; low and high are NaN if there is no interval.
        variants: name -> variant.
        baseline: accuracy of always answering the most common class, in [0, 1], drawn as a line.
        seeds: name -> each seed's kept val accuracy in [0, 1], drawn as small points below; none for a single seed.
        kept: what `kept val` is called in the legend.
    """
    looks = variant_looks(variants.values())
    kinds = [
        ("train", "last epoch, training", "o", "none"),
        ("val", "last epoch, validation", "o", "full"),
        ("kept val", kept, "D", "full"),
    ]
    figure, axes = row_figure("Accuracy with 95 % intervals", list(accuracies), row_in=0.52, extra_in=0.55)
    for row, (name, measured) in enumerate(accuracies.items()):
        colour, _ = looks[variants[name]]
        for offset, (kind, _, marker, fill) in zip((-0.25, 0, 0.25), kinds, strict=True):
            if kind not in measured:
                continue
            value, low, high = (100 * number for number in measured[kind])
            axes.hlines(row + offset, low, high, color=colour, linewidth=1.8)
            face = colour if fill == "full" else "white"
            axes.plot([value], [row + offset], marker, color=colour, markerfacecolor=face, markersize=6)
        single = (seeds or {}).get(name, [])
        if len(single) > 1:
            axes.plot(
                [100 * value for value in single], [row + 0.42] * len(single), "|",
                color=colour, markersize=7, markeredgewidth=1.6,
            )  # fmt: skip
    axes.set_xlabel("accuracy (%)")
    handles: list[Line2D] = [
        Line2D([], [], color=INK, marker=marker, markerfacecolor=INK if fill == "full" else "white", label=label)
        for _, label, marker, fill in kinds
    ]
    if any(len(single) > 1 for single in (seeds or {}).values()):
        handles.append(
            Line2D([], [], linestyle="none", color=INK, marker="|", markeredgewidth=1.6, label="kept, each seed")
        )
    if baseline is not None:
        handles.append(axes.axvline(100 * baseline, label=baseline_words(baseline), **BASELINE_LINE))
    # Set after the baseline is drawn, which may be left of every run: a limit set earlier would exclude it.
    axes.set_xlim(right=101.5)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, columnspacing=1.5)
    return figure


@styled
def plot_scores(
    scores: Mapping[str, tuple[float, float, float]],
    variants: Mapping[str, str],
    title: str,
    label: str,
    seeds: Mapping[str, Sequence[float]] | None = None,
    scale: float = 1.0,
) -> Figure:
    """A metric as points with their 95% intervals, one row each.

    Args:
        scores: name -> value, low, high; low and high are NaN if there is no interval.
        variants: name -> variant.
        title: the figure's title.
        label: of the axis: the metric, its unit and what is better.
        seeds: name -> each seed's value, drawn as small points below; none for a single seed.
        scale: what values are multiplied by.
    """
    looks = variant_looks(variants.values())
    figure, axes = row_figure(title, list(scores), extra_in=0.3)
    for row, (name, measured) in enumerate(scores.items()):
        colour, _ = looks[variants[name]]
        value, low, high = (scale * number for number in measured)
        axes.hlines(row, low, high, color=colour, linewidth=1.8)
        axes.plot([value], [row], "D", color=colour, markersize=6)
        single = (seeds or {}).get(name, [])
        if len(single) > 1:
            axes.plot(
                [scale * value for value in single], [row + 0.3] * len(single), "|",
                color=colour, markersize=7, markeredgewidth=1.6,
            )  # fmt: skip
    axes.set_xlabel(label)
    return figure


@styled
def plot_differences(
    differences: Mapping[str, tuple[float, float, float]],
    title: str,
    margin: float,
    unit: str = "points",
    scale: float = 100.0,
) -> Figure:
    """Differences with their intervals, one row each, and the band within which they are as good as none.

    Args:
        differences: row -> value, low, high; of accuracies fractions in [-1, 1].
        title: the figure's title.
        margin: half the band's width, in the same unit.
        unit: of the axis, in words.
        scale: what values are multiplied by: 100 for points.
    """
    figure, axes = row_figure(title, list(differences), extra_in=0.3)
    axes.axvspan(-scale * margin, scale * margin, color=GRID, alpha=0.6, linewidth=0)
    axes.axvline(0, color=MUTED, linewidth=1)
    for row, (value, low, high) in enumerate(differences.values()):
        decided = low > 0 or high < 0
        colour = PALETTE[0] if decided else MUTED
        axes.hlines(row, scale * low, scale * high, color=colour, linewidth=1.8)
        axes.plot(
            [scale * value], [row], "o", color=colour, markerfacecolor=colour if decided else "white", markersize=6
        )
    axes.set_xlabel(f"{unit}; grey: as good as none (±{scale * margin:g})")
    return figure


@styled
def plot_seconds(epoch_seconds: Mapping[str, float], variants: Mapping[str, str]) -> Figure:
    """Seconds per epoch as bars, one row each: name -> seconds (the median over epochs)."""
    looks = variant_looks(variants.values())
    figure, axes = row_figure("Time per epoch", list(epoch_seconds))
    for row, (name, value) in enumerate(epoch_seconds.items()):
        axes.barh(row, value, height=0.5, color=looks[variants[name]][0])
        axes.annotate(seconds(value), (value, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=10)
    axes.set_xlabel("seconds per epoch, median")
    axes.set_xlim(0, 1.15 * max([value for value in epoch_seconds.values() if np.isfinite(value)], default=1))
    return figure


@styled
def plot_parameters(parameters: Mapping[str, tuple[float, float]], variants: Mapping[str, str]) -> Figure:
    """Parameter counts on a logarithmic scale, one row each: name -> (all, trainable)."""
    looks = variant_looks(variants.values())
    figure, axes = row_figure("Parameters", list(parameters), extra_in=0.3)
    for row, (name, (total, trainable)) in enumerate(parameters.items()):
        colour, _ = looks[variants[name]]
        # A logarithmic axis cannot show 0 trainable parameters, but it can show the total.
        ends = [value for value in (trainable, total) if value > 0]
        if ends:
            axes.hlines(row, min(ends), max(ends), color=colour, linewidth=1.8)
        for value, face in ((total, colour), (trainable, "white")):
            if value > 0:
                axes.plot(
                    [value], [row], "o", color=colour, markerfacecolor=face, markersize=7 if face == colour else 5
                )
        if ends:
            words = (
                compact_count(total) if total == trainable else f"{compact_count(trainable)} of {compact_count(total)}"
            )
            axes.annotate(words, (max(ends), row), xytext=(7, 0), textcoords="offset points", va="center", fontsize=9.5)
    counts = [value for pair in parameters.values() for value in pair if value > 0] or [1.0]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _axis_count(value)))
    # Starts at a full decade, and leaves room on the right for the label of the last point.
    lowest, highest = np.floor(np.log10(min(counts)) - 0.05), np.log10(max(counts))
    axes.set_xlim(10**lowest, 10 ** (highest + 0.55 * max(1, highest - lowest)))
    axes.set_xlabel("parameters, log scale")
    handles = [
        Line2D([], [], linestyle="none", color=INK, marker="o", markerfacecolor="white", label="trainable"),
        Line2D([], [], linestyle="none", color=INK, marker="o", label="all"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def row_figure(title: str, names: list[str], row_in: float = 0.42, extra_in: float = 0.0) -> tuple[Figure, Axes]:
    """Returns a figure with one row per name from the top down, tall enough for all names."""
    labels = [wrapped(name) for name in names]
    lines = sum(max(1.0, 0.45 * (1 + label.count("\n"))) for label in labels)
    figure = build_figure(height_in=1.3 + extra_in + row_in * max(1.0, lines))
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_yticks(range(len(labels)), labels, color=INK)
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    axes.grid(True, axis="x")
    axes.spines["left"].set_visible(False)
    return figure, axes


def _axis_count(value: float) -> str:
    return compact_count(value).replace(".00", "").replace(".0", "")
