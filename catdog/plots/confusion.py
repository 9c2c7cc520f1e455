"""Confusion matrices: one, or several side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from catdog.plots.style import INK, MUTED, PALETTE, build_figure, styled, wrapped
from catdog.system.wording import compact_count

# With more classes, a cell is too small for its count.
COUNTS_UP_TO = 12
# Not exactly the paper's white, because a page in dark mode replaces that colour.
ON_BLUE = "#fdfdfd"


@styled
def plot_confusion(
    counts: np.ndarray, class_names: Sequence[str], title: str = "Confusion, validation images"
) -> Figure:
    """One confusion matrix: counts in the cells, shaded by the fraction of the row.

    Args:
        counts: int (C, C), rows are the true class, columns the predicted one.
        class_names: C names.
        title: the figure's title.
    """
    side = confusion_side(len(class_names))
    figure = build_figure(side + 0.9, side + 0.7)
    draw_confusion(figure.subplots(), counts, class_names, title)
    return figure


@styled
def plot_confusions(counts: Mapping[str, np.ndarray], class_names: Sequence[str]) -> Figure:
    """Confusion matrices side by side, at most four in a row: name -> int (C, C), rows are the true class."""
    columns = max(1, min(4, len(counts)))
    rows = max(1, -(-len(counts) // columns))
    side = confusion_side(len(class_names))
    figure = build_figure((side + 0.8) * columns, (side + 0.8) * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in list(grid.flat)[len(counts) :]:
        axes.set_axis_off()
    for axes, (name, matrix) in zip(grid.flat, counts.items(), strict=False):
        draw_confusion(axes, matrix, class_names, name)
    return figure


def confusion_side(classes: int) -> float:
    """Inches that a matrix of `classes` needs on each side."""
    return float(np.clip(0.55 * classes, 2.3, 5.5) if classes <= COUNTS_UP_TO else np.clip(0.21 * classes, 5.0, 8.5))


def draw_confusion(axes: Axes, counts: np.ndarray, class_names: Sequence[str], title: str) -> None:
    """Draws one confusion matrix into `axes`; the arguments are those of `plot_confusion`."""
    counts = np.asarray(counts)
    classes = len(class_names)
    present = counts.sum(axis=1, keepdims=True)
    # By row, so that a rare class is as visible as a common one.
    fractions = np.divide(counts, present, out=np.zeros(counts.shape), where=present > 0)
    # Shades of one hue by opacity, not by a colour map that ends in white, so that a dark page shows through.
    shades = np.empty((classes, classes, 4))
    shades[..., :3] = to_rgb(PALETTE[0])
    shades[..., 3] = 0.05 + 0.95 * fractions
    axes.imshow(shades, interpolation="none")
    axes.set_title(wrapped(title, int(9 * confusion_side(classes))), fontsize=11)
    small = classes > COUNTS_UP_TO
    names = [wrapped(name, 12 if not small else 24, 2 if not small else 1) for name in class_names]
    upright = classes > 4 or max((len(name) for name in names), default=0) > 8
    font = 10 if not small else 7
    axes.set_xticks(
        range(classes), names, fontsize=font,
        rotation=90 if small else 40 if upright else 0, ha="right" if upright and not small else "center",
        rotation_mode="anchor" if upright and not small else None,
    )  # fmt: skip
    axes.set_yticks(range(classes), names, fontsize=font)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for spine in axes.spines.values():
        spine.set_visible(False)
    if small:
        axes.set_xlabel("predicted (darker: larger part of the row)")
        return
    largest = int(counts.max()) if counts.size else 0
    count_font = 12 if classes <= 4 else 10 if largest < 1000 else 8
    for row, column in np.ndindex(counts.shape):
        # White only on nearly opaque blue. On lighter cells the page's own ink is readable in both modes.
        colour = ON_BLUE if shades[row, column, 3] > 0.8 else INK if counts[row, column] else MUTED
        number = int(counts[row, column])
        words = f"{number:,}" if number < 10_000 else compact_count(number)
        text = axes.text(column, row, words, color=colour, ha="center", va="center", fontsize=count_font)
        # The text stays inside its cell anyway, and measuring hundreds of texts would be most of the layout's cost.
        text.set_in_layout(False)
