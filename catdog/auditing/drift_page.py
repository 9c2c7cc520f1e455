"""The comparison of new photos with validation images as one self-contained HTML page."""

from catdog.auditing.drift import MIX_TRAIT, NAMES, UNITS, DriftFindings
from catdog.auditing.page import load_picture, open_templates
from catdog.comparison.page.thumbnails import Gallery
from catdog.system.wording import percent_interval, percent_with_unit

PICTURE_BYTES = 4_000_000
MOST_LABELS, MOST_SAME, MOST_CLASSES = 60, 60, 20


def render_drift(found: DriftFindings) -> str:
    """Returns the page as HTML: the verdict, the expected accuracy, what differs, and pictures of the photos to label first."""
    gallery = Gallery(lambda file: load_picture(found.root / file), PICTURE_BYTES)
    labels = [(row, gallery.show(str(row.file))) for row in found.label_first.head(MOST_LABELS).itertuples()]
    same = found.photos[found.photos["same_as"] != ""].head(MOST_SAME)
    pictures = [(row, gallery.show(str(row.file))) for row in same.itertuples()]
    classes = found.classes
    by_difference = classes.loc[classes["difference"].abs().sort_values(ascending=False, kind="stable").index]
    return (
        open_templates()
        .get_template("drift.html.j2")
        .render(
            found=found, labels=labels, same=pictures, all_same=int((found.photos["same_as"] != "").sum()), gallery=gallery,
            names=NAMES, units=UNITS, classes=by_difference.head(MOST_CLASSES), all_classes=len(classes),
            classes_p=found.p_holm.get(MIX_TRAIT), share=percent_with_unit, interval=percent_interval,
        )
    )  # fmt: skip
