"""The first stage of a run: its data, decoded and split. Without Keras, so that errors come before its slow import."""

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catdog.config.schema import Config, find_references
from catdog.data.metrics import require_possible_metrics
from catdog.system.clock import Clock
from catdog.system.errors import UserError
from catdog.tracking import Job
from catdog.tracking.identity import DIGITS
from catdog.training.own_code import require_planned_code

if TYPE_CHECKING:
    from catdog.data.dataset import Dataset, SplitImages

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A run with its data, before its model is built.

    Attributes:
        config: the run's config.
        job: the run's name, sweep and planned identity.
        clock: where the run's time is counted.
        dataset: the config's data set.
        train: the images to train on.
        val: the images to validate on.
        class_weights: the weight of each class in the loss, by class index; None if all have the same weight.
        references: the custom objects that the config names, by config key.
    """

    config: Config
    job: Job
    clock: Clock
    dataset: "Dataset"
    train: "SplitImages"
    val: "SplitImages"
    class_weights: dict[int, float] | None
    references: Mapping[str, str]


def prepare(config: Config, job: Job, clock: Clock, dataset: "Dataset | None" = None) -> Prepared:
    """Returns a run with the data that it trains on.

    Args:
        config: the run's config.
        job: the run's name, sweep and planned identity.
        clock: where the run's time is counted.
        dataset: the config's data set, if the caller has loaded it already.

    Raises:
        UserError: the data is not available, or custom code has changed since the run was planned.
    """
    from catdog.data.dataset import load_dataset
    from catdog.data.description import describe_dataset
    from catdog.training.class_weights import weigh_classes

    with clock.stage("data"):
        dataset = dataset or load_dataset(config.dataset)
    _require_planned_data(dataset, job)
    references = find_references(config)
    if references and job.identity:
        require_planned_code(config, job.identity)
    # A sweep describes its data once, before its first run; the log file of each run has the description nevertheless.
    is_known = job.sweep_id is not None
    log.info("%s", describe_dataset(dataset), extra={"file_only": is_known})
    size, stored_as = config.preprocessing.image_size, config.preprocessing.stored_as
    with clock.stage("data"):
        train, val = (
            dataset.load_split(split, size, file_only=is_known, stored_as=stored_as) for split in ("train", "val")
        )
    require_possible_metrics(config, dataset.classes)
    class_weights = weigh_classes(config.trainer, train.labels, dataset.classes)
    return Prepared(config, job, clock, dataset, train, val, class_weights, references)


def _require_planned_data(dataset: "Dataset", job: Job) -> None:
    if job.identity and job.identity.data != dataset.manifest.digest:
        raise UserError(
            f"dataset: the images or splits on {socket.gethostname()} have the digest {dataset.manifest.digest[:DIGITS]}, but the "
            f"run was planned with {job.identity.data[:DIGITS]}. They changed since, or this host has others. Run the command "
            "again, with images that all hosts see."
        )
