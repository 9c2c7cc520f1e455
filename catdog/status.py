"""The command `status`: shows who works on which run. `python -m catdog.status --help` explains it."""

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich import box
from rich.table import Table
from rich.text import Text

from catdog import cli
from catdog.config.commands import StatusConfig
from catdog.config.schema import load_config
from catdog.system.terminal import add_name_column, console, name_text, show_table
from catdog.system.wording import duration

if TYPE_CHECKING:
    from catdog.tracking.active import ActiveRun

USAGE = """Shows the runs that are being trained, wait in a cluster's queue, or were left open: who works on each, since when, and
when that was last heard of. It changes nothing, and works on any host that sees the tracking store and the outbox.

  python -m catdog.status
  python -m catdog.status study=flowers tracking=server tracking.uri=http://HOST:PORT
  python -m catdog.status format=json"""


def status(composed: DictConfig) -> None:
    """Prints the runs as a table, or as JSON."""
    config = load_config(composed, StatusConfig)
    from catdog import tracking
    from catdog.tracking.active import list_active

    client = tracking.connect_existing(config.tracking)
    if client and config.study is not None:
        tracking.check_study(client, config.study)
    found = list_active(client, Path(config.tracking.outbox), config.tracking.uri, config.study)
    if config.format == "json":
        cli.show_json("status", {"runs": [dataclasses.asdict(run) for run in found], "next": []})
        return
    if not found:
        console.print("no run is being trained", highlight=False)
        return
    show_table(_build_table(found, time.time()))


def _build_table(found: "list[ActiveRun]", now: float) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title_justify="left")
    add_name_column(table, "run", [run.name for run in found])
    for heading in ("study", "state", "epoch", "who", "for", "last heard of"):
        table.add_column(heading, overflow="fold")
    for run in found:
        epoch = "" if run.epoch is None else f"{run.epoch}/{run.epochs}" if run.epochs else str(run.epoch)
        since = "" if run.started is None else duration(now - run.started)
        heard = "" if run.last_heard is None else f"{duration(now - run.last_heard)} ago"
        table.add_row(name_text(run.name), Text(run.study), Text(run.state), epoch, Text(run.who), since, heard)
    return table


if __name__ == "__main__":
    cli.run_app("status", status, usage=USAGE)
