"""A setting of a recipe: one number, a gradient over layers, or a choice by tensor name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine.keypath import KeyPath, shown


@dataclass(frozen=True)
class Gradient:
    """Knots spread evenly over the layers of a slice, linear in between (mergekit's list of numbers)."""

    values: tuple[float, ...]


Choice = float | bool | Gradient


@dataclass(frozen=True)
class ByName:
    """First matching filter wins: a substring of the tensor's name; None, '*' or '' for any."""

    choices: tuple[tuple[str | None, Choice], ...]


Setting = float | bool | Gradient | ByName


def evaluate(setting: Setting, tensor_name: str, depth: float) -> float | bool | None:
    """The value for one tensor at relative depth 0 (first layer) to 1 (last); None where no filter matches.

    For a gradient v of length L: s = depth·(L−1), i = ⌊s⌋, f = s − i, value = (1−f)·v[i] + f·v[min(i+1, L−1)].
    """
    if isinstance(setting, ByName):
        for pattern, choice in setting.choices:
            if _matches_any(pattern) or str(pattern) in tensor_name:
                return evaluate(choice, tensor_name, depth)
        return None
    if isinstance(setting, Gradient):
        return _interpolate(setting.values, depth)
    return setting


def _interpolate(values: tuple[float, ...], depth: float) -> float:
    position = depth * (len(values) - 1)
    low = int(position)
    high = min(len(values) - 1, low + 1)
    fraction = position - low
    return (1 - fraction) * values[low] + fraction * values[high]


def lookup(
    levels: tuple[Mapping[str, Setting], ...], name: str, tensor_names: tuple[str, ...], depth: float
) -> float | bool | None:
    """The first non-None value of parameter `name` over `levels`; level i sees tensor_names[i].

    Levels go from the most specific (a source's) to the recipe's own; a level whose filters all fail falls through.
    """
    for level, tensor_name in zip(levels, tensor_names, strict=True):
        if name in level:
            value = evaluate(level[name], tensor_name, depth)
            if value is not None:
                return value
    return None


def is_total(setting: Setting) -> bool:
    """Whether the setting has a value for every tensor, whatever its name."""
    return not isinstance(setting, ByName) or any(_matches_any(pattern) for pattern, _ in setting.choices)


def constants(setting: Setting) -> Iterator[float | bool]:
    """Every number that stands in the setting: all knots of all choices."""
    if isinstance(setting, ByName):
        for _, choice in setting.choices:
            yield from constants(choice)
    elif isinstance(setting, Gradient):
        yield from setting.values
    else:
        yield setting


def _matches_any(pattern: str | None) -> bool:
    return pattern in (None, "*", "")


def parse_setting(raw: object, *, where: KeyPath) -> Setting:
    """YAML data → Setting: number | bool | list of numbers | {value, filter} | list of {value, filter}.

    `where` is what errors begin with. Strings, NaN, Inf and empty lists are refused.
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
    pattern = fields.get("filter")
    if pattern not in (None, ""):
        where.key("filter").text(pattern)
    return pattern, _parse_value(fields["value"], where.key("value"))


def _parse_value(raw: object, where: KeyPath) -> Choice:
    if not isinstance(raw, (list, tuple)):
        return _parse_number(raw, where)
    return Gradient(tuple(float(_parse_number(item, place)) for place, item in where.items(raw, "numbers")))


def _parse_number(raw: object, where: KeyPath) -> float | bool:
    if isinstance(raw, bool):
        return raw
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
    """What to write instead of a value that is no number; YAML 1.1 reads 1e-5 as text."""
    if not isinstance(raw, str):
        return "a number expected."
    text = raw.strip().lower()
    if text in ("true", "false"):
        return f"a number, true or false expected: write {text} without quotes."
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        return "a number expected: no setting has text as its value."
    if not math.isfinite(number):
        return "a finite number expected."
    return f"which is text to YAML, a number expected: write {_yaml_float(number)}"


def _yaml_float(number: float) -> str:
    """1e-05 → 1.0e-5: YAML 1.1 wants a dot in a number with an exponent."""
    mantissa, _, exponent = repr(number).partition("e")
    if not exponent:
        return mantissa
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d}"


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
