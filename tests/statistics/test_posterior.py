"""The probabilities of better, equivalent and worse: they are those of the interval, in other words."""

import numpy as np
import pytest
from fair_scores import NINE, clean
from scipy.stats import t

from catdog.statistics.contrasts import Contrast, contrast
from catdog.statistics.posterior import posterior

FOUND = Contrast(0.03, (0.0004, 0.0004), 0.0001, (5, 5), 800)


def test_the_three_probabilities_are_those_of_students_t_and_sum_to_1():
    told = posterior(FOUND, 0.02)
    exact = t(FOUND.freedom(), FOUND.estimate, FOUND.standard_error())
    assert told.better == pytest.approx(exact.sf(0.02))
    assert told.worse == pytest.approx(exact.cdf(-0.02))
    assert told.better + told.equivalent + told.worse == pytest.approx(1)


def test_the_interval_holds_95_percent_of_the_posterior():
    at_edge = Contrast(0.0, FOUND.seed_variances, FOUND.image_variance, FOUND.seeds, FOUND.images)
    assert posterior(at_edge, float(at_edge.high)).equivalent == pytest.approx(0.95)


def test_the_other_way_round_better_is_worse():
    turned = Contrast(-0.03, *(getattr(FOUND, key) for key in ("seed_variances", "image_variance", "seeds", "images")))
    assert posterior(turned, 0.01).worse == pytest.approx(posterior(FOUND, 0.01).better)
    assert posterior(FOUND, 0.0).equivalent == pytest.approx(0)
    with pytest.raises(ValueError, match="margin"):
        posterior(FOUND, -0.1)


def test_many_studies_at_once_and_where_the_probability_is_95_percent_it_is_right_in_95():
    """With a flat prior the probability of the right side is uniform over studies without a difference."""
    drawn, _ = clean(NINE, 5, 400, np.random.default_rng(0))
    told = posterior(contrast(*drawn.variants[:2]), 0.0)
    assert told.better.shape == (400,)
    assert np.mean(told.better > 0.95) == pytest.approx(0.05, abs=0.03)
    assert np.mean(told.better < 0.5) == pytest.approx(0.5, abs=0.07)
