"""Bodies: the poses, coats and tails."""

from __future__ import annotations

import numpy as np

from catdog.data.synthetic.brush import Brush, darker, mix
from catdog.data.synthetic.heads import draw_head
from catdog.data.synthetic.kinds import KINDS, PINK, Look, choose, draw_look

_HEXAGON = [(np.cos(a), np.sin(a)) for a in np.arange(6) * np.pi / 3]


def draw(brush: Brush, kind: str, rng: np.random.Generator) -> None:
    """Draws one animal into the frame's square from -1 to 1, looking to the right."""
    traits = KINDS[kind]
    look = draw_look(traits, rng)
    if rng.random() < 0.45:
        brush = brush.fluffed(rng.uniform(0.02, 0.05), rng.uniform(0.4, 1.0, 61))
    pose = choose(traits.poses, rng)
    _POSES[pose](brush, look, rng)


def _draw_head_only(brush: Brush, look: Look, rng: np.random.Generator) -> None:
    chest = rng.uniform(0.45, 0.7)
    brush.fur_blob([(-chest, 1.25), (-0.42, 0.4), (0.42, 0.4), (chest, 1.25)], look.shade, darker(look.shade, 0.25))
    if look.collar:
        brush.limb([(-0.42, 0.56), (0, 0.68), (0.42, 0.56)], 0.12, 0.12, look.collar)
    draw_head(brush.at(0, 0.05, 0.7, rng.uniform(-0.32, 0.32)), look, rng)


def _draw_sitting(brush: Brush, look: Look, rng: np.random.Generator) -> None:
    width = rng.uniform(0.36, 0.46)
    _draw_tail(brush.at(-width * 0.7, 0.78, 0.8, rng.uniform(-0.2, 0.5)), look)
    body = [(0.0, -0.2), (width * 0.7, 0.1), (width * 1.1, 0.62), (width * 0.8, 0.95), (-width * 0.8, 0.95)]
    body += [(-width * 1.1, 0.62), (-width * 0.7, 0.1)]
    brush.fur_blob(body, look.fur, look.shade)
    for side in (-1, 1):
        brush.fur_ellipse(side * width * 0.85, 0.78, 0.22, 0.2, look.fur, look.shade)
    _draw_coat(brush.at(0, 0.45, 0.34), look, rng)
    paw = look.second if look.pattern in ("socks", "mask", "patches") else look.fur
    lift = rng.uniform(0, 0.25) if rng.random() < 0.2 else 0.0
    for side in (-1, 1):
        x, end = side * 0.14, 0.9 - (lift if side > 0 else 0)
        brush.limb([(x, 0.35), (x + side * 0.02, (end + 0.35) / 2), (x, end)], 0.22, 0.17, darker(look.shade, 0.15))
        brush.limb([(x, 0.34), (x + side * 0.02, (end + 0.33) / 2), (x, end - 0.02)], 0.18, 0.13, look.fur)
        brush.ellipse(x + 0.01, end + 0.02, 0.12, 0.085, look.shade)
        brush.ellipse(x, end + 0.005, 0.11, 0.075, paw)
    if look.collar:
        brush.limb([(-0.24, 0.06), (0, 0.14), (0.24, 0.06)], 0.1, 0.1, look.collar)
        brush.ellipse(0, 0.2, 0.05, 0.05, (236, 200, 90))
    draw_head(brush.at(rng.uniform(-0.08, 0.08), -0.34, 0.54, rng.uniform(-0.32, 0.32)), look, rng)


