"""Entry: files -> classes. `python -m catdog.predict --help` explains it."""

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from catdog import cli
from catdog.config.command_lines import next_command
from catdog.config.commands import PredictConfig
from catdog.config.schema import list_options, load_config
from catdog.deployment.prediction import MAX_SHEET_IMAGES, find_images, predict
from catdog.system.errors import UserError
from catdog.system.terminal import console, show_error, show_next

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

USAGE = """Says what is in pictures: the class and its probability, for each file or each image below a folder.

  python -m catdog.predict PHOTO.jpg FOLDER ...
  python -m catdog.predict FOLDER format=csv > answers.csv
  python -m catdog.predict FOLDER sheet=out.png model=RUN_ID"""


HYDRA_FLAGS = ("--cfg", "-c", "--resolve", "--info", "--package", "-p", "--help", "-h", "--version")


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
    from catdog import tracking
    from catdog.registry.champion import resolve_model

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
    client = tracking.connect(config.tracking, create=False)
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
        show_next(next_command("predict", *place, *paths, *model, "sheet=sheet.png"))
    else:
        show_next(next_command("evaluate", *place, *model))


def main() -> None:
    """Separates paths from options, which Hydra composes."""
    paths, options = split_arguments(sys.argv[1:])
    sys.argv[1:] = options
    cli.run_app("predict", lambda composed: run(composed, paths), usage=USAGE)


if __name__ == "__main__":
    main()
