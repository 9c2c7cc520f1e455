"""What made the difference: in which ingredients two variants differ, and which pairs isolate one."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from catdog.compare.records import RunRecord
from catdog.compare.variants import Variant
from catdog.compare.verdicts import Verdict
from catdog.config import CONF, SAME_RESULT
from catdog.contrast import Contrast

# Groups whose choice is one ingredient, whatever keys it sets; a key that is overridden on top is another.
CHOICES = ("augmentation", "preprocessing", "backbone", "head", "speed")
# What a run is called, where it lies and when it is promoted changes no result.
UNRELATED = ("study", "seed", "reuse", "tracking", "promote", "dataset.cache", *(f"speed.{key}" for key in SAME_RESULT))


@dataclass(frozen=True)
class Ingredient:
    """One thing in which two variants differ: a config key or group, and what it is in either."""

    key: str
    before: str
    after: str

    @property
    def words(self) -> str:
        """Such as "augmentation none -> flip_rotate"."""
        return f"{self.key} {self.before or 'none'} \N{RIGHTWARDS ARROW} {self.after or 'none'}"


@dataclass(frozen=True, eq=False)
class Effect:
    """A pair of variants, seen from the ingredients in which they differ.

    Args:
        before: the variant that comes first in the comparison.
        after: the other.
        ingredients: what changes from one to the other, at least one.
        verdict: on the pair; its own order is by accuracy.
        steps: names of variants that lead from one to the other, one ingredient at a time; empty where some are missing.
        commands: for several ingredients without steps: they train the variants in between; empty where they are not known.
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
        """What the change adds to the accuracy, with its 95% interval for this pair alone."""
        return self._turned(self.verdict.accuracy)

    @property
    def gap_difference(self) -> tuple[float, float, float]:
        """What the change adds to the overfitting gap, with its 95% interval."""
        return self._turned(self.verdict.gap)

    def _turned(self, found: Contrast) -> tuple[float, float, float]:
        sign = 1 if self.verdict.first is self.after else -1
        low, high = sorted((sign * float(found.low), sign * float(found.high)))
        return sign * float(found.estimate), low, high


def find_effects(variants: Sequence[Variant], verdicts: Sequence[Verdict]) -> list[Effect]:
    """Returns every judged pair with the ingredients in which it differs: single ones first, then confounded ones."""
    order = {variant.name: place for place, variant in enumerate(variants)}
    graph = _single_steps(variants)
    effects = []
    for verdict in verdicts:
        before, after = sorted((verdict.first, verdict.second), key=lambda variant: order[variant.name])
        ingredients = differing_ingredients(before.records[0], after.records[0])
        steps = _shortest_path(graph, before.name, after.name) if len(ingredients) > 1 else ()
        # A detour through other ingredients explains nothing.
        steps = steps if len(steps) == len(ingredients) + 1 else ()
        commands = () if steps or len(ingredients) < 2 else separating_commands(before, after, ingredients)
        if ingredients:
            effects.append(Effect(before, after, ingredients, verdict, steps, commands))
    place = {
        id(effect): (len(effect.ingredients) > 1, order[effect.before.name], order[effect.after.name])
        for effect in effects
    }
    return sorted(effects, key=lambda effect: place[id(effect)])


def differing_ingredients(before: RunRecord, after: RunRecord) -> tuple[Ingredient, ...]:
    """Returns in what the configs of two runs differ, as far as it affects the result."""
    keys = sorted({*before.params, *after.params})
    values = {key: (before.params.get(key, ""), after.params.get(key, "")) for key in keys}
    changed = {
        key: pair
        for key, pair in values.items()
        if pair[0] != pair[1] and not any(key == name or key.startswith(name + ".") for name in UNRELATED)
    }
    chosen = [group for group in CHOICES if f"{group}.name" in changed]
    found = [Ingredient(group, *changed[f"{group}.name"]) for group in chosen]
    found += [
        Ingredient(key, *pair)
        for key, pair in changed.items()
        if key.partition(".")[0] not in chosen and not key.endswith(".name")
    ]
    return tuple(found)


def separating_commands(before: Variant, after: Variant, ingredients: Sequence[Ingredient]) -> tuple[str, ...]:
    """Returns commands that train what lies between two variants, each with one ingredient more, with the seeds there are.

    Pixels before backbone, as a backbone with weights is particular about them. None where a change is not one override.
    """
    base = variant_overrides(before.records[0])
    changes = [_override(ingredient) for ingredient in ingredients]
    if base is None or None in changes:
        return ()
    keys = {ingredient.key for ingredient in ingredients}
    # What is changed comes after the model, which picks the groups; what the variant itself had changed there goes.
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
    """Returns the ingredient's change as an override, None where it takes more than one word."""
    if ingredient.key in CHOICES:
        file = CONF / ingredient.key / f"{ingredient.after}.yaml"
        return f"{ingredient.key}={ingredient.after}" if file.is_file() else None
    plain = ingredient.before and ingredient.after and ".layers." not in ingredient.key
    return f"{ingredient.key}={ingredient.after}" if plain else None


def variant_overrides(record: RunRecord) -> list[str] | None:
    """Returns the overrides that a run was trained with, without its seed; None where they are not known."""
    words = shlex.split(record.tags.get("mlflow.source.name", ""))
    if words[:3] != ["python", "-m", "catdog.train"]:
        return None
    return [item for item in words[3:] if not item.startswith("seed=") and item != "-m"]


def _single_steps(variants: Sequence[Variant]) -> dict[str, list[str]]:
    return {
        a.name: [b.name for b in variants if a is not b and len(differing_ingredients(a.records[0], b.records[0])) == 1]
        for a in variants
    }


def _shortest_path(graph: dict[str, list[str]], start: str, end: str) -> tuple[str, ...]:
    paths: list[tuple[str, ...]] = [(start,)]
    seen = {start}
    while paths:
        path = paths.pop(0)
        for name in graph[path[-1]]:
            if name == end:
                return (*path, name)
            if name not in seen:
                seen.add(name)
                paths.append((*path, name))
    return ()
