"""How a sweep went: a table for the terminal, and one for the sweep's page in MLflow."""

from rich import box
from rich.table import Table

from catdog.sweep.jobs import INTERRUPTED, JobState


def build_summary(jobs: list[JobState]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("run")
    table.add_column("outcome", overflow="fold")
    for title in ("train", "val", "gap", "best val", "at epoch", "minutes"):
        table.add_column(title, justify="right")
    for job in jobs:
        o = job.outcome
        if o is None:
            state = "not started" if not job.error else INTERRUPTED if job.error == INTERRUPTED else "[red]failed[/red]"
            table.add_row(job.name, state)
            continue
        table.add_row(
            job.name, "finished", f"{o.last_train_accuracy:.3f}", f"{o.last_val_accuracy:.3f}",
            f"{o.last_train_accuracy - o.last_val_accuracy:+.3f}", f"{o.best_val_accuracy:.3f}", str(o.best_epoch),
            f"{o.seconds / 60:.1f}",
        )  # fmt: skip
    return table


def describe_outcomes(jobs: list[JobState]) -> str:
    """Returns the summary in Markdown, for the description on the sweep's page in MLflow."""
    lines = [
        "| run | last train accuracy | last val accuracy | best val accuracy | at epoch |",
        "|---|---|---|---|---|",
    ]
    for job in jobs:
        o = job.outcome
        figures = (
            [
                f"{o.last_train_accuracy:.3f}",
                f"{o.last_val_accuracy:.3f}",
                f"{o.best_val_accuracy:.3f}",
                str(o.best_epoch),
            ]
            if o
            else [job.error.replace("|", "/").replace("\n", " ") or "not started", "", "", ""]
        )
        lines.append("| " + " | ".join([job.name, *figures]) + " |")
    return "\n".join(lines)
