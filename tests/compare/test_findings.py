import pandas as pd
import pytest

from catdog.compare import findings


def said(comparison) -> str:
    return " ".join(findings.sentences(comparison)).replace("\N{NO-BREAK SPACE}", " ")


def test_a_clear_leader_is_named_with_its_interval(make_record, make_comparison):
    comparison = make_comparison(make_record("cnn", wrong=range(40)), make_record("mobilenet", wrong=range(5)))
    headline = findings.headline(comparison).replace("\N{NO-BREAK SPACE}", " ")
    assert headline == "mobilenet leads: 95.0 % of 100 validation images right"
    assert "95 of 100 validation images right: 95.0 %, 95 % interval 88.8 to 97.8 %" in said(comparison)
    assert "the intervals do not overlap" in said(comparison)
    assert "mobilenet alone is right on 35, cnn alone on 0 (exact McNemar test, p < 0.001)" in said(comparison)


def test_overlapping_intervals_without_paired_evidence_separate_nothing(make_record, make_comparison):
    comparison = make_comparison(make_record("a", wrong=range(10)), make_record("b", wrong=range(5, 17)))
    assert findings.headline(comparison) == "This data does not separate a and b"
    assert "the intervals overlap: this data does not separate them" in said(comparison)
    assert "a alone is right on 7, b alone on 5" in said(comparison)


def test_all_that_are_level_with_the_best_are_named(make_record, make_comparison):
    records = [make_record(name, wrong=range(start, start + 10)) for start, name in enumerate("abc")]
    comparison = make_comparison(*records, make_record("far", wrong=range(60)))
    assert findings.headline(comparison) == "a, b and c lead, and this data does not separate them"
    assert "Nor does it separate a from c." in said(comparison)
    crowd = [make_record(name, wrong=range(start, start + 10)) for start, name in enumerate("abcde")]
    assert findings.headline(make_comparison(*crowd)) == "This data does not separate a and 4 others"


def test_overlapping_intervals_with_paired_evidence_do_not_claim_a_tie(make_record, make_comparison):
    # Every mistake of a is one of b's: 10 images where a alone is right, none the other way round.
    comparison = make_comparison(make_record("a", wrong=range(10)), make_record("b", wrong=range(20)))
    assert findings.headline(comparison).startswith("a leads")
    assert "overlap, but image by image they differ" in said(comparison)
    assert "does not separate" not in said(comparison)


def test_the_runner_up_is_another_variant(make_record, make_comparison):
    comparison = make_comparison(
        make_record("a seed=1", "a", seed=1, wrong=range(5)),
        make_record("a seed=2", "a", seed=2, wrong=range(6)),
        make_record("b seed=1", "b", seed=1, wrong=range(50)),
    )
    assert "Next is b seed=1" in said(comparison)
    assert "Seeds were varied, but not for b" in said(comparison)
    frame = findings.over_seeds(comparison)
    assert frame["runs"].to_dict() == {"a": 2, "b": 1}
    assert frame.loc["a", ["mean", "lowest", "highest"]].tolist() == pytest.approx([0.945, 0.94, 0.95])


def test_one_seed_is_said_plainly(make_record, make_comparison):
    comparison = make_comparison(make_record("a"), make_record("b", wrong=range(50)))
    assert "seeds were not varied, so the difference between runs includes seed noise" in said(comparison)
    assert findings.over_seeds(comparison).empty


def test_a_run_that_may_be_guessing_is_named(make_record, make_comparison):
    comparison = make_comparison(make_record("guess", wrong=range(45)), make_record("good", wrong=range(5)))
    assert "guess: the interval does not exclude what always answering the most common class scores (50.0 %)" in said(
        comparison
    )


def test_the_last_epoch_is_not_said_to_be_picked(make_record, make_comparison):
    assert "picked on these same validation images" in said(make_comparison(make_record("a")))
    assert "picked" not in said(make_comparison(make_record("a", params={"trainer.keep": "last"})))


def test_unfinished_runs_are_announced_and_left_out(make_record, make_comparison):
    comparison = make_comparison(
        make_record("cnn", wrong=range(30)), make_record("best", status="FAILED"), make_record("slow", status="RUNNING")
    )
    warnings = findings.warnings(comparison)
    assert [("FAILED" in w and "best" in w, "RUNNING" in w and "slow" in w) for w in warnings] == [
        (True, False),
        (False, True),
    ]
    assert findings.headline(comparison).startswith("cnn gets")


@pytest.mark.parametrize("status", ["FAILED", "FINISHED"])
def test_nothing_to_compare_is_said(make_record, make_comparison, status):
    nothing = make_record("a", status=status, predictions=pd.DataFrame(), history=pd.DataFrame(), metrics={})
    comparison = make_comparison(nothing)
    assert findings.headline(comparison).startswith("No ")
    assert findings.warnings(comparison)


@pytest.mark.parametrize("difference", ["files", "labels", "digest"])
def test_runs_on_different_data_are_not_ranked(make_record, make_comparison, difference):
    files = [f"{'cats' if index % 2 else 'dogs'}/{index}.jpg" for index in range(100)]
    first = make_record("a", wrong=range(10), tags={"catdog.data_digest": "one"})
    other = {
        "files": {"files": [*files[:60], *(f"cats/new {index}.jpg" for index in range(40))]},
        "labels": {"predictions": first.predictions.assign(label=[*first.predictions["label"][:-1], "dogs"])},
        "digest": {"tags": {"catdog.data_digest": "two"}},
    }[difference]
    comparison = make_comparison(first, make_record("b", wrong=range(10), **{"tags": first.tags, **other}))
    common = {"files": 60, "labels": 99, "digest": 100}[difference]
    assert findings.headline(comparison) == "These runs saw different data: their accuracies cannot be compared"
    warning = findings.warnings(comparison)[0]
    assert "not comparable" in warning
    assert f"{common} images" in warning
    assert "interval" not in said(comparison).replace("no interval here", "")
    assert findings.duels_with_best(comparison) == []


def test_predictions_of_another_model_than_the_kept_one_are_noticed(make_record, make_comparison):
    good, other = make_record("a", wrong=range(10)), make_record("b", wrong=range(20))
    assert findings.warnings(make_comparison(good, other)) == []
    mixed = make_record("b", wrong=range(20), predictions=good.predictions)
    (warning,) = findings.warnings(make_comparison(mixed))
    assert "90.0" in warning
    assert "80.0" in warning
