"""A split for other tools: files, labels and class names."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from catdog.data.dataset import Dataset
from catdog.data.splits import SPLITS
from catdog.system.errors import UserError
from catdog.system.wording import plural

if TYPE_CHECKING:
    from catdog.registry.ledger import OpenLook

# Images are decoded at this size to find unreadable files. The page of a comparison shows images at the same size.
PICTURE_SIZE = 160


@dataclass(frozen=True)
class Split:
    """The readable images of one split. It can be unpacked: `files, labels, class_names = split`.

    Attributes:
        name: train, val or test.
        files: the paths of the image files.
        labels: int32 (N,), the index of each file's class in `class_names`.
        class_names: the class names, in the order of their indices.
        names: each file's name in the study: its path below the data set's folder.
    """

    name: str
    files: tuple[Path, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    _dataset: Dataset = field(repr=False)
    _look: "OpenLook | None" = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"Split({self.name!r}: {plural(len(self), 'image')} of {len(self.class_names)} classes)"

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[object]:
        return iter((self.files, self.labels, self.class_names))

    def read(self, image_size: int = PICTURE_SIZE, indices: np.ndarray | None = None) -> np.ndarray:
        """Returns images as catdog's own models see them, decoded once and kept in the cache.

        Args:
            image_size: height and width in pixels.
            indices: int64 (B,), positions in `files`; None reads all of them.

        Returns:
            uint8 (B, H, W, 3) in [0, 255], RGB.
        """
        images = self._dataset.load_split(self.name, image_size, look=self._look)
        return images.gather(np.arange(len(images)) if indices is None else np.asarray(indices))[0]


def hand_out(dataset: Dataset, name: str, look: "OpenLook | None" = None) -> Split:
    """Returns a split of a data set, without the files that cannot be read.

    Args:
        dataset: the data set.
        name: train, val or test.
        look: for test: the entry in the ledger, as `catdog.registry.ledger.open_look` returns it.

    Raises:
        UserError: there is no such split.
        ValueError: test is requested without an entry in the ledger.
    """
    if name not in SPLITS:
        raise UserError(f"split: must be one of {', '.join(SPLITS)}, received {name!r}.")
    images = dataset.load_split(name, PICTURE_SIZE, look=look)
    files = tuple(dataset.manifest.root / file for file in images.files)
    return Split(name, files, images.labels, dataset.classes, images.files, dataset, look)
