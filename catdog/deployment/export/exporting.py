"""Exports a model: writes each format in float32, scores each file with its own runtime, and records what was measured."""

import importlib.util
import json
import logging
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from catdog.deployment.export.conversion import Format, Source, name_error
from catdog.deployment.export.litert import INT8, LITERT
from catdog.deployment.export.onnx import ONNX
from catdog.deployment.export.page import render_card, render_page
from catdog.deployment.export.readers import render_reader
from catdog.deployment.export.result import Export, Rounding
from catdog.deployment.export.saved_model import SAVED_MODEL
from catdog.deployment.pyfunc import is_keras
from catdog.system.documents import to_plain
from catdog.system.errors import UserError
from catdog.system.files import PARTIAL_SUFFIX, measure_size
from catdog.system.terminal import status_shown
from catdog.tracking import is_writable
from catdog.tracking import tags as tag
from catdog.tracking.metric_names import name_export_metric
from catdog.tracking.models import describe_model, open_model
from catdog.tracking.records import StoredRun, explain_gone, find_run
from catdog.tracking.study_data import load_run_dataset

if TYPE_CHECKING:
    from catdog.data.dataset import Dataset
    from catdog.deployment.prediction import TrainedModel

log = logging.getLogger(__name__)

FORMATS = {"litert": LITERT, "onnx": ONNX, "savedmodel": SAVED_MODEL}
# Which training images int8 takes its ranges from is chosen by this seed.
CALIBRATION_SEED = 0
# In a folder that is being filled; its holder lives as long as it is locked.
LOCK = ".lock"
REPORT = ("export.html", "export.json", "export.csv", "other_classes.csv")


@dataclass(frozen=True)
class Request:
    """What is to be exported, and how.

    Attributes:
        formats: names of FORMATS, each once.
        int8: whether LiteRT is also written in whole numbers.
        output: the folder to make; None: `exports/` and the model's name.
        margin: a difference in accuracy up to this is as good as none.
        calibration_images: how many training images int8 takes its ranges from.
        archive: where the run's data set is now; None: it has not moved.
        cache: folder for decoded images; None: this machine's default.
        batch_size: images per step of the kept model.
    """

    formats: Sequence[str]
    int8: bool = False
    output: Path | None = None
    margin: float = 0.01
    calibration_images: int = 200
    archive: str | None = None
    cache: str | None = None
    batch_size: int = 32

    def list_formats(self) -> list[Format]:
        """Returns the files to write; with int8, LiteRT is two."""
        found = []
        for name in self.formats:
            found += [LITERT, INT8] if name == "litert" and self.int8 else [FORMATS[name]]
        return found


def export_model(model: "TrainedModel", request: Request, study: str) -> Export:
    """Exports a model into a new folder, and scores each file on all validation images of the model's run.

    What was measured is logged to the run and, if a version was named, to that version; not if the store cannot be written.

    Args:
        model: a Keras model.
        request: what is to be exported.
        study: the study's name, for the page.

    Raises:
        UserError: a package is missing, the folder is not empty, the model or its data cannot be exported, or a file cannot be run.
    """
    formats = request.list_formats()
    # All that can be wrong is found before TensorFlow is imported.
    _require_packages(formats)
    folder = request.output or Path("exports") / _name_folder(model.words)
    with _writing(folder):
        _require_empty(folder)
    run = _require_run(model)
    dataset = load_run_dataset(
        run, "Name the original data with dataset.archive=PATH.", archive=request.archive, cache=request.cache
    )
    val = dataset.load_split("val", model.image_size)
    stored_as = run.params.get("preprocessing.stored_as", "auto")
    calibration, train_images = _choose_calibration(dataset, model.image_size, stored_as, request)
    with _staged(folder) as stage:
        found = _write_all(model, request, formats, folder, stage, val, dataset, calibration)
        export = Export(
            model,
            folder,
            found.precision,
            found.kept,
            found.scores,
            found.groups,
            request.margin,
            len(calibration),
            train_images,
            found.rounding,
        )
        with _writing(folder):
            _write_report(export, study, stage)
    _log_if_possible(export, run)
    return export


@dataclass(frozen=True, eq=False)
class _Found:
    precision: str
    kept: Any
    scores: list[Any]
    groups: np.ndarray | None
    rounding: Rounding | None


