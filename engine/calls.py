"""The settings of one output tensor: which value holds where, and the method's call made of them."""

from __future__ import annotations

from engine.errors import PlanError
from engine.methods.contract import Call, Method
from engine.recipe import Recipe, SliceSource
from engine.settings import lookup
from engine.targets import Target


class Settings:
    """Resolves a recipe's parameters for one output tensor after the other."""

    def __init__(self, recipe: Recipe, method: Method) -> None:
        self.recipe = recipe
        self.method = method

    def call(self, target: Target, shape: tuple[int, ...]) -> tuple[list[int], Call]:
        """Which inputs are used (a source of weight 0 may change nothing), and the call with their settings."""
        scoped = {"model": [], "global": []}  # type: dict[str, list[str]]
        for parameter in self.method.parameters.values():
            scoped[parameter.scope].append(parameter.name)
        settings = [
            {name: self._per_model(name, target, source, tensor) for name in scoped["model"]}
            for source, tensor in target.members
        ]
        used = list(range(len(settings)))
        if self.method.drops_zero_weights and "weight" in self.method.parameters:
            # where all are 0, one is kept: the result is then the base (or 0) by the ordinary arithmetic
            used = [i for i in used if settings[i]["weight"] != 0] or used[:1]
        offset = 0 if target.base is None else 1
        options = {name: self._global(name, target) for name in scoped["global"]}
        call = Call(
            method=self.method.name,
            tensor=target.name,
            shape=shape,
            base=bool(offset),
            source_ids=tuple(self.recipe.source_ids[target.members[i][0].model] for i in used),
            sources={name: tuple(settings[i][name] for i in used) for name in scoped["model"]},
            options=options,
            seed=self.recipe.seed,
            scope=self.method.scope_with(options),
        )
        wrong = self.method.check(call)
        if wrong:
            raise PlanError(f"{self.recipe.origin}: tensor {target.name!r}: {wrong}", tensor=target.name)
        return [*range(offset), *(i + offset for i in used)], call

    def _per_model(self, name: str, target: Target, source: SliceSource, tensor: str) -> float:
        levels = (source.parameters, target.part.parameters, self.recipe.parameters)
        value = lookup(levels, name, (tensor,) * 3, target.depth)
        return self._or_default(name, value, f"{tensor!r} of {source.model}")

    def _global(self, name: str, target: Target) -> float:
        levels = (target.part.parameters, self.recipe.parameters)
        return self._or_default(name, lookup(levels, name, (target.name,) * 2, target.depth), repr(target.name))

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
