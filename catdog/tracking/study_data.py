"""The images that a study is about: those that overrides name, or those of its newest run."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from catdog.config.schema import DatasetConfig, default_cache
from catdog.system.errors import UserError
from catdog.tracking.records import StoredRun, find_run, list_runs
from catdog.tracking.tags import RUN

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from catdog.data.dataset import Dataset

NAME_DATA = 'Name its images as for training: dataset=["dataset=folder", "dataset.archive=PATH"].'


def load_study_dataset(client: "MlflowClient | None", study: str, overrides: Sequence[str] | None) -> "Dataset":
    """Returns the data set that overrides name; without overrides, that of the study's newest finished run.

    Args:
        client: of the tracking store; None if there is none yet.
        study: its name.
        overrides: as for training: "dataset=folder", "dataset.archive=PATH"; None: use the newest run's data set.

    Raises:
        UserError: an override is not about the data set; there is neither an override nor a run; or the images cannot be loaded.
    """
    from catdog.data.dataset import load_dataset, require_cats_and_dogs

    if overrides is not None:
        dataset = load_dataset(_compose(overrides))
        require_cats_and_dogs(dataset)
        return dataset
    known = client is not None and client.get_experiment_by_name(study) is not None
    runs = [run for run in list_runs(client, study) if run.is_finished] if client and known else []
    if not runs:
        raise UserError(f"study: {study!r} has no finished run that says which images it is about. {NAME_DATA}")
    return load_run_dataset(runs[-1], "Name the original data with dataset=[...], or other data for other runs.")


def _compose(overrides: Sequence[str]) -> DatasetConfig:
    from catdog.config.composition import compose_run

    words = [overrides] if isinstance(overrides, str) else list(overrides)
    for word in words:
        if word.lstrip("+~").partition("=")[0].partition(".")[0] != "dataset":
            raise UserError(f"dataset: must be overrides of the group dataset, received {word!r}. {NAME_DATA}")
    return compose_run(words).config.dataset


def require_run(client: "MlflowClient", run_id: str) -> StoredRun:
    """Returns a training run: one of catdog's own, or one that a script recorded.

    Raises:
        UserError: there is no training run with this id.
    """
    run = find_run(client, run_id)
    if run is None:
        raise UserError(f"run_id: no run {run_id!r} in this tracking store. `study.runs()` lists them.")
    if run.kind != RUN:
        raise UserError(f"run_id: {run_id} is no training run. `study.runs()` lists them.")
    return run


def load_run_dataset(run: StoredRun, advice: str, *, archive: str | None = None, cache: str | None = None) -> "Dataset":
    """Returns the data set of a run, loaded again.

    Args:
        run: in MLflow.
        advice: what to do if the images have changed.
        archive: where the data is now; None: where it was.
        cache: folder for downloads and decoded images; None: this machine's cache.

    Raises:
        UserError: it differs from what the run was trained on, image by image and split by split.
    """
    from catdog.data.dataset import load_dataset

    config = read_dataset_config(run)
    config = dataclasses.replace(config, cache=cache or default_cache(), archive=archive or config.archive)
    dataset = load_dataset(config)
    trained_on = run.data_digest
    if dataset.manifest.digest != trained_on:
        raise UserError(
            f"dataset.archive: {dataset.manifest.root} is not the data that run {run.run_id} was trained on: its digest is "
            f"{dataset.manifest.digest[:12]}, the run's {trained_on[:12]}. A test image could have been trained on. {advice}"
        )
    return dataset


def read_dataset_config(run: StoredRun) -> DatasetConfig:
    """Returns the dataset section of the config that a run was trained with.

    Raises:
        UserError: the run's files are missing.
    """
    from catdog.tracking.artifacts import load_bytes

    content = load_bytes(run.address, "config/config.yaml")
    if content is None:
        raise UserError(
            f"model: the files of run {run.run_id} are not in {run.address}. Were they moved or removed? The "
            "tracking store remembers where they were written; name another model (model=...), or train again."
        )
    stored = OmegaConf.select(OmegaConf.create(content.decode()), "dataset")
    # Older runs predate the search for near-duplicates.
    stored.setdefault("near_duplicates", "ignore")
    loaded = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DatasetConfig), stored))
    assert isinstance(loaded, DatasetConfig)
    return loaded
