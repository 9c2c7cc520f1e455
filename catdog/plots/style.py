"""What all figures share: colours, type, axes."""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from catdog.system.wording import fold_word, percent_with_unit

P = ParamSpec("P")

# Eight hues that can be told apart with the common colour-vision deficiencies; hues that are too pale on white are darkened. Nobody
# can tell more hues apart, so a ninth variant repeats a colour with another marker.
# Source: Okabe and Ito (2008), "Color Universal Design".
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#b8558f", "#555555", "#3f9bd6", "#b97f00", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")

# Each role has its own hex value. The page replaces these values by its style sheet's variables, which follow the reader's light or
# dark mode. Change them only here.
INK = "#1c2024"
MUTED = "#60646c"
GRID = "#e0e2e6"
PAPER = "#ffffff"

BASELINE_LINE: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": (0, (1, 2))}

# Narrow, so that 10-point text is still readable when a phone shrinks the figure to 360 pixels.
WIDTH_IN = 5.2

STYLE = {
    "figure.dpi": 144,
    "figure.facecolor": PAPER,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    # The name of a class or a variant may contain a dollar sign, and no figure has formulas.
    "text.parse_math": False,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10.5,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.handlelength": 2.2,
}


def styled(plot: Callable[P, Figure]) -> Callable[P, Figure]:
    """Returns the plot function, which then draws in the house style and leaves the caller's settings unchanged."""

    @wraps(plot)
    def draw(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return plot(*args, **kwargs)

    return draw


def build_figure(width_in: float = WIDTH_IN, height_in: float = 3.7) -> Figure:
    """Returns an empty figure with automatic layout."""
    return Figure(figsize=(width_in, height_in), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))


def set_titles(axes: Axes, title: str, subtitle: str = "") -> None:
    """Sets a bold title above the axes, and below it a muted line that explains the marks."""
    axes.set_title(title, pad=24 if subtitle else 10)
    if subtitle:
        axes.annotate(
            subtitle, (0, 1), xycoords="axes fraction", xytext=(0, 9), textcoords="offset points",
            fontsize=9.5, color=MUTED,
        )  # fmt: skip


def variant_looks(variants: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Returns a fixed colour and marker for every variant, in order of first appearance.

    Args:
        variants: variant names, repeats allowed; give all figures of a comparison the same list, or colours will differ.

    Returns:
        variant -> (hex colour, matplotlib marker).
    """
    return {
        variant: (PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)])
        for index, variant in enumerate(dict.fromkeys(variants))
    }


def name_in_legend(figure: Figure, looks: Mapping[str, tuple[str, str]]) -> None:
    """Names variants in a legend below the axes, by the colour and the marker of each.

    The figure grows by the legend's height, so that the axes keep theirs.
    """
    # A leading underscore means "not in the legend" to matplotlib; a space before it does not.
    names = {variant: " " * variant.startswith("_") + wrapped(variant, 30) for variant in looks}
    handles = [
        Line2D([], [], color=looks[variant][0], marker=looks[variant][1], label=name) for variant, name in names.items()
    ]
    width, height = figure.get_size_inches()
    columns = 2 if max(map(len, looks)) > 14 else 3
    figure.set_size_inches(width, height + 0.24 * -(-len(looks) // columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, columnspacing=1.2)


def wrapped(name: str, width: int = 24, lines: int = 3) -> str:
    """Returns a long name on several lines, at most `lines`; the rest is replaced by an ellipsis."""
    pieces = [" ".join(fold_word(word, width)) for word in name.split(" ")]
    rows = textwrap.wrap(" ".join(pieces), width, break_on_hyphens=True) or [""]
    return "\n".join(rows if len(rows) <= lines else [*rows[: lines - 1], rows[lines - 1][: width - 1] + "…"])


def set_epoch_axis(axes: Axes, epochs: pd.Index) -> None:
    """Labels the x axis for `epochs`, an integer index from 1."""
    last = int(epochs.max()) if len(epochs) else 1
    # The axis does not reach 0, which is not an epoch, and a single point is in the middle.
    axes.set_xlim(0.5, last + max(0.5, 0.02 * last))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epoch")
    axes.grid(True, axis="y")  # without True, a second call would remove the grid
    axes.spines["left"].set_visible(False)


def marker_step(epochs: int) -> int:
    """Returns the number of epochs between markers, so that a long run shows lines and a run of one epoch a point."""
    return max(1, epochs // 8)


def baseline_words(baseline: float) -> str:
    """Returns the label of the baseline: the accuracy of always answering the most common class."""
    return f"most common class, {percent_with_unit(baseline)}"
