"""The space of a search: which keys are varied and what values they may take, in Hydra's own grammar of sweeps."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from catdog.config.composition import explained, open_hydra
from catdog.config.names import unescape
from catdog.system.errors import UserError

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial as Asked

# Other keys, and the values of each.
When = tuple[tuple[str, tuple[str, ...]], ...]
# Values are rounded to so many digits: more say nothing, and cannot be typed again.
DIGITS = 4
EXAMPLES = "head.units=64,128,256, head.dropout=interval(0,0.7) or trainer.learning_rate=tag(log,interval(1e-4,1e-2))"


@dataclass(frozen=True)
class Dimension:
    """A key of the space.

    Attributes:
        key: of the config, such as trainer.learning_rate.
        choices: the values, as typed; empty for a range of numbers.
        low: the lowest number of a range.
        high: the highest.
        step: the distance of the values of a range; None: any value.
        log: whether values are spread evenly in their logarithm.
        whole: whether the values are whole numbers.
        when: other keys -> values: it is varied only where each of these keys has one of its values.
        prefix: what stands before the key on the command line: "+" adds a key that the config lacks, "++" sets it in any case.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    whole: bool = False
    when: When = ()
    prefix: str = ""

    def applies(self, settings: Mapping[str, str]) -> bool:
        """Whether it is varied beside these settings."""
        return all(settings.get(key) in values for key, values in self.when)

    @property
    def size(self) -> float:
        """The number of its values; infinite if any number of an interval is possible."""
        if self.choices:
            return len(self.choices)
        if self.step is not None:
            return math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return math.inf if not self.whole else self.high - self.low + 1

    @property
    def values(self) -> tuple[str, ...]:
        """All of its values; empty if there is no end of them."""
        if self.choices or self.size == math.inf:
            return self.choices
        step = 1 if self.step is None else self.step
        return tuple(self.show(self.low + step * place) for place in range(int(self.size)))

    def show(self, value: Any) -> str:
        """Returns one of its values as typed on a command line."""
        if self.choices:
            return str(value)
        if self.whole:
            return str(round(value))
        rounded = float(f"{value:.{DIGITS}g}")
        return f"{min(max(rounded, self.low), self.high):g}" if rounded != value else repr(float(value))

    def read(self, text: str) -> str | float | int | None:
        """Returns a value, as typed, as the sampler takes it; None if it is not one of these."""
        if self.choices:
            return text if text in self.choices else None
        try:
            number = float(text)
        except ValueError:
            return None
        if not self.low <= number <= self.high or (self.whole and number != round(number)):
            return None
        if self.step is not None and not math.isclose(
            (number - self.low) / self.step, round((number - self.low) / self.step)
        ):
            return None
        return round(number) if self.whole else number

    @property
    def distribution(self) -> "BaseDistribution":
        """The same for Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return IntDistribution(int(self.low), int(self.high), self.log, step)
        return FloatDistribution(self.low, self.high, self.log, self.step)

    @property
    def words(self) -> str:
        """What it was given as: "64,128,256", "tag(log,interval(0.0001,0.01))"."""
        if self.choices:
            return ",".join(self.choices)
        bounds = f"{self.low:g},{self.high:g}"
        text = f"range({bounds},{self.step:g})" if self.step is not None else f"interval({bounds})"
        text = f"int({text})" if self.whole and self.step is None else text
        return f"tag(log,{text})" if self.log else text

    def describe(self) -> dict[str, Any]:
        """Returns it for JSON."""
        return {"values": self.words} | (
            {"when": {key: list(values) for key, values in self.when}} if self.when else {}
        )


@dataclass(frozen=True)
class Space:
    """All keys that a search varies, in order; a key comes after those that it depends on."""

    dimensions: tuple[Dimension, ...]

    def __iter__(self) -> Iterator[Dimension]:
        return iter(self.dimensions)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys."""
        return tuple(dimension.key for dimension in self)

    @property
    def is_finite(self) -> bool:
        """Whether it holds a number of configurations."""
        return all(dimension.size < math.inf for dimension in self)

    @property
    def size(self) -> float:
        """The number of its configurations."""
        return sum(1 for _ in self.list_settings()) if self.is_finite else math.inf

    def word(self, settings: Mapping[str, str]) -> list[str]:
        """Returns settings as overrides, in the order of the space: "trainer.learning_rate=0.001"."""
        return [f"{each.prefix}{each.key}={settings[each.key]}" for each in self if each.key in settings]

    def list_settings(self) -> Iterator[dict[str, str]]:
        """Yields every configuration of a finite space once, the last key changing fastest."""
        seen = set()
        for values in itertools.product(*(dimension.values for dimension in self)):
            settings: dict[str, str] = {}
            for dimension, value in zip(self, values, strict=True):
                if dimension.applies(settings):
                    settings[dimension.key] = value
            if (found := tuple(settings.items())) not in seen:
                seen.add(found)
                yield settings

    def ask(self, asked: "Asked") -> dict[str, str]:
        """Returns the settings that Optuna's sampler suggests."""
        settings: dict[str, str] = {}
        for dimension in self:
            if dimension.applies(settings):
                settings[dimension.key] = dimension.show(asked._suggest(dimension.key, dimension.distribution))
        return settings

    def describe(self) -> dict[str, Any]:
        """Returns it for JSON: key -> values, and when."""
        return {dimension.key: dimension.describe() for dimension in self}


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Returns the overrides that hold for all trials, and the parsed ones that have several values.

    Raises:
        UserError: an override is not in Hydra's grammar.
    """
    with explained():
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    fixed = [str(item.input_line) for item in parsed if not item.is_sweep_override()]
    return fixed, [item for item in parsed if item.is_sweep_override()]


def read_space(varied: Sequence[Override], file: Path | None = None, fixed: Sequence[str] = ()) -> Space:
    """Returns the space that a command line gives.

    Args:
        varied: the overrides with several values.
        file: a YAML file with more of them: key: values, or key: {values: ..., when: {other key: its values}}.
        fixed: the other overrides, for the message if nothing varies.

    Raises:
        UserError: there is no such key, it has one value only, or an interval is empty; the message says which.
    """
    with open_hydra() as loader:
        found = [_read_override(item, loader, ()) for item in varied]
        if file is not None:
            found += _read_file(file, loader, {dimension.key for dimension in found})
    if not found:
        # The address of a store may hold a password.
        given = [word for word in fixed if not word.lstrip("+~").startswith("tracking.")]
        received = f"; with one value each, received {', '.join(given)}" if given else ""
        raise UserError(f"tune: needs a key to vary{received}. Give one several values, or an interval: {EXAMPLES}.")
    return Space(tuple(found))


def _read_file(file: Path, loader: "ConfigLoader", known: set[str]) -> list[Dimension]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"space: there is no file {file}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"space: {file} cannot be read: {' '.join(str(error).split())}") from None
    form = "head.dropout: interval(0,0.7), or head.dropout: {values: interval(0,0.7), when: {head.units: [64, 128]}}"
    if not isinstance(content, dict) or not content:
        raise UserError(f"space: {file} must give keys their values, such as {form}.")
    found = []
    for key, value in content.items():
        given = value if isinstance(value, dict) else {"values": value}
        if not set(given) <= {"values", "when"} or "values" not in given or not isinstance(given.get("when", {}), dict):
            raise UserError(
                f"space: {file}: {key} must have values and may have when, such as {form}; received {value!r}."
            )
        when = tuple(
            (str(other), tuple(map(_word, _as_list(wanted)))) for other, wanted in given.get("when", {}).items()
        )
        for other, _ in when:
            if other not in known:
                raise UserError(
                    f"space: {file}: {key} depends on {other}, which must be a key of the space that comes before it."
                )
        if key in known:
            raise UserError(f"space: {file}: {key} is varied twice. Leave it out here, or on the command line.")
        values = given["values"]
        words = ",".join(map(_word, values)) if isinstance(values, list) else _word(values)
        with explained():
            override = OverridesParser.create().parse_override(f"{key}={words}")
        found.append(_read_override(override, loader, when))
        known.add(str(key))
    return found


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _word(value: Any) -> str:
    """Returns a value of a YAML file as typed on a command line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def _read_override(override: Override, loader: "ConfigLoader", when: When) -> Dimension:
    typed = override.get_key_element()
    key = typed.lstrip("+~")
    prefix = typed.removesuffix(key)
    value = override.value()
    if prefix == "~":
        raise UserError(
            f"{key}: a search cannot take a key away, received {override.input_line}. Give it values: {EXAMPLES}."
        )
    if not override.is_sweep_override():
        raise UserError(
            f"{key}: a search needs several values, received one, {override.input_line}. Give it more: {EXAMPLES}."
        )
    if isinstance(value, IntervalSweep):
        return replace(_read_interval(key, value), when=when, prefix=prefix)
    if isinstance(value, RangeSweep) and not value.shuffle:
        return replace(_read_range(key, value), when=when, prefix=prefix)
    override.config_loader = loader
    with explained():
        words = tuple(dict.fromkeys(unescape(word) for word in override.sweep_string_iterator()))
    if len(words) < 2:
        received = ", ".join(words) or "none"
        raise UserError(f"{key}: a search needs several values, received {received}. Give it more, or leave it out.")
    return Dimension(key, words, when=when, prefix=prefix)


