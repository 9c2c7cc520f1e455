import io
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from catdog import plots
from catdog.plots import glyphs


def history(epochs: int, level: float = 0.7) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    train, val = level + 0.2 * epoch / epochs, level + 0.05 * epoch / epochs
    return pd.DataFrame(
        {
            "train/loss": 1 - train, "train/accuracy": train, "val/loss": 1 - val, "val/accuracy": val,
            "gap/accuracy": train - val, "epoch_seconds": 3.0, "images_per_second": 100.0, "learning_rate": 0.001,
        },
        index=pd.Index(epoch, name="epoch"),
    )  # fmt: skip


def render(figure: Figure) -> None:
    """Draws the figure: layout problems and missing glyphs are warnings, and warnings are errors."""
    figure.savefig(io.BytesIO(), format="png", dpi=50)


def texts_of(figure: Figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("epochs", [1, 20, 200])
@pytest.mark.parametrize("plot", [plots.plot_accuracy, plots.plot_loss])
def test_run_figures_draw_training_dashed_and_validation_solid(plot, epochs):
    figure = plot(history(epochs), kept_epoch=epochs)
    render(figure)
    axes = figure.axes[0]
    styles = {line.get_label(): line.get_linestyle() for line in axes.lines}
    assert styles["training"] == "--"
    assert styles["validation"] == "-"
    assert f"kept (epoch {epochs})" in styles
    # A single epoch is a point, and no axis speaks of epochs that do not exist.
    assert all(line.get_marker() != "None" for line in axes.lines)
    ticks = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    assert ticks
    assert all(tick >= 1 and tick == int(tick) for tick in ticks)


def test_accuracy_is_drawn_in_percent_and_the_gap_in_points():
    assert plots.plot_accuracy(history(2)).axes[0].lines[1].get_ydata() == pytest.approx([72.5, 75.0])
    gap = plots.plot_gap(history(2))
    render(gap)
    assert gap.axes[0].lines[1].get_ydata() == pytest.approx([7.5, 15.0])


ODD = ("\u732b\u72d7", "\U0001f408\u200d\u2b1b", "caf\u00e9", "\U00013000")


@pytest.mark.parametrize(
    "figure",
    [
        lambda: plots.plot_contact_sheet([np.zeros((4, 6, 3), np.uint8)] * 4, [f"{name} 98%" for name in ODD], ODD),
        lambda: plots.plot_samples({name: np.zeros((1, 4, 4, 3), np.uint8) for name in ODD}),
        lambda: plots.plot_confusion(np.eye(4, dtype=int), ODD),
        lambda: plots.plot_final_accuracy({name: {"train": (0.9, 0.8, 0.95)} for name in ODD}, {name: name for name in ODD}, 0.1),
        lambda: plots.plot_accuracy_curves({name: history(3) for name in ODD}, {name: name for name in ODD}),
    ],
)  # fmt: skip
def test_names_in_any_script_are_drawn_without_a_warning(figure):
    """A missing glyph is a warning, and warnings are errors."""
    legible = plots.make_legible(figure())
    render(legible)
    words = " ".join(texts_of(legible))
    assert "caf\u00e9" in words
    # Egyptian hieroglyphs are in no usual font: their code points are there.
    assert "[13000]" in words or glyphs.find_family("\U00013000")


def test_a_character_is_drawn_in_a_font_that_has_it():
    assert glyphs.find_family("a") == glyphs.TYPEFACE
    # Matplotlib brings a font with calligraphic letters, which DejaVu Sans lacks.
    other = next(
        chr(code) for code in range(0xE000, 0xF8FF) if glyphs.find_family(chr(code)) not in ("", glyphs.TYPEFACE)
    )
    assert glyphs.replace_missing(f"a{other}\n\U00013000").startswith(f"a{other}\n")


def test_samples_are_one_row_per_class_and_three_images_each():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    figure = plots.plot_samples({"cats": images, "dogs": images[:2]})
    render(figure)
    shown = [axes.images[0].get_array() if axes.images else None for axes in figure.axes]
    assert len(shown) == 6
    assert all(np.array_equal(image, images[index]) for index, image in enumerate(shown[:3]))
    assert shown[5] is None
    assert [figure.axes[0].get_ylabel(), figure.axes[3].get_ylabel()] == ["cats", "dogs"]


def test_augmentation_rounds_and_clips_what_interpolation_overshoots():
    original = np.full((4, 4, 3), 100, dtype=np.uint8)
    variations = np.stack([np.full((4, 4, 3), 255.4), np.full((4, 4, 3), -0.3), np.full((4, 4, 3), 99.6)])
    figure = plots.plot_augmentation(original, variations)
    render(figure)
    assert [int(axes.images[0].get_array()[0, 0, 0]) for axes in figure.axes] == [100, 255, 0, 100]
    assert figure.axes[0].get_title() == "original"


def test_contact_sheet_captions_every_picture():
    pictures = [np.zeros((4, 6, 3), np.uint8), np.zeros((9, 2, 3), np.uint8)]
    figure = plots.plot_contact_sheet(pictures, ["dogs 98%", "cats $1$"], ["a.jpg", "b" * 40 + ".jpg"])
    render(figure)
    words = texts_of(figure)
    assert {"dogs 98%", "cats $1$", "a.jpg"} <= set(words)
    assert not any(len(text) > 30 for text in words)


@pytest.mark.parametrize("classes", [2, 3, 12, 13, 40])
def test_confusion_matrix_of_few_and_many_classes(classes):
    counts = np.full((classes, classes), 3)
    counts[0] = 0  # a class without images must not divide by zero
    counts[1, 1] = 41
    names = [f"class {index}" for index in range(classes)]
    figure = plots.plot_confusion(counts, names)
    render(figure)
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == names
    assert (axes.get_xlabel()[:9], axes.get_ylabel()) == ("predicted", "true")
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells.get((1, 1)) == ("41" if classes <= 12 else None)


def test_confusion_cells_are_shaded_by_row_not_by_count():
    shades = plots.plot_confusion(np.array([[9, 1], [900, 100]]), ["a", "b"]).axes[0].images[0].get_array()
    assert shades[0, 0, 3] == pytest.approx(shades[1, 0, 3])
    assert shades[0, 0, 3] > shades[0, 1, 3]


def test_confusions_stand_side_by_side():
    figure = plots.plot_confusions({f"run {index}": np.eye(2, dtype=int) for index in range(5)}, ["a", "b"])
    render(figure)
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.images] == [f"run {i}" for i in range(5)]


