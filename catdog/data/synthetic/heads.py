"""Heads, from the front and from the side, in a frame where a head has radius 1."""

from __future__ import annotations

import numpy as np

from catdog.data.synthetic.brush import Brush, Colour, bend, darker, lighter, mix, smooth
from catdog.data.synthetic.kinds import INK, PINK, Look


def draw_head(brush: Brush, look: Look, rng: np.random.Generator) -> None:
    """Draws a head at the origin, from the side or from the front as `look` says."""
    if look.profile and look.muzzle not in ("beak", "koala"):
        _draw_profile(brush, look)
    else:
        _draw_face(brush, look, rng)


def _draw_face(brush: Brush, look: Look, rng: np.random.Generator) -> None:
    """The head from the front, turned a little to one side."""
    width, shift = look.head_width, 0.2 * look.turn
    hanging = look.ears in ("floppy", "long", "flap")
    if not hanging:
        for side in (-1, 1):
            _draw_ear(brush.at(-shift * 0.5, 0, mirror=side < 0), look)
    jaw = 0.9 if look.muzzle in ("dog", "fox", "cow") else 0.82
    head = [(0, -0.86), (0.62 * width, -0.66), (width, -0.02), (0.72 * width, 0.56), (0.2, jaw), (-0.2, jaw)]
    head += [(-0.72 * width, 0.56), (-width, -0.02), (-0.62 * width, -0.66)]
    brush.fur_blob(head, look.fur, look.shade)
    face = brush.at(shift, 0)
    _draw_markings(face, look, rng, width, shift)
    if hanging:
        for side in (-1, 1):
            _draw_ear(brush.at(-shift * 0.5, 0, mirror=side < 0), look)
    for side in (-1, 1):
        spread = 0.42 * (1 - 0.25 * max(0.0, look.turn * side))
        _draw_eye(face.at(side * spread, -0.14, look.eye_size, mirror=side < 0), look)
    _draw_muzzle(face.at(shift * 0.6, 0), look, rng)
    if look.whiskers:
        _draw_whiskers(face, look)


def _draw_markings(face: Brush, look: Look, rng: np.random.Generator, width: float, shift: float) -> None:
    """The markings of the coat on a face whose head is `width` wide and lies `shift` to its left."""
    if look.pattern == "mask":
        face.blob([(0, -0.75), (0.22, -0.2), (0.5, 0.4), (0, 0.78), (-0.5, 0.4), (-0.22, -0.2)], look.second)
    elif look.pattern == "patches":
        face.ellipse(0.4 if rng.random() < 0.5 else -0.4, -0.14, 0.34, 0.38, look.second)
    elif look.pattern == "stripes":
        for x in (-0.22, 0, 0.22):
            face.line([(x * 1.2, -0.74), (x, -0.56), (x * 0.9, -0.4)], 0.08, look.shade)
        for side in (-1, 1):
            for y in (0.12, 0.32):
                face.line([(side * 0.9 * width - shift, y), (side * 0.66 * width, y + 0.04)], 0.08, look.shade)


def _draw_whiskers(face: Brush, look: Look) -> None:
    """Three whiskers on each side, seen from the front."""
    tone = lighter(look.fur, 0.75) if sum(look.fur) < 480 else darker(look.fur, 0.5)
    for side in (-1, 1):
        for slope in (-0.14, 0.02, 0.18):
            start, end = (side * 0.3, 0.38 + slope * 0.4), (side * 1.25, 0.42 + slope * 1.9)
            face.line([start, (side * 0.75, 0.36 + slope), end], 0.035, tone)


