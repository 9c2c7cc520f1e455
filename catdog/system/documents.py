"""Results as plain values, for JSON."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any


def to_plain(value: Any) -> Any:
    """Returns a value as JSON has it: lists, mappings with string keys, text, numbers, true, false and null.

    NaN, infinity and pandas' missing values become null, a time its ISO text, and what NumPy or pandas has for a number a number.
    """
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        # An enumeration's member is one, too.
        return str(value)
    # Pandas' marks of what is missing are neither numbers nor times.
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, datetime):
        return value.isoformat()
    return to_plain(value.tolist()) if hasattr(value, "tolist") else str(value)
