"""Checks labels by the cross-validated answers of a linear classifier on a frozen backbone's features."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import optimize, special

from catdog.auditing.findings import NOTE, WARNING, Finding
from catdog.data.duplicates import connect
from catdog.statistics.labels import PLANNED, doubt_labels
from catdog.system.errors import UserError
from catdog.system.wording import agree, plural

if TYPE_CHECKING:
    from catdog.config.schema import BackboneConfig
    from catdog.data.dataset import Dataset, SplitImages

log = logging.getLogger(__name__)

FOLDS = 5
# Penalties per image of the squared weights, of which the one with the lowest loss on the first fold is taken.
PENALTIES = (0.03, 0.3, 3.0)
MOST_STEPS = 200
BATCH = 32
# The size that training gives images without further options.
IMAGE_SIZE = 160
SUSPECT_COLUMNS = ("file", "label", "split", "suggested", "probability", "wrong")


@dataclass(frozen=True, eq=False)
class LabelCheck:
    """The result of a check of the labels.

    Attributes:
        backbone: the name of the frozen backbone.
        images: how many images of train and val were checked.
        accuracy: how many of their labels the classifier predicted without having been trained on them, in [0, 1].
        findable: if 2% of the labels were wrong at random, this fraction of them would be suspect, in [0, 1].
        suspects: one row per suspect label, the most probably wrong first: file, label, split, suggested (the class that it should
            perhaps be), probability (of that class, by the classifier), wrong (probability that the label is wrong).
    """

    backbone: str
    images: int
    accuracy: float
    findable: float
    suspects: pd.DataFrame

    @property
    def finding(self) -> Finding:
        """The result in words: a warning if labels are suspect, otherwise a note of what would have been found."""
        by = f"a classifier on the frozen backbone {self.backbone}, right on {self.accuracy:.1%}"
        share = f"If {PLANNED:.0%} were wrong at random, about {self.findable:.0%} of those"
        count = len(self.suspects)
        if not count:
            words = (
                f"no label of {plural(self.images, 'image')} is suspect: the mistakes expected of {by}, explain what "
                f"contradicts them. {share} would be found"
            )
            return Finding(NOTE, "labels", words)
        words = (
            f"{plural(count, 'label')} {agree(count, 'is', 'are')} more likely wrong than right, by cross-validated answers of "
            f"{by}. Look at the {agree(count, 'image', 'images')}: the label may be wrong, or the image unusual"
        )
        return Finding(WARNING, "suspect label", words, tuple(self.suspects["file"]))

    def to_dict(self) -> dict[str, Any]:
        """Returns it as numbers and texts, as `format=json` prints it."""
        return {
            "backbone": self.backbone, "images": self.images, "accuracy": self.accuracy, "findable": self.findable,
            "suspects": self.suspects.to_dict("records"),
        }  # fmt: skip


def load_checked(dataset: "Dataset") -> "dict[str, SplitImages]":
    """Returns the splits whose labels are checked: train and val.

    Raises:
        UserError: more images are unreadable than `dataset.max_unreadable_fraction` allows.
    """
    return {name: dataset.load_split(name, IMAGE_SIZE) for name in ("train", "val")}


def check_labels(splits: "dict[str, SplitImages]", backbone: str, pairs: Sequence[tuple[str, str]]) -> LabelCheck:
    """Returns the labels of train and val that are more likely wrong than right.

    A multinomial logistic regression on the backbone's features, averaged over the image, is trained on four fifths of the images
    and asked about the rest, five times; `catdog.statistics.labels.doubt_labels` judges its answers. The test split is left alone.

    Args:
        splits: the images of train and val, as `load_checked` returns them.
        backbone: the name of a file in `conf/backbone` with pre-trained weights.
        pairs: files that show the same picture; they stay in one fold, so that none confirms the label of another.

    Raises:
        UserError: the weights are not available.
    """
    classes = splits["train"].classes
    files = [file for split in splits.values() for file in split.files]
    labels = np.concatenate([split.labels for split in splits.values()])
    where = [name for name, split in splits.items() for _ in split.files]
    extract = _build_extractor(_load_backbone(backbone))
    parts = [
        extract(split.gather(np.arange(start, min(start + BATCH, len(split))))[0])
        for split in splits.values()
        for start in range(0, len(split), BATCH)
    ]
    probabilities = predict_held_out(np.concatenate(parts), labels, group_files(files, pairs), len(classes))
    doubts = doubt_labels(probabilities, labels)
    order = np.flatnonzero(doubts.suspect)
    order = order[np.argsort(-doubts.wrong[order], kind="stable")]
    names = np.array(classes, dtype=object)
    suspects = pd.DataFrame(
        {
            "file": [files[place] for place in order], "label": names[labels[order]],
            "split": [where[place] for place in order], "suggested": names[doubts.suggested[order]],
            "probability": probabilities[order, doubts.suggested[order]], "wrong": doubts.wrong[order],
        },
        columns=list(SUSPECT_COLUMNS),
    )  # fmt: skip
    accuracy = float((probabilities.argmax(axis=1) == labels).mean())
    return LabelCheck(backbone, len(files), accuracy, doubts.findable, suspects)


def _load_backbone(name: str) -> "BackboneConfig":
    from catdog.config.composition import compose_run

    # Of this run only the backbone is used; these values fit every backbone's own.
    return compose_run([f"backbone={name}", "preprocessing.pixel_range=${backbone.pixel_range}"]).config.backbone


def _build_extractor(config: "BackboneConfig") -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function of images, uint8 (B, H, W, 3), that returns features averaged over each image, float32 (B, channels)."""
    from catdog.config.schema import PreprocessingConfig
    from catdog.training import preload  # noqa: F401  must come first: it keeps TensorFlow's import quiet
    from catdog.training.fast.batchnorm_folding import fold_norms
    from catdog.training.fast.feature_extraction import build_extractor
    from catdog.training.model import build_backbone, build_preprocessing

    assert config.pixel_range is not None
    preprocessing = PreprocessingConfig(name="", pixel_range=list(config.pixel_range), image_size=IMAGE_SIZE)
    try:
        backbone = fold_norms(build_backbone(config, IMAGE_SIZE))
    except UserError as error:
        raise UserError(f"labels: {config.name} is not available. {error}") from error
    backbone.trainable = False
    extract = build_extractor(build_preprocessing(preprocessing), backbone)
    return lambda images: extract(images).numpy().astype(np.float32).mean(axis=(1, 2))


