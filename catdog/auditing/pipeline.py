"""Watches any input pipeline and finds images that move between its splits from epoch to epoch."""

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from catdog.data.splits import SPLITS
from catdog.system.errors import UserError
from catdog.system.wording import agree, plural

# The keys under which a mapping may have its images; otherwise they are its first value.
IMAGE_KEYS = ("image", "images", "pixels", "pixel_values")
# The numbers of colour channels that an image may have.
COLOURS = (1, 3, 4)
EXAMPLE = "def build():\n    ...\n    return train, val, test"


@dataclass
class Traffic:
    """The images that a pipeline yielded, identified by their pixels.

    Attributes:
        epochs: how many times each data set was iterated.
        seen: split -> one set of image digests for each epoch.
        counts: split -> images in each epoch, copies counted.
    """

    epochs: int
    seen: dict[str, list[set[str]]] = field(default_factory=dict)
    counts: dict[str, list[int]] = field(default_factory=dict)

    def ever(self, split: str, epochs: int | None = None) -> set[str]:
        """The images that a split yielded in its first epochs, or in all."""
        return set().union(*self.seen[split][:epochs])

    def overlap(self, held_out: str, other: str, epochs: int | None = None) -> int:
        """How many images of a held-out split's first epoch another split yielded in its first epochs, or in all."""
        return len(self.seen[held_out][0] & self.ever(other, epochs))

    def shared(self, held_out: str, other: str) -> int:
        """How many images a held-out split and another one both yielded, in any epochs."""
        return len(self.ever(held_out) & self.ever(other))

    @property
    def leaks(self) -> bool:
        """Whether any image of a held-out split appeared in another split, in any epoch."""
        return any(self.shared(a, b) for a, b in (("test", "train"), ("test", "val"), ("val", "train")))

    @property
    def moves(self) -> list[str]:
        """The held-out splits that do not have the same images in every epoch."""
        return [split for split in ("val", "test") if any(epoch != self.seen[split][0] for epoch in self.seen[split])]


def load_pipeline(name: str) -> Callable[[], Any]:
    """Returns the function that `module:function` names.

    Raises:
        UserError: there is no such function.
    """
    module_name, _, function = name.partition(":")
    if not module_name or not function.isidentifier():
        raise UserError(f"pipeline: must be module:function, such as my_data:build, received {name!r}.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"pipeline: no module {error.name!r}, received {name!r}. Run the command in the folder of {module_name}.py, or install "
            "it."
        ) from error
    except Exception as error:
        raise UserError(f"pipeline: {module_name} cannot be imported: {type(error).__name__}: {error}.") from error
    found = getattr(module, function, None)
    if found is None:
        raise UserError(f"pipeline: {module_name} has no {function!r}, received {name!r}.")
    if not callable(found):
        raise UserError(f"pipeline: {name} must be a function, received {type(found).__name__}.")
    return found


def watch_pipeline(build: Callable[[], Any], name: str, epochs: int) -> Traffic:
    """Returns the images that the three data sets of a pipeline yield in some epochs.

    Args:
        build: returns (train, val, test). Each can be iterated repeatedly, or is a function that returns something to iterate once:
            a tf.data set, a PyTorch DataLoader, a Keras PyDataset, a list, a generator function. Its elements are images,
            (images, labels), or mappings with the images under a key of IMAGE_KEYS or else first; batched or not, with the colour
            channels last or first, (B, H, W, C), (B, C, H, W), (H, W, C) or (C, H, W), of any numeric type that NumPy reads.
        name: the pipeline's name, for messages.
        epochs: how many times each is iterated, at least 2 to see anything move.

    Raises:
        UserError: the function fails, or returns something else.
    """
    try:
        sets = build()
    except Exception as error:
        raise UserError(f"pipeline: {name}() failed: {type(error).__name__}: {error}.") from error
    if not isinstance(sets, tuple | list) or len(sets) != 3:
        raise UserError(
            f"pipeline: {name}() must return three data sets, (train, val, test), received {type(sets).__name__}"
            f"{f' of {len(sets)}' if isinstance(sets, tuple | list) else ''}. For example:\n{EXAMPLE}"
        )
    for split, data in zip(SPLITS, sets, strict=True):
        _require_iterable(data, split, name)
    traffic = Traffic(epochs, {split: [] for split in SPLITS}, {split: [] for split in SPLITS})
    for _ in range(epochs):
        for split, data in zip(SPLITS, sets, strict=True):
            digests: set[str] = set()
            count = 0
            try:
                for element in _begin(data):
                    for image in _images_of(element):
                        digests.add(_digest(image))
                        count += 1
            except UserError:
                raise
            except Exception as error:
                raise UserError(f"pipeline: iterating over {split} failed: {type(error).__name__}: {error}.") from error
            if not count:
                again = (
                    " after its first epoch. Return a function that creates it for each epoch"
                    if traffic.seen[split]
                    else ""
                )
                raise UserError(f"pipeline: {split} of {name}() has no images{again}.")
            traffic.seen[split].append(digests)
            traffic.counts[split].append(count)
    return traffic


