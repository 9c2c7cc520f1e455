import io

from catdog.compare.figures import build_figures

NAMES = ["accuracy", "loss", "gap", "final_accuracy", "seconds", "parameters", "confusion"]


def test_all_figures_are_made_and_drawn(make_record, make_comparison):
    figures = build_figures(make_comparison(make_record("cnn", wrong=[1]), make_record("mobilenet")))
    assert list(figures) == NAMES
    for figure in figures.values():
        figure.savefig(io.BytesIO(), format="png", dpi=40)


def test_unfinished_runs_are_in_no_figure(make_record, make_comparison):
    figures = build_figures(make_comparison(make_record("cnn"), make_record("broken", status="KILLED")))
    assert [tick.get_text() for tick in figures["seconds"].axes[0].get_yticklabels()] == ["cnn"]
    assert len([axes for axes in figures["confusion"].axes if axes.images]) == 1
    # Last epoch's training and validation, and the kept model's: three intervals of the one run.
    assert len(figures["final_accuracy"].axes[0].collections) == 3


def test_figures_without_data_are_left_out(make_record, make_comparison):
    assert list(build_figures(make_comparison(make_record("a", status="FAILED")))) == []
    assert "parameters" not in build_figures(make_comparison(make_record("a", metrics={})))


def test_matrices_of_different_classes_do_not_share_a_figure(make_record, make_comparison):
    other = make_record("b", classes=("birds", "cats", "dogs"))
    assert list(build_figures(make_comparison(make_record("a"), other))) == NAMES[:-1]
