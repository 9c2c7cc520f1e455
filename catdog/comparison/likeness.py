"""Whether images belong together although nobody named groups: errors that come in clusters, from the answers of runs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from catdog.statistics.clusters import Likeness, compare_neighbours, compare_within_clusters
from catdog.system.wording import plural

# Images count as alike if a likeness as large is this rare among independent images, and if it matters this much.
RARE, MATTERS = 0.001, 1.2
NEIGHBOURS, CLUSTERS = "neighbours", "near-duplicates"


@dataclass(frozen=True)
class Alike:
    """How alike images are that may belong together.

    Attributes:
        kind: NEIGHBOURS: images that follow each other in the order of their names; CLUSTERS: near-duplicates.
        found: how alike they are.
        runs: the number of runs whose answers say so.
    """

    kind: str
    found: Likeness
    runs: int

    @property
    def is_significant(self) -> bool:
        """Whether intervals that take the images for independent are too narrow."""
        return self.found.p <= RARE and self.found.design_effect >= MATTERS

    @property
    def words(self) -> str:
        """What that means, and what to do about it, in sentences without a last full stop."""
        found = self.found
        who = (
            "that follow each other in the order of their names"
            if self.kind == NEIGHBOURS
            else "that are near-duplicates"
        )
        narrow = found.design_effect**0.5
        return (
            f"Images {who} are right or wrong together (correlation {found.correlation:.2f} in {plural(self.runs, 'run')}): "
            f"these {found.images:,} images say about as much as {found.independent:,.0f} independent ones, so intervals that take "
            f"them for independent are too narrow by a factor of about {narrow:.1f}. If images belong together, such as frames of "
            "a film, name the groups: dataset.groups"
        )


def measure_neighbours(
    right: np.ndarray, files: Iterable[str], labels: Iterable[str], groups: np.ndarray | None = None
) -> Alike:
    """Returns how alike images of a class and folder are that follow each other in the order of their names.

    Args:
        right: bool (R, N), whether each run is right on each image.
        files: the N images' names.
        labels: their classes.
        groups: int (N,), groups that intervals count as one already: each counts once here too. None: there are none.
    """
    table = _tabulate(right, files, labels)
    if groups is not None:
        means = table["value"].groupby(groups).transform("mean")
        table = table.assign(value=means)[~pd.Series(groups).duplicated().to_numpy()]
    table = table.iloc[sorted(range(len(table)), key=lambda row: _natural(table["file"].iloc[row]))]
    return Alike(NEIGHBOURS, compare_neighbours(table["value"].to_numpy(), table["stratum"].to_numpy()), len(right))


def measure_clusters(right: np.ndarray, files: Iterable[str], labels: Iterable[str], clusters: np.ndarray) -> Alike:
    """Returns how alike images of one cluster are; arguments as for `measure_neighbours`, clusters as int (N,)."""
    table = _tabulate(right, files, labels)
    values, classes = table["value"].to_numpy(), pd.factorize(table["label"])[0]
    return Alike(CLUSTERS, compare_within_clusters(values, classes, clusters), len(right))


def _tabulate(right: np.ndarray, files: Iterable[str], labels: Iterable[str]) -> pd.DataFrame:
    files = list(files)
    folders = [str(file).rpartition("/")[0] for file in files]
    table = pd.DataFrame({"file": files, "label": list(labels), "value": right.mean(axis=0)})
    return table.assign(stratum=pd.factorize(pd.Series(folders) + "\n" + table["label"])[0])


def _natural(file: str) -> list[tuple[int, str]]:
    """Returns a key by which frame_2 comes before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file)]
