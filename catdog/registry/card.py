"""The model card: what is on record about one model, for whoever is to use it. Nothing in it is measured anew or written by hand.

What the store does not know, the card says is not recorded. It is written when a version is registered, and again after a look at
its test split; `python -m catdog.card` writes it as a file at any time.
"""

import contextlib
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from catdog.registry.aliases import name_study
from catdog.registry.descriptions import put_paragraph
from catdog.registry.evidence import Evidence, Reason
from catdog.registry.ledger import Look, digest_test, read_looks
from catdog.statistics.contrasts import count_groups, single_interval
from catdog.statistics.proportions import precision_and_recall
from catdog.system.errors import UserError
from catdog.system.wording import agree, in_groups, listed, percent_interval, percent_with_unit, plural
from catdog.tracking import tags as tag
from catdog.tracking.identity import DIGITS
from catdog.tracking.models import load_model_metadata
from catdog.tracking.records import StoredRun, find_run
from catdog.tracking.scores import Score, load_score

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from catdog.data.predictions import Predictions
    from catdog.statistics.calibration import Calibration

log = logging.getLogger(__name__)

# Where the cards of a run's versions are among its artifacts, and how the paragraph in a version's description begins.
FOLDER, LINE = "model_cards", "Model card:"
SPLITS = ("train", "val", "test")
# More classes make a table of all pairs unreadable, and a line of all names too long.
MOST_CLASSES = 12
MOST_PAIRS, MOST_MISTAKES, MOST_SEEDS, MOST_LOOKS = 12, 24, 12, 20


class Mistake(NamedTuple):
    """A wrong answer to a validation image: what it shows, what the model said, and its probability in [0, 1]."""

    file: str
    label: str
    predicted: str
    probability: float


class Recall(NamedTuple):
    """How many images of a class are found, with the 95% interval; and the share of right ones among those named so."""

    name: str
    images: int
    recall: float
    interval: tuple[float, float]
    precision: float


