"""The test ledger: every look at a test split is recorded before its result is known, and counted when the next one is taken.

A test split is worth what it has not been used for. Whoever looks at it again and again, and keeps the best model, has chosen by
it, and its accuracy flatters that model. So looks are counted, by the content of the images: the same images reached through
another study or folder are the same split. Images that two test splits share only in part are not recognised.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from catdog.system.errors import UserError
from catdog.system.wording import plural
from catdog.tracking.identity import describe_origin, script_command

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

# An experiment of its own, whose runs are looks: MLflow is the only store, and adding a run is safe beside other writers.
EXPERIMENT = "catdog-test-ledger"
KIND = "test_look"
LOOKS_TAG = "catdog.test_looks"
TEST_LINE = "Test split:"
# MLflow's own limit to what a search returns at once.
MOST_LOOKS = 50_000


@dataclass(frozen=True)
class Look:
    """One look at a test split.

    Attributes:
        number: from 1, in the order of time.
        when: when it began.
        model: what was looked at, in words.
        run_id: the run that trained it.
        accuracy: the result, in [0, 1]; None where the look did not come to one, or is under way.
    """

    number: int
    when: datetime
    model: str
    run_id: str
    accuracy: float | None


@dataclass
class OpenLook:
    """A look that is under way: what `Dataset.load_split` asks for before it gives test images out.

    Attributes:
        look_id: its run in the ledger.
        earlier: the looks before it.
        test_digest: of the images that it is for.
        is_open: until it ends.
    """

    look_id: str
    earlier: list[Look]
    test_digest: str = ""
    is_open: bool = True
    result: Mapping[str, float] | None = None

    @property
    def number(self) -> int:
        """Which look this is, from 1."""
        return len(self.earlier) + 1

    def record(self, metrics: Mapping[str, float]) -> None:
        """Keeps what was found, such as {"test/accuracy": 0.98}, to be logged when the look ends."""
        self.result = dict(metrics)


def digest_test(images: "pd.DataFrame") -> str:
    """Returns the digest of a test split: what its images contain and what they are, not where they lie.

    Args:
        images: a manifest's rows: columns label, split and sha256.
    """
    rows = images[images["split"] == "test"]
    lines = sorted(f"{label}\t{digest}\n" for label, digest in zip(rows["label"], rows["sha256"], strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def require_look(look: OpenLook | None, images: "pd.DataFrame | None" = None) -> None:
    """Raises a UserError unless this is an open look at the test split of these images.

    Args:
        look: as a script gives it.
        images: a manifest's rows: columns label, split and sha256; None: of whatever images.
    """
    problem = ""
    if look is None:
        problem = "test images are given out only for a look in the ledger"
    elif not look.is_open:
        problem = "the look has ended"
    elif images is not None and look.test_digest != digest_test(images):
        problem = "the look is at other test images"
    if problem:
        raise UserError(
            f"split: {problem}. Record the run first, then open a look at it; it is counted before the images are given out:\n"
            "  with study.look(run.run_id) as look:\n"
            '      test = study.split("test", look=look)'
        )


@contextmanager
def open_look(
    client: "MlflowClient", test_digest: str, *, study: str, model: str, model_uri: str, run_id: str, command: str
) -> Iterator[OpenLook]:
    """Records a look at a test split, before anything of it can be read; what it finds is added when it ends.

    A look that fails, or is killed, stays recorded and counts: nobody can tell what had been seen by then.

    Args:
        client: of the tracking store.
        test_digest: as of `digest_test`.
        study: of the model.
        model: in words, "catdog version 3".
        model_uri: MLflow's.
        run_id: the run that trained the model.
        command: what asks for the look, as it can be typed again.
    """
    experiment_id = _open_ledger(client)
    tags = {
        "catdog.kind": KIND, "catdog.test_digest": test_digest, "catdog.study": study, "catdog.model": model,
        "catdog.model_uri": model_uri, "catdog.run": run_id,
        **describe_origin(command),
    }  # fmt: skip
    look_id = client.create_run(experiment_id, run_name=f"look at {model}", tags=tags).info.run_id
    # Recorded first and counted then, whatever the clocks of two machines say: of two at the same moment none is the first alone.
    look = OpenLook(look_id, read_looks(client, test_digest, but=look_id), test_digest)
    client.set_tag(run_id, LOOKS_TAG, str(look.number))
    try:
        yield look
    except BaseException:
        client.set_terminated(look.look_id, "FAILED")
        raise
    finally:
        look.is_open = False
    now = int(time.time() * 1000)
    for key, value in (look.result or {}).items():
        client.log_metric(look.look_id, key, value, timestamp=now)
    client.set_terminated(look.look_id, "FINISHED")
    _mark_versions(client, run_id, look)


@contextmanager
def open_run_look(client: "MlflowClient", images: "pd.DataFrame", run_id: str) -> Iterator[OpenLook]:
    """Records a script's look at the test split by one of its runs, as `open_look`; the run gets what it finds as well.

    Args:
        client: of the tracking store.
        images: the rows of the run's manifest: columns label, split and sha256.
        run_id: the run that is looked at.
    """
    run = client.get_run(run_id)
    study = client.get_experiment(run.info.experiment_id).name
    model_uri = run.data.tags.get("catdog.model_uri", "")
    with open_look(
        client, digest_test(images), study=study, model=f"run {run.info.run_name}", model_uri=model_uri, run_id=run_id,
        command=script_command(),
    ) as look:  # fmt: skip
        yield look
    for key, value in (look.result or {}).items():
        client.log_metric(run_id, key, float(value))


def _open_ledger(client: "MlflowClient") -> str:
    """Returns the id of the ledger's experiment, made by the first look, and taken back where somebody has deleted it."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        try:
            return client.create_experiment(EXPERIMENT)
        except MlflowException as error:
            # Another first look was faster.
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def _mark_versions(client: "MlflowClient", run_id: str, look: OpenLook) -> None:
    """Says on the registered versions of a run how often their test split has been looked at."""
    for version in client.search_model_versions(f"run_id = '{run_id}'"):
        client.set_model_version_tag(version.name, version.version, LOOKS_TAG, str(look.number))
        lines = [line for line in (version.description or "").splitlines() if not line.startswith(TEST_LINE)]
        text = "\n".join([*lines, *describe_count(str(look.number))]).strip()
        client.update_model_version(version.name, version.version, text)


