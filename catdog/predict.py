"""Entry: files -> classes. `python -m catdog.predict --help` explains it."""

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from catdog import cli
from catdog.commands import PredictConfig
from catdog.config import list_options, load_config
from catdog.console import console, show_error, show_next
from catdog.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

USAGE = """Says what is in pictures: the class and its probability, for each file or each image below a folder.

  python -m catdog.predict PHOTO.jpg FOLDER ...
  python -m catdog.predict FOLDER format=csv > answers.csv
  python -m catdog.predict FOLDER sheet=out.png model=RUN_ID"""

HYDRA_FLAGS = ("--cfg", "-c", "--resolve", "--info", "--package", "-p", "--help", "-h", "--version")
MAX_SHEET_IMAGES = 60


def split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Returns (paths, options) of a command line.

    KEY=VALUE with a key that predict knows is an option, whatever lies on disk; all else without a leading dash is a path.
    """
    keys = {key for key, _, _ in list_options(PredictConfig)} | {"tracking", "hydra"}
    options, paths = [], []
    follows_flag = False
    for argument in arguments:
        key = argument.lstrip("+~").partition("=")[0]
        if follows_flag or argument in HYDRA_FLAGS or ("=" in argument and (key in keys or key.startswith("hydra."))):
            options.append(argument)
        else:
            paths.append(argument)
        follows_flag = argument in ("--cfg", "-c", "--package", "-p", "--info")
    return paths, options


def find_images(arguments: list[str]) -> list[Path]:
    """Returns the files to predict: each file as given, and every image below each folder.

    Raises:
        UserError: a path that does not exist, a folder without images, or nothing to do.
    """
    from catdog.data.images import IMAGE_SUFFIXES, is_image_file

    if not arguments:
        raise UserError("no image named. Name files or folders: python -m catdog.predict PHOTO.jpg FOLDER")
    files: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if is_image_file(file) and file.is_file())
            if not found:
                raise UserError(
                    f"{argument!r}: no images in this folder or below. Images are files that end in "
                    f"{', '.join(sorted(IMAGE_SUFFIXES))}."
                )
            files += found
        elif path.exists():
            files.append(path)
        elif "=" in argument:
            allowed = ", ".join(key for key, _, _ in list_options(PredictConfig))
            raise UserError(f"{argument!r}: neither a file nor an option; options: {allowed}.")
        else:
            raise UserError(f"{argument!r}: no such file or folder. Name files and folders that exist, or options.")
    return files


def predict(files: list[Path], uri: str, batch_size: int) -> tuple["pd.DataFrame", dict[Path, str], np.ndarray]:
    """Returns the model's answers, the reasons of files that are no readable images, and the first pictures it saw.

    Args:
        files: images of any size and format that `decode_image` reads.
        uri: MLflow model URI.
        batch_size: images per step.

    Returns:
        A table with file, class, probability, then each class's probability, in [0, 1]; reasons by file; pictures uint8
        (N, H, W, 3), those of the table's first rows, at most `MAX_SHEET_IMAGES`.
    """
    from catdog import preload  # noqa: F401  first of all: it keeps TensorFlow's import quiet

    # isort: split
    import keras
    import mlflow
    import pandas as pd

    from catdog.data.images import UnreadableImageError, decode_image
    from catdog.evaluate import explain_missing_artifacts, load_keras_model

    keras.utils.disable_interactive_logging()
    with explain_missing_artifacts(uri):
        metadata = mlflow.models.get_model_info(uri).metadata or {}
    classes, size = metadata["class_names"], metadata["image_size"]
    model = load_keras_model(uri)
    read: list[Path] = []
    unreadable: dict[Path, str] = {}
    pictures = np.zeros((0, size, size, 3), np.uint8)
    probabilities = [np.zeros((0, len(classes)), np.float32)]
    for start in range(0, len(files), batch_size):
        batch = []
        for file in files[start : start + batch_size]:
            try:
                batch.append(decode_image(file, size, size))
                read.append(file)
            except UnreadableImageError as error:
                unreadable[file] = str(error)
        if batch:
            images = np.stack(batch)
            probabilities.append(model.predict_on_batch(images))
            pictures = np.concatenate([pictures, images])[:MAX_SHEET_IMAGES]
    answers = np.concatenate(probabilities)
    table = pd.DataFrame({
        "file": [_in_utf8(file) for file in read],
        "class": [classes[index] for index in answers.argmax(axis=1)] if len(read) else [],
        "probability": answers.max(axis=1) if len(read) else [],
    })  # fmt: skip
    table = pd.concat([table, pd.DataFrame(answers, columns=[f"probability_{name}" for name in classes])], axis=1)
    return table, unreadable, pictures


def _in_utf8(file: Path) -> str:
    # Neither a table nor JSON holds a name whose bytes are not UTF-8: those bytes are written as \\xe9.
    return str(file).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def show(table: "pd.DataFrame", format: str) -> None:
    """Prints the answers to stdout as a table, CSV or JSON."""
    if format == "csv":
        sys.stdout.write(table.to_csv(index=False))
    elif format == "json":
        rows = table.astype({name: float for name in table.columns if name.startswith("probability")}).to_dict(
            "records"
        )
        sys.stdout.write(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    else:
        output = Console(width=console.width)
        shown = Table(box=box.SIMPLE_HEAD)
        shown.add_column("file", overflow="fold")
        shown.add_column("class")
        shown.add_column("probability", justify="right")
        for file, name, probability in zip(table["file"], table["class"], table["probability"], strict=True):
            shown.add_row(_one_line(file), _one_line(name), f"{probability:.3f}")
        output.print(shown)


def _one_line(name: str) -> str:
    # A newline in a file's or a class folder's name must not break the row.
    return name if name.isprintable() else repr(name)


def run(composed: DictConfig, paths: list[str]) -> None:
    """Predicts, prints, writes the sheet, and says what to do next."""
    from catdog import track
    from catdog.promote import resolve_model

    config = load_config(composed, PredictConfig)
    # stdout carries the answers alone, so that they can be piped.
    console.stderr = True
    files = find_images(paths)
    sheet = Path(config.sheet) if config.sheet else None
    if sheet and not sheet.resolve().parent.is_dir():
        raise UserError(
            f"sheet: no folder {str(sheet.parent)!r} to write {sheet.name!r} to. Make it, or name another file."
        )
    if sheet and sheet.is_dir():
        raise UserError(f"sheet: {config.sheet!r} is a folder. Name a file in it, such as sheet={sheet / 'sheet.png'}.")
    client = track.connect(config.tracking, create=False)
    uri, _, words = resolve_model(client, config.study, config.model)
    log.info("%s", words)
    table, unreadable, pictures = predict(files, uri, config.batch_size)
    show(table, config.format)
    if sheet and len(table):
        from catdog import plots

        captions = [
            f"{name} {probability:.0%}" for name, probability in zip(table["class"], table["probability"], strict=True)
        ]
        names = [Path(file).name for file in table["file"]]
        figure = plots.plot_contact_sheet(list(pictures), captions[: len(pictures)], names[: len(pictures)])
        try:
            figure.savefig(sheet, format="png", dpi=120)
        except OSError as error:
            raise UserError(f"sheet: cannot write {config.sheet!r} ({error.strerror}). Name another file.") from error
        more = f", the first {MAX_SHEET_IMAGES} of {len(table):,} images" if len(table) > MAX_SHEET_IMAGES else ""
        log.info("wrote %s%s", sheet, more)
    for file, reason in unreadable.items():
        show_error(f"{str(file)!r}: {reason}")
    place = (config.study, config.tracking.uri)
    if unreadable:
        answered = "; the others were answered" if len(table) else ""
        raise UserError(f"{len(unreadable)} of {len(files)} files are not readable images{answered}.")
    model = [f"model={config.model}"] if config.model else []
    if sheet is None:
        show_next(cli.next_command("predict", *place, *paths, *model, "sheet=sheet.png"))
    else:
        show_next(cli.next_command("evaluate", *place, *model))


def main() -> None:
    """Separates paths from options, which Hydra composes."""
    paths, options = split_arguments(sys.argv[1:])
    sys.argv[1:] = options
    cli.run_app("predict", lambda composed: run(composed, paths), usage=USAGE)


if __name__ == "__main__":
    main()
