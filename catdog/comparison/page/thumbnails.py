"""Thumbnails for a page, as many and as fine as the page's size allows."""

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup
from PIL import Image

# Pixels of the longer side and JPEG quality, the finest first: many images are shown coarser rather than left out.
SIZES = ((160, 72), (128, 70), (96, 66), (72, 60), (56, 50))
# So many thumbnails are encoded to estimate the size of all.
SAMPLE = 24
ABOUT = 1.05


class Gallery:
    """Thumbnails for a page. Each picture is embedded once, as a style rule that any number of elements can use.

    Args:
        picture: file -> uint8 (H, W, 3) in [0, 255], or None if it is not available.
        budget_bytes: the size of all rules; pictures beyond it are left out and counted.
        size: pixels of the longer side, and JPEG quality.
    """

    def __init__(
        self, picture: Callable[[str], np.ndarray | None], budget_bytes: int, size: tuple[int, int] = SIZES[1]
    ) -> None:
        self._picture = picture
        self._left_bytes = budget_bytes
        self._size = size
        self._classes: dict[str, str | None] = {}
        self._rules: list[str] = []
        self.left_out = 0
        self.unavailable = 0

    def show(self, file: str) -> str | None:
        """Returns the style class that shows this file's picture; None if there is no picture or no room for it."""
        if file not in self._classes:
            self._classes[file] = self._embed(file)
        return self._classes[file]

    @property
    def rules(self) -> Markup:
        """The style rules of all pictures shown so far."""
        return Markup("\n".join(self._rules))

    @property
    def shown(self) -> int:
        """How many pictures there are."""
        return len(self._rules)

    def _embed(self, file: str) -> str | None:
        if self._left_bytes <= 0:
            self.left_out += 1
            return None
        pixels = self._picture(file)
        if pixels is None:
            self.unavailable += 1
            return None
        name = f"pic-{len(self._rules)}"
        rule = _rule(name, pixels, self._size)
        self._left_bytes -= len(rule)
        self._rules.append(rule)
        return name


def build_gallery(picture: Callable[[str], np.ndarray | None], files: Sequence[str], budget_bytes: int) -> Gallery:
    """Returns a gallery of the pictures of these files, in the finest size in which all of them fit.

    Args:
        picture: as for `Gallery`.
        files: the files, by importance: if they do not fit even in the coarsest size, the last ones are left out.
        budget_bytes: what the rules may add to the page.
    """
    gallery = Gallery(picture, budget_bytes, _finest(picture, files, budget_bytes))
    for file in files:
        gallery.show(file)
    return gallery


def _finest(picture: Callable[[str], np.ndarray | None], files: Sequence[str], budget_bytes: int) -> tuple[int, int]:
    sample = [pixels for file in files[:: max(1, len(files) // SAMPLE)] if (pixels := picture(file)) is not None]
    for size in SIZES:
        mean = np.mean([len(_rule("pic-0000", one, size)) for one in sample]) if sample else 0
        if ABOUT * mean * len(files) <= budget_bytes:
            return size
    return SIZES[-1]


def _rule(name: str, pixels: np.ndarray, size: tuple[int, int]) -> str:
    side, quality = size
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f".{name}{{background-image:url(data:image/jpeg;base64,{encoded})}}"