def test_a_variant_keeps_its_colour_when_another_is_not_shown():
    variants = {"a": "a", "b seed=1": "b", "b seed=2": "b", "c": "c"}

    def colours(names: list[str]) -> dict[str, set[str]]:
        figure = plots.plot_accuracy_curves({name: history(3) for name in names}, variants)
        shown = list(dict.fromkeys(variants[name] for name in names))
        # One curve for each variant, training and then validation.
        curves = figure.axes[0].lines[: 2 * len(shown)]
        return {name: {line.get_color() for line in curves[index :: len(shown)]} for index, name in enumerate(shown)}

    everything, without_a = colours(list(variants)), colours(["b seed=1", "b seed=2", "c"])
    assert everything["b"] == without_a["b"]
    assert everything["c"] == without_a["c"]
    assert len(set.union(*everything.values())) == 3
    seconds = plots.plot_seconds({"c": 2.0}, variants)
    assert mpl.colors.to_hex(seconds.axes[0].patches[0].get_facecolor()) in everything["c"]


def test_seeds_are_drawn_as_their_mean_up_to_where_the_first_of_them_stopped():
    histories = {"a seed=1": history(4, 0.6), "a seed=2": history(6, 0.8), "b": history(6)}
    figure = plots.plot_accuracy_curves(histories, {"a seed=1": "a", "a seed=2": "a", "b": "b"})
    render(figure)
    training, _, validation, _ = figure.axes[0].lines
    assert training.get_xdata().tolist() == validation.get_xdata().tolist() == [1, 2, 3, 4]
    both = [100 * (0.6 + 0.05 * epoch / 4 + 0.8 + 0.05 * epoch / 6) / 2 for epoch in (1, 2, 3, 4)]
    assert validation.get_ydata() == pytest.approx(both)
    (band,) = figure.axes[0].collections
    assert band.get_datalim(figure.axes[0].transData).intervaly == pytest.approx([61.25, 80 + 5 * 4 / 6])
    assert any("mean and range of seeds" in text for text in texts_of(figure))


def test_a_long_run_with_few_validations_is_drawn_to_its_end():
    sparse = history(120)
    sparse.loc[sparse.index % 10 != 0, ["val/accuracy", "gap/accuracy", "val/loss"]] = np.nan
    histories = {"long": sparse, "short": history(25)}
    for plot in (plots.plot_accuracy_curves, plots.plot_gap_curves, plots.plot_loss_curves):
        figure = plot(histories, {name: name for name in histories})
        render(figure)
        assert figure.axes[0].get_xlim()[1] >= 120


