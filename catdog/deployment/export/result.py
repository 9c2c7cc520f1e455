"""An export: the files, and how each answers the validation images, side by side with the kept model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from catdog.data.predictions import Predictions
from catdog.deployment.ensemble import Difference
from catdog.deployment.export.conversion import Format
from catdog.statistics.contrasts import count_groups
from catdog.system.wording import agree, in_groups, percent, plural, points, signed, signed_interval

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from catdog.deployment.prediction import TrainedModel

# A probability that moves by more than this is not rounding.
LARGE_MOVE = 0.1
# So many times the calibration images are worth a try.
MORE_IMAGES = 5
CLASS_COLUMNS = (
    "format", "file", "label", "kept_class", "kept_probability", "exported_class", "exported_probability",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Answered:
    """A model's answers to the validation images, and what it takes.

    Attributes:
        predictions: its answers.
        megabytes: the size of its files, in 1,000,000 bytes.
        ms_per_image: the median time for a single image on this machine, in milliseconds.
    """

    predictions: Predictions
    megabytes: float
    ms_per_image: float


@dataclass(frozen=True)
class OtherClass:
    """An image that an exported file gives another class than the kept model does.

    Attributes:
        format: the name of the file's format.
        file: the image.
        label: its true class.
        kept_class: the kept model's answer.
        kept_probability: of that class, in [0, 1].
        exported_class: the exported file's answer.
        exported_probability: of that class, in [0, 1].
    """

    format: str
    file: str
    label: str
    kept_class: str
    kept_probability: float
    exported_class: str
    exported_probability: float


@dataclass(frozen=True, eq=False)
class ExportScore:
    """How an exported file answers the validation images.

    Attributes:
        format: of the file.
        answered: its answers by its own runtime, its size and its time.
        difference: its accuracy less the kept model's, on the same images.
        largest: the largest difference of a probability from the kept model's, in [0, 1].
        other_classes: the images whose class differs, in the order of the predictions.
    """

    format: Format
    answered: Answered
    difference: Difference
    largest: float
    other_classes: list[OtherClass]

    def is_beyond(self, margin: float) -> bool:
        """Whether its accuracy differs from the kept model's by more than a margin."""
        # 0.02 is the difference of 0.72 and 0.7, but not to the last bit.
        return abs(self.difference.estimate) > margin + 1e-9

    def answers_otherwise(self, margin: float) -> bool:
        """Whether its answers are not the kept model's, whatever its accuracy: right and wrong ones may cancel out."""
        share = len(self.other_classes) / len(self.answered.predictions)
        return share > margin + 1e-9 or self.largest > LARGE_MOVE

    def describe(self, margin: float, more_images: int = 0) -> str:
        """Returns what the differences mean, in a sentence or two.

        Args:
            margin: a difference in accuracy up to this is as good as none.
            more_images: a larger number of calibration images that int8 could take its ranges from; 0 if there are no more.
        """
        found, others = self.difference, len(self.other_classes)
        by = points(abs(found.estimate), 2)
        interval = f"95% interval {signed_interval(found.low, found.high, 2)}"
        named = f"{plural(others, 'image')} {agree(others, 'gets', 'get')}" if others else "no image gets"
        moves = f"{named} another class, and probabilities move by up to {self.largest:.2g}"
        if self.is_beyond(margin):
            direction = "lower" if found.estimate < 0 else "higher"
            said = f"its val accuracy is {by} {direction} than the kept model's, {interval}, which is more than margin={margin:g}"
            advice = "Look at the images in other_classes.csv before you use it"
            if "int8" in self.format.name:
                more = f", or more calibration images: calibration_images={more_images}" if more_images else ""
                advice = f"Use the file without int8{more}"
        else:
            said = f"its val accuracy is within margin={margin:g} of the kept model's, {interval}"
            if not (-margin <= found.low and found.high <= margin):
                said += ", but these images are too few to exclude a larger difference on others like them"
            advice = "Its answers are not the kept model's: look at other_classes.csv before you use it"
            if not self.answers_otherwise(margin):
                advice = ""
        return f"{self.format.title}: {said}; {moves}." + (f" {advice}." if advice else "")


@dataclass(frozen=True)
class Rounding:
    """How far the kept model's answers move if Keras computes it in float32, with the same weights and nothing converted.

    Attributes:
        largest: the largest difference of a probability, in [0, 1].
        other_classes: how many validation images get another class.
    """

    largest: float
    other_classes: int


