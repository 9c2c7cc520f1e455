import io
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from catdog.comparison.findings import sentences
from catdog.comparison.page.render import render_page
from catdog.comparison.page.tables import build_frame, build_pairs_frame, build_variants_frame, print_tables
from catdog.data.history import History
from catdog.data.predictions import Predictions
from catdog.tracking.scores import Score


def printed(analysis, **console) -> str:
    stream = io.StringIO()
    print_tables(analysis, Console(file=stream, **console))
    return stream.getvalue().replace("\N{NO-BREAK SPACE}", " ")


def test_frame_has_one_row_per_run_and_counts_the_kept_model(make_record, make_comparison):
    record = make_record("mobilenet", wrong=range(10), epochs=4)
    failed = make_record(
        "cnn", status="FAILED", epochs=0, predictions=Predictions.empty(), history=History.empty(), metrics={}
    )
    frame = build_frame(make_comparison(record, failed)).set_index("name")
    row = frame.loc["mobilenet"]
    assert row["kept_val_accuracy"] == pytest.approx(0.9)
    assert (row["kept_val_correct"], row["kept_val_images"], row["kept_epoch"]) == (90, 100, 4)
    assert (row["kept_val_low"], row["kept_val_high"]) == (
        pytest.approx(0.8256, abs=5e-5),
        pytest.approx(0.9448, abs=5e-5),
    )
    assert row["last_train_accuracy"] == pytest.approx(0.98)
    assert row["last_gap_accuracy"] == pytest.approx(0.08)
    # The first epoch took 9 s, the others 2: the median is what an epoch costs.
    assert row["seconds_per_epoch"] == 2.0
    assert (row["parameters"], row["trainable_parameters"]) == (2257984, 128210)
    lost = frame.loc["cnn"]
    assert lost["status"] == "FAILED"
    assert lost[["last_val_accuracy", "kept_val_accuracy", "kept_epoch", "parameters", "test_accuracy"]].isna().all()


def test_frame_survives_csv(make_record, make_comparison):
    frame = build_frame(make_comparison(make_record('a "quoted", name'), make_record("b", metrics={})))
    again = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    assert list(again["name"]) == ['a "quoted", name', "b"]
    assert again["parameters"].iloc[0] == 2257984
    assert again["kept_val_accuracy"].tolist() == [1.0, 1.0]


def test_the_kept_epoch_counts_not_the_best_where_the_last_is_kept(make_record, make_comparison):
    record = make_record(metrics={"best_epoch": 2.0, "kept_epoch": 3.0}, params={"trainer.keep": "last"})
    assert build_frame(make_comparison(record))["kept_epoch"].tolist() == [3]


@pytest.mark.parametrize(
    "console", [{}, {"force_terminal": True, "width": 100}, {"force_terminal": True, "width": 240}]
)
def test_table_fits_in_100_columns_with_all_numbers(make_record, make_analysis, console):
    names = [f"backbone=efficientnet_v2 augmentation=strong trainer.epochs={n} seed={n}" for n in range(8)]
    text = printed(make_analysis(*[make_record(name, wrong=range(10)) for name in names]), color_system=None, **console)
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("90.0 [82.6, 94.5]") == 8
    assert text.count("2.26 M") == text.count("128 k") == 8
    assert "…" not in text


def test_table_in_a_pipe_is_plain_text_and_names_what_failed(make_record, make_analysis):
    text = printed(make_analysis(make_record("cnn [bold]x"), make_record("mobilenet", status="KILLED")))
    assert "\x1b" not in text
    assert "cnn [bold]x" in text
    assert "(KILLED)" in text


def test_rows_keep_the_order_of_the_runs(make_record, make_analysis):
    text = printed(make_analysis(*[make_record(name) for name in ("delta", "alpha", "mike")]))
    places = [text.index(name) for name in ("delta", "alpha", "mike")]
    assert all(first < second for first, second in pairwise(places))


def test_equal_names_are_told_apart_by_run_id(make_record, make_comparison):
    comparison = make_comparison(make_record("cnn", run_id="aaaa1111bbbb"), make_record("cnn", run_id="cccc2222dddd"))
    assert build_frame(comparison)["name"].tolist() == ["cnn aaaa1111", "cnn cccc2222"]


def seeds_of(make_record, name, *wrong):
    return [
        make_record(f"{name} seed={seed}", name, seed=seed, wrong=range(count), params={"backbone.name": name})
        for seed, count in enumerate(wrong)
    ]


