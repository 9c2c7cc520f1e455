"""What all HTML pages share: the style sheet `page.css`, and how templates are filled in."""

from pathlib import Path
from typing import TYPE_CHECKING

from catdog.system import wording

if TYPE_CHECKING:
    from jinja2 import Environment


def build_environment(*folders: Path) -> "Environment":
    """Returns Jinja's environment for templates in these folders, which may include `page.css`. An unknown name is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        # File and class names come from the user's disk and may contain markup.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=wording.percent,
        percent_unit=wording.percent_with_unit,
        interval=lambda interval: wording.percent_interval(*interval),
        signed=wording.signed,
        points=wording.points,
        compact=wording.compact_count,
        seconds=wording.seconds,
        plural=wording.plural,
    )
    return environment
