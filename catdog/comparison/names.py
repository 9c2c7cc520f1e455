"""Names for runs that are compared: what varies among them, and no more than tells them apart."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from catdog.comparison.records import RunRecord
from catdog.comparison.settings import UNRELATED, find_ingredients, find_varying, is_environment
from catdog.config.names import LONGEST_NAME, is_under, name_job, read_overrides, shorten_keys

# The end of a name that does not have all keys that vary.
SHORTENED = " …"
# More settings than this in the names of variants that are called the same would say less than a digest.
MOST_ADDED = 2


def name_by_differences(records: Sequence[RunRecord], *, in_sweep: bool) -> list[RunRecord]:
    """Returns the runs with names of the keys whose values vary among them; keys that all have in common are left out.

    Where the names would be long, they have only the keys that are needed to tell the variants apart, and end with an ellipsis.
    Runs of other tools keep the names that their scripts gave them.

    Args:
        records: the runs, as they were named when they were trained.
        in_sweep: whether they are the runs of one sweep, which has named them in this way. Such names stay if they are short.
    """
    if in_sweep and all(len(record.variant) <= LONGEST_NAME for record in records):
        return list(records)
    given = [record.tags.overrides for record in records]
    trained = [(record, overrides) for record, overrides in zip(records, given, strict=True) if overrides is not None]
    varying = _find_varying_keys([record for record, _ in trained], [overrides for _, overrides in trained])
    whole = {record.run_id: _name(record, overrides, varying) for record, overrides in trained}
    names = whole
    if max(map(len, whole.values()), default=0) > LONGEST_NAME:
        few = _find_telling_keys(trained, varying, len(set(whole.values())))
        short = {record.run_id: _name(record, overrides, few) for record, overrides in trained}
        names = {run_id: name if name == whole[run_id] else name + SHORTENED for run_id, name in short.items()}
    seeded = len({record.seed for record in records}) > 1
    return [
        replace(record, variant=names[record.run_id], name=names[record.run_id] + f" seed={record.seed}" * seeded)
        if record.run_id in names
        else record
        for record in records
    ]


def _name(record: RunRecord, overrides: Sequence[str], keys: Collection[str]) -> str:
    # A stored name begins with the choice of the model, which an experiment may have made instead of an override.
    return name_job(record.variant.partition(" ")[0], overrides, keys)[1]


def _find_varying_keys(records: Sequence[RunRecord], overrides: Sequence[Sequence[str]]) -> list[str]:
    """Returns the overridden keys whose values vary, in the order of the command lines."""
    given = [read_overrides(each) for each in overrides]
    # A key that is given for one run may have the same value by default in another.
    varying = find_varying([record.params for record in records])
    # These choices are no params of their own. The model is named where a builder of the user's has taken its place.
    varying += [group for group in ("model", "without") if len({each.get(group) for each in given}) > 1]
    return [
        key
        for key in dict.fromkeys(key for each in given for key in each)
        if not is_under(key, UNRELATED) and any(is_under(other, (key,)) for other in varying)
    ]


def _find_telling_keys(
    trained: Sequence[tuple[RunRecord, Sequence[str]]], varying: Sequence[str], distinct: int
) -> list[str]:
    """Returns the keys that tell the variants apart, those with most values first, and more as long as the names stay short."""
    given = [read_overrides(overrides) for _, overrides in trained]
    by_values = sorted(varying, key=lambda key: -len({each.get(key) for each in given}))
    chosen: list[str] = []
    for key in by_values:
        names = {_name(record, overrides, [*chosen, key]) for record, overrides in trained}
        told = {_name(record, overrides, chosen) for record, overrides in trained}
        if len(told) < distinct or max(map(len, names)) <= LONGEST_NAME - len(SHORTENED):
            chosen.append(key)
    return chosen


def common_overrides(records: Sequence[RunRecord]) -> list[str]:
    """Returns the overrides that all runs have in common, such as "trainer.epochs=20", without names, paths and the model."""
    given = [record.tags.overrides for record in records]
    known = [overrides for overrides in given if overrides is not None]
    if not known or len(known) < len(given):
        return []
    shared = [item for item in known[0] if all(item in overrides for overrides in known)]
    keys = [item.lstrip("+~").partition("=")[0] for item in shared]
    return [
        item
        for item, key in zip(shared, keys, strict=True)
        if key != "model" and not is_under(key, (*UNRELATED, "hydra"))
    ]


def tell_apart(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns what to add to the equal names of variants: the settings in which they differ, "epochs=8"; "" if that is too much."""
    chosen: list[str] = []
    added = [""] * len(settings)
    ingredients = find_ingredients(find_varying(settings))
    short = shorten_keys(ingredients)
    # What the model is says more than a digest of the code that trained it.
    for key, setting in sorted(ingredients.items(), key=lambda each: is_environment(each[1])):
        if any(len(each.get(setting, "")) > LONGEST_NAME for each in settings):
            continue
        longer = [
            f"{words} {short[key]}={each.get(setting) or 'none'}".strip()
            for words, each in zip(added, settings, strict=True)
        ]
        if len(set(longer)) > len(set(added)):
            chosen, added = [*chosen, key], longer
        if len(set(added)) == len(settings):
            return added
        if len(chosen) == MOST_ADDED:
            break
    return [""] * len(settings)