def _draw_standing(brush: Brush, look: Look, rng: np.random.Generator) -> None:
    # Longer than wide, with the head in front: moved back and made smaller, it stays in the frame.
    brush = brush.at(-0.16, 0.06, 0.88)
    leg, depth = look.leg_length, rng.uniform(0.25, 0.33)
    floor = 0.92
    y = floor - leg - depth * 0.6
    stride = rng.uniform(-0.18, 0.18)
    far = darker(look.shade, 0.15)
    _draw_tail(brush.at(-0.62, y - 0.08, 0.8, rng.uniform(-0.3, 0.2)), look)
    for x, swing in ((-0.5, stride), (0.4, -stride)):
        brush.limb([(x, y), (x + swing * 0.3, y + leg * 0.7), (x + swing, floor - 0.04)], 0.24, 0.12, far)
    body = [(-0.7, y), (-0.5, y - depth), (0.1, y - depth * 0.85), (0.5, y - depth), (0.68, y - 0.05)]
    body += [(0.5, y + depth * 0.9), (0.0, y + depth * 0.75), (-0.5, y + depth * 0.85)]
    brush.fur_blob(body, look.fur, look.shade)
    paw = look.second if look.pattern in ("socks", "mask", "patches") else look.fur
    for x, swing in ((-0.44, -stride), (0.48, stride)):
        knee = (x + swing * 0.3, y + leg * 0.7)
        brush.limb([(x, y + 0.05), knee, (x + swing, floor - 0.04)], 0.27, 0.14, look.shade)
        brush.limb(
            [(x - 0.01, y + 0.03), (knee[0] - 0.01, knee[1]), (x + swing - 0.01, floor - 0.06)], 0.23, 0.1, look.fur
        )
        brush.ellipse(x + swing + 0.05, floor - 0.03, 0.11, 0.065, paw)
    _draw_coat(brush.at(-0.05, y - 0.02, 0.42), look, rng)
    lift = rng.uniform(0.2, 0.42)
    neck = (0.66, y - lift * 0.9)
    brush.limb([(0.46, y - 0.05), neck], 0.46, 0.36, look.fur)
    if look.collar:
        brush.limb([(0.42, y - 0.3), (0.6, y - 0.12), (0.76, y - 0.14)], 0.09, 0.09, look.collar)
    draw_head(brush.at(neck[0] + 0.04, neck[1] - 0.12, 0.47, rng.uniform(-0.2, 0.2)), look, rng)


def _draw_lying(brush: Brush, look: Look, rng: np.random.Generator) -> None:
    height = rng.uniform(0.34, 0.44)
    y = 0.9 - height
    _draw_tail(brush.at(-0.66, 0.72, 0.75, rng.uniform(-0.9, -0.2)), look)
    body = [(-0.82, 0.62), (-0.55, y - height * 0.55), (0.1, y - height * 0.4), (0.55, y - 0.12), (0.62, 0.86)]
    brush.fur_blob([*body, (-0.7, 0.9)], look.fur, look.shade)
    brush.fur_ellipse(-0.48, 0.68, 0.3, 0.24, look.fur, look.shade)
    _draw_coat(brush.at(-0.15, y - 0.02, 0.36), look, rng)
    paw = look.second if look.pattern in ("socks", "mask", "patches") else look.fur
    for x in (0.42, 0.54):
        brush.limb([(x, 0.72), (x + 0.34, 0.86)], 0.2, 0.15, look.shade)
        brush.limb([(x, 0.71), (x + 0.33, 0.845)], 0.16, 0.12, paw)
    brush.ellipse(-0.2, 0.88, 0.2, 0.07, paw)
    if look.collar:
        brush.limb([(0.2, y + 0.06), (0.42, y + 0.2), (0.64, y + 0.08)], 0.1, 0.1, look.collar)
    draw_head(brush.at(0.42, y - 0.2, 0.54, rng.uniform(-0.32, 0.32)), look, rng)


def _draw_perched(brush: Brush, look: Look, rng: np.random.Generator) -> None:
    brush.limb([(-1.1, 0.9), (0, 0.86), (1.1, 0.92)], 0.12, 0.1, (110, 78, 52))
    brush.fur_ellipse(0, 0.3, 0.5, 0.62, look.fur, look.shade)
    brush.ellipse(0, 0.38, 0.33, 0.46, look.second)
    for row in range(3):
        for column in range(-1, 2):
            brush.line([(column * 0.2 - 0.06, 0.2 + row * 0.17), (column * 0.2, 0.26 + row * 0.17),
                        (column * 0.2 + 0.06, 0.2 + row * 0.17)], 0.03, look.shade)  # fmt: skip
    for side in (-1, 1):
        wing = brush.at(0, 0, mirror=side < 0)
        wing.fur_blob([(0.38, -0.1), (0.56, 0.3), (0.44, 0.86), (0.3, 0.4)], look.shade, darker(look.shade, 0.3))
        brush.ellipse(side * 0.16, 0.9, 0.1, 0.05, (226, 160, 60))
    draw_head(brush.at(0, -0.34, 0.5, rng.uniform(-0.2, 0.2)), look, rng)