def test_variants_and_pairs_survive_csv(make_record, make_analysis):
    records = [*seeds_of(make_record, "good", 4, 5, 6), *seeds_of(make_record, "bad", 40, 44, 42)]
    analysis = make_analysis(*records)
    variants = pd.read_csv(io.StringIO(build_variants_frame(analysis).to_csv(index=False))).set_index("variant")
    assert variants.index.tolist() == ["good", "bad"]
    assert variants.loc["good", ["seeds", "fair_val_accuracy", "fair_val_seed_sd"]].tolist() == pytest.approx(
        [3, 0.95, 0.01]
    )
    assert variants.loc["bad", "fair_gap_accuracy"] == pytest.approx(0.99 - 0.58)
    (pair,) = pd.read_csv(io.StringIO(build_pairs_frame(analysis).to_csv(index=False))).to_dict("records")
    assert (pair["first"], pair["second"], pair["images"]) == ("good", "bad", 100)
    assert pair["accuracy_difference"] == pytest.approx(0.37)
    assert pair["low"] < 0.37 < pair["high"]
    assert pair["bootstrap_low"] < 0.37 < pair["bootstrap_high"]
    assert pair["differs_in"] == "backbone good \N{RIGHTWARDS ARROW} bad"
    assert (pair["kind"], pair["p_holm"] < 0.001) == ("better", True)


def test_the_terminal_shows_seeds_pairs_and_ingredients(make_record, make_analysis):
    text = printed(make_analysis(*seeds_of(make_record, "good", 4, 5, 6), *seeds_of(make_record, "bad", 40, 44, 42)))
    assert max(map(len, text.splitlines())) <= 100
    assert "good \N{MINUS SIGN} bad" in text
    assert "+37.0" in text
    assert "good is better by at least" in text
    assert "backbone good \N{RIGHTWARDS ARROW} bad (good)" in text
    assert "\N{MINUS SIGN}37.0" in text  # what the change from good to bad adds


def test_very_many_variants_do_not_flood_the_terminal(make_record, make_analysis):
    text = printed(make_analysis(*[make_record(f"v{number}", wrong=range(number % 50)) for number in range(60)]))
    assert "50 more variants" in text
    assert len(text.splitlines()) < 30


def test_what_counts_is_the_fair_accuracy_with_the_plain_one_beside_it(make_record, make_analysis) -> None:
    def flattered(record, points):
        right = record.predictions.right.astype(float)
        return replace(
            record, score=Score(right - points / 100 * len(right) * (np.arange(len(right)) == 99), is_cross_fitted=True)
        )

    restless = [flattered(record, 3) for record in seeds_of(make_record, "restless", 4, 5, 6)]
    calm = [flattered(record, 0) for record in seeds_of(make_record, "calm", 6, 6, 6)]
    analysis = make_analysis(*restless, *calm)
    assert [variant.name for variant in analysis.ranked] == ["calm", "restless"]
    assert analysis.best.accuracy == pytest.approx(0.94)
    frame = build_variants_frame(analysis).set_index("variant")
    assert frame.loc["restless", ["fair_val_accuracy", "kept_val_accuracy"]].tolist() == pytest.approx([0.92, 0.95])
    assert frame.loc["restless", "fair_gap_accuracy"] == pytest.approx(0.99 - 0.92)
    runs = build_frame(analysis.comparison).set_index("name")
    assert runs.loc["restless seed=0", ["fair_val_accuracy", "kept_val_accuracy"]].tolist() == pytest.approx(
        [0.93, 0.96]
    )
    text = printed(analysis)
    assert "difference in fair val accuracy" in text
    assert re.search(r"restless +3 .* 95\.0 +92\.0 \[", text)
    assert "a little too high" in text
    html = render_page(analysis)
    assert "fair val %" in html
    assert "plain val %" in html
    said = " ".join(sentences(analysis))
    assert "plain accuracy is too high" in said
    assert "slightly optimistic" not in said


def test_a_run_without_answers_by_epoch_is_compared_as_before_and_said_to_be(make_record, make_analysis) -> None:
    old = seeds_of(make_record, "old", 4, 5)
    new = [
        replace(record, score=Score(record.scores, is_cross_fitted=True))
        for record in seeds_of(make_record, "new", 6, 6)
    ]
    said = " ".join(sentences(make_analysis(*old, *new)))
    assert "The kept model of old seed=0 and old seed=1 is that of the best epoch" in said