@dataclass(frozen=True, eq=False)
class Card:
    """What is on record about a model.

    Args:
        words: the model in a sentence, "flowers version 3".
        study: the study that trained it.
        run: the run that trained it.
        version: its version; None if the model was named by its run.
        aliases: those of the version, when the card was made.
        splits: the split of each image: columns file, label, split, sha256; empty if nothing is stored.
        predictions: its answers to the validation images; empty if nothing is stored.
        score: what they count for.
        groups: int (N,), the group of each of these images; None if each is a group of its own.
        evidence: why the version was chosen; None if it is not recorded.
        sides: the seeds that were compared, in words: of the challenger, and of the champion of that time.
        opponent: the champion of that time in words; "" if none was compared or it is not known.
        looks: at its test split, by all models together, oldest first; None if it is not known which images that has.
        made: when the card was made.
        metadata: what is saved with the model: `class_names`, `image_size` and `needs`; empty if it cannot be read.
    """

    words: str
    study: str
    run: StoredRun
    version: "ModelVersion | None"
    aliases: tuple[str, ...]
    splits: "pd.DataFrame"
    predictions: "Predictions"
    score: Score
    groups: np.ndarray | None
    evidence: Evidence | None
    sides: tuple[str, str]
    opponent: str
    looks: Sequence[Look] | None
    made: datetime
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """MLflow's address of the model."""
        return f"models:/{self.version.name}/{self.version.version}" if self.version else str(self.run.model_uri or "")

    @property
    def named(self) -> str:
        """The value of `model=` that names it."""
        return f"{self.version.name}/{self.version.version}" if self.version else self.run.run_id

    @property
    def class_names(self) -> list[str]:
        """Its classes, in the order of its outputs; empty if they are not recorded.

        The run's tag comes last: it is a list with commas, which a name may contain, and MLflow cuts it off if it is long.
        """
        return list(self.predictions.class_names) or list(self.metadata.get("class_names", ())) or self.run.class_names

    @property
    def image_size(self) -> int:
        """H = W in pixels of the images that it takes; 0 if it is not recorded."""
        return int(self.metadata.get("image_size", 0)) or self.run.image_size

    @property
    def needs(self) -> list[str]:
        """The modules that loading it takes besides Keras."""
        return list(self.metadata.get("needs", ()))

    @property
    def seed_words(self) -> str:
        """The seed of its run."""
        return _describe_seed(self.run)

    @property
    def command(self) -> str:
        """The command that uses it."""
        return f"python -m catdog.predict PHOTO.jpg FOLDER {shlex.quote(f'model={self.named}')}"

    @property
    def looks_words(self) -> str:
        """How often its test images were looked at, in a sentence."""
        when = f"{self.made:%Y-%m-%d}"
        if self.looks:
            return f"As of {when}, its test images were looked at {plural(len(self.looks), 'time')}."
        if self.test or self.run.tags.get(tag.TEST_LOOKS):
            return "Its run has a look on record, but the ledger of this store has none at its test images."
        if self.looks is None:
            return "Whether its test images were looked at is not recorded."
        return f"As of {when}, the ledger of this store has no look at its test images."

    @cached_property
    def counts(self) -> list[tuple[str, list[int]]]:
        """Class -> its images in train, val and test, the last row being "all"; empty if not recorded."""
        if not len(self.splits):
            return []
        table = self.splits.groupby(["label", "split"]).size().unstack(fill_value=0)
        table = table.reindex(columns=list(SPLITS), fill_value=0)
        rows = [
            (str(name), [int(count) for count in row]) for name, row in zip(table.index, table.to_numpy(), strict=True)
        ]
        return [*rows, ("all", [int(count) for count in table.to_numpy().sum(axis=0)])]

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the val accuracy, over images or their groups; NaN if it is not known."""
        return single_interval(self.score.values, self.groups) if len(self.predictions) else (np.nan, np.nan)

    @property
    def accuracy_words(self) -> str:
        """The val accuracy with its interval, in words."""
        if not len(self.predictions):
            return "not recorded"
        images = in_groups(len(self.predictions), count_groups(self.groups), "validation image")
        return f"{percent_with_unit(self.score.mean)} on {images}, 95% interval {percent_interval(*self.interval)}"

    @property
    def accuracy_note(self) -> str:
        """What the accuracy accounts for."""
        if self.score.is_flattered:
            return "The epoch was chosen on these same images, and the accuracy does not account for that: it may be too high."
        if self.score.is_cross_fitted:
            plain = percent_with_unit(self.predictions.accuracy)
            return f"The epoch was chosen on these same images; the accuracy accounts for that. Plainly, {plain} are right."
        return (
            f"The interval is over {'images' if self.groups is None else 'groups of images'} alone: this is one model."
        )

    @property
    def test(self) -> tuple[float, float, float] | None:
        """Test accuracy with the bounds of its 95% interval; None if the model was not evaluated."""
        keys = ("test/accuracy", "test/accuracy_low", "test/accuracy_high")
        if keys[0] not in self.run.metrics:
            return None
        value, low, high = (self.run.metrics.get(key, float("nan")) for key in keys)
        return value, low, high

    @cached_property
    def knows_labels(self) -> bool:
        """Whether its answers to the validation images are recorded, and it knows the classes of all of them."""
        return len(self.predictions) > 0 and bool((self.predictions.label_indices >= 0).all())

    @cached_property
    def calibration(self) -> "Calibration | None":
        """Its calibration on the validation images; None if they are fewer than two, or of classes that it does not know."""
        from catdog.statistics.calibration import measure_calibration

        if not self.knows_labels or len(self.predictions) < 2:
            return None
        return measure_calibration(self.predictions.probabilities, self.predictions.label_indices)

    @property
    def confidence(self) -> float:
        """The mean probability of its answers to the validation images, in [0, 1]."""
        return float(self.predictions.probabilities.max(axis=1).mean())

    @cached_property
    def confusion(self) -> list[tuple[str, list[tuple[str, float]]]]:
        """True class -> its images by predicted class, as (count, share of the row); empty for many classes, or if not recorded."""
        if not self.knows_labels or len(self.predictions.class_names) > MOST_CLASSES:
            return []
        counts = self.predictions.confusion
        sums = np.maximum(counts.sum(axis=1), 1)
        return [
            (name, [(f"{count:,}", round(count / total, 3)) for count in row])
            for name, row, total in zip(self.predictions.class_names, counts.tolist(), sums.tolist(), strict=True)
        ]

    @cached_property
    def pairs(self) -> list[tuple[str, str, int]]:
        """True class, predicted class and number of images of the most frequent confusions, most first."""
        if not self.knows_labels:
            return []
        names, wrong = self.predictions.class_names, self.predictions.confusion.copy()
        np.fill_diagonal(wrong, 0)
        most = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
        places = [divmod(int(place), len(wrong)) for place in most]
        return [(names[true], names[taken], int(wrong[true, taken])) for true, taken in places if wrong[true, taken]]

    @cached_property
    def recalls(self) -> list[Recall]:
        """The classes with validation images, the lowest recall first."""
        if not self.knows_labels:
            return []
        counts = self.predictions.confusion
        precision, recall = precision_and_recall(counts)
        right, labels = self.predictions.right, self.predictions.label_indices

        def find_interval(place: int) -> tuple[float, float]:
            images = labels == place
            return single_interval(right[images], None if self.groups is None else self.groups[images])

        rows = [
            Recall(name, int(row.sum()), float(recall[place]), find_interval(place), float(precision[place]))
            for place, (name, row) in enumerate(zip(self.predictions.class_names, counts, strict=True))
            if row.sum()
        ]
        return sorted(rows, key=lambda row: row.recall)

    @cached_property
    def mistakes(self) -> list[Mistake]:
        """The wrong answers to validation images, the most confident first."""
        if not len(self.predictions):
            return []
        names, confidence = self.predictions.class_names, self.predictions.probabilities.max(axis=1)
        wrong = np.flatnonzero(~self.predictions.right)
        order = wrong[np.argsort(-confidence[wrong], kind="stable")][:MOST_MISTAKES]
        return [
            Mistake(
                str(self.predictions.files[place]), str(self.predictions.labels[place]),
                names[self.predictions.predicted[place]], float(confidence[place]),
            )
            for place in order
        ]  # fmt: skip

    @property
    def weights(self) -> str:
        """What is recorded about pre-trained weights, and their licence."""
        config = self.run.config
        if self.run.tags.ensemble_of:
            return "not recorded: it is an ensemble; the runs of its members say it"
        if any(_is_own_code(key, str(value)) for key, value in self.run.params.items()):
            return "not recorded: it was built by own code"
        if "backbone.weights" not in config:
            return "not recorded"
        weights = config["backbone.weights"]
        if weights is None:
            return "none: it was trained from initial weights"
        application = config.get("backbone.application") or config.get("backbone.name") or "backbone"
        # Of a file, only its name: the folder is of the machine that trained it.
        return f"{application}, {Path(str(weights)).name}. Their licence is not recorded: unknown."

    @property
    def summary(self) -> str:
        """The model in one line, without a full stop, for its version's page in MLflow."""
        train = self.counts[-1][1][0] if self.counts else 0
        names = self.class_names
        classes = f" of {len(names)} {agree(len(names), 'class', 'classes')}" if names else ""
        listing = f" ({', '.join(names)})" if 0 < len(names) <= MOST_CLASSES // 2 else ""
        trained = f"trained on {plural(train, 'image')}{classes}{listing}, " if train else ""
        return f"{trained}val accuracy {self.accuracy_words}"

    @property
    def html(self) -> str:
        """The card as one self-contained HTML page."""
        from catdog.system.pages import build_environment

        template = build_environment(Path(__file__).parent).get_template("card.html.j2")
        return template.render(
            card=self,
            run=self.run,
            first=Reason.FIRST,
            splits=SPLITS,
            digits=DIGITS,
            most_looks=MOST_LOOKS,
            listed=listed,
        )

    def save(self, path: str | Path) -> Path:
        """Writes the page and returns its path.

        Raises:
            UserError: the file cannot be written.
        """
        from catdog.system.saving import save_page

        return save_page(path, self.html)


