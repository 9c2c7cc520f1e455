"""The summary of a sweep: a table for the terminal, and one for the sweep's page in MLflow."""

from rich import box
from rich.table import Table
from rich.text import Text

from catdog.sweeps.jobs import INTERRUPTED, JobState
from catdog.system.terminal import add_name_column, name_text
from catdog.system.wording import plural


def build_summary(jobs: list[JobState]) -> Table:
    """Returns a table for the terminal with one row per run: its outcome and its accuracies."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left")
    add_name_column(table, "run", [job.name for job in jobs])
    table.add_column("outcome", overflow="fold")
    for title in ("train", "val", "gap", "best val", "at epoch", "minutes"):
        table.add_column(title, justify="right")
    for job in jobs:
        o = job.outcome
        if o is None:
            table.add_row(name_text(job.name), _describe_missing(job))
            continue
        state = "reused" if job.planned.state == "reuse" and job.planned.same_as is None else "finished"
        if job.planned.same_as is not None:
            state = f"as {jobs[job.planned.same_as].name}"
        elif job.retries:
            state += f" ({plural(job.retries, 'restart')})"
        table.add_row(
            name_text(job.name), name_text(state), f"{o.last_train_accuracy:.3f}", f"{o.last_val_accuracy:.3f}",
            f"{o.last_train_accuracy - o.last_val_accuracy:+.3f}", f"{o.best_val_accuracy:.3f}", str(o.best_epoch),
            f"{o.seconds / 60:.1f}",
        )  # fmt: skip
    return table


def _describe_missing(job: JobState) -> Text:
    if not job.error:
        return Text("not started")
    if job.error == INTERRUPTED:
        return Text("interrupted", style="yellow")
    return Text("busy", style="yellow") if job.planned.state == "busy" else Text("failed", style="red")


def describe_outcomes(jobs: list[JobState], sweep_id: str) -> str:
    """Returns the summary in Markdown, with the command for the verdicts, for the sweep's description in MLflow."""
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
    command = f"python -m catdog.compare study={jobs[0].config.study} sweep={sweep_id}"
    return "\n".join([*lines, "", f"The verdicts: `{command}`"])
