"""The settings of one output tensor: which value holds where, and the method's call made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import PlanError
from engine.methods.contract import Call, Method
from engine.planning.targets import Target
from engine.recipes.filters import nearest, unmatched
from engine.recipes.levels import levels
from engine.recipes.recipe import Recipe, SliceSource
from engine.recipes.settings import ByName, Setting, lookup, patterns


class Settings:
    """Resolves a recipe's parameters for one output tensor after the other."""

    def __init__(self, recipe: Recipe, method: Method) -> None:
        self.recipe = recipe
        self.method = method
        self._names = {
            scope: [parameter.name for parameter in method.parameters.values() if parameter.scope == scope]
            for scope in ("model", "global")
        }
        self._known: dict[str, Any] = {}  # what equals an earlier tensor's is the same object: there may be 45,000
        self._asked: dict[tuple[int, str], dict[str, None]] = {}  # (level, parameter) → names it was asked for

    def unmatched(self) -> list[str]:
        """A warning for every filter that was for none of the tensors asked for."""
        warnings = []
        for level in levels(self.recipe, self.method):
            for name, setting in level.parameters.items():
                asked = self._asked.get((id(level.parameters), name), {})
                for pattern in unmatched(patterns(setting), asked) if asked else ():
                    place = level.where.key(name)
                    warnings.append(f"{place}: filter {pattern!r} matches no tensor; {nearest(pattern, asked)}")
        return warnings

    def call(self, target: Target, shape: tuple[int, ...]) -> tuple[list[int], Call]:
        """Which inputs are used (a source of weight 0 may change nothing), and the call with their settings."""
        settings = [
            {name: self._per_model(name, target, source, tensor) for name in self._names["model"]}
            for source, tensor in target.members
        ]
        used = list(range(len(settings)))
        if self.method.drops_zero_weights and "weight" in self.method.parameters:
            # where all are 0, one is kept: the result is then the base (or 0) by the ordinary arithmetic
            used = [i for i in used if settings[i]["weight"] != 0] or used[:1]
        offset = 0 if target.base is None else 1
        options = {name: self._global(name, target) for name in self._names["global"]}
        sources = {name: tuple(settings[i][name] for i in used) for name in self._names["model"]}
        call = Call(
            method=self.method.name,
            tensor=target.name,
            shape=shape,
            base=bool(offset),
            source_ids=tuple(self.recipe.source_ids[target.members[i][0].model] for i in used),
            sources=self._known.setdefault(repr(sources), sources),  # by its text: 0.0 and -0.0 are equal as numbers
            options=self._known.setdefault(repr(options), options),
            seed=self.recipe.seed,
            scope=self.method.scope_of(options, shape),
        )
        wrong = self.method.check(call)
        if wrong:
            raise PlanError(f"{self.recipe.origin}: tensor {target.name!r}: {wrong}", tensor=target.name)
        return [*range(offset), *(i + offset for i in used)], call

    def _per_model(self, name: str, target: Target, source: SliceSource, tensor: str) -> float:
        value = self._lookup(name, (source.parameters, *self._shared(target)), tensor, target.depth)
        return self._or_default(name, value, f"{tensor!r} of {source.model}")

    def _global(self, name: str, target: Target) -> float:
        value = self._lookup(name, self._shared(target), target.name, target.depth)
        return self._or_default(name, value, repr(target.name))

    def _shared(self, target: Target) -> tuple[Mapping[str, Setting], ...]:
        return target.part.parameters, target.module.parameters, self.recipe.parameters

    def _lookup(
        self, name: str, places: tuple[Mapping[str, Setting], ...], tensor: str, depth: float
    ) -> float | bool | None:
        for parameters in places:
            if isinstance(parameters.get(name), ByName):
                self._asked.setdefault((id(parameters), name), {})[tensor] = None
        return lookup(places, name, tensor, depth)

    def _or_default(self, name: str, value: float | bool | None, where: str) -> float:
        parameter = self.method.parameters[name]
        if value is None:
            value = parameter.default
        if value is None:
            raise PlanError(
                f"{self.recipe.origin}: {self.method.name} needs {name!r} for tensor {where}, and no filter "
                "matches it. Add an entry without a filter."
            )
        return float(value)
