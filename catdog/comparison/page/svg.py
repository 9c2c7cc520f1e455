"""A figure as an SVG element that can stand inside a page."""

import io
import re
import warnings

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from catdog.plots.style import GRID, INK, MUTED, PALETTE, PAPER

# The style sheet's variables follow the reader's light or dark mode; a figure's own colours cannot.
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--series-{index}" for index, colour in enumerate(PALETTE)
}


def embed_svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as one `<svg>` element, scaled by the page, in the page's colours and typeface.

    Args:
        figure: drawn on demand; it keeps its layout from here on.
        name: prefix of all ids inside, unique in the page: clip paths of two figures would otherwise be confused.
        description: what a screen reader says.
    """
    buffer = io.StringIO()
    # Text stays text: it can be searched and read aloud, follows the page's colours, and is smaller than its outlines.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's browser has more scripts than the typeface that matplotlib measures with.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    # It is laid out now: doing that again for a PNG would be most of the PNG's cost.
    figure.set_layout_engine("none")
    text = buffer.getvalue()
    # matplotlib's own style element says `*`, which would reach the whole page; the page's style sheet repeats it for
    # figures.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    # Only inside tags: what is written in the figure may look like a number, a colour or an id, and stays.
    text = re.sub(r"<[^>]*>", lambda tag: _rewrite_tag(tag[0], name, used), text[text.index("<svg") :])
    box = re.search(r'viewBox="([^"]*)"', text)
    if box is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    opening = f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(description)}">'
    return Markup(opening + re.sub(r"\s*\n\s*", "\n", text[text.index(">") + 1 :]).strip())


def _rewrite_tag(tag: str, name: str, used: set[str]) -> str:
    """Page colours and typeface, two decimals; ids that something refers to get the prefix, all others go."""
    tag = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", tag)
    tag = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?| transform=\"rotate\(-?0 [^\"]*\"", "", tag)
    tag = re.sub(r"(-?\d+\.\d{2})\d+", r"\1", tag)
    for colour, variable in VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    return tag
