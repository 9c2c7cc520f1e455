"""What more seeds and images would find, against studies that are then run."""

from dataclasses import replace

import numpy as np
import pytest
from fair_scores import NINE, draw_images, draw_variant

from catdog.statistics.contrasts import Contrast, contrast
from catdog.statistics.failures import answer_noise
from catdog.statistics.planning import Plan, plan_comparison


def test_more_seeds_and_more_images_find_smaller_differences():
    plans = plan_comparison(Contrast(0.01, (0.0002, 0.0002), 0.0001, (3, 3), 800))
    assert [(plan.images, plan.seeds) for plan in plans] == [
        (800, 5),
        (800, 10),
        (800, 20),
        (1600, 5),
        (1600, 10),
        (1600, 20),
    ]
    assert plans[0].detectable > plans[1].detectable > plans[2].detectable > plans[5].detectable
    assert all(plan.half_width < plan.detectable < plan.cautious for plan in plans)


def test_from_two_seeds_the_cautious_plan_is_far_from_the_other():
    two, ten = (
        plan_comparison(Contrast(0.01, (0.0002, 0.0002), 0.0, (n, n), 800), seeds=(5,), images=(1,))[0] for n in (2, 10)
    )
    assert two.detectable == pytest.approx(ten.detectable)
    assert two.cautious > 2 * two.detectable
    assert ten.cautious < 1.5 * ten.detectable


def test_the_half_width_is_that_of_the_contrast_itself_for_as_many_seeds():
    found = Contrast(0.01, (0.0002, 0.0001), 0.0001, (5, 5), 800)
    plan = plan_comparison(found, seeds=(5,), images=(1,))[0]
    assert plan.half_width == pytest.approx((found.high - found.low) / 2)


def test_one_seed_says_nothing_of_seeds():
    with pytest.raises(ValueError, match="at least 2 seeds"):
        plan_comparison(Contrast(0.01, (0.0, 0.0), 0.0001, (1, 5), 800))


def test_what_is_planned_from_five_seeds_is_what_ten_seeds_and_twice_the_images_find():
    generator = np.random.default_rng(1)
    world = replace(NINE, seed_spread=0.01)
    plans = plan_many(world, 40, generator)
    larger = replace(world, images=1600)
    planned = np.median([plan.detectable for plan in plans])
    assert np.median([plan.half_width for plan in plans]) < planned
    shift = larger.find_shift(float(planned))
    images = draw_images(larger, 200, generator)
    found = contrast(draw_variant(larger, images, 10, generator, shift), draw_variant(larger, images, 10, generator))
    assert np.median(found.high - found.low) / 2 == pytest.approx(
        np.median([plan.half_width for plan in plans]), rel=0.15
    )
    assert (found.low > 0).mean() == pytest.approx(0.8, abs=0.12)


def plan_many(world, studies: int, generator) -> list[Plan]:
    images = draw_images(world, studies, generator)
    first, second = (draw_variant(world, images, 5, generator) for _ in range(2))
    return [
        plan_comparison(contrast(*pair), [float(answer_noise(one)) for one in pair], (10,), (2,))[0]
        for pair in zip(first, second, strict=True)
    ]
