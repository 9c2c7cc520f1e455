"""Thumbnails for a page: every picture once, as style rules that any number of elements can use."""

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup
from PIL import Image

# Pixels of the longer side and JPEG quality, the finest first: of many images coarser ones are shown rather than none.
SIZES = ((160, 72), (128, 70), (96, 66), (72, 60), (56, 50))
# So many are encoded to see how large all of them will be.
SAMPLE = 24
ABOUT = 1.05


class Gallery:
    """The pictures of some files, in the finest size in which all of them fit.

    Args:
        picture: file -> uint8 (H, W, 3) in [0, 255], or None where it is not available.
        files: which, by importance: where not even the coarsest size fits, the last ones are left out and counted.
        budget_bytes: what the rules may add to the page.
    """

    def __init__(self, picture: Callable[[str], np.ndarray | None], files: Sequence[str], budget_bytes: int) -> None:
        self.left_out = 0
        self.unavailable = 0
        self._rules: list[str] = []
        self._classes: dict[str, str] = {}
        self.size, quality = _finest(picture, files, budget_bytes)
        for file in files:
            pixels = picture(file)
            if pixels is None:
                self.unavailable += 1
            elif budget_bytes <= 0:
                self.left_out += 1
            else:
                name = f"pic-{len(self._rules)}"
                rule = _rule(name, pixels, self.size, quality)
                budget_bytes -= len(rule)
                self._rules.append(rule)
                self._classes[file] = name

    def show(self, file: str) -> str | None:
        """The style class that shows this file's picture, None where there is no room for it or no picture."""
        return self._classes.get(file)

    @property
    def rules(self) -> Markup:
        """The style rules of all pictures."""
        return Markup("\n".join(self._rules))

    @property
    def shown(self) -> int:
        """How many pictures there are."""
        return len(self._rules)


def _finest(picture: Callable[[str], np.ndarray | None], files: Sequence[str], budget_bytes: int) -> tuple[int, int]:
    sample = [pixels for file in files[:: max(1, len(files) // SAMPLE)] if (pixels := picture(file)) is not None]
    for size, quality in SIZES:
        mean = np.mean([len(_rule("pic-0000", one, size, quality)) for one in sample]) if sample else 0
        if ABOUT * mean * len(files) <= budget_bytes:
            return size, quality
    return SIZES[-1]


def _rule(name: str, pixels: np.ndarray, size: int, quality: int) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((size, size))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f".{name}{{background-image:url(data:image/jpeg;base64,{encoded})}}"
