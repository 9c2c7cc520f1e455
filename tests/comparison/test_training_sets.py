"""Comparisons of runs that were trained on several training sets."""

import numpy as np
import pytest

from catdog.comparison.findings import headline, sentences, warnings
from catdog.comparison.page.render import render_page
from catdog.comparison.page.tables import list_set_verdicts, print_tables
from catdog.tracking.tags import Tags


@pytest.fixture
def make_sets(make_record):
    """Runs of a variant on several training sets, with so many wrong answers on each; each set has validation images of its own."""

    def make(name: str, *wrong: tuple[int, ...]):
        return [
            make_record(
                f"{name} refresh={number} seed={seed}", f"{name} refresh={number}", seed=seed, wrong=range(count),
                files=[f"cats/{number}-{image}.jpg" for image in range(100)],
                params={"dataset.refresh": str(number), "dataset.name": "drawn", "backbone.name": name},
                tags=Tags({"catdog.data_digest": f"{number}" * 64}),
            )
            for number, of_set in enumerate(wrong, 1)
            for seed, count in enumerate(of_set)
        ]  # fmt: skip

    return make


def test_variants_are_compared_set_by_set(make_sets, make_analysis, capsys) -> None:
    good = make_sets("good", (5, 6), (7, 6), (5, 5), (8, 7))
    bad = make_sets("bad", (20, 22), (21, 23), (19, 20), (24, 22))
    analysis = make_analysis(*good, *bad, val_images=100, train_images=400)
    assert not analysis.comparison.same_data
    assert analysis.verdicts == []
    (verdict,) = analysis.set_verdicts
    assert (verdict.first, verdict.second, verdict.kind, verdict.found.sets) == ("good", "bad", "better", 4)
    differences = [(21 - 5.5), (22 - 6.5), (19.5 - 5), (23 - 7.5)]
    assert verdict.found.estimate == pytest.approx(np.mean(differences) / 100)
    assert headline(analysis).startswith("Over 4 training sets, good is better by at least")
    said = " ".join(sentences(analysis))
    assert "compared set by set" in said
    assert not any("not comparable" in warning for warning in warnings(analysis.comparison))
    assert "Over training sets" in render_page(analysis)
    print_tables(analysis)
    assert "Pairs, over training sets" in capsys.readouterr().out
    (row,) = list_set_verdicts(analysis)
    assert (row["sets"], row["kind"]) == (4, "better")


def test_a_difference_that_changes_from_set_to_set_is_not_decided(make_sets, make_analysis) -> None:
    analysis = make_analysis(
        *make_sets("one", (5, 6), (30, 31), (10, 9)), *make_sets("two", (20, 21), (16, 15), (22, 20)),
        val_images=100, train_images=400,
    )  # fmt: skip
    assert [verdict.kind for verdict in analysis.set_verdicts] == ["undecided"]
    assert headline(analysis) == "Over these training sets, no difference is decided"


def test_other_differences_of_the_data_are_no_training_sets(make_sets, make_analysis) -> None:
    runs = make_sets("good", (5,), (7,))
    runs[1].params["dataset.name"] = "other"
    analysis = make_analysis(*runs)
    assert analysis.set_verdicts == []
    assert "saw different data" in headline(analysis)