def _read_interval(key: str, value: IntervalSweep) -> Dimension:
    low, high = float(value.start or 0.0), float(value.end or 0.0)
    whole = isinstance(value.start, int) and isinstance(value.end, int)
    log = "log" in value.tags
    _check_bounds(key, low, high, log, value.tags)
    return Dimension(key, low=low, high=high, log=log, whole=whole)


def _read_range(key: str, value: RangeSweep) -> Dimension:
    start, stop, step = float(value.start or 0.0), float(value.stop or 0.0), float(value.step)
    given = f"range({start:g},{stop:g},{step:g})"
    if step <= 0:
        raise UserError(f"{key}: the step of a range must be more than 0, received {given}.")
    if "log" in value.tags:
        raise UserError(
            f"{key}: a range has even steps, received {given}. For values that are even in their logarithm, use "
            "tag(log,int(interval(16,256)))."
        )
    # Like Python's range, Hydra's does not include its end.
    last = start + (math.ceil((stop - start) / step - 1e-9) - 1) * step
    whole = all(isinstance(part, int) for part in (value.start, value.stop, value.step))
    _check_bounds(key, start, last, False, value.tags)
    return Dimension(key, low=start, high=last, step=step, whole=whole)


def _check_bounds(key: str, low: float, high: float, log: bool, tags: set[str]) -> None:
    unknown = sorted(set(tags) - {"log"})
    if unknown:
        raise UserError(f"{key}: the only tag of a search is log, received {', '.join(unknown)}.")
    if not low < high:
        raise UserError(f"{key}: must go from a lower number to a higher one, received {low:g} to {high:g}.")
    if log and low <= 0:
        raise UserError(f"{key}: with tag(log, ...) the lowest value must be more than 0, received {low:g}.")
