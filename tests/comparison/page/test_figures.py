import io

import pytest

from catdog.comparison.page.figures import build_figures
from catdog.tracking import tags

NAMES = ["accuracy", "loss", "gap", "final_accuracy", "differences", "seconds", "parameters", "confusion"]


def test_all_figures_are_made_and_drawn(make_record, make_analysis):
    figures = build_figures(make_analysis(make_record("cnn", wrong=[1]), make_record("mobilenet")))
    assert list(figures) == NAMES
    for figure in figures.values():
        figure.savefig(io.BytesIO(), format="png", dpi=40)


def test_unfinished_runs_are_in_no_figure(make_record, make_analysis):
    figures = build_figures(make_analysis(make_record("cnn"), make_record("broken", status="KILLED")))
    assert [tick.get_text() for tick in figures["seconds"].axes[0].get_yticklabels()] == ["cnn"]
    assert len([axes for axes in figures["confusion"].axes if axes.images]) == 1
    # Last epoch's training and validation, and the kept model's: three intervals of the one run.
    assert len(figures["final_accuracy"].axes[0].collections) == 3


def test_times_are_compared_where_all_are_known_and_of_one_kind(make_record, make_analysis):
    def build(*devices: str) -> dict:
        known = {"kept_epoch": 3.0, "run_cpu_seconds": 60.0, "run_seconds": 3.0}
        records = [
            make_record(
                name, params={"backbone.name": name}, metrics=known, tags={tags.DEVICE: device} if device else {}
            )
            for name, device in zip("abc", devices, strict=False)
        ]
        return build_figures(make_analysis(*records))

    assert "CPU time" in build("cpu", "cpu")["times"].axes[0].get_xlabel()
    assert [line.get_xdata()[0] for line in build("gpu", "gpu")["times"].axes[0].lines] == pytest.approx([3.0, 3.0])
    assert "times" not in build("cpu", "gpu")
    # Of a run of another tool, and of an ensemble, it is not known what it took to train.
    assert "times" not in build("cpu", "")
    assert len(build("cpu", "cpu", "")["times"].axes[0].lines) == 2


def test_figures_without_data_are_left_out(make_record, make_analysis):
    assert list(build_figures(make_analysis(make_record("a", status="FAILED")))) == []
    assert "parameters" not in build_figures(make_analysis(make_record("a", metrics={})))


def test_matrices_of_different_classes_do_not_share_a_figure(make_record, make_analysis):
    other = make_record("b", classes=("birds", "cats", "dogs"))
    assert list(build_figures(make_analysis(make_record("a"), other))) == NAMES[:-1]


def test_seeds_are_one_curve_with_a_band_and_one_row_with_points(make_record, make_analysis):
    records = [
        make_record(f"{name} seed={seed}", name, seed=seed, wrong=range(10 * seed), params={"backbone.name": name})
        for name in ("a", "b")
        for seed in (1, 2, 3)
    ]
    figures = build_figures(make_analysis(*records))
    assert list(figures) == [*NAMES[:5], "effects", *NAMES[5:]]
    curves = figures["accuracy"].axes[0]
    # Training and validation of two variants, and the baseline; a band for each variant's validation.
    assert len(curves.lines) == 2 * 2 + 1
    assert len(curves.collections) == 2
    lowest, highest = curves.collections[0].get_datalim(curves.transData).intervaly
    assert (round(lowest), round(highest)) == (60, 90)
    rows = figures["final_accuracy"].axes[0]
    assert [tick.get_text() for tick in rows.get_yticklabels()] == ["a", "b"]
    assert [len(line.get_xdata()) for line in rows.lines if line.get_marker() == "|"] == [3, 3]
    assert sorted(rows.lines[3].get_xdata()) == [70, 80, 90]


def test_of_very_many_variants_the_best_are_drawn(make_record, make_analysis):
    records = [make_record(f"v{number}", wrong=range(number)) for number in range(15)]
    figures = build_figures(make_analysis(*records))
    rows = [tick.get_text() for tick in figures["seconds"].axes[0].get_yticklabels()]
    assert rows == [f"v{number}" for number in range(8)]
    assert len([axes for axes in figures["confusion"].axes if axes.images]) == 8
