"""The command `predict`: says what is in pictures. `python -m catdog.predict --help` explains it."""

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from catdog import cli
from catdog.config.command_lines import next_command
from catdog.config.commands import PredictConfig, split_paths
from catdog.config.schema import load_config
from catdog.system.errors import UserError
from catdog.system.terminal import console, show_error, show_next
from catdog.system.wording import plural

if TYPE_CHECKING:
    from catdog.deployment.prediction import SavedAnswers

log = logging.getLogger(__name__)

USAGE = """Says what is in pictures: the class and its probability, for each file or each image below a folder.

  python -m catdog.predict PHOTO.jpg FOLDER ...
  python -m catdog.predict FOLDER format=csv > answers.csv
  python -m catdog.predict FOLDER sheet=out.png model=RUN_ID
  python -m catdog.predict FOLDER output=answers.parquet      # many images; the same command resumes"""

# The most unreadable files that are named on the terminal if a file of answers names them all.
MOST_NAMED = 20


def predict(composed: DictConfig, paths: list[str]) -> None:
    """Predicts, prints the answers, writes the contact sheet if there is to be one, and says what to do next."""
    config = load_config(composed, PredictConfig)
    from catdog.deployment import answer_file, contact_sheet
    from catdog.deployment.photo_files import find_images
    from catdog.deployment.prediction import build_answers_table, list_answers
    from catdog.study import Study

    # stdout must contain nothing but the answers, so that they can be piped.
    console.stderr = True
    if config.output:
        answer_file.require_place(Path(config.output))
    files = find_images(paths)
    sheet = Path(config.sheet) if config.sheet else None
    if sheet:
        contact_sheet.require_place(sheet)
    uri = config.tracking.uri
    study = Study.choose(config.study, config.model, tracking_uri=uri)
    model = study.model(config.model)
    log.info("%s", model.words)
    place = (study.name, uri)
    named = [f"model={config.model}"] if config.model else []
    if config.output:
        _report_saved(model.save_answers(paths, config.output, config.batch_size, files=files))
        show_next(next_command("evaluate", *place, *named))
        return
    answers = model.answer_files(files, config.batch_size)
    table = answers.table
    if config.format == "csv":
        sys.stdout.write(answer_file.write_csv(table))
    elif config.format == "json":
        sys.stdout.write(json.dumps(list_answers(table), indent=2, ensure_ascii=False) + "\n")
    else:
        cli.show_result(build_answers_table(table))
    if sheet and len(table):
        log.info("wrote %s", contact_sheet.save(sheet, answers, model.image_size))
    for file, reason in answers.unreadable.items():
        show_error(f"{str(file)!r}: {reason}")
    if answers.unreadable:
        answered = "; the others were answered" if len(table) else ""
        raise UserError(f"{len(answers.unreadable)} of {len(files)} files cannot be read as images{answered}.")
    if sheet is None:
        show_next(next_command("predict", *place, *paths, *named, "sheet=sheet.png"))
    else:
        show_next(next_command("evaluate", *place, *named))


def _report_saved(saved: "SavedAnswers") -> None:
    """Says what was written, and names the files that could not be read.

    Raises:
        UserError: there are such files; the others were answered.
    """
    log.info("wrote %s: %s", saved.path, plural(saved.files, "row"))
    for file, reason in saved.unreadable[:MOST_NAMED]:
        show_error(f"{str(file)!r}: {reason}")
    if saved.unreadable:
        count = len(saved.unreadable)
        more = f" {count - MOST_NAMED:,} more are not named here." if count > MOST_NAMED else ""
        answered = "; the others were answered" if count < saved.files else ""
        raise UserError(
            f"{count:,} of {saved.files:,} files cannot be read as images{answered}.{more} The column "
            f"unreadable of {saved.path} has the reason for each."
        )


def main() -> None:
    """Separates the paths from the options, and lets Hydra compose the options."""
    typed = sys.argv[1:]
    paths, options = split_paths(typed)
    sys.argv[1:] = options
    cli.run_app("predict", lambda composed: predict(composed, paths), usage=USAGE, typed=typed)


if __name__ == "__main__":
    main()
