"""One finding of an audit, and how severe it is."""

from collections.abc import Iterable
from dataclasses import dataclass

# An error, such as a leak or two labels of one picture, spoils results; a warning may spoil them; a note is good to know.
ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclass(frozen=True)
class Finding:
    """One finding of an audit.

    Attributes:
        severity: ERROR, WARNING or NOTE.
        kind: a short name, for tables.
        words: a description, and what to do about it.
        files: the files concerned.
    """

    severity: str
    kind: str
    words: str
    files: tuple[str, ...] = ()


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Returns the findings, worst first."""
    order = {ERROR: 0, WARNING: 1, NOTE: 2}
    return sorted(findings, key=lambda finding: order[finding.severity])