def _draw_ear(brush: Brush, look: Look) -> None:
    """The right ear of a head seen from the front; a mirrored brush makes it the left one."""
    size, inner = look.ear_size, mix(look.fur, PINK, 0.6)
    if look.ears in ("pointed", "erect"):
        tall = look.ears == "erect"
        tip = (0.66, -0.75 - 0.85 * size) if tall else (0.82, -0.62 - 0.72 * size)
        for share, colour in ((0.0, look.shade), (0.06, look.fur), (0.3, inner)):
            start, end = (0.16 if not tall else 0.22, -0.66), (0.92, -0.18)
            middle = np.array([0.58, -0.5])
            points = np.concatenate([bend(start, tip, 0.07), bend(tip, end, 0.1 if not tall else 0.14)])
            brush.polygon((points - middle) * (1 - share) + middle, colour)
    elif look.ears == "folded":
        brush.fur_blob([(0.3, -0.75), (0.62, -0.92), (0.95, -0.5), (0.72, -0.34), (0.46, -0.52)], look.fur, look.shade)
    elif look.ears == "semi":
        brush.polygon([(0.25, -0.7), (0.58, -0.72 - 0.5 * size), (0.95, -0.2)], look.shade)
        brush.polygon([(0.32, -0.7), (0.58, -0.68 - 0.46 * size), (0.9, -0.24)], look.fur)
        brush.blob([(0.44, -0.74 - 0.42 * size), (0.7, -0.8 - 0.36 * size), (1.0, -0.72), (0.86, -0.6)], look.shade)
    elif look.ears in ("floppy", "long"):
        drop = (0.42 if look.ears == "floppy" else 0.95) * size
        edge = [
            (0.42, -0.84),
            (0.86, -0.82),
            (1.16, -0.2),
            (1.14, drop),
            (0.9, drop + 0.12),
            (0.78, -0.1),
            (0.62, -0.5),
        ]
        brush.fur_blob(
            edge, look.second if look.pattern in ("patches", "spots") else look.shade, darker(look.shade, 0.35)
        )
    elif look.ears == "upright":
        brush.fur_blob(
            [(0.2, -0.6), (0.24, -1.5 * size), (0.46, -1.95 * size), (0.68, -1.5 * size), (0.56, -0.6)],
            look.fur,
            look.shade,
        )
        brush.blob([(0.32, -0.7), (0.36, -1.4 * size), (0.46, -1.7 * size), (0.56, -1.4 * size), (0.48, -0.7)], inner)
    elif look.ears in ("round", "dish", "side"):
        x, y, r = {"round": (0.72, -0.68, 0.34), "dish": (0.86, -0.74, 0.62), "side": (1.0, -0.42, 0.56)}[look.ears]
        brush.fur_ellipse(x, y, r * size, r * size, look.fur, look.shade)
        brush.ellipse(x, y + 0.02, r * 0.62 * size, r * 0.62 * size, inner)
    elif look.ears == "flap":
        brush.polygon([(0.3, -0.86), (0.98, -1.0), (0.92, -0.3)], look.shade)
        brush.polygon([(0.36, -0.84), (0.93, -0.96), (0.88, -0.4)], look.fur)
    elif look.ears == "horned":
        brush.limb([(0.4, -0.7), (0.72, -0.96), (0.7, -1.3 * size)], 0.22, 0.06, (226, 214, 186))
        brush.fur_blob([(0.7, -0.5), (1.2, -0.62), (1.42, -0.4), (1.1, -0.22), (0.8, -0.26)], look.fur, look.shade)
    elif look.ears == "tufts":
        brush.polygon([(0.3, -0.7), (0.82, -1.2 * size), (0.86, -0.3)], look.shade)


