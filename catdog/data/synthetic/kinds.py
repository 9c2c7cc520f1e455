"""Kinds: what an animal of each kind may look like.

A kind is a set of shapes with probabilities, never a colour: coats are drawn from one palette for all kinds, so that a
classifier has to look at ears, muzzle, eyes, whiskers and tail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from catdog.data.synthetic.brush import Colour, darker, lighter, mix

_COATS: tuple[Colour, ...] = (
    (46, 42, 46), (78, 74, 78), (122, 122, 128), (168, 166, 168), (236, 230, 222), (238, 216, 178), (214, 168, 108),
    (218, 138, 70), (176, 104, 56), (122, 78, 50), (84, 58, 44), (112, 118, 136), (196, 176, 150), (150, 128, 106),
)  # fmt: skip
_IRISES: tuple[Colour, ...] = (
    (150, 186, 70), (216, 176, 60), (196, 130, 50), (110, 170, 200), (110, 70, 40), (78, 52, 36), (92, 140, 90),
)  # fmt: skip
_COLLARS: tuple[Colour, ...] = ((206, 60, 60), (60, 110, 190), (70, 160, 100), (230, 190, 60), (150, 80, 170))
_PATTERNS = ("plain", "plain", "stripes", "patches", "mask", "spots", "socks")
INK: Colour = (38, 28, 30)
PINK: Colour = (232, 160, 160)


@dataclass(frozen=True)
class Traits:
    """The shapes of a kind; a mapping gives each choice its probability."""

    ears: Mapping[str, float]
    muzzle: str
    eyes: Mapping[str, float]
    tail: Mapping[str, float]
    whiskers: float = 0.0
    snout_length: tuple[float, float] = (0.4, 0.5)
    head_width: tuple[float, float] = (0.95, 1.1)
    leg_length: tuple[float, float] = (0.36, 0.5)
    poses: Mapping[str, float] = field(
        default_factory=lambda: {"head": 0.38, "sitting": 0.32, "standing": 0.15, "lying": 0.15}
    )


KINDS: dict[str, Traits] = {
    "cat": Traits(
        ears={"pointed": 0.9, "folded": 0.1},
        muzzle="cat",
        eyes={"slit": 0.68, "wide": 0.22, "closed": 0.1},
        tail={"long": 0.8, "bushy": 0.2},
        whiskers=0.95,
        snout_length=(0.32, 0.45),
        leg_length=(0.34, 0.48),
    ),
    "dog": Traits(
        ears={"floppy": 0.44, "long": 0.26, "semi": 0.16, "erect": 0.14},
        muzzle="dog",
        eyes={"round": 0.74, "wide": 0.16, "closed": 0.1},
        tail={"wag": 0.55, "curl": 0.2, "bushy": 0.1, "stub": 0.15},
        whiskers=0.06,
        snout_length=(0.75, 1.15),
        head_width=(0.88, 1.05),
        leg_length=(0.38, 0.58),
    ),
    "rabbit": Traits({"upright": 0.75, "long": 0.25}, "rabbit", {"round": 1.0}, {"puff": 1.0}, 0.6, (0.35, 0.45)),
    "bear": Traits({"round": 1.0}, "bear", {"dot": 1.0}, {"stub": 1.0}, 0.0, (0.55, 0.75), leg_length=(0.3, 0.42)),
    "fox": Traits({"erect": 1.0}, "fox", {"slit": 0.5, "round": 0.5}, {"bushy": 1.0}, 0.4, (0.9, 1.2)),
    "mouse": Traits({"dish": 1.0}, "mouse", {"dot": 1.0}, {"string": 1.0}, 0.8, (0.6, 0.8), leg_length=(0.24, 0.3)),
    "pig": Traits({"flap": 1.0}, "pig", {"dot": 0.5, "round": 0.5}, {"corkscrew": 1.0}, 0.0, (0.55, 0.7)),
    "koala": Traits({"side": 1.0}, "koala", {"dot": 1.0}, {"none": 1.0}, 0.0, (0.4, 0.5)),
    "cow": Traits({"horned": 1.0}, "cow", {"round": 1.0}, {"string": 1.0}, 0.0, (0.8, 1.0), head_width=(0.85, 0.95)),
    "owl": Traits(
        {"tufts": 0.7, "none": 0.3}, "beak", {"ringed": 1.0}, {"none": 1.0}, poses={"head": 0.4, "perched": 0.6}
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """One animal: the choices drawn for it."""

    ears: str
    muzzle: str
    eyes: str
    tail: str
    whiskers: bool
    snout_length: float
    head_width: float
    leg_length: float
    pattern: str
    fur: Colour
    shade: Colour
    second: Colour
    iris: Colour
    nose: Colour
    collar: Colour | None
    ear_size: float
    eye_size: float
    turn: float
    profile: bool


def choose(options: Mapping[str, float], rng: np.random.Generator) -> str:
    """One key of `options`, with the probability that is its value."""
    threshold = rng.random()
    for name, probability in options.items():
        threshold -= probability
        if threshold < 0:
            return name
    return name


def draw_look(traits: Traits, rng: np.random.Generator) -> Look:
    """Returns a random animal of a kind."""
    base = np.array(_COATS[rng.integers(len(_COATS))]) * rng.uniform(0.86, 1.12) + rng.uniform(-9, 9, 3)
    fur: Colour = tuple(int(c) for c in np.clip(base, 24, 246))  # type: ignore[assignment]
    bright = sum(fur) / 3
    second = (
        lighter(fur, rng.uniform(0.6, 0.95))
        if bright < 190 and rng.random() < 0.7
        else darker(fur, rng.uniform(0.3, 0.7))
    )
    return Look(
        ears=choose(traits.ears, rng),
        muzzle=traits.muzzle,
        eyes=choose(traits.eyes, rng),
        tail=choose(traits.tail, rng),
        whiskers=rng.random() < traits.whiskers,
        snout_length=rng.uniform(*traits.snout_length),
        head_width=rng.uniform(*traits.head_width),
        leg_length=rng.uniform(*traits.leg_length),
        pattern=_PATTERNS[rng.integers(len(_PATTERNS))],
        fur=fur,
        shade=darker(fur, rng.uniform(0.22, 0.42)),
        second=second,
        iris=_IRISES[rng.integers(len(_IRISES))],
        nose=mix(INK, PINK, 0.75) if rng.random() < 0.4 else INK,
        collar=_COLLARS[rng.integers(len(_COLLARS))] if rng.random() < 0.3 else None,
        ear_size=rng.uniform(0.85, 1.15),
        eye_size=rng.uniform(0.85, 1.2),
        turn=rng.uniform(-0.9, 0.9),
        profile=rng.random() < 0.16,
    )
