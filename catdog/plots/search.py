"""Figures of a search for settings: its history, its trials by epoch, and scores against settings.

Scores are in the metric's own sign and unit, as they are written on the axis. A trial that was not trained to its end is drawn
hollow and lighter, with the score that it had when it stopped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from catdog.plots.rows import row_figure
from catdog.plots.style import (
    GRID,
    INK,
    MUTED,
    PALETTE,
    WIDTH_IN,
    build_figure,
    set_epoch_axis,
    set_titles,
    styled,
    wrapped,
)

# Above so many values, their names are turned on the axis.
UPRIGHT_UP_TO = 4
# The lines of the best trials of the parallel coordinates stand out: the best fifth, and three at least.
BEST_SHARE, FEWEST_BEST = 0.2, 3
SLICE_IN = 2.5
# So many characters have place below the parallel coordinates.
NAMES_ACROSS = 60
MOST_TICKS = 8
ENDED: dict[str, Any] = {"color": PALETTE[0], "markerfacecolor": PALETTE[0]}
STOPPED: dict[str, Any] = {"color": PALETTE[5], "markerfacecolor": "none", "alpha": 0.75}


@dataclass(frozen=True)
class SearchAxis:
    """What a search varied, as an axis, and the place of each trial on it.

    Attributes:
        name: what it is called.
        places: of each trial: a number, or the index of its choice; NaN for a trial without it. Float (trials,).
        choices: the values in words, of an axis of choices; empty for numbers.
        log: whether the axis is logarithmic.
    """

    name: str
    places: np.ndarray
    choices: tuple[str, ...] = ()
    log: bool = False


@styled
def plot_search_history(
    numbers: Sequence[int],
    scores: Sequence[float],
    best: Sequence[float],
    label: str,
    corrected: Sequence[float] = (),
    interval: tuple[float, float] | None = None,
) -> Figure:
    """The score of each finished trial, and the best found up to it.

    Args:
        numbers: of the finished trials, increasing.
        scores: of each.
        best: the best up to each.
        label: of the axis of scores.
        corrected: what the best up to each is worth; empty if it is not known.
        interval: of the last of these.
    """
    figure = build_figure(height_in=3.9)
    axes = figure.subplots()
    set_titles(axes, "Search history", "trials that were trained to the end")
    if len(corrected):
        axes.step(
            numbers, corrected, where="post", color=PALETTE[1], marker="s", markersize=3.5, linewidth=1.5,
            label="best, corrected, with its 95 % interval" if interval else "best, corrected",
        )  # fmt: skip
        if interval:
            axes.vlines(numbers[-1], *interval, color=PALETTE[1], linewidth=1.5)
    axes.step(numbers, best, where="post", color=INK, linewidth=1.2, linestyle=(0, (3, 2)), label="best found so far")
    axes.plot(numbers, scores, "o", label="each trial", **ENDED)
    _set_trial_axis(axes, numbers)
    axes.set_ylabel(label)
    figure.legend(loc="outside lower center", ncols=2, columnspacing=1.2)
    return figure


def _set_trial_axis(axes: Axes, numbers: Sequence[int]) -> None:
    axes.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=MOST_TICKS, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.set_xlabel("trial")
    axes.grid(True, axis="y")
    axes.spines["left"].set_visible(False)


@styled
def plot_trial_curves(
    curves: Mapping[int, Mapping[int, float]], ended: Sequence[int], rungs: Sequence[int], label: str
) -> Figure:
    """The best score of each trial up to each epoch; those that were not trained to the end stop at their rung.

    Args:
        curves: trial -> epoch -> its best score up to it.
        ended: the trials that were trained to the end.
        rungs: the epochs at which trials were compared, increasing; the last is the last epoch.
        label: of the axis of scores.
    """
    figure = build_figure(height_in=3.9)
    axes = figure.subplots()
    set_titles(axes, "Trials by epoch", "best score so far; dotted: the rungs")
    for number, curve in curves.items():
        look = ENDED if number in ended else STOPPED
        epochs, values = list(curve), list(curve.values())
        axes.plot(epochs, values, linewidth=1.5 if number in ended else 1, color=look["color"], alpha=look.get("alpha"))
        axes.plot(epochs[-1:], values[-1:], "o", markersize=4, **look)
    for rung in rungs:
        axes.axvline(rung, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), zorder=0)
    set_epoch_axis(axes, _as_index(rungs))
    axes.set_ylabel(label)
    _add_legend(figure, has_ended=any(n in ended for n in curves), has_stopped=any(n not in ended for n in curves))
    return figure


@styled
def plot_rungs(rungs: Sequence[int], reached: Sequence[int], went_on: Sequence[int]) -> Figure:
    """How many trials came to each rung, and how many of them went on, one row each.

    Args:
        rungs: epochs, increasing.
        reached: the trials that came to each.
        went_on: those that trained beyond it.
    """
    names = [f"epoch {rung}" for rung in rungs]
    figure, axes = row_figure("Rungs", names)
    for row, (all_, some) in enumerate(zip(reached, went_on, strict=True)):
        axes.barh(row, all_, height=0.55, color=GRID)
        axes.barh(row, some, height=0.55, color=PALETTE[0])
        words = f"{all_}" if row == len(names) - 1 else f"{some} of {all_} went on"
        axes.annotate(words, (all_, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=10)
    axes.set_xlim(0, 1.45 * max(*reached, 1))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.set_xlabel("trials that came so far; blue: went on")
    return figure


@styled
def plot_slices(sides: Sequence[SearchAxis], scores: np.ndarray, ended: np.ndarray, label: str) -> Figure:
    """The scores against each key, one panel each, two in a row.

    Args:
        sides: the keys.
        scores: of all trials, NaN without one: float (trials,).
        ended: whether each was trained to the end: bool (trials,).
        label: of the axes of scores.
    """
    columns = min(2, len(sides))
    rows = -(-len(sides) // columns)
    figure = build_figure(WIDTH_IN if columns > 1 else 0.7 * WIDTH_IN, 0.55 + SLICE_IN * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in list(grid.flat)[len(sides) :]:
        axes.set_axis_off()
    for place, (axes, side) in enumerate(zip(grid.flat, sides, strict=False)):
        shift = _spread_choices(side)
        for chosen, look in ((~ended, STOPPED), (ended, ENDED)):
            shown = chosen & np.isfinite(scores) & np.isfinite(side.places)
            axes.plot(side.places[shown] + shift[shown], scores[shown], "o", markersize=5, **look)
        _set_side(axes, side)
        axes.grid(True, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(wrapped(side.name, 26))
        if place % columns == 0:
            axes.set_ylabel(label)
    known = np.isfinite(scores)
    _add_legend(figure, has_ended=bool((known & ended).any()), has_stopped=bool((known & ~ended).any()))
    return figure


def _spread_choices(side: SearchAxis) -> np.ndarray:
    """Returns how far each trial is drawn beside its choice, so that trials with equal scores can be told apart."""
    shift = np.zeros(len(side.places))
    for choice in range(len(side.choices)):
        (found,) = np.nonzero(side.places == choice)
        if len(found) > 1:
            shift[found] = np.linspace(-0.18, 0.18, len(found))
    return shift


def _set_side(axes: Axes, side: SearchAxis) -> None:
    """Prepares the x axis for the values of a key."""
    if side.choices:
        names = [wrapped(choice, 16, 2) for choice in side.choices]
        turned = len(names) > UPRIGHT_UP_TO or max(map(len, names)) * len(names) > 24
        axes.set_xticks(
            range(len(names)), names, rotation=35 if turned else 0, ha="right" if turned else "center",
            rotation_mode="anchor" if turned else "default", fontsize=9,
        )  # fmt: skip
        axes.set_xlim(-0.5, len(names) - 0.5)
        return
    if side.log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        known = side.places[np.isfinite(side.places)]
        if len(known) and np.floor(np.log10(known.max())) <= np.ceil(np.log10(known.min())):
            # There are no two powers of ten between them.
            ticks = _pick_ticks(known)
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        return
    known = side.places[np.isfinite(side.places)]
    whole = bool(len(known)) and bool((known == np.round(known)).all())
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=1, integer=whole))


def _pick_ticks(known: np.ndarray) -> list[float]:
    """Returns the lowest and the highest of numbers, to two digits; one if they are the same."""
    return sorted({float(f"{known.min():.2g}"), float(f"{known.max():.2g}")})


@styled
def plot_parallel(
    sides: Sequence[SearchAxis], scores: np.ndarray, ended: np.ndarray, label: str, *, higher: bool
) -> Figure:
    """All settings of each trial as one line, from key to key; the last axis is the score.

    Args:
        sides: the keys.
        scores: of all trials, NaN without one: float (trials,).
        ended: whether each was trained to the end: bool (trials,). The best of these stand out.
        label: of the axis of scores.
        higher: whether higher scores are better.
    """
    figure = build_figure(height_in=4.4)
    axes = figure.subplots()
    shown = np.flatnonzero(np.isfinite(scores))
    best = _find_best(scores, ended, higher)
    set_titles(
        axes, "Settings of all trials", f"dark: the best {len(best)} of those trained to the end" if len(best) else ""
    )
    heights = [_place_on_side(side) for side in sides]
    final, (low, high) = _stretch(scores, scores[shown])
    heights.append(final)
    table = np.stack(heights, axis=1)
    for group, colour, width, alpha in (
        ([n for n in shown if n not in best], PALETTE[5], 0.9, 0.55),
        ([n for n in shown if n in best], PALETTE[0], 2.0, 1.0),
    ):
        # A key that a trial does not have is skipped.
        lines = [
            np.column_stack((np.flatnonzero(there), table[n][there]))
            for n in group
            if (there := np.isfinite(table[n])).any()
        ]
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=width, alpha=alpha))
    for place, side in enumerate(sides):
        _name_side(axes, place, side)
    _name_ends(axes, len(sides), f"{low:.4g}", f"{high:.4g}")
    width = max(9, NAMES_ACROSS // (len(sides) + 1))
    names = [wrapped(name, width, 4) for name in (*(side.name for side in sides), label)]
    axes.set_xticks(range(len(names)), names, fontsize=9, color=INK)
    axes.set_xlim(-0.35, len(names) - 1 + 0.35)
    axes.set_ylim(-0.12, 1.12)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def _find_best(scores: np.ndarray, ended: np.ndarray, higher: bool) -> np.ndarray:
    """Returns the numbers of the best fifth of the trials that were trained to the end, or of the best three."""
    found = np.flatnonzero(ended & np.isfinite(scores))
    ordered = found[np.argsort(-scores[found] if higher else scores[found], kind="stable")]
    return ordered[: max(FEWEST_BEST, round(BEST_SHARE * len(ordered)))]


def _stretch(values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Returns values on the scale from the lowest, 0, to the highest known one, 1; and these two."""
    if not len(known):
        return np.full(len(values), np.nan), (float("nan"), float("nan"))
    low, high = float(known.min()), float(known.max())
    if high == low:
        return np.where(np.isfinite(values), 0.5, np.nan), (low, high)
    return (values - low) / (high - low), (low, high)