def _draw_eye(brush: Brush, look: Look) -> None:
    """The right eye, of radius 0.2, at the origin."""
    if look.eyes == "closed":
        brush.line([(-0.2, -0.02), (0, 0.08), (0.2, -0.04)], 0.06, INK)
    elif look.eyes == "slit":
        almond = np.concatenate([bend((-0.21, 0.06), (0.24, -0.08), 0.26), bend((0.24, -0.08), (-0.21, 0.06), 0.3)])
        brush.polygon(almond * 1.2, INK)
        brush.polygon(almond, look.iris)
        brush.ellipse(0.01, 0.0, 0.045, 0.15, (16, 12, 14))
        brush.ellipse(-0.06, -0.06, 0.035, 0.035, (255, 255, 255))
    elif look.eyes == "wide":
        brush.ellipse(0, 0, 0.21, 0.21, INK)
        brush.ellipse(0, 0, 0.17, 0.17, look.iris)
        brush.ellipse(0, 0, 0.115, 0.125, (16, 12, 14))
        brush.ellipse(-0.06, -0.07, 0.045, 0.045, (255, 255, 255))
    elif look.eyes == "round":
        brush.ellipse(0, 0, 0.17, 0.17, darker(look.iris, 0.72))
        brush.ellipse(0, 0.0, 0.12, 0.12, (20, 14, 14))
        brush.ellipse(-0.05, -0.06, 0.045, 0.045, (255, 255, 255))
        brush.line([(-0.14, -0.27), (0.02, -0.3), (0.16, -0.22)], 0.045, look.shade)
    elif look.eyes == "dot":
        brush.ellipse(0, 0, 0.11, 0.11, (20, 14, 16))
        brush.ellipse(-0.03, -0.04, 0.035, 0.035, (255, 255, 255))
    elif look.eyes == "ringed":
        brush.ellipse(-0.02, 0, 0.4, 0.4, look.second)
        brush.ellipse(0, 0, 0.25, 0.25, (236, 176, 50))
        brush.ellipse(0, 0, 0.14, 0.14, (16, 12, 14))
        brush.ellipse(-0.05, -0.06, 0.05, 0.05, (255, 255, 255))


def _draw_muzzle(brush: Brush, look: Look, rng: np.random.Generator) -> None:
    """Nose and mouth, seen from the front."""
    pale = look.second if sum(look.second) > sum(look.fur) else lighter(look.fur, 0.35)
    # Drawn for every kind: the number of random draws is part of what an image depends on.
    tongue = rng.random() < 0.45
    if look.muzzle == "dog":
        _draw_dog_muzzle(brush, look, pale, tongue)
    elif look.muzzle in _MUZZLES:
        _MUZZLES[look.muzzle](brush, look, pale)


def _draw_cat_muzzle(brush: Brush, look: Look, pale: Colour) -> None:
    for side in (-1, 1):
        brush.ellipse(side * 0.15, 0.42, 0.21, 0.165, pale)
    brush.ellipse(0, 0.58, 0.14, 0.1, pale)
    brush.blob([(-0.11, 0.22), (0.11, 0.22), (0.0, 0.36)], look.nose)
    brush.line([(-0.2, 0.46), (-0.1, 0.52), (0, 0.42), (0.1, 0.52), (0.2, 0.46)], 0.035, INK)


def _draw_dog_muzzle(brush: Brush, look: Look, pale: Colour, tongue: bool) -> None:
    length = 0.2 + 0.26 * look.snout_length
    if tongue:
        brush.ellipse(0.03, 0.52 + length, 0.13, 0.24, (206, 92, 100))
    low = 0.36 + length
    outline = [(0, 0.06), (0.34, 0.3), (0.36, low), (0, low + 0.14), (-0.36, low), (-0.34, 0.3)]
    brush.fur_blob(outline, pale, mix(pale, look.shade, 0.6))
    brush.blob([(-0.2, 0.2), (0, 0.14), (0.2, 0.2), (0.14, 0.36), (0, 0.42), (-0.14, 0.36)], look.nose)
    brush.ellipse(-0.06, 0.22, 0.06, 0.03, lighter(look.nose, 0.5))
    brush.line([(0, 0.4), (0, 0.3 + length)], 0.04, INK)
    lips = [(-0.26, low - 0.1), (-0.1, low + 0.02), (0, low - 0.06), (0.1, low + 0.02), (0.26, low - 0.1)]
    brush.line(lips, 0.045, INK)