def load_card(client: "MlflowClient", run_id: str, words: str, version: "ModelVersion | None" = None) -> Card:
    """Returns the card of a model, from what its run, its version and the test ledger have on record.

    Args:
        client: of the tracking store.
        run_id: the run that trained it.
        words: the model in a sentence.
        version: its version; None if the model is named by its run.

    Raises:
        UserError: the run is gone, or what it has stored cannot be read.
    """
    run = find_run(client, run_id) if run_id else None
    if run is None:
        raise UserError(
            f"model: the run that trained {words} is not in this tracking store, so nothing is on record about it. Name another "
            "model: model=RUN_ID."
        )
    splits, predictions = run.load_splits(), run.load_predictions()
    evidence = Evidence.from_tags(version.tags) if version else None
    sides, opponent = _describe_sides(client, evidence, version) if evidence and version else (("", ""), "")
    return Card(
        words=words,
        study=name_study(client, run),
        run=run,
        version=version,
        aliases=tuple(version.aliases) if version else (),
        splits=splits,
        predictions=predictions,
        score=load_score(client, run, predictions),
        groups=run.load_groups(predictions.files) if len(predictions) else None,
        evidence=evidence,
        sides=sides,
        opponent=opponent,
        looks=read_looks(client, digest_test(splits)) if len(splits) and (splits["split"] == "test").any() else None,
        made=datetime.now().astimezone(),
        metadata=_load_metadata(client, run),
    )


