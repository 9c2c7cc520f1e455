"""Turns the config's section `dataset` into splits, whose images are decoded and memory-mapped."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from catdog.config.digest import hash_text
from catdog.config.schema import NEAR_DUPLICATES, DatasetConfig, DrawingConfig
from catdog.data.cache import load_images, release
from catdog.data.fetch import fetch_archive
from catdog.data.kept_manifest import load_manifest
from catdog.data.splits import Manifest, name_some, require_readable_test
from catdog.data.staging import locked, staged
from catdog.data.tables import GROUPS, lay_out
from catdog.system.errors import UserError

if TYPE_CHECKING:
    from catdog.data.stored_images import CheckedPixels, JpegImages
    from catdog.registry.ledger import OpenLook

log = logging.getLogger(__name__)

MAX_NAMED_FILES = 20


class _Files(Sequence[Path]):
    """The paths of images, made when they are asked for: a million of them take seconds, and hundreds of MB.

    Args:
        root: the data set's folder.
        names: object (N,), their names relative to it, str.
    """

    def __init__(self, root: Path, names: np.ndarray) -> None:
        self._root = root
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, place: int) -> Path: ...

    @overload
    def __getitem__(self, place: slice) -> list[Path]: ...

    def __getitem__(self, place: int | slice) -> Path | list[Path]:
        if isinstance(place, slice):
            return [self._root / name for name in self._names[place]]
        return self._root / self._names[place]


@dataclass(frozen=True)
class SplitImages:
    """The readable images of one split.

    Attributes:
        decoded: what `catdog.data.cache.DecodedImages.images` is; N includes unreadable files.
        rows: int64 (M,), the rows of `decoded` with readable images.
        labels: int32 (M,), class indices.
        files: M file names, relative to the data set's root.
        classes: class names in the order of their indices.
        unreadable: for each of the N - M other files, the reason by file name.
    """

    decoded: "np.ndarray | JpegImages | CheckedPixels"
    rows: np.ndarray
    labels: np.ndarray
    files: tuple[str, ...]
    classes: tuple[str, ...]
    unreadable: dict[str, str]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image: (H, W, 3)."""
        return self.decoded.shape[1:]

    @property
    def dtype(self) -> str:
        """The name of the pixels' type."""
        return self.decoded.dtype.name

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns copies of images, uint8 (B, H, W, 3), and labels, int32 (B,), at indices, int64 (B,) in [0, M)."""
        images = self.decoded[self.rows[indices]]
        release(self.decoded)
        return images, self.labels[indices]


@dataclass(frozen=True)
class Dataset:
    """A data set whose splits are fixed but not yet decoded."""

    config: DatasetConfig
    manifest: Manifest

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their indices."""
        return self.manifest.classes

    def choose_storage(self, image_size: int) -> str:
        """Returns how the cache keeps the training images: as jpeg if pixels would take more than `dataset.cache_gb`, or pixels.

        Args:
            image_size: height and width in pixels.
        """
        count = int((self.manifest.images["split"] != "test").sum())
        return "jpeg" if count * image_size**2 * 3 > self.config.cache_gb * 1e9 else "pixels"

    def load_split(
        self,
        split: str,
        image_size: int,
        *,
        look: "OpenLook | None" = None,
        file_only: bool = False,
        stored_as: str = "auto",
    ) -> SplitImages:
        """Returns the images of a split, decoded once and cached.

        Validation and test images are always kept as pixels, so that a model is judged by what it answers to photos.

        Args:
            split: train, val or test.
            image_size: height and width in pixels.
            look: for test: the entry in the ledger, as `catdog.registry.ledger.open_look` returns it.
            file_only: whether unreadable files are named in the log file only, because the terminal has them already.
            stored_as: for train: pixels or jpeg, as `preprocessing.stored_as`; auto: what `choose_storage` says.

        Raises:
            UserError: there are more unreadable files than `dataset.max_unreadable_fraction` allows.
            ValueError: test is requested without an entry in the ledger.
        """
        if split == "test" and look is None:
            raise ValueError(
                "the test images need an entry in the ledger of test looks: catdog.registry.ledger.open_look makes one"
            )
        rows = self.manifest.select(split)
        if stored_as == "auto":
            stored_as = self.choose_storage(image_size)
        decoded = load_images(
            _Files(self.manifest.root, rows["file"].to_numpy(object)),
            list(rows["sha256"]),
            height=image_size,
            width=image_size,
            cache=Path(self.config.cache),
            as_jpeg=split == "train" and stored_as == "jpeg",
        )
        unreadable = {rows["file"][index]: reason for index, reason in decoded.unreadable.items()}
        self._report_unreadable(split, unreadable, len(rows), file_only)
        readable = np.setdiff1d(np.arange(len(rows)), np.fromiter(decoded.unreadable, np.int64))
        log.info("%s: %s images at %s x %s", split, f"{len(readable):,}", image_size, image_size)
        index = {name: number for number, name in enumerate(self.classes)}
        labels = rows["label"].map(index).to_numpy(np.int32)[readable]
        files = tuple(rows["file"][readable])
        return SplitImages(decoded.images, readable, labels, files, self.classes, unreadable)

    def _report_unreadable(self, split: str, unreadable: dict[str, str], total: int, file_only: bool) -> None:
        if not unreadable:
            return
        named = [f"{file!r}: {reason}" for file, reason in list(unreadable.items())[:MAX_NAMED_FILES]]
        more = [f"and {len(unreadable) - len(named)} more"] if len(unreadable) > len(named) else []
        listing = "\n  ".join(named + more)
        summary = f"{len(unreadable)} of {total} files of {split} are unreadable"
        # A single bad file is always allowed, even in a small split.
        if len(unreadable) > max(1, self.config.max_unreadable_fraction * total):
            raise UserError(
                f"{summary}, more than dataset.max_unreadable_fraction={self.config.max_unreadable_fraction:g} allows. Repair "
                f"or remove these below {self.manifest.root}, or raise the limit:\n  {listing}"
            )
        log.warning("%s and left out:\n  %s", summary, listing, extra={"file_only": file_only})