def _require_iterable(data: Any, split: str, name: str) -> None:
    # TensorFlow's cardinality of an infinite data set is -1.
    if hasattr(data, "cardinality") and int(data.cardinality()) == -1:
        raise UserError(f"pipeline: {split} of {name}() never ends. Return it without repeat().")
    if not (callable(data) or hasattr(data, "__iter__") or _is_sequence(data)):
        raise UserError(
            f"pipeline: {split} of {name}() must be something to iterate over, or a function that returns one, received "
            f"{type(data).__name__}."
        )


def _is_sequence(data: Any) -> bool:
    """Whether the data is indexed by integers up to its length, like a Keras PyDataset."""
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _begin(data: Any) -> Iterator[Any]:
    """Yields the elements of one epoch of a data set."""
    if callable(data) and not hasattr(data, "__iter__") and not _is_sequence(data):
        data = data()
    ends = getattr(data, "on_epoch_end", None)
    if _is_sequence(data) and (ends or not hasattr(data, "__iter__")):
        # Iterating over a Keras PyDataset never ends, so it is indexed, and its `on_epoch_end` is called as Keras does.
        yield from (data[index] for index in range(len(data)))
        if ends:
            ends()
    else:
        yield from data


def _images_of(element: Any) -> np.ndarray:
    """Returns the images of an element: (B, H, W, C)."""
    if isinstance(element, Mapping):
        element = next((element[key] for key in IMAGE_KEYS if key in element), next(iter(element.values()), None))
    elif isinstance(element, tuple | list):
        element = element[0]
    images = _as_array(element)
    if images.ndim == 3:
        if images.shape[-1] in COLOURS:
            return images[None]
        # With 3 or 4 channels first it is one image; otherwise a batch of grey images, (B, H, W).
        return np.moveaxis(images, 0, -1)[None] if images.shape[0] in (3, 4) else images[..., None]
    if images.ndim != 4:
        raise UserError(
            "pipeline: elements must be images (H, W, C) or (C, H, W), or batches of them, alone or with labels, received shape "
            f"{images.shape}."
        )
    if images.shape[-1] not in COLOURS and images.shape[1] in COLOURS:
        # PyTorch's order of axes. Both orders must give the same digest for the same image.
        images = np.moveaxis(images, 1, -1)
    return images


def _as_array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        # A PyTorch tensor with gradients or on a GPU cannot be converted to an array.
        value = value.detach().cpu()
    if hasattr(value, "numpy"):
        value = value.numpy()
    return np.asarray(value)


def _digest(image: np.ndarray) -> str:
    # As float32 in any case: the same image may be uint8 in one split and float32 in another.
    pixels = image if image.dtype == np.uint8 else np.round(image.astype(np.float32), 3)
    return hashlib.sha256(np.ascontiguousarray(pixels, dtype=np.float32).tobytes()).hexdigest()


def describe_traffic(traffic: Traffic) -> list[str]:
    """Returns what was found in sentences; the first one says whether the pipeline leaks."""
    said = []
    test, val = len(traffic.seen["test"][0]), len(traffic.seen["val"][0])
    after = f"after {plural(traffic.epochs, 'epoch')}"
    for split, total, other in (("test", test, "train"), ("test", test, "val"), ("val", val, "train")):
        first, last = (traffic.overlap(split, other, epochs) for epochs in (1, None))
        if last:
            have = agree(last, "has", "have")
            said.append(f"{last} of {total} {split} images {have} served in {other} {after} ({first} after one)")
        elif traffic.shared(split, other):
            said.append(
                f"{split} and {other} have shown {plural(traffic.shared(split, other), 'image')} in common {after}"
            )
    if said:
        said.insert(0, "this pipeline leaks")
        if traffic.moves:
            said.append(
                f"{' and '.join(traffic.moves)} {'do' if len(traffic.moves) > 1 else 'does'} not have the same images in every "
                "epoch. The usual cause is take and skip on a data set that is reshuffled at each pass. Split the files first, or "
                "shuffle with reshuffle_each_iteration=False"
            )
        return said
    said.append(f"no image of test or val served elsewhere in {plural(traffic.epochs, 'epoch')}")
    if traffic.moves:
        said.append(f"but {' and '.join(traffic.moves)} did not show the same images in every epoch")
    train = traffic.seen["train"]
    lasting = len(set.intersection(*train))
    if lasting < len(train[0]):
        said.append(
            f"{lasting} of {len(train[0])} training images came back unchanged: the others are augmented or differ from epoch to "
            "epoch, and an altered copy of a held-out image would not be recognised. Audit the files, too: python -m catdog.audit"
        )
    return said
