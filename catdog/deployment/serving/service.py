"""Answers photos with the champion, several at a time, and takes over a new champion while it does."""

import io
import logging
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.data.images import LARGE_PIXELS, UnreadableImageError, count_pixels, decode_image
from catdog.deployment.prediction import TrainedModel, answer_images
from catdog.deployment.pyfunc import PyfuncModel
from catdog.deployment.serving.batching import Batcher, find_largest_batch
from catdog.system.errors import UserError

if TYPE_CHECKING:
    from catdog.deployment.gradcam import Explainer

log = logging.getLogger(__name__)

# The most that decoding takes at a time is one image of so many pixels, and in each other thread one of LARGE_PIXELS: at 20 bytes a
# pixel, the worst of all formats, 1 GB and 320 MB a thread. Photos of a phone, as JPEG, take a few MB each.
MAX_PIXELS = 50_000_000
HEATMAP_SIDE = 40
# Where the map is strong, the overlay hides this share of the photo.
OPACITY = 0.65
# A champion that cannot be found or loaded is tried again after so long; one that cannot be loaded again and again, at last once
# an hour.
RETRY_S = 60.0
MAX_RETRY_S = 3600.0


class FullError(Exception):
    """More photos wait than the queue holds."""


@dataclass(frozen=True, eq=False)
class Served:
    """A model that answers.

    Attributes:
        model: the model in the store.
        loaded: what `TrainedModel.loaded` is.
        one_at_a_time: what keeps other threads out; only Keras is known to answer several at a time.
        largest_batch: how many images it may answer together; 1: in a batch, the last bits of an answer would be others.
    """

    model: TrainedModel
    loaded: Any
    one_at_a_time: AbstractContextManager[Any]
    largest_batch: int
    _explaining: threading.Lock = field(default_factory=threading.Lock)

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
        with self.one_at_a_time:
            answer: np.ndarray = answer_images(self.loaded, image[None])[0]
        return answer

    def build_explainer(self) -> "Explainer":
        """Returns what computes Grad-CAM of the model. It is built once: each time adds nodes to the model's graph.

        Raises:
            NoMapError: there is none for this model.
        """
        with self._explaining:
            return self._explainer

    @cached_property
    def _explainer(self) -> "Explainer":
        from catdog.deployment.gradcam import Explainer

        return Explainer(self.loaded)


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


@dataclass(frozen=True, eq=False)
class _Job:
    """A photo to be answered."""

    served: Served
    photo: bytes
    heatmap: bool
    future: "Future[PhotoAnswer]" = field(default_factory=Future)

    def run(self, batcher: Batcher) -> None:
        """Answers it, unless nobody waits for the answer any more. It may wait for others, to be answered with them."""
        if self.future.cancelled():
            return
        served, size = self.served, self.served.model.image_size
        try:
            image = decode_image(io.BytesIO(self.photo), size, size, MAX_PIXELS)
            if served.largest_batch > 1 and not self.heatmap:
                # Neither holds this job, with its photo, until a garbage collection: no future points to one that points back.
                probabilities = batcher.submit(served.loaded, image)
                self.future.add_done_callback(partial(_cancel, weakref.ref(probabilities)))
                probabilities.add_done_callback(partial(_pass_on, served, self.future))
            elif self.future.set_running_or_notify_cancel():
                self.future.set_result(_answer(served, image, self.heatmap))
        except UnreadableImageError as error:
            # A new one, for a traceback would hold the photo.
            _fail(self.future, UnreadableImageError(str(error), error.lasting))
        except BaseException as error:
            _fail(self.future, error)


def _cancel(probabilities: "weakref.ref[Future[np.ndarray]]", _: "Future[PhotoAnswer]") -> None:
    waiting = probabilities()
    if waiting:
        waiting.cancel()


def _pass_on(served: Served, answer: "Future[PhotoAnswer]", probabilities: "Future[np.ndarray]") -> None:
    """Completes the answer to a photo with the probabilities of its image."""
    if probabilities.cancelled():
        return
    error = probabilities.exception()
    if error:
        _fail(answer, error)
    elif answer.set_running_or_notify_cancel():
        answer.set_result(PhotoAnswer(served, probabilities.result()))


def _fail(answer: "Future[PhotoAnswer]", error: BaseException) -> None:
    if answer.running() or answer.set_running_or_notify_cancel():
        answer.set_exception(error)


@dataclass(frozen=True)
class _Broken:
    """A champion that cannot be loaded: its place in the store, and when it is tried again."""

    uri: str
    pause_s: float
    until: float


