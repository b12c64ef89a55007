"""A setting of a recipe: one number, a gradient over layers, or a choice by tensor name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine.recipes import filters
from engine.recipes.keypath import KeyPath, shown


@dataclass(frozen=True)
class Gradient:
    """Knots spread evenly over the layers of a slice, linear in between (mergekit's list of numbers).

    For a switch, a list of true and false: the knot at or before a layer holds.
    """

    values: tuple[float, ...]


Choice = float | bool | Gradient


@dataclass(frozen=True)
class ByName:
    """The first filter (`engine.recipes.filters`) that matches the tensor's name wins."""

    choices: tuple[tuple[str | None, Choice], ...]


Setting = float | bool | Gradient | ByName
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
"""Text that is a number: YAML 1.1 reads 1e-5 as text, and mergekit takes it."""


def chosen(setting: ByName, tensor_name: str) -> int | None:
    """Which of the choices is for a tensor: the first whose filter matches; None where no filter does."""
    found = (number for number, (pattern, _) in enumerate(setting.choices) if filters.matches(pattern, tensor_name))
    return next(found, None)


def evaluate(setting: Setting, tensor_name: str, depth: float) -> float | bool | None:
    """The value for one tensor at relative depth 0 (first layer) to 1 (last); None where no filter matches.

    For a gradient v of length L: s = depth·(L−1), i = ⌊s⌋, f = s − i, value = (1−f)·v[i] + f·v[min(i+1, L−1)].
    """
    if isinstance(setting, ByName):
        number = chosen(setting, tensor_name)
        return None if number is None else evaluate(setting.choices[number][1], tensor_name, depth)
    if isinstance(setting, Gradient):
        return _interpolate(setting.values, depth)
    return setting


def _interpolate(values: tuple[float, ...], depth: float) -> float:
    position = depth * (len(values) - 1)
    low = int(position)
    if all(isinstance(value, bool) for value in values):
        return values[low]
    high = min(len(values) - 1, low + 1)
    fraction = position - low
    return (1 - fraction) * values[low] + fraction * values[high]


def lookup(levels: tuple[Mapping[str, Setting], ...], name: str, tensor_name: str, depth: float) -> float | bool | None:
    """The first value that parameter `name` has for a tensor.

    Levels go from the most specific (a source's) to the recipe's own; a level whose filters all fail falls through.
    """
    for level in levels:
        value = evaluate(level[name], tensor_name, depth) if name in level else None
        if value is not None:
            return value
    return None


def constants(setting: Setting) -> Iterator[float | bool]:
    """Every number that stands in the setting: all knots of all choices."""
    if isinstance(setting, ByName):
        for _, choice in setting.choices:
            yield from constants(choice)
    elif isinstance(setting, Gradient):
        yield from setting.values
    else:
        yield setting


def patterns(setting: Setting) -> list[str | None]:
    """The filters that the setting chooses by; none where it does not."""
    return [pattern for pattern, _ in setting.choices] if isinstance(setting, ByName) else []


def parse_setting(raw: object, *, where: KeyPath) -> Setting:
    """YAML data → Setting: number | bool | list of numbers | {value, filter} | list of {value, filter}.

    `where` is what errors begin with. Text that is no number, NaN, Inf and empty lists are refused.
    """
    if isinstance(raw, Mapping):
        return ByName((_parse_choice(raw, where),))
    if isinstance(raw, (list, tuple)) and any(isinstance(item, Mapping) for item in raw):
        return ByName(tuple(_parse_choice(item, where.item(i)) for i, item in enumerate(raw)))
    return _parse_value(raw, where)


def _parse_choice(raw: object, where: KeyPath) -> tuple[str | None, Choice]:
    fields = where.mapping(raw, ("filter", "value"))
    if "value" not in fields:
        raise where.error("has no 'value'.")
    pattern = filters.parse_filter(fields.get("filter"), where.key("filter"))
    return pattern, _parse_value(fields["value"], where.key("value"))


def _parse_value(raw: object, where: KeyPath) -> Choice:
    if not isinstance(raw, (list, tuple)):
        return _parse_number(raw, where)
    numbers = [_parse_number(item, place) for place, item in where.items(raw, "numbers")]
    switches = all(isinstance(number, bool) for number in numbers)
    return Gradient(tuple(numbers) if switches else tuple(map(float, numbers)))


def _parse_number(raw: object, where: KeyPath) -> float | bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and _NUMBER.fullmatch(raw):
        raw = float(raw)
    if not isinstance(raw, (int, float)):
        raise where.error(f"got {shown(raw)}, {_number_hint(raw)}")
    try:
        number = float(raw)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise where.error(f"got {shown(raw)}, a finite number expected.")
    return number


def _number_hint(raw: object) -> str:
    """What to write instead of a value that is no number."""
    if not isinstance(raw, str):
        return "a number expected."
    text = raw.strip().lower()
    if text in ("true", "false"):
        return f"a number, true or false expected: write {text} without quotes."
    if _NUMBER.fullmatch(text.replace(",", ".")):
        return f"a number expected: write {text.replace(',', '.')}"
    return "a number expected: no setting has text as its value."


def setting_to_data(setting: Setting) -> object:
    """The YAML data that `parse_setting` reads back as the same setting."""
    if isinstance(setting, ByName):
        return [
            {"value": _plain(choice)} if pattern is None else {"filter": pattern, "value": _plain(choice)}
            for pattern, choice in setting.choices
        ]
    return _plain(setting)


def _plain(choice: Choice) -> object:
    return list(choice.values) if isinstance(choice, Gradient) else choice