def _write_all(
    model: "TrainedModel", request: Request, formats: Sequence[Format], folder: Path, stage: Path, val: Any,
    dataset: "Dataset", calibration: np.ndarray,
) -> _Found:  # fmt: skip
    from catdog.training import preload  # noqa: F401  must come first: it keeps TensorFlow's import quiet

    # isort: split
    from catdog.deployment.export.scoring import measure_rounding, score_export, score_kept
    from catdog.training.rebuild import rebuild_in_float32

    loaded = model.loaded
    with open_model(model.client, model.found.uri) as files:
        size_bytes = sum(map(measure_size, files.rglob("*.keras"))) or measure_size(files)
    with status_shown("scoring the kept model"):
        kept = score_kept(loaded, val, size_bytes, request.batch_size)
    groups = dataset.manifest.code_groups(kept.predictions.files)
    rebuilt = rebuild_in_float32(loaded)
    rounding = None if rebuilt is loaded else measure_rounding(rebuilt, val, kept, request.batch_size)
    source = Source(rebuilt, model.class_names, model.image_size, calibration)
    about = {"classes": list(model.class_names), "image_size": model.image_size, "model": model.words,
             "run_id": model.run_id}  # fmt: skip
    with _writing(folder):
        (stage / "model.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for format in formats:
            (stage / format.reader).write_text(render_reader(format), encoding="utf-8")
    scores = []
    for format in formats:
        with status_shown(f"writing {format.file}"):
            format.write(source, stage / format.file)
        with status_shown(f"scoring {format.file}"):
            scores.append(score_export(format, stage, val, kept, groups))
    return _Found(_name_precision(loaded), kept, scores, groups, rounding)


def _name_precision(model: Any) -> str:
    """Returns the Keras policy in which most of a model computes: that of mixed precision, if a layer has one."""
    policies = {layer.dtype_policy.name for layer in model._flatten_layers()}
    return next((name for name in sorted(policies) if name not in ("float32", "uint8")), "float32")


def _name_folder(words: str) -> str:
    return "".join(character if character.isalnum() or character in "._-" else "-" for character in words)


def _require_packages(formats: Sequence[Format]) -> None:
    for format in formats:
        missing = [name for name in format.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(
                f"format: {format.name} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
                "pip install 'catdog[export]'."
            )


def _require_empty(folder: Path) -> None:
    """Raises a UserError if there is something at `folder`, except for an empty folder and what killed exports left in it."""
    if folder.is_dir() and all(_is_stage(path, folder) for path in folder.iterdir()):
        return
    if folder.exists():
        what = "is not empty" if folder.is_dir() else "exists and is not a folder"
        raise UserError(f"output: {folder} {what}. Name a new folder: output=PATH, or remove this one.")


def _require_run(model: "TrainedModel") -> StoredRun:
    """Returns the run that trained a model, whose data the files are scored on.

    Raises:
        UserError: it was deleted, or the model is not a Keras model.
    """
    run = find_run(model.client, model.run_id)
    gone = explain_gone(model.client, model.run_id, run)
    if run is None or gone:
        raise UserError(
            f"model: {model.words} cannot be exported, because the files are scored on the images of its run: {gone} Or name "
            "another model: model=RUN_ID."
        )
    described = describe_model(model.client, model.found.uri)
    if not is_keras(described):
        flavors = ", ".join(sorted(set(described.flavors) - {"python_function"}))
        raise UserError(
            f"model: {model.words} is not a Keras model but one of {flavors}; "
            "only Keras models can be exported. Name another one: model=RUN_ID, or export it with its own tools."
        )
    return run


def _choose_calibration(dataset: "Dataset", size: int, stored_as: str, request: Request) -> tuple[np.ndarray, int]:
    """Returns training images for int8, uint8 (M, size, size, 3), drawn at random with a fixed seed, and how many there are.

    Without int8 it returns none, and 0.

    Args:
        dataset: the run's.
        size: height and width in pixels.
        stored_as: how the run had its training images, which are in the cache like that.
        request: what is asked for.
    """
    if not request.int8:
        return np.zeros((0, size, size, 3), np.uint8), 0
    train = dataset.load_split("train", size, stored_as=stored_as)
    count = min(request.calibration_images, len(train))
    rows = np.random.default_rng(CALIBRATION_SEED).choice(len(train), count, replace=False)
    return train.gather(np.sort(rows))[0], len(train)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns a disk error in the block, which reads or writes `folder`, into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"output: cannot write {folder} ({error.strerror or error}). Name another folder: output=PATH."
        ) from error


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """Yields an empty folder whose content is in `folder` if the block succeeds, and which is removed if it fails.

    It takes the place of `folder`. Where that exists already it is filled, because it may be a link, a mounted disk or the current
    folder. What exports left there that were killed is removed.

    Raises:
        UserError: `folder` cannot be written, or is not empty at the end.
    """
    with _writing(folder):
        # Of a link, where it leads to.
        place = folder.resolve()
        is_new = not place.is_dir()
        parent = place.parent if is_new else place
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent, place)
        # Not by process id: two containers that share a disk may have the same.
        stage = parent / f"{place.name}.{uuid.uuid4().hex[:12]}{PARTIAL_SUFFIX}"
        stage.mkdir()
        lock = FileLock(stage / LOCK)
        lock.acquire()
    try:
        yield stage
        with _writing(folder):
            # Meanwhile somebody else may have put something there.
            _require_empty(place)
            # The lock is held until nobody can take the folder for an abandoned one.
            if is_new:
                stage.replace(place)
                (place / LOCK).unlink()
            else:
                for path in stage.iterdir():
                    if path.name != LOCK:
                        path.replace(place / path.name)
    finally:
        lock.release()
        shutil.rmtree(stage, ignore_errors=True)


