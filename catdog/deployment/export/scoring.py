"""Scores exported files with their own runtime, each in a process of its own, and compares the answers with the kept model's."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.data.predictions import Predictions
from catdog.deployment.ensemble import subtract
from catdog.deployment.export.conversion import LONGEST_ERROR, Format
from catdog.deployment.export.result import Answered, ExportScore, OtherClass, Rounding
from catdog.system.errors import UserError
from catdog.system.files import measure_size

if TYPE_CHECKING:
    from catdog.data.dataset import SplitImages

SCORER = Path(__file__).with_name("scorer.py")
# Images by which the kept model is timed; the exported files are timed by all of them.
MOST_TIMED = 50


def score_kept(model: Any, split: "SplitImages", size_bytes: int, batch_size: int) -> Answered:
    """Returns the kept model's answers to a split, its size, and its time for one image.

    Args:
        model: Keras, uint8 (B, H, W, 3) -> float32 (B, classes).
        split: the images.
        size_bytes: the size of its file.
        batch_size: images per step; it is timed with single images.
    """
    from catdog.training.predicting import predict_split

    predictions = predict_split(model, split, batch_size)
    milliseconds = []
    # The first call builds the model's graph for a single image.
    for index in [0, *range(min(len(split), MOST_TIMED))]:
        images, _ = split.gather(np.array([index]))
        start = time.perf_counter()
        model.predict_on_batch(images)
        milliseconds.append(1000 * (time.perf_counter() - start))
    return Answered(predictions, size_bytes / 1e6, float(np.median(milliseconds[1:])))


def measure_rounding(rebuilt: Any, split: "SplitImages", kept: Answered, batch_size: int) -> Rounding:
    """Returns how far a model's answers to a split move if Keras computes it in float32, before anything is converted.

    Args:
        rebuilt: the kept model in float32, uint8 (B, H, W, 3) -> float32 (B, classes).
        split: the images.
        kept: the kept model's answers to them.
        batch_size: images per step.
    """
    from catdog.training.predicting import predict_split

    answers, stored = predict_split(rebuilt, split, batch_size), kept.predictions
    largest = float(np.abs(answers.probabilities - stored.probabilities).max())
    return Rounding(largest, int((answers.predicted != stored.predicted).sum()))


def score_export(
    format: Format, folder: Path, split: "SplitImages", kept: Answered, groups: np.ndarray | None
) -> ExportScore:
    """Returns how an exported file answers the images of a split, and how far that is from the kept model's answers.

    Args:
        format: of the file.
        folder: with the file and its reader.
        split: the images.
        kept: the kept model's answers to them.
        groups: int (N,), the groups that the images come in; None if every image is a group of its own.

    Raises:
        UserError: the runtime cannot run the file, or it answers something else than probabilities.
    """
    probabilities, milliseconds = _answer(format, folder, split)
    shape = kept.predictions.probabilities.shape
    if probabilities.shape != shape or not np.isfinite(probabilities).all():
        raise UserError(
            f"format: {format.runtime} answers {probabilities.shape} with {format.file}; finite probabilities of shape "
            f"{shape} are expected. Leave {format.name} out, and report it with the model's layers."
        )
    answers = Predictions(kept.predictions.files, kept.predictions.labels, kept.predictions.class_names, probabilities)
    answered = Answered(answers, measure_size(folder / format.file) / 1e6, float(np.median(milliseconds)))
    right, kept_right = answers.right.astype(float), kept.predictions.right.astype(float)
    difference = subtract(right, kept_right[np.newaxis], "the kept model", groups)
    largest = float(np.abs(probabilities - kept.predictions.probabilities).max())
    return ExportScore(format, answered, difference, largest, _list_other_classes(format, answers, kept.predictions))


def _list_other_classes(format: Format, answers: Predictions, kept: Predictions) -> list[OtherClass]:
    names = kept.class_names
    return [
        OtherClass(
            format.name, str(kept.files[row]), str(kept.labels[row]),
            names[kept.predicted[row]], float(kept.probabilities[row].max()),
            names[answers.predicted[row]], float(answers.probabilities[row].max()),
        )
        for row in np.flatnonzero(answers.predicted != kept.predicted)
    ]  # fmt: skip


def _answer(format: Format, folder: Path, split: "SplitImages") -> tuple[np.ndarray, np.ndarray]:
    """Returns the answers of a file, float32 (N, C), and the milliseconds for each image, float64 (N,), from another process."""
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile() as errors:
        answers = Path(place) / "answers.npz"
        # -P: otherwise this folder's modules, such as onnx.py, would hide the packages of the same name.
        program = [sys.executable, "-P", str(SCORER), str(folder / format.reader), str(split.shape[0]), str(answers),
                   ",".join(format.kept_out)]  # fmt: skip
        # On the CPU, like the other runtimes; this process may hold the memory of a GPU.
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, env=os.environ | quiet
        )
        try:
            _feed(process, split)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        if code != 0:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines() or [f"it ended with code {code}"]
            raise UserError(
                f"format: {format.runtime} cannot run {format.file}: {lines[-1][:LONGEST_ERROR].rstrip('. ')}. Is its version that "
                f"of catdog[export]: pip install 'catdog[export]'? Or leave {format.name} out."
            )
        with np.load(answers) as found:
            return found["probabilities"], found["milliseconds"]


def _feed(process: "subprocess.Popen[bytes]", split: "SplitImages") -> None:
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            for index in range(len(split)):
                images, _ = split.gather(np.array([index]))
                pipe.write(images.tobytes())
    except BrokenPipeError:
        # It has ended early; its exit code and its messages say why.
        return
