"""Prediction: loads a trained model from the store and returns its answers to images."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from catdog.config.checks import require
from catdog.deployment import answer_file
from catdog.deployment.photo_files import find_images
from catdog.deployment.pyfunc import PyfuncModel, is_keras
from catdog.registry.champion import FoundModel, resolve_model
from catdog.registry.evidence import Evidence
from catdog.system.documents import to_plain
from catdog.system.errors import UserError
from catdog.system.wording import plural
from catdog.tracking.models import explain_missing_artifacts, load_model_metadata, open_model
from catdog.tracking.records import explain_gone, find_run

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

    from catdog.data.decoding import Decoded

log = logging.getLogger(__name__)

# The most files that a message names.
MOST_NAMED = 20

Images = str | Path | np.ndarray | Sequence[str | Path] | Sequence[np.ndarray]


@dataclass(frozen=True, eq=False)
class Answers:
    """A model's answers to image files.

    Attributes:
        table: one row for each file that could be read: columns file, class, probability (of that class), then probability_NAME for
            each class; probabilities in [0, 1].
        files: the files of these rows.
        unreadable: the reason for each file that could not be read.
    """

    table: "pd.DataFrame"
    files: tuple[Path, ...]
    unreadable: dict[Path, str]


@dataclass(frozen=True)
class SavedAnswers:
    """A complete file of a model's answers.

    Attributes:
        path: the file: one row for each file, in their order. Columns file, class, probability (of that class), probability_NAME
            for each class, and unreadable: the reason why the file has no answer. What a row lacks is empty in CSV, null elsewhere.
        files: how many files were named.
        resumed: how many of them had their row already, from a command that was stopped.
        unreadable: each file that could not be read, with the reason, in the order of the files.
    """

    path: Path
    files: int
    resumed: int
    unreadable: tuple[tuple[Path, str], ...]


class AnsweredBatch(NamedTuple):
    """A model's answers to some files that follow each other.

    Attributes:
        start: the position of the first file.
        decoded: for each file uint8 (image_size, image_size, 3) in [0, 255], or the error if it cannot be read.
        probabilities: of those that can be read: float32 (N, C).
    """

    start: int
    decoded: "list[Decoded]"
    probabilities: np.ndarray

    @property
    def reasons(self) -> list[str | None]:
        """For each file the reason why it cannot be read, or None."""
        return [None if isinstance(one, np.ndarray) else str(one) for one in self.decoded]

    @property
    def passing(self) -> list[int]:
        """The positions in the batch of the files that may be readable later, although their content stays as it is."""
        return [row for row, one in enumerate(self.decoded) if not isinstance(one, np.ndarray) and not one.lasting]


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained model in the store. Its files are read when they are first needed.

    Args:
        client: a client of the store.
        found: the model's place in the store.
    """

    client: "MlflowClient"
    found: FoundModel
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __repr__(self) -> str:
        return f"TrainedModel({self.words}, run_id={self.run_id!r})"

    @property
    def name(self) -> str | None:
        """The registered model's name; None if the model was named by its run."""
        return self.found.version.name if self.found.version else None

    @property
    def version(self) -> str | None:
        """The number of its version; None if the model was named by its run."""
        return str(self.found.version.version) if self.found.version else None

    @property
    def run_id(self) -> str:
        """The run that trained it."""
        return self.found.run_id

    @cached_property
    def run_name(self) -> str:
        """The name of that run; "" if the store no longer has it."""
        run = find_run(self.client, self.run_id)
        return run.name if run else ""

    @property
    def words(self) -> str:
        """Its name in a sentence: "flowers version 3"."""
        return self.found.words

    @property
    def evidence(self) -> Evidence | None:
        """The evidence recorded when it was registered, including the comparison with the champion of that time.

        None if the model was named by its run.
        """
        return Evidence.from_tags(self.found.version.tags) if self.found.version else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the model's outputs."""
        return tuple(self._metadata["class_names"])

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the images that it takes."""
        return int(self._metadata["image_size"])

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        return load_model_metadata(self.client, self.found.uri)

    @cached_property
    def loaded(self) -> Any:
        """The model. `predict_on_batch` takes uint8 (B, image_size, image_size, 3), returns float32 probabilities (B, classes).

        It is a Keras model, or a `catdog.deployment.pyfunc.PyfuncModel` if another tool saved it. If its run was deleted, a warning
        says so.
        """
        gone = explain_gone(self.client, self.run_id, find_run(self.client, self.run_id))
        if gone:
            log.warning("%s: %s Or name another model: model=RUN_ID.", self.words, gone)
        return load_model(self.client, self.found.uri)

    def predict(self, images: Images, batch_size: int = 32) -> "pd.DataFrame":
        """Returns the model's answers.

        Args:
            images: a file, a folder (every image below it), or a list of files and folders; or an array of one image, uint8
                (H, W, 3) in [0, 255], or of several, (N, H, W, 3), or a list of arrays. Images of any size are stretched to the
                size that the model takes.
            batch_size: images per step.

        Returns:
            Columns class and probability (of that class), then probability_NAME for each class. For files, the first column is
            file; for arrays, the index is their position.

        Raises:
            UserError: a file is not a readable image, a folder has no images, or an array has another shape or type.
        """
        require(isinstance(batch_size, int) and batch_size >= 1, "batch_size", "1 or more", batch_size)
        if _is_pixels(images):
            arrays = _split_arrays(images)
            size = self.image_size
            chunks = (arrays[start : start + batch_size] for start in range(0, len(arrays), batch_size))
            return self._build_table(self._answer(np.stack([_stretch(one, size) for one in chunk]) for chunk in chunks))
        paths = [images] if isinstance(images, str | Path) else list(images) if isinstance(images, Iterable) else []
        require(bool(paths), "images", "a file, a folder, a list of files and folders, or arrays of uint8", images)
        answers = self.answer_files(find_images([str(path) for path in paths]), batch_size)
        if answers.unreadable:
            file, reason = next(iter(answers.unreadable.items()))
            raise UserError(
                f"images: {plural(len(answers.unreadable), 'file')} cannot be read, {str(file)!r} first: {reason}. Leave them out."
            )
        return answers.table

    def answer_files(self, files: Sequence[Path], batch_size: int = 32) -> Answers:
        """Returns the answers to the files that are readable images, and the reasons why the others are not."""
        read: list[Path] = []
        unreadable: dict[Path, str] = {}
        found = [np.zeros((0, len(self.class_names)), np.float32)]
        for batch in self.answer_batches(files, batch_size):
            for file, reason in zip(files[batch.start : batch.start + len(batch.decoded)], batch.reasons, strict=True):
                if reason is None:
                    read.append(file)
                else:
                    unreadable[file] = reason
            found.append(batch.probabilities)
        table = self._build_table(np.concatenate(found))
        table.insert(0, "file", [in_utf8(file) for file in read])
        return Answers(table, tuple(read), unreadable)

    def save_answers(
        self,
        images: str | Path | Sequence[str | Path],
        output: str | Path,
        batch_size: int = 32,
        *,
        files: Sequence[Path] | None = None,
    ) -> SavedAnswers:
        """Writes the model's answers to a file, batch by batch; the same call goes on where it stopped if it is interrupted.

        The probabilities are those of `predict`, bit for bit. Memory does not grow with the number of images. A call that goes on
        answers the files that the first one found, and says how many are new.

        Args:
            images: a file, a folder (every image below it), or a list of files and folders.
            output: the file, which must not exist yet: .csv, .jsonl (an object in each line) or .parquet.
            batch_size: images per step.
            files: what `catdog.deployment.photo_files.find_images` returns for `images`, if that is known already.

        Raises:
            UserError: it cannot be written there, or an interrupted call had another model, other images or another batch size; a
                path does not exist or has no images; or a file cannot be read for a reason that may pass, such as a lack of
                permission: then the output is not complete, and the same call tries again.
        """
        paths = [str(path) for path in ([images] if isinstance(images, str | Path) else images)]
        output = Path(output)
        answer_file.require_place(output)
        files = find_images(paths) if files is None else files
        columns = ["file", "class", "probability", *self._probability_columns, answer_file.UNREADABLE]
        with answer_file.opened(output, self._describe_job(paths, batch_size), files, columns) as saved:
            files, resumed = saved.files, saved.done
            if resumed:
                log.info("%s: going on after %s of %s files", output, f"{resumed:,}", f"{len(files):,}")
            if saved.new:
                log.warning("%s: without %s that came after it was begun", output, plural(saved.new, "file"))
            for batch in self.answer_batches(files, batch_size, resumed):
                places = range(batch.start, batch.start + len(batch.decoded))
                saved.add(*self._describe_batch(files, places, batch))
            if again := saved.list_again():
                batches = self.answer_batches([files[place] for place in again], batch_size)
                saved.replace(
                    self._describe_batch(files, again[batch.start : batch.start + len(batch.decoded)], batch)
                    for batch in batches
                )
            if saved.passing:
                raise _refuse_passing(saved, output)
        unreadable = tuple((files[place], reason) for place, reason in sorted(saved.unreadable.items()))
        return SavedAnswers(output, len(files), resumed, unreadable)

    def _describe_job(self, paths: Sequence[str], batch_size: int) -> answer_file.Begun:
        """Returns what the answers to these files and folders depend on."""
        from catdog.data.images import DECODER_VERSION

        version = self.found.version
        named = f"{version.name}/{version.version}" if version else self.run_id
        digest = answer_file.digest_arguments(paths)
        return answer_file.Begun(self.run_id or self.found.uri, self.words, named, batch_size, digest, DECODER_VERSION)

    def answer_batches(self, files: Sequence[Path], batch_size: int, done: int = 0) -> "Iterator[AnsweredBatch]":
        """Yields the answers to files, a batch at a time, and shows the progress.

        Args:
            files: all of them.
            batch_size: files per step.
            done: how many of them to skip: so many were answered before, in batches of the same size.
        """
        from catdog.data.decoding import decode_ahead
        from catdog.data.progress import reported_progress

        start, size = done, self.image_size
        with self._lock:
            model = self.loaded
        with reported_progress("predicting", len(files), "images", done) as advance:
            for decoded in decode_ahead(files[done:], size, size, batch_size):
                images = [image for image in decoded if isinstance(image, np.ndarray)]
                answers = np.zeros((0, len(self.class_names)), np.float32)
                if images:
                    with self._lock:
                        answers = answer_images(model, np.stack(images))
                yield AnsweredBatch(start, decoded, answers)
                start += len(decoded)
                advance(len(decoded))

    def _describe_batch(
        self, files: Sequence[Path], places: Sequence[int], batch: "AnsweredBatch"
    ) -> "tuple[pd.DataFrame, dict[int, str], list[int]]":
        """Returns a batch for a file of answers: its rows, and by position the reasons, and which of them may pass.

        Args:
            files: all files.
            places: the positions of those of the batch.
            batch: the answers.
        """
        rows = self._build_rows([files[place] for place in places], batch.reasons, batch.probabilities)
        reasons = {place: reason for place, reason in zip(places, batch.reasons, strict=True) if reason is not None}
        # A file that has been removed since it was found does not come back by itself.
        passing = [places[row] for row in batch.passing if os.path.lexists(files[places[row]])]
        return rows, reasons, passing

    def _build_rows(self, files: Sequence[Path], reasons: Sequence[str | None], answers: np.ndarray) -> "pd.DataFrame":
        """Returns a row for each file, with or without an answer.

        Args:
            files: of a batch.
            reasons: why each cannot be read, or None.
            answers: the probabilities of those that can: float32 (N, C).
        """
        read = [place for place, reason in enumerate(reasons) if reason is None]
        rows = self._build_table(answers).set_axis(read, axis=0).reindex(range(len(files)))
        rows["class"] = rows["class"].astype(object).where(rows["class"].notna(), None)
        rows.insert(0, "file", [in_utf8(file) for file in files])
        rows[answer_file.UNREADABLE] = list(reasons)
        return rows

    def _answer(self, batches: Iterator[np.ndarray]) -> np.ndarray:
        """Returns probabilities: float32 (N, C)."""
        found = [np.zeros((0, len(self.class_names)), np.float32)]
        with self._lock:
            model = self.loaded
        for images in batches:
            with self._lock:
                found.append(answer_images(model, images))
        return np.concatenate(found)

    @property
    def _probability_columns(self) -> list[str]:
        return [f"probability_{name}" for name in self.class_names]

    def _build_table(self, answers: np.ndarray) -> "pd.DataFrame":
        import pandas as pd

        names = np.array(self.class_names, dtype=object)
        table = pd.DataFrame({
            "class": names[answers.argmax(axis=1)] if len(answers) else [],
            "probability": answers.max(axis=1) if len(answers) else [],
        })  # fmt: skip
        return pd.concat([table, pd.DataFrame(answers, columns=self._probability_columns)], axis=1)


def find_model(client: "MlflowClient", study: str, model: str | None = None) -> TrainedModel:
    """Returns the model that `model=` names, as resolved by `catdog.registry.champion.resolve_model`.

    Raises:
        UserError: there is no such model.
    """
    return TrainedModel(client, resolve_model(client, study, model))


def answer_images(loaded: Any, images: np.ndarray) -> np.ndarray:
    """Returns a model's answers: float32 (N, C).

    Keras models compute an image alone like one of several. TensorFlow multiplies a single row in another way, so the last bits of
    its answer would depend on whether it is alone.

    Args:
        loaded: what `TrainedModel.loaded` is.
        images: uint8 (N, image_size, image_size, 3).
    """
    if len(images) > 1 or isinstance(loaded, PyfuncModel):
        return np.asarray(loaded.predict_on_batch(images))
    return np.asarray(loaded.predict_on_batch(np.repeat(images, 2, axis=0)))[:1]


def load_model(client: "MlflowClient", uri: str) -> Any:
    """Returns the model of an MLflow model URI, of any flavor: a Keras model, or an object that answers like one.

    Raises:
        UserError: its files cannot be read.
    """
    import mlflow
    from mlflow.models import Model

    with open_model(client, uri) as folder, explain_missing_artifacts(uri):
        described = Model.load(str(folder))
        if not is_keras(described):
            about = described.metadata or {}
            loaded = mlflow.pyfunc.load_model(str(folder))
            return PyfuncModel(loaded, uri, about["class_names"], int(about["image_size"]))
    return load_keras_model(client, uri)


def load_keras_model(client: "MlflowClient", uri: str) -> Any:
    """Returns the Keras model of an MLflow model URI: uint8 (B, H, W, 3) in, float32 probabilities (B, classes) out.

    Raises:
        UserError: its files cannot be read.
    """
    from catdog.training import preload  # noqa: F401  must come first: it keeps TensorFlow's import quiet

    # isort: split
    import mlflow

    from catdog.training.saved_code import isolate_code

    with (
        open_model(client, uri) as folder, explain_missing_artifacts(uri), _explain_missing_code(uri, folder), isolate_code(),
    ):  # fmt: skip
        return mlflow.tensorflow.load_model(str(folder))


@contextlib.contextmanager
def _explain_missing_code(uri: str, folder: Path) -> Iterator[None]:
    """Turns the exceptions of Keras and Python for missing classes of a model into a UserError."""
    from mlflow.models import Model

    try:
        yield
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        needs = (Model.load(str(folder)).metadata or {}).get("needs", [])
        if not needs:
            raise
        raise UserError(
            f"model: {uri} needs your own code, {', '.join(needs)}, which cannot be loaded: {str(error).splitlines()[0]} "
            "Install that code, or run the command in its folder. It must be as it was when the model was trained."
        ) from error


def build_answers_table(answers: "pd.DataFrame") -> Table:
    """The answers as a table for a terminal: file, class and its probability."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("file", overflow="fold")
    table.add_column("class")
    table.add_column("probability", justify="right")
    for file, name, probability in zip(answers["file"], answers["class"], answers["probability"], strict=True):
        table.add_row(_one_line(file), _one_line(name), f"{probability:.3f}")
    return table