def _is_stage(path: Path, folder: Path) -> bool:
    """Whether a path is named like a folder that an export to `folder` fills."""
    return (
        re.fullmatch(rf"{re.escape(folder.resolve().name)}\.[0-9a-f]+{re.escape(PARTIAL_SUFFIX)}", path.name)
        is not None
    )


def _remove_abandoned(parent: Path, place: Path) -> None:
    """Removes the folders of exports to `place` that were killed. One whose lock is held is still being filled."""
    for stage in parent.iterdir():
        if _is_stage(stage, place):
            with suppress(Timeout, OSError), FileLock(stage / LOCK).acquire(blocking=False):
                shutil.rmtree(stage, ignore_errors=True)


def _write_report(export: Export, study: str, stage: Path) -> None:
    """Writes the page, the tables and the card."""
    texts = {
        "export.html": render_page(export, study),
        "export.json": json.dumps(to_plain(export.to_dict()), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "export.csv": export.table.to_csv(index=False),
        "other_classes.csv": export.other_classes.to_csv(index=False),
        "README.md": render_card(export, study),
    }
    for name, text in texts.items():
        (stage / name).write_text(text, encoding="utf-8")


def _log_if_possible(export: Export, run: StoredRun) -> None:
    """Logs what was measured; a warning says so if that fails, because the files are there already."""
    if not is_writable(export.model.client.tracking_uri):
        reason = ""
    else:
        try:
            return _log_export(export, run)
        except Exception as error:
            log.debug("the export was not logged", exc_info=True)
            reason = f" ({name_error(error)})"
    log.warning("the tracking store cannot be written%s: what was measured is in %s only", reason, export.folder)
    return None


def _log_export(export: Export, run: StoredRun) -> None:
    """Logs what was measured to the run, as metrics and artifacts, and to its versions of registered models, as tags."""
    from catdog.tracking import TrackedRun

    client = export.model.client
    tracked = TrackedRun(client, run.run_id)
    # Of several exports, each has its own page. A metric and a tag are of the last one with that format, which the tag names.
    place = f"export/{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S}"
    metrics: dict[str, float] = {}
    words: dict[str, str] = {}
    for score in export.scores:
        name, found = score.format.name, score.difference
        measured = {
            "val_accuracy": score.answered.predictions.accuracy, "difference": found.estimate, "difference_low": found.low,
            "difference_high": found.high, "other_classes": len(score.other_classes),
            "largest_probability_difference": score.largest, "megabytes": score.answered.megabytes,
            "ms_per_image": score.answered.ms_per_image,
        }  # fmt: skip
        # Without an interval, as with a single group of images, there is nothing to log.
        metrics |= {name_export_metric(name, key): value for key, value in measured.items() if np.isfinite(value)}
        words[tag.export_tag(name)] = (
            f"val accuracy {score.answered.predictions.accuracy:.4f}, {found.words} less the kept model, "
            f"{score.answered.megabytes:.2f} MB, {score.answered.ms_per_image:.2f} ms per image; {place}"
        )
    tracked.log_metrics(metrics)
    tracked.log_tags(words)
    for name in REPORT:
        tracked.log_file(export.folder / name, place)
    for version in client.search_model_versions(f"run_id = '{run.run_id}'"):
        for key, value in words.items():
            client.set_model_version_tag(version.name, version.version, key, value)
