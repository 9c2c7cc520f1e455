"""Repeated looks at a growing comparison (group sequential analysis) at a controlled error rate; numbers in, numbers out."""

from collections.abc import Sequence
from functools import cache

import numpy as np

GRID_POINTS = 601


def plan_looks(first: int, most: int) -> list[int]:
    """Returns the numbers of seeds at which the results are looked at: fixed in advance, each about 1.4 times the last.

    They must not depend on the results: looking sooner because a result seems near would raise the error rate.

    Args:
        first: seeds at the first look, at least 2.
        most: seeds at the last one, at least `first`.
    """
    looks = [first]
    while looks[-1] < most:
        looks.append(min(most, max(looks[-1] + 1, round(1.4 * looks[-1]))))
    return looks


def spend_error(fraction: float, error: float) -> float:
    """Returns how much of the error may be spent when a fraction of all seeds has been seen.

    It grows nearly in proportion, a little faster at first, so that a few seeds can show a large difference.

    Source: Lan and DeMets (1983), "Discrete sequential boundaries for clinical trials", Biometrika 70:659-663, their function
    that resembles Pocock's.
    """
    return error * float(np.log1p((np.e - 1) * fraction))


# The part of the error that all looks after the first one share, if nobody planned them.
RESERVE = 0.2


def spend_on_unplanned_look(number: int, error: float) -> float:
    """Returns the error level of a look at a comparison to which seeds are added because it is not decided yet.

    The first look spends the error that a single look may. All later ones together spend a fifth of it at most, however many
    follow: the second a tenth, the third a thirtieth, the n-th RESERVE / (n (n - 1)). A plan of looks, as `level_of_looks` makes
    it, spends its error more usefully.

    Args:
        number: of the look, from 1.
        error: of a single look, in (0, 1).
    """
    return error if number == 1 else RESERVE * error / (number * (number - 1))


def spend_on_challenge(number: int, error: float) -> float:
    """Returns how much of an error the challenge of this number, from 1, may spend, if nobody knows how many will follow.

    It is error / (n (n + 1)): a half for the first, a sixth for the second, and for all together the whole.

    Source: Foster and Stine (2008), "alpha-investing: a procedure for sequential control of expected false discoveries", Journal of
    the Royal Statistical Society B 70:429-444, for spending an error on an unknown number of tests; the series is the simplest one.
    """
    return error / (number * (number + 1))


def level_of_looks(looks: Sequence[int], error: float) -> list[float]:
    """Returns the error level of each look's interval, such that any of the intervals is wrong in at most `error` of studies.

    Assumes that each look adds independent information. Looks that share their images are more strongly correlated, which makes
    errors rarer, not more frequent (`tests/statistics/test_sequential.py` simulates it).

    Args:
        looks: seeds at each look, increasing; the last one is the final look.
        error: in (0, 1).

    Returns:
        One level for each look, two-sided, in (0, error].

    Source: Lan and DeMets (1983), as above; computed as Armitage, McPherson and Rowe (1969), "Repeated significance tests on
    accumulating data", Journal of the Royal Statistical Society A 132:235-244.
    """
    return list(_levels(tuple(looks), error))


@cache
def _levels(looks: tuple[int, ...], error: float) -> tuple[float, ...]:
    # Imported here: they take half a second of CPU time, and most commands plan no looks.
    from scipy.integrate import simpson
    from scipy.optimize import brentq
    from scipy.stats import norm

    times = np.array(looks) / looks[-1]
    spent = [spend_error(time, error) for time in times]
    levels = [spent[0]]
    # The accumulated evidence is a Brownian motion. `density` is its density, given that it has not crossed a boundary yet.
    bound = norm.isf(spent[0] / 2) * np.sqrt(times[0])
    grid = np.linspace(-bound, bound, GRID_POINTS)
    density = norm.pdf(grid, scale=np.sqrt(times[0]))
    for before, now, earlier, total in zip(times, times[1:], spent, spent[1:], strict=False):
        step = np.sqrt(now - before)
        inside, here = density, grid

        def leaves(bound: float, step: float = step, inside: np.ndarray = inside, here: np.ndarray = here) -> float:
            outside = norm.cdf((-bound - here) / step) + norm.sf((bound - here) / step)
            return float(simpson(inside * outside, x=here))

        bound = brentq(lambda bound, allowed=total - earlier: leaves(bound) - allowed, 1e-6, 12.0)
        levels.append(float(2 * norm.sf(bound / np.sqrt(now))))
        grid = np.linspace(-bound, bound, GRID_POINTS)
        density = simpson(inside * norm.pdf(grid[:, None], here, step), x=here, axis=1)
    return tuple(levels)
