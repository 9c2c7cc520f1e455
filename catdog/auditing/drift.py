"""Compares new photos without labels with the images on which a model was validated, and says what its accuracy on them may be."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from catdog.auditing.findings import ERROR, NOTE, WARNING, Finding, sort_findings
from catdog.auditing.result import Findings
from catdog.auditing.traits import TRAITS, measure_traits
from catdog.config.checks import require
from catdog.config.digest import hash_text
from catdog.config.schema import default_cache
from catdog.data.cache import load_images
from catdog.data.dataset import fetch_images, searches_duplicates
from catdog.data.digests import hash_files
from catdog.data.duplicates import MOST_CANDIDATES, Pair, find_pairs
from catdog.deployment.answer_file import write_csv
from catdog.deployment.photo_files import find_images
from catdog.deployment.prediction import TrainedModel, in_utf8
from catdog.statistics.drift import (
    FEW_WRONG,
    FEWEST_IMAGES,
    MODERATE,
    SLIGHT,
    ExpectedAccuracy,
    LabelPlan,
    MixShift,
    Shift,
    compare_mixes,
    compare_values,
    estimate_accuracy,
    estimate_from_layers,
    fit_chances,
    plan_labels,
)
from catdog.statistics.proportions import correct_by_holm
from catdog.system.cpus import count_cpus
from catdog.system.errors import UserError
from catdog.system.saving import save_page, saving_folder
from catdog.system.wording import agree, listed, p_value, percent_interval, percent_with_unit, plural
from catdog.tracking.records import explain_gone, find_run
from catdog.tracking.study_data import read_dataset_config

if TYPE_CHECKING:
    from catdog.data.decoding import Decoded
    from catdog.data.predictions import Predictions
    from catdog.tracking.records import StoredRun

# A p-value below this, corrected by Holm for the length of the list, is a difference.
SIGNIFICANT = 0.05
CONFIDENCE_TRAIT, MIX_TRAIT = "confidence", "predicted_classes"
NAMES = {name: title for name, (title, _) in TRAITS.items()} | {
    CONFIDENCE_TRAIT: "confidence",
    MIX_TRAIT: "predicted classes",
}
UNITS = {name: unit for name, (_, unit) in TRAITS.items()} | {
    CONFIDENCE_TRAIT: "probability of its answer",
    MIX_TRAIT: "shares",
}
ASSUMPTION = (
    "The estimate sees no label. It assumes that an answer given with the same confidence is as often right on these photos as "
    "on the validation images. Photos of classes that the model does not know, classes that have become more or less frequent, and "
    "photos on which it is confidently wrong go unseen"
)
LABELS_FILE = "label_first.csv"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """Whether the validation accuracy can still be expected.

    Attributes:
        kind: `expected`, `lower`, `doubtful` (no loss can be seen, but the photos are of another kind), `undecided` or `too few`.
        headline: a short sentence without a full stop.
        words: the reasons, and what to do, in sentences without a last full stop.
        is_estimated: whether there is one expected accuracy; otherwise the methods disagree, and only the interval can be said.
    """

    kind: str
    headline: str
    words: str
    is_estimated: bool = True

    @property
    def severity(self) -> str:
        """ERROR if the accuracy is lower, NOTE if it can be expected, WARNING if nobody can tell."""
        return {"lower": ERROR, "expected": NOTE}.get(self.kind, WARNING)


@dataclass(frozen=True, eq=False, repr=False)
class DriftFindings(Findings):
    """The comparison of new photos with a model's validation images. The first finding is the verdict, the others are worst first.

    Attributes:
        model: the model's name in a sentence.
        run_id: the run that trained it.
        verdict: whether its validation accuracy can still be expected.
        expected: its accuracy on the photos; None if there are too few photos or validation images.
        photos: one row per photo. Columns: file, below the folder; sha256, of its bytes, or "" if it cannot be read; problem, why
            not, or ""; shorter_side, aspect_ratio, brightness, contrast, sharpness, saturation; class, what the model answers;
            probability, of that class; same_as, an image of train or val, or an earlier photo, that shows the same picture, or "";
            counted, whether it was compared.
        shifts: what was compared in numbers: for each trait and the confidence, how the photos differ; without those for which
            the validation images are needed, if these are gone.
        mix: how the shares of the predicted classes differ; None if there are too few photos.
        p_holm: for each comparison, its p-value corrected for their number.
        class_names: the classes, in the order of `mix`.
        compared: how many validation images the photos were compared with: one of each group.
        plan: in which order to label the photos that are counted.
        root: the folder of the photos.
        key: the name of its folder of results.
    """

    model: str
    run_id: str
    verdict: Verdict
    expected: ExpectedAccuracy | None
    photos: pd.DataFrame
    shifts: Mapping[str, Shift]
    mix: MixShift | None
    p_holm: Mapping[str, float]
    class_names: tuple[str, ...]
    compared: int
    plan: LabelPlan
    root: Path
    key: str

    @property
    def counted(self) -> pd.DataFrame:
        """The rows of `photos` that were compared, with a fresh index."""
        return self.photos[self.photos["counted"]].reset_index(drop=True)

    @cached_property
    def traits(self) -> pd.DataFrame:
        """One row per comparison of values.

        Columns: trait, unit; validation_median, validation_p5, validation_p95; photos_median, photos_p5, photos_p95; distance
        (Kolmogorov-Smirnov), p, p_holm, effect (Cliff's delta), effect_low, effect_high, size ("", slight, moderate, strong).
        """
        rows = [
            {
                "trait": name, "unit": UNITS[name],
                **dict(zip(("validation_p5", "validation_median", "validation_p95"), shift.former, strict=True)),
                **dict(zip(("photos_p5", "photos_median", "photos_p95"), shift.new, strict=True)),
                "distance": shift.distance, "p": shift.p, "p_holm": self.p_holm[name],
                "effect": shift.effect, "effect_low": shift.low, "effect_high": shift.high,
                "size": _size(max(shift.distance, abs(shift.effect)), self.p_holm[name]),
            }
            for name, shift in self.shifts.items()
        ]  # fmt: skip
        columns = [
            "trait", "unit", "validation_median", "validation_p5", "validation_p95", "photos_median", "photos_p5", "photos_p95",
            "distance", "p", "p_holm", "effect", "effect_low", "effect_high", "size",
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=columns)

    @property
    def classes(self) -> pd.DataFrame:
        """One row per class: class, validation and photos (shares of the answers), difference, low, high (for all together)."""
        columns = ["class", "validation", "photos", "difference", "low", "high"]
        if self.mix is None:
            return pd.DataFrame(columns=columns)
        mix = self.mix
        values = (list(self.class_names), mix.former, mix.new, mix.new - mix.former, mix.low, mix.high)
        return pd.DataFrame(dict(zip(columns, values, strict=True)))

    @cached_property
    def label_first(self) -> pd.DataFrame:
        """The photos in the order in which to label them: rank (from 1), file, class, probability, layer, layer_photos.

        `layer` is one of at most five of equal size, by confidence; 0 is the lowest. The labelled photos of a layer are a random
        sample of it, however many are labelled from the top of the list. Its order goes by the hash of a photo's bytes, so photos
        that are added leave it as it is.
        """
        rows = self.counted.iloc[self.plan.order][["file", "class", "probability"]].reset_index(drop=True)
        layers = self.plan.layers[self.plan.order]
        sizes = np.bincount(self.plan.layers, minlength=1)
        rows.insert(0, "rank", np.arange(1, len(rows) + 1))
        return rows.assign(layer=layers, layer_photos=sizes[layers])

    def estimate_from_labels(self, labels: Mapping[str, str | None]) -> tuple[float, float, float]:
        """Returns the accuracy on the counted photos by the labels of some, without bias, and its 95% interval, all in [0, 1].

        Args:
            labels: file, as in `label_first`, -> its true class, or None if it shows none of the classes. They must be the first
                ones of that list, without a gap, and at least five (of fewer photos, all), so that each layer has one.

        Raises:
            UserError: a file is not in the list, or one in front of it has no label; a class is none of the model's; or there are
                too few labels.
        """
        rows = self.label_first
        known = set(rows["file"])
        unknown = [file for file in labels if file not in known]
        if unknown:
            raise UserError(f"labels: {unknown[0]!r} is none of the {len(rows):,} files of {LABELS_FILE}.")
        wrong = [name for name in labels.values() if name is not None and name not in self.class_names]
        if wrong:
            raise UserError(
                f"labels: must be {', '.join(map(repr, self.class_names))}, or None for a photo of none of these, received "
                f"{wrong[0]!r}."
            )
        missing = [file for file in rows["file"][: len(labels)] if file not in labels]
        if missing:
            raise UserError(
                f"labels: must be those of the first photos of {LABELS_FILE}, without a gap; {missing[0]!r} has none, and is among "
                f"the first {len(labels)}. A choice of other photos would bias the estimate."
            )
        layers = rows["layer"].nunique()
        if len(labels) < max(layers, 1):
            raise UserError(
                f"labels: must be at least {max(layers, 1)}, one of each layer of confidence, received {len(labels)}. Label the "
                f"next photos of {LABELS_FILE}."
            )
        told = rows[: len(labels)]
        right = [labels[file] == answer for file, answer in zip(told["file"], told["class"], strict=True)]
        sizes = rows.groupby("layer")["layer_photos"].first()
        return estimate_from_layers(
            right, told["layer"].tolist(), dict(zip(sizes.index.tolist(), sizes.tolist(), strict=True))
        )

    def save(self, path: str | Path) -> Path:
        """Writes the page, one self-contained HTML file, and returns its path.

        Raises:
            UserError: the file cannot be written.
        """
        from catdog.auditing.drift_page import render_drift

        return save_page(path, render_drift(self))

    def save_folder(self, parent: str | Path) -> Path:
        """Writes drift.html, photos.csv, traits.csv, classes.csv and label_first.csv into a folder of their own; returns it.

        A label_first.csv that is there already and differs, for instance because somebody has written labels into it, is kept
        under another name.

        Args:
            parent: where that folder is made; it is named after the folder of the photos, its place and the model.

        Raises:
            UserError: the folder cannot be written.
        """
        folder = Path(parent) / self.key
        with saving_folder(folder):
            _keep_labels(folder / LABELS_FILE, write_csv(self.label_first))
            for name, table in (("photos", self.photos), ("traits", self.traits), ("classes", self.classes)):
                (folder / f"{name}.csv").write_text(write_csv(table), "utf-8", newline="")
            self.save(folder / "drift.html")
        return folder

    def to_dict(self) -> dict[str, Any]:
        """Returns the whole result as lists, numbers and texts, as `format=json` prints it."""
        return {
            **super().to_dict(),
            "folder": str(self.root),
            "model": self.model,
            "run_id": self.run_id,
            "verdict": dataclasses.asdict(self.verdict),
            "photos": len(self.photos),
            "counted": len(self.counted),
            "compared": self.compared,
            "expected": self.expected and dataclasses.asdict(self.expected),
            "traits": self.traits.to_dict("records"),
            "classes": self.classes.to_dict("records"),
            "classes_p_holm": self.p_holm.get(MIX_TRAIT),
            "label_first": self.label_first.to_dict("records"),
        }


def _keep_labels(path: Path, content: str) -> None:
    """Writes the list of photos to label; what is there already is kept under another name if it differs."""
    if path.exists() and path.read_bytes() != content.encode():
        kept = next(
            other for number in count(1) if not (other := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists()
        )
        path.rename(kept)
        log.warning("%s was another list, or somebody has written into it: it is kept as %s", path, kept.name)
    path.write_text(content, "utf-8", newline="")


def _size(strength: float, p_holm: float) -> str:
    """Returns how large a difference is, in a word; "" if it may be chance."""
    if p_holm >= SIGNIFICANT:
        return ""
    return "slight" if strength < SLIGHT else "moderate" if strength < MODERATE else "strong"


@dataclass(frozen=True, eq=False)
class _Reference:
    """The images of a run: answers to the validation images, and the files of train and val where they still are.

    `rows` has the columns file, split and sha256 of the files of train and val. `root` is their folder, or None, and then `problem`
    says why.
    """

    run: "StoredRun"
    answers: "Predictions"
    groups: np.ndarray | None
    rows: pd.DataFrame
    root: Path | None
    problem: str
    searches_near_copies: bool
    cache: Path

    @property
    def leaders(self) -> np.ndarray:
        """Positions in `answers` of one image of each group: int64 (G,)."""
        if self.groups is None:
            return np.arange(len(self.answers))
        return np.sort(np.unique(self.groups, return_index=True)[1])


def check_photos(
    model: TrainedModel,
    photos: str | Path,
    *,
    margin: float = 0.05,
    archive: str | None = None,
    cache: str | None = None,
    batch_size: int = 32,
) -> DriftFindings:
    """Compares new photos with the validation images of a model; see `Study.audit_photos`.

    Raises:
        UserError: the folder has no images; the model's run is gone or has stored no answers to its validation images.
    """
    root = Path(photos)
    if not os.path.isdir(root):  # noqa: PTH112  Path.is_dir raises if a folder above cannot be entered
        found = "a file" if os.path.exists(root) else "not there"  # noqa: PTH110
        raise UserError(f"photos: must be a folder of images, received {str(photos)!r}, which is {found}.")
    files = find_images([str(photos)])
    reference = _load_reference(model, archive, Path(cache or default_cache()))
    names = pd.DataFrame({"file": [in_utf8(file.relative_to(root)) for file in files]})
    frame = names.join(_answer_photos(model, files, batch_size))
    frame.insert(1, "sha256", "")
    frame["same_as"] = ""
    # Broken files show no picture, so they are not the same one either.
    readable = frame.index[frame["problem"] == ""]
    chosen = [files[place] for place in readable]
    digests = hash_files(root, [str(file.relative_to(root)) for file in chosen])
    same_as, searched_near_copies = _find_same(chosen, frame["file"][readable].tolist(), digests, reference)
    frame.loc[readable, "sha256"], frame.loc[readable, "same_as"] = digests, same_as
    frame["counted"] = (frame["problem"] == "") & (frame["same_as"] == "")
    return _compare(model, root, frame, reference, margin, searched_near_copies)


def _load_reference(model: TrainedModel, archive: str | None, cache: Path) -> _Reference:
    run = find_run(model.client, model.run_id)
    gone = explain_gone(model.client, model.run_id, run)
    if run is None or gone:
        raise UserError(
            f"against: photos cannot be compared with {model.words}, because its validation images are known to its run "
            f"alone: {gone} Or name another model: against=RUN_ID."
        )
    answers = run.load_predictions()
    if not len(answers):
        raise UserError(
            f"against: run {run.run_id}, which trained {model.words}, has stored no answers to validation images, with which "
            "photos could be compared. Name another model: against=RUN_ID."
        )
    if set(answers.class_names) != set(model.class_names):
        raise UserError(
            f"against: {model.words} has the classes {', '.join(model.class_names)}, but its run {run.run_id} the classes "
            f"{', '.join(answers.class_names)}, so their answers cannot be compared. Name another model: against=RUN_ID."
        )
    splits = run.load_splits()
    rows = splits[splits["split"].isin(["train", "val"])].reset_index(drop=True) if len(splits) else splits
    config = dataclasses.replace(read_dataset_config(run), cache=str(cache))
    config = dataclasses.replace(config, archive=archive or config.archive)
    root, problem = None, ""
    require(
        not archive or config.source != "drawn", "dataset.archive", "left out for images that are drawn", archive,
    )  # fmt: skip
    if not len(rows):
        problem = f"run {run.run_id} has stored no list of its images"
    else:
        try:
            root = fetch_images(config)
            problem = _find_changed(root, rows, cache)
        except UserError as error:
            # Whoever says where the images are now wants them compared.
            if archive:
                raise
            problem = str(error)
        if problem and archive:
            raise UserError(
                f"dataset.archive: must be the images of {model.words}, received {archive!r}, but {problem}. Name their place, or "
                "leave it out: then only the stored answers are compared."
            )
    return _Reference(
        run,
        answers,
        run.load_groups(answers.files),
        rows,
        None if problem else root,
        problem,
        searches_duplicates(config),
        cache,
    )


def _find_changed(root: Path, rows: pd.DataFrame, cache: Path) -> str:
    """Returns what is wrong with the files of a run's manifest; "" if all are there, unchanged."""
    missing = [file for file in rows["file"] if not (root / file).is_file()]
    if missing:
        are = agree(len(missing), "is", "are")
        return f"{len(missing):,} of {plural(len(rows), 'file')} {are} no longer in {root}, {missing[0]!r} first"
    digests = hash_files(root, list(rows["file"]), cache=cache)
    changed = [file for file, now, then in zip(rows["file"], digests, rows["sha256"], strict=True) if now != then]
    if changed:
        return f"{plural(len(changed), 'file')} in {root} {agree(len(changed), 'has', 'have')} changed since, {changed[0]!r} first"
    return ""


def _find_same(
    files: Sequence[Path], names: Sequence[str], digests: Sequence[str], reference: _Reference
) -> tuple[list[str], bool]:
    """Returns for each photo the image of train or val, or else the first photo, that shows the same picture; "" for none.

    Also whether near-copies were looked for as they should: too many pairs of photos of one fixed camera look alike.
    """
    rows = reference.rows
    known = [str(file) for file in rows["file"]] if len(rows) else []
    splits = list(rows["split"]) if known else []
    labels = [*(f"{split}: {file}" for split, file in zip(splits, known, strict=True)), *names]
    every = [*(list(rows["sha256"]) if known else []), *digests]
    pairs, searched = None, True
    if reference.root is not None and reference.searches_near_copies:
        paths = [*(reference.root / file for file in known), *files]
        try:
            pairs = find_pairs(paths, every, reference.cache)
        except UserError as error:
            if not str(error).startswith("dataset.near_duplicates: more than"):
                raise
            searched = False
    if pairs is None:
        first: dict[str, int] = {}
        pairs = [
            Pair(first[digest], place, "copy", 1.0)
            for place, digest in enumerate(every)
            if first.setdefault(digest, place) != place
        ]
    same = [""] * len(files)
    # Sorted: the known images come first, then the photos in their order.
    for pair in sorted(pairs, key=lambda pair: (pair.second, pair.first)):
        place = pair.second - len(known)
        # A photo that is itself a copy of an earlier one leads nobody: that one does.
        leads = pair.first < len(known) or not same[pair.first - len(known)]
        if place >= 0 and not same[place] and leads:
            same[place] = labels[pair.first]
    return same, searched


def _answer_photos(model: TrainedModel, files: Sequence[Path], batch_size: int) -> pd.DataFrame:
    """Returns one row per photo: problem, the traits, class, probability; the latter are NaN and "" if it cannot be read."""
    rows: list[dict[str, Any]] = []

    def look(file: Path, image: "Decoded") -> dict[str, Any]:
        if not isinstance(image, np.ndarray):
            return {"problem": str(image), "class": "", "probability": np.nan}
        return {"problem": "", **measure_traits(file, image)}

    with ThreadPoolExecutor(count_cpus()) as threads:
        for batch in model.answer_batches(files, batch_size):
            seen = list(threads.map(look, files[batch.start : batch.start + len(batch.decoded)], batch.decoded))
            read = [row for row in seen if not row["problem"]]
            for row, probabilities in zip(read, batch.probabilities, strict=True):
                most = int(probabilities.argmax())
                row |= {"class": model.class_names[most], "probability": float(probabilities[most])}
            rows += seen
    return pd.DataFrame(rows, columns=["problem", *TRAITS, "class", "probability"])


def _measure_validation(reference: _Reference, size: int) -> pd.DataFrame:
    """Returns the traits of one validation image of each group."""
    assert reference.root is not None
    rows = reference.rows[reference.rows["split"] == "val"]
    paths = [reference.root / file for file in rows["file"]]
    decoded = load_images(paths, list(rows["sha256"]), height=size, width=size, cache=reference.cache).images
    place = {file: number for number, file in enumerate(rows["file"])}
    chosen = [place[file] for file in reference.answers.files[reference.leaders] if file in place]
    with ThreadPoolExecutor(count_cpus()) as threads:
        found = threads.map(lambda number: measure_traits(paths[number], np.asarray(decoded[number])), chosen)
        return pd.DataFrame(list(found), columns=list(TRAITS))


def _compare(
    model: TrainedModel,
    root: Path,
    frame: pd.DataFrame,
    reference: _Reference,
    margin: float,
    searched_near_copies: bool,
) -> DriftFindings:
    answers, leaders = reference.answers, reference.leaders
    counted = frame[frame["counted"]]
    confidence = read_confidence(answers)
    new = counted["probability"].to_numpy(np.float32)
    enough = min(len(counted), len(leaders)) >= FEWEST_IMAGES
    shifts: dict[str, Shift] = {}
    mix, expected = None, None
    p_holm: dict[str, float] = {}
    if enough:
        if reference.root is not None:
            before = _measure_validation(reference, model.image_size)
            for name in TRAITS:
                sides = (before[name].dropna().to_numpy(float), counted[name].dropna().to_numpy(float))
                if min(map(len, sides)) >= FEWEST_IMAGES:
                    shifts[name] = compare_values(*sides)
        shifts[CONFIDENCE_TRAIT] = compare_values(confidence[leaders], new)
        places = {name: place for place, name in enumerate(answers.class_names)}
        now = np.bincount(counted["class"].map(places).to_numpy(int), minlength=len(places))
        mix = compare_mixes(np.bincount(answers.predicted[leaders], minlength=len(places)), now)
        p = {**{name: shift.p for name, shift in shifts.items()}, MIX_TRAIT: mix.p}
        p_holm = dict(zip(p, correct_by_holm(np.array(list(p.values()))).tolist(), strict=True))
        expected = estimate_accuracy(confidence, answers.right, new, reference.groups)
    plan = plan_labels(new, fit_chances(confidence, answers.right, new), counted["sha256"].to_numpy(str))
    verdict = judge(
        expected, _list_differing(shifts, mix, p_holm), _has_fallen(shifts, p_holm), margin, reference.root is not None,
        len(counted), len(leaders),
    )  # fmt: skip
    findings = [
        Finding(verdict.severity, verdict.kind, f"{verdict.headline}. {verdict.words}"),
        *sort_findings([
            *_describe_shifts(shifts, mix, p_holm, answers.class_names), *_describe_photos(frame),
            *_describe_reference(model, reference, expected, searched_near_copies),
        ]),
    ]  # fmt: skip
    # Of the model too: the order of another one's photos to label is another one.
    name = f"{root.resolve().name or 'photos'}-{hash_text(f'{root.resolve()} {model.run_id}')[:8]}"
    return DriftFindings(
        str(root), findings, model.words, model.run_id, verdict, expected, frame, shifts, mix, p_holm, answers.class_names,
        len(leaders), plan, root, name,
    )  # fmt: skip


def read_confidence(answers: "Predictions") -> np.ndarray:
    """Returns the confidence of stored answers as the model gave it: float32 (N,).

    Text becomes another float64 number than the model's float32 number does, so that equal probabilities would not be equal.
    """
    return answers.probabilities.max(axis=1).astype(np.float32)


def _list_differing(shifts: Mapping[str, Shift], mix: MixShift | None, p_holm: Mapping[str, float]) -> list[str]:
    """Returns the names of what differs by more than slightly, apart from the confidence, which the estimate takes into account."""
    sizes = {
        name: _size(max(shift.distance, abs(shift.effect)), p_holm[name])
        for name, shift in shifts.items()
        if name != CONFIDENCE_TRAIT
    }
    if mix is not None:
        sizes[MIX_TRAIT] = _size(mix.distance, p_holm[MIX_TRAIT])
    return [NAMES[name] for name, size in sizes.items() if size in ("moderate", "strong")]


def _has_fallen(shifts: Mapping[str, Shift], p_holm: Mapping[str, float]) -> bool:
    """Returns whether the confidence is lower by more than slightly."""
    shift = shifts.get(CONFIDENCE_TRAIT)
    if shift is None or shift.effect >= 0:
        return False
    return _size(max(shift.distance, -shift.effect), p_holm[CONFIDENCE_TRAIT]) in ("moderate", "strong")


def judge(
    expected: ExpectedAccuracy | None,
    differing: Sequence[str],
    has_fallen: bool,
    margin: float,
    is_compared: bool,
    photos: int,
    images: int,
) -> Verdict:
    """Returns whether the validation accuracy can still be expected.

    Args:
        expected: the accuracy on the photos; None if there are too few photos or images.
        differing: names of what differs by more than slightly, apart from the confidence.
        has_fallen: whether the confidence is clearly lower than on the validation images.
        margin: a loss of accuracy up to this is accepted, in (0, 1).
        is_compared: whether the photos were compared with the files of the validation images, not only with the answers to these.
        photos: how many are counted.
        images: how many independent validation images there are.
    """
    label = f"Label the first photos of {LABELS_FILE} to know more"
    if expected is None:
        few = plural(photos, "photo") if photos < FEWEST_IMAGES else plural(images, "independent validation image")
        words = (
            f"{FEWEST_IMAGES} are the least for a comparison. Unreadable photos are not counted, nor those that show the same "
            "picture as a training or validation image, or as another photo"
        )
        return Verdict("too few", f"Nothing can be said: only {few} can be counted", words)
    disagree = expected.disagreement > margin
    estimate = _describe_estimate(expected, disagree)
    few_wrong = _describe_few_wrong(expected)
    differ = f"The photos differ from the validation images in {listed(differing)}" if differing else ""
    loss = f"a loss of more than {100 * margin:g} points"
    is_lower = expected.change_high < 0
    # Without mistakes to learn from, a method may claim a loss that another one denies.
    if is_lower and not (disagree and few_wrong):
        return Verdict(
            "lower",
            "The validation accuracy cannot be expected on these photos",
            _join(estimate, few_wrong, differ, label),
            not disagree,
        )
    if is_lower or expected.change_low < -margin or has_fallen or disagree:
        fallen = "The confidence is clearly lower than on the validation images" if has_fallen else ""
        unknown = f"{loss.capitalize()} is neither shown nor excluded"
        headline = "Whether the validation accuracy can be expected is undecided"
        words = _join(estimate, few_wrong, fallen, unknown, differ, label)
        return Verdict("undecided", headline, words, not disagree)
    if differing or not is_compared:
        why = differ or "Whether the photos themselves look different could not be compared"
        unsure = f"{why}, and confidence can be wrong on photos of another kind"
        words = _join(unsure, estimate, few_wrong, label)
        return Verdict("doubtful", "The model's confidence shows no loss, but it may not see one", words)
    words = _join(estimate, few_wrong, f"{loss.capitalize()} is not to be expected, and nothing else differs much")
    return Verdict("expected", "The validation accuracy can still be expected", words)


def _describe_estimate(expected: ExpectedAccuracy, disagree: bool) -> str:
    """Returns the sentence about the accuracy on the photos; if the methods disagree, it names all of them."""
    was, interval = percent_with_unit(expected.validation), percent_interval(expected.low, expected.high)
    threshold, difference, regression = map(percent_with_unit, expected.methods)
    if disagree:
        return (
            f"The accuracy cannot be estimated from the model's confidence, because the methods disagree: {threshold} by a "
            f"threshold, {difference} by the difference of confidences, {regression} by a regression (95% interval {interval}); "
            f"{was} was its validation accuracy"
        )
    return f"{threshold} is estimated from the model's confidence (95% interval {interval}), {was} was its validation accuracy"


def _describe_few_wrong(expected: ExpectedAccuracy) -> str:
    """Returns the sentence about few wrong validation answers; "" if there are enough."""
    if expected.wrong >= FEW_WRONG:
        return ""
    few = f"Only {plural(expected.wrong, 'validation answer')} {agree(expected.wrong, 'was', 'were')}"
    return (
        f"{few if expected.wrong else 'No validation answer was'} wrong, so the threshold is not determined: how confident wrong "
        "answers are is hardly known"
    )


def _join(*sentences: str) -> str:
    """Returns the sentences that are not empty, with full stops between them."""
    return ". ".join(sentence for sentence in sentences if sentence)


def _describe_shifts(
    shifts: Mapping[str, Shift], mix: MixShift | None, p_holm: Mapping[str, float], class_names: Sequence[str]
) -> list[Finding]:
    found = []
    for name, shift in shifts.items():
        size = _size(max(shift.distance, abs(shift.effect)), p_holm[name])
        if size:
            words = (
                f"{NAMES[name]} ({UNITS[name]}) differs, {size}: median {shift.new[1]:.4g} instead of {shift.former[1]:.4g}, "
                f"effect {shift.effect:+.2f} ({shift.low:+.2f} to {shift.high:+.2f}), corrected {p_value(p_holm[name])}"
            )
            found.append(Finding(NOTE if size == "slight" else WARNING, "differs", words))
    if mix is not None and (size := _size(mix.distance, p_holm[MIX_TRAIT])):
        most = int(np.abs(mix.new - mix.former).argmax())
        words = (
            f"predicted classes differ, {size}: {class_names[most]!r} is {percent_with_unit(mix.new[most])} of the answers "
            f"instead of {percent_with_unit(mix.former[most])}, corrected {p_value(p_holm[MIX_TRAIT])}. Either the classes have "
            "become more or less frequent, which the estimated accuracy does not see, or the model mistakes them for each other"
        )
        found.append(Finding(NOTE if size == "slight" else WARNING, "differs", words))
    return found


def _describe_photos(frame: pd.DataFrame) -> list[Finding]:
    found = []
    broken = frame[frame["problem"] != ""]
    if len(broken):
        words = f"{plural(len(broken), 'photo')} cannot be read and {agree(len(broken), 'is', 'are')} left out"
        found.append(Finding(WARNING, "unreadable", words, tuple(broken["file"])))
    same = frame[frame["same_as"] != ""]
    known = same["same_as"].str.startswith(("train: ", "val: "))
    for rows, kind, words in (
        (same[known], "known", "the same picture as a training or validation image: not new, and left out"),
        (same[~known], "double", "the same picture as another photo: one of them is counted"),
    ):
        if len(rows):
            files = tuple(f"{file} = {other}" for file, other in zip(rows["file"], rows["same_as"], strict=True))
            said = f"{plural(len(rows), 'photo')} {agree(len(rows), 'shows', 'show')} {words}"
            found.append(Finding(WARNING if kind == "known" else NOTE, kind, said, files))
    return found


def _describe_reference(
    model: TrainedModel, reference: _Reference, expected: ExpectedAccuracy | None, searched_near_copies: bool
) -> list[Finding]:
    found = []
    if reference.problem:
        words = (
            f"the images of {model.words} cannot be compared, only its stored answers: {reference.problem.rstrip('.')}. If they "
            "have moved: dataset.archive=PATH. Near-copies were not looked for, only copies"
        )
        found.append(Finding(WARNING, "images gone", words))
    elif not reference.searches_near_copies:
        words = "only copies were looked for among the images, no near-copies, as in training (dataset.near_duplicates)"
        found.append(Finding(NOTE, "copies", words))
    elif not searched_near_copies:
        words = (
            f"more than {MOST_CANDIDATES:,} pairs of images look alike at first sight, as photos of one fixed camera do, so only "
            "copies were looked for, no near-copies. Near-copies count as photos of their own, which makes the intervals too narrow"
        )
        found.append(Finding(WARNING, "copies", words))
    if expected is not None:
        found.append(Finding(NOTE, "assumption", ASSUMPTION))
    if reference.run.chose_on_val:
        words = (
            f"the model is that of the epoch that did best on the validation images, so their accuracy is a little too good; "
            f"without that advantage it is {percent_with_unit(reference.run.fair_score[0])}"
        )
        found.append(Finding(NOTE, "chosen on val", words))
    return found
