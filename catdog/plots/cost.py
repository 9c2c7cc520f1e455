"""What runs cost against what they reach."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from catdog.plots.style import build_figure, name_in_legend, set_titles, styled, variant_looks

# Counts of a second, a minute, an hour and a day that are on the axis: the first row with few enough that are in sight.
TICK_COUNTS = ((1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40), (1, 2, 5, 10, 20, 30), (1, 5, 20), (1,))
MOST_TICKS = 6
UNITS = ((1, "s"), (60, "min"), (3600, "h"), (86400, "d"))
# The axis spans at least this factor, so that times that are nearly equal look so.
LEAST_FACTOR = 4.0


@styled
def plot_cost(
    costs: Mapping[str, Sequence[float]],
    scores: Mapping[str, tuple[float, float, float]],
    variants: Mapping[str, str],
    label: str,
    time: str,
    scale: float = 100.0,
) -> Figure:
    """A metric against the time of a run on a logarithmic axis, a point with its 95% interval for each variant.

    Args:
        costs: name -> seconds of each of its runs, at least one; the point is at their geometric mean, a line spans them.
        scores: name -> value, low, high; low and high are NaN if there is no interval.
        variants: every name, shown or not -> its variant.
        label: of the vertical axis: the metric and its unit.
        time: what the seconds are of, such as "CPU time of a run".
        scale: what values are multiplied by.
    """
    looks = variant_looks(variants.values())
    figure = build_figure(height_in=3.7)
    axes = figure.subplots()
    set_titles(axes, "What it costs", "95 % intervals; across: from the fastest run to the slowest")
    for name, seconds in costs.items():
        colour, marker = looks[variants[name]]
        value, low, high = (scale * number for number in scores[name])
        middle = float(np.exp(np.mean(np.log(seconds))))
        axes.vlines(middle, low, high, color=colour, linewidth=1.8)
        axes.hlines(value, min(seconds), max(seconds), color=colour, linewidth=1.2)
        axes.plot([middle], [value], marker, color=colour, markersize=7)
    axes.set_xscale("log")
    every = [second for seconds in costs.values() for second in seconds]
    wider = max(1.15, (LEAST_FACTOR * min(every) / max(every)) ** 0.5)
    lowest, highest = min(every) / wider, max(every) * wider
    axes.set_xlim(lowest, highest)
    axes.xaxis.set_major_locator(FixedLocator(_list_ticks(lowest, highest)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _name_tick(value)))
    axes.set_xlabel(f"{time}, log scale")
    axes.set_ylabel(label)
    axes.grid(True, axis="both")
    axes.spines["left"].set_visible(False)
    name_in_legend(figure, {variants[name]: looks[variants[name]] for name in costs})
    return figure


def _list_ticks(lowest_s: float, highest_s: float) -> list[float]:
    """Returns times within bounds that can be said in two words, in seconds."""
    shown: list[float] = []
    for counts in TICK_COUNTS:
        shown = [unit_s * count for unit_s, _ in UNITS for count in counts if lowest_s <= unit_s * count <= highest_s]
        if len(shown) <= MOST_TICKS:
            break
    return shown


def _name_tick(value_s: float) -> str:
    unit_s, unit = max((each for each in UNITS if value_s >= each[0]), default=UNITS[0])
    return f"{value_s / unit_s:g} {unit}"
