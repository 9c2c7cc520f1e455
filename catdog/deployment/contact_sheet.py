"""The contact sheet: one picture that shows the first images with their answers."""

from pathlib import Path

from catdog.deployment.prediction import Answers
from catdog.system.errors import UserError

MOST_IMAGES = 60


def require_place(sheet: Path) -> None:
    """Raises a UserError unless the file's folder exists and the path is not itself a folder."""
    if not sheet.resolve().parent.is_dir():
        raise UserError(
            f"sheet: no folder {str(sheet.parent)!r} to write {sheet.name!r} to. Make it, or name another file."
        )
    if sheet.is_dir():
        raise UserError(f"sheet: {str(sheet)!r} is a folder. Name a file in it, such as sheet={sheet / 'sheet.png'}.")


def save(sheet: Path, answers: Answers, size: int) -> str:
    """Writes the first images with their answers as a PNG, and returns a description of what was written.

    Args:
        sheet: the file.
        answers: at least one.
        size: height and width of the model's images in pixels.

    Raises:
        UserError: the file cannot be written.
    """
    from catdog import plots
    from catdog.data.images import decode_image

    rows = answers.table.head(MOST_IMAGES)
    pictures = [decode_image(file, size, size) for file in answers.files[:MOST_IMAGES]]
    captions = [
        f"{name} {probability:.0%}" for name, probability in zip(rows["class"], rows["probability"], strict=True)
    ]
    figure = plots.plot_contact_sheet(pictures, captions, [Path(file).name for file in rows["file"]])
    try:
        plots.make_legible(figure).savefig(sheet, format="png", dpi=120)
    except OSError as error:
        raise UserError(f"sheet: cannot write {str(sheet)!r} ({error.strerror}). Name another file.") from error
    count = len(answers.table)
    return f"{sheet}, the first {MOST_IMAGES} of {count:,} images" if count > MOST_IMAGES else str(sheet)
