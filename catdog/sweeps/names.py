"""The names of the runs of a sweep: what distinguishes each from the others."""

import re

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


def name_job(model: str, overrides: list[str], varying: set[str] | None = None) -> tuple[str, str]:
    """Returns (name, variant) of a run: what distinguishes it, with and without its seed.

    Args:
        model: the choice of the group `model`, made by the command line, an experiment or the default.
        overrides: the command line's, such as ["model=cnn", "seed=1", "trainer.epochs=3"].
        varying: keys whose values differ in the sweep; None, for a single run: all keys that shape the run.
    """
    words = (item.lstrip("+~").partition("=") for item in overrides)
    # Hydra puts a backslash before special characters of a swept value, such as the colon of module:function.
    values = {key: re.sub(r"\\(.)", r"\1", value) for key, _, value in words}
    parts = [model]
    for key, value in values.items():
        unnamed = any(key == name or key.startswith(name + ".") for name in UNNAMED_KEYS)
        if key not in ("model", "seed") and (not unnamed if varying is None else key in varying):
            parts.append(f"{key.removeprefix('trainer.')}={value}" if value else f"no {key}")
    variant = " ".join(parts)
    seeded = "seed" in values and (varying is None or "seed" in varying)
    return (f"{variant} seed={values['seed']}" if seeded else variant), variant
