"""What differs between variants, as the page shows it: what matters for the result first, and a heat map if two keys vary."""

from collections.abc import Sequence
from dataclasses import dataclass

from catdog.comparison.analysis import Analysis
from catdog.comparison.settings import counts, find_ingredients, find_varying, is_environment, read_all_settings
from catdog.comparison.variants import Variant
from catdog.config.names import show_value

INGREDIENTS = "What was varied"
ENVIRONMENT = "What trained it: code, libraries, precision, device. It can change the result too"
FOLLOWING = "What follows from the choices above"
UNRELATED = "Names and paths, which do not change the result"


@dataclass(frozen=True)
class Difference:
    """A key whose value differs between variants, and its value in each; "" if it has none."""

    key: str
    values: tuple[str, ...]


def list_differences(variants: Sequence[Variant]) -> dict[str, list[Difference]]:
    """Returns what differs between variants, under headings, what matters most first; empty if nothing differs."""
    records = [variant.records[0] for variant in variants]
    settings = read_all_settings(records)
    varying = find_varying(settings)
    ingredients = list(find_ingredients(varying).values())
    groups = {
        INGREDIENTS: [key for key in ingredients if not is_environment(key)],
        ENVIRONMENT: [key for key in ingredients if is_environment(key)],
        FOLLOWING: [key for key in varying if key not in ingredients],
    }
    found = {title: _build(keys, settings) for title, keys in groups.items()}
    params = [record.params for record in records]
    rest = [key for key in find_varying(params) if key != "seed" and not counts(key)]
    found[UNRELATED] = _build(rest, params)
    return {title: rows for title, rows in found.items() if rows}


def _build(keys: Sequence[str], values: Sequence[dict[str, str]]) -> list[Difference]:
    return [Difference(key, tuple(show_value(each.get(key, "")) for each in values)) for key in keys]


@dataclass(frozen=True, eq=False)
class HeatMap:
    """The variants of a search over two keys, by the keys' values.

    Args:
        row_key: the key whose values are the rows, the one with more values.
        column_key: the other.
        columns: its values.
        rows: value of `row_key` -> a variant for each column; None if no variant has these values.
        lowest: the lowest mean of a variant, by the metric that is compared, the higher the better.
        highest: the highest.
    """

    row_key: str
    column_key: str
    columns: Sequence[str]
    rows: dict[str, list[Variant | None]]
    lowest: float
    highest: float

    def part(self, variant: Variant) -> float:
        """Returns where a variant lies between the worst, 0, and the best, 1."""
        return round((variant.merit - self.lowest) / ((self.highest - self.lowest) or 1), 3)


def build_heat_map(analysis: Analysis) -> HeatMap | None:
    """Returns the heat map of a search; None unless its variants differ in exactly two keys, and each is alone with its values."""
    if not analysis.is_search or not analysis.comparison.same_data:
        return None
    settings = read_all_settings([variant.records[0] for variant in analysis.variants])
    ingredients = find_ingredients(find_varying(settings))
    if len(ingredients) != 2:
        return None
    values = {
        key: _sorted([each.get(setting, "") for each in settings])
        for key, setting in sorted(ingredients.items(), key=lambda item: -len({each.get(item[1]) for each in settings}))
    }
    (row_key, row_values), (column_key, columns) = values.items()
    row_setting, column_setting = ingredients[row_key], ingredients[column_key]
    placed = {
        (each.get(row_setting, ""), each.get(column_setting, "")): variant
        for each, variant in zip(settings, analysis.variants, strict=True)
    }
    if len(placed) < len(analysis.variants):
        return None
    rows = {value: [placed.get((value, column)) for column in columns] for value in row_values}
    merits = [variant.merit for variant in analysis.variants]
    return HeatMap(row_key, column_key, columns, rows, min(merits), max(merits))


def _sorted(values: Sequence[str]) -> list[str]:
    """Returns the distinct values: numbers by size, anything else in the order of the variants."""
    distinct = list(dict.fromkeys(values))
    try:
        return sorted(distinct, key=float)
    except ValueError:
        return distinct
