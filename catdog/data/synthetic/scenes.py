"""Scenes: the place behind the animal."""

from __future__ import annotations

import numpy as np
from PIL import Image

from catdog.data.synthetic.brush import Brush, Colour, darker, lighter, mix
from catdog.data.synthetic.palette import FLOORS, GROUNDS, SKIES, TOYS, WALLS, pick
from catdog.data.synthetic.things import draw_box


def draw_background(width: int, height: int, rng: np.random.Generator) -> tuple[Image.Image, Brush]:
    """A canvas with a place on it, and a brush whose frame is the canvas: x in [0, width / height], y in [0, 1].

    Args:
        width: Canvas pixels.
        height: Canvas pixels.
        rng: Source of every choice.
    """
    place = rng.random()
    if place < 0.42:
        return _draw_outdoors(width, height, rng)
    if place < 0.84:
        return _draw_indoors(width, height, rng)
    return _draw_backdrop(width, height, rng)


def _gradient(corners: list[Colour], width: int, height: int) -> Image.Image:
    """A smooth blend of four corner colours."""
    grid = np.array(corners, np.uint8).reshape(2, 2, 3)
    return Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR, box=(0.5, 0.5, 1.5, 1.5))


def _brush_on(image: Image.Image) -> Brush:
    return Brush(image, np.eye(2) * image.height, np.zeros(2))


def _draw_outdoors(width: int, height: int, rng: np.random.Generator) -> tuple[Image.Image, Brush]:
    top, bottom = SKIES[rng.integers(len(SKIES))]
    image = _gradient([top, mix(top, bottom, 0.2), bottom, bottom], width, height)
    brush, right = _brush_on(image), width / height
    horizon = rng.uniform(0.3, 0.7)
    ground = pick(GROUNDS, rng)
    if rng.random() < 0.3:
        x, y = rng.uniform(0, right), rng.uniform(0.05, horizon * 0.7)
        brush.ellipse(x, y, 0.07, 0.07, (255, 244, 200))
    for _ in range(rng.integers(0, 3)):
        x, y, r = rng.uniform(0, right), rng.uniform(0, horizon * 0.6), rng.uniform(0.04, 0.09)
        for step in (-1.1, 0, 1.1):
            brush.ellipse(x + step * r, y, r * 1.1, r * (0.9 if step else 1.2), lighter(bottom, 0.6))
    for _ in range(rng.integers(0, 4)):
        x, r = rng.uniform(0, right), rng.uniform(0.15, 0.5)
        hill = mix(darker(ground, rng.uniform(0, 0.3)), bottom, 0.4)
        if rng.random() < 0.3:
            brush.polygon([(x - r, horizon), (x, horizon - r * 0.7), (x + r, horizon)], hill)
        else:
            brush.ellipse(x, horizon, r, r * 0.5, hill)
    brush.polygon([(0, horizon), (right, horizon), (right, 1), (0, 1)], ground)
    _draw_trees(brush, right, horizon, rng)
    if rng.random() < 0.3:
        _draw_fence(brush, right, horizon + 0.04, rng)
    _draw_grass(brush, right, horizon, ground, int(rng.integers(15, 60)), rng)
    return image, brush


def _draw_trees(brush: Brush, right: float, horizon: float, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(0, 4)):
        x, size, base = rng.uniform(0, right), rng.uniform(0.12, 0.3), horizon + rng.uniform(0, 0.1)
        leaves = darker(pick(GROUNDS[:3], rng), 0.2)
        brush.limb([(x, base), (x, base - size)], size * 0.2, size * 0.14, (104, 76, 56))
        if rng.random() < 0.5:
            for level in (0.3, 0.7, 1.1):
                half = size * (0.62 - level * 0.3)
                brush.polygon(
                    [
                        (x - half, base - size * level),
                        (x, base - size * (level + 0.7)),
                        (x + half, base - size * level),
                    ],
                    leaves,
                )
        else:
            brush.ellipse(x, base - size * 1.2, size * 0.5, size * 0.55, leaves)
            brush.ellipse(x - size * 0.1, base - size * 1.3, size * 0.3, size * 0.3, lighter(leaves, 0.15))


def _draw_fence(brush: Brush, right: float, base: float, rng: np.random.Generator) -> None:
    wood, height, step = (
        pick(((236, 232, 224), (150, 110, 80), (120, 120, 124)), rng),
        rng.uniform(0.12, 0.25),
        rng.uniform(0.07, 0.13),
    )
    for y in (0.3, 0.7):
        brush.polygon(
            [
                (0, base - height * y),
                (right, base - height * y),
                (right, base - height * y + 0.02),
                (0, base - height * y + 0.02),
            ],
            darker(wood, 0.15),
        )
    x = rng.uniform(-step, 0)
    while x < right:
        half = step * 0.3
        brush.polygon(
            [
                (x - half, base),
                (x - half, base - height),
                (x, base - height * 1.15),
                (x + half, base - height),
                (x + half, base),
            ],
            wood,
        )
        x += step


