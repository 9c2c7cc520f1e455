"""What runs reach against the time that they took."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from catdog.plots.style import build_figure, name_in_legend, set_titles, styled, variant_looks

# Times that may be on the axis, in seconds: the first row with few enough that are in sight. Each can be said in two words.
S, MIN, H, D = 1, 60, 3600, 86400
TICKS = (
    (
        *(count * S for count in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40)),
        *(count * MIN for count in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40)),
        *(count * H for count in (1, 2, 3, 4, 5, 7, 10, 15)),
        *(count * D for count in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100)),
    ),
    (S, 3 * S, 10 * S, 30 * S, MIN, 3 * MIN, 10 * MIN, 30 * MIN, H, 3 * H, 10 * H, D, 3 * D, 10 * D, 30 * D, 100 * D),
    (S, 10 * S, MIN, 10 * MIN, H, 10 * H, 4 * D, 40 * D),
    (S, MIN, H, D, 100 * D),
)
MOST_TICKS = 6
UNITS = ((S, "s"), (MIN, "min"), (H, "h"), (D, "d"))
# The axis spans at least this factor, so that times that are nearly equal look so.
LEAST_FACTOR = 4.0


@styled
def plot_times(
    times: Mapping[str, Sequence[float]],
    scores: Mapping[str, tuple[float, float, float]],
    variants: Mapping[str, str],
    label: str,
    kind: str,
    scale: float = 100.0,
) -> Figure:
    """A metric against the time of a run on a logarithmic axis, a point with its 95% interval for each variant.

    Args:
        times: name -> seconds of each of its runs, at least one; the point is at their geometric mean, a line spans them.
        scores: name -> value, low, high; low and high are NaN if there is no interval.
        variants: every name, shown or not -> its variant.
        label: of the vertical axis: the metric and its unit.
        kind: what the seconds are of, such as "CPU time of a run".
        scale: what values are multiplied by.
    """
    looks = variant_looks(variants.values())
    figure = build_figure(height_in=3.7)
    axes = figure.subplots()
    spans = (
        "; across: from the fastest run to the slowest" if any(len(seconds) > 1 for seconds in times.values()) else ""
    )
    set_titles(axes, "What the time of a run buys", f"95 % intervals{spans}")
    for name, seconds in times.items():
        colour, marker = looks[variants[name]]
        value, low, high = (scale * number for number in scores[name])
        middle = float(np.exp(np.mean(np.log(seconds))))
        axes.vlines(middle, low, high, color=colour, linewidth=1.8)
        axes.hlines(value, min(seconds), max(seconds), color=colour, linewidth=1.2)
        axes.plot([middle], [value], marker, color=colour, markersize=7)
    axes.set_xscale("log")
    every = [second for seconds in times.values() for second in seconds]
    wider = max(1.15, (LEAST_FACTOR * min(every) / max(every)) ** 0.5)
    lowest, highest = min(every) / wider, max(every) * wider
    axes.set_xlim(lowest, highest)
    axes.xaxis.set_major_locator(FixedLocator(_list_ticks(lowest, highest)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _name_tick(value)))
    axes.set_xlabel(f"{kind}, log scale")
    axes.set_ylabel(label)
    axes.grid(True, axis="both")
    axes.spines["left"].set_visible(False)
    name_in_legend(figure, {variants[name]: looks[variants[name]] for name in times})
    return figure


def _list_ticks(lowest_s: float, highest_s: float) -> list[float]:
    """Returns times within bounds, in seconds."""
    shown: list[float] = []
    for ticks in TICKS:
        shown = [tick for tick in ticks if lowest_s <= tick <= highest_s]
        if len(shown) <= MOST_TICKS:
            break
    return shown


def _name_tick(value_s: float) -> str:
    unit_s, unit = max(each for each in UNITS if value_s >= each[0])
    return f"{value_s / unit_s:g} {unit}"
