"""Runs that other tools trained: a script reports the results, and the run is stored like one of catdog's own."""

import contextlib
import json
import linecache
import logging
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from catdog.config import schema
from catdog.config.checks import require, require_choice
from catdog.config.digest import flatten, hash_text
from catdog.config.schema import PromoteConfig, TrackingConfig
from catdog.data.answers import check_answers
from catdog.data.handout import PICTURE_SIZE
from catdog.data.history import History
from catdog.data.predictions import Predictions
from catdog.system.errors import UserError
from catdog.system.wording import plural
from catdog.tracking import metric_names
from catdog.tracking import tags as tag
from catdog.tracking.delivery import ENDED, Promote
from catdog.tracking.identity import (
    Identity,
    describe_origin,
    hash_settings,
    identify_script,
    script_command,
)
from catdog.tracking.logged_models import log_folder_model, log_keras_model
from catdog.tracking.outbox import Entry, entry_for
from catdog.tracking.ownership import BusyError, Owner
from catdog.tracking.results import log_data, log_outcome
from catdog.tracking.run import (
    SWEEP_PATIENCE_S,
    OutboxRun,
    closed_at_end,
    describe_undelivered,
    hand_in,
    member_tags_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from catdog.data.dataset import Dataset, SplitImages

log = logging.getLogger(__name__)

REUSE = ("exact", "never")
# What MLflow allows in the name of a metric or a parameter, in addition to letters and digits.
NAME_CHARACTERS = "_-./ :"
MOST_NAME_LETTERS = 240


@dataclass(frozen=True)
class Origin:
    """What a recorded run is, and who records it; by default, a training of a user's script.

    Attributes:
        kind: of the run.
        name: the run's in MLflow; "": that of its variant, with the seed.
        command: the command line that records it; "": that of the running script.
        tags: further tags.
        keep: "best" if validation images took part in the choice of the model; "": by the epoch whose model made the answers.
        promotion: the rules by which its model may become champion.
    """

    kind: str = tag.RUN
    name: str = ""
    command: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    keep: str = ""
    promotion: PromoteConfig = field(default_factory=PromoteConfig)


# A run that a user's script trains.
SCRIPT = Origin()


@dataclass
class Recording:
    """Runs of a script that belong together like those of a sweep; by default, the comparison covers them.

    Attributes:
        name: its name in MLflow.
        sweep_id: the id of its MLflow run. It is "" until the first new run; if no run is new, until the recording ends.
        run_ids: the ids of its runs in the order in which they were recorded, reused runs included.
    """

    name: str
    sweep_id: str = ""
    run_ids: list[str] = field(default_factory=list)
    members: "list[RecordedRun]" = field(default_factory=list, repr=False)
    sweep: OutboxRun | None = field(default=None, repr=False)
    promote: Promote | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"Recording({self.name!r}, {plural(len(self.members), 'run')}, sweep_id={self.sweep_id!r})"

    def member_tags(self, place: int) -> dict[str, str]:
        """Returns the tags that make a member's run one of this sweep.

        Args:
            place: the member's, from 0.
        """
        member = self.members[place]
        variants = [*dict.fromkeys(each.variant for each in self.members)]
        return member_tags_of(self.sweep_id, place, member.name, member.variant, variants.index(member.variant))


class RecordedRun:
    """A run that a script describes while it trains.

    `is_finished` is true if a finished run of the same variant, config, seed, data and code exists already. The script can then
    skip its work; anything that it logs all the same changes nothing.

    Attributes:
        name: its name in MLflow, such as "forest seed=1".
        variant: the variant's name: variants are what is compared.
        seed: the run's.
        is_finished: whether the result exists: from an earlier run, or because this one has finished.
        run_id: MLflow's; it stays "" until the run ends if the store did not answer at once.
        has_arrived: whether MLflow has all of it after its end; anything missing is delivered later.
        promotions: the versions that its model became: the fields of `catdog.registry.champion.Promotion`.
    """

    def __init__(self, name: str, variant: str, seed: int, dataset: "Dataset", run_id: str = "") -> None:
        self.name = name
        self.variant = variant
        self.seed = seed
        self.is_finished = bool(run_id)
        self.run_id = run_id
        self.has_arrived = bool(run_id)
        self.promotions: list[dict[str, Any]] = []
        self.has_model = False
        self.identity = ""
        self.keep = ""
        self._dataset = dataset
        self._run: OutboxRun | None = None
        self._epochs: list[dict[str, float]] = []
        self._metrics: dict[str, float] = {}
        self._predictions: Predictions | None = None
        self._kept_epoch: int | None = None
        self._model_size = 0
        self._val: dict[int, SplitImages] = {}
        self._begun = (time.perf_counter(), time.process_time())

    def __repr__(self) -> str:
        state = "finished" if self.is_finished else "not finished"
        return f"RecordedRun({self.name!r}: {state}, run_id={self.run_id!r})"

    def log_epoch(self, metrics: Mapping[str, float], *, epoch: int | None = None) -> None:
        """Records an epoch's metrics.

        Args:
            metrics: any of train/accuracy, train/loss, val/accuracy, val/loss (accuracies in [0, 1], losses in nats),
                learning_rate, epoch_seconds, images_per_second, and any others.
            epoch: from 1; None: the one after the last epoch recorded.

        Raises:
            UserError: MLflow does not allow a name, a value is not a number, or the epoch does not come after the last one.
        """
        values = _check_metrics(metrics)
        last = int(self._epochs[-1]["epoch"]) if self._epochs else 0
        epoch = last + 1 if epoch is None else epoch
        if epoch <= last:
            raise UserError(
                f"log_epoch: epoch must be more than {last}, the last one, received {epoch}. Epochs count from 1."
            )
        if {"train/accuracy", "val/accuracy"} <= set(values):
            values.setdefault("gap/accuracy", values["train/accuracy"] - values["val/accuracy"])
        self._epochs.append({"epoch": epoch, **values})
        if self._run:
            self._run.log_metrics(values, step=epoch)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Records metrics of the run as a whole.

        The comparison uses clean_train_accuracy (of the kept model, on training images without augmentation, in [0, 1]),
        model_parameters and model_trainable_parameters. Their names in versions before, such as train/accuracy_clean, become these.

        Raises:
            UserError: as `log_epoch`.
        """
        self._metrics |= metric_names.rename_former(_check_metrics(metrics))

    def log_validation(
        self,
        files: Sequence[str | Path],
        labels: Any,
        probabilities: Any,
        *,
        class_names: Sequence[str] | None = None,
        epoch: int | None = None,
    ) -> None:
        """Records the trained model's predictions for the study's validation images. Every run must record them, once.

        Args:
            files: the image of each prediction: its path, or its name in the study; in any order.
            labels: the label of each image: class names, or indices into `class_names`.
            probabilities: numbers (N, C) in [0, 1], each row with the sum 1, or a DataFrame whose columns are the classes.
            class_names: the classes of the columns and the indices; None: those of the study, in its order.
            epoch: the epoch whose model made the predictions, from 1; None: the last. Give it if these images chose the best epoch.

        Raises:
            UserError: an image has no prediction or two; files, labels or classes do not match; or these are not probabilities.
        """
        if self._run is None:
            return
        last = int(self._epochs[-1]["epoch"]) if self._epochs else 1
        known = [int(item["epoch"]) for item in self._epochs] or [1]
        if epoch is not None and epoch not in known:
            raise UserError(f"log_validation: epoch must be one that was logged, 1 to {last}, received {epoch}.")
        readable = self._keep_pictures(self._model_size or PICTURE_SIZE)
        self._predictions = check_answers(self._dataset, readable, files, labels, probabilities, class_names)
        self._kept_epoch = last if epoch is None else epoch

    def log_figure(self, figure: "Figure", name: str) -> None:
        """Stores a Matplotlib figure as figures/NAME.png."""
        if self._run:
            self._run.log_figure(figure, f"figures/{_check_name(name.removesuffix('.png'))}.png")

    def log_text(self, text: str, path: str) -> None:
        """Stores a text as the artifact `path`."""
        if self._run:
            self._run.log_text(text, _check_name(path))

    def log_file(self, file: str | Path, folder: str = "files") -> None:
        """Copies a file into the run's artifact folder.

        Raises:
            UserError: there is no such file.
        """
        if not Path(file).is_file():
            raise UserError(f"log_file: no file {str(file)!r}.")
        if self._run:
            self._run.log_file(Path(file), _check_name(folder))

    def log_model(self, model: Any, *, image_size: int | None = None) -> None:
        """Saves the trained model with the run, so that it can become champion.

        It takes uint8 pixels (N, H, W, 3) in [0, 255], and answers probabilities (N, classes) in the order of the study's classes.
        A run without a model can still be compared.

        Args:
            model: a Keras model, or the folder of an MLflow model of any flavor, such as `mlflow.sklearn.save_model` writes.
            image_size: height and width in pixels that it takes; None: what its input or its signature says.

        Raises:
            UserError: it is not a usable model, or its image size is unknown.
        """
        if self._run is None:
            return
        classes = self._dataset.classes
        if isinstance(model, str | Path):
            size = log_folder_model(self._run, Path(model), image_size, classes)
        else:
            size = log_keras_model(self._run, model, image_size, classes, self._load_val)
        self._keep_pictures(size)
        self.has_model, self._model_size = True, size

    def _keep_pictures(self, size: int) -> tuple[str, ...]:
        """Decodes the validation images into the cache; returns the names of those that can be read."""
        images = self._load_val(size)
        if self._run and not self.has_model:
            self._run.log_tags({tag.IMAGE_SIZE: str(size)})
        return images.files

    def _load_val(self, size: int) -> "SplitImages":
        """Returns the validation images in a size; they are read once."""
        if size not in self._val:
            self._val[size] = self._dataset.load_split("val", size)
        return self._val[size]

    def _open(self, run: OutboxRun) -> None:
        self._run = run

    def _finish(self) -> None:
        """Records what is known only at the end.

        Raises:
            UserError: there are no predictions for the validation images.
        """
        assert self._run is not None
        if self._predictions is None or self._kept_epoch is None:
            raise UserError(
                f"{self.name}: it has no predictions for the validation images, so it could not be compared. Call "
                "run.log_validation(files, labels, probabilities) before the block ends."
            )
        accuracy, loss = self._predictions.accuracy, self._predictions.mean_loss
        epochs = self._epochs or [{"epoch": 1, "val/accuracy": accuracy, "val/loss": loss}]
        if not self._epochs:
            self._run.log_metrics({"val/accuracy": accuracy, "val/loss": loss}, step=1)
        # Epochs logged without these metrics take the values measured here.
        whole = [{"val/accuracy": accuracy, "val/loss": loss} | item for item in epochs]
        best = max(whole, key=lambda item: (item["val/accuracy"], -item["val/loss"]))
        last = whole[-1]
        wall_s, cpu_s = self._begun
        self._run.log_metrics(
            {
                metric_names.BEST_EPOCH: best["epoch"],
                metric_names.BEST_VAL_ACCURACY: best["val/accuracy"],
                metric_names.BEST_VAL_LOSS: best["val/loss"],
                **{name: last[key] for key, name in metric_names.FINAL.items() if key in last},
                metric_names.KEPT_EPOCH: self._kept_epoch,
                metric_names.KEPT_VAL_ACCURACY: accuracy,
                metric_names.KEPT_VAL_LOSS: loss,
                "run_seconds": time.perf_counter() - wall_s,
                "run_cpu_seconds": time.process_time() - cpu_s,
                **self._metrics,
            }
        )
        # The comparison uses this to tell whether the model was picked by its validation accuracy.
        keep = self.keep or ("last" if self._kept_epoch == int(last["epoch"]) else "best")
        self._run.append("params", values={"trainer.keep": keep})
        log_outcome(self._run, History.from_epochs(epochs), self._predictions, self._kept_epoch)


@contextlib.contextmanager
def record_run(
    client: "MlflowClient",
    tracking: TrackingConfig,
    study: str,
    dataset: "Dataset",
    *,
    variant: str,
    seed: int,
    config: Mapping[str, Any] | None,
    scripts: Mapping[Path, str],
    reuse: str = "exact",
    promote: Promote | None = None,
    recording: Recording | None = None,
    origin: Origin = SCRIPT,
) -> Iterator[RecordedRun]:
    """Opens a run that a script trains, and closes it as FINISHED, KILLED (Ctrl-C) or FAILED; re-raises the exception.

    Args:
        client: of the tracking store.
        tracking: the tracking section.
        study: its name.
        dataset: the data set whose validation images the run predicts.
        variant: the variant's name, such as "forest".
        seed: the run's.
        config: the settings that define the variant, without the seed: numbers, texts, lists and dictionaries.
        scripts: the text of the code that trains, by its file.
        reuse: "exact": a finished run with the same identity is not repeated; "never": it is.
        promote: registers its model, as `catdog.registry.champion.promote`; None: it cannot become champion.
        recording: the recording that it belongs to; None: it stands alone.
        origin: what it is, and who records it.

    Raises:
        UserError: an argument is invalid, or another process is recording this run.
    """
    require_choice("reuse", REUSE, reuse)
    require(bool(variant.strip()), "variant", "a name", variant)
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    require(whole and 0 <= seed < 2**31, "seed", "a whole number, 0 to 2147483647", seed)
    content = _check_config(config or {})
    identity = identify_script(variant, content, int(seed), dataset.manifest.digest, scripts)
    found = find_finished(client, study, identity.digest, origin.kind) if reuse == "exact" else None
    name = origin.name or f"{variant} seed={seed}"
    recorded = RecordedRun(name, variant, int(seed), dataset, found.info.run_id if found else "")
    recorded.identity, recorded.keep = identity.digest, origin.keep
    if recording:
        _join(client, tracking, study, recording, recorded)
    if found:
        log.info(
            '%s: run %s has the same identity and is reused; reuse="never" records it again', name, recorded.run_id
        )
        yield recorded
        return
    entry = _claim(tracking, study, name, identity)
    run = OutboxRun(client, entry, promote=promote)
    recorded._open(run)

    def finish(status: str) -> None:
        if status == "FINISHED" and promote and recorded.has_model and recording is None:
            # Before the status FINISHED: nothing resumes a finished run.
            run.append("promote", run_ids=[], keys=[entry.facts["key"]], config=asdict(origin.promotion))
        if status == "FINISHED" and promote and not recorded.has_model:
            log.info("%s has no model (run.log_model): it is compared, but not registered", name)

    try:
        with closed_at_end(run, SWEEP_PATIENCE_S if recording else tracking.wait_s, finish):
            _describe(run, recorded, identity, content, dataset, recording, origin)
            yield recorded
            recorded._finish()
            recorded.is_finished = True
    finally:
        recorded.run_id, recorded.has_arrived = str(run.delivered_state["run_id"]), run.has_arrived
        recorded.promotions = list(run.delivered_state.get("promotions", []))
        if not recorded.has_arrived:
            log.warning("%s: %s", name, describe_undelivered(tracking, run.delivery))
        elif entry.folder.exists():
            # A failed recording is never resumed, so its entry is not needed.
            entry.claim().remove()


def find_finished(client: "MlflowClient", study: str, identity: str, kind: str = tag.RUN) -> "Run | None":
    """Returns the newest finished run of a study with this identity; None if there is none."""
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        return None
    where = f"tags.`{tag.IDENTITY}` = '{identity}' AND tags.`{tag.KIND}` = '{kind}' AND attributes.status = 'FINISHED'"
    found = client.search_runs(
        [experiment.experiment_id], where, max_results=1, order_by=["attributes.start_time DESC"]
    )
    return found[0] if found else None


def _claim(tracking: TrackingConfig, study: str, name: str, identity: Identity) -> Entry:
    """Returns the run's entry in the outbox; if an earlier attempt left one, that is set aside and delivered."""
    entry = entry_for(Path(tracking.outbox), tracking.uri, study, "run", identity.digest)
    facts = {"kind": "run", "name": name, "study": study, "tracking": asdict(tracking), "identity": identity.digest}
    try:
        entry.claim(facts)
        if entry.operations:
            if entry.pending or entry.last_status not in ENDED:
                entry.supersede("the run was begun again")
            else:
                entry.remove()
            entry.claim(facts)
    except BusyError as busy:
        owner = busy.owner or "another process"
        raise UserError(
            f"{name}: {owner} is recording this run right now. Wait for it, or give another seed."
        ) from None
    return entry


def _describe(
    run: OutboxRun, recorded: RecordedRun, identity: Identity, config: dict[str, Any], dataset: "Dataset",
    recording: Recording | None, origin: Origin,
) -> None:  # fmt: skip
    """Creates the run in MLflow, with everything that is known before the training."""
    tags = {
        tag.KIND: origin.kind,
        tag.RECORDED: "true",
        tag.VARIANT: recorded.variant,
        tag.VARIANT_DIGEST: hash_settings(recorded.variant, config),
        **identity.tags,
        **Owner.current().tags,
        **describe_origin(origin.command or script_command()),
        **origin.tags,
    }
    sweep_id = recording.sweep_id if recording else None
    run.append("create", name=recorded.name, tags=tags, sweep_id=sweep_id, time_ms=int(time.time() * 1000))
    if recording:
        run.log_tags(recording.member_tags(len(recording.members) - 1))
    data = {f"dataset.{key}": value for key, value in flatten(dataset.config).items()}
    params = {"seed": recorded.seed, **_flatten("config", config), **data}
    run.append("params", values={key: str(value) for key, value in params.items()})
    whole = {"variant": recorded.variant, "seed": recorded.seed, "config": config, "dataset": asdict(dataset.config)}
    run.log_text(OmegaConf.to_yaml(OmegaConf.create(whole)), "config/config.yaml")
    for file, text in identity.sources.items():
        run.log_text(text, f"code/{file}")
    log_data(run, dataset.config, dataset.manifest)


# Runs that belong together.


@contextlib.contextmanager
def open_recording(
    client: "MlflowClient", tracking: TrackingConfig, study: str, name: str, promote: Promote | None
) -> Iterator[Recording]:
    """Groups the runs of a script as a sweep, and closes it; its best run becomes a version of the registered model.

    If an exception or Ctrl-C ends the block early, nothing is registered: runs that the script still had to make may be better.

    Args:
        client: of the tracking store.
        tracking: the tracking section.
        study: its name.
        name: the sweep's name in MLflow.
        promote: registers the best run of its best variant, as `catdog.registry.champion.promote`; None: no run is registered.
    """
    recording = Recording(name, promote=promote)
    status = "FINISHED"
    try:
        yield recording
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        if promote and recording.members:
            log.info("nothing was promoted: %s is incomplete, because the block ended early", name)
        promote = None
        raise
    finally:
        if not all(member.is_finished for member in recording.members):
            status = "KILLED" if status == "KILLED" else "FAILED"
        if not all(member.has_arrived for member in recording.members):
            _deliver_late(client, tracking, study, recording)
        if recording.members:
            _close(client, tracking, study, recording, status, promote)


def _join(
    client: "MlflowClient", tracking: TrackingConfig, study: str, recording: Recording, recorded: RecordedRun
) -> None:
    """Adds a run to a recording; creates the sweep in MLflow when the first new run joins."""
    recording.members.append(recorded)
    if recorded.is_finished:
        if recording.sweep:
            _tag_reused(recording, len(recording.members) - 1)
    elif recording.sweep is None:
        _open_sweep(client, tracking, study, recording)


def _tag_reused(recording: Recording, place: int) -> None:
    assert recording.sweep is not None
    run_id = recording.members[place].run_id
    recording.sweep.append("tags", run_id=run_id, values=recording.member_tags(place))


def _open_sweep(client: "MlflowClient", tracking: TrackingConfig, study: str, recording: Recording) -> None:
    entry = entry_for(Path(tracking.outbox), tracking.uri, study, "sweep", uuid.uuid4().hex)
    entry.claim({"kind": "sweep", "name": recording.name, "study": study, "tracking": asdict(tracking)})
    sweep = OutboxRun(client, entry, promote=recording.promote)
    command = script_command()
    tags = {
        tag.KIND: tag.SWEEP, tag.RECORDED: "true", tag.COMMAND: command, **Owner.current().tags,
        **describe_origin(command),
    }  # fmt: skip
    sweep.append("create", name=recording.name, tags=tags, time_ms=int(time.time() * 1000))
    if not sweep.delivery.wait(tracking.wait_s, until=lambda: bool(entry.state["run_id"]) and not entry.pending):
        sweep.delivery.stop()
        entry.remove()
        raise UserError(
            f"tracking.uri: {tracking.uri!r} stopped answering ({sweep.delivery.problem}). Nothing was recorded."
        )
    recording.sweep, recording.sweep_id = sweep, str(entry.state["run_id"])
    for place, member in enumerate(recording.members):
        if member.is_finished:
            _tag_reused(recording, place)


def _deliver_late(client: "MlflowClient", tracking: TrackingConfig, study: str, recording: Recording) -> None:
    """Delivers what the store did not accept while the runs were recorded."""
    from catdog.tracking.settlement import settle_earlier

    settle_earlier(client, tracking, recording.promote)
    for member in recording.members:
        if member.is_finished and not member.has_arrived:
            with contextlib.suppress(Exception):
                # If the store is still unavailable, the run simply counts as not arrived.
                found = find_finished(client, study, member.identity)
                member.run_id, member.has_arrived = (found.info.run_id, True) if found else (member.run_id, False)


def _close(
    client: "MlflowClient",
    tracking: TrackingConfig,
    study: str,
    recording: Recording,
    status: str,
    promote: Promote | None,
) -> None:
    recording.run_ids = [member.run_id for member in recording.members]
    identity = hash_text("\n".join([recording.name, *recording.run_ids]))
    if recording.sweep is None:
        # Nothing is new, so an earlier sweep with these runs is used if there is one.
        found = _find_sweep(client, study, identity)
        if found:
            recording.sweep_id = found
            return
        _open_sweep(client, tracking, study, recording)
    assert recording.sweep is not None
    sweep = recording.sweep
    sweep.log_tags({tag.IDENTITY: identity, tag.RUNS: str(len(set(recording.run_ids)))})
    finished = [member for member in recording.members if member.is_finished and member.has_arrived]
    known = [member.run_id for member in finished if member.has_model or _has_model(client, member.run_id)]
    if known and promote:
        sweep.append("promote", run_ids=known, keys=[], config=asdict(PromoteConfig()))
    # Last: nothing resumes a sweep that is FINISHED.
    sweep.append("status", status=status, time_ms=int(time.time() * 1000))
    if not hand_in(sweep, tracking.wait_s):
        log.warning("%s: %s", recording.name, describe_undelivered(tracking, sweep.delivery))


def _has_model(client: "MlflowClient", run_id: str) -> bool:
    return tag.MODEL_URI in client.get_run(run_id).data.tags


def _find_sweep(client: "MlflowClient", study: str, identity: str) -> str:
    experiment = client.get_experiment_by_name(study)
    where = f"tags.`{tag.IDENTITY}` = '{identity}' AND tags.`{tag.KIND}` = 'sweep' AND attributes.status = 'FINISHED'"
    found = client.search_runs([experiment.experiment_id], where, max_results=1) if experiment else []
    return found[0].info.run_id if found else ""


# What a script passes in.


def read_scripts(code: Sequence[str | Path] | None) -> dict[Path, str]:
    """Returns the text of the code that trains, by its file: of the given files, or of the file that calls catdog.

    In a notebook, that is the running cell; a session without source code yields nothing.

    Raises:
        UserError: a file cannot be read.
    """
    if code is None:
        file = _find_caller()
        lines = linecache.getlines(file)
        return (
            {Path(file).absolute() if Path(file).exists() else Path.cwd() / "cell.py": "".join(lines)} if lines else {}
        )
    texts = {}
    for path in map(Path, [code] if isinstance(code, str | Path) else code):
        try:
            texts[path.absolute()] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"code: {path} cannot be read: {error}. Name the Python files that train.") from error
    return texts


