"""One rule says what an interval decides, in one vocabulary."""

import numpy as np
import pytest
from studies import draw_studies

from catdog.statistics.contrasts import Contrast, contrast
from catdog.statistics.judgements import Judgement, judge


def test_judge_says_what_the_interval_says():
    first, second = (a[0] for a in draw_studies(1, 5, 800, generator=np.random.default_rng(3), better=1.0))
    assert judge(contrast(first, second), 0.02) == Judgement.BETTER
    assert judge(contrast(second, first), 0.02) == Judgement.WORSE
    level = (a[0] for a in draw_studies(1, 5, 800, generator=np.random.default_rng(3)))
    found = contrast(*level)
    assert judge(found, 0.2) == Judgement.EQUIVALENT
    few = contrast(*(a[0] for a in draw_studies(1, 12, 60, generator=np.random.default_rng(4), seed_spread=0.0)))
    assert judge(few, 0.001) == Judgement.FUTILE
    # Seeds make most of the noise: more of them would help.
    noisy = contrast(*(a[0] for a in draw_studies(1, 3, 3000, generator=np.random.default_rng(5), seed_spread=0.5)))
    assert judge(noisy, 0.01) == Judgement.UNDECIDED


def test_a_higher_confidence_asks_for_more():
    found = Contrast(0.03, (1e-9, 1e-9), 0.01**2, (5, 5), 800)
    assert judge(found, 0.01) == Judgement.BETTER
    assert judge(found, 0.01, 0.999) == Judgement.FUTILE


@pytest.mark.parametrize(("estimate", "decision"), [(0.015, Judgement.BETTER), (-0.015, Judgement.WORSE)])
def test_a_sharper_test_counts_instead_of_the_interval(estimate, decision):
    found = Contrast(estimate, (0.0, 0.0), 0.01**2, (5, 5), 800)
    assert judge(found, 0.1) == Judgement.EQUIVALENT
    assert judge(found, 0.1, differs=True) == decision
    assert judge(Contrast(3 * estimate, (0.0, 0.0), 0.01**2, (5, 5), 800), 0.1, differs=False) == Judgement.EQUIVALENT


def test_with_one_seed_it_is_not_known_whether_more_would_help():
    assert judge(Contrast(0.0, (0.0, 0.0), 0.01**2, (1, 5), 800), 0.001) == Judgement.UNDECIDED


def test_words_of_older_runs_are_read():
    old = ("better", "worse", "same", "undecided", "hopeless", "open")
    assert [Judgement(word).value for word in old] == [
        "better", "worse", "equivalent", "undecided", "futile", "undecided",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="perhaps"):
        Judgement("perhaps")
