"""A brush: shapes in a local frame, drawn on a canvas of a higher resolution than the picture."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

Colour: TypeAlias = tuple[int, int, int]
Points: TypeAlias = "list[tuple[float, float]] | np.ndarray"

_CURVE_STEPS = 6
_CIRCLE = np.array([(np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, 28, endpoint=False)])


def _catmull_rom_basis() -> np.ndarray:
    """Weights of four neighbouring control points at each step: float64 (steps, 4)."""
    t = np.linspace(0, 1, _CURVE_STEPS, endpoint=False)
    return np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], 1) / 2


_BASIS = _catmull_rom_basis()


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour that is `share` (0 to 1) of the way from `first` to `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def darker(colour: Colour, share: float) -> Colour:
    """`colour` mixed with a warm near-black, which looks less dead than black."""
    return mix(colour, (24, 16, 20), share)


def lighter(colour: Colour, share: float) -> Colour:
    """`colour` mixed with a warm white."""
    return mix(colour, (255, 250, 242), share)


def smooth(points: Points, *, closed: bool) -> np.ndarray:
    """A Catmull-Rom curve through the points: float64 (N, 2)."""
    knots = np.asarray(points, float)
    ahead = np.roll(knots, -1, 0), np.roll(knots, -2, 0)
    behind = np.roll(knots, 1, 0)
    if not closed:
        behind[0], ahead[0][-1], ahead[1][-1], ahead[1][-2] = knots[0], knots[-1], knots[-1], knots[-1]
    windows = np.stack([behind, knots, *ahead])
    curve = np.einsum("sw,wkd->ksd", _BASIS, windows).reshape(-1, 2)
    return curve if closed else np.concatenate([curve[: (len(knots) - 1) * _CURVE_STEPS], knots[-1:]])


def bend(start: tuple[float, float], end: tuple[float, float], bulge: float) -> np.ndarray:
    """A bow from start to end, whose middle is `bulge` lengths to the left of the chord: float64 (8, 2)."""
    a, b = np.array(start), np.array(end)
    along = b - a
    control = (a + b) / 2 + 2 * bulge * np.array([along[1], -along[0]])
    t = np.linspace(0, 1, 8)[:, None]
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * control + t**2 * b


class Brush:
    """Draws shapes given in a local frame (y points down) on an image.

    Args:
        image: The canvas, RGB.
        matrix: float64 (2, 2), local directions to canvas pixels.
        origin: float64 (2,), where the local origin lies on the canvas, pixels.
        fluff: Height of the tufts on furry outlines, local units; 0 draws them smooth.
        jitter: float64 (N,) in [0, 1], how the tufts differ; drawn once, so that a shape and its shade agree.
    """

    def __init__(
        self,
        image: Image.Image,
        matrix: np.ndarray,
        origin: np.ndarray,
        fluff: float = 0.0,
        jitter: np.ndarray | None = None,
    ) -> None:
        self.image = image
        self._ink = ImageDraw.Draw(image)
        self._matrix = matrix
        self._origin = origin
        self._unit = float(np.sqrt(abs(np.linalg.det(matrix))))
        self._fluff = fluff
        self._jitter = np.ones(1) if jitter is None else jitter

    def at(self, x: float, y: float, scale: float = 1.0, tilt: float = 0.0, mirror: bool = False) -> Brush:
        """A brush whose frame sits at (x, y) of this one, scaled, turned clockwise by `tilt` radians, then mirrored."""
        cos, sin = np.cos(tilt) * scale, np.sin(tilt) * scale
        turn = np.array([[cos, -sin], [sin, cos]])
        if mirror:
            turn[:, 0] *= -1
        origin = self._matrix @ np.array([x, y]) + self._origin
        return Brush(self.image, self._matrix @ turn, origin, self._fluff, self._jitter)

    def fluffed(self, fluff: float, jitter: np.ndarray) -> Brush:
        """The same brush, whose furry outlines have tufts."""
        return Brush(self.image, self._matrix, self._origin, fluff, jitter)

    def polygon(self, points: Points, colour: Colour) -> None:
        """Fills the polygon."""
        if len(points) >= 2:
            self._ink.polygon((np.asarray(points) @ self._matrix.T + self._origin).ravel().tolist(), fill=colour)

    def blob(self, points: Points, colour: Colour) -> None:
        """Fills the smooth closed curve through the points."""
        self.polygon(smooth(points, closed=True), colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour, tilt: float = 0.0) -> None:
        """Fills an ellipse with radii rx and ry, turned clockwise by `tilt` radians."""
        self.polygon(_ellipse(x, y, rx, ry, tilt), colour)

    def fur(self, outline: Points, colour: Colour, shade: Colour) -> None:
        """Fills an outline, tufted where the coat is fluffy, with a shaded rim below and behind."""
        outline = np.asarray(outline, float)
        middle = (outline.min(0) + outline.max(0)) / 2
        if self._fluff:
            outline = self._tufted(outline, middle)
        self.polygon(outline, shade)
        self.polygon((outline - middle) * 0.92 + middle + (outline.max(0) - middle) * (-0.03, -0.05), colour)

    def fur_blob(self, points: Points, colour: Colour, shade: Colour) -> None:
        """As `fur`, for the smooth closed curve through the points."""
        self.fur(smooth(points, closed=True), colour, shade)

    def fur_ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, shade: Colour, tilt: float = 0.0
    ) -> None:
        """As `fur`, for an ellipse."""
        self.fur(_ellipse(x, y, rx, ry, tilt), colour, shade)

    def limb(self, points: Points, start_width: float, end_width: float, colour: Colour) -> None:
        """Fills a tapering band with round ends along the smooth curve through the points."""
        spine = smooth(points, closed=False)
        step = np.gradient(spine, axis=0)
        normal = np.stack([-step[:, 1], step[:, 0]], 1) / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9)
        half = np.linspace(start_width, end_width, len(spine))[:, None] / 2
        self.polygon(np.concatenate([spine + normal * half, (spine - normal * half)[::-1]]), colour)
        for (x, y), width in ((spine[0], start_width), (spine[-1], end_width)):
            self.polygon(_CIRCLE * (width / 2) + (x, y), colour)

    def line(self, points: Points, width: float, colour: Colour) -> None:
        """Draws the smooth open curve through the points, at least one canvas pixel wide."""
        path = smooth(points, closed=False) @ self._matrix.T + self._origin
        self._ink.line(path.ravel().tolist(), fill=colour, width=max(1, round(width * self._unit)))

    def _tufted(self, outline: np.ndarray, middle: np.ndarray) -> np.ndarray:
        """The outline with every second point moved outwards."""
        outward = outline - middle
        outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-9)
        height = np.resize(self._jitter, len(outline)) * self._fluff
        height[::2] *= -0.3
        return outline + outward * height[:, None]


def _ellipse(x: float, y: float, rx: float, ry: float, tilt: float) -> np.ndarray:
    points = _CIRCLE * (rx, ry)
    if tilt:
        cos, sin = np.cos(tilt), np.sin(tilt)
        points = points @ np.array([[cos, sin], [-sin, cos]])
    return points + np.array([x, y])
