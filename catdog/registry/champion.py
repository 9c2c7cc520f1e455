"""The registry: the best run becomes a version of the registered model; the champion is the version that has earned it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from catdog.config.schema import PromoteConfig
from catdog.registry.evidence import Evidence, Reason, commands_for_more, compare_runs
from catdog.registry.ledger import describe_count
from catdog.statistics.judgements import Judgement
from catdog.system.errors import TRAIN_COMMAND, UserError
from catdog.tracking import tags as tag
from catdog.tracking.models import find_model_address
from catdog.tracking.records import (
    StoredRun,
    find_run,
    find_study,
    get_run,
    list_registered_models,
    log_registered_model,
)
from catdog.tracking.settlement import claimed_entry
from catdog.tracking.tags import RUN

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

CHAMPION = "champion"
# The names of registered models for quick looks end with this.
QUICK = "-quick"
# How often the comparison is repeated if the champion changes meanwhile.
MOST_TURNS = 5


@dataclass(frozen=True)
class Promotion:
    """A new version of a registered model.

    Attributes:
        name: registered model.
        version: the new version's number.
        run_id: the run it came from.
        is_champion: whether the alias `champion` points at it.
    """

    name: str
    version: str
    run_id: str
    is_champion: bool


def promote(
    client: "MlflowClient", config: PromoteConfig, run_ids: list[str], sweep_id: str | None = None
) -> list[Promotion]:
    """Registers the best of some finished runs; moves the alias `champion` if there is enough evidence against the champion.

    The best variant is the one whose kept models have the highest mean validation accuracy. Its best run is registered; the lower
    loss breaks ties. `catdog.registry.evidence` defines the evidence that is needed, and the version records it. All versions of
    a registered model have one data digest. Runs on other data go to a registered model of their own, named after their digest,
    unless `promote.replace_other_data` is set. A quick look (`dataset.max_images_per_class`) goes to one whose name ends in -quick.
    Runs on different data sets are not comparable, so each data set of a sweep has its own best run. Test results play no part.

    Args:
        client: of the tracking store.
        config: the promote section.
        run_ids: the candidates.
        sweep_id: a sweep to tag with the registered model's name as well; None: no sweep.

    Returns:
        The new versions, one for each data digest among the candidates; empty if promotion is off.
    """
    if not config.enabled:
        return []
    by_digest: dict[str, list[StoredRun]] = {}
    for run in (get_run(client, run_id) for run_id in run_ids):
        by_digest.setdefault(run.data_digest, []).append(run)
    promotions = []
    for digest, runs in by_digest.items():
        promotion = _promote_best(client, config, pick_best(runs), digest)
        for run_id in [*(run.run_id for run in runs), *([sweep_id] if sweep_id else [])]:
            log_registered_model(client, run_id, promotion.name)
        promotions.append(promotion)
    return promotions


def pick_best(runs: Sequence[StoredRun]) -> StoredRun:
    """Returns the best run of the best variant: one lucky seed does not make a variant the best."""
    variants: dict[str, list[StoredRun]] = {}
    for run in runs:
        variants.setdefault(run.tags.variant_key() or run.run_id, []).append(run)
    best = max(variants.values(), key=lambda seeds: tuple(np.mean([score(run) for run in seeds], axis=0)))
    return max(best, key=score)


def _promote_best(client: "MlflowClient", config: PromoteConfig, best: StoredRun, digest: str) -> Promotion:
    name, champion, other_data = _choose_registered_model(client, config, best, digest)
    version = _register(client, name, best, digest)
    words = f"{name} version {version.version}: {best.name}, val accuracy {score(best)[0]:.3f}"
    promotion = Promotion(name, str(version.version), best.run_id, True)
    if champion is not None and champion.version == version.version:
        log.info("%s is already the champion", words)
        return promotion
    evidence, more, champion = _weigh_against_latest(client, config, best, name, champion, other_data)
    if config.force and not evidence.moves:
        evidence = replace(
            evidence, outcome=Reason.FORCED, words=f"forced by promote.force; without it: {evidence.words}"
        )
    for key, value in evidence.tags.items():
        client.set_model_version_tag(name, version.version, key, value)
    looks = describe_count(best.tags.get(tag.TEST_LOOKS))
    client.update_model_version(name, version.version, description="\n".join([evidence.description, *looks]))
    if evidence.moves:
        client.set_registered_model_alias(name, CHAMPION, version.version)
        log.info("registered %s; it is the champion now: %s", words, evidence.words)
        return promotion
    assert champion is not None
    standing = champion.tags.get(tag.RUN_NAME, champion.run_id)
    log.info("registered %s; the champion stays version %s, %s: %s", words, champion.version, standing, evidence.words)
    if more:
        log.info(
            "to get the evidence, run%s:\n  %s",
            " both, one after the other" if len(more) > 1 else "",
            "\n  ".join(more),
        )
    elif evidence.outcome == Judgement.UNDECIDED:
        log.info("more seeds would not settle it: it takes more validation images, or a larger promote.margin")
    return replace(promotion, is_champion=False)


def _choose_registered_model(
    client: "MlflowClient", config: PromoteConfig, best: StoredRun, digest: str
) -> "tuple[str, ModelVersion | None, bool]":
    """Returns the registered model that a run goes to, its champion, and whether that was chosen on other data."""
    name = config.registered_model
    if best.is_quick_look:
        # A quick look must not take the name that belongs to the whole study.
        name += QUICK
    champion = find_version(client, name, CHAMPION)
    other_data = champion is not None and champion.tags.get(tag.DATA_DIGEST) != digest
    if champion and other_data and not config.replace_other_data:
        log.info(
            "%s@%s was chosen on other data (digest %s): this model goes to %s-%s. promote.replace_other_data=true replaces it.",
            name, CHAMPION, champion.tags.get(tag.DATA_DIGEST, "?")[:8], name, digest[:8],
        )  # fmt: skip
        name = f"{name}-{digest[:8]}"
        return name, find_version(client, name, CHAMPION), False
    return name, champion, other_data


def _weigh_against_latest(
    client: "MlflowClient",
    config: PromoteConfig,
    best: StoredRun,
    name: str,
    champion: "ModelVersion | None",
    other_data: bool,
) -> "tuple[Evidence, list[str], ModelVersion | None]":
    """Returns the evidence against the current champion, commands that would get more of it, and that champion."""
    more: list[str] = []
    for _ in range(MOST_TURNS):
        if champion is None:
            evidence = Evidence(Reason.FIRST, "there was no champion to compare with")
        elif other_data:
            evidence = Evidence(
                Reason.OTHER_DATA, "the champion was chosen on other data, and promote.replace_other_data is set"
            )
        else:
            evidence, more = _weigh(client, best, champion, config)
        now = find_version(client, name, CHAMPION)
        if (now and now.version) == (champion and champion.version):
            break
        # Another sweep has promoted a model meanwhile, so this evidence is against a version that is no longer the champion.
        champion, other_data = now, False
    return evidence, more, champion


def _weigh(
    client: "MlflowClient", best: StoredRun, champion: "ModelVersion", config: PromoteConfig
) -> tuple[Evidence, list[str]]:
    """Returns the evidence against a champion on the same data, and the commands that would get more of it."""
    run = find_run(client, champion.run_id)
    if run is None:
        gone = "not compared: the champion's run is gone; promote.force=true moves the champion in any case"
        return Evidence(Reason.NOT_COMPARABLE, gone), []
    evidence, found = compare_runs(client, best, run, config)
    if found is None or evidence.outcome != Judgement.UNDECIDED:
        return evidence, []
    return evidence, commands_for_more(best, run, found, config)


def score(run: StoredRun) -> tuple[float, float]:
    """Returns the key by which runs are ranked: the kept model's val accuracy, then its negated val loss."""
    accuracy, loss = run.kept_score
    return accuracy, -loss


