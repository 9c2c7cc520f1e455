"""What a terminal shows of the comparison of new photos with validation images."""

from rich import box
from rich.console import Console
from rich.table import Table

from catdog.auditing.drift import NAMES, DriftFindings
from catdog.auditing.report import print_finding
from catdog.system import wording
from catdog.system.terminal import show_table


def print_photos(found: DriftFindings, console: Console) -> None:
    """Prints how new photos differ from validation images, what accuracy may be expected, and the findings."""
    console.print(
        f"compared {wording.plural(len(found.counted), 'photo')} of {len(found.photos):,} in {found.root} with "
        f"{wording.plural(found.compared, 'validation image')} of {found.model}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if found.shifts:
        show_table(_build_traits_table(found))
    for finding in found.found:
        print_finding(finding, console)


def _build_traits_table(found: DriftFindings) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("median (5% to 95%)")
    for title in ("validation images", "new photos", "effect", "p (Holm)"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("difference")
    sizes = dict(zip(found.traits["trait"], found.traits["size"], strict=True))
    for name, shift in found.shifts.items():
        p = found.p_holm[name]
        table.add_row(
            NAMES[name],
            *(f"{_short(middle)} ({_short(low)} to {_short(high)})" for low, middle, high in (shift.former, shift.new)),
            f"{shift.effect:+.2f} ({shift.low:+.2f} to {shift.high:+.2f})",
            "< 0.001" if p < 0.001 else f"{p:.3f}",
            sizes[name] or "none seen",
        )
    return table


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
