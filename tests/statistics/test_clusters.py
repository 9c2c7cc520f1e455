"""How alike neighbouring images are: found where it is, and not where it is not."""

import numpy as np
import pytest
from studies import draw_grouped_studies, draw_studies

from catdog.statistics.clusters import compare_neighbours, compare_within_clusters


def test_images_in_groups_of_four_are_found_and_their_design_effect_too() -> None:
    generator = np.random.default_rng(0)
    first, _, groups = draw_grouped_studies(8, 3, np.full(100, 4), generator=generator)
    values, strata = first.mean(axis=1), np.arange(400) % 400 // 200
    for by_name in (
        [compare_neighbours(one, strata) for one in values],
        [compare_within_clusters(one, strata, groups) for one in values],
    ):
        assert max(found.p for found in by_name) <= 0.001
        truth = 4 * np.var(values.reshape(-1, 4).mean(axis=1)) / np.var(values)
        assert np.mean([found.design_effect for found in by_name]) == pytest.approx(truth, rel=0.15)
        assert by_name[0].independent == pytest.approx(400 / by_name[0].design_effect)


def test_independent_images_are_rarely_taken_for_alike_also_where_classes_differ() -> None:
    generator = np.random.default_rng(1)
    first, _ = draw_studies(40, 3, 200, generator=generator, level=2.0)
    strata = np.repeat([0, 1], 100)
    values = first.mean(axis=1)
    # The second class is much harder.
    values[:, 100:] *= generator.random((40, 100)) < 0.5
    clusters = np.arange(200) // 4
    for found in ([compare_neighbours(one, strata) for one in values],
                  [compare_within_clusters(one, strata, clusters) for one in values]):  # fmt: skip
        assert np.mean([each.p <= 0.05 for each in found]) <= 0.15
        assert min(each.p for each in found) > 0.0005
        assert np.median([each.design_effect for each in found]) < 1.2


def test_answers_that_are_all_right_tell_nothing() -> None:
    ones, strata = np.ones(20), np.zeros(20, dtype=int)
    assert compare_neighbours(ones, strata).p == 1
    assert compare_within_clusters(ones, strata, np.arange(20) // 2).design_effect == 1