def _find_caller() -> str:
    """Returns the file of the code that calls catdog."""
    frame = sys._getframe(1)
    own = (f"{schema.PACKAGE}{os.sep}", contextlib.__file__)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(own):
        frame = frame.f_back
    return frame.f_code.co_filename


def _check_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    found = {}
    for key, value in metrics.items():
        try:
            found[_check_name(key)] = float(value)
        except (TypeError, ValueError) as error:
            raise UserError(f"{key}: must be a number, received {value!r}.") from error
    return found


def _check_name(name: str) -> str:
    allowed = all(character.isalnum() or character in NAME_CHARACTERS for character in name)
    plain = name.isascii() and not name.startswith(("/", ".")) and not {"", ".", ".."} & set(name.split("/"))
    if not (allowed and plain and len(name) <= MOST_NAME_LETTERS):
        raise UserError(
            f"{name!r}: a name may have ASCII letters, digits, spaces and {' '.join(NAME_CHARACTERS.strip())}, and up to "
            f"{MOST_NAME_LETTERS} of them; / separates parts that are not empty."
        )
    return name


def _check_config(config: Mapping[str, Any]) -> dict[str, Any]:
    if "seed" in config:
        raise UserError(
            "config: leave out the seed, which is a separate argument: all seeds of a variant share one config."
        )

    def convert(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, Path):
            return str(value)
        raise TypeError(f"received {type(value).__name__}")

    try:
        plain = json.loads(json.dumps(dict(config), default=convert))
    except (TypeError, ValueError) as error:
        raise UserError(f"config: must hold numbers, texts, lists and dictionaries: {error}.") from error
    for key in _flatten("config", plain):
        _check_name(key)
    return plain


def _flatten(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value} if value != {} else {}
    return {key: item for name, inner in value.items() for key, item in _flatten(f"{prefix}.{name}", inner).items()}
