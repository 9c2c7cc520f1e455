"""What made the difference: the ingredients in which two variants differ, and the pairs that isolate one ingredient."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from catdog.comparison.settings import CHOICES, CODE, DEVICE, LIBRARIES, find_ingredients, read_settings
from catdog.comparison.variants import Variant
from catdog.comparison.verdicts import Verdict
from catdog.config.names import drop_empty, find_partial, fold_mappings
from catdog.config.schema import CONF
from catdog.statistics.contrasts import Contrast

# Characters of a value in a sentence, a table or a figure; the page's table of what differs has all of it.
LONGEST_VALUE = 60


@dataclass(frozen=True)
class Ingredient:
    """One thing in which two variants differ, with its value in each: a config key or group, the code, or a library."""

    key: str
    before: str
    after: str

    @property
    def words(self) -> str:
        """The change in words, such as "augmentation none -> flip_rotate"."""
        before, after = (
            value if len(value) <= LONGEST_VALUE else f"{value[:LONGEST_VALUE]}\N{HORIZONTAL ELLIPSIS}"
            for value in (self.before or "none", self.after or "none")
        )
        return f"{self.key} {before} \N{RIGHTWARDS ARROW} {after}"


@dataclass(frozen=True, eq=False)
class Effect:
    """A pair of variants and the ingredients in which they differ.

    Args:
        before: the variant that comes first in the comparison.
        after: the other.
        ingredients: what changes from one to the other, at least one.
        verdict: the verdict on the pair; its own order is by accuracy.
        steps: names of variants that lead from one to the other, one ingredient at a time; empty if some are missing.
        commands: if several ingredients change and there are no steps, commands that train the variants in between; empty if they
            are not known.
    """

    before: Variant
    after: Variant
    ingredients: tuple[Ingredient, ...]
    verdict: Verdict
    steps: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()

    @property
    def is_single(self) -> bool:
        """Whether the pair isolates one ingredient."""
        return len(self.ingredients) == 1

    @property
    def difference(self) -> tuple[float, float, float]:
        """What the change adds to the accuracy: (estimate, low, high), with the 95% interval for this pair alone."""
        return self._turned(self.verdict.accuracy)

    @property
    def caveat(self) -> str:
        """What a sentence about the change has to add, by the verdict on the pair, which allows for all pairs; "" if nothing."""
        return "" if self.verdict.is_difference else "may be nothing"

    @property
    def gap_difference(self) -> tuple[float, float, float]:
        """What the change adds to the overfitting gap: (estimate, low, high), with the 95% interval for this pair alone."""
        return self._turned(self.verdict.gap)

    def _turned(self, found: Contrast) -> tuple[float, float, float]:
        sign = 1 if self.verdict.first is self.after else -1
        low, high = sorted((sign * float(found.low), sign * float(found.high)))
        return sign * float(found.estimate), low, high


def find_effects(variants: Sequence[Variant], verdicts: Sequence[Verdict]) -> list[Effect]:
    """Returns every judged pair with the ingredients in which it differs: single ones first, then confounded ones."""
    order = {variant.name: place for place, variant in enumerate(variants)}
    settings = drop_empty([read_settings(variant.records[0]) for variant in variants])
    codes, keys = _encode(settings)
    graph = _single_steps(codes, keys, _find_partial_mappings(settings, keys))
    effects = []
    for verdict in verdicts:
        if verdict.first.members or verdict.second.members:
            # An ensemble is no variant that differs in a setting.
            continue
        before, after = sorted((verdict.first, verdict.second), key=lambda variant: order[variant.name])
        ingredients = differing_ingredients(settings[order[before.name]], settings[order[after.name]])
        path = _shortest_path(graph, codes, order[before.name], order[after.name]) if len(ingredients) > 1 else []
        # A longer path is a detour, which does not isolate the ingredients.
        steps = tuple(variants[place].name for place in path) if len(path) == len(ingredients) + 1 else ()
        commands = () if steps or len(ingredients) < 2 else separating_commands(before, after, ingredients)
        if ingredients:
            effects.append(Effect(before, after, ingredients, verdict, steps, commands))
    place = {
        id(effect): (len(effect.ingredients) > 1, order[effect.before.name], order[effect.after.name])
        for effect in effects
    }
    return sorted(effects, key=lambda effect: place[id(effect)])


def differing_ingredients(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Ingredient, ...]:
    """Returns the ingredients in which two runs differ, from their settings as `read_settings` returns them."""
    before, after = fold_mappings([before, after])
    values = {key: (before.get(key, ""), after.get(key, "")) for key in sorted({*before, *after})}
    changed = {key: pair for key, pair in values.items() if pair[0] != pair[1]}
    return tuple(Ingredient(key, *changed[setting]) for key, setting in find_ingredients(changed).items())


def separating_commands(before: Variant, after: Variant, ingredients: Sequence[Ingredient]) -> tuple[str, ...]:
    """Returns commands that train the variants between two variants, each with one more ingredient, with the same seeds.

    Preprocessing changes before the backbone, because a pretrained backbone expects a certain pixel range. There are no commands if
    a change is not a single override.
    """
    base = before.records[0].tags.overrides
    changes = [_override(ingredient) for ingredient in ingredients]
    if base is None or None in changes:
        return ()
    keys = {ingredient.key for ingredient in ingredients}
    # Changes come after the model, which chooses the groups. The variant's own overrides of the changed keys are dropped.
    kept = [item for item in base if item.lstrip("+~").partition("=")[0] not in keys]
    seeds = ",".join(map(str, sorted({*before.seeds, *after.seeds})))
    commands = []
    for count in range(1, len(ingredients)):
        changed = [str(change) for change in changes[:count]]
        later = {ingredient.key for ingredient in ingredients[count:]}
        rest = [item for item in base if item.lstrip("+~").partition("=")[0] in later]
        commands.append(shlex.join(["python", "-m", "catdog.train", "-m", *kept, *rest, *changed, f"seed={seeds}"]))
    return tuple(commands)


def _override(ingredient: Ingredient) -> str | None:
    """Returns the ingredient's change as an override, or None if it is not a single override."""
    if ingredient.key.partition(".")[0] in (CODE, LIBRARIES, DEVICE):
        return None
    if ingredient.key in CHOICES:
        file = CONF / ingredient.key / f"{ingredient.after}.yaml"
        return f"{ingredient.key}={ingredient.after}" if file.is_file() else None
    is_mapping = ingredient.after.startswith("{") or ".layers." in ingredient.key
    plain = ingredient.before and ingredient.after and not is_mapping
    return f"{ingredient.key}={ingredient.after}" if plain else None


