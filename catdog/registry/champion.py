"""The registry: the best run becomes a version of its study's registered model; the champion is the version that has earned it."""

import logging
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from catdog.config.command_lines import quote
from catdog.config.schema import DEFAULT_STUDY, PromoteConfig
from catdog.config.suggestions import ask, suggest
from catdog.data.metrics import load_metric
from catdog.registry.aliases import (
    CHAMPION,
    CHAMPION_ON,
    Title,
    find_title,
    find_version,
    has_registered_model,
    is_of_study,
    name_run,
    name_study,
    name_study_of,
)
from catdog.registry.card import write_card
from catdog.registry.evidence import MANY_CHALLENGES, Challenge, Evidence, Reason, commands_for_more, compare_runs
from catdog.registry.ledger import describe_count
from catdog.statistics.judgements import Judgement
from catdog.statistics.metrics import Metric
from catdog.system.errors import TRAIN_COMMAND, UserError
from catdog.system.wording import plural
from catdog.tracking import tags as tag
from catdog.tracking.models import find_model_address
from catdog.tracking.records import (
    StoredRun,
    explain_gone,
    find_run,
    find_study,
    get_run,
    list_promoted_runs,
    log_registered_model,
)
from catdog.tracking.scores import load_score
from catdog.tracking.store import store_command

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

# The names of registered models for quick looks end with this.
QUICK = "-quick"
# How often the comparison is repeated if the champion changes meanwhile.
MOST_TURNS = 5
# The most versions that a message names.
MOST_VERSIONS = 5


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


def name_registered_model(study: str) -> str:
    """Returns the name of a study's registered model: that of the study, with a hyphen for characters that MLflow does not take."""
    return re.sub(r"[^\w .-]", "-", study).strip(". ") or "study"