def test_differences_are_filled_where_they_exclude_zero():
    figure = plots.plot_differences({"a - b": (0.05, 0.01, 0.09), "a - c": (0.01, -0.02, 0.04)}, "Differences", 0.02)
    render(figure)
    axes = figure.axes[0]
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == pytest.approx([5, 1])
    assert [line.get_markerfacecolor() == "white" for line in points] == [False, True]
    assert axes.patches[0].get_width() == pytest.approx(4)


@pytest.mark.parametrize("plot", [plots.plot_accuracy_curves, plots.plot_loss_curves, plots.plot_gap_curves])
@pytest.mark.parametrize("runs", [1, 4, 12])
def test_curves_name_every_variant_without_overlap(plot, runs):
    names = [f"_a variant with a long name {index}" if runs > 4 else f"v{index}" for index in range(runs)]
    figure = plot({name: history(5) for name in names}, {name: name for name in names})
    render(figure)
    words = " ".join(texts_of(figure)).replace("\n", " ")
    assert all(name in words for name in names)
    labels = [text for text in figure.axes[0].texts if text.get_text() in names]
    if runs <= 4:
        # All curves end at the same height, so only moving them keeps the labels apart.
        boxes = sorted((text.get_window_extent() for text in labels), key=lambda box: box.y0)
        assert len(boxes) == runs
        assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(boxes))


def test_accuracy_curves_show_the_baseline():
    figure = plots.plot_accuracy_curves({"a": history(3)}, {"a": "a"}, baseline=0.25)
    render(figure)
    assert figure.axes[0].get_ylim()[0] < 25
    assert any(np.allclose(line.get_ydata(), 25) for line in figure.axes[0].lines)
    assert any("25.0" in text for text in texts_of(figure))


def test_final_accuracy_draws_points_intervals_and_a_far_baseline():
    measured = {"a": {"train": (0.99, 0.98, 0.995), "kept val": (0.75, 0.7, 0.8)}, "b": {}}
    figure = plots.plot_final_accuracy(measured, {"a": "a", "b": "b"}, baseline=0.1)
    render(figure)
    axes = figure.axes[0]
    spans = sorted(tuple(path.vertices[:, 0]) for lines in axes.collections for path in lines.get_paths())
    assert np.allclose(spans, [(70, 80), (98, 99.5)])
    assert axes.get_xlim()[0] < 10
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]


def test_parameters_stand_on_a_log_axis_even_with_nothing_to_train():
    figure = plots.plot_parameters({"a": (4.1e6, 4.1e6), "b": (2.26e6, 0.0)}, {"a": "a", "b": "b"})
    render(figure)
    assert figure.axes[0].get_xscale() == "log"
    words = [text.replace("\N{NO-BREAK SPACE}", " ") for text in texts_of(figure)]
    assert "4.10 M" in words
    assert "0 of 2.26 M" in words


def test_times_stand_on_a_log_axis_with_few_times_on_it():
    scores = {"a": (0.7, 0.6, 0.8), "b": (0.9, np.nan, np.nan)}
    for times, ticks in (
        ({"a": [150.0, 200.0], "b": [300.0]}, ["2 min", "3 min", "4 min", "5 min", "7 min"]),
        ({"a": [2.0], "b": [7200.0]}, ["10 s", "1 min", "10 min", "1 h"]),
        ({"a": [4.0], "b": [4.0]}, ["2 s", "3 s", "4 s", "5 s", "7 s"]),
        ({"a": [72000.0], "b": [108000.0]}, ["15 h", "1 d", "2 d"]),
        ({"a": [100.0], "b": [3e6]}, ["10 min", "1 h", "10 h", "4 d"]),
    ):
        figure = plots.plot_times(times, scores, {"a": "a", "b": "b"}, "accuracy %", "CPU time of a run")
        render(figure)
        axes = figure.axes[0]
        assert axes.get_xscale() == "log"
        low, high = axes.get_xlim()
        assert [tick.get_text() for tick in axes.get_xticklabels() if low <= tick.get_position()[0] <= high] == ticks
        assert low < min(map(min, times.values())) <= max(map(max, times.values())) < high
        assert {"a", "b"} <= set(texts_of(figure))


def test_dollar_signs_are_no_formulas_and_settings_stay_the_callers():
    before = dict(mpl.rcParams)
    figure = plots.plot_seconds({"cost $\\oops$": 1.0}, {"cost $\\oops$": "v"})
    render(figure)
    assert "cost $\\oops$" in texts_of(figure)
    assert dict(mpl.rcParams) == before


def test_figures_are_not_kept_alive_by_pyplot():
    import matplotlib.pyplot as plt

    plots.plot_accuracy(history(3))
    assert plt.get_fignums() == []
