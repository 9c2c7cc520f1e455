"""Answers photos with the champion, several at a time, and takes over a new champion while it does."""

import io
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from catdog.data.images import decode_image
from catdog.deployment.prediction import TrainedModel
from catdog.deployment.pyfunc import PyfuncModel
from catdog.system.errors import UserError

log = logging.getLogger(__name__)

# A PNG of so many pixels takes 400 MB while it is decoded, one at a time. A JPEG is decoded in a smaller size.
MAX_PIXELS = 50_000_000
HEATMAP_SIDE = 40
# Where the map is strong, the overlay hides this share of the photo.
OPACITY = 0.65
# How long a changed champion may load before it is tried again.
RETRY_S = 60.0


class FullError(Exception):
    """More photos wait than the queue holds."""


@dataclass(frozen=True, eq=False)
class Served:
    """A model that answers.

    Attributes:
        model: the model in the store.
        loaded: what `TrainedModel.loaded` is.
        one_at_a_time: what keeps other threads out; only Keras is known to answer several at a time.
    """

    model: TrainedModel
    loaded: Any
    one_at_a_time: AbstractContextManager[Any]

    @cached_property
    def about(self) -> dict[str, Any]:
        """What an answer says of its model: name and version (None if it was named by its run), run_id, classes, image_size."""
        model = self.model
        return {
            "name": model.name, "version": model.version, "run_id": model.run_id, "classes": list(model.class_names),
            "image_size": model.image_size,
        }  # fmt: skip

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Returns the probabilities of one image: float32 (C,).

        Args:
            image: uint8 (image_size, image_size, 3).
        """
        # Alone: in a batch, the last bits would depend on what else happens to be asked (1e-7).
        with self.one_at_a_time:
            answer: np.ndarray = self.loaded.predict_on_batch(image[None])[0]
        return answer


@dataclass(frozen=True, eq=False)
class PhotoAnswer:
    """The answer to one photo.

    Attributes:
        served: the model that answered.
        probabilities: float32 (C,).
        heatmap: a PNG with the photo and Grad-CAM of the answer over it; None if it was not asked for, or cannot be computed.
        no_heatmap: the reason why it cannot be computed; "" otherwise.
    """

    served: Served
    probabilities: np.ndarray
    heatmap: bytes | None = None
    no_heatmap: str = ""

    @property
    def class_name(self) -> str:
        """The most probable class."""
        return self.served.model.class_names[int(self.probabilities.argmax())]


class PhotoService:
    """Answers photos, each by itself, with as many threads as the machine has cores, and one more that decodes.

    An answer depends on the photo and the model alone, not on what else is asked: it is, bit for bit, that of
    `TrainedModel.predict` for this one photo.

    Args:
        find: returns the model to serve, as the store has it now.
        queue: how many photos may wait or be answered at a time.
        threads: how many are answered at a time.
        watch_s: how often the store is asked for another model; None: never.
    """

    def __init__(self, find: Callable[[], TrainedModel], queue: int, threads: int, watch_s: float | None) -> None:
        self._find = find
        self._queue = queue
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="photo")
        self._lock = threading.Lock()
        self._pending = 0
        self._closed = threading.Event()
        self._watch_s = watch_s
        self.served = _load(find())
        self.taken_over = 0
        self._watcher = threading.Thread(target=self._watch, name="champion", daemon=True)
        if watch_s is not None:
            self._watcher.start()

    @property
    def pending(self) -> int:
        """How many photos wait or are being answered."""
        return self._pending

    def submit(self, photos: list[bytes], *, heatmap: bool = False) -> list["Future[PhotoAnswer]"]:
        """Returns the answers to come. That to a file that is no readable image raises an UnreadableImageError.

        Raises:
            FullError: the queue has no room for them.
        """
        with self._lock:
            if self._pending + len(photos) > self._queue:
                raise FullError
            self._pending += len(photos)
        # All photos of a request are answered by one model.
        served = self.served
        futures = [self._pool.submit(_answer, served, photo, heatmap) for photo in photos]
        for future in futures:
            future.add_done_callback(self._count_done)
        return futures

    def close(self) -> None:
        """Answers what waits, and ends."""
        self._closed.set()
        self._pool.shutdown()

    def _count_done(self, _: "Future[PhotoAnswer]") -> None:
        with self._lock:
            self._pending -= 1

    def _watch(self) -> None:
        assert self._watch_s is not None
        pause = self._watch_s
        while not self._closed.wait(pause):
            pause = self._watch_s
            try:
                self.look()
            except UserError as error:
                log.warning("still serving %s: %s", self.served.model.words, error)
                pause = max(pause, RETRY_S)
            except Exception:
                # The store may be away, and its library raises nearly anything.
                log.warning("still serving %s: the store does not answer", self.served.model.words)
                log.debug("asking for the champion", exc_info=True)

    def look(self) -> None:
        """Takes over the model that the store has now, if it is another one.

        Raises:
            UserError: it cannot be found or loaded.
        """
        found = self._find()
        if found.found.uri == self.served.model.found.uri:
            return
        served = _load(found)
        log.info("serving %s from now on", found.words)
        self.served = served
        self.taken_over += 1


def _load(model: TrainedModel) -> Served:
    loaded = model.loaded
    served = Served(model, loaded, threading.Lock() if isinstance(loaded, PyfuncModel) else nullcontext())
    # The first call compiles.
    served.probabilities(np.zeros((model.image_size, model.image_size, 3), np.uint8))
    return served


def _answer(served: Served, photo: bytes, heatmap: bool) -> PhotoAnswer:
    size = served.model.image_size
    image = decode_image(io.BytesIO(photo), size, size, MAX_PIXELS)
    probabilities = served.probabilities(image)
    if not heatmap:
        return PhotoAnswer(served, probabilities)
    if isinstance(served.loaded, PyfuncModel):
        return PhotoAnswer(served, probabilities, no_heatmap="another tool saved this model")
    from catdog.deployment.gradcam import NoMapError, compute_cams

    try:
        cams = compute_cams(served.loaded, image[None], np.array([[probabilities.argmax()]]), HEATMAP_SIDE)
    except NoMapError as error:
        return PhotoAnswer(served, probabilities, no_heatmap=str(error))
    return PhotoAnswer(served, probabilities, _draw_heatmap(image, cams[0, 0]))


def _draw_heatmap(image: np.ndarray, cam: np.ndarray) -> bytes:
    """Returns a PNG of a photo, uint8 (H, W, 3), with a map over it, float32 (h, w) in [0, 1]."""
    import cv2
    from PIL import Image

    strength = cv2.resize(cam, image.shape[1::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)[..., None]
    colours = cv2.applyColorMap((strength * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    mixed = image * (1 - OPACITY * strength) + colours * (OPACITY * strength)
    out = io.BytesIO()
    Image.fromarray(mixed.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()
