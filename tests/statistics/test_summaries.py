"""What a page says beside a verdict, from a study with a diverged run."""

import numpy as np
import pytest
from fair_scores import SURE, draw_images, draw_variant, fail

from catdog.statistics.contrasts import contrast
from catdog.statistics.judgements import Judgement, judge
from catdog.statistics.summaries import summarize_pair, summarize_seeds


def test_a_diverged_run_is_counted_and_governs_the_mean_alone():
    generator = np.random.default_rng(0)
    images = draw_images(SURE, 1, generator)
    first, second = (draw_variant(SURE, images, 5, generator) for _ in range(2))
    first = fail(first, np.arange(5)[None] == 3, generator)[0]
    failing, healthy = summarize_seeds(first, 0.5), summarize_seeds(second[0], 0.5)
    assert failing.diverged.tolist() == [False, False, False, True, False]
    assert (failing.failed, healthy.failed) == (1, 0)
    assert failing.mean < 0.9 < 0.96 < min(failing.median, failing.interquartile_mean, failing.healthy_mean)
    assert (failing.failure_bound, healthy.failure_bound) == pytest.approx((0.657, 0.451), abs=1e-3)

    found = contrast(second[0], first)
    told = summarize_pair(found, healthy, failing, judge(found, 0.02), 0.5, 0.02)
    assert told.posterior.better > 0.7
    assert 0 < told.superiority.low < told.superiority.probability < told.superiority.high <= 1
    assert not told.hidden.overturned


def test_all_runs_diverged_and_a_decided_pair():
    values = np.random.default_rng(1).random((5, 800)) < 0.5
    lost = summarize_seeds(values, 0.5)
    assert (lost.failed, lost.failure_bound) == (5, 1.0)
    assert lost.healthy_mean == lost.mean
    good = summarize_seeds(np.random.default_rng(2).random((5, 800)) < 0.56, 0.5)
    found = contrast(np.random.default_rng(2).random((5, 800)) < 0.7, values)
    told = summarize_pair(found, good, lost, Judgement.BETTER, 0.5, 0.02)
    assert told.posterior.better == pytest.approx(1, abs=1e-3)
    assert told.superiority.probability > 0.9
