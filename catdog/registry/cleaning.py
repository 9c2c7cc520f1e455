"""Cleaning: finds what is no longer needed, in the store, the outbox, the cache and the folder for temporary files; removes it."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog.config.command_lines import quote
from catdog.data.cache_contents import CachedItem, choose_unused, list_cached
from catdog.registry.aliases import CHAMPION, find_version
from catdog.registry.ledger import EXPERIMENT
from catdog.system.errors import UserError
from catdog.system.files import measure_size
from catdog.system.tempdir import list_left_over
from catdog.system.wording import plural
from catdog.tracking.delivery import is_gone
from catdog.tracking.outbox import Entry, list_entries
from catdog.tracking.records import StoredRun, list_studies, search
from catdog.tracking.settlement import claimed_entries
from catdog.tracking.store import is_same_store, store_command
from catdog.tracking.tags import SWEEP, WITH_MODEL

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

DAY_S = 24 * 3600


@dataclass(frozen=True)
class Garbage:
    """Something that is no longer needed.

    Attributes:
        what: what it is, in words.
        size_bytes: what it takes on this machine's disks; None if it lies elsewhere.
        remove: removes it for good.
    """

    what: str
    size_bytes: int | None
    remove: Callable[[], None]


@dataclass(frozen=True)
class Findings:
    """What can be removed, and what cannot.

    Attributes:
        garbage: what can be removed.
        kept: sentences about what looks like garbage and stays, with the command that ends it.
    """

    garbage: list[Garbage]
    kept: list[str]


def find_garbage(
    client: "MlflowClient | None",
    *,
    outbox: Path,
    uri: str,
    cache: Path,
    older_than_days: float,
    cache_gb: float | None = None,
    study: str | None = None,
) -> Findings:
    """Returns what is no longer needed; removes nothing.

    Args:
        client: of the tracking store; None if there is none.
        outbox: the outbox's folder.
        uri: the store's address; the outbox's entries for other stores are left alone.
        cache: the folder of the cache.
        older_than_days: what was deleted, or used, more recently stays.
        cache_gb: size that the cache may have; None: any.
        study: look at what belongs to this study only; None: at everything.
    """
    found = Findings([], [])
    if client is not None:
        _find_in_store(client, found, older_than_days * DAY_S, study)
    _find_in_outbox(client, found, outbox, uri, older_than_days * DAY_S, study)
    if study is None:
        items = choose_unused(list_cached(cache), older_than_days * DAY_S, None if cache_gb is None else cache_gb * 1e9)
        for what in dict.fromkeys(item.what for item in items):
            chosen = [item for item in items if item.what == what]
            place = os.path.commonpath([item.folder.parent for item in chosen])
            words = f"{plural(len(chosen), 'folder')} of {what} in {place}"
            size = sum(item.size_bytes for item in chosen)
            found.garbage.append(Garbage(words, size, partial(_remove_cached, chosen)))
        left = list_left_over()
        if left:
            words = (
                f"{plural(len(left), 'folder')} of temporary files of processes that were killed, in {left[0].parent}"
            )
            found.garbage.append(Garbage(words, sum(map(measure_size, left)), partial(_remove_folders, left)))
    return found


def _remove_cached(items: Iterable[CachedItem]) -> None:
    for item in items:
        item.remove()


def _remove_folders(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


# The store. MLflow has no public function that removes chosen runs: `mlflow gc --run-ids` also removes every deleted experiment.


def _find_in_store(client: "MlflowClient", found: Findings, older_than_s: float, study: str | None) -> None:
    names = [name for name in list_studies(client) if name != EXPERIMENT and study in (None, name)]
    deleted = {name: search(client, name, "", deleted=True) for name in names}
    deleted = {name: [run for run in runs if run.kind in (*WITH_MODEL, SWEEP)] for name, runs in deleted.items()}
    store = client._tracking_client.store
    if not hasattr(store, "_hard_delete_run"):
        count = sum(map(len, deleted.values()))
        if count:
            found.kept.append(
                f"{plural(count, 'deleted run')} on the tracking server: only its machine can remove them for good, with `mlflow "
                f"gc --backend-store-uri ADDRESS_OF_ITS_DATABASE --older-than {older_than_s / DAY_S:g}d`."
            )
        return
    old = set(store._get_deleted_runs(older_than=int(older_than_s * 1000)))
    champions = _list_champions(client)
    for name, runs in deleted.items():
        due = []
        for run in runs:
            version = champions.get(run.run_id)
            if version is not None and run.run_id in old:
                forget = store_command(client, "delete", "champion=true", f"study={quote(name)}")
                found.kept.append(
                    f"run {run.name} ({run.run_id}) trained {version.name} version {version.version}, the champion. Restore the "
                    f"run, or forget the champion first: {forget}"
                )
            elif run.run_id in old:
                due.append(run)
        experiment = client.get_experiment_by_name(name)
        # An experiment that other tools have runs in is none of catdog's.
        is_due = experiment.lifecycle_stage == "deleted" and len(due) == len(
            _list_all(client, experiment.experiment_id)
        )
        if is_due and time.time() - experiment.last_update_time / 1000 >= older_than_s:
            words = f"the deleted study {name!r}: {_count(due)}"
            found.garbage.append(Garbage(words, _measure(client, due), partial(_purge, client, due, experiment)))
        elif due:
            words = f"deleted from the study {name!r}: {_count(due)}"
            found.garbage.append(Garbage(words, _measure(client, due), partial(_purge, client, due)))


def _list_all(client: "MlflowClient", experiment_id: str) -> list[Any]:
    from mlflow.entities import ViewType

    return list(client.search_runs([experiment_id], "", ViewType.ALL, 50_000))


def _count(runs: Collection[StoredRun]) -> str:
    sweeps = sum(run.kind == SWEEP for run in runs)
    words = [plural(sweeps, "sweep")] if sweeps else []
    return " and ".join([*words, plural(len(runs) - sweeps, "run")])


def _list_champions(client: "MlflowClient") -> "dict[str, ModelVersion]":
    """Returns the champions by the id of the run that trained each."""
    found = {}
    token = None
    while True:
        page = client.search_registered_models(page_token=token)
        for model in page:
            version = find_version(client, model.name, CHAMPION)
            if version is not None:
                found[version.run_id] = version
        token = page.token
        if not token:
            return found


def _list_models(client: "MlflowClient", run: StoredRun) -> "Iterator[LoggedModel]":
    """Yields the models that a run has saved."""
    from mlflow.exceptions import MlflowException

    outputs = client.get_run(run.run_id).outputs
    for output in outputs.model_outputs if outputs else []:
        try:
            yield client._tracking_client.store.get_logged_model(output.model_id, allow_deleted=True)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise


def _measure(client: "MlflowClient", runs: Iterable[StoredRun]) -> int | None:
    """Returns the size of the artifacts and models of runs in bytes; None if they are not on this machine."""
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    size = 0
    for run in runs:
        for uri in (run.address, *(model.artifact_location for model in _list_models(client, run))):
            if not is_local_uri(uri):
                return None
            size += measure_size(Path(local_file_uri_to_path(uri)))
    return size


def _purge(client: "MlflowClient", runs: Iterable[StoredRun], experiment: Any = None) -> None:
    """Removes deleted runs for good, with their artifacts, models and registered versions; and a deleted study, if it is given."""
    store = client._tracking_client.store
    for run in runs:
        models = list(_list_models(client, run))
        for version in client.search_model_versions(f"run_id = '{run.run_id}'"):
            client.delete_model_version(version.name, version.version)
        for uri in (run.address, *(model.artifact_location for model in models)):
            _remove_artifacts(uri)
        store._hard_delete_run(run.run_id)
        for model in models:
            store._hard_delete_logged_model(model.model_id)
    if experiment is not None:
        store._hard_delete_experiment(experiment.experiment_id)


def _remove_artifacts(uri: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    try:
        get_artifact_repository(uri).delete_artifacts()
    except (MlflowException, OSError) as error:
        raise UserError(
            f"the artifacts in {uri} cannot be removed: {str(error).splitlines()[0]}. Make them writable; the same command then "
            "continues."
        ) from error
    # MLflow leaves the empty folders of the run and of the study behind.
    if is_local_uri(uri):
        for folder in list(Path(local_file_uri_to_path(uri)).parents)[:2]:
            try:
                folder.rmdir()
            except OSError:
                return


# The outbox.


def _find_in_outbox(
    client: "MlflowClient | None", found: Findings, root: Path, uri: str, older_than_s: float, study: str | None
) -> None:
    for entry in list_entries(root):
        if not is_same_store(entry.uri or uri, uri) or study not in (None, entry.study) or entry.find_living_owner():
            continue
        if time.time() - entry.folder.stat().st_mtime < older_than_s:
            continue
        run_id = str(entry.state["run_id"])
        is_deleted = client is not None and (
            _is_deleted(client, entry.study) or (run_id != "" and is_gone(client, run_id))
        )
        if entry.pending and not is_deleted:
            name = (
                store_command(client, "deliver", f"discard={entry.folder.name}")
                if client
                else "catdog.deliver discard=..."
            )
            found.kept.append(
                f"{entry.describe()} wait to be delivered: `catdog.deliver` does that, {name} gives them up"
            )
            continue
        words = f"left of {'a deleted' if is_deleted else 'an interrupted'} run in the outbox: {entry.describe()}"
        found.garbage.append(Garbage(words, measure_size(entry.folder), partial(_discard, entry)))


def _discard(entry: Entry) -> None:
    with claimed_entries([entry]):
        pass


def _is_deleted(client: "MlflowClient", study: str) -> bool:
    experiment = client.get_experiment_by_name(study)
    # A study that does not exist yet is made when its first run is delivered.
    return experiment is not None and experiment.lifecycle_stage == "deleted"