def _draw_fox_muzzle(brush: Brush, _look: Look, pale: Colour) -> None:
    brush.blob(
        [(0, 0.1), (0.5, 0.3), (0.86, 0.2), (0.4, 0.66), (0, 1.02), (-0.4, 0.66), (-0.86, 0.2), (-0.5, 0.3)],
        lighter(pale, 0.5),
    )
    brush.ellipse(0, 0.84, 0.14, 0.11, INK)


def _draw_bear_muzzle(brush: Brush, _look: Look, pale: Colour) -> None:
    brush.ellipse(0, 0.42, 0.42, 0.34, pale)
    brush.ellipse(0, 0.28, 0.19, 0.13, INK)
    brush.line([(0, 0.4), (0, 0.54)], 0.04, INK)
    brush.line([(-0.16, 0.58), (0, 0.54), (0.16, 0.58)], 0.04, INK)


def _draw_koala_muzzle(brush: Brush, _look: Look, _pale: Colour) -> None:
    brush.fur_ellipse(0, 0.24, 0.22, 0.36, INK, (16, 12, 14))
    brush.line([(-0.2, 0.66), (0, 0.72), (0.2, 0.66)], 0.04, INK)


def _draw_pig_muzzle(brush: Brush, look: Look, _pale: Colour) -> None:
    snout = mix(look.fur, PINK, 0.7)
    brush.fur_ellipse(0, 0.36, 0.42, 0.3, snout, darker(snout, 0.3))
    for side in (-1, 1):
        brush.ellipse(side * 0.15, 0.36, 0.07, 0.11, darker(snout, 0.6))


def _draw_cow_muzzle(brush: Brush, look: Look, _pale: Colour) -> None:
    snout = mix(look.fur, PINK, 0.55)
    brush.fur_blob([(-0.56, 0.3), (0.56, 0.3), (0.66, 0.72), (0, 0.98), (-0.66, 0.72)], snout, darker(snout, 0.3))
    for side in (-1, 1):
        brush.ellipse(side * 0.28, 0.5, 0.1, 0.08, darker(snout, 0.6))


def _draw_rabbit_muzzle(brush: Brush, _look: Look, pale: Colour) -> None:
    for side in (-1, 1):
        brush.ellipse(side * 0.13, 0.42, 0.17, 0.14, pale)
    brush.ellipse(0, 0.3, 0.09, 0.07, PINK)
    brush.polygon([(-0.08, 0.52), (0.08, 0.52), (0.08, 0.7), (-0.08, 0.7)], (250, 250, 244))
    brush.line([(0, 0.36), (0, 0.68)], 0.025, INK)


def _draw_beak_muzzle(brush: Brush, _look: Look, _pale: Colour) -> None:
    brush.blob([(-0.14, 0.06), (0.14, 0.06), (0.0, 0.52)], (230, 160, 60))


_MUZZLES = {
    "cat": _draw_cat_muzzle,
    "fox": _draw_fox_muzzle,
    "bear": _draw_bear_muzzle,
    "koala": _draw_koala_muzzle,
    "pig": _draw_pig_muzzle,
    "cow": _draw_cow_muzzle,
    "rabbit": _draw_rabbit_muzzle,
    "mouse": _draw_rabbit_muzzle,
    "beak": _draw_beak_muzzle,
}


