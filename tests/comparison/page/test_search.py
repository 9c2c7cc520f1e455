"""A search of many variants: the ranking in the terminal, the heat map, and what differs, on the page."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from catdog.comparison.analysis import analyse
from catdog.comparison.page.differences import (
    ENVIRONMENT,
    FOLLOWING,
    INGREDIENTS,
    UNRELATED,
    build_heat_map,
    list_differences,
)
from catdog.comparison.page.render import render_page
from catdog.comparison.page.tables import build_ranking, print_tables


@pytest.fixture
def search(make_record, make_analysis):
    """20 variants of two keys, with one seed, or with several."""

    def make(seeds: int = 1, step: int = 2, **options):
        records = [
            make_record(
                f"cnn learning_rate={rate} head.dropout={dropout} seed={seed}", f"cnn learning_rate={rate} head.dropout={dropout}",
                seed=seed, wrong=range(seed, seed + step * (4 * place + other)),
                params={"seed": str(seed), "trainer.learning_rate": rate, "head.dropout": dropout, "trainer.epochs": "3"},
                tags={"mlflow.source.name": f"python -m catdog.train model=cnn dataset=synthetic trainer.epochs=3 "
                                            f"trainer.learning_rate={rate} head.dropout={dropout}"},
            )
            for place, dropout in enumerate(("0.0", "0.2", "0.3", "0.5", "0.7"))
            for other, rate in enumerate(("0.01", "0.001", "0.003", "0.0003"))
            for seed in range(seeds)
        ]  # fmt: skip
        return make_analysis(*records, **options)

    return make


def printed(analysis, width: int = 100) -> str:
    stream = io.StringIO()
    print_tables(analysis, Console(file=stream, width=width, force_terminal=True, color_system=None))
    return stream.getvalue()


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_terminal_has_a_ranking_on_one_screen(search, seeds: int):
    text = printed(search(seeds))
    assert len(text.splitlines()) <= 34
    assert max(map(len, text.splitlines())) <= 100
    assert "the best 10 of 20 variants" in text
    ranks = re.findall(r"^ +(\d+)  cnn learning_rate=([\d.]+)", text, re.MULTILINE)
    assert [int(rank) for rank, _ in ranks] == list(range(1, 11))
    assert ranks[0][1] == "0.01"
    said = " ".join(text.split())
    assert "cnn learning_rate=0.01 head.dropout=0.0 is better than" in said
    assert re.search(r"It is not told apart from \d+: cnn learning_rate=0.001 head.dropout=0.0, ", said)
    assert "10 more variants and every pair with the best" in said
    assert "all: dataset=synthetic trainer.epochs=3" in said


def test_level_variants_and_an_incomplete_sweep_are_said(search):
    assert "is not told apart from all 19 others." in " ".join(printed(search(step=0)).split())
    incomplete = " ".join(printed(search(sweep_status="KILLED")).split())
    assert "There is no verdict on cnn learning_rate=0.01 head.dropout=0.0: the sweep is incomplete." in incomplete


def test_no_word_of_a_name_is_broken_in_a_narrow_terminal(search):
    text = printed(search(), width=80)
    assert text.count("learning_rate=0.0") >= 10
    assert "learning_rate=\n" not in text


def test_variants_without_a_finished_run_are_named(make_record, search):
    failed = [make_record(f"lost {number}", status="FAILED") for number in range(5)]
    analysis = search()
    with_failed = replace(analysis.comparison, records=[*analysis.comparison.records, *failed])
    assert "No finished run: lost 0, lost 1, lost 2 and 2 more." in printed(analyse(with_failed, 0.02))


def test_the_heat_map_has_two_keys_and_all_means(search):
    heat_map = build_heat_map(search(3))
    assert (heat_map.row_key, heat_map.column_key) == ("head.dropout", "trainer.learning_rate")
    assert list(heat_map.columns) == ["0.0003", "0.001", "0.003", "0.01"]
    assert list(heat_map.rows) == ["0.0", "0.2", "0.3", "0.5", "0.7"]
    best = heat_map.rows["0.0"][3]
    assert (best.name, heat_map.part(best)) == ("cnn learning_rate=0.01 head.dropout=0.0", 1)
    html = render_page(search(3))
    assert 'id="heat-map"' in html
    assert html.count('<td style="--part: 1.0" class="deep best"') == 1


def test_no_heat_map_where_it_would_not_hold_all(make_record, make_analysis, search):
    few = [make_record(f"v{n}", params={"head.units": str(n % 2), "head.dropout": str(n // 2)}) for n in range(4)]
    assert build_heat_map(make_analysis(*few)) is None
    one_key = [make_record(f"v{n}", params={"head.units": str(n)}) for n in range(10)]
    assert build_heat_map(make_analysis(*one_key)) is None


def test_the_page_shows_the_best_closely_and_all_in_the_ranking(search):
    html = render_page(search())
    text = re.sub(r"<wbr>|</?span[^>]*>", "", html)
    assert "Only the best 4 of 20 variants are included." in text
    assert "variants.No" not in text
    ranking = re.search(r'<table class="ranking">.*?</table>', html, re.DOTALL)[0]
    assert ranking.count('<th scope="row">') == 20
    assert 'title="model=cnn dataset=synthetic trainer.epochs=3 trainer.learning_rate=0.01 head.dropout=0.0"' in html
    assert "In all runs: <code>dataset=synthetic trainer.epochs=3</code>" in text


def test_what_differs_begins_with_what_matters(make_record, make_analysis):
    params = {"seed": "1", "study": "one", "dataset.cache": "/a", "augmentation.name": "none", "trainer.epochs": "3"}
    others = {"seed": "2", "study": "two", "dataset.cache": "/b", "augmentation.name": "flip", "trainer.epochs": "4"}
    others["augmentation.layers.flip.mode"] = "horizontal"
    first = make_record("a", params=params, tags={"catdog.code_digest": "c0de1", "catdog.precision": "float32"})
    second = make_record("b", params=others, tags={"catdog.code_digest": "c0de2", "catdog.precision": "bfloat16"})
    found = list_differences(make_analysis(first, second).variants)
    assert {title: [row.key for row in rows] for title, rows in found.items()} == {
        INGREDIENTS: ["augmentation.name", "trainer.epochs"],
        ENVIRONMENT: ["code", "trainer.precision"],
        FOLLOWING: ["augmentation.layers.flip"],
        UNRELATED: ["dataset.cache", "study"],
    }
    assert found[ENVIRONMENT][0].values == ("c0de1", "c0de2")
    html = render_page(make_analysis(first, second))
    assert html.index(INGREDIENTS) < html.index(ENVIRONMENT) < html.index(UNRELATED)


def test_one_run_is_nothing_to_compare(make_record, make_analysis):
    text = printed(make_analysis(make_record("cnn", wrong=range(10))))
    assert "90.0 [82.6, 94.5]" in text
    assert "There is nothing to compare: this is one run." in text
    seeds = [make_record(f"cnn seed={seed}", "cnn", seed=seed, wrong=range(10 + seed)) for seed in (1, 2)]
    assert "There is nothing to compare: these are runs of one variant." in printed(make_analysis(*seeds))


def test_no_header_without_rows(make_record, make_analysis):
    text = printed(make_analysis(make_record("cnn", predictions=make_record().predictions.empty())))
    assert "Pairs" not in text
    assert "What one ingredient adds" not in text
    assert build_ranking(make_analysis(make_record("cnn"))).row_count == 1
