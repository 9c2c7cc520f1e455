"""The page's sections on each variant's answers as a whole: calibration, and confusion by class."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from catdog.comparison.atlas import Answers, Atlas
from catdog.comparison.page.svg import embed_svg
from catdog.plots import plot_reliability
from catdog.plots.style import PALETTE
from catdog.statistics.calibration import Calibration
from catdog.statistics.proportions import precision_and_recall
from catdog.system.wording import percent_interval

# With more classes than this, a table of all pairs is unreadable, so the most confused pairs are named instead.
MOST_CLASSES = 12
MOST_PAIRS, MOST_HARD = 12, 6


@dataclass(frozen=True, eq=False)
class Reliability:
    """A variant's calibration as the page shows it."""

    name: str
    found: Calibration
    right: float
    words: str
    svg: Markup


@dataclass(frozen=True)
class Confusion:
    """A variant's confusion by class: all counts if there are few classes, else the most confused pairs.

    Args:
        name: the variant's name.
        rows: class -> its images by predicted class, as (count in words, fraction of the row); empty for many classes.
        pairs: true class, predicted class, mean count in words; most frequent first.
        hardest: classes with their recall, lowest first.
    """

    name: str
    rows: list[tuple[str, list[tuple[str, float]]]]
    pairs: list[tuple[str, str, str]]
    hardest: list[tuple[str, float]]


def build_reliabilities(atlas: Atlas, colours: dict[str, int]) -> Iterator[Reliability]:
    """Yields every variant's calibration for the page; `colours` are indices into the palette."""
    for number, answers in enumerate(atlas.answers):
        one = atlas.calibrations.get(answers.name)
        if one is not None:
            figure = plot_reliability(one, answers.name, PALETTE[colours[answers.name]])
            described = (
                f"Reliability diagram of {answers.name}: calibration error {percent_interval(one.low, one.high)}"
            )
            svg = embed_svg(figure, f"reliability-{number}", described)
            yield Reliability(answers.name, one, float(answers.right.mean()), one.words, svg)


def build_confusions(atlas: Atlas) -> Iterator[Confusion]:
    """Yields every variant's confusion by class, the mean of its runs."""
    for answers in atlas.answers:
        if len(atlas.class_names) <= MOST_CLASSES:
            yield Confusion(answers.name, _rows(atlas, answers), [], [])
        else:
            yield Confusion(answers.name, [], _pairs(atlas, answers), _hardest(atlas, answers))


def _rows(atlas: Atlas, answers: Answers) -> list[tuple[str, list[tuple[str, float]]]]:
    counts = answers.confusion
    sums = np.maximum(counts.sum(axis=1), 1)
    return [
        (name, [(_count(count, len(answers.right)), round(count / total, 3)) for count in row])
        for name, row, total in zip(atlas.class_names, counts.tolist(), sums.tolist(), strict=True)
    ]


def _pairs(atlas: Atlas, answers: Answers) -> list[tuple[str, str, str]]:
    wrong = answers.confusion * (1 - np.eye(len(atlas.class_names)))
    most = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    places = [divmod(int(place), len(wrong)) for place in most]
    return [
        (atlas.class_names[true], atlas.class_names[taken], _count(wrong[true, taken], len(answers.right)))
        for true, taken in places
        if wrong[true, taken] > 0
    ]


def _hardest(atlas: Atlas, answers: Answers) -> list[tuple[str, float]]:
    _, recall = precision_and_recall(answers.confusion)
    order = [place for place in np.argsort(recall, kind="stable") if not np.isnan(recall[place])]
    return [(atlas.class_names[place], float(recall[place])) for place in order[:MOST_HARD]]


def _count(count: float, runs: int) -> str:
    """Returns a mean over runs with one decimal; for a single run, and from 1,000 on, without decimals."""
    return f"{count:,.0f}" if runs == 1 or count >= 1000 else f"{count:,.1f}"