def group_files(files: Sequence[str], pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Returns a group for each file, int64 (N,): files that show the same picture, directly or by way of others, share one."""
    place = {file: number for number, file in enumerate(files)}
    known = [(place[first], place[second]) for first, second in pairs if first in place and second in place]
    return connect([first for first, _ in known], [second for _, second in known], len(files))


def predict_held_out(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """Returns probabilities by classifiers that were not trained on the image, float64 (N, C).

    Args:
        features: float32 (N, D).
        labels: int (N,) in [0, C).
        groups: int (N,), images of one group are in one fold.
        classes: number of classes.
    """
    folds = _assign_folds(labels, groups)
    probabilities = np.empty((len(labels), classes))
    chosen: float | None = None
    for fold in range(FOLDS):
        held = folds == fold
        if not held.any():
            continue
        mean, spread = features[~held].mean(axis=0), features[~held].std(axis=0)
        scaled = (features - mean) / np.where(spread > 0, spread, 1)
        tried = {}
        for penalty in PENALTIES if chosen is None else (chosen,):
            weights = _fit(scaled[~held], labels[~held], classes, penalty)
            logits = scaled[held] @ weights[:-1] + weights[-1]
            tried[penalty] = special.softmax(logits.astype(float), axis=1)
        rows = np.arange(int(held.sum()))
        loss = {penalty: -np.log(found[rows, labels[held]] + 1e-30).mean() for penalty, found in tried.items()}
        chosen = min(loss, key=loss.__getitem__)
        probabilities[held] = tried[chosen]
    return probabilities


def _assign_folds(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Returns the fold of each image, int64 (N,): random with a fixed seed, each class spread evenly, groups together."""
    generator = np.random.default_rng(0)
    leaders, first = np.unique(groups, return_index=True)
    fold = np.empty(len(leaders), np.int64)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels[first] == label))
        # Classes begin in different folds, so that those with fewer images than folds do not all end in the first.
        fold[members] = (np.arange(len(members)) + int(label)) % FOLDS
    return fold[np.searchsorted(leaders, groups)]


def _fit(features: np.ndarray, labels: np.ndarray, classes: int, penalty: float) -> np.ndarray:
    """Returns the weights of a multinomial logistic regression, the biases in the last row: float32 (D + 1, C)."""
    images, width = features.shape
    rows = np.arange(images)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(width + 1, classes)
        logits = (features @ weights[:-1].astype(np.float32)).astype(float) + weights[-1]
        logits -= special.logsumexp(logits, axis=1, keepdims=True)
        value = -logits[rows, labels].mean() + penalty / 2 * (weights[:-1] ** 2).sum()
        excess = np.exp(logits)
        excess[rows, labels] -= 1
        gradient = np.empty_like(weights)
        gradient[:-1] = features.T @ excess.astype(np.float32) / images + penalty * weights[:-1]
        gradient[-1] = excess.mean(axis=0)
        return float(value), gradient.ravel()

    start = np.zeros((width + 1) * classes)
    found = optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": MOST_STEPS, "ftol": 1e-7, "gtol": 1e-5}
    )
    return found.x.reshape(width + 1, classes).astype(np.float32)