def load_dataset(config: DatasetConfig) -> Dataset:
    """Returns the data set that a config describes, with fixed splits; downloads or draws its images if necessary.

    Raises:
        UserError: the archive cannot be fetched or read, or its images do not form a data set.
    """
    root = fetch_images(config)
    manifest = load_manifest(
        root,
        cache=Path(config.cache),
        verify=config.verify,
        shown=None if config.source == "drawn" else config.archive,
        max_images_per_class=config.max_images_per_class,
        searches_duplicates=searches_duplicates(config),
        holdout_fraction=config.holdout_fraction,
        test_fraction=config.test_fraction,
        split_seed=config.split_seed,
        groups=choose_groups(config, root),
        refresh=config.refresh,
    )
    require_readable_test(manifest, config.max_unreadable_fraction)
    return Dataset(config, manifest)


def searches_duplicates(config: DatasetConfig) -> bool:
    """Whether near-duplicates are looked for. All drawn images are different, even if some look alike."""
    return config.near_duplicates == "one_side" and (config.source != "drawn" or config.groups == NEAR_DUPLICATES)


def require_cats_and_dogs(dataset: Dataset) -> None:
    """Raises a UserError if other images were given to dataset=cats_dogs, the default: runs on them would have its name."""
    if dataset.config.name != "cats_dogs":
        return
    classes = ", ".join(name_some([repr(name) for name in dataset.classes]))
    if dataset.classes != ("cats", "dogs"):
        found = f"the classes {classes}"
    elif any(not file.startswith(("train/", "validation/")) for file in dataset.manifest.images["file"]):
        found = f"the classes {classes}, but not in train/ and validation/"
    else:
        return
    raise UserError(
        f"dataset.archive: {dataset.config.archive} is not the data set cats_dogs, which has the classes 'cats' and 'dogs' in "
        f"train/ and validation/; received {found}. For your own images add dataset=folder: python -m catdog.train "
        "dataset=folder dataset.archive=PATH study=NAME"
    )


def fetch_images(config: DatasetConfig) -> Path:
    """Returns the folder of a data set's images; downloads, extracts or draws them if necessary.

    Raises:
        UserError: the archive cannot be fetched or read.
    """
    if config.source == "drawn":
        return draw_images(config.drawing, Path(config.cache))
    assert config.archive is not None  # the config's own check
    if config.source != "archive":
        return lay_out(config.source, config.archive, Path(config.cache))
    return fetch_archive(config.archive, Path(config.cache))


def choose_groups(config: DatasetConfig, root: Path) -> str | None:
    """Returns what names the groups of images, as `dataset.groups`: that key, or else the table that came with the images."""
    table = root / GROUPS
    own = config.source in ("csv", "parquet", "webdataset") and table.is_file()
    return str(table) if config.groups is None and own else config.groups


def draw_images(config: DrawingConfig, cache: Path) -> Path:
    """Returns the folder of the drawn images; draws them the first time."""
    import time

    from catdog.data import synthetic

    # The code that draws is part of the key: other code may draw other images.
    sources = [path.read_text(encoding="utf-8") for path in sorted(Path(synthetic.__file__).parent.glob("*.py"))]
    folder = cache / "drawn" / hash_text(f"{config} {sources}")[:16]
    with locked(folder, "drawing these images"):
        if not folder.exists():
            started = time.perf_counter()
            with staged(folder) as stage:
                synthetic.write_drawn_images(
                    stage,
                    seed=config.seed,
                    train_per_class=config.train_per_class,
                    validation_per_class=config.validation_per_class,
                )
            count = 2 * (config.train_per_class + config.validation_per_class)
            log.info("drew %s images in %.1f s", f"{count:,}", time.perf_counter() - started)
    return folder


def majority_class(manifest: Manifest) -> str:
    """Returns the most frequent class of train."""
    return str(manifest.select("train")["label"].value_counts().idxmax())


def majority_fraction(manifest: Manifest) -> float:
    """Returns the fraction of val, in [0, 1], that belongs to the most frequent class of train: the accuracy to beat."""
    val = manifest.readable[manifest.readable["split"] == "val"]
    return float((val["label"] == majority_class(manifest)).mean())
