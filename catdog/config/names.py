"""The names of runs: what distinguishes each from the others."""

import hashlib
import re
from collections.abc import Collection, Sequence

# Keys that say where things are stored or how they are called, not what a single run is.
UNNAMED_KEYS = (
    "study",
    "tracking",
    "promote",
    "experiment",
    "dataset",
    "reuse",
    "hydra",
)
# A longer name does not fit into a table beside its numbers.
LONGEST_NAME = 60
# Where the part of a long name that is kept ends.
KEPT_NAME = 36


def name_job(model: str, overrides: Sequence[str], varying: Collection[str] | None = None) -> tuple[str, str]:
    """Returns (name, variant) of a run: what distinguishes it, with and without its seed.

    A single run with many overrides is named after the first of them; a digest of all of them keeps its name unique.

    Args:
        model: the choice of the group `model`, made by the command line, an experiment or the default.
        overrides: the command line's, such as ["model=cnn", "seed=1", "trainer.epochs=3"].
        varying: keys whose values differ in the sweep; None, for a single run: all keys that shape the run.
    """
    values = read_overrides(overrides)
    parts = [model]
    for key, value in values.items():
        named = not is_under(key, UNNAMED_KEYS) if varying is None else key in varying
        if key not in ("model", "seed") and named:
            parts.append(f"{key.removeprefix('trainer.')}={value}" if value else f"no {key}")
    variant = " ".join(parts)
    if varying is None and len(variant) > LONGEST_NAME:
        kept = 1
        while kept < len(parts) and len(" ".join(parts[: kept + 1])) <= KEPT_NAME:
            kept += 1
        digest = hashlib.sha256(variant.encode()).hexdigest()[:6]
        variant = f"{' '.join(parts[:kept])} +{len(parts) - kept} more {digest}"
    seeded = "seed" in values and (varying is None or "seed" in varying)
    return (f"{variant} seed={values['seed']}" if seeded else variant), variant


def read_overrides(overrides: Sequence[str]) -> dict[str, str]:
    """Returns key -> value of overrides; the value of a key that is removed is empty."""
    words = (item.lstrip("+~").partition("=") for item in overrides)
    # Hydra puts a backslash before special characters of a swept value, such as the colon of module:function.
    return {key: re.sub(r"\\(.)", r"\1", value) for key, _, value in words}


def is_under(key: str, groups: Collection[str]) -> bool:
    """Returns whether a config key is one of these, or lies in one of these groups."""
    return any(key == group or key.startswith(f"{group}.") for group in groups)
