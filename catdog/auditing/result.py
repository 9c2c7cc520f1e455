"""The result of an audit for users: findings, tables, and the page."""

import html
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from catdog.auditing.findings import ERROR, NOTE, WARNING, Finding, sort_findings
from catdog.auditing.inspection import Audit, inspect_images
from catdog.auditing.pipeline import Traffic, describe_traffic, load_pipeline, watch_pipeline
from catdog.comparison.likeness import measure_clusters, measure_neighbours
from catdog.config.digest import hash_text
from catdog.config.schema import DatasetConfig
from catdog.data.description import describe_groups
from catdog.data.duplicates import group_pairs
from catdog.data.splits import SPLITS
from catdog.system.errors import UserError
from catdog.system.saving import save_page, saving_folder
from catdog.system.wording import plural

if TYPE_CHECKING:
    from catdog.auditing.labels import LabelCheck
    from catdog.data.dataset import Dataset
    from catdog.data.predictions import Predictions

# How many findings are shown of themselves, as in a Python session; the tables have all.
MOST_SHOWN = 10


@dataclass(frozen=True, eq=False)
class Findings:
    """The findings of an audit.

    Attributes:
        subject: the name of the data set or the pipeline that was audited.
        found: the findings, worst first.
    """

    subject: str
    found: Sequence[Finding]

    @property
    def severities(self) -> set[str]:
        """The severities that occur: "error", "warning", "note"."""
        return {finding.severity for finding in self.found}

    @property
    def findings(self) -> "pd.DataFrame":
        """One row per finding, worst first: columns severity, kind, words, files (a tuple of names)."""
        rows = [(finding.severity, finding.kind, finding.words, finding.files) for finding in self.found]
        return pd.DataFrame(rows, columns=["severity", "kind", "words", "files"])

    def to_dict(self) -> dict[str, Any]:
        """Returns the findings as lists, numbers and texts, as `format=json` prints them."""
        found = [
            {"severity": one.severity, "kind": one.kind, "words": one.words, "files": list(one.files)}
            for one in self.found
        ]
        return {"subject": self.subject, "findings": found}

    def __repr__(self) -> str:
        counts = Counter(finding.severity for finding in self.found)
        head = ", ".join(plural(count, severity) for severity, count in counts.items()) or "nothing found"
        shown = [f"  {finding.severity}: {finding.words}" for finding in self.found[:MOST_SHOWN]]
        more = [f"  and {len(self.found) - MOST_SHOWN} more"] if len(self.found) > MOST_SHOWN else []
        return "\n".join([f"{type(self).__name__}({self.subject!r}: {head})", *shown, *more])

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the table of findings."""
        head = f"<p><strong>{html.escape(self.subject)}</strong></p>"
        return head + (self.findings.to_html(index=False, border=0) if self.found else "<p>nothing found</p>")


@dataclass(frozen=True, eq=False, repr=False)
class DatasetFindings(Findings):
    """The findings of an audit of a data set.

    Attributes:
        audit: the images and their pairs.
        key: the name of its folder, which other data sets do not share.
    """

    audit: Audit
    key: str

    @property
    def images(self) -> "pd.DataFrame":
        """One row per image file.

        Columns: file, label, below (the folder below that of the class), split, sha256, used, width, height, mode, bytes, spread,
        problem ("" for none).
        """
        return self.audit.images

    @cached_property
    def pairs(self) -> "pd.DataFrame":
        """One row per pair of files that show the same picture, as in `catdog.auditing.page.build_pairs_frame`."""
        from catdog.auditing.page import build_pairs_frame

        return build_pairs_frame(self.audit)

    @property
    def labels(self) -> "LabelCheck | None":
        """The check of the labels, with its table `suspects`; None if it was not asked for, or training refuses the data set."""
        return self.audit.labels

    def save(self, path: str | Path) -> Path:
        """Writes the page, one self-contained HTML file, and returns its path.

        Raises:
            UserError: the file cannot be written.
        """
        from catdog.auditing.page import render_page

        return save_page(path, render_page(self.audit, self.subject))

    def save_folder(self, parent: str | Path) -> Path:
        """Writes the page and the tables into this data set's own folder, and returns that folder.

        They are audit.html, images.csv, pairs.csv and, if labels were checked, suspects.csv.

        Args:
            parent: where that folder is made; it is named after the data set and the place of its images.

        Raises:
            UserError: the folder cannot be written.
        """
        folder = Path(parent) / self.key
        with saving_folder(folder):
            self.images.to_csv(folder / "images.csv", index=False)
            self.pairs.to_csv(folder / "pairs.csv", index=False)
            if self.labels:
                self.labels.suspects.to_csv(folder / "suspects.csv", index=False)
            self.save(folder / "audit.html")
        return folder

    def to_dict(self) -> dict[str, Any]:
        """Returns findings, counts and pairs as lists, numbers and texts, as `format=json` prints them."""
        splits = self.images.groupby("split")["file"].count()
        return {
            **super().to_dict(),
            "folder": str(self.audit.root),
            "images": len(self.images),
            "splits": {str(split): int(count) for split, count in splits.items()},
            "pairs": self.pairs.to_dict("records"),
            "labels": self.labels and self.labels.to_dict(),
        }


@dataclass(frozen=True, eq=False, repr=False)
class PipelineFindings(Findings):
    """The findings of an audit of an input pipeline.

    Attributes:
        traffic: the images that each split yielded in each epoch.
    """

    traffic: Traffic

    @property
    def leaks(self) -> bool:
        """Whether any image of a held-out split appeared in another split."""
        return self.traffic.leaks

    @property
    def splits(self) -> "pd.DataFrame":
        """One row per split: split, images and different (distinct images) in the first epoch, different_ever in all epochs."""
        traffic = self.traffic
        rows = [
            (split, traffic.counts[split][0], len(traffic.seen[split][0]), len(traffic.ever(split))) for split in SPLITS
        ]
        return pd.DataFrame(rows, columns=["split", "images", "different", "different_ever"])

    @property
    def overlaps(self) -> "pd.DataFrame":
        """One row per held-out split and another: split, other, after_one_epoch, after_all, shared.

        The first two count the images of the split's first epoch that the other split yields in its first epoch, and in all epochs.
        `shared` counts the images that both splits yield in any epoch.
        """
        traffic = self.traffic
        pairs = (("test", "train"), ("test", "val"), ("val", "train"))
        rows = [(a, b, traffic.overlap(a, b, 1), traffic.overlap(a, b), traffic.shared(a, b)) for a, b in pairs]
        return pd.DataFrame(rows, columns=["split", "other", "after_one_epoch", "after_all", "shared"])

    def to_dict(self) -> dict[str, Any]:
        """Returns findings and counts as lists, numbers and texts, as `format=json` prints them."""
        return {
            **super().to_dict(),
            "epochs": self.traffic.epochs,
            "leaks": self.leaks,
            "splits": self.splits.to_dict("records"),
            "overlaps": self.overlaps.to_dict("records"),
        }


def audit_dataset(
    config: DatasetConfig,
    load_answers: "Callable[[str], Sequence[Predictions]]" = lambda _: (),
    labels: str | None = None,
) -> DatasetFindings:
    """Audits a data set: the files as they are, and the splits that the splitter makes of them.

    Args:
        config: of the data set.
        load_answers: returns the validation answers of runs on the data of a digest, which say whether images belong together.
        labels: the pre-trained backbone by which labels are checked, a file in `conf/backbone`; None: they are not.

    Raises:
        UserError: the data set cannot be read or downloaded, or is not valid; or the backbone is not available.
    """
    from catdog.data.dataset import choose_groups, fetch_images, load_dataset, require_cats_and_dogs
    from catdog.data.digests import hash_files
    from catdog.data.splits import assign_splits

    root = fetch_images(config)
    rows = assign_splits(
        root, holdout_fraction=config.holdout_fraction, test_fraction=config.test_fraction, split_seed=config.split_seed,
        shown=config.archive or str(root), groups=choose_groups(config, root),
    )  # fmt: skip
    problems: list[Finding] = []
    dataset = None
    try:
        dataset = load_dataset(config)
        require_cats_and_dogs(dataset)
        used = dataset.manifest.images.set_index("file")["split"]
    except UserError as error:
        # A data set that training refuses must still be audited, but for its labels: it may have no classes or splits.
        dataset = None
        used = rows.set_index("file")["split"]
        problems = [Finding(ERROR, "refused", f"training refuses this data set: {error}")]
    rows = rows.sort_values("file", kind="stable").reset_index(drop=True)
    rows["sha256"] = hash_files(root, list(rows["file"]), cache=Path(config.cache), verify=config.verify)
    # A file that the splitter moved has its new split; one that it left out keeps its original split.
    rows["split"] = rows["file"].map(used).fillna(rows["split"])
    rows["used"] = rows["file"].isin(used.index)
    found = inspect_images(rows[["file", "label", "below", "split", "sha256", "used"]], root, Path(config.cache))
    likeness = _find_likeness(dataset, found, load_answers(dataset.manifest.digest)) if dataset else []
    described = describe_groups(dataset.manifest) if dataset else []
    # First what groups there are, then what is wrong with them.
    noted = [Finding(WARNING if place else NOTE, "groups", words) for place, words in enumerate(described)]
    check, checked = None, []
    if labels:
        check, finding = _check_labels(dataset, labels, found)
        checked = [finding]
    findings = sort_findings([*problems, *found.findings, *checked, *likeness, *noted])
    audit = replace(found, findings=findings, labels=check)
    return DatasetFindings(config.name, findings, audit, _name_folder(config))


def _find_likeness(dataset: "Dataset", found: Audit, answers: "Sequence[Predictions]") -> list[Finding]:
    """Returns a warning if images that nobody named as groups are right or wrong together, in the answers of runs."""
    first = answers[0] if answers else None
    if first is None or dataset.manifest.groups is not None:
        return []
    alike = [one for one in answers if np.array_equal(one.files, first.files)]
    right, labels = np.stack([one.right for one in alike]), first.labels
    groups = dataset.manifest.code_groups(first.files)
    measured = [measure_neighbours(right, first.files, labels, groups)]
    if groups is None:
        clusters = group_pairs(found.pairs, len(found.images))
        places = pd.Index(found.images["file"]).get_indexer(pd.Index(first.files))
        measured.append(measure_clusters(right, first.files, labels, clusters[places]))
    return [Finding(WARNING, "alike", each.words) for each in measured if each.is_significant]


def _check_labels(dataset: "Dataset | None", labels: str, found: Audit) -> tuple["LabelCheck | None", Finding]:
    from catdog.auditing.labels import check_labels, load_checked

    if dataset is None:
        return None, Finding(NOTE, "labels", "labels were not checked, because training refuses this data set")
    try:
        splits = load_checked(dataset)
    except UserError as error:
        return None, Finding(NOTE, "labels", f"labels were not checked: {error}")
    files = found.images["file"]
    pairs = [(files[pair.first], files[pair.second]) for pair in found.pairs]
    images = dataset.manifest.images
    if "group" in images:
        # The images of a group confirm each other's labels like copies do.
        pairs += list(zip(images.groupby("group")["file"].transform("first"), images["file"], strict=True))
    check = check_labels(splits, labels, pairs)
    return check, check.finding


def _name_folder(config: DatasetConfig) -> str:
    """Returns a name for the results of a data set, such as "flowers-3f2a91bc"; the digits stand for where its images are."""
    if config.source == "drawn":
        name, place = config.name, str(config.drawing)
    else:
        assert config.archive is not None  # the config's own check
        is_url = "://" in config.archive
        place = config.archive if is_url else str(Path(config.archive).expanduser().resolve())
        name = Path(urlsplit(place).path if is_url else place).stem or config.name
    return f"{name}-{hash_text(place)[:8]}"


def audit_pipeline(pipeline: str | Callable[[], Any], epochs: int) -> PipelineFindings:
    """Audits an input pipeline: finds images that move between its splits.

    Args:
        pipeline: the function that returns (train, val, test), or its name, module:function.
        epochs: how many times each is iterated, at least 2.

    Raises:
        UserError: there is no such function, it fails, or it returns something else.
    """
    name = pipeline if isinstance(pipeline, str) else getattr(pipeline, "__name__", "pipeline")
    build = load_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    if epochs < 2:
        raise UserError(f"epochs: must be 2 or more, received {epochs}. A leak between epochs takes two to see.")
    traffic = watch_pipeline(build, name, epochs)
    verdict, *more = describe_traffic(traffic)
    leak = Finding(ERROR if traffic.leaks else NOTE, "leak" if traffic.leaks else "no leak", verdict)
    return PipelineFindings(name, [leak, *(Finding(NOTE, "detail", words) for words in more)], traffic)