def find_version(client: "MlflowClient", name: str, alias_or_version: str) -> "ModelVersion | None":
    """Returns a version of a registered model by alias or number; None if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        if alias_or_version.isdigit():
            return client.get_model_version(name, alias_or_version)
        return client.get_model_version_by_alias(name, alias_or_version)
    except MlflowException as error:
        # Any other error, such as a server that does not answer, must not be taken for "there is no champion".
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _register(client: "MlflowClient", name: str, run: StoredRun, digest: str) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(
            name, description="The best run of each sweep; the alias champion is the best of all."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"name = '{name}'"):
        # It was registered before: by a command that was interrupted, or by the sweep from which this run is reused.
        if version.run_id == run.run_id:
            return version
    accuracy, loss = run.kept_score
    tags = {
        tag.TRAINED_BY: run.run_id,
        tag.RUN_NAME: run.name,
        tag.DATA_DIGEST: digest,
        tag.VAL_ACCURACY: repr(accuracy),
        tag.VAL_LOSS: repr(loss),
        **{key: run.tags[key] for key in (tag.SWEEP_ID, tag.TEST_LOOKS) if key in run.tags},
    }
    uri = run.tags[tag.MODEL_URI]
    # With a database, MLflow would look up models:/ID in its current store, which may be another one; a server looks in itself.
    source = uri if client.tracking_uri.startswith("http") else find_model_address(client, uri)
    # The version is available at once; without this, MLflow would log that it waits.
    return client.create_model_version(
        name,
        source=source,
        run_id=run.run_id,
        tags=tags,
        model_id=uri.removeprefix("models:/"),
        await_creation_for=0,
    )


class FoundModel(NamedTuple):
    """A model that `model=` names.

    Attributes:
        uri: MLflow's address of it.
        run_id: the run that trained it.
        words: a description, such as "catdog version 3".
        version: the version of the registered model; None if a run was named.
    """

    uri: str
    run_id: str
    words: str
    version: "ModelVersion | None" = None


def resolve_model(client: "MlflowClient", study: str, model: str | None) -> FoundModel:
    """Returns the model that `model=` names.

    Args:
        client: of the tracking store.
        study: decides the registered model for a bare version, an alias or None: that of the study's newest run, preferably one
            that was no quick look.
        model: a run id, a version, an alias, NAME/VERSION, NAME@ALIAS, a models:/ or runs:/ URI, or None for the champion.

    Raises:
        UserError: there is no such model.
    """
    wanted = (model or CHAMPION).strip()
    run_id = wanted.removeprefix("runs:/").split("/")[0]
    if len(run_id) == 32 and all(c in "0123456789abcdef" for c in run_id):
        return _resolve_run(client, run_id)
    wanted = wanted.removeprefix("models:/")
    if "@" in wanted:
        name, _, which = wanted.partition("@")
    elif "/" in wanted:
        name, _, which = wanted.partition("/")
    else:
        name, which = _registered_model_of(client, study), wanted
    version = find_version(client, name, which) if name else None
    if version is None:
        if "@" not in wanted and "/" not in wanted:
            # That the study does not exist says more than that its model does not.
            find_study(client, study)
        known = ", ".join(sorted(m.name for m in client.search_registered_models())) or "none"
        what = repr(f"{name}/{which}" if which.isdigit() else f"{name}@{which}") if name else "of any name"
        received = f", received model={model}" if model else ""
        raise UserError(
            f"model: no registered model {what} for study={study}{received}; registered models: {known}. "
            f"Train one first: {TRAIN_COMMAND}, or name a study (study=NAME), or a run, a version or an alias (model=...)."
        )
    words = f"{version.name} version {version.version}"
    return FoundModel(f"models:/{version.name}/{version.version}", version.run_id, words, version)


def _resolve_run(client: "MlflowClient", run_id: str) -> FoundModel:
    run = find_run(client, run_id)
    if run is None:
        raise UserError(f"model: no run {run_id!r} in this tracking store; see tracking.uri.")
    if run.model_uri is None:
        raise UserError(f"model: run {run_id} ({run.name}, {run.status}) has no saved model. Name a finished run.")
    return FoundModel(run.model_uri, run_id, f"run {run.name}")


def forget_champion(client: "MlflowClient", study: str) -> FoundModel:
    """Removes the alias `champion` from a study's registered model, and returns the former champion; all versions stay.

    Raises:
        UserError: there is no champion.
    """
    found = resolve_model(client, study, CHAMPION)
    assert found.version is not None
    client.delete_registered_model_alias(found.version.name, CHAMPION)
    log.info("%s is no longer the champion; the next promotion makes one", found.words)
    return found


def delete_run(client: "MlflowClient", study: str, run_id: str, outbox: Path, *, force: bool = False) -> None:
    """Deletes a training run in MLflow; it can be restored until `mlflow gc` removes it.

    What the outbox holds for the run, such as checkpoints and undelivered results, is removed permanently.

    Args:
        client: of the tracking store.
        study: the study that it must belong to.
        run_id: MLflow's.
        outbox: the outbox's folder.
        force: whether to delete the champion's run as well; the alias `champion` is then removed.

    Raises:
        UserError: the run does not belong to this study, is being trained, or is the champion's.
    """
    run = find_run(client, run_id)
    if run is None or run.is_deleted or run.experiment_id != find_study(client, study):
        raise UserError(f"run_id: study {study!r} has no run {run_id!r}. Its run ids are in the table of runs.")
    if run.kind != RUN:
        raise UserError(f"run_id: {run_id} ({run.name}) is no training run, but a {run.kind or 'run of another tool'}.")
    if run.is_running_here:
        raise UserError(f"run_id: {run.owner} is training {run_id} ({run.name}). Stop it first.")
    led = [name for name in {v.name for v in _versions_of(client, run)} if _is_champion(client, name, run_id)]
    if led and not force:
        raise UserError(
            f"run_id: {run_id} ({run.name}) is the champion of {', '.join(led)}. Promote another one first, or delete it and "
            "forget the champion with force=True."
        )
    with claimed_entry(outbox, run_id):
        for name in led:
            client.delete_registered_model_alias(name, CHAMPION)
        client.delete_run(run_id)


def _versions_of(client: "MlflowClient", run: StoredRun) -> "list[ModelVersion]":
    return list(client.search_model_versions(f"run_id = '{run.run_id}'"))


def _is_champion(client: "MlflowClient", name: str, run_id: str) -> bool:
    version = find_version(client, name, CHAMPION)
    return version is not None and version.run_id == run_id


def _registered_model_of(client: "MlflowClient", study: str) -> str:
    names = list_registered_models(client, study)
    # A quick look after a study must not replace it.
    return next((name for name in names if not name.endswith(QUICK)), next(iter(names), ""))
