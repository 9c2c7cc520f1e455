"""Results as plain values, for JSON."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any


def to_plain(value: Any) -> Any:
    """Returns a value in the types that JSON has: lists, mappings with string keys, text, numbers, true, false and null.

    NaN, infinity and pandas' missing values become null, a time becomes ISO text, and a number of NumPy or pandas a plain number.
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
        # A member of a StrEnum is a str too.
        return str(value)
    # pandas' markers of missing values; NaT would otherwise pass for a datetime.
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, datetime):
        return value.isoformat()
    return to_plain(value.tolist()) if hasattr(value, "tolist") else str(value)
