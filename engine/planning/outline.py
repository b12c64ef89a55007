"""A plan again, with other numbers: a campaign's candidates have nearly all of it in common.

Which tensors there are, of which inputs, where they lie and what config.json says depends on a recipe's structure:
models, method, filters, layers. An `Outline` is a plan with that, and of every tensor which of the recipe's numbers are
its settings; of a recipe of the same structure only its numbers are looked at. The plan and the hashes are those of
`make_plan` and `digest.tensor_recipes` (the tests compare them). Where a number changes more than a call (a source of
weight 0 is left out), is none that the method takes, or wants a warning, the whole plan has to be made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import Any

from engine import digest
from engine.methods.contract import Call, Method, Parameter
from engine.models.checkpoint import Checkpoint
from engine.models.sorted_model import sort_tensors
from engine.planning.plan import OutputTensor, Plan
from engine.planning.planner import RECIPE, describe_recipe
from engine.planning.raw_targets import is_raw
from engine.planning.targets import Target, output_targets
from engine.recipes.check import MAX_VALUE
from engine.recipes.levels import levels
from engine.recipes.reader import parse_recipe
from engine.recipes.recipe import ModelRef
from engine.recipes.settings import ByName, Gradient, Setting, chosen, evaluate

_json = json.JSONEncoder().encode
_NUMBERS = {int, float}  # a bool is none: switches are part of the structure
_FIRST_MARK = 1e15
"""Marks stand for a recipe's numbers while it is found out what each is for; no recipe has such numbers."""
_HOLE = "\0"  # no name has one
_Levels = Sequence[Mapping[str, Setting]]


@dataclass(frozen=True)
class Number:
    """A number of a recipe's data, or a gradient of them, and the parameter whose setting it is."""

    parameter: str
    value: Any


def take_apart(data: Mapping[str, Any]) -> tuple[str, list[Number]]:
    """A recipe's structure, as text, and its numbers: recipes of equal structure differ in the numbers alone."""
    numbers: list[Number] = []

    def keep(parameter: str, value: Any) -> int:
        numbers.append(Number(parameter, value))
        return 0

    return _json(_mapped(data, keep)), numbers


def _mapped(data: Any, change: Callable[[str, Any], Any], parameter: str | None = None) -> Any:
    """`data` with what `change` makes of every number or gradient below a `parameters:`.

    `parameter`: None above `parameters:`, "" right below it, then the one whose setting this is. Of a gradient `change`
    makes its first knot: it may have any number of them.
    """
    if isinstance(data, Mapping):
        if parameter is None:
            return {key: _mapped(part, change, "" if key == "parameters" else None) for key, part in data.items()}
        return {key: _mapped(part, change, parameter or str(key)) for key, part in data.items()}
    if isinstance(data, list | tuple):
        if parameter and {type(item) for item in data} <= _NUMBERS:
            return [change(parameter, data)]
        return [_mapped(item, change, parameter) for item in data]
    return change(parameter, data) if parameter and type(data) in _NUMBERS else data


@dataclass(frozen=True)
class _Place:
    """Which of a recipe's numbers a setting is; None: none of them, it is `value` in every recipe."""

    number: int | None
    value: float = 0.0


@dataclass(frozen=True)
class _Group:
    """What tensors with the same settings have in common: which number each is, and the depth in a gradient."""

    sources: tuple[tuple[str, tuple[_Place, ...]], ...]
    options: tuple[tuple[str, _Place], ...]
    depth: float


@dataclass(frozen=True)
class _Piece:
    """A tensor of the plan, and what its recipe's hash is taken over: where it has settings (those of a group), the
    text before, between and after options and sources."""

    tensor: OutputTensor
    group: int | None
    texts: Sequence[str]


@dataclass(frozen=True)
class _Values:
    """The settings of a group of tensors; `texts` are options and sources as canonical JSON."""

    sources: Mapping[str, tuple[float, ...]]
    options: Mapping[str, float]
    texts: tuple[str, str]


