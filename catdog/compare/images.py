"""Single images in a comparison: each run's surest mistakes, the images that divide the runs, and their thumbnails."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from catdog.compare.records import Comparison, RunRecord

THUMBNAIL_PIXELS = 128
JPEG_QUALITY = 70


@dataclass(frozen=True)
class Answer:
    """What one run's kept model said about an image; probability is that of the predicted class, in [0, 1]."""

    run: str
    predicted: str
    probability: float
    right: bool


@dataclass(frozen=True)
class Disagreement:
    """An image that some runs got right and others wrong; answers are in the order of the comparison's runs."""

    file: str
    label: str
    answers: tuple[Answer, ...]

    @property
    def right(self) -> tuple[int, ...]:
        """Positions in `answers` of those that are right."""
        return tuple(position for position, answer in enumerate(self.answers) if answer.right)


def confident_mistakes(record: RunRecord, most: int) -> pd.DataFrame:
    """The kept model's `most` surest wrong answers: index file; columns label, predicted, probability."""
    wrong = record.answers[~record.answers["right"]]
    return wrong.sort_values("probability", ascending=False, kind="stable").head(most).drop(columns="right")


def disagreements(comparison: Comparison) -> list[Disagreement]:
    """Every image that all runs answered and on which they disagree about being right; the fewer right, the earlier."""
    outcomes = comparison.outcomes
    if outcomes.shape[1] < 2:
        return []
    right = outcomes.sum(axis=1)
    divided = right[(right > 0) & (right < outcomes.shape[1])].sort_values(kind="stable").index
    by_run = {
        record.name: record.answers.loc[divided] for record in comparison.finished if record.name in outcomes.columns
    }
    columns = [
        [
            Answer(name, *row)
            for row in answers[["predicted", "probability", "right"]].itertuples(index=False, name=None)
        ]
        for name, answers in by_run.items()
    ]
    labels = next(iter(by_run.values()))["label"]
    return [
        Disagreement(str(file), str(label), answers)
        for file, label, answers in zip(divided, labels, zip(*columns, strict=True), strict=True)
    ]


class Gallery:
    """Thumbnails for a page, every picture in it once, as style rules that any number of elements can use.

    Args:
        picture: file -> uint8 (H, W, 3) in [0, 255], or None where it is not available.
        budget_bytes: where the rules would outgrow this, further pictures are left out and counted.
    """

    def __init__(self, picture: Callable[[str], np.ndarray | None], budget_bytes: int) -> None:
        self._picture = picture
        self._left_bytes = budget_bytes
        self._classes: dict[str, str | None] = {}
        self._rules: list[str] = []
        self.left_out = 0
        self.unavailable = 0

    def show(self, file: str) -> str | None:
        """The style class that shows this file's picture, None where there is no room for it or no picture."""
        if file not in self._classes:
            self._classes[file] = self._embed(file)
        return self._classes[file]

    @property
    def rules(self) -> Markup:
        """The style rules of all pictures shown so far."""
        return Markup("\n".join(self._rules))

    @property
    def shown(self) -> int:
        """How many pictures there are."""
        return len(self._rules)

    def _embed(self, file: str) -> str | None:
        if self._left_bytes <= 0:
            self.left_out += 1
            return None
        pixels = self._picture(file)
        if pixels is None:
            self.unavailable += 1
            return None
        name = f"pic-{len(self._rules)}"
        rule = f".{name}{{background-image:url(data:image/jpeg;base64,{_jpeg(pixels)})}}"
        self._left_bytes -= len(rule)
        self._rules.append(rule)
        return name


def _jpeg(pixels: np.ndarray) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
