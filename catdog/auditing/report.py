"""What a terminal shows of an audit."""

from rich.console import Console
from rich.text import Text

from catdog.auditing.findings import Finding
from catdog.auditing.result import DatasetFindings, PipelineFindings
from catdog.system import wording

# The most files that the terminal lists for a finding.
FILES_SHOWN = 5
STYLES = {"error": "bold red", "warning": "yellow", "note": ""}


def print_dataset(found: DatasetFindings, console: Console) -> None:
    """Prints the images that an audit of a data set looked at, and its findings."""
    counts = found.images.groupby("split")["file"].count()
    sizes = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    words = f"looked at {wording.plural(len(found.images), 'image')} ({sizes}) in {found.audit.root}"
    console.print(words, highlight=False, soft_wrap=True)
    for finding in found.found:
        print_finding(finding, console)
    if not found.found:
        console.print("nothing found")


def print_pipeline(found: PipelineFindings, console: Console) -> None:
    """Prints how many images a pipeline's splits yielded, and what moved between them."""
    for row in found.splits.itertuples():
        console.print(
            f"{row.split:5} {row.images:,} images per epoch, {row.different:,} different; "
            f"{row.different_ever:,} different in {found.traffic.epochs} epochs",
            highlight=False,
        )  # fmt: skip
    verdict, *more = found.found
    print_finding(verdict, console)
    for detail in more:
        console.print(Text(f"  {detail.words}"), soft_wrap=True)


def print_finding(finding: Finding, console: Console) -> None:
    """Prints one finding, and the first of its files."""
    text = Text(f"{finding.severity}: ", style=STYLES[finding.severity]) + Text(finding.words)
    console.print(text, soft_wrap=True)
    for file in finding.files[:FILES_SHOWN]:
        console.print(Text(f"  {file}"), soft_wrap=True)
    if len(finding.files) > FILES_SHOWN:
        console.print(f"  and {len(finding.files) - FILES_SHOWN:,} more", highlight=False)
