"""Comparisons by another metric than the accuracy, with answers that can be counted by hand."""

from dataclasses import replace

import numpy as np
import pytest

from catdog.comparison import findings
from catdog.comparison.page.render import render_page
from catdog.comparison.page.tables import build_effects_frame, build_pairs_frame, build_variants_frame, print_tables
from catdog.data.predictions import Predictions
from catdog.statistics.judgements import Judgement
from catdog.statistics.metrics import NAMED
from catdog.tracking.scores import Score

LOSS = NAMED["log_loss"]


def build(make_record, name: str, seed: int, sure: float, **options):
    """A run whose answers are all right, as sure as it says."""
    record = make_record(f"{name} seed={seed}", name, seed=seed, params={"trainer.learning_rate": name})
    given = record.predictions
    noise = np.random.default_rng(seed).normal(0, 0.01, len(given))
    right = np.clip(sure + noise, 0, 1)[:, None]
    chosen = given.label_indices[:, None] == np.arange(2)
    predictions = Predictions(given.files, given.labels, given.class_names, np.where(chosen, right, 1 - right))
    score = Score(LOSS.values(predictions.answers), **options)
    return replace(record, predictions=predictions, measured={"log_loss": score})


def analyse(make_record, make_analysis, **options):
    runs = [
        build(make_record, name, seed, sure, **options)
        for name, sure in {"sure": 0.95, "unsure": 0.8}.items()
        for seed in range(3)
    ]
    return make_analysis(*runs, metric=LOSS)


def test_lower_is_better_and_every_number_has_its_own_sign(make_record, make_analysis, capsys) -> None:
    analysis = analyse(make_record, make_analysis)
    assert [variant.name for variant in analysis.ranked] == ["sure", "unsure"]
    (verdict,) = analysis.verdicts
    assert (verdict.first.name, verdict.kind) == ("sure", Judgement.BETTER)
    gap = np.log(0.95) - np.log(0.8)
    assert verdict.accuracy.estimate == pytest.approx(gap, abs=2e-3)
    assert "sure is better by at least 0.1" in verdict.words
    assert "nats" in verdict.words
    pair = build_pairs_frame(analysis).iloc[0]
    assert (pair["metric"], pair["accuracy_difference"]) == ("log_loss", 0)
    assert pair["score_difference"] == pytest.approx(-gap, abs=2e-3)
    for low, high in (("low", "high"), ("simultaneous_low", "simultaneous_high"), ("bootstrap_low", "bootstrap_high")):
        assert pair[low] <= pair["score_difference"] <= pair[high] < 0
    effect = build_effects_frame(analysis).iloc[0]
    assert (effect["before"], effect["after"]) == ("sure", "unsure")
    assert effect["score_difference"] == pytest.approx(gap, abs=2e-3), "the loss rises"
    assert 0 < effect["low"] < effect["high"]
    variants = build_variants_frame(analysis)
    assert variants["score"].tolist() == pytest.approx([-np.log(0.95), -np.log(0.8)], abs=2e-3)
    assert variants["fair_val_accuracy"].tolist() == [1, 1]
    assert findings.headline(analysis).startswith(
        "sure is the best: a log loss of 0.051\N{NO-BREAK SPACE}nats on 100 validation"
    )
    print_tables(analysis)
    shown = " ".join(capsys.readouterr().out.split())
    assert "difference in kept val log loss, in nats, lower is better [95 %]" in shown
    assert "\N{MINUS SIGN}0.172" in shown
    page = render_page(analysis)
    assert "log loss, nats" in page
    assert "below zero the first is better" in page


def test_the_margin_is_in_the_unit_of_the_metric(make_record, make_analysis) -> None:
    runs = [build(make_record, name, seed, sure) for name, sure in {"a": 0.9, "b": 0.895}.items() for seed in range(3)]
    (verdict,) = make_analysis(*runs, metric=LOSS, margin=0.1).verdicts
    (strict,) = make_analysis(*runs, metric=LOSS, margin=0.001).verdicts
    assert verdict.kind in (Judgement.EQUIVALENT, Judgement.BETTER)
    assert strict.kind != Judgement.EQUIVALENT
    assert make_analysis(*runs, metric=LOSS, margin=None).margin == 0.02
    assert make_analysis(*runs, metric=NAMED["auc"], margin=None).margin == 0.01


def test_a_score_that_the_images_chose_says_how_to_get_a_fair_one(make_record, make_analysis) -> None:
    analysis = analyse(make_record, make_analysis, is_flattered=True, lacks_probabilities=True)
    (said,) = [text for text in findings.sentences(analysis) if "picked on these same validation images" in text]
    assert "its log loss is slightly optimistic" in said
    assert "trainer.keep_probabilities=true" in said
    older = analyse(make_record, make_analysis, is_flattered=True)
    (said,) = [text for text in findings.sentences(older) if "picked on these same validation images" in text]
    assert "as by earlier versions of catdog" in said
    fair = analyse(make_record, make_analysis, is_cross_fitted=True)
    assert fair.compared == "fair val log loss"
    assert any("its plain log loss is too low. What is compared is fair" in text for text in findings.sentences(fair))


def test_recalls_have_intervals_that_allow_for_their_number(make_record, make_analysis) -> None:
    files = [f"cats/{number}.jpg" for number in range(80)] + [f"dogs/{number}.jpg" for number in range(20)]
    one = make_record("a", files=files, wrong=[0, 1, 90, 91])
    alone, two = make_analysis(one), make_analysis(one, make_record("b", files=files, wrong=[3]))
    cats, dogs = alone.recalls["a"]
    assert [(each.name, each.images, each.recall) for each in (cats, dogs)] == [("cats", 80, 0.975), ("dogs", 20, 0.9)]
    assert two.recalls["a"][0].low < cats.low < cats.recall < cats.high < two.recalls["a"][0].high
    assert alone.comparison.is_imbalanced
    said = " ".join(findings.sentences(alone))
    assert "The classes are imbalanced: 80 validation images of cats, 20 of dogs." in said
    equal = make_analysis(make_record("a"))
    assert not equal.comparison.is_imbalanced
    assert "imbalanced" not in " ".join(findings.sentences(equal))
