"""Converts a figure to an SVG element that can be embedded in a page."""

import io
import re
import warnings

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from catdog.plots.style import GRID, INK, MUTED, PALETTE, PAPER

# The style sheet's variables follow the reader's light or dark mode; fixed colours in a figure cannot.
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--series-{index}" for index, colour in enumerate(PALETTE)
}


def embed_svg(figure: Figure, name: str, description: str) -> Markup:
    """Returns the figure as one `<svg>` element that scales with the page and uses the page's colours and typeface.

    Args:
        figure: the figure; its layout is fixed from here on.
        name: prefix of all ids inside, unique in the page. Otherwise the clip paths of two figures would clash.
        description: the text for screen readers.
    """
    buffer = io.StringIO()
    # Text stays text: it can be searched and read aloud, follows the page's colours, and is smaller than outlines.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's browser has fonts for more scripts than the typeface that matplotlib measures with.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    # The layout is done now. Repeating it for a PNG would be most of the PNG's cost.
    figure.set_layout_engine("none")
    text = buffer.getvalue()
    # The selector of matplotlib's own style element is `*`, which would affect the whole page. The page's style sheet has the same
    # rule for figures only.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    # Only inside tags: text in the figure may look like a number, a colour or an id, and must not change.
    text = re.sub(r"<[^>]*>", lambda tag: _rewrite_tag(tag[0], name, used), text[text.index("<svg") :])
    box = re.search(r'viewBox="([^"]*)"', text)
    if box is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    opening = f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(description)}">'
    return Markup(opening + re.sub(r"\s*\n\s*", "\n", text[text.index(">") + 1 :]).strip())


def _rewrite_tag(tag: str, name: str, used: set[str]) -> str:
    """Returns a tag with the page's colours and typeface and two decimals. Ids that are used get the prefix; others are removed."""
    tag = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", tag)
    tag = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?| transform=\"rotate\(-?0 [^\"]*\"", "", tag)
    tag = re.sub(r"(-?\d+\.\d{2})\d+", r"\1", tag)
    for colour, variable in VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    return tag
