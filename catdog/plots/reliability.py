"""Reliability diagrams: whether answers with a given probability are right that often."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from catdog.plots.style import GRID, MUTED, PALETTE, build_figure, set_titles, styled, wrapped
from catdog.statistics.calibration import Calibration
from catdog.system.wording import percent_interval, percent_with_unit

SIDE_IN = 2.9


@styled
def plot_reliability(found: Calibration, name: str, colour: str = PALETTE[0]) -> Figure:
    """One reliability diagram.

    Args:
        found: the result of `catdog.statistics.calibration.measure_calibration`.
        name: the figure's title.
        colour: hex colour.
    """
    figure = build_figure(SIDE_IN, SIDE_IN + 0.35)
    _draw(figure.subplots(), found, name, colour)
    return figure


@styled
def plot_reliabilities(found: Mapping[str, Calibration], colours: Mapping[str, str]) -> Figure:
    """Reliability diagrams side by side, at most four in a row: variant -> its calibration, variant -> hex colour."""
    columns = max(1, min(4, len(found)))
    rows = max(1, -(-len(found) // columns))
    figure = build_figure(SIDE_IN * columns, (SIDE_IN + 0.35) * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in list(grid.flat)[len(found) :]:
        axes.set_axis_off()
    for axes, (name, one) in zip(grid.flat, found.items(), strict=False):
        _draw(axes, one, name, colours[name])
    return figure


def _draw(axes: Axes, found: Calibration, name: str, colour: str) -> None:
    low = 10 * np.floor(10 * min(found.confidence.min(initial=1.0), found.accuracy_low.min(initial=1.0)))
    axes.plot([low, 100], [low, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    accuracy = 100 * found.accuracy
    whiskers = [accuracy - 100 * found.accuracy_low, 100 * found.accuracy_high - accuracy]
    axes.errorbar(
        100 * found.confidence, accuracy, yerr=np.maximum(whiskers, 0), color=colour, marker="o", markersize=4,
        linewidth=1.4, elinewidth=1, capsize=0,
    )  # fmt: skip
    axes.plot(100 * found.confidence, np.full(len(accuracy), low + 0.03 * (100 - low)), "|", color=colour, markersize=7)
    axes.set_xlim(low, 101)
    axes.set_ylim(low, 101)
    axes.set_aspect("equal")
    axes.grid(True, color=GRID)
    axes.set_xlabel("confidence (%)")
    axes.set_ylabel("right (%)")
    words = f"error {percent_with_unit(found.error)}, {percent_interval(found.low, found.high)}"
    set_titles(axes, wrapped(name, 26), words)