def _load_metadata(client: "MlflowClient", run: StoredRun) -> Mapping[str, Any]:
    """Returns what is saved with a run's model; empty if that cannot be read, whatever the reason."""
    with contextlib.suppress(Exception):
        return load_model_metadata(client, run.model_uri) if run.model_uri else {}
    return {}


def _is_own_code(key: str, value: str) -> bool:
    """Whether a key of the config names a user's function or class that a model is built with."""
    return key.startswith(("backbone.", "model.")) and key.endswith((".builder", ".layer")) and ":" in value


def _describe_sides(client: "MlflowClient", evidence: Evidence, version: "ModelVersion") -> tuple[tuple[str, str], str]:
    """Returns the seeds of the challenger and of the champion in words, and which version the champion was."""
    sides = tuple(_describe_runs(client, run_ids) for run_ids in (evidence.challenger_runs, evidence.champion_runs))
    others = client.search_model_versions(f"name = '{version.name}'") if evidence.champion_runs else []
    before = [one for one in others if one.run_id in evidence.champion_runs and int(one.version) < int(version.version)]
    # Of several seeds of one variant that are registered, nothing says which one was the champion.
    named = f"version {before[0].version}" if len(before) == 1 else ""
    return (sides[0], sides[1]), named


def _describe_runs(client: "MlflowClient", run_ids: Sequence[str]) -> str:
    """Returns runs by variant and seed: "cnn, seeds 0, 1 and 2"; of many runs only the number."""
    if not run_ids:
        return ""
    if len(run_ids) > MOST_SEEDS:
        return plural(len(run_ids), "run")
    runs = [run for run_id in run_ids if (run := find_run(client, run_id)) is not None]
    if not runs:
        return f"{plural(len(run_ids), 'run')} that the store no longer has"
    gone = len(run_ids) - len(runs)
    left = f", and {plural(gone, 'run')} that the store no longer has" if gone else ""
    if runs[0].tags.ensemble_of:
        # Its name has its members' seeds.
        return runs[0].variant + left
    seeds = [_describe_seed(run) for run in runs]
    return f"{runs[0].variant}, seed{'s' if len(seeds) > 1 else ''} {listed(seeds)}{left}"


def _describe_seed(run: StoredRun) -> str:
    return str(run.seed) if "seed" in run.params else "not recorded"


def name_file(name: str, version: str) -> str:
    """Returns where a version's card is among the artifacts of its run; several versions may be of one run."""
    plain = re.sub(r"[^\w .-]", "-", name)
    return f"{FOLDER}/{plain}-{version}.html"


def write_card(client: "MlflowClient", name: str, version: str) -> None:
    """Stores the card of a version with its run, and a line about it in the version's description. Never raises an error.

    Args:
        client: of the tracking store.
        name: of the registered model.
        version: the number.
    """
    description = ""
    try:
        found = client.get_model_version(name, version)
        description = found.description or ""
        card = load_card(client, found.run_id, f"{name} version {version}", found)
        file = name_file(name, version)
        client.log_text(found.run_id, card.html, file)
        line = f"{LINE} {card.summary}. All of it: {file} among the artifacts of its run, {card.run.name}."
        client.update_model_version(name, version, put_paragraph(description, LINE, line))
    except Exception as error:
        # A version without a card is better than none.
        log.debug("no model card", exc_info=True)
        what = (
            "the model card of %s version %s was not updated: %s"
            if LINE in description
            else "%s version %s has no model card: %s"
        )
        log.warning(what, name, version, str(error).splitlines()[0] if str(error) else error)


def write_cards_of(client: "MlflowClient", run_id: str) -> None:
    """Writes anew the cards of a run's versions, after something was recorded about it. Never raises an error."""
    try:
        versions = client.search_model_versions(f"run_id = '{run_id}'")
    except Exception:
        log.debug("no model cards", exc_info=True)
        return
    for version in versions:
        write_card(client, version.name, str(version.version))
