"""The error atlas in the page: rows that can be read without a script, and the data for the script."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from catdog.comparison.atlas import KINDS, NO_CLASS, Answers, Atlas, Sorting
from catdog.comparison.cams import Cams

# Limits for rows, answers of single runs, and pictures, so that the page stays below 10 MB.
ROW_BYTES, RUN_BYTES, PICTURE_BYTES = 2_000_000, 1_500_000, 4_000_000
# With more seeds, a row shows how many are right, but not which.
MOST_MARKS = 12
NOTHING = 2**16 - 1


@dataclass(frozen=True)
class Cell:
    """One variant's answers on one image: how many of its runs are right, and for few runs a mark for each."""

    right: int
    runs: int
    marks: str

    @property
    def tone(self) -> str:
        """Whether all, some or none of the runs are right."""
        return "all" if self.right == self.runs else "some" if self.right else "none"


@dataclass(frozen=True)
class Row:
    """One image in the list of the page."""

    place: int
    file: str
    label: str
    kind: str
    by: str
    suspect: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, eq=False)
class AtlasView:
    """What the template shows.

    Args:
        atlas: the atlas.
        rows: list by list, with the first variant as the reference.
        counts: images of each kind, with the first variant as the reference.
        suspects: how many images have a suspect label.
        left_out: how many images that some run got wrong are not listed, because there is no room.
        runs_shown: for each variant, how many runs have their single answers in the page.
        cams: Grad-CAM for the first rows by importance.
        data: the script's data, as JSON that is safe inside a script element.
    """

    atlas: Atlas
    rows: Sequence[Row]
    counts: dict[str, int]
    suspects: int
    left_out: int
    runs_shown: Sequence[int]
    cams: Cams
    data: Markup

    @property
    def files(self) -> list[str]:
        """The files of the rows, by importance."""
        listed = {row.place for row in self.rows}
        return [self.atlas.files[place] for place in self.atlas.listed if place in listed]


def build_view(atlas: Atlas, cams: Cams, colours: dict[str, int]) -> AtlasView:
    """Returns the rows and the data of an atlas for the page.

    Args:
        atlas: the images.
        cams: Grad-CAM for its first images.
        colours: variant name -> index of its colour.
    """
    sortings = [atlas.sort(reference) for reference in range(len(atlas.answers))]
    first = sortings[0]
    chosen = atlas.listed[: _rows_within(ROW_BYTES, atlas)]
    order = chosen[np.lexsort((first.rank[chosen], first.kinds[chosen]))]
    rows = [_build_row(atlas, first, int(place)) for place in order]
    counts = {kind: int((first.kinds == number).sum()) for number, kind in enumerate(KINDS)}
    shown = _runs_within(RUN_BYTES, atlas, len(order))
    return AtlasView(
        atlas, rows, counts, int((atlas.suspects[atlas.listed] != NO_CLASS).sum()), len(atlas.listed) - len(chosen), shown,
        cams, _pack(atlas, sortings, order, shown, cams, colours),
    )  # fmt: skip


def _build_row(atlas: Atlas, sorting: Sorting, place: int) -> Row:
    label = atlas.class_names[atlas.labels[place]]
    suspect = atlas.suspects[place]
    by = [answers.name for answers, does in zip(atlas.answers, sorting.by[:, place], strict=True) if does]
    return Row(
        place, atlas.files[place], label, KINDS[sorting.kinds[place]], ", ".join(by),
        "" if suspect == NO_CLASS else atlas.class_names[suspect],
        tuple(_build_cell(answers, place) for answers in atlas.answers),
    )  # fmt: skip


def _build_cell(answers: Answers, place: int) -> Cell:
    right = answers.right[:, place]
    marks = "".join("\N{BLACK CIRCLE}" if one else "\N{WHITE CIRCLE}" for one in right)
    return Cell(int(right.sum()), len(right), marks if len(right) <= MOST_MARKS else "")


def _rows_within(budget_bytes: int, atlas: Atlas) -> int:
    """Returns how many of the listed images, from the first, fit into a budget of HTML; an estimate from the template's markup."""
    names = sum(len(escape(answers.name).encode()) for answers in atlas.answers)
    cells = sum(150 + 3 * min(len(answers.right), MOST_MARKS) for answers in atlas.answers) + names
    longest = max(len(escape(name).encode()) for name in atlas.class_names)
    for number, place in enumerate(atlas.listed):
        # The file's name appears several times in the row, and in the script's data.
        budget_bytes -= 400 + 4 * len(escape(atlas.files[place]).encode()) + 3 * longest + cells
        if budget_bytes < 0:
            return number
    return len(atlas.listed)


