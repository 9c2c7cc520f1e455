"""The command `deliver`: sends what is left in the outbox to the tracking store. `python -m catdog.deliver --help` explains it."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from catdog import cli
from catdog.config.command_lines import next_command
from catdog.config.commands import DeliverConfig
from catdog.config.schema import DEFAULT_STUDY, load_config
from catdog.system.errors import EXIT_DEFECT
from catdog.system.wording import plural
from catdog.tracking.outbox import list_entries
from catdog.tracking.settlement import settle_entries

USAGE = """Delivers metrics, tags, figures and models that a tracking server did not accept during training.

  python -m catdog.deliver
  python -m catdog.deliver tracking.uri=http://HOST:PORT tracking.wait_s=600"""


def deliver(composed: DictConfig) -> None:
    """Delivers everything for one store and reports what is left."""
    config = load_config(composed, DeliverConfig)
    from catdog import tracking
    from catdog.registry.champion import promote
    from catdog.system.terminal import console, show_next

    root = Path(config.tracking.outbox)
    entries = list_entries(root)
    uris = {entry.folder: entry.facts.get("tracking", {}).get("uri", "") for entry in entries}
    mine = [entry for entry in entries if uris[entry.folder] == config.tracking.uri]
    # Delivery removes an entry, so read what is printed afterwards now.
    study = mine[0].facts.get("study", DEFAULT_STUDY) if mine else DEFAULT_STUDY
    command = "compare" if any(entry.folder.name.startswith("sweep") for entry in mine) else "evaluate"
    others = sorted({*uris.values()} - {config.tracking.uri, ""})
    if mine:
        client = tracking.connect(config.tracking)
        delivered, left = settle_entries(client, root, config.tracking.uri, config.tracking.wait_s, promote)
    else:
        delivered, left = 0, []
    words = f"delivered {plural(delivered, 'run')} to {config.tracking.uri}" if delivered else "nothing to deliver"
    console.print(words, highlight=False)
    for entry in left:
        pending = plural(entry.pending, "record")
        console.print(f"left: {entry.facts['name']}, {pending} in {entry.folder}", highlight=False)
    for uri in others:
        console.print(f"the outbox also holds runs for {uri}: name it with tracking.uri=", highlight=False)
    if left:
        show_next(next_command("deliver", DEFAULT_STUDY, config.tracking.uri))
        sys.exit(EXIT_DEFECT)
    show_next(next_command(command, study, config.tracking.uri))


if __name__ == "__main__":
    cli.run_app("deliver", deliver, usage=USAGE)