def _draw_grass(
    brush: Brush, right: float, horizon: float, ground: Colour, count: int, rng: np.random.Generator
) -> None:
    tones = (darker(ground, 0.2), lighter(ground, 0.2), darker(ground, 0.1))
    for x, y, lean, tone in rng.random((count, 4)):
        root = (x * right, horizon + 0.02 + y * (1 - horizon))
        brush.line([root, (root[0] + (lean - 0.5) * 0.06, root[1] - 0.02 - 0.05 * y)], 0.008, tones[int(tone * 3)])


def _draw_indoors(width: int, height: int, rng: np.random.Generator) -> tuple[Image.Image, Brush]:
    wall, floor = pick(WALLS, rng), pick(FLOORS, rng)
    image = _gradient([lighter(wall, 0.2), wall, darker(wall, 0.12), darker(wall, 0.2)], width, height)
    brush, right = _brush_on(image), width / height
    edge = rng.uniform(0.5, 0.8)
    paper = rng.random()
    tone = mix(wall, pick(TOYS, rng), 0.25)
    if paper < 0.25:
        for x in np.arange(rng.uniform(0, 0.1), right, rng.uniform(0.1, 0.25)):
            brush.polygon([(x, 0), (x + 0.05, 0), (x + 0.05, edge), (x, edge)], tone)
    elif paper < 0.45:
        step = rng.uniform(0.12, 0.22)
        for row, y in enumerate(np.arange(0.05, edge, step)):
            for x in np.arange(step / 2 * (row % 2), right, step):
                brush.ellipse(x, y, step * 0.16, step * 0.16, tone)
    if rng.random() < 0.35:
        _draw_window(brush, right, edge, rng)
    if rng.random() < 0.4:
        x, y, w, h = rng.uniform(0, right), rng.uniform(0.08, 0.3), rng.uniform(0.08, 0.16), rng.uniform(0.08, 0.16)
        draw_box(brush, x, y, w, h, (90, 66, 50))
        draw_box(brush, x, y, w * 0.8, h * 0.8, pick(TOYS, rng))
    brush.polygon([(0, edge), (right, edge), (right, 1), (0, 1)], floor)
    for x in np.arange(rng.uniform(-0.6, -0.3), right + 0.4, rng.uniform(0.14, 0.3)):
        brush.line([(x, edge), (right / 2 + (x - right / 2) * 1.8, 1)], 0.006, darker(floor, 0.2))
    brush.polygon([(0, edge - 0.025), (right, edge - 0.025), (right, edge), (0, edge)], lighter(wall, 0.4))
    if rng.random() < 0.35:
        brush.ellipse(
            rng.uniform(0.2, 0.8) * right, rng.uniform(edge + 0.05, 0.98), rng.uniform(0.3, 0.6), 0.12, pick(TOYS, rng)
        )
    if rng.random() < 0.35:
        _draw_sofa(brush, rng.uniform(0, right), edge, rng)
    return image, brush


def _draw_window(brush: Brush, right: float, edge: float, rng: np.random.Generator) -> None:
    x, y, w, h = rng.uniform(0, right), edge * 0.4, rng.uniform(0.12, 0.22), edge * 0.32
    draw_box(brush, x, y, w + 0.02, h + 0.02, (244, 240, 232))
    draw_box(brush, x, y, w, h, SKIES[rng.integers(len(SKIES))][0])
    draw_box(brush, x, y, 0.01, h, (244, 240, 232))
    draw_box(brush, x, y, w, 0.01, (244, 240, 232))


def _draw_sofa(brush: Brush, x: float, edge: float, rng: np.random.Generator) -> None:
    cloth = pick(TOYS, rng)
    cloth = mix(cloth, (120, 112, 110), rng.uniform(0.2, 0.7))
    w = rng.uniform(0.3, 0.55)
    brush.blob(
        [(x - w, edge - 0.3), (x, edge - 0.34), (x + w, edge - 0.3), (x + w, edge + 0.1), (x - w, edge + 0.1)],
        darker(cloth, 0.2),
    )
    draw_box(brush, x, edge + 0.04, w, 0.1, cloth)
    for side in (-1, 1):
        brush.limb([(x + side * w, edge - 0.1), (x + side * w, edge + 0.14)], 0.13, 0.13, darker(cloth, 0.1))


def _draw_backdrop(width: int, height: int, rng: np.random.Generator) -> tuple[Image.Image, Brush]:
    """A studio: a gradient, or a cloth of soft blotches."""
    if rng.random() < 0.5:
        base = pick(WALLS + TOYS, rng)
        image = _gradient([lighter(base, 0.3), base, base, darker(base, 0.3)], width, height)
    else:
        cloth = np.array(pick(WALLS + FLOORS, rng), float)
        side = int(rng.integers(4, 12))
        blotches = cloth + rng.normal(0, 22, (side, side, 1)) + rng.normal(0, 8, (side, side, 3))
        image = Image.fromarray(np.clip(blotches, 0, 255).astype(np.uint8))
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image, _brush_on(image)
