"""The test ledger: every look at a test split is recorded before its result is known, and the earlier looks are counted.

A test split loses its value with use. If you look at it again and again and keep the best model, you have selected by it, and its
accuracy is too optimistic for that model. So looks are counted by the content of the images: the same images in another study or
folder are the same split. Test splits that share only some of their images are not recognised as related.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from catdog.registry.descriptions import put_paragraph
from catdog.system.errors import UserError
from catdog.system.wording import plural
from catdog.tracking import tags as tag
from catdog.tracking.identity import describe_origin, script_command
from catdog.tracking.records import get_run, store_run

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

# An experiment of its own, whose runs are looks. MLflow is the only store, and adding a run is safe while others write.
EXPERIMENT = tag.LEDGER
TEST_LINE = "Test split:"
# MLflow's own limit on the number of search results.
MOST_LOOKS = 50_000


@dataclass(frozen=True)
class Look:
    """One look at a test split.

    Attributes:
        number: from 1, in order of time.
        when: when it began.
        model: the model that was evaluated, in words.
        run_id: the run that trained it.
        accuracy: the result, in [0, 1]; None if the look produced none or is still open.
    """

    number: int
    when: datetime
    model: str
    run_id: str
    accuracy: float | None


@dataclass
class OpenLook:
    """A look in progress: `Dataset.load_split` requires one before it returns test images.

    Attributes:
        client: of the tracking store.
        look_id: its run in the ledger.
        run_id: the run that trained the model.
        earlier: the looks before it.
        test_digest: the digest of the test images that it covers.
        is_open: whether it is still in progress.
        has_images: whether test images were given out; from then on it counts, however it ends.
        result: the metrics found, to be logged when it ends.
    """

    client: "MlflowClient" = field(repr=False)
    look_id: str
    run_id: str
    earlier: list[Look]
    test_digest: str = ""
    is_open: bool = True
    has_images: bool = False
    result: Mapping[str, float] | None = None

    def __repr__(self) -> str:
        state = "open" if self.is_open else "ended"
        return f"OpenLook(look {self.number}, {state}, run_id={self.run_id!r})"

    @property
    def number(self) -> int:
        """Which look this is, from 1."""
        return len(self.earlier) + 1

    def record(self, metrics: Mapping[str, float]) -> None:
        """Stores the metrics found, such as {"test/accuracy": 0.98}; they are logged when the look ends."""
        self.result = dict(metrics)

    @property
    def counts(self) -> bool:
        """Whether it counts as a look: test images were given out, or there is a result."""
        return self.has_images or self.result is not None

    def give_images(self) -> None:
        """Notes that test images are about to be given out; call it before anything can be read from them."""
        if not self.has_images:
            self.note_on_run()
            self.has_images = True

    def note_on_run(self) -> None:
        """Stores the number of this look with the run that trained the model."""
        self.client.set_tag(self.run_id, tag.TEST_LOOKS, str(self.number))


def digest_test(images: "pd.DataFrame") -> str:
    """Returns the digest of a test split: of its images' contents and labels, not of their paths.

    Args:
        images: a manifest's rows: columns label, split and sha256.
    """
    rows = images[images["split"] == "test"]
    lines = sorted(f"{label}\t{digest}\n" for label, digest in zip(rows["label"], rows["sha256"], strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def require_look(look: OpenLook | None, images: "pd.DataFrame | None" = None) -> None:
    """Raises a UserError unless this is an open look at the test split of these images.

    Args:
        look: as a script passes it.
        images: a manifest's rows: columns label, split and sha256; None: any images.
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
    """Records a look at a test split before anything can be read from it; its result is added when it ends.

    A look that fails after test images were given out, or that is killed, stays recorded and counts: nobody can tell what had been
    seen by then. One that ends before that, and without a result, is closed and does not count.

    Args:
        client: of the tracking store.
        test_digest: as `digest_test` returns it.
        study: the model's study.
        model: the model in words, "flowers version 3".
        model_uri: MLflow's.
        run_id: the run that trained the model.
        command: the command that asks for the look, in a form that can be typed again.
    """
    experiment_id = _open_ledger(client)
    tags = {
        tag.KIND: tag.LOOK, tag.TEST_DIGEST: test_digest, tag.STUDY: study, tag.MODEL: model,
        tag.MODEL_URI: model_uri, tag.TRAINED_BY: run_id,
        **describe_origin(command),
    }  # fmt: skip
    look_id = client.create_run(experiment_id, run_name=f"look at {model}", tags=tags).info.run_id
    # Recorded first and counted afterwards: of two looks at the same moment, each then sees the other, whatever their clocks say.
    look = OpenLook(client, look_id, run_id, [], test_digest)
    try:
        look.earlier = read_looks(client, test_digest, but=look_id)
        try:
            yield look
        finally:
            look.is_open = False
        now = int(time.time() * 1000)
        for key, value in (look.result or {}).items():
            client.log_metric(look.look_id, key, value, timestamp=now)
        if look.counts:
            look.note_on_run()
    except BaseException:
        _close(look, "FAILED")
        raise
    _close(look, "FINISHED")
    if look.counts:
        _mark_versions(client, run_id, look)


