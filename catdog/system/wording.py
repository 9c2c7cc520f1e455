"""Numbers as people read them, the same in figures, tables and pages."""

import math
import re
from collections.abc import Sequence

# Shown if there is no number. A blank cell could be taken for an oversight.
MISSING = "–"  # noqa: RUF001, an en dash is what typography asks for here


def percent(fraction: float, digits: int = 1) -> str:
    """`0.7561` as `75.6`, without the unit, or a dash for NaN: for columns whose header says percent."""
    return MISSING if math.isnan(fraction) else f"{100 * fraction:.{digits}f}"


def percent_with_unit(fraction: float, digits: int = 1) -> str:
    """`0.7561` as `75.6 %`, with a space that does not break, or a dash for NaN."""
    return MISSING if math.isnan(fraction) else f"{percent(fraction, digits)}\N{NO-BREAK SPACE}%"


def percent_interval(low: float, high: float) -> str:
    """`(0.7252, 0.7846)` as `72.5 to 78.5 %`."""
    return MISSING if math.isnan(low) or math.isnan(high) else f"{percent(low)} to {percent_with_unit(high)}"


def points(difference: float, digits: int = 1) -> str:
    """`0.0312` as `3.1 points`: percentage points, the unit of a difference of accuracies; a dash for NaN."""
    return MISSING if math.isnan(difference) else f"{100 * difference:.{digits}f}\N{NO-BREAK SPACE}points"


def at_least(difference: float, digits: int = 1) -> str:
    """As `points`, but rounded down: `0.0199` as `1.9 points`."""
    return points(math.floor(difference * 100 * 10**digits + 1e-9) / (100 * 10**digits), digits)


def at_most(difference: float, digits: int = 1) -> str:
    """As `points`, but rounded up: `0.0121` as `1.3 points`."""
    return points(math.ceil(difference * 100 * 10**digits - 1e-9) / (100 * 10**digits), digits)


def signed(difference: float, digits: int = 1) -> str:
    """`0.0312` as `+3.1`, in percentage points without the unit; a dash for NaN."""
    return MISSING if math.isnan(difference) else f"{100 * difference:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def signed_interval(low: float, high: float, digits: int = 1) -> str:
    """`(0.012, 0.05)` as `[+1.2, +5.0]`, in percentage points."""
    return MISSING if math.isnan(low) or math.isnan(high) else f"[{signed(low, digits)}, {signed(high, digits)}]"


def compact_count(number: float) -> str:
    """Three digits and a unit: `2257984` as `2.26 M`, `1234` as `1.23 k`; a dash for NaN."""
    if math.isnan(number):
        return MISSING
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # A number that would round up to 1000 of the smaller unit uses the larger unit.
        if abs(number) >= 0.9995 * size:
            scaled = number / size
            digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{digits}f}\N{NO-BREAK SPACE}{unit}"
    return f"{number:.0f}"


def file_size(number_bytes: float) -> str:
    """`1234567` as `1.2 MB`: decimal units, as disks are sold."""
    for size, unit in ((1e9, "GB"), (1e6, "MB")):
        if number_bytes >= 0.9995 * size:
            return f"{number_bytes / size:,.1f}\N{NO-BREAK SPACE}{unit}"
    return f"{number_bytes / 1e3:,.0f}\N{NO-BREAK SPACE}kB"


def seconds(value: float) -> str:
    """`16.4`, `0.52` or `1204`: a timing is not more precise than three digits; a dash for NaN."""
    if math.isnan(value):
        return MISSING
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def duration(value_s: float) -> str:
    """Returns a time from seconds on to days in one word or two: "40 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    minutes = int(max(0.0, value_s) // 60)
    hours, days = minutes // 60, minutes // 1440
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{max(0.0, value_s):.0f} s"


def p_value(value: float) -> str:
    """`p = 0.031` or `p < 0.001`, with spaces that do not break."""
    words = "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def plural(number: int, noun: str) -> str:
    """`1 image`, `1,204 images`."""
    return f"{number:,} {noun}{agree(number, '', 's')}"


def in_groups(images: int, groups: int | None, noun: str = "image") -> str:
    """`800 images in 200 groups`; without groups `800 images`."""
    return plural(images, noun) + (f" in {plural(groups, 'group')}" if groups is not None else "")


def agree(number: int, one: str, several: str) -> str:
    """The form of a word that agrees with a number: `agree(1, "is", "are")` is `is`."""
    return one if number == 1 else several


def name_parts(name: str) -> list[str]:
    """Returns a name such as `augmentation.layers.flip=0.5` in the parts between which a line may break; numbers stay whole."""
    return [part for part in re.split(r"(?<=[=_:/])|(?<=\.)(?!\d)", name) if part]


def fold_word(word: str, width: int) -> list[str]:
    """Returns a word in pieces of at most `width` characters, cut between its parts where that is possible."""
    pieces = [""]
    for part in name_parts(word):
        if pieces[-1] and len(pieces[-1]) + len(part) > width:
            pieces.append("")
        pieces[-1] += part
    return [piece[start : start + width] for piece in pieces for start in range(0, max(1, len(piece)), width)]