class Outline:
    """All of a plan that its recipe's numbers do not decide."""

    def __init__(self, plan: Plan, pieces: Sequence[_Piece], groups: Sequence[_Group], *, origin: str) -> None:
        self._plan, self._pieces, self._groups, self._origin = plan, pieces, groups, origin

    @classmethod
    def of(
        cls, data: Mapping[str, Any], plan: Plan, checkpoints: Mapping[ModelRef, Checkpoint], *, origin: str
    ) -> Outline | None:
        """The outline of the plan that `make_plan` makes of a recipe without options; None where the recipe's numbers
        say more than settings of calls."""
        recipe, method = parse_recipe(data, origin=origin), plan.method
        if method.name == "passthrough" or is_raw(recipe, checkpoints):  # a scale of 1 makes a copy of a merge
            return None
        if not _ordinary(take_apart(data)[1], method):
            return None
        models = {
            ref: sort_tensors(checkpoints[ref], [module.name for module in recipe.modules]) for ref in recipe.models
        }
        targets = {target.name: target for target in output_targets(recipe, method, models).tensors}
        marks = count()
        marked = parse_recipe(_mapped(data, lambda *_: _FIRST_MARK + next(marks)), origin=origin)
        places = _Places(
            method,
            [level.parameters for level in levels(recipe, method)],
            [level.parameters for level in levels(marked, method)],
        )
        groups: dict[_Group, int] = {}
        pieces = []
        for tensor in plan.tensors:
            target, group = targets[tensor.name], None
            if tensor.call is not None:
                if len(tensor.call.source_ids) != len(target.members):
                    return None
                group = groups.setdefault(places.group(target), len(groups))
            pieces.append(_Piece(tensor, group, _texts(digest.content_facts(tensor, plan, checkpoints))))
        return cls(plan, pieces, tuple(groups), origin=origin)

    def plan(self, data: Mapping[str, Any], numbers: Sequence[Number]) -> tuple[Plan, list[str]] | None:
        """The plan of a recipe of the same structure, and its tensors' hashes; None: it has to be made as a whole, and
        may be wrong. `numbers`: the recipe's own."""
        method = self._plan.method
        if not _ordinary(numbers, method):
            return None
        settings = [_setting(number.value) for number in numbers]
        found = [_values(group, method, settings) for group in self._groups]
        if not all(_takes_all(values, method) for values in found):
            return None
        tensors, hashes = [], []
        for piece in self._pieces:
            tensor, texts = piece.tensor, piece.texts
            if tensor.call is not None and piece.group is not None:
                values = found[piece.group]
                call = _with_values(tensor.call, values, method)
                if method.check(call) is not None:
                    return None  # `make_plan` says what is wrong
                before, between, after = texts
                tensor, texts = _with_call(tensor, call), (before, values.texts[0], between, values.texts[1], after)
            tensors.append(tensor)
            hashes.append(digest.of_text("".join(texts)))
        describe = _Description(data, self._plan.describe, origin=self._origin)
        return replace(self._plan, tensors=tuple(tensors), describe=describe), hashes


class _Description(Mapping[str, str]):
    """What a plan's `describe` says, made when somebody asks for it: of most candidates nobody does."""

    def __init__(self, data: Mapping[str, Any], like: Mapping[str, str], *, origin: str) -> None:
        """`like`: of a recipe of the same structure."""
        self._data, self._like, self._origin = data, like, origin

    @cached_property
    def _facts(self) -> Mapping[str, str]:
        rest = {key: text for key, text in self._like.items() if not key.startswith(RECIPE)}
        return rest | describe_recipe(parse_recipe(self._data, origin=self._origin))

    def __getitem__(self, key: str) -> str:
        return self._facts[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)


def _ordinary(numbers: Sequence[Number], method: Method) -> bool:
    """Whether no number is refused, and none wants a warning (see engine.recipes.check)."""
    return all(_takes(method.parameters.get(number.parameter), number.value) for number in numbers)