def _draw_profile(brush: Brush, look: Look) -> None:
    """The head from the side, looking to the right."""
    hanging = look.ears in ("floppy", "long", "flap", "horned")
    if not hanging:
        _draw_side_ear(brush.at(0.16, 0.02), look, far=True)
    length, blunt = look.snout_length, {"dog": 0.44, "cat": 0.4, "bear": 0.44, "pig": 0.56, "cow": 0.62, "fox": 0.2}
    tip = blunt.get(look.muzzle, 0.24)
    brush.fur_ellipse(0, 0, 0.86, 0.82, look.fur, look.shade)
    end = (0.42 + length, 0.34)
    pale = look.second if look.pattern in ("mask", "socks") else mix(look.fur, look.shade, 0.15)
    brush.limb([(0.3, 0.24), end], 0.86, tip, look.shade)
    brush.limb([(0.3, 0.2), (end[0] - 0.02, end[1] - 0.03)], 0.8, tip - 0.06, pale)
    if look.pattern == "patches":
        brush.ellipse(0.22, -0.16, 0.32, 0.34, look.second)
    nose = (end[0] + tip * 0.34, end[1] - tip * 0.3)
    if look.muzzle == "pig":
        brush.ellipse(nose[0], end[1], 0.1, 0.28, PINK)
    else:
        small = 0.1 if look.muzzle in ("cat", "rabbit", "mouse") else 0.15
        brush.ellipse(*nose, small, small * 0.85, look.nose)
    brush.line([(nose[0], end[1] + 0.1), (end[0] - length * 0.4, end[1] + tip * 0.38), (0.42, 0.5)], 0.045, INK)
    _draw_eye(brush.at(0.38, -0.2, look.eye_size * 0.95), look)
    _draw_side_ear(brush.at(-0.14, 0), look, far=False)
    if look.whiskers:
        tone = lighter(look.fur, 0.75) if sum(look.fur) < 480 else darker(look.fur, 0.5)
        for slope in (-0.1, 0.1, 0.3):
            brush.line(
                [(end[0] - 0.1, 0.36), (end[0] - 0.4, 0.4 + slope), (end[0] - 0.8, 0.36 + slope * 2)], 0.035, tone
            )


def _draw_side_ear(brush: Brush, look: Look, *, far: bool) -> None:
    """An ear on top of a head seen from the side."""
    size = look.ear_size
    fur, rim = (look.shade, darker(look.shade, 0.2)) if far else (look.fur, look.shade)
    inner = mix(look.fur, PINK, 0.5)
    if look.ears in ("pointed", "erect"):
        height = (0.62 if look.ears == "pointed" else 0.85) * size
        for share, colour in ((0.0, rim), (0.08, fur), (0.4, fur if far else inner)):
            points = np.concatenate(
                [bend((-0.4, -0.5), (-0.12, -0.68 - height), 0.12), bend((-0.12, -0.68 - height), (0.28, -0.6), 0.06)]
            )
            middle = np.array([-0.08, -0.62])
            brush.polygon((points - middle) * (1 - share) + middle, colour)
    elif look.ears in ("folded", "semi"):
        up = 0.1 if look.ears == "folded" else 0.36 * size
        brush.polygon([(-0.36, -0.55), (-0.1, -0.8 - up), (0.26, -0.62)], rim)
        brush.blob([(-0.2, -0.8 - up), (0.06, -0.86 - up), (0.34, -0.56), (0.18, -0.48)], fur)
    elif look.ears in ("floppy", "long"):
        drop = (0.3 if look.ears == "floppy" else 0.75) * size
        colour = look.second if look.pattern in ("patches", "spots") else look.shade
        brush.fur_blob(
            [(-0.3, -0.7), (0.1, -0.66), (0.14, -0.1), (0.0, drop), (-0.3, drop + 0.06), (-0.42, -0.1)],
            colour,
            darker(look.shade, 0.4),
        )
    elif look.ears == "upright":
        brush.fur_blob(
            [(-0.2, -0.5), (-0.56, -1.3 * size), (-0.46, -1.8 * size), (-0.2, -1.4 * size), (0.16, -0.6)], fur, rim
        )
    elif look.ears in ("round", "dish", "side"):
        r = {"round": 0.3, "dish": 0.52, "side": 0.5}[look.ears] * size
        brush.fur_ellipse(-0.12, -0.62 - r * 0.5, r, r, fur, rim)
        brush.ellipse(-0.1, -0.6 - r * 0.5, r * 0.6, r * 0.6, inner)
    elif look.ears in ("flap", "horned"):
        if look.ears == "horned":
            brush.limb([(0.1, -0.7), (0.3, -1.0), (0.2, -1.3 * size)], 0.22, 0.06, (226, 214, 186))
        brush.polygon(smooth([(-0.3, -0.6), (0.2, -0.8), (0.3, -0.3)], closed=True), rim)