@dataclass(frozen=True, eq=False)
class Export:
    """An export that was written and scored.

    Attributes:
        model: the model that was exported.
        folder: where the files are.
        precision: Keras' policies that the kept model computes in, such as "mixed_bfloat16".
        kept: the kept model's answers by Keras.
        scores: one for each exported file.
        groups: int (N,), the groups that the validation images come in; None if every image is a group of its own.
        margin: a difference in accuracy up to this is as good as none.
        calibration_images: the number of training images that int8 took its ranges from; 0 without int8.
        train_images: how many there are; 0 without int8.
        rounding: what float32 alone changes, before any conversion; None if the kept model computes in float32 itself.
    """

    model: "TrainedModel"
    folder: Path
    precision: str
    kept: Answered
    scores: list[ExportScore]
    groups: "np.ndarray | None"
    margin: float
    calibration_images: int = 0
    train_images: int = 0
    rounding: Rounding | None = None

    def __repr__(self) -> str:
        return f"Export({self.model.words}: {', '.join(score.format.file for score in self.scores)} in {str(self.folder)!r})"

    @property
    def images_words(self) -> str:
        """How many validation images there are, such as "400 validation images"."""
        return in_groups(len(self.kept.predictions), count_groups(self.groups), "validation image")

    def describe(self, score: ExportScore) -> str:
        """Returns what was found about one file, in a sentence or two."""
        more = min(self.train_images, MORE_IMAGES * self.calibration_images)
        return score.describe(self.margin, more if more > self.calibration_images else 0)

    @property
    def sentences(self) -> list[str]:
        """What was found, one sentence for each file, and what explains it."""
        found = [self.describe(score) for score in self.scores]
        if self.rounding is not None:
            found.append(
                f"The kept model computes in {self.precision}. In float32, with the same weights and before any export, its "
                f"probabilities move by up to {self.rounding.largest:.2g}, and "
                f"{plural(self.rounding.other_classes, 'image')} of val "
                f"{agree(self.rounding.other_classes, 'gets', 'get')} another class: that much is rounding, not the export."
            )
        return found

    @property
    def table(self) -> "pd.DataFrame":
        """One row for the kept model, then one for each file.

        Columns format, file, val_accuracy, difference, low, high, other_classes (images whose class differs),
        largest_probability_difference, megabytes, ms_per_image. What compares with the kept model is NaN in its own row.
        """
        import pandas as pd

        return pd.DataFrame([_list_kept(self.kept), *map(_list_score, self.scores)])

    @property
    def other_classes(self) -> "pd.DataFrame":
        """One row for each image and file whose class differs from the kept model's; the columns are CLASS_COLUMNS."""
        import pandas as pd

        rows = [vars(each) for score in self.scores for each in score.other_classes]
        return pd.DataFrame(rows, columns=list(CLASS_COLUMNS))

    def to_dict(self) -> dict[str, Any]:
        """Returns the whole result as lists, numbers and texts, as `show=json` prints it; the folder is left out."""
        return {
            "model": self.model.name,
            "version": self.model.version,
            "run_id": self.model.run_id,
            "run_name": self.model.run_name,
            "precision": self.precision,
            "val_images": len(self.kept.predictions),
            "val_groups": count_groups(self.groups),
            "margin": self.margin,
            "calibration_images": self.calibration_images,
            "float32": None if self.rounding is None else vars(self.rounding),
            "kept": {
                key: value for key, value in _list_kept(self.kept).items()
                if key in ("val_accuracy", "megabytes", "ms_per_image")
            },
            "formats": [
                {
                    **_list_score(score), "reader": score.format.reader, "beyond_margin": score.is_beyond(self.margin),
                    "words": self.describe(score), "images": [vars(each) for each in score.other_classes],
                }
                for score in self.scores
            ],
            "sentences": self.sentences,
        }  # fmt: skip


def _list_kept(kept: Answered) -> dict[str, Any]:
    nothing = float("nan")
    return {
        "format": "kept model", "file": "", "val_accuracy": kept.predictions.accuracy, "difference": nothing,
        "low": nothing, "high": nothing, "other_classes": 0, "largest_probability_difference": nothing,
        "megabytes": kept.megabytes, "ms_per_image": kept.ms_per_image,
    }  # fmt: skip


def _list_score(score: ExportScore) -> dict[str, Any]:
    found = score.difference
    return {
        "format": score.format.name, "file": score.format.file, "val_accuracy": score.answered.predictions.accuracy,
        "difference": found.estimate, "low": found.low, "high": found.high, "other_classes": len(score.other_classes),
        "largest_probability_difference": score.largest, "megabytes": score.answered.megabytes,
        "ms_per_image": score.answered.ms_per_image,
    }  # fmt: skip


HEADERS = (
    "format", "val accuracy %", "less the kept model, points", "other classes", "largest difference", "MB", "ms/image",
)  # fmt: skip


def list_cells(export: Export) -> list[tuple[str, ...]]:
    """Returns the rows of the table as people read them, the kept model first; the columns are HEADERS."""
    kept = export.kept
    rows: list[tuple[str, ...]] = [
        ("kept model", percent(kept.predictions.accuracy, 2), "", "", "", *_list_costs(kept))
    ]
    for score in export.scores:
        found = score.difference
        rows.append(
            (
                score.format.title, percent(score.answered.predictions.accuracy, 2),
                f"{signed(found.estimate, 2)} {signed_interval(found.low, found.high, 2)}",
                plural(len(score.other_classes), "image"), f"{score.largest:.2g}", *_list_costs(score.answered),
            )
        )  # fmt: skip
    return rows


def _list_costs(answered: Answered) -> tuple[str, str]:
    return f"{answered.megabytes:.2f}", f"{answered.ms_per_image:.2f}"


def build_scores_table(export: Export) -> Table:
    """The files side by side with the kept model, for a terminal."""
    table = Table(box=box.SIMPLE_HEAD)
    for number, header in enumerate(HEADERS):
        table.add_column(header, justify="right" if number else "left", overflow="fold")
    for row in list_cells(export):
        table.add_row(*row)
    return table