def list_answers(answers: "pd.DataFrame") -> list[dict[str, Any]]:
    """Returns the answers as one mapping for each file, for JSON."""
    return to_plain(answers.to_dict("records"))


def _one_line(name: str) -> str:
    # A newline in a file's or a class folder's name must not break the row.
    return name if name.isprintable() else repr(name)


def _refuse_passing(saved: answer_file.AnswerFile, output: Path) -> UserError:
    """Returns the error that names the files that cannot be read for a reason that may pass."""
    places = sorted(saved.passing)
    named = "; ".join(f"{str(saved.files[place])!r}: {saved.unreadable[place]}" for place in places[:MOST_NAMED])
    more = f"; and {len(places) - MOST_NAMED:,} more" if len(places) > MOST_NAMED else ""
    return UserError(
        f"{plural(len(places), 'file')} cannot be read now, but perhaps later ({named}{more}). So {output} is not complete. Make "
        "them readable, or remove them: the same command tries them again, and keeps the other answers."
    )


def _is_pixels(images: Images) -> bool:
    return isinstance(images, np.ndarray) or (
        isinstance(images, Sequence) and bool(images) and isinstance(images[0], np.ndarray)
    )


def _split_arrays(images: Any) -> Sequence[np.ndarray]:
    """Returns one array for each image, checked."""
    if isinstance(images, np.ndarray):
        images = images[None] if images.ndim == 3 else images
    for image in images:
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise UserError(
                "images: arrays must be uint8 (H, W, 3) or (N, H, W, 3) in [0, 255], received "
                f"{image.dtype} {tuple(image.shape)}."
            )
    return images


def _stretch(image: np.ndarray, size: int) -> np.ndarray:
    """Returns an image in the model's size, resampled as `decode_image` does: uint8 (size, size, 3)."""
    from PIL import Image

    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def in_utf8(file: Path) -> str:
    """Returns a file's name for a table or JSON, which cannot hold bytes that are not UTF-8: such bytes are escaped."""
    return str(file).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
