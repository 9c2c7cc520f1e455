"""The error atlas: every image that some run got wrong, sorted by the kind of error. Numbers only; the page draws them.

An image has the first of these kinds that applies:

- always right: every run of every variant is right. Such images are not listed;
- fixed by a variant: nearly all of its seeds are right and nearly all of the reference variant's are wrong;
- broken by a variant: the reverse;
- nearly always wrong: nearly all runs are wrong, each variant counting the same. It is a hard image, or its label is wrong;
- seed noise: none of the above. The seeds of a single variant disagree, and no variant nearly always does what the reference
  nearly never does.

So each image is in exactly one list, whichever variant is the reference. "Nearly all" means 80%: 4 of 5 seeds, and all of up to 4.
"Nearly always wrong" does not ask for every run to be wrong: among 20 runs of weak models, one is right by chance on any image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest

import numpy as np
import pandas as pd

from catdog.comparison.analysis import Analysis
from catdog.comparison.records import RunRecord
from catdog.comparison.variants import Variant
from catdog.statistics.calibration import Calibration, measure_calibration
from catdog.statistics.labels import Doubts, doubt_labels

NEARLY_ALL, NEARLY_NONE = 0.8, 0.2
WRONG, FIXED, BROKEN, NOISE, RIGHT = range(5)
KINDS = ("nearly always wrong", "fixed", "broken", "seed noise", "always right")
NO_CLASS = -1


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of one variant's runs to the atlas's images.

    Args:
        variant: the variant.
        probabilities: float32 (S, N, C), by seed and image, in the order of the atlas's classes; 0 for a class a run does not know.
        labels: int (N,), the true classes.
    """

    variant: Variant
    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.variant.name

    @cached_property
    def predicted(self) -> np.ndarray:
        """The predicted class of each answer: int (S, N)."""
        return self.probabilities.argmax(axis=2)

    @cached_property
    def right(self) -> np.ndarray:
        """Whether each answer is right: bool (S, N)."""
        return self.predicted == self.labels

    @cached_property
    def fraction_right(self) -> np.ndarray:
        """The fraction of the runs that are right on each image: float (N,) in [0, 1]."""
        return self.right.mean(axis=0)

    @cached_property
    def of_label(self) -> np.ndarray:
        """The probability that each run gives to the true class: float32 (S, N)."""
        return np.take_along_axis(self.probabilities, self.labels[None, :, None], axis=2)[..., 0]

    @cached_property
    def trust(self) -> np.ndarray:
        """The mean of `of_label` over the runs: float32 (N,)."""
        return self.of_label.mean(axis=0)

    @property
    def verdict(self) -> np.ndarray:
        """1 where nearly all runs are right, -1 where nearly all are wrong, else 0: int (N,)."""
        share = np.round(self.fraction_right, 9)
        return (share >= NEARLY_ALL).astype(int) - (share <= NEARLY_NONE)

    @cached_property
    def confusion(self) -> np.ndarray:
        """The confusion matrix, the mean over runs: float64 (C, C), rows are the true class."""
        classes = self.probabilities.shape[2]
        place = self.labels * classes + self.predicted
        return np.bincount(place.ravel(), minlength=classes**2).reshape(classes, classes) / len(self.right)


@dataclass(frozen=True, eq=False)
class Sorting:
    """The kinds of the images with respect to one reference variant.

    Attributes:
        kinds: WRONG, FIXED, BROKEN, NOISE or RIGHT: int (N,).
        by: for FIXED and BROKEN, the variants that do it; for NOISE, the variants whose seeds disagree: bool (V, N).
        rank: the image's place in the list of its kind, from 0: int (N,).
    """

    kinds: np.ndarray
    by: np.ndarray
    rank: np.ndarray


