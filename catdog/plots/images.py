"""Figures of pictures: samples of the data, the effect of augmentation, and a model's answers."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from catdog.plots.style import MUTED, WIDTH_IN, build_figure, styled, wrapped

SAMPLES_PER_CLASS = 3


@styled
def plot_samples(images_by_class: Mapping[str, np.ndarray]) -> Figure:
    """One row per class with its first three images.

    Args:
        images_by_class: class name -> uint8 (n, H, W, 3) in [0, 255]; with n < 3 the row ends early.
    """
    rows = max(1, len(images_by_class))
    figure = build_figure(WIDTH_IN, 1.75 * rows)
    grid = figure.subplots(rows, SAMPLES_PER_CLASS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for (name, images), row in zip(images_by_class.items(), grid, strict=False):
        for image, axes in zip(images, row, strict=False):
            _show(axes, image)
        # The label belongs to the row's first axes, which must be on even if the class has no image.
        row[0].set_axis_on()
        row[0].set_ylabel(wrapped(name, 16), fontsize=12, fontweight="bold", labelpad=8)
        _bare(row[0])
    return figure


@styled
def plot_augmentation(original: np.ndarray, variations: np.ndarray) -> Figure:
    """The original image, then its variations, in a grid of at most four columns.

    Args:
        original: uint8 (H, W, 3) in [0, 255].
        variations: uint8 or float (n, H, W, 3) in [0, 255], augmented versions of it.
    """
    columns = min(4, 1 + len(variations))
    rows = -(-(1 + len(variations)) // columns)
    figure = build_figure(1.6 * columns, 1.75 * rows + 0.1)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for index, (image, axes) in enumerate(zip([original, *variations], grid.flat, strict=False)):
        _show(axes, image)
        axes.set_title("original" if index == 0 else str(index), fontsize=10.5, pad=4, loc="center")
        axes.title.set_fontweight("bold" if index == 0 else "normal")
    return figure


@styled
def plot_contact_sheet(images: Sequence[np.ndarray], captions: Sequence[str], names: Sequence[str]) -> Figure:
    """Pictures in a grid of at most five columns, each with a bold caption above and a quiet name below.

    Args:
        images: uint8 (H, W, 3) in [0, 255] each; sizes may differ.
        captions: one per image, such as "dogs 98%".
        names: one per image, such as its file's name; long ones lose their middle.
    """
    columns = max(1, min(5, len(images)))
    rows = max(1, -(-len(images) // columns))
    figure = build_figure(1.75 * columns, 2.15 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, caption, name in zip(grid.flat, images, captions, names, strict=False):
        _show(axes, image)
        axes.set_title(wrapped(caption, 20, 2), fontsize=10, pad=4, loc="center")
        short = name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}"
        axes.text(0.5, -0.03, short, transform=axes.transAxes, fontsize=8, color=MUTED, ha="center", va="top")
    return figure


def _show(axes: Axes, image: np.ndarray) -> None:
    # Interpolation in augmentation can overshoot slightly, and imshow expects floats in [0, 1]; rounding and clipping fix both.
    axes.imshow(np.clip(np.rint(image), 0, 255).astype(np.uint8), interpolation="antialiased")


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
