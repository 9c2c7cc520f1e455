"""The command `clean`: removes for good what is no longer needed. `python -m catdog.clean --help` explains it."""

import shlex
import sys
from pathlib import Path

from omegaconf import DictConfig
from rich import box
from rich.table import Table
from rich.text import Text

from catdog import cli
from catdog.config.command_lines import python_command
from catdog.config.commands import CleanConfig
from catdog.config.schema import load_config
from catdog.system.terminal import console, show_next
from catdog.system.wording import MISSING, file_size

USAGE = """Shows what is no longer needed, and how large it is: runs and studies that were deleted, with their models; what the
outbox keeps of runs that nobody resumes; images in the cache that were not used for long; temporary files. yes=true removes it for
good.

  python -m catdog.clean                        shows it, removes nothing
  python -m catdog.clean yes=true
  python -m catdog.clean cache_gb=5 yes=true    and the cache takes 5 GB at most
  python -m catdog.clean study=NAME older_than_days=0 yes=true"""


def clean(composed: DictConfig) -> None:
    """Shows what can be removed, and removes it if that is wanted."""
    config = load_config(composed, CleanConfig)
    from catdog import tracking
    from catdog.registry.cleaning import find_garbage

    client = tracking.connect_existing(config.tracking)
    found = find_garbage(
        client, outbox=Path(config.tracking.outbox), uri=config.tracking.uri, cache=Path(config.dataset.cache),
        older_than_days=config.older_than_days, cache_gb=config.cache_gb, study=config.study,
    )  # fmt: skip
    for words in found.kept:
        console.print(f"stays: {words}", highlight=False, markup=False, soft_wrap=True)
    if not found.garbage:
        console.print("Nothing to remove.")
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("to remove", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    for item in found.garbage:
        table.add_row(Text(item.what), MISSING if item.size_bytes is None else file_size(item.size_bytes))
    console.print(table)
    total = file_size(sum(item.size_bytes or 0 for item in found.garbage))
    if not config.yes:
        console.print(f"{total} in all. Nothing was removed: this only shows it.", highlight=False)
        show_next(shlex.join([python_command(), "-m", "catdog.clean", *sys.argv[1:], "yes=true"]))
        return
    for item in found.garbage:
        item.remove()
    console.print(f"Removed: {total}.", highlight=False)


if __name__ == "__main__":
    cli.run_app("clean", clean, usage=USAGE)
