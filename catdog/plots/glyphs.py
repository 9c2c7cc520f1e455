"""Names of classes and files in any script: drawn in a font that has their characters, or with placeholders."""

import functools
import re

from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text

TYPEFACE = "DejaVu Sans"
# It has a box for every character, which tells nothing.
LAST_RESORT = "Last Resort"
# The zero-width joiner and the selectors of a variant, of which emoji are made.
JOINERS = "\u200d\ufe0e\ufe0f"


def make_legible(figure: Figure) -> Figure:
    """Returns the figure after changing its texts so that every character can be drawn into a PNG.

    Characters that the house's typeface lacks are drawn in an installed font that has them. Where there is none, their code points
    take their place: 猫.jpg becomes [732B].jpg. An SVG needs none of this, because its reader's browser chooses the fonts.
    """
    for axis in figure.findobj(Axis):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        if _is_odd("".join(labels)):
            # The texts of ticks are set when the figure is drawn, so that changing them here would not last.
            axis.set_ticks(axis.get_ticklocs(), labels=[replace_missing(label) for label in labels])
            axis.set_tick_params(labelfontfamily=_list_families("".join(labels)))
    for text in figure.findobj(Text):
        written = text.get_text()
        if _is_odd(written):
            text.set_fontfamily(_list_families(written))
            text.set_text(replace_missing(written))
    return figure


def replace_missing(text: str) -> str:
    """Returns a text in which the code points of characters that no font has take their place, in brackets."""
    missing = {each for each in text if each not in JOINERS and _is_odd(each) and not find_family(each)}
    if not missing:
        return text
    # What joins characters into one picture goes with them.
    several = re.compile(
        f"[{re.escape(''.join(sorted(missing)))}{JOINERS}]*[{re.escape(''.join(sorted(missing)))}][{JOINERS}]*"
    )
    return several.sub(_name_code_points, text)


def _name_code_points(found: re.Match[str]) -> str:
    return f"[{' '.join(f'{ord(each):04X}' for each in found[0] if each not in JOINERS)}]"


def _list_families(text: str) -> list[str]:
    return list(dict.fromkeys([TYPEFACE, *filter(None, map(find_family, text))]))


def _is_odd(text: str) -> bool:
    """Whether a text has characters that the house's typeface lacks."""
    return not text.isascii() and any(each != "\n" and find_family(each) != TYPEFACE for each in text)


@functools.cache
def find_family(character: str) -> str:
    """Returns the name of an installed font that has a character, the house's typeface if it does; "" if none has it."""
    if _has_in_both(TYPEFACE, character):
        return TYPEFACE
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda entry: (entry.name, entry.fname)):
        plain = entry.style == "normal" and not entry.name.startswith(LAST_RESORT)
        if plain and _has(entry.fname, character) and _has_in_both(entry.name, character):
            return entry.name
    return ""


def _has_in_both(family: str, character: str) -> bool:
    """Whether a font has a character as figures use it, plain and bold: the two are files of their own."""
    weights = [font_manager.FontProperties(family=family, weight=weight) for weight in ("normal", "bold")]
    return all(_has(font_manager.findfont(each), character) for each in weights)


def _has(file: str, character: str) -> bool:
    try:
        font = font_manager.get_font(file)
    except (OSError, RuntimeError):
        # A font that was removed, or of a kind that Matplotlib cannot read.
        return False
    # Matplotlib cannot draw fonts of pictures, such as most of those with emoji.
    return bool(font.scalable and font.get_char_index(ord(character)))
