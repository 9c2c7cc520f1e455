"""The one rule, and the one vocabulary, for what is decided about the difference of two variants."""

from enum import StrEnum

from catdog.statistics.contrasts import Contrast
from catdog.statistics.proportions import CONFIDENCE


class Judgement(StrEnum):
    """What a study says about two variants, from the point of view of the first.

    Old runs have "same", "hopeless" and "open" in their tags; `Judgement("same")` reads them.
    """

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    """No difference of more than the margin."""
    UNDECIDED = "undecided"
    """More seeds may decide it."""
    FUTILE = "futile"
    """No number of seeds can be expected to decide it on these images."""

    @classmethod
    def _missing_(cls, value: object) -> "Judgement | None":
        return {"same": cls.EQUIVALENT, "hopeless": cls.FUTILE, "open": cls.UNDECIDED}.get(str(value))


def judge(found: Contrast, margin: float, confidence: float = CONFIDENCE, *, differs: bool | None = None) -> Judgement:
    """Returns what the interval of a difference says.

    BETTER or WORSE if the interval excludes 0, EQUIVALENT if it lies within the margin, FUTILE if no number of seeds is expected to
    lead to either, because the images allow no narrower interval, and otherwise UNDECIDED.

    Args:
        found: the difference of two variants, first minus second.
        margin: differences up to this are as good as none.
        confidence: of the interval, in (0, 1). Use a higher one for several looks or several pairs.
        differs: the result of a test that is more powerful than "the interval excludes 0", such as Holm's for several pairs; None:
            there is no such test.

    Source: Jennison and Turnbull (1989), "Interim analyses: the repeated confidence interval approach", Journal of the Royal
    Statistical Society B 51:305-361: intervals that hold at all looks together allow any statement at any look.
    """
    low, high = found.interval(confidence)
    if (low > 0 or high < 0) if differs is None else differs:
        return Judgement.BETTER if found.estimate > 0 else Judgement.WORSE
    if max(-low, high) <= margin:
        return Judgement.EQUIVALENT
    return Judgement.FUTILE if found.is_futile(margin, confidence) else Judgement.UNDECIDED
