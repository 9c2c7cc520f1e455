from dataclasses import replace

import numpy as np
import pytest

from catdog.comparison import findings
from catdog.data.history import History
from catdog.data.predictions import Predictions

FILES = [f"{'cats' if index % 2 else 'dogs'}/{index}.jpg" for index in range(600)]


def said(analysis) -> str:
    return " ".join(findings.sentences(analysis)).replace("\N{NO-BREAK SPACE}", " ")


def headline(analysis) -> str:
    return findings.headline(analysis).replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture
def make_seeds(make_record):
    """Runs of one variant, a seed each, wrong on a share of 600 images: some images are hard for all."""

    def make(name: str, share: float, seeds: int = 4, params=None, **options):
        hard = np.random.default_rng(0).permutation(600)
        runs = []
        for seed in range(seeds):
            luck = np.random.default_rng([seed, len(name), ord(name[-1])])
            count = round(600 * share)
            wrong = {*hard[: count // 2], *luck.choice(hard[count // 2 :], count - count // 2, replace=False)}
            params = params or {"backbone.name": name}
            runs.append(
                make_record(f"{name} seed={seed}", name, seed=seed, wrong=wrong, files=FILES, params=params, **options)
            )
        return runs

    return make


def test_a_best_variant_is_named_with_its_interval_and_by_how_much(make_seeds, make_analysis):
    analysis = make_analysis(*make_seeds("cnn", 0.4), *make_seeds("mobilenet", 0.05))
    assert headline(analysis) == "mobilenet is the best: 95.0 % of 600 validation images right, the mean of 4 seeds"
    assert (
        "The kept models of mobilenet get 95.0 % of 600 validation images right, the mean of 4 seeds, 95 % interval 9"
        in said(analysis)
    )
    assert "Next is cnn with 60.0 %. The difference, image by image, is +35.0 points" in said(analysis)
    assert "mobilenet is better by at least 3" in said(analysis)
    assert "backbone cnn \N{RIGHTWARDS ARROW} mobilenet: +35.0 points" in said(analysis)
    assert "Every variant ran with 4 seeds" in said(analysis)


def test_what_is_not_told_apart_is_named(make_seeds, make_analysis):
    level = [run for name in "abc" for run in make_seeds(f"v{name}", 0.3)]
    analysis = make_analysis(*level, *make_seeds("far", 0.6))
    assert headline(analysis).endswith("lead, and this data does not separate them")
    assert "Nor does it separate" in said(analysis)
    crowd = [run for name in "abcde" for run in make_seeds(f"v{name}", 0.3)]
    assert "and 4 others" in headline(make_analysis(*crowd))
    assert "which may be nothing" in said(make_analysis(*level))


def test_one_seed_is_said_plainly_and_is_no_verdict_on_variants(make_record, make_analysis):
    analysis = make_analysis(make_record("cnn", wrong=range(40)), make_record("mobilenet", wrong=range(5)))
    assert headline(analysis) == "mobilenet leads, with one seed: 95.0 % of 100 validation images right"
    assert "95 of 100 validation images right: 95.0 %, 95 % interval 88.8 to 97.8 %" in said(analysis)
    assert "on these images mobilenet is better; other seeds may differ, as mobilenet and cnn ran with one" in said(
        analysis
    )
    assert "Each variant ran with one seed: seeds were not varied" in said(analysis)
    level = make_analysis(make_record("a", wrong=range(10)), make_record("b", wrong=range(5, 17)))
    assert headline(level) == "This data does not separate a and b"
    assert "not told apart; a and b ran with one seed" in said(level)


def test_a_variant_with_one_seed_among_others_is_named(make_seeds, make_analysis):
    analysis = make_analysis(*make_seeds("a", 0.1), *make_seeds("b", 0.5, seeds=1))
    assert "Seeds were varied, but not for b" in said(analysis)
    assert headline(analysis).startswith("a leads, though not all ran with several seeds")


def test_trials_of_a_search_get_no_verdict(make_seeds, make_record, make_analysis):
    trials = [make_record(f"trial {number}", wrong=range(40 * number)) for number in range(2)]
    analysis = make_analysis(*trials, of_search=True)
    assert {verdict.kind for verdict in analysis.verdicts} == {"search"}
    assert "these are trials of a search, which its race decides" in analysis.verdicts[0].words
    warned = " ".join(findings.warnings(analysis.comparison))
    assert "the best of them is the luckiest too" in warned


def test_an_incomplete_sweep_gets_no_verdict(make_seeds, make_record, make_analysis):
    runs = [*make_seeds("a", 0.1), *make_seeds("b", 0.5)]
    failed = make_record("b seed=9", "b", seed=9, status="FAILED")
    for analysis in (make_analysis(*runs, failed), make_analysis(*runs, sweep_status="RUNNING")):
        assert headline(analysis).startswith("Incomplete, so no verdict; so far a leads")
        assert {verdict.kind for verdict in analysis.verdicts} == {"incomplete"}
        assert "better" not in said(analysis)
        assert any("no verdict" in warning for warning in findings.warnings(analysis.comparison))


def test_runs_that_were_never_started_are_counted(make_record, make_analysis):
    command = "python -m catdog.train -m model=cnn,mobilenet seed=0,1,2,3"
    runs = [make_record(f"{name} seed={seed}", name, seed=seed) for name in ("a", "b") for seed in (0, 1)]
    killed = make_record("b seed=2", "b", seed=2, status="KILLED")
    for status, records, words in (
        ("KILLED", [*runs, killed], "5 of 8 planned runs; 3 have not been trained"),
        ("FAILED", runs[:1] * 7, "7 of 8 planned runs; 1 has not been trained"),
    ):
        comparison = make_analysis(*records, sweep_status=status, planned=8, command=command).comparison
        said = findings.warnings(comparison)[-1]
        assert f"({status}): {words}, so there is no verdict." in said
        assert said.endswith(command)
        assert comparison.is_partial
    whole = make_analysis(*runs, planned=4).comparison
    assert (whole.untrained, whole.is_partial, findings.warnings(whole)) == (0, False, [])
    # A run that failed by itself leaves nothing to train but itself.
    assert not make_analysis(*runs, sweep_status="FAILED", planned=4).comparison.is_partial
    one = make_analysis(runs[0], sweep_status="KILLED", planned=4)
    assert headline(one).startswith("Incomplete; so far a gets")


def test_a_variant_that_may_be_guessing_is_named(make_record, make_analysis):
    analysis = make_analysis(make_record("guess", wrong=range(45)), make_record("good", wrong=range(5)))
    assert "guess: the interval does not exclude what always answering the most common class scores (50.0 %)" in said(
        analysis
    )


def test_the_last_epoch_is_not_said_to_be_picked(make_record, make_analysis):
    assert "picked on these same validation images" in said(make_analysis(make_record("a")))
    assert "picked" not in said(make_analysis(make_record("a", params={"trainer.keep": "last"})))


def test_unfinished_runs_are_announced_and_left_out(make_record, make_analysis):
    analysis = make_analysis(
        make_record("cnn", wrong=range(0, 90, 3)),
        make_record("best", status="FAILED"),
        make_record("slow", status="RUNNING"),
    )
    warnings = findings.warnings(analysis.comparison)
    assert [("FAILED" in w and "best" in w, "RUNNING" in w and "slow" in w) for w in warnings] == [
        (True, False),
        (False, True),
    ]
    assert headline(analysis).startswith("cnn gets")


@pytest.mark.parametrize("status", ["FAILED", "FINISHED"])
def test_nothing_to_compare_is_said(make_record, make_analysis, status):
    nothing = make_record("a", status=status, predictions=Predictions.empty(), history=History.empty(), metrics={})
    analysis = make_analysis(nothing)
    assert headline(analysis).startswith("No ")
    assert findings.warnings(analysis.comparison)


@pytest.mark.parametrize("difference", ["files", "labels", "digest"])
def test_runs_on_different_data_are_not_ranked(make_record, make_analysis, difference):
    files = [f"{'cats' if index % 2 else 'dogs'}/{index}.jpg" for index in range(100)]
    first = make_record("a", wrong=range(10), tags={"catdog.data_digest": "one"})
    other = {
        "files": {"files": [*files[:60], *(f"cats/new {index}.jpg" for index in range(40))]},
        "labels": {
            "predictions": replace(first.predictions, labels=np.array([*first.predictions.labels[:-1], "dogs"]))
        },
        "digest": {"tags": {"catdog.data_digest": "two"}},
    }[difference]
    analysis = make_analysis(first, make_record("b", wrong=range(10), **{"tags": first.tags, **other}))
    common = {"files": 60, "labels": 99, "digest": 100}[difference]
    assert headline(analysis) == "These runs saw different data: their accuracies cannot be compared"
    warning = findings.warnings(analysis.comparison)[0]
    assert "not comparable" in warning
    assert f"{common} images" in warning
    assert "points" not in said(analysis)
    assert analysis.verdicts == []


def test_predictions_of_another_model_than_the_kept_one_are_noticed(make_record, make_comparison):
    good, other = make_record("a", wrong=range(0, 100, 10)), make_record("b", wrong=range(0, 100, 5))
    assert findings.warnings(make_comparison(good, other)) == []
    mixed = make_record("b", wrong=range(0, 100, 5), predictions=good.predictions)
    (warning,) = findings.warnings(make_comparison(mixed))
    assert "90.0" in warning
    assert "80.0" in warning


def test_a_model_that_averages_over_mirror_images_is_checked_against_its_own_accuracy(make_record, make_comparison):
    # The validation after each epoch looks at the image alone, and finds 80 %.
    alone, both = make_record("a", wrong=range(0, 100, 5)), make_record("a", wrong=range(0, 100, 10))
    params = {"trainer.average_flips": "True"}
    metrics = {**alone.metrics, "kept_val_accuracy": 0.9}
    good = replace(alone, params=params, metrics=metrics, predictions=both.predictions)
    assert findings.warnings(make_comparison(good)) == []
    assert len(findings.warnings(make_comparison(replace(good, predictions=alone.predictions)))) == 1


def test_an_ensemble_is_one_model_and_names_its_members(make_seeds, make_record, make_analysis):
    tags = {"catdog.ensemble_of": '{"1a": "cnn seed=0", "1b": "cnn seed=1"}', "catdog.variant_digest": "e"}
    ensemble = make_record("ensemble of cnn", wrong=range(30), files=FILES, params={"config.members": "..."}, tags=tags)
    analysis = make_analysis(*make_seeds("cnn", 0.4), ensemble)
    assert "ensemble of cnn: one model, which answers with the mean probability of cnn seed=0 and cnn seed=1." in said(
        analysis
    )
    (verdict,) = analysis.verdicts
    assert (
        verdict.words
        == "on these images ensemble of cnn is better; other seeds may differ, as ensemble of cnn is one model"
    )
    assert [variant.shown_seeds for variant in analysis.variants] == ["4", "\N{EN DASH}"]
    assert analysis.effects == []