class PhotoService:
    """Answers photos. Several threads decode them, and one more the large ones, so that these delay no others.

    Decoded photos that wait at the same time are answered together, where `find_largest_batch` allows it. An answer depends on the
    photo and the model alone, not on what else is asked: it is, bit for bit, that of `TrainedModel.predict` for this one photo.

    Args:
        find: returns the model to serve, as the store has it now.
        queue: how many photos may wait or be answered at a time.
        threads: how many are decoded at a time.
        watch_s: how often the store is asked for another model; None: never.
    """

    def __init__(self, find: Callable[[], TrainedModel], queue: int, threads: int, watch_s: float | None) -> None:
        self._find = find
        self._queue = queue
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="photo")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="large-photo")
        self._batcher = Batcher()
        self._lock = threading.Lock()
        self._pending = 0
        self._closed = threading.Event()
        self._watch_s = watch_s
        self.served = _load(find())
        self.taken_over = 0
        self._broken: _Broken | None = None
        self._watcher = threading.Thread(target=self._watch, name="champion", daemon=True)
        if watch_s is not None:
            self._watcher.start()

    @property
    def pending(self) -> int:
        """How many photos wait or are being answered."""
        return self._pending

    def submit(self, photos: list[bytes], *, heatmap: bool = False) -> list["Future[PhotoAnswer]"]:
        """Returns the answers to come. That to a file that is no readable image raises an UnreadableImageError.

        An answer that is cancelled before it has begun is not computed.

        Raises:
            FullError: the queue has no room for them.
        """
        with self._lock:
            if self._pending + len(photos) > self._queue:
                raise FullError
            self._pending += len(photos)
        # All photos of a request are answered by one model.
        jobs = [_Job(self.served, photo, heatmap) for photo in photos]
        for job in jobs:
            job.future.add_done_callback(self._count_done)
        try:
            for job in jobs:
                self._pool.submit(self._run, job)
        except BaseException:
            for job in jobs:
                job.future.cancel()
            raise
        return [job.future for job in jobs]

    def close(self) -> None:
        """Answers what waits, and ends."""
        self._closed.set()
        self._pool.shutdown()
        self._large.shutdown()
        self._batcher.close()

    def _run(self, job: _Job) -> None:
        if not job.future.cancelled() and count_pixels(io.BytesIO(job.photo)) > LARGE_PIXELS:
            self._large.submit(job.run, self._batcher)
        else:
            job.run(self._batcher)

    def _count_done(self, _: "Future[PhotoAnswer]") -> None:
        with self._lock:
            self._pending -= 1

    def _watch(self) -> None:
        assert self._watch_s is not None
        pause = self._watch_s
        while not self._closed.wait(pause):
            pause = max(self._watch_s, self.look())

    def look(self) -> float:
        """Takes over the model that the store has now, if it is another one; what goes wrong is logged.

        Returns:
            Seconds for which there is no use in looking again.
        """
        try:
            found = self._find()
        except UserError as error:
            log.warning("still serving %s: %s", self.served.model.words, error)
            return RETRY_S
        except Exception:
            # The store may be away, and its library raises nearly anything.
            log.warning("still serving %s: the store does not answer", self.served.model.words)
            log.debug("asking for the champion", exc_info=True)
            return 0
        if found.found.uri == self.served.model.found.uri:
            self._broken = None
        elif not (self._broken and self._broken.uri == found.found.uri and time.monotonic() < self._broken.until):
            self._take_over(found)
        return 0

    def _take_over(self, found: TrainedModel) -> None:
        try:
            served = _load(found)
        except Exception as error:
            # A file may be damaged, code may be missing, or the store is away again.
            uri = found.found.uri
            former = self._broken if self._broken and self._broken.uri == uri else None
            pause = min(2 * former.pause_s, MAX_RETRY_S) if former else RETRY_S
            self._broken = _Broken(uri, pause, time.monotonic() + pause)
            log.warning(
                "still serving %s: %s cannot be loaded: %s", self.served.model.words, found.words, error or repr(error),
                exc_info=former is None and not isinstance(error, UserError),
            )  # fmt: skip
            return
        log.info("serving %s from now on", found.words)
        self._broken = None
        self.served = served
        self.taken_over += 1


def _load(model: TrainedModel) -> Served:
    loaded = model.loaded
    if isinstance(loaded, PyfuncModel):
        served = Served(model, loaded, threading.Lock(), 1)
        served.probabilities(np.zeros((model.image_size, model.image_size, 3), np.uint8))
        return served
    # Its first calls also compile.
    largest_batch = find_largest_batch(loaded, model.image_size)
    if largest_batch == 1:
        log.info("%s answers photos one by one: together, the last bits of an answer would be others", model.words)
    return Served(model, loaded, nullcontext(), largest_batch)


def _answer(served: Served, image: np.ndarray, heatmap: bool) -> PhotoAnswer:
    """Returns the answer to an image, uint8 (image_size, image_size, 3)."""
    probabilities = served.probabilities(image)
    if not heatmap:
        return PhotoAnswer(served, probabilities)
    if isinstance(served.loaded, PyfuncModel):
        return PhotoAnswer(served, probabilities, no_heatmap="another tool saved this model")
    from catdog.deployment.gradcam import NoMapError

    try:
        chosen = np.array([[probabilities.argmax()]])
        cam = served.build_explainer().compute(image[None], chosen, HEATMAP_SIDE)[0, 0]
        return PhotoAnswer(served, probabilities, _draw_heatmap(image, cam))
    except NoMapError as error:
        return PhotoAnswer(served, probabilities, no_heatmap=str(error))
    except Exception:
        # The answer stands without its map.
        log.exception("Grad-CAM of a photo")
        return PhotoAnswer(served, probabilities, no_heatmap="the map could not be computed")


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