def _close(look: OpenLook, status: str) -> None:
    if not look.counts:
        look.client.set_tag(look.look_id, tag.NOT_LOOKED, "true")
    look.client.set_terminated(look.look_id, status)


@contextmanager
def open_run_look(client: "MlflowClient", images: "pd.DataFrame", run_id: str) -> Iterator[OpenLook]:
    """Records a script's look at the test split with one of its runs, like `open_look`; the run gets the result as well.

    Args:
        client: of the tracking store.
        images: the rows of the run's manifest: columns label, split and sha256.
        run_id: the run that is evaluated.
    """
    run = get_run(client, run_id)
    study = client.get_experiment(run.experiment_id).name
    model_uri = run.model_uri or ""
    with open_look(
        client, digest_test(images), study=study, model=f"run {run.name}", model_uri=model_uri, run_id=run_id,
        command=script_command(),
    ) as look:  # fmt: skip
        yield look
    for key, value in (look.result or {}).items():
        client.log_metric(run_id, key, float(value))


def _open_ledger(client: "MlflowClient") -> str:
    """Returns the id of the ledger's experiment; the first look creates it, and it is restored if somebody has deleted it."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        try:
            return client.create_experiment(EXPERIMENT)
        except MlflowException as error:
            # Another first look created it at the same moment.
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def _mark_versions(client: "MlflowClient", run_id: str, look: OpenLook) -> None:
    """Records on a run's registered versions how often their test split has been looked at."""
    for version in client.search_model_versions(f"run_id = '{run_id}'"):
        client.set_model_version_tag(version.name, version.version, tag.TEST_LOOKS, str(look.number))
        text = put_paragraph(version.description, TEST_LINE, describe_count(str(look.number)))
        client.update_model_version(version.name, version.version, text)


def describe_count(count: str | None) -> str:
    """Returns the paragraph about the test split in a version's description; "" if nobody has looked at it."""
    return f"{TEST_LINE} this was look {count} at its images, of all models together." if count else ""


def read_looks(client: "MlflowClient", test_digest: str, but: str | None = None) -> list[Look]:
    """Returns the looks at a test split that count, oldest first; those that were deleted in MLflow, but not purged, do.

    Args:
        client: of the tracking store.
        test_digest: as `digest_test` returns it.
        but: the run id of a look to leave out.
    """
    from mlflow.entities import ViewType

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    where = f"tags.`{tag.TEST_DIGEST}` = '{test_digest}'"
    found = client.search_runs([experiment.experiment_id], where, ViewType.ALL, MOST_LOOKS)
    counted = [run for run in found if run.info.run_id != but and tag.NOT_LOOKED not in run.data.tags]
    looks = sorted((store_run(client, run) for run in counted), key=lambda look: look.start)
    return [
        Look(number, look.start, look.tags.get(tag.MODEL, "?"), look.tags.trained_by, look.metrics.get("test/accuracy"))
        for number, look in enumerate(looks, 1)
    ]


def describe_look(look: OpenLook, run_id: str) -> str:
    """Returns in words the number of this look, and what that means for its result."""
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
