"""How probable it is that a variant is better, as good, or worse; arrays in, numbers out."""

from dataclasses import dataclass

import numpy as np
from scipy import special

from catdog.statistics.contrasts import Contrast
from catdog.statistics.proportions import Number


@dataclass(frozen=True)
class Posterior:
    """What is to be believed of a difference after a study, by a flat prior; the three probabilities sum to 1.

    Attributes:
        better: the probability that the first variant is better by more than the margin.
        equivalent: that the two differ by no more than the margin.
        worse: that the first variant is worse by more than the margin.
    """

    better: Number
    equivalent: Number
    worse: Number


def posterior(found: Contrast, margin: float) -> Posterior:
    """Returns the probabilities of better, equivalent and worse.

    The prior is flat: before the study, every difference counts as equally probable, also absurdly large ones. The posterior
    of the difference is then Student's t around the estimate, with the contrast's standard error and degrees of freedom, so
    it says in probabilities what the intervals say: the 95% interval holds 95% of it. That is the correlated Bayesian t-test,
    with the correlation over seeds and images as in `contrast`. It is no test: whoever acts on a probability above 95% is
    wrong more often if there are several pairs or looks, which it does not allow for.

    Args:
        found: the difference of two variants, first minus second; its fields may be arrays over many studies.
        margin: differences up to this are as good as none (the region of practical equivalence), at least 0.

    Raises:
        ValueError: the margin is negative.

    Source: Corani and Benavoli (2015), "A Bayesian approach for comparing cross-validated algorithms on multiple data sets",
    Machine Learning 100:285-304; Benavoli, Corani, Demsar and Zaffalon (2017), "Time for a change: a tutorial for comparing
    multiple classifiers through Bayesian analysis", Journal of Machine Learning Research 18(77):1-36.
    """
    if margin < 0:
        raise ValueError(f"needs a margin of at least 0, got {margin}")
    freedom, error = found.freedom(), found.standard_error()
    better = special.stdtr(freedom, (found.estimate - margin) / error)
    worse = special.stdtr(freedom, (-found.estimate - margin) / error)
    return Posterior(better, np.maximum(1 - better - worse, 0.0), worse)