def _encode(settings: Sequence[Mapping[str, str]]) -> tuple[np.ndarray, list[str]]:
    """Returns V variants' settings as codes, int (V, K), and the K keys whose values differ between variants."""
    table = pd.DataFrame(settings).fillna("")
    keys = [key for key in map(str, table) if table[key].nunique() > 1]
    codes = [pd.factorize(table[key])[0] for key in keys]
    return np.array(codes, dtype=int).reshape(len(keys), len(settings)).T, keys


def _find_partial_mappings(
    settings: Sequence[Mapping[str, str]], keys: Sequence[str]
) -> list[tuple[list[int], np.ndarray]]:
    """Returns, of each mapping that some variants lack, the places of its keys and whether each variant has it: bool (V,)."""
    found = []
    for mapping in find_partial(settings):
        members = [place for place, key in enumerate(keys) if key == mapping or key.startswith(f"{mapping}.")]
        has = [any(key.startswith(f"{mapping}.") for key in each) for each in settings]
        if members:
            found.append((members, np.array(has)))
    return found


def _single_steps(
    codes: np.ndarray, keys: Sequence[str], mappings: Sequence[tuple[list[int], np.ndarray]]
) -> np.ndarray:
    """Returns which pairs of variants differ in exactly one ingredient, as by `differing_ingredients`: bool (V, V).

    Args:
        codes: of the settings, int (V, K).
        keys: the K keys.
        mappings: as `_find_partial_mappings` returns them.
    """
    groups = [key.partition(".")[0] for key in keys]
    chosen = {group: keys.index(f"{group}.name") for group in CHOICES if f"{group}.name" in keys}
    steps = np.zeros((len(codes), len(codes)), dtype=bool)
    for here, (row, own) in enumerate(zip(steps, codes, strict=True)):
        differs = codes != own
        for members, has in mappings:
            # A mapping that one of two lacks is one ingredient, whatever its keys.
            one = (has != has[here]) & differs[:, members].any(axis=1)
            differs[np.ix_(one, members)] = False
            differs[one, members[0]] = True
        count = differs[:, [group not in chosen for group in groups]].sum(axis=1)
        for group, name in chosen.items():
            members = [place for place, other in enumerate(groups) if other == group and place != name]
            # A different choice is one ingredient, whatever keys it sets.
            count += np.where(differs[:, name], 1, differs[:, members].sum(axis=1))
        row[:] = count == 1
    return steps


def _shortest_path(steps: np.ndarray, codes: np.ndarray, start: int, end: int) -> list[int]:
    """Returns the variants on a shortest path of single steps, or an empty list.

    On the path, every key has the value of either the start or the end.
    """
    allowed = ((codes == codes[start]) | (codes == codes[end])).all(axis=1)
    before = {start: start}
    queue = [start]
    while queue and end not in before:
        here = queue.pop(0)
        found = [int(place) for place in np.flatnonzero(steps[here] & allowed) if int(place) not in before]
        before |= dict.fromkeys(found, here)
        queue += found
    if end not in before:
        return []
    path = [end]
    while path[-1] != start:
        path.append(before[path[-1]])
    return path[::-1]
