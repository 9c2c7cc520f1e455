"""Grad-CAM for the atlas: maps of one run of each variant, from its kept model or stored by an earlier comparison."""

import gc
import io
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from catdog.comparison.atlas import Answers, Atlas
from catdog.comparison.load import find_pictures
from catdog.comparison.records import RunRecord
from catdog.system.errors import UserError
from catdog.system.terminal import status_shown
from catdog.system.wording import plural
from catdog.tracking.artifacts import load_bytes

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

# In a picture of this size, a map finer than 14 x 14 shows nothing more.
SIDE = 14
# Limits on the maps in the page: the number of images, taken by importance, and the bytes for all variants.
MOST_IMAGES, MOST_BYTES = 600, 1_200_000
FOLDER, FILE = "gradcam", "val.npz"
# The version of the stored maps. Raise it if a change of the code changes the maps.
VERSION = 1


@dataclass(frozen=True, eq=False)
class VariantCams:
    """The maps of one variant.

    Args:
        run: the run that represents the variant.
        predicted: maps of the class that this run predicted: uint8 (K, h, w), 255 is the maximum.
        labelled: maps of the true class, in the same order; identical if the run is right.
    """

    run: RunRecord
    predicted: np.ndarray
    labelled: np.ndarray


@dataclass(frozen=True, eq=False)
class Cams:
    """The Grad-CAM maps of an atlas.

    Args:
        images: how many of the atlas's `listed` have maps, from the first.
        variants: variant name -> its maps; variants without maps are left out.
        missing: why variants have no maps, one sentence for each reason.
    """

    images: int
    variants: dict[str, VariantCams]
    missing: Sequence[str] = ()


NO_CAMS = Cams(0, {})


def collect_cams(client: "MlflowClient", atlas: Atlas | None, switch: str) -> Cams:
    """Returns the Grad-CAM maps of the atlas's first images, and stores new ones with their runs, as `gradcam/val.npz`.

    Args:
        client: a client of the tracking store.
        atlas: the images; None: there are none.
        switch: "auto" computes missing maps if model and images are available; "never" uses only what is stored.
    """
    if atlas is None or not len(atlas.listed):
        return NO_CAMS
    count = min(len(atlas.listed), MOST_IMAGES, MOST_BYTES // (2 * SIDE**2 * len(atlas.answers)))
    chosen = atlas.listed[:count]
    variants: dict[str, VariantCams] = {}
    missing: dict[str, list[str]] = {}
    for answers in atlas.answers:
        try:
            variants[answers.name] = _collect(client, atlas, answers, chosen, compute=switch == "auto")
        except _NoCamError as error:
            missing.setdefault(str(error), []).append(answers.name)
    sentences = [f"{', '.join(names)}: {reason}." for reason, names in missing.items()]
    return Cams(count if variants else 0, variants, sentences)


class _NoCamError(Exception):
    """Why a variant has no maps, as the rest of a sentence."""


def _collect(client: "MlflowClient", atlas: Atlas, answers: Answers, chosen: np.ndarray, compute: bool) -> VariantCams:
    record = answers.variant.representative
    seed = answers.variant.records.index(record)
    files = [atlas.files[place] for place in chosen]
    if not set(atlas.class_names) <= set(record.class_names):
        raise _NoCamError("its classes differ from those of the other variants")
    place = [record.class_names.index(name) for name in atlas.class_names]
    wanted = np.array([[place[answers.predicted[seed, i]], place[atlas.labels[i]]] for i in chosen])
    stored = _load_stored(record)
    lacking = [n for n, file in enumerate(files) if (file, *map(int, wanted[n])) not in stored]
    if lacking:
        if not compute:
            raise _NoCamError("Grad-CAM was switched off (gradcam=never)")
        fresh = _compute(client, record, [files[n] for n in lacking], wanted[lacking])
        stored |= {(files[n], *map(int, wanted[n])): maps for n, maps in zip(lacking, fresh, strict=True)}
        _store(client, record, stored)
    maps = np.stack([stored[file, *map(int, pair)] for file, pair in zip(files, wanted, strict=True)])
    return VariantCams(record, maps[:, 0], maps[:, 1])


Stored = dict[tuple[str, int, int], np.ndarray]


def _load_stored(record: RunRecord) -> Stored:
    """Returns the maps that an earlier comparison stored: (file, predicted class, true class) -> uint8 (2, h, w)."""
    try:
        content = load_bytes(record.artifact_uri, f"{FOLDER}/{FILE}")
        if content is None:
            return {}
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            if int(arrays["version"]) != VERSION:
                return {}
            return {
                (str(file), int(pair[0]), int(pair[1])): maps
                for file, pair, maps in zip(arrays["files"], arrays["classes"], arrays["maps"], strict=True)
            }
    except (UserError, OSError, ValueError, KeyError) as error:
        log.warning("the stored Grad-CAM of %s cannot be read (%s); it is computed again", record.name, error)
        return {}


def _store(client: "MlflowClient", record: RunRecord, stored: Stored) -> None:
    from mlflow.exceptions import MlflowException

    from catdog.tracking import TrackedRun, is_writable

    if not is_writable(client.tracking_uri):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        keys = list(stored)
        np.savez_compressed(
            path,
            version=VERSION,
            files=np.array([key[0] for key in keys]),
            classes=np.array([key[1:] for key in keys]),
            maps=np.stack([stored[key] for key in keys]),
        )
        try:
            TrackedRun(client, record.run_id).log_file(path, FOLDER)
        except (OSError, MlflowException) as error:
            # Only the cache is lost; the page has the maps anyway.
            log.warning("Grad-CAM of %s cannot be stored with its run: %s", record.name, str(error).splitlines()[0])


def _compute(client: "MlflowClient", record: RunRecord, files: Sequence[str], classes: np.ndarray) -> np.ndarray:
    """Returns the maps of images: uint8 (N, 2, h, w)."""
    uri = record.tags.model_uri
    if not uri:
        raise _NoCamError("its run has no kept model")
    images = _load_images(find_pictures(record), files)
    words = f"Grad-CAM of {record.name}, {plural(len(files), 'image')}"
    with status_shown(words):
        # Imported here: TensorFlow takes seconds to import, and most comparisons find their maps stored.
        from catdog.training import preload  # noqa: F401  must come first: it keeps TensorFlow's import quiet

        # isort: split
        from catdog.deployment.gradcam import NoMapError, compute_cams
        from catdog.deployment.prediction import load_model
        from catdog.deployment.pyfunc import PyfuncModel

        try:
            model = load_model(client, uri)
            if isinstance(model, PyfuncModel):
                raise _NoCamError("its model is not a Keras model")
            cams = compute_cams(model, images, classes, SIDE)
        except NoMapError as error:
            raise _NoCamError(str(error)) from error
        except UserError as error:
            raise _NoCamError("the files of its kept model are gone") from error
    log.info("%s", words)
    # A model is full of reference cycles, and the command `compare` has switched automatic collection off.
    gc.collect()
    return np.rint(255 * cams).astype(np.uint8)


def _load_images(picture: Callable[[str], np.ndarray | None], files: Sequence[str]) -> np.ndarray:
    images = [pixels for file in files if (pixels := picture(file)) is not None]
    if len(images) < len(files):
        raise _NoCamError("the cache does not have the images in the size that it was trained with")
    return np.stack(images)
