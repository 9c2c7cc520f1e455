"""Checks of values that a user gave, each with one message: the key, what is allowed, and what was received."""

import functools
import re
from collections.abc import Mapping
from numbers import Integral, Real
from types import NoneType
from typing import Any, get_args, get_type_hints

from catdog.system.errors import UserError

# Your own code: `module:object`, such as my_models:resnet.
REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def require(ok: bool, key: str, allowed: str, received: Any, advice: str = "") -> None:
    """Raises a UserError that names the key, what is allowed and what was received, unless `ok`."""
    if not ok:
        raise UserError(f"{key}: must be {allowed}, received {received!r}.{' ' + advice if advice else ''}")


def require_types(schema: type, values: Mapping[str, Any]) -> None:
    """Raises a UserError unless each value has the type that the field of its name has in a schema."""
    words = {float: "a number", int: "a whole number", bool: "True or False", str: "a text"}
    kinds: dict[type, type] = {float: Real, int: Integral}
    for key, value in values.items():
        hint = read_hints(schema)[key]
        allowed = get_args(hint) or (hint,)
        if value is None and NoneType in allowed:
            continue
        for kind in set(allowed) & set(words):
            is_right = isinstance(value, kinds.get(kind, kind)) and (kind is bool or not isinstance(value, bool))
            require(is_right, key, words[kind] + (" or None" if NoneType in allowed else ""), value)


def require_choice(key: str, allowed: tuple[str, ...], received: Any) -> None:
    """Raises a UserError unless the value is one of those allowed."""
    require(received in allowed, key, "one of " + ", ".join(allowed), received)


def require_fraction(key: str, received: float) -> None:
    """Raises a UserError unless the value is between 0 and 1."""
    require(0 < received < 1, key, "more than 0 and less than 1", received)


def require_reference(key: str, received: str | None, *, or_name: str = "") -> None:
    """Raises a UserError unless the value is None, `module:object`, or, where allowed, a name without a colon.

    Args:
        key: the config key, for the message.
        received: the value.
        or_name: what a name without a colon means, for the message; empty if only `module:object` is allowed.
    """
    is_name = received is not None and bool(or_name) and received.isidentifier()
    require(
        received is None or is_name or bool(REFERENCE.fullmatch(received)), key,
        f"{or_name + ', or ' if or_name else ''}your own as module:object, such as my_code:build", received,
    )  # fmt: skip


def require_positive(key: str, received: float | None) -> None:
    """Raises a UserError unless the value is None or a finite number above 0."""
    require(received is None or 0 < received < float("inf"), key, "more than 0, or null", received)


# A schema never changes, and reading its hints takes a while.
read_hints = functools.cache(get_type_hints)