def describe_count(count: str | None) -> list[str]:
    """Returns the lines that a version's description has on its test split; none where nobody has looked."""
    return ["", f"{TEST_LINE} this was look {count} at its images, of all models together."] if count else []


def read_looks(client: "MlflowClient", test_digest: str, but: str | None = None) -> list[Look]:
    """Returns the looks at a test split, the first one first; looks that were deleted in MLflow, but not purged, count as well.

    Args:
        client: of the tracking store.
        test_digest: as of `digest_test`.
        but: a look's run id: all others.
    """
    from mlflow.entities import ViewType

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    where = f"tags.`catdog.test_digest` = '{test_digest}'"
    runs = client.search_runs([experiment.experiment_id], where, ViewType.ALL, MOST_LOOKS)
    runs = sorted((run for run in runs if run.info.run_id != but), key=lambda run: run.info.start_time)
    return [
        Look(
            number,
            datetime.fromtimestamp(run.info.start_time / 1000).astimezone(),
            run.data.tags.get("catdog.model", "?"),
            run.data.tags.get("catdog.run", ""),
            run.data.metrics.get("test/accuracy"),
        )
        for number, run in enumerate(runs, 1)
    ]


def describe_look(look: OpenLook, run_id: str) -> str:
    """Returns which look this was, and what that means for its result, in words."""
    if not look.earlier:
        return "look 1 at these test images: nobody has looked at them before"
    models = {earlier.run_id for earlier in look.earlier}
    before = f"{plural(len(look.earlier), 'look')} before, at {plural(len(models), 'model')}"
    if run_id in models:
        return f"look {look.number} at these test images ({before}); this model has been looked at already: nothing new was used up"
    return (
        f"look {look.number} at these test images ({before}): the best of several looks flatters its model, and the more looks, "
        "the more"
    )
