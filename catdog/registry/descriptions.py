"""The description of a registered version, of which several writers own a paragraph each."""

import re


def put_paragraph(description: str | None, start: str, text: str) -> str:
    """Returns a description in which one paragraph says `text`: the one that begins with `start`, or else a new one at the end."""
    paragraphs = [part for part in re.split(r"\n\s*\n", (description or "").strip()) if part.strip()]
    former = [place for place, part in enumerate(paragraphs) if part.startswith(start)]
    place = former[0] if former else len(paragraphs)
    others = [part for number, part in enumerate(paragraphs) if number not in former]
    return "\n\n".join([*others[:place], text, *others[place:]])
