"""A plan again, with other numbers: a campaign's candidates have nearly all of it in common.

Which tensors there are, of which inputs, where they lie and what config.json says depends on a recipe's structure:
models, method, filters, layers. An `Outline` is a plan with that, and of every tensor where in the recipe its settings
stand; for a recipe of the same `structure` only they are read anew. The plan and the hashes are those of `make_plan`
and `digest.tensor_recipes` (the tests compare them); where a number may change more than a call (a source of weight 0
is left out), there is none, and the whole plan has to be made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine import digest
from engine.methods import methods_for
from engine.methods.contract import Call, Method
from engine.models.checkpoint import Checkpoint
from engine.models.sorted_model import sort_tensors
from engine.planning.plan import OutputTensor, Plan
from engine.planning.planner import describe_recipe
from engine.planning.raw_targets import is_raw
from engine.planning.targets import Target, output_targets
from engine.recipes.check import check_parameters
from engine.recipes.levels import levels as levels_of
from engine.recipes.recipe import ModelRef, Recipe
from engine.recipes.settings import ByName, Setting, chosen, evaluate

_sorted_json = json.JSONEncoder(sort_keys=True).encode
_NUMBERS = {int, float}  # a bool is none: switches are part of the structure
_Levels = Sequence[Mapping[str, Setting]]


def structure(data: Mapping[str, Any]) -> str:
    """A recipe's data without the numbers of its settings: recipes with equal ones differ in these numbers alone."""
    return _sorted_json(_masked(data, within=False))


def _masked(data: Any, *, within: bool) -> Any:
    if isinstance(data, Mapping):
        return {str(name): _masked(value, within=within or name == "parameters") for name, value in data.items()}
    if within and isinstance(data, list) and {type(item) for item in data} <= _NUMBERS:
        return [0]  # a gradient, of however many values
    if isinstance(data, list | tuple):
        return [_masked(item, within=within) for item in data]
    return 0 if within and type(data) in _NUMBERS else data


@dataclass(frozen=True)
class _Place:
    """Where in a recipe a value stands: at which of its `_parameters`, and as which choice by name."""

    level: int
    choice: int

    def value(self, name: str, levels: _Levels, depth: float) -> float | bool | None:
        """What stands there in a recipe, for the layer at that depth."""
        setting = levels[self.level][name]
        return evaluate(setting.choices[self.choice][1] if isinstance(setting, ByName) else setting, "", depth)


@dataclass(frozen=True)
class _Group:
    """What tensors with the same settings have in common: where each stands (None: its default), and the depth."""

    sources: tuple[tuple[str, tuple[_Place | None, ...]], ...]
    options: tuple[tuple[str, _Place | None], ...]
    depth: float


@dataclass(frozen=True)
class _Piece:
    """A tensor of the plan: `texts` are its facts as canonical JSON, by name, without settings (`digest`)."""

    tensor: OutputTensor
    group: int | None
    texts: Mapping[str, str]
    recipe: str


class Outline:
    """All of a plan that its recipe's numbers do not decide."""

    def __init__(self, plan: Plan, pieces: Sequence[_Piece], groups: Sequence[_Group], *, recipe: Recipe) -> None:
        self._plan, self._pieces, self._groups = plan, pieces, groups
        self._methods = methods_for(recipe.method, recipe.origin)
        self._rest = {key: text for key, text in plan.describe.items() if key not in describe_recipe(recipe)}
        self._warnings = plan.warnings[len(check_parameters(recipe, self._methods)) :]

    @classmethod
    def of(cls, recipe: Recipe, plan: Plan, checkpoints: Mapping[ModelRef, Checkpoint]) -> Outline | None:
        """The outline of a plan, as `make_plan` makes it without options; None where the recipe's numbers say more."""
        if plan.method.name == "passthrough" or is_raw(recipe, checkpoints):  # a scale of 1 makes a copy of a merge
            return None
        levels = _parameters(recipe, plan.method)
        models = {
            ref: sort_tensors(checkpoints[ref], [module.name for module in recipe.modules]) for ref in recipe.models
        }
        targets = {target.name: target for target in output_targets(recipe, plan.method, models).tensors}
        groups: dict[_Group, int] = {}
        pieces = []
        for tensor in plan.tensors:
            target, group = targets[tensor.name], None
            if tensor.call is not None:
                if len(tensor.call.source_ids) != len(target.members):
                    return None
                group = groups.setdefault(_group(target, plan.method, levels), len(groups))
            texts = digest.encoded(digest.content_facts(tensor, plan, checkpoints))
            pieces.append(_Piece(tensor, group, texts, digest.of_encoded(texts)))
        return cls(plan, pieces, tuple(groups), recipe=recipe)

    def plan(self, recipe: Recipe) -> tuple[Plan, list[str]] | None:
        """The plan of a recipe of the same structure, and its tensors' hashes; None: it has to be made as a whole.

        Raises RecipeError for values that the method does not take.
        """
        warnings = check_parameters(recipe, self._methods)
        method = self._plan.method
        levels = _parameters(recipe, method)
        found = [_values(group, method, levels) for group in self._groups]
        if not all(_takes_all(values, method) for values in found):
            return None
        tensors, hashes = [], []
        for piece in self._pieces:
            tensor, made = piece.tensor, piece.recipe
            if tensor.call is not None and piece.group is not None:
                values = found[piece.group]
                call = values.call(tensor.call, method)
                if method.check(call) is not None:
                    return None  # `make_plan` says what is wrong
                tensor, made = _with_call(tensor, call), digest.of_encoded({**piece.texts, **values.texts})
            tensors.append(tensor)
            hashes.append(made)
        return (
            replace(
                self._plan,
                tensors=tuple(tensors),
                describe=self._rest | describe_recipe(recipe),
                warnings=(*warnings, *self._warnings),
            ),
            hashes,
        )


