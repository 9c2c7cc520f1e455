"""The comparison as a table: for machines, and for the terminal."""

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from catdog.compare.records import Comparison, RunRecord
from catdog.wording import compact_count, percent, seconds

TERMINAL_COLUMNS = 100


def build_frame(comparison: Comparison) -> pd.DataFrame:
    """One row per run, for CSV: accuracies as fractions in [0, 1], an empty cell where nothing was measured.

    `last_` columns are the last epoch's; `kept_` columns belong to the model of `kept_epoch`, usually the best.
    `last_train_accuracy` is the running mean over the epoch with dropout and augmentation on,
    `kept_train_accuracy_clean` is measured afterwards without them.
    """
    return pd.DataFrame([_row(record) for record in comparison.records], columns=list(_COLUMNS)).astype(_COLUMNS)


_COLUMNS = {
    "run_id": "str",
    "name": "str",
    "variant": "str",
    "seed": "Int64",
    "status": "str",
    "epochs": "Int64",
    "last_train_accuracy": "float64",
    "last_val_accuracy": "float64",
    "last_val_loss": "float64",
    "last_gap_accuracy": "float64",
    "kept_epoch": "Int64",
    "kept_val_accuracy": "float64",
    "kept_val_low": "float64",
    "kept_val_high": "float64",
    "kept_val_correct": "Int64",
    "kept_val_images": "Int64",
    "kept_train_accuracy_clean": "float64",
    "test_accuracy": "float64",
    "seconds_per_epoch": "float64",
    "run_seconds": "float64",
    "parameters": "Int64",
    "trainable_parameters": "Int64",
}


def _row(record: RunRecord) -> dict[str, object]:
    low, high = record.kept_interval
    return {
        "run_id": record.run_id,
        "name": record.name,
        "variant": record.variant,
        "seed": record.seed,
        "status": record.status,
        "epochs": record.epochs,
        "last_train_accuracy": record.last("train/accuracy"),
        "last_val_accuracy": record.last("val/accuracy"),
        "last_val_loss": record.last("val/loss"),
        "last_gap_accuracy": record.last("gap/accuracy"),
        "kept_epoch": record.kept_epoch,
        "kept_val_accuracy": record.kept_accuracy,
        "kept_val_low": low,
        "kept_val_high": high,
        "kept_val_correct": record.kept_correct if record.kept_images else None,
        "kept_val_images": record.kept_images,
        "kept_train_accuracy_clean": record.metric("train/accuracy_clean"),
        "test_accuracy": record.metric("test/accuracy"),
        "seconds_per_epoch": record.seconds_per_epoch,
        "run_seconds": record.metric("run_seconds"),
        "parameters": _whole(record.metric("model/parameters")),
        "trainable_parameters": _whole(record.metric("model/trainable_parameters")),
    }


def build_table(comparison: Comparison) -> Table:
    """The same runs for a terminal of 100 columns; accuracies in percent, the best kept one in bold."""
    table = Table(
        title=f"{comparison.study}: {comparison.val_images:,} validation images, accuracies in %",
        caption="last: last epoch. kept: the model of the kept epoch. "
        f"Always the most common class: {percent(comparison.baseline)}.",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("run", overflow="fold", min_width=10)
    for head in (
        "last\ntrain",
        "last\nval",
        "gap",
        "kept val\n[95 %]",
        "kept\nepoch",
        "kept train\n(clean)",
        "s per\nepoch",
    ):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("params", justify="right", no_wrap=True)
    table.add_column("train-\nable", justify="right", no_wrap=True)
    for record in comparison.records:
        # Text, not a string: rich would read "[seed=1]" in a name as markup.
        name = Text(record.name)
        if not record.finished:
            name.append(f" ({record.status})", style="bold red")
        kept = Text(percent(record.kept_accuracy), style="bold" if record is comparison.best else "")
        if record.kept_images:
            low, high = record.kept_interval
            kept.append(f" [{percent(low)}, {percent(high)}]", style="not bold")
        table.add_row(
            name,
            percent(record.last("train/accuracy")),
            percent(record.last("val/accuracy")),
            percent(record.last("gap/accuracy")),
            kept,
            str(record.kept_epoch or "–"),  # noqa: RUF001
            percent(record.metric("train/accuracy_clean")),
            seconds(record.seconds_per_epoch),
            compact_count(record.metric("model/parameters")),
            compact_count(record.metric("model/trainable_parameters")),
            style=None if record.finished else "dim",
        )
    return table


def print_table(comparison: Comparison, console: Console | None = None) -> None:
    """Writes the table to the terminal, or as plain text of 100 columns to a pipe or a file."""
    console = console or Console()
    if not console.is_terminal:
        # Away from a terminal rich assumes 80 columns, and would fold names for nobody.
        console = Console(file=console.file, width=TERMINAL_COLUMNS)
    console.print(build_table(comparison), width=min(console.width, TERMINAL_COLUMNS))


def _whole(value: float) -> int | None:
    return None if pd.isna(value) else int(value)
