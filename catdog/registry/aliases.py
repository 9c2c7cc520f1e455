"""The aliases of a registered model: `champion`, and one for the best version on each other data set."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catdog.config.schema import PromoteConfig
from catdog.tracking import tags as tag
from catdog.tracking.records import StoredRun, find_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
# A registered model has one champion. On other data than the champion's, the best version has an alias with the digest of its data.
CHAMPION_ON = "champion-{digest:.8}"


@dataclass(frozen=True)
class Title:
    """What a run on some data competes for: the alias `champion`, or that of the best version on its data.

    Attributes:
        name: registered model.
        alias: `champion`, or the alias of the best version on this data if the champion on other data stays.
        leader: the version to compare with, on the same data; None: there is none.
        other: the champion on other data, which is replaced if the alias is `champion`, and stays otherwise; None: there is none.
        digest: of the data.
        reason: why the champion on other data stays, in words.
    """

    name: str
    alias: str
    leader: "ModelVersion | None"
    other: "ModelVersion | None"
    digest: str
    reason: str = ""

    @property
    def words(self) -> str:
        """The alias in a sentence."""
        return "the champion" if self.alias == CHAMPION else f"the best on its images ({self.name}@{self.alias})"

    @property
    def replaces(self) -> bool:
        """Whether the champion on other data gives way to the best version on this data."""
        return self.other is not None and self.alias == CHAMPION

    def give(self, client: "MlflowClient", version: "ModelVersion") -> None:
        """Makes the alias point at a version. A champion on other data that gives way gets the alias of its data."""
        if self.other is not None and self.replaces:
            client.set_registered_model_alias(self.name, _alias_of(self.other), self.other.version)
        client.set_registered_model_alias(self.name, self.alias, version.version)
        if self.alias == CHAMPION:
            client.delete_registered_model_tag(self.name, tag.FORMER_CHAMPION)
        own = CHAMPION_ON.format(digest=self.digest)
        if self.alias == CHAMPION and find_version(client, self.name, own):
            client.delete_registered_model_alias(self.name, own)

    def describe_other(self) -> str:
        """Returns in words what becomes of the champion on other data."""
        assert self.other is not None
        champion = f"version {self.other.version}, {name_run(self.other)}"
        if not self.replaces:
            return f"the champion of {self.name} is still {champion}, which was chosen on other images: {self.reason}"
        return (
            f"the former champion, {champion}, was chosen on other images, and models are compared on the same images only. "
            f"It is model={self.name}@{_alias_of(self.other)} from now on"
        )


def name_run(version: "ModelVersion") -> str:
    """Returns the name of the run that a version comes from."""
    return str(version.tags.get(tag.RUN_NAME, version.run_id))


def _alias_of(version: "ModelVersion") -> str:
    return CHAMPION_ON.format(digest=version.tags.get(tag.DATA_DIGEST, "unknown"))


def find_title(
    client: "MlflowClient", config: PromoteConfig, name: str, study: str, digest: str, trained: Collection[str]
) -> Title:
    """Returns what a study's run on some data competes for.

    Args:
        client: of the tracking store.
        config: the promote section.
        name: the registered model.
        study: the run's.
        digest: of its data.
        trained: the data digests of all runs of the command.
    """
    champion = find_version(client, name, CHAMPION)
    former = find_version(client, name, CHAMPION_ON.format(digest=digest))
    if champion is None:
        return Title(name, CHAMPION, former, None, digest)
    chosen_on = champion.tags.get(tag.DATA_DIGEST)
    if chosen_on == digest:
        return Title(name, CHAMPION, champion, None, digest)
    reason = ""
    if chosen_on in trained:
        reason = "this sweep has runs on those as well"
    elif not config.replace_other_data:
        reason = "promote.replace_other_data=false"
    elif not is_of_study(client, champion, study):
        reason = f"it belongs to the study {name_study_of(client, champion)}"
    alias = CHAMPION_ON.format(digest=digest) if reason else CHAMPION
    return Title(name, alias, former, champion, digest, reason)


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


def has_registered_model(client: "MlflowClient", name: str) -> bool:
    """Returns whether there is a registered model of this name."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def name_study(client: "MlflowClient", run: StoredRun) -> str:
    """Returns the name of a run's study."""
    return str(client.get_experiment(run.experiment_id).name)


def name_study_of(client: "MlflowClient", version: "ModelVersion") -> str:
    """Returns the study whose run a version comes from; "" if neither the run nor a tag says it."""
    run = find_run(client, version.run_id) if version.run_id else None
    return name_study(client, run) if run else str(version.tags.get(tag.STUDY, ""))


def is_of_study(client: "MlflowClient", version: "ModelVersion", study: str) -> bool:
    """Returns whether a version comes from a study; True if nobody knows."""
    return name_study_of(client, version) in ("", study)
