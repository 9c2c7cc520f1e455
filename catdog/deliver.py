"""The command `deliver`: sends what is left in the outbox to the tracking store. `python -m catdog.deliver --help` explains it."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from catdog import cli
from catdog.config.command_lines import next_command, quote
from catdog.config.commands import DeliverConfig
from catdog.config.schema import DEFAULT_STUDY, load_config
from catdog.system.errors import EXIT_DEFECT
from catdog.system.wording import plural
from catdog.tracking.outbox import list_entries
from catdog.tracking.settlement import discard_entries_of, settle_entries
from catdog.tracking.store import is_same_store

USAGE = """Delivers metrics, tags, figures and models that a tracking server did not accept during training.

  python -m catdog.deliver
  python -m catdog.deliver tracking.uri=http://HOST:PORT tracking.wait_s=600
  python -m catdog.deliver discard=STUDY        gives up what is left of a study, checkpoints included"""


def deliver(composed: DictConfig) -> None:
    """Delivers everything for one store and reports what is left; or gives up what `discard` names."""
    config = load_config(composed, DeliverConfig)
    from catdog import tracking
    from catdog.registry.champion import promote
    from catdog.system.terminal import console, show_next

    root = Path(config.tracking.outbox)
    if config.discard is not None:
        for words in discard_entries_of(root, config.tracking.uri, config.discard):
            console.print(f"given up: {words}", highlight=False, soft_wrap=True)
        return
    entries = list_entries(root)
    mine = [entry for entry in entries if is_same_store(entry.uri, config.tracking.uri)]
    # Delivery removes an entry, so read what is printed afterwards now.
    study = mine[0].study if mine else DEFAULT_STUDY
    command = "compare" if any(entry.folder.name.startswith("sweep") for entry in mine) else "evaluate"
    others = sorted({entry.uri for entry in entries if entry not in mine} - {""})
    if mine:
        client = tracking.connect(config.tracking)
        delivered, left = settle_entries(client, root, config.tracking.uri, config.tracking.wait_s, promote)
    else:
        delivered, left = 0, []
    if delivered or not left:
        words = f"delivered {plural(delivered, 'run')} to {config.tracking.uri}" if delivered else "nothing to deliver"
        console.print(words, highlight=False)
    for entry in left:
        console.print(f"left: {entry.describe()}", highlight=False, soft_wrap=True)
    for reason in dict.fromkeys(entry.refusal for entry in left if entry.refusal):
        console.print(f"never delivered as things are: {reason}", highlight=False, soft_wrap=True)
    for uri in others:
        console.print(f"the outbox also holds runs for {uri}: name it with tracking.uri=", highlight=False)
    if left:
        place = (DEFAULT_STUDY, config.tracking.uri)
        again = [] if all(entry.refusal for entry in left) else [next_command("deliver", *place)]
        given_up = dict.fromkeys(entry.study for entry in left if entry.refusal)
        show_next(*again, *(next_command("deliver", *place, f"discard={quote(name)}") for name in given_up))
        sys.exit(EXIT_DEFECT)
    show_next(next_command(command, study, config.tracking.uri))


if __name__ == "__main__":
    cli.run_app("deliver", deliver, usage=USAGE)
