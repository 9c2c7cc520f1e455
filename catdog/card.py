"""The command `card`: writes what is on record about a model as one HTML page. `python -m catdog.card --help` explains it."""

from pathlib import Path

from omegaconf import DictConfig

from catdog import cli
from catdog.config.command_lines import next_command
from catdog.config.commands import CardConfig
from catdog.config.schema import load_config
from catdog.system.errors import UserError
from catdog.system.terminal import console, show_next

USAGE = """Writes a model card: what is on record about a model, as one HTML page. Nothing is measured anew.
A registered version has one among the artifacts of its run, model_cards/NAME-VERSION.html; this command writes one at any time.

  python -m catdog.card
  python -m catdog.card study=quickstart output=card.html
  python -m catdog.card model=RUN_ID            or model=3, model=champion, model=flowers/3, model=flowers@champion"""


def card(composed: DictConfig) -> None:
    """Writes the card, and says what to do next."""
    config = load_config(composed, CardConfig)
    from catdog.study import Study

    output = Path(config.output)
    if not output.resolve().parent.is_dir():
        raise UserError(
            f"output: no folder {str(output.parent)!r} to write {output.name!r} to. Make it, or name another file."
        )
    uri = config.tracking.uri
    study = Study.choose(config.study, config.model, tracking_uri=uri)
    found = study.card(config.model)
    try:
        path = found.save(output)
    except UserError as error:
        raise UserError(f"output: {str(error).removeprefix('path: ')}") from error
    console.print(f"{found.words}: {found.summary}.", highlight=False, soft_wrap=True)
    named = [f"model={config.model}"] if config.model else []
    show_next(f"open {path}", next_command("predict", study.name, uri, "PHOTO.jpg", *named))


if __name__ == "__main__":
    cli.run_app("card", card, usage=USAGE)