@dataclass(frozen=True, eq=False)
class Atlas:
    """The images that all runs answered, and the answers of each variant's runs.

    Args:
        files: N names.
        labels: int (N,), indices into `class_names`.
        class_names: every class that a run knows, C names.
        answers: one for each variant, V in all, in the order of the comparison.
        best: index of the variant with the highest mean accuracy, which is used to find suspect labels.
    """

    files: Sequence[str]
    labels: np.ndarray
    class_names: Sequence[str]
    answers: Sequence[Answers]
    best: int

    @property
    def seeds_varied(self) -> bool:
        """Whether any variant ran with two seeds or more. Otherwise seed noise cannot be seen."""
        return any(len(answers.right) > 1 for answers in self.answers)

    @cached_property
    def suspects(self) -> np.ndarray:
        """The class that a suspect label should perhaps be, or NO_CLASS if the label is not suspect: int (N,).

        A label is suspect if it is more likely wrong than right (`doubts`).
        """
        return np.where(self.doubts.suspect, self.doubts.suggested, NO_CLASS)

    @cached_property
    def doubts(self) -> Doubts:
        """How probable it is that each label is wrong, by the best variant; see `catdog.statistics.labels.doubt_labels`.

        The probabilities are the mean over the variant's seeds, on images that it was not trained on. Its kept epochs may have been
        chosen on these images, so it trusts their labels a little too much.
        """
        return doubt_labels(self.answers[self.best].probabilities.mean(axis=0), self.labels)

    @cached_property
    def calibrations(self) -> dict[str, Calibration]:
        """Every variant's calibration by name, all its seeds together; empty if there are fewer than two images."""
        if len(self.labels) < 2:
            return {}
        return {one.name: measure_calibration(one.probabilities, self.labels) for one in self.answers}

    def sort(self, reference: int = 0) -> Sorting:
        """Returns the images sorted with the variant at this index as the reference.

        In each list the most informative images come first. Nearly always wrong: suspect labels, then the images whose label the
        best variant finds least probable (its self-confidence, Northcutt et al. 2021). Fixed and broken: the largest change of the
        label's mean probability. Seed noise: the most evenly divided seeds.
        """
        share = np.stack([answers.fraction_right for answers in self.answers])
        verdicts = np.stack([answers.verdict for answers in self.answers])
        trust = np.stack([answers.trust for answers in self.answers])
        own = verdicts[reference]
        fixed, broken = (own < 0) & (verdicts > 0), (own > 0) & (verdicts < 0)
        always, never = (share == 1).all(axis=0), np.round(share.mean(axis=0), 9) <= NEARLY_NONE
        tests = [always, fixed.any(axis=0), broken.any(axis=0), never]
        kinds = np.select(tests, [RIGHT, FIXED, BROKEN, WRONG], NOISE)
        divided = (share > 0) & (share < 1)
        by = np.select([kinds == FIXED, kinds == BROKEN, kinds == NOISE], [fixed, broken, divided], False)
        change = np.where(by, np.abs(trust - trust[reference]), 0).max(axis=0)
        doubt = trust[self.best] - (self.suspects != NO_CLASS)
        evenness = (share * (1 - share)).max(axis=0)
        score = np.select([kinds == WRONG, kinds == NOISE], [doubt, -evenness], -change)
        rank = np.zeros(len(kinds), dtype=int)
        for kind in range(len(KINDS)):
            members = np.flatnonzero(kinds == kind)
            rank[members[np.argsort(score[members], kind="stable")]] = np.arange(len(members))
        return Sorting(kinds, by, rank)

    @cached_property
    def listed(self) -> np.ndarray:
        """The images that some run got wrong, by importance, taken from every list in turn: int (M,), indices into `files`.

        So a page without room for all of them shows the first of every list.
        """
        sorting = self.sort()
        lists = [
            sorted(np.flatnonzero(sorting.kinds == kind), key=sorting.rank.__getitem__)
            for kind in (WRONG, FIXED, BROKEN, NOISE)
        ]
        return np.array([place for turn in zip_longest(*lists) for place in turn if place is not None], dtype=int)


def build_atlas(analysis: Analysis) -> Atlas | None:
    """Returns the atlas of the variants that are examined; None if no image was answered by all runs."""
    if not analysis.variants or not len(analysis.comparison.outcomes):
        return None
    files = analysis.comparison.outcomes.files
    chosen = analysis.examined
    records = [record for variant in chosen for record in variant.records]
    class_names = list(dict.fromkeys(name for record in records for name in record.class_names))
    named = records[0].answers["label"].loc[files]
    # A label that no model knows, such as a class without training images, becomes a class with probability 0.
    class_names += sorted(set(named) - set(class_names))
    place = {name: index for index, name in enumerate(class_names)}
    labels = np.array([place[name] for name in named])
    answers = [
        Answers(variant, np.stack([_align(record, files, place) for record in variant.records]), labels)
        for variant in chosen
    ]
    best = int(np.argmax([one.right.mean() for one in answers]))
    return Atlas([str(file) for file in files], labels, class_names, answers, best)


def _align(record: RunRecord, files: pd.Index, place: dict[str, int]) -> np.ndarray:
    """Returns a run's probabilities for these images and classes: float32 (N, C)."""
    probabilities = record.predictions.probabilities.astype(np.float32)
    if not record.files.equals(files):
        probabilities = probabilities[record.files.get_indexer(files)]
    columns = [place[name] for name in record.class_names]
    if columns == list(range(len(place))):
        return probabilities
    aligned = np.zeros((len(probabilities), len(place)), dtype=np.float32)
    aligned[:, columns] = probabilities
    return aligned