@dataclass(frozen=True)
class _Values:
    """The settings of a group of tensors; `texts` are they as canonical JSON."""

    sources: Mapping[str, tuple[float, ...]]
    options: Mapping[str, float]
    texts: Mapping[str, str]

    def call(self, call: Call, method: Method) -> Call:
        """The call of another recipe with these values."""
        scope = method.scope_of(self.options, call.shape)
        return Call(
            call.method,
            call.tensor,
            call.shape,
            call.base,
            call.source_ids,
            sources=self.sources,
            options=self.options,
            seed=call.seed,
            scope=scope,
        )


def _with_call(t: OutputTensor, call: Call) -> OutputTensor:
    """`replace(t, call=call)`, which takes as long as all else that is done for a tensor."""
    return OutputTensor(
        t.name, t.dtype, t.shape, t.file, t.offset, t.inputs, call, t.row_dtype, t.layer, elements=t.elements
    )


def _values(group: _Group, method: Method, levels: _Levels) -> _Values:
    def value(name: str, place: _Place | None) -> float:
        found = None if place is None else place.value(name, levels, group.depth)
        default = method.parameters[name].default
        assert found is not None or default is not None  # the outline's own recipe had one
        return float(found if found is not None else default or 0.0)

    sources = {name: tuple(value(name, place) for place in places) for name, places in group.sources}
    options = {name: value(name, place) for name, place in group.options}
    return _Values(sources, options, digest.encoded({"sources": sources, "options": options}))


def _takes_all(values: _Values, method: Method) -> bool:
    """Whether no source is left out for its weight of 0."""
    return not (method.drops_zero_weights and 0.0 in values.sources.get("weight", ()))


def _parameters(recipe: Recipe, method: Method) -> _Levels:
    """All `parameters:` of a recipe, in an order that its structure decides."""
    return [level.parameters for level in levels_of(recipe, method)]


def _group(target: Target, method: Method, levels: _Levels) -> _Group:
    numbers = {id(parameters): number for number, parameters in enumerate(levels)}
    shared = (target.part.parameters, target.module.parameters, levels[-1])

    def place(name: str, above: Sequence[Mapping[str, Setting]], tensor: str) -> _Place | None:
        for parameters in above:
            choice = _chosen(parameters[name], tensor) if name in parameters else None
            if choice is not None:
                return _Place(numbers[id(parameters)], choice)
        return None

    scopes = {name: parameter.scope for name, parameter in method.parameters.items()}
    return _Group(
        sources=tuple(
            (name, tuple(place(name, (source.parameters, *shared), tensor) for source, tensor in target.members))
            for name, scope in scopes.items()
            if scope == "model"
        ),
        options=tuple((name, place(name, shared, target.name)) for name, scope in scopes.items() if scope == "global"),
        depth=target.depth,
    )


def _chosen(setting: Setting, tensor: str) -> int | None:
    """Which of a setting's choices is for a tensor: the first whose filter matches; 0 where there is but one."""
    return chosen(setting, tensor) if isinstance(setting, ByName) else 0