def _runs_within(budget_bytes: int, atlas: Atlas, images: int) -> list[int]:
    """Returns, for each variant, how many runs' answers fit into a budget of base64."""
    bytes_each = max(1, images) * (4 / 3) * (1 if len(atlas.class_names) == 2 else 4)
    most = max(1, int(budget_bytes / bytes_each / len(atlas.answers)))
    return [min(len(answers.right), most) for answers in atlas.answers]


def _pack(
    atlas: Atlas,
    sortings: Sequence[Sorting],
    order: np.ndarray,
    shown: Sequence[int],
    cams: Cams,
    colours: dict[str, int],
) -> Markup:
    """Returns the script's data: arrays as base64, by image in the order of the rows."""
    chosen = [(answers, slice(0, runs)) for answers, runs in zip(atlas.answers, shown, strict=True)]
    said = np.concatenate([answers.predicted[runs][:, order] for answers, runs in chosen])
    of_label = np.concatenate([answers.of_label[runs][:, order] for answers, runs in chosen])
    right = np.concatenate([answers.right[runs][:, order] for answers, runs in chosen])
    bits = np.array([1 << number for number in range(len(atlas.answers))])
    data = {
        "classes": list(atlas.class_names),
        "variants": [
            {
                "name": answers.name,
                "colour": colours[answers.name],
                "runs": len(answers.right),
                "seeds": answers.variant.seeds[runs],
            }
            for answers, runs in chosen
        ],
        "files": [atlas.files[place] for place in order],
        "best": atlas.answers[atlas.best].name,
        "labels": _encode(atlas.labels[order], np.uint16),
        "suspects": _encode(np.where(atlas.suspects == NO_CLASS, NOTHING, atlas.suspects)[order], np.uint16),
        "kinds": _encode(np.stack([sorting.kinds[order] for sorting in sortings]), np.uint8),
        "by": _encode(np.stack([bits @ sorting.by[:, order] for sorting in sortings]), np.uint16),
        "ranks": _encode(np.stack([sorting.rank[order] for sorting in sortings]), np.uint32),
        "right": _encode(np.stack([answers.right[:, order].sum(axis=0) for answers in atlas.answers]), np.uint16),
        "trust": _encode(_percent(np.stack([answers.trust[order] for answers in atlas.answers])), np.uint8),
        # The true class's probability in percent; the highest bit says whether the answer is right.
        "answers": _encode(_percent(of_label) + 128 * right, np.uint8),
        "cams": _pack_cams(atlas, order, cams),
    }
    if len(atlas.class_names) > 2:
        surest = np.concatenate([answers.probabilities[runs].max(axis=2)[:, order] for answers, runs in chosen])
        data |= {"said": _encode(said, np.uint16), "sure": _encode(_percent(surest), np.uint8)}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    # A name may contain markup. Inside a script element only "</script" and "<!--" are dangerous; escaping "<" prevents both.
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _pack_cams(atlas: Atlas, order: np.ndarray, cams: Cams) -> dict[str, Any] | None:
    if not cams.variants:
        return None
    place = {int(image): number for number, image in enumerate(atlas.listed[: cams.images])}
    images = np.array([place.get(int(image), NOTHING) for image in order])
    variants = []
    for number, answers in enumerate(atlas.answers):
        found = cams.variants.get(answers.name)
        if found is None:
            continue
        seed = list(answers.variant.records).index(found.run)
        probabilities = answers.probabilities[seed][order]
        variants.append({
            "variant": number, "seed": found.run.seed, "height": found.predicted.shape[1], "width": found.predicted.shape[2],
            "said": _encode(answers.predicted[seed][order], np.uint16),
            "sure": _encode(_percent(probabilities.max(axis=1)), np.uint8),
            "predicted": _encode(found.predicted, np.uint8), "labelled": _encode(found.labelled, np.uint8),
        })  # fmt: skip
    return {"images": _encode(images, np.uint16), "variants": variants}


def _percent(probabilities: np.ndarray) -> np.ndarray:
    return np.rint(100 * np.clip(probabilities, 0, 1)).astype(np.uint8)


def _encode(values: np.ndarray, dtype: type) -> str:
    """Returns an array's bytes as base64: little-endian, row by row."""
    return base64.b64encode(np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).tobytes()).decode("ascii")