def _bounds(side: SearchAxis) -> tuple[np.ndarray, np.ndarray]:
    places = np.log10(side.places) if side.log else side.places
    return places, places[np.isfinite(places)]


def _place_on_side(side: SearchAxis) -> np.ndarray:
    if side.choices:
        return (side.places + 0.5) / len(side.choices)
    return _stretch(*_bounds(side))[0]


def _name_side(axes: Axes, place: int, side: SearchAxis) -> None:
    axes.axvline(place, color=MUTED, linewidth=0.9)
    if side.choices:
        for index, choice in enumerate(side.choices):
            axes.annotate(
                wrapped(choice, 11, 2), (place, (index + 0.5) / len(side.choices)), xytext=(4, 0), textcoords="offset points",
                fontsize=8.5, va="center", color=INK, bbox={"facecolor": "white", "alpha": 0.6, "linewidth": 0, "pad": 1},
            )  # fmt: skip
        return
    known = side.places[np.isfinite(side.places)]
    if len(known):
        _name_ends(axes, place, f"{known.min():.3g}", f"{known.max():.3g}")


def _name_ends(axes: Axes, place: int, low: str, high: str) -> None:
    """Writes the lowest and the highest value at the ends of an axis."""
    axes.axvline(place, color=MUTED, linewidth=0.9)
    for height, words, side in ((0.0, low, "top"), (1.0, high, "bottom")):
        if words != "nan":
            axes.annotate(
                words, (place, height), xytext=(0, -4 if side == "top" else 4), textcoords="offset points", fontsize=8.5,
                ha="center", va=side, color=MUTED, bbox={"facecolor": "white", "linewidth": 0, "pad": 0.5},
            )  # fmt: skip


@styled
def plot_importances(importances: Mapping[str, tuple[float, float, float]]) -> Figure:
    """The share of the spread of the scores that each key explains by itself, with its interval, one row each.

    Args:
        importances: name -> value, low, high in [0, 1].
    """
    figure, axes = row_figure("Importance of each key", list(importances))
    for row, (value, low, high) in enumerate(importances.values()):
        axes.hlines(row, 100 * low, 100 * high, color=PALETTE[0], linewidth=1.8)
        axes.plot([100 * value], [row], "D", color=PALETTE[0], markersize=6)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("share of the variance of the scores (%)")
    return figure


def _add_legend(figure: Figure, *, has_ended: bool, has_stopped: bool) -> None:
    if not (has_ended and has_stopped):
        return
    handles = [
        Line2D([], [], linestyle="none", marker="o", markersize=5, label=label, **look)
        for label, look in (("trained to the end", ENDED), ("stopped at a rung, or diverged", STOPPED))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, columnspacing=1.2)


def _as_index(rungs: Sequence[int]) -> pd.Index:
    return pd.Index(range(1, rungs[-1] + 1))