def promote(
    client: "MlflowClient", config: PromoteConfig, run_ids: list[str], sweep_id: str | None = None
) -> list[Promotion]:
    """Registers the best of some finished runs; moves the alias `champion` if there is enough evidence against the champion.

    The best variant is the one whose kept models have the best mean validation accuracy, or what `promote.metric` names. Its best
    run is registered; the lower loss breaks ties. `catdog.registry.evidence` defines the evidence that is needed, and the version
    records it. The registered model is that of the runs' study, unless `promote.registered_model` names another. A quick look
    (`dataset.max_images_per_class`) goes to one whose name ends in -quick. Test results play no part.

    Models are compared on the same data only, so each data set of a sweep has its own best run. If the data is not that of the
    champion, the best run on it becomes champion without a comparison, and the former champion keeps an alias of its own. The
    champion stays if `promote.replace_other_data` is off, if the runs include some on its data, or if it is of another study.

    Args:
        client: of the tracking store.
        config: the promote section.
        run_ids: the candidates, of one study.
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
        promotion = _promote_best(
            client, config, pick_best(client, runs, config), digest, by_digest, len(_group_variants(runs))
        )
        for run_id in [*(run.run_id for run in runs), *([sweep_id] if sweep_id else [])]:
            log_registered_model(client, run_id, promotion.name)
        write_card(client, promotion.name, promotion.version)
        promotions.append(promotion)
    return promotions


def pick_best(client: "MlflowClient", runs: Sequence[StoredRun], config: PromoteConfig) -> StoredRun:
    """Returns the best run of the best variant by `promote.metric`: one lucky seed does not make a variant the best.

    Raises:
        UserError: the metric is not possible for these runs.
    """
    metric = load_metric(config.metric, "promote.metric")
    ranks = {run.run_id: _rank(client, run, metric) for run in runs}
    variants = _group_variants(runs)
    best = max(variants.values(), key=lambda seeds: tuple(np.mean([ranks[run.run_id] for run in seeds], axis=0)))
    return max(best, key=lambda run: ranks[run.run_id])


def _rank(client: "MlflowClient", run: StoredRun, metric: Metric) -> tuple[float, float]:
    """Returns the key by which runs are ranked: the metric, the higher the better, then the negated val loss."""
    if metric.is_accuracy:
        return score(run)
    predictions = run.load_predictions()
    if not len(predictions):
        # It cannot be compared, so every other run comes first.
        return -float("inf"), 0.0
    return float(metric.orient(load_score(client, run, predictions, metric=metric).mean)), score(run)[1]


def _group_variants(runs: Sequence[StoredRun]) -> dict[str, list[StoredRun]]:
    variants: dict[str, list[StoredRun]] = {}
    for run in runs:
        variants.setdefault(run.tags.variant_key() or run.run_id, []).append(run)
    return variants


def _promote_best(
    client: "MlflowClient", config: PromoteConfig, best: StoredRun, digest: str, trained: Collection[str], variants: int
) -> Promotion:
    study = name_study(client, best)
    # A quick look must not take the name that belongs to the whole study.
    name = (config.registered_model or name_registered_model(study)) + (QUICK if best.is_quick_look else "")
    _adopt_champions(client, name, study, quick=best.is_quick_look)
    version = _register(client, name, best, digest)
    metric = load_metric(config.metric, "promote.metric")
    value = metric.orient(_rank(client, best, metric)[0])
    words = f"{name} version {version.version}: {best.name}, val {metric.words} {value:.3f}"
    title = find_title(client, config, name, study, digest, trained)
    promotion = Promotion(name, str(version.version), best.run_id, title.alias == CHAMPION)
    if title.leader is not None and title.leader.version == version.version:
        again = "again" if title.replaces else "already"
        if title.replaces:
            title.give(client, version)
        log.info("%s is %s %s%s", words, again, title.words, f"; {title.describe_other()}" if title.replaces else "")
        return promotion
    challenge = Challenge(_count_challenges(client, name, digest) + 1, variants, Evidence.from_tags(version.tags))
    evidence, more, title = _weigh_against_latest(
        client, config, best, title, challenge, lambda: find_title(client, config, name, study, digest, trained)
    )
    if config.force and not evidence.moves:
        evidence = replace(
            evidence, outcome=Reason.FORCED, words=f"forced by promote.force; without it: {evidence.words}"
        )
    for key, value in evidence.tags.items():
        client.set_model_version_tag(name, version.version, key, value)
    looks = describe_count(best.tags.get(tag.TEST_LOOKS))
    description = "\n\n".join(part for part in (evidence.description, looks) if part)
    client.update_model_version(name, version.version, description=description)
    if evidence.moves:
        title.give(client, version)
        log.info("registered %s; it is %s now: %s", words, title.words, evidence.words)
    else:
        leader = title.leader
        assert leader is not None
        if title.replaces:
            title.give(client, leader)
        stays = (
            f"{title.words} is {'again' if title.replaces else 'still'} version {leader.version}, {name_run(leader)}"
        )
        log.info("registered %s; %s: %s", words, stays, evidence.words)
    if title.other is not None:
        log.info("%s", title.describe_other())
    if more:
        log.info(
            "to get the evidence, run%s:\n  %s",
            " both, one after the other" if len(more) > 1 else "",
            "\n  ".join(more),
        )
    elif evidence.outcome == Judgement.UNDECIDED:
        log.info("more seeds would not settle it: it takes more validation images, or promote.rule=not_worse")
    if evidence.challenge >= MANY_CHALLENGES:
        log.info(
            "this was challenge %d on the same validation images, and each has to show more than the last; new images restart the "
            "count: add some, or draw val anew with dataset.refresh=1",
            evidence.challenge,
        )
    return replace(promotion, is_champion=title.alias == CHAMPION and evidence.moves)


def _adopt_champions(client: "MlflowClient", name: str, study: str, *, quick: bool) -> None:
    """Registers under a new name the champions that a study has under others, so that new models are compared with them.

    Older versions of catdog named registered models `catdog`, with a digest for other data; `promote.registered_model` may also
    have been set or removed.
    """
    if has_registered_model(client, name):
        return
    adopted: set[str] = set()
    for former in dict.fromkeys(
        run.registered_model for run in list_promoted_runs(client, study) if run.is_quick_look == quick
    ):
        champion = find_version(client, former, CHAMPION)
        if champion is None or not is_of_study(client, champion, study):
            continue
        run = find_run(client, champion.run_id)
        if run is None or run.model_uri is None or run.data_digest in adopted:
            continue
        version = _register(client, name, run, run.data_digest)
        for key in (tag.EVIDENCE, tag.EVIDENCE_OUTCOME, tag.EVIDENCE_INTERVAL):
            if key in champion.tags:
                client.set_model_version_tag(name, version.version, key, champion.tags[key])
        client.update_model_version(name, version.version, description=champion.description or "")
        # The newest runs come first, so this was the champion of the study.
        alias = CHAMPION_ON.format(digest=run.data_digest) if adopted else CHAMPION
        client.set_registered_model_alias(name, alias, version.version)
        write_card(client, name, str(version.version))
        adopted.add(run.data_digest)
        log.info(
            "the registered model of study %s is %s now: %s version %s, its champion, is %s version %s as well",
            study, name, former, champion.version, name, version.version,
        )  # fmt: skip


def _weigh_against_latest(
    client: "MlflowClient",
    config: PromoteConfig,
    best: StoredRun,
    title: Title,
    challenge: Challenge,
    find_title: Callable[[], Title],
) -> tuple[Evidence, list[str], Title]:
    """Returns the evidence against the current holder of an alias, commands that would get more of it, and that alias."""
    more: list[str] = []
    for _ in range(MOST_TURNS):
        if title.leader is not None:
            evidence, more = _weigh(client, best, title.leader, config, challenge)
        elif title.other is not None:
            evidence = Evidence(Reason.OTHER_DATA, "it is the first on these images")
        else:
            evidence = Evidence(Reason.FIRST, "there was no champion to compare with")
        now = find_title()
        if (now.leader and now.leader.version) == (title.leader and title.leader.version):
            break
        # Another sweep has promoted a model meanwhile, so this evidence is against a version that is no longer the champion.
        title = now
    return evidence, more, title


def _weigh(
    client: "MlflowClient", best: StoredRun, champion: "ModelVersion", config: PromoteConfig, challenge: Challenge
) -> tuple[Evidence, list[str]]:
    """Returns the evidence against a champion on the same data, and the commands that would get more of it."""
    run = find_run(client, champion.run_id)
    gone = explain_gone(client, champion.run_id, run)
    if run is None or gone:
        words = f"not compared with the champion: {gone} promote.force=true moves the champion in any case"
        return Evidence(Reason.NOT_COMPARABLE, words), []
    evidence, found = compare_runs(client, best, run, config, challenge)
    if found is None or evidence.outcome != Judgement.UNDECIDED:
        return evidence, []
    return evidence, commands_for_more(best, run, found, config, challenge)


def _count_challenges(client: "MlflowClient", name: str, digest: str) -> int:
    """Returns how often a model was compared with a champion on some data, by the numbers on the versions of a registered model.

    Versions of which older versions of catdog recorded no number count as one each.
    """
    versions = client.search_model_versions(f"name = '{name}'")
    found = [Evidence.from_tags(version.tags) for version in versions if version.tags.get(tag.DATA_DIGEST) == digest]
    compared = [evidence for evidence in found if evidence and evidence.difference is not None]
    return max([evidence.challenge for evidence in compared] + [len(compared)])


def score(run: StoredRun) -> tuple[float, float]:
    """Returns the key by which runs are ranked: the kept model's fair val accuracy, then its negated val loss."""
    accuracy, loss = run.fair_score
    return accuracy, -loss


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
        tag.STUDY: name_study(client, run),
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
        words: a description, such as "flowers version 3".
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
            that was no quick look. The champion is one that a run of this study has trained.
        model: a run id, a version, an alias, NAME/VERSION, NAME@ALIAS, a models:/ or runs:/ URI, or None for the champion.

    Raises:
        UserError: there is no such model.
    """
    wanted = (model or CHAMPION).strip()
    run_id = _find_run_id(wanted)
    if run_id:
        return _resolve_run(client, run_id)
    name, which = _split_name(wanted)
    if not name:
        find_study(client, study)
        name = _registered_model_of(client, study)
    if wanted == CHAMPION:
        version = find_champion(client, study)
        if version is None:
            if name and find_version(client, name, CHAMPION) is None:
                _require_no_versions(client, study, name)
            raise UserError(_explain_no_champion(client, study, name))
    else:
        version = find_version(client, name, which) if name else None
    if version is None:
        if "@" not in wanted and "/" not in wanted:
            # That the study does not exist says more than that its model does not.
            find_study(client, study)
        known = sorted(m.name for m in client.search_registered_models())
        what = repr(f"{name}/{which}" if which.isdigit() else f"{name}@{which}") if name else "of any name"
        received = f", received model={model}" if model else ""
        if name in known:
            _refuse_version(client, name, which, wanted)
        raise UserError(
            f"model: no registered model {what} for study={study}{received}; registered models: {', '.join(known) or 'none'}. "
            f"Train one first: {TRAIN_COMMAND}, or name a study (study=NAME), or a run, a version or an alias (model=...)."
        )
    words = f"{version.name} version {version.version}"
    return FoundModel(f"models:/{version.name}/{version.version}", version.run_id, words, version)


def _refuse_version(client: "MlflowClient", name: str, which: str, wanted: str) -> None:
    """Raises a UserError about a version or an alias that a registered model does not have."""
    versions = sorted(int(version.version) for version in client.search_model_versions(f"name = '{name}'"))
    aliases = sorted(client.get_registered_model(name).aliases)
    shown = [str(version) for version in versions[-MOST_VERSIONS:]]
    has = [f"version{'s' if len(shown) > 1 else ''} {', '.join(shown)}"] if shown else []
    has += [f"alias{'es' if len(aliases) > 1 else ''} {', '.join(aliases)}"] if aliases else []
    raise UserError(
        f"model: {name} has no {'version' if which.isdigit() else 'alias'} {which!r}, received model={wanted}; it has "
        f"{' and '.join(has) or 'no version'}.{ask([suggest(which, aliases)])} A run is named by the 32 digits of its id."
    )


def _find_run_id(wanted: str) -> str:
    """Returns the run id that a value of `model=` names; "" if it names a version or an alias."""
    run_id = wanted.removeprefix("runs:/").split("/")[0]
    return run_id if len(run_id) == 32 and all(c in "0123456789abcdef" for c in run_id) else ""


def _split_name(wanted: str) -> tuple[str, str]:
    """Returns (registered model, version or alias) of a value of `model=`; the name is "" if it is left out."""
    wanted = wanted.removeprefix("models:/")
    for separator in ("@", "/"):
        if separator in wanted:
            name, _, which = wanted.partition(separator)
            return name, which
    return "", wanted


def find_champion(client: "MlflowClient", study: str) -> "ModelVersion | None":
    """Returns the champion of a study, which a run of this study has trained; None if it has none.

    Studies may share a registered model, by `promote.registered_model`. If its champion is of another study and was chosen on
    other data, the study's own is the best version on its data.
    """
    name = _registered_model_of(client, study)
    if not name or not has_registered_model(client, name):
        return None
    aliases = dict(client.get_registered_model(name).aliases)
    on_data = sorted((alias for alias in aliases if alias.startswith(CHAMPION_ON.format(digest=""))),
                     key=lambda alias: -int(aliases[alias]))  # fmt: skip
    if CHAMPION not in aliases:
        return None
    for alias in (CHAMPION, *on_data):
        version = find_version(client, name, alias)
        if version is not None and is_of_study(client, version, study):
            return version
    return None


def has_champion_to_test(client: "MlflowClient", study: str) -> bool:
    """Returns whether `evaluate study=NAME` finds a champion. That of a quick look does not count: it is not meant to be tested."""
    champion = find_champion(client, study)
    return champion is not None and not champion.name.endswith(QUICK)


def list_studies_with_champion(client: "MlflowClient") -> list[str]:
    """Returns the names of the studies that have a champion, sorted."""
    versions = (find_version(client, model.name, alias) for model in client.search_registered_models()
                for alias in model.aliases)  # fmt: skip
    studies = {name_study_of(client, version) for version in versions if version is not None}
    return sorted(study for study in studies if study and find_champion(client, study))


def choose_study(client: "MlflowClient", model: str | None) -> str:
    """Returns the study that is meant by a command without `study=`.

    That is the default study if it has a champion, otherwise the only study that has one. If several have one, the choice is
    logged.

    Args:
        client: of the tracking store.
        model: as for `resolve_model`; the study matters only for the champion, another alias or a bare version.

    Raises:
        UserError: several studies have a champion, and the default study does not.
    """
    wanted = (model or CHAMPION).strip()
    if _find_run_id(wanted) or _split_name(wanted)[0]:
        return DEFAULT_STUDY
    studies = list_studies_with_champion(client)
    if len(studies) == 1:
        return studies[0]
    if studies and DEFAULT_STUDY not in studies:
        raise UserError(f"study: several studies have a champion: {', '.join(studies)}. Name one: study={studies[0]}")
    if studies:
        others = ", ".join(study for study in studies if study != DEFAULT_STUDY)
        log.info("taking the champion of study %s; these have one as well: %s (study=NAME)", DEFAULT_STUDY, others)
    return DEFAULT_STUDY


def _explain_no_champion(client: "MlflowClient", study: str, name: str) -> str:
    champion = find_version(client, name, CHAMPION) if name else None
    shared = ""
    if champion is not None:
        owner = name_study_of(client, champion)
        shared = (
            f" The champion of {name}, version {champion.version}, is of study {owner!r} (model={name}@{CHAMPION})."
        )
    others = [other for other in list_studies_with_champion(client) if other != study]
    named = f" Studies with a champion: {', '.join(others)} (study=NAME)." if others else ""
    return (
        f"model: study {study!r} has no champion.{shared} Its next sweep or run makes one, unless promote.enabled=false; type its "
        f"command again, and finished runs are reused. Or name a run: model=RUN_ID.{named}"
    )


def _require_no_versions(client: "MlflowClient", study: str, name: str) -> None:
    """Raises a UserError if a registered model without a champion has versions: then nothing has to be trained for one."""
    versions = client.search_model_versions(f"name = '{name}'")
    if versions:
        former = _find_former_champion(client, name)
        restored = ""
        if former is not None:
            command = store_command(client, "restore", "champion=true", f"study={quote(study)}")
            restored = f" It was version {former.version}. Put the alias back: {command}."
            gone = explain_gone(client, former.run_id, find_run(client, former.run_id))
            if gone:
                restored = f" It was version {former.version}; {gone}"
        newest = max(int(version.version) for version in versions)
        raise UserError(
            f"model: {name} has {plural(len(versions), 'version')}, but no champion: the alias was removed.{restored} Or name a "
            f"version: model={name}/{newest}."
        )


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
    remove_alias(client, found.version)
    log.info("%s is no longer the champion; the next promotion makes one", found.words)
    return found


def set_alias(client: "MlflowClient", version: "ModelVersion") -> None:
    """Gives a version the alias `champion`."""
    client.set_registered_model_alias(version.name, CHAMPION, version.version)
    client.delete_registered_model_tag(version.name, tag.FORMER_CHAMPION)


def remove_alias(client: "MlflowClient", version: "ModelVersion") -> None:
    """Removes the alias `champion` from a version; its registered model remembers which one it was, for `restore_champion`."""
    client.set_registered_model_tag(version.name, tag.FORMER_CHAMPION, str(version.version))
    client.delete_registered_model_alias(version.name, CHAMPION)


def restore_champion(client: "MlflowClient", study: str) -> "ModelVersion":
    """Gives the alias `champion` back to the version of a study's registered model that had it last, and returns that.

    If the alias was removed on MLflow's own pages, it is the newest version that became champion by its evidence.

    Raises:
        UserError: there is a champion, or there never was one.
    """
    name = _registered_model_of(client, study)
    if not name:
        raise UserError(
            f"study: {study!r} has no registered model, so it never had a champion. Train first: {TRAIN_COMMAND}"
        )
    standing = find_version(client, name, CHAMPION)
    if standing is not None:
        raise UserError(f"champion: {name} has one, version {standing.version}; there is nothing to restore.")
    version = _find_former_champion(client, name)
    if version is None:
        count = len(client.search_model_versions(f"name = '{name}'"))
        advice = f"Name a version: model={name}/NUMBER." if count else f"Train first: {TRAIN_COMMAND}"
        raise UserError(
            f"champion: none of the {plural(count, 'version')} of {name} is known to have been its champion. {advice}"
        )
    gone = explain_gone(client, version.run_id, find_run(client, version.run_id))
    if gone:
        raise UserError(f"champion: it was {name} version {version.version}, but {gone}")
    set_alias(client, version)
    return version


def _find_former_champion(client: "MlflowClient", name: str) -> "ModelVersion | None":
    """Returns the version of a registered model without a champion that was its champion last; None if that is not known."""
    former = client.get_registered_model(name).tags.get(tag.FORMER_CHAMPION)
    if former is not None:
        return find_version(client, name, former)
    # The alias was removed on MLflow's own pages.
    evidence = [
        (version, Evidence.from_tags(version.tags)) for version in client.search_model_versions(f"name = '{name}'")
    ]
    moved = [version for version, found in evidence if found and found.moves]
    return max(moved, key=lambda version: int(version.version), default=None)


def _registered_model_of(client: "MlflowClient", study: str) -> str:
    runs = list_promoted_runs(client, study)
    # A quick look after a study must not replace it.
    whole = (run.registered_model for run in runs if not run.is_quick_look)
    return next(whole, runs[0].registered_model if runs else "")