_POSES = {
    "head": _draw_head_only,
    "sitting": _draw_sitting,
    "standing": _draw_standing,
    "lying": _draw_lying,
    "perched": _draw_perched,
}


def _draw_coat(brush: Brush, look: Look, rng: np.random.Generator) -> None:
    """Stripes, spots or patches inside the unit circle."""
    if look.pattern == "stripes":
        for x in np.linspace(-0.9, 0.9, rng.integers(4, 7)):
            top, bottom = -0.75 + 0.25 * abs(x), rng.uniform(-0.1, 0.4)
            brush.line([(x, top), (x + 0.08, (top + bottom) / 2), (x, bottom)], 0.11, look.shade)
    elif look.pattern == "spots":
        for _ in range(rng.integers(5, 10)):
            x, y = rng.uniform(-0.9, 0.9), rng.uniform(-0.55, 0.45)
            brush.ellipse(x, y, rng.uniform(0.06, 0.13), rng.uniform(0.06, 0.13), look.second)
    elif look.pattern == "patches":
        for _ in range(rng.integers(1, 4)):
            x, y, r = rng.uniform(-0.6, 0.6), rng.uniform(-0.4, 0.25), rng.uniform(0.2, 0.36)
            points = [
                (x + r * c * f, y + r * s * f) for (c, s), f in zip(_HEXAGON, rng.uniform(0.7, 1.2, 6), strict=True)
            ]
            brush.blob(points, look.second)
    elif look.pattern in ("mask", "socks"):
        brush.ellipse(0, 0.25, 0.36, 0.5, look.second)


def _draw_tail(brush: Brush, look: Look) -> None:
    """A tail that starts at the origin and leaves to the left."""
    dark = darker(look.shade, 0.1)
    if look.tail == "long":
        points = [(0.1, 0.05), (-0.3, 0.02), (-0.46, -0.3), (-0.36, -0.66), (-0.5, -0.9)]
        brush.limb(points, 0.16, 0.11, dark)
        brush.limb(points, 0.12, 0.07, look.fur)
        if look.pattern in ("stripes", "socks", "mask"):
            brush.limb(points[-2:], 0.1, 0.1, look.second if look.pattern != "stripes" else dark)
    elif look.tail == "bushy":
        brush.fur_blob(
            [(0.05, 0.0), (-0.3, 0.12), (-0.72, -0.2), (-0.74, -0.62), (-0.44, -0.42), (-0.2, -0.14)], look.fur, dark
        )
        brush.fur_blob([(-0.62, -0.34), (-0.74, -0.32), (-0.76, -0.64), (-0.56, -0.48)], look.second, look.second)
    elif look.tail == "wag":
        brush.limb([(0.1, 0.05), (-0.16, -0.16), (-0.26, -0.5)], 0.19, 0.08, dark)
        brush.limb([(0.1, 0.05), (-0.16, -0.17), (-0.26, -0.49)], 0.14, 0.05, look.fur)
    elif look.tail == "curl":
        points = [(0.05, 0.02), (-0.2, -0.18), (-0.14, -0.44), (0.08, -0.42), (0.08, -0.26)]
        brush.limb(points, 0.2, 0.14, dark)
        brush.limb(points, 0.15, 0.1, look.fur)
    elif look.tail == "stub":
        brush.limb([(0.08, 0.03), (-0.12, -0.1)], 0.17, 0.12, dark)
    elif look.tail == "puff":
        brush.fur_ellipse(-0.1, 0.0, 0.18, 0.16, look.second, dark)
    elif look.tail == "string":
        brush.limb([(0.1, 0.05), (-0.3, 0.15), (-0.5, -0.1), (-0.8, -0.05)], 0.06, 0.03, mix(look.fur, PINK, 0.6))
    elif look.tail == "corkscrew":
        brush.line([(0.05, 0), (-0.15, -0.05), (-0.2, -0.2), (-0.08, -0.2), (-0.12, -0.06), (-0.32, -0.12)], 0.06, dark)
