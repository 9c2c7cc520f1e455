"""Things: clutter around the animal, and what hides part of it."""

from __future__ import annotations

import numpy as np

from catdog.data.synthetic.brush import Brush, Colour, darker, lighter, mix
from catdog.data.synthetic.palette import FLOORS, GROUNDS, TOYS, pick


def draw_clutter(brush: Brush, right: float, rng: np.random.Generator) -> None:
    """Balls, plants, boxes, bones and bunting, anywhere; their outlines imitate ears and eyes on purpose."""
    for _ in range(rng.integers(0, 4)):
        x, y, size = rng.uniform(0, right), rng.uniform(0.15, 1.0), rng.uniform(0.05, 0.13)
        _THINGS[rng.integers(len(_THINGS))](brush.at(x, y, size, rng.uniform(-0.3, 0.3)), pick(TOYS, rng))


def draw_foreground(brush: Brush, right: float, rng: np.random.Generator) -> None:
    """Now and then something that hides part of the animal: blades, a board, a box, a plant."""
    choice = rng.random()
    if choice < 0.12:
        tone = pick(GROUNDS, rng)
        for x, height, lean in rng.random((int(rng.integers(8, 20)), 3)):
            root = (x * right, 1.02)
            brush.limb(
                [root, (root[0] + (lean - 0.5) * 0.15, 1 - 0.12 - 0.22 * height)], 0.03, 0.005, darker(tone, 0.3 * lean)
            )
    elif choice < 0.2:
        x, w = rng.uniform(0, right), rng.uniform(0.03, 0.07)
        draw_box(brush, x, 0.5, w, 0.5, darker(pick(FLOORS, rng), 0.2))
    elif choice < 0.3:
        size = rng.uniform(0.14, 0.26)
        _draw_cube(brush.at(rng.uniform(0, right), 1.02, size), pick(TOYS + FLOORS, rng))
    elif choice < 0.4:
        _draw_plant(brush.at(rng.choice([0.05, right - 0.05]), 1.0, rng.uniform(0.2, 0.3)), pick(TOYS, rng))


def _draw_ball(brush: Brush, colour: Colour) -> None:
    brush.ellipse(0.08, 0.95, 1.0, 0.25, darker(colour, 0.75))
    brush.ellipse(0, 0, 1, 1, darker(colour, 0.25))
    brush.ellipse(-0.08, -0.08, 0.88, 0.88, colour)
    brush.line([(-0.9, 0.1), (0, 0.4), (0.85, 0)], 0.14, lighter(colour, 0.6))
    brush.ellipse(-0.35, -0.4, 0.2, 0.16, lighter(colour, 0.7))


def _draw_yarn(brush: Brush, colour: Colour) -> None:
    brush.ellipse(0, 0, 1, 1, darker(colour, 0.2))
    for step in (-0.5, -0.1, 0.3):
        brush.line([(-0.8, step), (0, step + 0.35), (0.8, step - 0.1)], 0.09, lighter(colour, 0.35))
        brush.line([(step, -0.8), (step + 0.35, 0), (step, 0.8)], 0.09, darker(colour, 0.35))
    brush.line([(0.8, 0.6), (1.5, 0.9), (2.1, 0.6), (2.8, 0.9)], 0.09, colour)


def _draw_plant(brush: Brush, colour: Colour) -> None:
    for lean, height in ((-0.9, 1.6), (-0.4, 2.2), (0.1, 2.5), (0.5, 2.0), (1.0, 1.5)):
        brush.limb(
            [(0, 0), (lean * 0.6, -height * 0.6), (lean, -height)], 0.42, 0.06, darker((110, 170, 96), 0.1 * height)
        )
    brush.polygon([(-0.8, -0.1), (0.8, -0.1), (0.55, 1), (-0.55, 1)], darker(colour, 0.15))
    brush.polygon([(-0.9, -0.2), (0.9, -0.2), (0.9, 0.1), (-0.9, 0.1)], colour)


def _draw_cube(brush: Brush, colour: Colour) -> None:
    brush.polygon([(-1, -0.7), (0.7, -0.7), (0.7, 1), (-1, 1)], colour)
    brush.polygon([(-1, -0.7), (-0.5, -1.1), (1.2, -1.1), (0.7, -0.7)], lighter(colour, 0.3))
    brush.polygon([(0.7, -0.7), (1.2, -1.1), (1.2, 0.6), (0.7, 1)], darker(colour, 0.3))


def _draw_bone(brush: Brush, colour: Colour) -> None:
    tone = mix(colour, (240, 232, 214), 0.8)
    for x in (-1, 1):
        for y in (-0.28, 0.28):
            brush.ellipse(x, y, 0.36, 0.34, tone)
    draw_box(brush, 0, 0, 1, 0.26, tone)


def _draw_bowl(brush: Brush, colour: Colour) -> None:
    brush.polygon([(-1.1, -0.3), (1.1, -0.3), (0.8, 0.6), (-0.8, 0.6)], colour)
    brush.ellipse(0, -0.3, 1.1, 0.28, lighter(colour, 0.4))
    brush.ellipse(0, -0.28, 0.9, 0.2, (120, 80, 56))


def _draw_bunting(brush: Brush, colour: Colour) -> None:
    for step in (-2.0, 0.0, 2.0):
        brush.polygon([(step - 0.8, 0.6), (step, -0.9), (step + 0.8, 0.6)], lighter(colour, 0.15 * abs(step)))


def _draw_cushion(brush: Brush, colour: Colour) -> None:
    corners = [(-1.2, -0.8), (0, -0.9), (1.2, -0.8), (1.25, 0), (1.2, 0.8), (0, 0.9), (-1.2, 0.8), (-1.25, 0)]
    brush.blob(corners, darker(colour, 0.25))
    brush.blob([(x * 0.9, y * 0.88) for x, y in corners], colour)
    brush.ellipse(0, 0, 0.12, 0.12, darker(colour, 0.4))


def _draw_fish(brush: Brush, colour: Colour) -> None:
    brush.ellipse(0, 0, 1, 0.55, colour)
    brush.polygon([(-0.8, 0), (-1.6, -0.6), (-1.6, 0.6)], darker(colour, 0.2))
    brush.ellipse(0.5, -0.12, 0.12, 0.12, (20, 20, 24))


_THINGS = (
    _draw_ball, _draw_yarn, _draw_plant, _draw_cube, _draw_bone, _draw_bowl, _draw_bunting, _draw_cushion, _draw_fish,
)  # fmt: skip


def draw_box(brush: Brush, x: float, y: float, half_width: float, half_height: float, colour: Colour) -> None:
    """Fills a rectangle around (x, y)."""
    left, right, top, bottom = x - half_width, x + half_width, y - half_height, y + half_height
    brush.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)