def _takes(parameter: Parameter | None, value: Any) -> bool:
    values = value if isinstance(value, list | tuple) else (value,)
    if parameter is None:  # it has no meaning here
        low, high = -MAX_VALUE, MAX_VALUE
    elif isinstance(parameter.default, bool):  # a switch
        return values is not value and value in (0, 1)
    elif parameter.name == "t" and parameter.low == -math.inf:
        low, high = 0.0, 1.0  # beyond them it extrapolates
    else:
        low, high = max(parameter.low, -MAX_VALUE), min(parameter.high, MAX_VALUE)
    whole = parameter is not None and parameter.whole
    return bool(values) and all(low <= v <= high and not (whole and v != int(v)) for v in values)


def _setting(value: Any) -> Setting:
    return Gradient(tuple(map(float, value))) if isinstance(value, list | tuple) else float(value)


def _at(setting: Setting, depth: float) -> float:
    """The value of a number, a switch or a gradient."""
    value = evaluate(setting, "", depth)
    assert value is not None  # only a choice by name may have none
    return float(value)


def _values(group: _Group, method: Method, settings: Sequence[Setting]) -> _Values:
    def value(place: _Place) -> float:
        if place.number is None:
            return place.value
        return _at(settings[place.number], group.depth)

    sources = {name: tuple([value(place) for place in places]) for name, places in group.sources}
    options = {name: value(place) for name, place in group.options}
    return _Values(sources, options, (digest.canonical(options), digest.canonical(sources)))


def _takes_all(values: _Values, method: Method) -> bool:
    """Whether no source is left out for its weight of 0."""
    return not (method.drops_zero_weights and 0.0 in values.sources.get("weight", ()))


def _with_values(call: Call, values: _Values, method: Method) -> Call:
    """The call of another recipe, with these settings."""
    return Call(
        call.method,
        call.tensor,
        call.shape,
        call.base,
        call.source_ids,
        sources=values.sources,
        options=values.options,
        seed=call.seed,
        scope=method.scope_of(values.options, call.shape),
    )


def _with_call(t: OutputTensor, call: Call) -> OutputTensor:
    """`replace(t, call=call)`, which takes as long as all else that is done for a tensor."""
    return OutputTensor(
        t.name, t.dtype, t.shape, t.file, t.offset, t.inputs, call, t.row_dtype, t.layer, elements=t.elements
    )


def _texts(facts: Mapping[str, Any]) -> list[str]:
    """The canonical JSON of a tensor's facts, in one piece, or without what stands at options and sources."""
    settings = {name: _HOLE for name in ("options", "sources") if name in facts}
    return digest.canonical({**facts, **settings}).split(digest.canonical(_HOLE))


class _Places:
    """Where the settings of a tensor stand in a recipe.

    `found` are all its `parameters:`, `marked` those of a recipe that has marks for numbers, in the same order.
    """

    def __init__(self, method: Method, found: _Levels, marked: _Levels) -> None:
        self._method, self._top = method, found[-1]
        self._marked = {id(parameters): marks for parameters, marks in zip(found, marked, strict=True)}

    def group(self, target: Target) -> _Group:
        """Of one tensor: all that its settings depend on besides the numbers."""
        shared = (target.part.parameters, target.module.parameters, self._top)
        scopes = {name: parameter.scope for name, parameter in self._method.parameters.items()}
        return _Group(
            sources=tuple(
                (name, tuple(self._place(name, (s.parameters, *shared), t, target.depth) for s, t in target.members))
                for name, scope in scopes.items()
                if scope == "model"
            ),
            options=tuple(
                (name, self._place(name, shared, target.name, target.depth))
                for name, scope in scopes.items()
                if scope == "global"
            ),
            depth=target.depth,
        )

    def _place(self, name: str, above: _Levels, tensor: str, depth: float) -> _Place:
        """The first of these levels that says something decides."""
        for parameters in above:
            marks = self._marked[id(parameters)][name] if name in parameters else None
            if isinstance(marks, ByName):
                choice = chosen(marks, tensor)
                marks = None if choice is None else marks.choices[choice][1]
            if marks is not None:
                first = marks.values[0] if isinstance(marks, Gradient) else marks
                if not isinstance(first, bool) and first >= _FIRST_MARK:
                    return _Place(int(first - _FIRST_MARK))
                return _Place(None, _at(marks, depth))
        return _Place(None, float(self._method.parameters[name].default or 0.0))
