"""The export as one self-contained HTML page, and as the card of the folder, README.md."""

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from catdog.deployment.export.result import HEADERS, Export, list_cells
from catdog.system import wording

# The most images that the page lists; other_classes.csv has them all.
MOST_LISTED = 300


def render_page(export: Export, study: str) -> str:
    """Returns the page as HTML: the table, what it means, and the images whose class differs."""
    return _render("export.html.j2", export, study, autoescape=True)


def render_card(export: Export, study: str) -> str:
    """Returns the card as Markdown: which model this is, what each file takes and answers, and how well."""
    return _render("card.md.j2", export, study, autoescape=False)


def _escape_markdown(text: str) -> str:
    """Returns a text that Markdown shows as it is: a class may be called `a_b_c` or `<1>`."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", " ".join(text.split()))


def _render(template: str, export: Export, study: str, *, autoescape: bool) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=autoescape, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters.update(plural=wording.plural, markdown=_escape_markdown)
    return environment.get_template(template).render(
        export=export, study=study, headers=HEADERS, rows=list_cells(export), most=MOST_LISTED,
        others=[each for score in export.scores for each in score.other_classes],
    )  # fmt: skip
