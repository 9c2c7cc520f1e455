"""Fits a config to its data: the number of epochs, the image size and how images are stored, where the config leaves them open."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from catdog.config.schema import MAX_EPOCHS, MIN_EPOCHS, Config
from catdog.system.wording import plural

if TYPE_CHECKING:
    from catdog.data.dataset import Dataset

log = logging.getLogger(__name__)

# Sizes that backbones with five steps of halving take without a remainder; smaller images are enlarged to SMALLEST.
MULTIPLE, SMALLEST = 32, 64


def fit_configs(jobs: Sequence[tuple[str, Config]], datasets: Sequence["Dataset"]) -> list[Config]:
    """Returns configs in which epochs and image size are not 0, and `preprocessing.stored_as` is not auto.

    What was chosen is logged. What it was chosen by is removed, so that the result is the same config as if the user had given the
    values.

    Args:
        jobs: (name, config) of each run.
        datasets: the data set of each run.

    Raises:
        UserError: other keys do not go with the chosen numbers.
    """
    shorter: dict[int, int] = {}
    said: dict[str, list[str]] = {}
    fitted = []
    for (name, config), dataset in zip(jobs, datasets, strict=True):
        if not config.preprocessing.image_size and id(dataset) not in shorter:
            shorter[id(dataset)] = _measure(dataset)
        found, chosen = _fit_config(config, dataset, shorter.get(id(dataset), 0))
        fitted.append(found)
        if chosen:
            said.setdefault(", ".join(chosen), []).append(name)
    _warn_of_both(fitted, jobs)
    for words, names in said.items():
        shown = names[0] if len(names) == 1 else f"{names[0]} and {plural(len(names) - 1, 'more run')}"
        log.info("%s: %s", shown, words)
    return fitted


def _warn_of_both(fitted: Sequence[Config], jobs: Sequence[tuple[str, Config]]) -> None:
    """Warns if the limit of the cache makes the runs of a sweep differ in how their images are stored."""
    chosen = {
        found.preprocessing.stored_as
        for found, (_, config) in zip(fitted, jobs, strict=True)
        if config.preprocessing.stored_as == "auto"
    }
    if len(chosen) > 1:
        log.warning(
            "some of these runs have their training images as pixels and some as JPEGs, and so differ in that as well; "
            "preprocessing.stored_as=jpeg makes it the same for all"
        )


def _measure(dataset: "Dataset") -> int:
    from catdog.data.image_sizes import measure_shorter_side

    return measure_shorter_side(dataset.manifest.root, list(dataset.manifest.select("train")["file"]))


def _fit_config(config: Config, dataset: "Dataset", shorter: int) -> tuple[Config, list[str]]:
    """Returns the config that fits a data set, whose images' median shorter side has `shorter` pixels, and what was chosen."""
    chosen = []
    trainer, preprocessing = config.trainer, config.preprocessing
    if not trainer.epochs:
        assert trainer.images_seen is not None
        count = len(dataset.manifest.select("train"))
        epochs = min(max(round(trainer.images_seen / count), MIN_EPOCHS), MAX_EPOCHS)
        chosen.append(f"{plural(epochs, 'epoch')} of {plural(count, 'training image')}")
        trainer = replace(trainer, epochs=epochs)
    if not preprocessing.image_size:
        assert preprocessing.max_size is not None
        size = min(max(-(-shorter // MULTIPLE) * MULTIPLE, SMALLEST), preprocessing.max_size)
        chosen.append(f"{size} x {size} pixels, as the shorter side of the images has {shorter} (median)")
        preprocessing = replace(preprocessing, image_size=size)
    if preprocessing.stored_as == "auto":
        preprocessing = replace(preprocessing, stored_as=dataset.choose_storage(preprocessing.image_size))
        if preprocessing.stored_as == "jpeg":
            limit = f"dataset.cache_gb={dataset.config.cache_gb:g}"
            chosen.append(f"training images kept as JPEGs, as pixels would take more than {limit}")
    trainer, preprocessing = replace(trainer, images_seen=None), replace(preprocessing, max_size=None)
    return replace(config, trainer=trainer, preprocessing=preprocessing), chosen


def fit_composed(composed: DictConfig, config: Config) -> DictConfig:
    """Returns a composed config with the values that `fit_configs` has chosen, for the process that trains the run."""
    fitted = composed.copy()
    for key in (
        "trainer.epochs", "trainer.images_seen", "preprocessing.image_size", "preprocessing.max_size", "preprocessing.stored_as",
    ):  # fmt: skip
        group, name = key.split(".")
        OmegaConf.update(fitted, key, getattr(getattr(config, group), name))
    return fitted
