"""What a run's result depends on besides data and seed, and which of it differs between runs."""

from collections.abc import Collection, Mapping, Sequence

from catdog.comparison.records import RunRecord
from catdog.config.digest import SAME_RESULT
from catdog.config.names import fold_mappings, is_under, show_value
from catdog.tracking.identity import DIGITS

# Groups whose choice is one ingredient, whatever keys it sets. A key that is overridden in addition is another ingredient.
CHOICES = ("augmentation", "preprocessing", "backbone", "head", "optimizer", "loss", "speed")
# Ingredients that are not config keys, and the key whose value in a run may be chosen by the machine.
CODE, LIBRARIES, DEVICE, PRECISION = "code", "libraries", "device", "trainer.precision"
# Keys that change no result, such as names, paths and rules of promotion; the seed is not an ingredient either.
UNRELATED = (
    "study", "seed", "reuse", "tracking", "promote", "dataset.cache", "dataset.cache_gb", "dataset.verify",
    *(f"speed.{key}" for key in SAME_RESULT),
)  # fmt: skip


def read_settings(record: RunRecord) -> dict[str, str]:
    """Returns what a run's result depends on besides data and seed: its config, code, libraries, precision, device.

    Values are written as a user types them: null, true, false.
    """
    tags = record.tags
    found = {key: show_value(value) for key, value in record.params.items() if counts(key)}
    if "precision" in tags.runtime:
        # The precision that `auto` became on that machine.
        found[PRECISION] = tags.runtime["precision"]
    if "device" in tags.runtime:
        found[DEVICE] = tags.runtime["device"]
    if tags.code_digest:
        found[CODE] = tags.code_digest[:DIGITS]
    return found | {f"{LIBRARIES}.{name}": version for name, version in tags.libraries.items()}


def read_all_settings(records: Sequence[RunRecord]) -> list[dict[str, str]]:
    """Returns the settings of several runs; a mapping that not all of them have, such as a layer, is one setting."""
    return fold_mappings([read_settings(record) for record in records])


def counts(key: str) -> bool:
    """Whether a config key can change the result. A group's `name` counts if the group's choice is one ingredient."""
    return not is_under(key, UNRELATED) and (not key.endswith(".name") or key.removesuffix(".name") in CHOICES)


def is_environment(key: str) -> bool:
    """Whether a setting is not of the model but of what trained it: code, a library, precision or device."""
    return is_under(key, (CODE, LIBRARIES, DEVICE, PRECISION))


def find_varying(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns the keys of settings whose values differ, sorted; a missing one differs from any value."""
    keys = sorted({key for each in settings for key in each})
    return [key for key in keys if len({each.get(key, "") for each in settings}) > 1]


def find_ingredients(varying: Collection[str]) -> dict[str, str]:
    """Returns ingredient -> the setting that holds its value: groups with another choice first, then all other keys that vary.

    Keys that follow from another choice are not ingredients.
    """
    chosen = [group for group in CHOICES if f"{group}.name" in varying]
    rest = [key for key in varying if key.partition(".")[0] not in chosen]
    return {group: f"{group}.name" for group in chosen} | {key: key for key in rest}
