"""The first stage of a run: its data, decoded and divided. No Keras: what cannot be had is said before it is imported."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catdog.config.schema import Config, find_references
from catdog.system.clock import Clock
from catdog.tracking import Job
from catdog.training.own_code import require_planned_code

if TYPE_CHECKING:
    from catdog.data.dataset import Dataset, SplitImages

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A run before anything of it is built.

    Attributes:
        config: the run's.
        job: what it is called and where it belongs.
        clock: where its time goes.
        dataset: the config's.
        train: the images to train on.
        val: those to validate on.
        class_weights: weight in the loss by class; None where all count the same.
        references: the objects of the user's own that the config names, by key.
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
    """Returns what a run trains on.

    Args:
        config: the run's.
        job: what it is called and where it belongs.
        clock: where its time goes.
        dataset: the config's, where the caller has loaded it.

    Raises:
        UserError: the data cannot be had, or the user's code is not what was planned.
    """
    from catdog.data.dataset import describe_dataset, load_dataset
    from catdog.training.class_weights import weigh_classes

    with clock.stage("data"):
        dataset = dataset or load_dataset(config.dataset)
    references = find_references(config)
    if references and job.identity:
        require_planned_code(config, job.identity)
    # A sweep has described its data before its first run; the log file of each run has it all the same.
    log.info("%s", describe_dataset(dataset), extra={"file_only": job.sweep_id is not None})
    size = config.preprocessing.image_size
    with clock.stage("data"):
        train, val = (dataset.load_split(split, size) for split in ("train", "val"))
    class_weights = weigh_classes(config.trainer, train.labels, dataset.classes)
    return Prepared(config, job, clock, dataset, train, val, class_weights, references)
