"""The sizes of image files, read from their headers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

# Values of the EXIF orientation of images that are stored lying on a side.
_LYING = (5, 6, 7, 8)

# Enough for a median; reading as many headers takes a fraction of a second.
MOST_FILES = 200


def measure_shorter_side(root: Path, files: Sequence[str]) -> int:
    """Returns the median of the images' shorter sides in pixels; 1 if none can be read.

    At most MOST_FILES files are read, evenly spaced.

    Args:
        root: folder that the files are relative to.
        files: image files.
    """
    indices = np.unique(np.linspace(0, len(files) - 1, min(MOST_FILES, len(files))).round().astype(int))
    sides = []
    for index in indices:
        try:
            with Image.open(root / files[index]) as image:
                sides.append(min(image.size))
        except (OSError, ValueError, Image.DecompressionBombError):
            # What cannot be read is reported when it is decoded.
            continue
    return int(np.median(sides)) if sides else 1


def read_size(path: Path) -> tuple[int, int]:
    """Returns an image's width and height in pixels as it is shown, upright, from its header; (0, 0) if that cannot be read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            lying = image.getexif().get(ExifTags.Base.Orientation) in _LYING
    except (
        Exception
    ):  # damaged headers make Pillow raise nearly anything; what cannot be read is reported when it is decoded
        return 0, 0
    return (height, width) if lying else (width, height)
