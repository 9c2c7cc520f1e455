"""The records that a comparison is made of, one per run, and what can be computed from them alone."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

import numpy as np
import pandas as pd

from catdog.data.groups import code_groups
from catdog.data.history import History
from catdog.data.predictions import Predictions
from catdog.registry.ledger import Look
from catdog.statistics.contrasts import single_interval
from catdog.statistics.metrics import ACCURACY, BALANCED, NAMED, Metric
from catdog.statistics.proportions import wilson_interval
from catdog.system.wording import agree, in_groups, listed, plural
from catdog.tracking import metric_names
from catdog.tracking.scores import Score
from catdog.tracking.tags import Tags

NAN = float("nan")
NO_INTERVAL = (NAN, NAN)
FINISHED = "FINISHED"
# Where the largest class has more than so many times the images of the smallest, accuracy alone misleads.
IMBALANCED = 2
# The status here of a run that was deleted in MLflow, whatever its status was there.
DELETED = "DELETED"
# A trial of a search that waits at its checkpoint.
PAUSED = "PAUSED"


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One run as the tracking store knows it.

    A run has two models. The accuracies of the last epoch's model are in `history`. The kept model, usually that of the best
    epoch, made `predictions`, and its accuracy is counted from them. If the validation images chose its epoch, that accuracy is too
    high; `accuracy` is the fair one, which comparisons go by.

    Args:
        run_id: MLflow's run id.
        name: its unique name in this comparison, "cnn" or "cnn seed=1".
        variant: the name of its variant, which is its config without the seed.
        seed: the run's seed.
        status: MLflow's status: FINISHED, FAILED, KILLED or RUNNING; or DELETED, or PAUSED.
        params: every leaf of the composed config, "trainer.epochs": "20".
        tags: MLflow's tags.
        metrics: last values, "kept_epoch", "final_val_loss", "model_parameters" and so on; "test/accuracy" only after
            `evaluate`.
        history: the metrics by epoch; empty if the run failed early.
        predictions: of the kept model on the validation split; empty if there are none.
        artifact_uri: where its files are.
        score: what the kept model counts for on each of these images; None: whether it is right.
        measured: the same by metrics other than the accuracy, by their names.
    """

    run_id: str
    name: str
    variant: str
    seed: int
    status: str
    params: dict[str, str]
    tags: Tags
    metrics: dict[str, float]
    history: History
    predictions: Predictions
    artifact_uri: str = ""
    score: Score | None = None
    measured: Mapping[str, Score] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the run has finished; only then can its numbers be compared with others."""
        return self.status == FINISHED

    @property
    def epochs(self) -> int:
        """Epochs that were completed."""
        return len(self.history)

    @property
    def kept_epoch(self) -> int | None:
        """The epoch whose model was kept; None if no model was kept."""
        epoch = self.metric(
            metric_names.KEPT_EPOCH if metric_names.KEPT_EPOCH in self.metrics else metric_names.BEST_EPOCH
        )
        return None if np.isnan(epoch) else int(epoch)

    @property
    def kept_tracked_accuracy(self) -> float:
        """The validation accuracy of the kept model that was tracked during training, in [0, 1]; NaN if there is none."""
        if self.averages_flips:
            return self.metric(metric_names.KEPT_VAL_ACCURACY)
        return NAN if self.kept_epoch is None else self.history.at(self.kept_epoch, "val/accuracy")

    @property
    def clean_train_accuracy(self) -> float:
        """The kept model's accuracy on the training images, without augmentation and dropout, in [0, 1]; NaN if unknown."""
        return self.metric(metric_names.CLEAN_TRAIN_ACCURACY)

    @property
    def parameters(self) -> float:
        """How many parameters its model has; NaN if unknown."""
        return self.metric(metric_names.PARAMETERS)

    @property
    def trainable_parameters(self) -> float:
        """How many of them are trained; NaN if unknown."""
        return self.metric(metric_names.TRAINABLE_PARAMETERS)

    @property
    def picked(self) -> bool:
        """Whether the kept model was chosen by its results on the validation images, which are then slightly optimistic."""
        return self.params.get("trainer.keep") != "last"

    @property
    def has_clean_accuracy(self) -> bool:
        """Whether train/accuracy was measured on a fixed sample of images as they are, and not on what training saw."""
        mixed = any(float(self.params.get(f"augmentation.mix.{kind}") or 0) > 0 for kind in ("mixup", "cutmix"))
        return mixed or self.params.get("trainer.train_accuracy") == "clean"

    @property
    def averages_flips(self) -> bool:
        """Whether the kept model averages over the image and its mirror image, unlike the validation after each epoch."""
        return self.params.get("trainer.average_flips") == "True"

    @cached_property
    def seconds_per_epoch(self) -> float:
        """The median over epochs, because the first epoch also compiles and fills caches."""
        known = self.epochs > 0 and "epoch_seconds" in self.history
        return float(np.nanmedian(self.history["epoch_seconds"])) if known else NAN

    @property
    def device(self) -> str:
        """What catdog trained it on, cpu or gpu; "" if it did not: another tool's run, or an ensemble."""
        return self.tags.runtime.get("device", "")

    @property
    def seconds(self) -> float:
        """What the whole run took: CPU seconds, or with a GPU seconds of wall time; NaN if that is unknown."""
        key = {"cpu": "run_cpu_seconds", "gpu": "run_seconds"}.get(self.device)
        return self.metric(key) if key else NAN

    def metric(self, key: str) -> float:
        """The last value of a metric; NaN if it was never logged."""
        return float(self.metrics.get(key, NAN))

    def last(self, column: str) -> float:
        """The last epoch's value of a column of `history`; NaN if there is none."""
        return self.history.last(column)

    def last_interval(self, column: str, images: int) -> tuple[float, float]:
        """The 95% Wilson interval of the last epoch's accuracy in `column`, measured on that many images."""
        accuracy = self.last(column)
        return NO_INTERVAL if np.isnan(accuracy) or images < 1 else wilson_interval(round(accuracy * images), images)

    @cached_property
    def answers(self) -> pd.DataFrame:
        """The kept model's answers.

        Returns:
            Index file; columns label and predicted (class names), probability (of the predicted class, in [0, 1]) and
            right (bool).
        """
        found = self.predictions
        names = np.array([*found.class_names, ""], dtype=object)
        return pd.DataFrame(
            {
                "label": found.labels,
                "predicted": names[found.predicted],
                "probability": found.probabilities.max(axis=1, initial=0.0),
                "right": found.right,
            },
            index=self.files,
        )

    @cached_property
    def files(self) -> pd.Index:
        """The images that the kept model answered, by name."""
        return pd.Index(self.predictions.files, dtype=object, name="file")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that the kept model knows, in its order; none without predictions."""
        return self.predictions.class_names

    def answers_alike(self, other: "RunRecord") -> bool:
        """Whether the other run answered the same images, in the same order and with the same labels."""
        return self.files.equals(other.files) and bool((self.predictions.labels == other.predictions.labels).all())

    @property
    def kept_images(self) -> int:
        """Validation images that the kept model answered."""
        return len(self.predictions) if self.class_names else 0

    @property
    def kept_correct(self) -> int:
        """How many validation images the kept model got right."""
        return self.predictions.correct

    @property
    def kept_accuracy(self) -> float:
        """The kept model's validation accuracy in [0, 1], counted from its predictions; NaN without predictions."""
        return self.predictions.accuracy if self.kept_images else NAN

    @cached_property
    def scores(self) -> np.ndarray:
        """What the kept model counts for on each validation image: float64 (N,)."""
        return self.predictions.right.astype(float) if self.score is None else self.score.values

    @property
    def is_flattered(self) -> bool:
        """Whether the validation images chose the kept model and its score does not account for it, as in an older run."""
        return self.picked if self.score is None else self.score.is_flattered

    @property
    def is_cross_fitted(self) -> bool:
        """Whether the score accounts for the choice of the epoch on the validation images."""
        return self.score is not None and self.score.is_cross_fitted

    def score_by(self, metric: Metric) -> Score:
        """Returns the scores by a metric that was measured."""
        if metric.is_accuracy:
            return Score(self.scores, self.is_flattered, self.is_cross_fitted)
        return self.measured.get(metric.name, Score(np.full(len(self.predictions), NAN)))

    @property
    def accuracy(self) -> float:
        """The accuracy that comparisons go by, in [0, 1]; NaN without predictions."""
        return float(self.scores.mean()) if self.is_cross_fitted else self.kept_accuracy

    def interval(self, groups: np.ndarray | None = None) -> tuple[float, float]:
        """Returns the 95% interval of `accuracy` over images; NaN without predictions.

        Args:
            groups: int (N,), the group of each image; None: every image stands for itself.
        """
        if not self.kept_images or (groups is None and not self.is_cross_fitted):
            return self.kept_interval
        return single_interval(self.scores, groups)

    @cached_property
    def kept_interval(self) -> tuple[float, float]:
        """The 95% Wilson interval of `kept_accuracy`; NaN without predictions."""
        return wilson_interval(self.kept_correct, self.kept_images) if self.kept_images else NO_INTERVAL


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Which run got which image right.

    Args:
        files: the N images' names, an index called file.
        runs: the R runs' names.
        right: bool (N, R), images by runs.
        scores: float64 (N, R), what each counts for; None: whether it is right.
        measured: float64 (N, R), the values of the metric that is compared; None: that is the accuracy.
    """

    files: pd.Index
    runs: Sequence[str]
    right: np.ndarray
    scores: np.ndarray | None = None
    measured: np.ndarray | None = None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.files)

    def of(self, runs: Sequence[str]) -> np.ndarray:
        """Returns whether these runs are right: bool (S, N), in the order in which they are named."""
        # Each run's images are contiguous in memory, so sums over them are bit-identical whichever runs are chosen.
        return np.ascontiguousarray(self.right[:, [self._places[run] for run in runs]].T)

    def scores_of(self, runs: Sequence[str]) -> np.ndarray:
        """Returns what the answers of these runs count for: float64 or bool (S, N), in the order in which they are named."""
        if self.scores is None:
            return self.of(runs)
        return np.ascontiguousarray(self.scores[:, [self._places[run] for run in runs]].T)

    def measured_of(self, runs: Sequence[str]) -> np.ndarray | None:
        """Returns the values of the metric that is compared: float64 (S, N); None if that is the accuracy."""
        if self.measured is None:
            return None
        return np.ascontiguousarray(self.measured[:, [self._places[run] for run in runs]].T)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {run: place for place, run in enumerate(self.runs)}


@dataclass(frozen=True, eq=False)
class ComparedRuns:
    """Runs that answer one question, and what they were measured on.

    Args:
        study: the MLflow experiment.
        sweep_id: the parent run's id; "" for single runs.
        records: the runs, in the order in which they are shown; the first digits of the run id are added to equal names.
        class_names: the classes, in the model's order.
        baseline: validation accuracy of always answering the most common class, in [0, 1].
        train_images: size of the training split.
        val_images: size of the validation split.
        data_digest: sha256 of the data.
        command: the command line that started the sweep.
        created: when the comparison was made.
        picture: file, as in `predictions`, -> uint8 (H, W, 3), or None if it is not available.
        sweep_status: MLflow's status of the sweep: FINISHED once all its runs have finished.
        looks: the looks at the test split of this data, by any model, the oldest first.
        removed: how many runs of the finished sweep the store does not have: they were removed for good, or are not delivered yet.
        planned: how many runs the sweep was started with; 0: not known, or single runs.
        restore: the command that restores the sweep's deleted runs; "" if none is deleted.
        groups: the group of each image by file, if images come in groups; empty otherwise.
        groups_by: who named the groups: a pattern, a file, or near_duplicates; "" if nobody did.
        decided: what `decide` found out about the pairs of the sweep, in sentences; none if it did not train the sweep.
        decided_by: the metric by which it did.
        metric: what is compared.
        of_search: whether the runs are the trials of a search.
    """

    study: str
    sweep_id: str
    records: Sequence[RunRecord]
    class_names: Sequence[str]
    baseline: float
    train_images: int
    val_images: int
    data_digest: str
    command: str
    created: datetime
    picture: Callable[[str], np.ndarray | None]
    sweep_status: str = FINISHED
    looks: Sequence[Look] = ()
    removed: int = 0
    planned: int = 0
    restore: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    groups_by: str = ""
    decided: Sequence[str] = ()
    decided_by: str = ACCURACY.name
    metric: Metric = ACCURACY
    of_search: bool = False

    def __post_init__(self) -> None:
        times = Counter(record.name for record in self.records)
        named = [
            record if times[record.name] == 1 else replace(record, name=f"{record.name} {record.run_id[:8]}")
            for record in self.records
        ]
        object.__setattr__(self, "records", tuple(named))

    @property
    def finished(self) -> list[RunRecord]:
        """The runs that have finished."""
        return [record for record in self.records if record.finished]

    @cached_property
    def complete(self) -> bool:
        """Whether the sweep and all its runs have finished, none was deleted, and every run has predictions."""
        whole = self.sweep_status == FINISHED and not self.removed
        return whole and all(record.finished and record.kept_images for record in self.records)

    @property
    def untrained(self) -> int:
        """How many runs of a sweep that has not finished were never started."""
        return max(0, self.planned - len(self.records)) if self.sweep_status != FINISHED else 0

    def describe_untrained(self) -> str:
        """Returns how many of the planned runs of the sweep there are, and how many have not been trained."""
        missing = self.untrained
        there = f"{len(self.records):,} of {plural(self.planned, 'planned run')}"
        return f"{there}; {missing:,} {agree(missing, 'has', 'have')} not been trained"

    @property
    def is_partial(self) -> bool:
        """Whether runs of the sweep are missing that its command would train, or a restoration would bring back."""
        unfinished = self.sweep_status not in (FINISHED, "FAILED")
        return bool(self.sweep_id) and (unfinished or self.untrained > 0 or self.has_lost_runs)

    @property
    def has_lost_runs(self) -> bool:
        """Whether runs of the sweep were deleted."""
        return self.removed > 0 or any(record.status == DELETED for record in self.records)

    @cached_property
    def ranked(self) -> list[RunRecord]:
        """The finished runs with predictions, the highest validation accuracy of the kept model first."""
        predicted = [record for record in self.finished if record.kept_images]
        return sorted(predicted, key=lambda record: -record.accuracy)

    @property
    def flattered(self) -> list[RunRecord]:
        """The finished runs that the validation images chose, and whose accuracy does not account for it."""
        return [record for record in self.ranked if record.score_by(self.metric).is_flattered]

    def describe_choice(self) -> str:
        """Returns which epoch the runs kept, unless it is the last one, in words."""
        by = {record.params.get("trainer.keep_metric") or ACCURACY.name for record in self.records if record.picked}
        if by <= {ACCURACY.name}:
            return "the epoch with the highest validation accuracy"
        return f"the best epoch on the validation images by {listed(sorted(NAMED[name].words for name in by))}"

    @cached_property
    def class_counts(self) -> dict[str, int]:
        """Class -> how many of the images that all runs answered have this label, in the order of the classes."""
        if not self.ranked:
            return {}
        labels = Counter(self.ranked[0].answers["label"].reindex(self.outcomes.files))
        return {name: labels[name] for name in self.class_names if labels[name]}

    @property
    def is_imbalanced(self) -> bool:
        """Whether the largest class has more than twice the images of the smallest."""
        return is_imbalanced(list(self.class_counts.values()))

    @property
    def shows_balanced(self) -> bool:
        """Whether the balanced accuracy is shown without being asked for, and is known."""
        known = all(BALANCED.name in record.measured for record in self.ranked)
        return self.is_imbalanced and known and self.metric.name != BALANCED.name

    @cached_property
    def outcomes(self) -> Outcomes:
        """Which finished run with predictions got which image right.

        Only images that all of them answered with the same label are included; otherwise the comparison would not be paired.
        """
        records = [record for record in self.finished if record.kept_images]
        names = [record.name for record in records]
        if not records:
            return Outcomes(pd.Index([], dtype=object, name="file"), names, np.zeros((0, 0), dtype=bool))
        fitted = any(record.is_cross_fitted for record in records)
        if all(record.answers_alike(records[0]) for record in records):
            # A shortcut for the usual case: with a thousand runs it is a hundred times as fast.
            return Outcomes(
                records[0].files,
                names,
                np.stack([record.predictions.right for record in records], axis=1),
                np.stack([record.scores for record in records], axis=1) if fitted else None,
                None
                if self.metric.is_accuracy
                else np.stack([record.score_by(self.metric).values for record in records], axis=1),
            )
        labels = pd.concat([record.answers["label"] for record in records], axis=1, join="inner")
        same = labels.nunique(axis=1, dropna=False) == 1
        rights = pd.concat([record.answers["right"] for record in records], axis=1, join="inner")[same]

        def join(values: Sequence[np.ndarray]) -> np.ndarray:
            by_file = [pd.Series(one, index=record.files) for one, record in zip(values, records, strict=True)]
            return pd.concat(by_file, axis=1, join="inner").loc[rights.index].to_numpy(dtype=float)

        scores = join([record.scores for record in records]) if fitted else None
        measured = None if self.metric.is_accuracy else join([r.score_by(self.metric).values for r in records])
        return Outcomes(rights.index, names, rights.to_numpy(dtype=bool), scores, measured)

    def code_groups(self, files: Iterable[str]) -> np.ndarray | None:
        """Returns the groups of images, int (N,) in the order of `files`; None if each is a group of its own."""
        return code_groups([self.groups.get(file, file) for file in files]) if self.groups else None

    @cached_property
    def groups_of_outcomes(self) -> np.ndarray | None:
        """The groups of the images in `outcomes`, int (N,), as by `code_groups`."""
        return self.code_groups(self.outcomes.files)

    @cached_property
    def val_groups(self) -> int | None:
        """How many groups the images in `outcomes` come in; None if each is a group of its own."""
        codes = self.groups_of_outcomes
        return None if codes is None else int(codes.max()) + 1

    @property
    def are_groups_named(self) -> bool:
        """Whether `dataset.groups` named the groups; if not, they are the near-duplicates that the splitter kept together."""
        return any(record.params.get("dataset.groups", "None") != "None" for record in self.finished)

    @property
    def shown_images(self) -> str:
        """How many validation images there are, and in how many groups: `800 validation images in 200 groups`."""
        return in_groups(self.val_images, self.val_groups, "validation image")

    def interval_of(self, record: RunRecord) -> tuple[float, float]:
        """Returns the 95% interval of a run's `accuracy` over images, or over groups of images; NaN without predictions."""
        return record.interval(self.code_groups(record.predictions.files) if record.kept_images else None)

    @cached_property
    def same_data(self) -> bool:
        """Whether all finished runs saw the same data: one digest, and the same images with the same labels."""
        # Runs without a digest are still told apart by the files that they predicted.
        digests = {record.tags.data_digest for record in self.finished} - {""}
        return len(digests) <= 1 and all(record.kept_images == len(self.outcomes) for record in self.ranked)


def is_imbalanced(counts: Sequence[int]) -> bool:
    """Returns whether the largest of these classes has more than twice the images of the smallest."""
    return len(counts) > 1 and max(counts) > IMBALANCED * min(counts)
