"""Results for scripts and agents: one JSON document for each command, with the version number of its layout."""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

# Raised when a field goes or changes its meaning; a new field is no new version. Described in docs/json.md.
FORMAT_VERSION = 1


def format_document(command: str, content: Mapping[str, Any]) -> str:
    """Returns what a command found as the text of a JSON document.

    Args:
        command: such as "compare".
        content: lists, mappings with string keys, text, numbers (NumPy's as well), times; NaN and infinity become null.
    """
    document = {"format_version": FORMAT_VERSION, "command": command, **content}
    return json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return None if value != value else value.isoformat()
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    # Pandas' mark of a missing value is neither.
    return None if type(value).__name__ in ("NAType", "NaTType") else str(value)
