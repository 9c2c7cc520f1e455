"""The members of an ensemble: the finished seeds of a variant, or named runs; what cannot be one ensemble is refused by name."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from catdog.config.suggestions import ask, suggest
from catdog.system.errors import UserError
from catdog.system.wording import plural
from catdog.tracking.records import StoredRun, explain_gone, find_run, find_study, find_study_of, list_runs
from catdog.tracking.tags import ENSEMBLE, RUN

if TYPE_CHECKING:
    from mlflow import MlflowClient

LEAST, MOST = 2, 50
MAY_HAVE = (
    "the members of an ensemble must have a saved Keras model, and the same images, splits, classes and image size"
)
MORE_SEEDS = "Train more seeds: python -m catdog.train -m ... seed=0,1,2"


def choose_members(
    client: "MlflowClient", study: str, variant: str | None = None, run_ids: Sequence[str] | None = None
) -> list[StoredRun]:
    """Returns the members of an ensemble, sorted by variant and seed.

    Args:
        client: of the tracking store.
        study: its name.
        variant: the variant's name; None: the one whose mean val accuracy is highest, of those with two or more seeds.
        run_ids: the members, instead of a variant.

    Raises:
        UserError: there are none, fewer than two, or more than fifty.
    """
    find_study(client, study)
    if run_ids is not None:
        if variant is not None:
            raise UserError(f"variant: must be left out where runs are named, received {variant!r}.")
        members = [_find_member(client, study, run_id) for run_id in dict.fromkeys(run_ids)]
        what = f"runs: an ensemble needs {LEAST} to {MOST} different runs, received {len(members)}"
    else:
        members = _choose_variant(client, study, variant)
        what = f"variant: an ensemble needs {LEAST} to {MOST} finished seeds, and {variant} has {len(members)}"
    if not LEAST <= len(members) <= MOST:
        raise UserError(f"{what}. {MORE_SEEDS if len(members) < LEAST else 'Name fewer: runs=ID,ID'}")
    return sorted(members, key=lambda run: (run.variant, run.seed, run.run_id))


def _find_member(client: "MlflowClient", study: str, run_id: str) -> StoredRun:
    run = find_run(client, run_id)
    if run is None:
        raise UserError(f"runs: no run {run_id!r} in this tracking store. Give MLflow run ids of this store.")
    if run.kind != RUN:
        what = "an ensemble itself: name its members" if run.kind == ENSEMBLE else "not a training run"
        raise UserError(f"runs: {run_id} ({run.name}) is {what}.")
    if run.is_deleted:
        raise UserError(f"runs: {explain_gone(client, run_id, run)} Or leave it out.")
    if find_study_of(client, run_id, "runs") != study:
        raise UserError(
            f"runs: {run_id} ({run.name}) is of the study {find_study_of(client, run_id, 'runs')!r}, not of {study!r}. The members "
            "of an ensemble are of one study."
        )
    if not run.is_finished:
        raise UserError(f"runs: {run_id} ({run.name}) is {run.status}. Name finished runs.")
    return run


def _choose_variant(client: "MlflowClient", study: str, name: str | None) -> list[StoredRun]:
    """Returns the seeds of a variant, one run for each; of several variants of this name, those of the one trained last."""
    finished = [run for run in list_runs(client, study) if run.is_finished and run.data_digest]
    groups: dict[tuple[str, str], dict[int, StoredRun]] = {}
    for run in finished:
        # The newest run of a seed: on a CPU, they are identical.
        groups.setdefault((run.data_digest, run.tags.variant_key() or run.variant), {})[run.seed] = run
    names = sorted({run.variant for run in finished})
    if name is not None and name not in names:
        raise UserError(
            f"variant: no finished run of a variant {name!r} in study {study!r}; variants: {', '.join(names) or 'none'}."
            f"{ask([suggest(name, names)])}"
        )
    if name is not None:
        newest = next(run for run in reversed(finished) if run.variant == name)
        return [*groups[newest.data_digest, newest.tags.variant_key() or newest.variant].values()]
    candidates = [
        [*seeds.values()]
        for (digest, _), seeds in groups.items()
        if digest == finished[-1].data_digest and len(seeds) >= LEAST and all(run.model_uri for run in seeds.values())
    ]
    if not candidates:
        raise UserError(
            f"variant: no variant of study {study!r} has {plural(LEAST, 'finished seed')} with saved models. {MORE_SEEDS}"
        )
    return max(candidates, key=lambda seeds: float(np.mean([run.fair_score[0] for run in seeds])))


def require_alike(members: Sequence[StoredRun]) -> None:
    """Raises a UserError that names all runs that cannot be in one ensemble with the first, and why."""
    first = members[0]
    problems = []
    for run in members:
        what = "no saved model" if run.model_uri is None else _find_difference(first, run)
        if what:
            problems.append(f"{run.name} ({run.run_id}) has {what}")
    if problems:
        raise UserError(f"runs: {MAY_HAVE}: {'; '.join(problems)}. Leave {'it' if len(problems) == 1 else 'them'} out.")


def _find_difference(first: StoredRun, other: StoredRun) -> str:
    """Returns what a run has that the first member has not; "" if both can be in one ensemble."""
    than = f"than {first.name}"
    if other.class_names != first.class_names:
        return f"other classes {than}: {', '.join(other.class_names)} instead of {', '.join(first.class_names)}"
    if other.data_digest != first.data_digest:
        return f"other {_find_other_data(first, other)} {than}"
    if other.image_size != first.image_size:
        return f"another image size {than}: {other.image_size} instead of {first.image_size} pixels"
    return ""


def _find_other_data(first: StoredRun, other: StoredRun) -> str:
    tables = [run.load_splits() for run in (first, other)]
    contents = [set(zip(table["sha256"], table["label"], strict=True)) for table in tables if len(table)]
    return "splits" if len(contents) == len(tables) and contents[0] == contents[1] else "images"
