"""The audit as one self-contained HTML page, and as text for the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from catdog.auditing.findings import ERROR
from catdog.auditing.inspection import Audit
from catdog.comparison.page import render
from catdog.comparison.page.thumbnails import Gallery
from catdog.data.images import UnreadableImageError, decode_image
from catdog.data.splits import SPLITS
from catdog.system.pages import build_environment

if TYPE_CHECKING:
    from jinja2 import Environment

PICTURE_BYTES = 7_000_000
MOST_PAIRS, MOST_SUSPECTS, MOST_PICTURES = 300, 120, 60
# The kinds of findings whose files the page shows as pictures.
SHOWN = ("plain", "tiny", "stretched", "grey")


def build_pairs_frame(audit: Audit) -> pd.DataFrame:
    """Returns one row per pair of images that show the same picture, for CSV: worst first."""
    rows = []
    for pair in audit.pairs:
        first, second = audit.images.iloc[pair.first], audit.images.iloc[pair.second]
        rows.append(
            {
                "first": first["file"], "second": second["file"], "kind": pair.kind, "similarity": pair.similarity,
                "first_class": first["label"], "second_class": second["label"],
                "first_split": first["split"], "second_split": second["split"],
                "first_used": first["used"], "second_used": second["used"],
            }
        )  # fmt: skip
    columns = ["first", "second", "kind", "similarity", "first_class", "second_class", "first_split", "second_split",
               "first_used", "second_used"]  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns)
    harmless = (frame["first_class"] == frame["second_class"]).astype(int) * 2 + (
        frame["first_split"] == frame["second_split"]
    ).astype(int)
    return frame.loc[harmless.sort_values(kind="stable").index].reset_index(drop=True)


def open_templates() -> "Environment":
    """Returns Jinja's environment for the templates of this room, which include some of comparisons."""
    return build_environment(Path(__file__).parent, Path(render.__file__).parent)


def render_page(audit: Audit, name: str) -> str:
    """Returns the page as HTML: findings in words, pictures of pairs and of odd images."""
    gallery = Gallery(lambda file: load_picture(audit.root / file), PICTURE_BYTES)
    pairs = build_pairs_frame(audit)
    shown = [
        (pair, gallery.show(str(pair.first)), gallery.show(str(pair.second)))
        for pair in pairs.head(MOST_PAIRS).itertuples()
    ]
    odd = [
        (finding, [(file, gallery.show(file)) for file in finding.files[:MOST_PICTURES]])
        for finding in audit.findings
        if finding.kind in SHOWN
    ]
    suspects = [
        (row, gallery.show(str(row.file)))
        for row in (audit.labels.suspects.head(MOST_SUSPECTS).itertuples() if audit.labels else ())
    ]
    counts = audit.images.groupby(["split", "label"]).size().unstack(fill_value=0).reindex(list(SPLITS), fill_value=0)
    errors = sum(finding.severity == ERROR for finding in audit.findings)
    return (
        open_templates()
        .get_template("audit.html.j2")
        .render(
            audit=audit,
            name=name,
            pairs=shown,
            all_pairs=len(pairs),
            odd=odd,
            suspects=suspects,
            counts=counts,
            gallery=gallery,
            errors=errors,
        )
    )


def load_picture(path: Path) -> np.ndarray | None:
    """Returns a picture for the page, uint8 (192, 192, 3); None if it cannot be read."""
    try:
        return decode_image(path, 192, 192)
    except UnreadableImageError:
        return None
