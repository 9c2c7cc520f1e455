"""Colours of places and things."""

from __future__ import annotations

import numpy as np

from catdog.data.synthetic.brush import Colour

SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((120, 180, 230), (220, 238, 248)), ((150, 170, 200), (226, 222, 214)), ((250, 190, 140), (250, 226, 190)),
    ((70, 90, 140), (190, 150, 170)), ((176, 190, 200), (226, 230, 230)),
)  # fmt: skip
GROUNDS: tuple[Colour, ...] = (
    (112, 162, 84), (146, 178, 96), (96, 130, 80), (206, 184, 140), (226, 228, 234), (150, 120, 88),
)  # fmt: skip
WALLS: tuple[Colour, ...] = (
    (232, 220, 200), (200, 214, 210), (214, 196, 206), (180, 196, 216), (226, 206, 160), (150, 164, 150),
    (120, 110, 126),
)  # fmt: skip
FLOORS: tuple[Colour, ...] = ((170, 124, 84), (126, 90, 66), (200, 170, 130), (150, 146, 144), (96, 92, 100))
TOYS: tuple[Colour, ...] = (
    (214, 74, 66), (70, 126, 200), (240, 194, 70), (96, 170, 110), (170, 96, 170), (240, 150, 80), (240, 240, 236),
)  # fmt: skip


def pick(colours: tuple[Colour, ...], rng: np.random.Generator) -> Colour:
    """One of the colours, a little changed."""
    jitter = rng.integers(-14, 15, 3)
    red, green, blue = (
        min(255, max(0, int(c + j))) for c, j in zip(colours[rng.integers(len(colours))], jitter, strict=True)
    )
    return red, green, blue
