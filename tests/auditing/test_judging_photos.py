"""The verdict about new photos, for every kind and at its boundaries."""

from dataclasses import replace

import pytest

from catdog.auditing.drift import Verdict, judge
from catdog.statistics.drift import FEW_WRONG, ExpectedAccuracy

# A loss of at most 3 points cannot be excluded, and a gain of 2 neither.
FINE = ExpectedAccuracy(
    validation=0.95, estimate=0.94, low=0.91, high=0.97, change=-0.01, change_low=-0.03, change_high=0.02,
    by_confidence=0.945, by_regression=0.942, wrong=20,
)  # fmt: skip


def told(
    expected: ExpectedAccuracy | None = FINE, *differing: str, fallen: bool = False, compared: bool = True
) -> Verdict:
    return judge(expected, differing, fallen, 0.05, compared, 200, 400)


def test_without_an_estimate_nothing_is_said() -> None:
    assert judge(None, (), False, 0.05, True, 29, 400).headline == "Nothing can be said: only 29 photos can be counted"
    found = judge(None, (), False, 0.05, True, 30, 29)
    assert (found.kind, found.headline.split("only ")[1]) == (
        "too few",
        "29 independent validation images can be counted",
    )


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "expected"),
        ({"change_low": -0.05}, "expected"),
        ({"change_low": -0.0501}, "undecided"),
        ({"change_high": 0.0}, "expected"),
        ({"change_high": -0.001}, "lower"),
        ({"change_high": -0.001, "change_low": -0.4, "by_confidence": 0.6}, "lower"),
        ({"by_confidence": 0.889}, "undecided"),
        ({"by_regression": 0.995}, "undecided"),
        ({"by_confidence": 0.9}, "expected"),
        ({"wrong": FEW_WRONG - 1}, "expected"),
        ({"wrong": FEW_WRONG - 1, "change_high": -0.001}, "lower"),
        ({"wrong": FEW_WRONG - 1, "change_high": -0.001, "by_confidence": 0.6}, "undecided"),
    ],
)
def test_the_verdict_goes_by_the_change_and_by_the_agreement_of_the_methods(
    changes: dict[str, float], kind: str
) -> None:
    assert told(replace(FINE, **changes)).kind == kind


def test_what_differs_makes_a_good_estimate_doubtful_and_a_lower_confidence_undecided() -> None:
    doubtful = told(FINE, "brightness", "sharpness")
    assert doubtful.kind == "doubtful"
    assert "differ from the validation images in brightness and sharpness" in doubtful.words
    assert told(compared=False).kind == "doubtful"
    fallen = told(fallen=True)
    assert fallen.kind == "undecided"
    assert "The confidence is clearly lower" in fallen.words
    assert told(replace(FINE, change_high=-0.01), "brightness", fallen=True, compared=False).kind == "lower"


def test_a_collapsed_confidence_with_no_mistake_to_learn_from_is_not_expected() -> None:
    """400 validation images without a mistake, photos all at 0.62 to 0.80: the threshold claimed 100%."""
    collapsed = replace(
        FINE, validation=1.0, estimate=1.0, low=0.734, high=1.0, change=0.0, change_low=-0.266, change_high=0.0,
        by_confidence=0.734, by_regression=0.9975, wrong=0,
    )  # fmt: skip
    found = told(collapsed, fallen=True)
    assert found.kind == "undecided"
    assert not found.is_estimated
    assert "cannot be estimated from the model's confidence, because the methods disagree" in found.words
    assert "No validation answer was wrong, so the threshold is not determined" in found.words


def test_severities() -> None:
    kinds = {"lower": "error", "doubtful": "warning", "undecided": "warning", "expected": "note", "too few": "warning"}
    assert {kind: Verdict(kind, "", "").severity for kind in kinds} == kinds
