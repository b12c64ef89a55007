"""Which tensors the output has, and which tensor of which source each is made of: names only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from engine.errors import PlanError, did_you_mean
from engine.methods.contract import Method
from engine.models import architecture, modules
from engine.models.architecture import Layout, fill
from engine.models.sorted_model import SortedModel, SortedModule
from engine.recipes.filters import matches
from engine.recipes.keypath import KeyPath
from engine.recipes.levels import base_of
from engine.recipes.recipe import ModelRef, Module, Recipe, Rule, Slice, SliceSource

_NOTHING = SortedModule(Layout(None, 0), {}, "")


@dataclass(frozen=True)
class Target:
    """One output tensor before its numbers: name, place in the output, and the same tensor's name in every input.

    Attributes:
        layer: of the output, None for tensors outside the layers that config.json counts.
        depth: its place in its slice, 0 to 1.
        module, part: the module and the slice it belongs to, with all layers spelled out.
        members: the sources with settings.
        base: the method's base, where it has one.
        copied: the one tensor it is a copy of, by a rule of the recipe.
    """

    name: str
    layer: int | None
    depth: float
    module: Module
    part: Slice
    members: tuple[tuple[SliceSource, str], ...] = ()
    base: tuple[ModelRef, str] | None = None
    copied: tuple[ModelRef, str] | None = None

    @property
    def inputs(self) -> list[tuple[ModelRef, str]]:
        """(model, tensor) in the order of the method's inputs."""
        if self.copied is not None:
            return [self.copied]
        return [*([self.base] if self.base else []), *((source.model, name) for source, name in self.members)]


@dataclass(frozen=True)
class Targets:
    """All output tensors in order, the names that rules exclude, and the modules with all layers spelled out."""

    tensors: tuple[Target, ...]
    excluded: Mapping[str, Rule]
    modules: tuple[Module, ...]


def output_targets(recipe: Recipe, method: Method, models: Mapping[ModelRef, SortedModel]) -> Targets:
    """Every tensor of the output: of every module what comes before the layers, the layers, what comes after them.

    PlanError where sources do not have the same tensors, or the modules or layers asked for.
    """
    planner = _Planner(recipe, method, models)
    parts = tuple(planner.resolved(module) for module in planner.modules())
    tensors = tuple(target for module in parts for target in planner.tensors(module))
    _refuse_twins(tensors, recipe)
    return Targets(tensors, planner.excluded, parts)


@dataclass(frozen=True)
class _Input:
    """One model's share in a slice, whose layers start at `start` there; without `source`, it is the base."""

    model: ModelRef
    start: int
    source: SliceSource | None


@dataclass(frozen=True)
class _Place:
    """Where in the output: layer number `number` of its module and `step` of its slice, or before or after them."""

    module: Module
    part: Slice
    outside: Literal["pre", "post"] | None = None
    number: int = 0
    step: int = 0
    depth: float = 0.0


@dataclass
class _Planner:
    recipe: Recipe
    method: Method
    models: Mapping[ModelRef, SortedModel]
    excluded: dict[str, Rule] = field(default_factory=dict)

    def modules(self) -> list[Module]:
        """The recipe's modules, or those that its models have: slices then mean the layers that config.json counts."""
        if self.recipe.modules:
            return list(self.recipe.modules)
        first = self.recipe.slices[0]
        base = base_of(self.recipe, first, self.method)
        refs = [*([base] if base else []), *(source.model for source in first.sources)]
        found = modules.ordered(self.models[ref].modules for ref in refs)
        main = self._main or found[0]
        whole = replace(first, sources=tuple(replace(source, layers=None) for source in first.sources))
        return [Module(name, self.recipe.slices if name == main else (whole,)) for name in found]

    @property
    def _main(self) -> str | None:
        return self.models[self.recipe.donor].main

    def resolved(self, module: Module) -> Module:
        """The module with every source's layers spelled out, and checked against the models."""
        self._refuse_absent(module)
        parts = tuple(self._slice(module, part, number) for number, part in enumerate(module.slices))
        return replace(module, slices=parts)

    def tensors(self, module: Module) -> Iterator[Target]:
        """The output tensors of one module."""
        yield from self._at(_Place(module, module.slices[0], "pre"))
        number = 0
        for part in module.slices:
            length = len(part.sources[0].span)
            for step in range(length):
                depth = step / (length - 1) if length > 1 else 1.0
                yield from self._at(_Place(module, part, None, number, step, depth))
                number += 1
        yield from self._at(_Place(module, module.slices[-1], "post"))

    # modules and layers

    def _sorted(self, ref: ModelRef, module: Module) -> SortedModule:
        return self.models[ref].modules.get(module.name, _NOTHING)

    def _refuse_absent(self, module: Module) -> None:
        """PlanError where a source has no tensor of the module."""
        refs = list(dict.fromkeys(source.model for part in module.slices for source in part.sources))
        absent = next((ref for ref in refs if not self._sorted(ref, module).templates), None)
        if absent is None:
            return
        if not self.recipe.modules:
            other = next(ref for ref in self.models if self._sorted(ref, module).templates)
            raise self._missing(self._sorted(other, module).sample, absent, [other])
        known = modules.known(self.models[absent].checkpoint.tensors)
        raise self._where(module).error(f"names no tensor of {absent}; {did_you_mean(module.name, known)}")

    def _where(self, module: Module) -> KeyPath:
        root = KeyPath(self.recipe.origin, error_class=PlanError)
        return root.key("modules").key(module.name) if self.recipe.modules else root

    def _slice(self, module: Module, part: Slice, number: int) -> Slice:
        where, sources = self._where(module), []
        for source in part.sources:
            layers = self._sorted(source.model, module).layout.layers
            start, end = source.layers or (0, layers)
            if end > layers:
                raise (
                    where.key("slices")
                    .item(number)
                    .error(
                        f"layer_range [{start}, {end}] of {source.model} reaches beyond the model, which has {layers} "
                        f"layers (0 to {layers - 1})."
                    )
                )
            sources.append(replace(source, layers=(start, end)))
        counts = {str(source.model): len(source.span) for source in sources}
        if len(set(counts.values())) > 1:
            raise where.error(
                "models of different depth cannot be merged layer by layer: "
                + ", ".join(f"{name} has {count} layers" for name, count in counts.items())
                + ". Choose layers with slices and layer_range."
            )
        return replace(part, sources=tuple(sources))

    # tensors

    def _inputs(self, part: Slice) -> list[_Input]:
        """The method's inputs in a slice: the base first, where it has one, then the sources with settings."""
        base = base_of(self.recipe, part, self.method)
        members = [_Input(source.model, source.span.start, source) for source in part.sources if source.model != base]
        return members if base is None else [_input_of(base, part), *members]

    def _at(self, place: _Place) -> Iterator[Target]:
        """The output tensors at one place. What a rule of the recipe says goes before what the slice says."""
        inputs = self._inputs(place.part)
        for template in modules.ordered(self._templates(item, place) for item in inputs):
            name = template if place.outside else fill(template, place.number)
            counted = place.module.name == self._main and not place.outside
            target = Target(name, place.number if counted else None, place.depth, place.module, place.part)
            rule = next((rule for rule in self.recipe.rules if matches(rule.filter, name)), None)
            if rule is not None and rule.action in ("exclude", "exclude_anyway"):
                self.excluded[name] = rule
            elif rule is not None:
                yield self._copied(target, template, place, rule)
            else:
                yield self._merged(target, template, place, inputs)

    def _merged(self, target: Target, template: str, place: _Place, inputs: list[_Input]) -> Target:
        found = [(item, self._find(template, item, place, inputs)) for item in inputs]
        return replace(
            target,
            members=tuple((item.source, name) for item, name in found if item.source is not None),
            base=next(((item.model, name) for item, name in found if item.source is None), None),
        )

    def _copied(self, target: Target, template: str, place: _Place, rule: Rule) -> Target:
        model = rule.model or place.part.base_model or self.recipe.base_model
        assert model is not None  # the reader refuses `keep: base` without a base_model
        item = _input_of(model, place.part)
        self._layer(item, place)
        return replace(target, copied=(model, self._find(template, item, place, self._inputs(place.part))))

    def _templates(self, item: _Input, place: _Place) -> list[str]:
        """What one input has at this place."""
        part = self._sorted(item.model, place.module)
        if place.outside is None:
            return list(part.templates.get(self._layer(item, place), ()))
        before = place.outside == "pre"
        feeds = place.module.name != self._main  # a tower goes before the layers that its output feeds
        return [
            name
            for name in part.templates.get(None, ())
            if before == (part.layout.place(name) == "pre" or (feeds and not self.recipe.modules))
        ]

    def _layer(self, item: _Input, place: _Place) -> int:
        """The number of the layer in the model; PlanError where the model has fewer."""
        number, layers = item.start + place.step, self._sorted(item.model, place.module).layout.layers
        if place.outside is None and number >= layers:
            where = self._where(place.module)
            raise where.error(f"{item.model} has {layers} layers, and a slice needs layer {number} of it.")
        return number

    def _find(self, template: str, item: _Input, place: _Place, inputs: list[_Input]) -> str:
        """The tensor's name in a model, whose embedding is its head where the two are tied; PlanError without it."""
        tensors = self.models[item.model].checkpoint.tensors
        name = template if place.outside else fill(template, self._layer(item, place))
        if name in tensors:
            return name
        partner = architecture.tied_source(name, tensors) if place.outside else None
        if partner is None:
            raise self._missing(name, item.model, [other.model for other in inputs])
        return partner

    def _missing(self, name: str, ref: ModelRef, refs: list[ModelRef]) -> PlanError:
        others = ", ".join(str(other) for other in refs if other != ref)
        return PlanError(
            f"{self.recipe.origin}: tensor {name!r} is missing in {ref}, though {others} has it: the models are not of "
            "one architecture, or a download is incomplete.",
            tensor=name,
            model=str(ref),
        )


def _input_of(model: ModelRef, part: Slice) -> _Input:
    """A model without settings in a slice: its layers there are its own or, where it is no source, the first one's."""
    own = next((source for source in part.sources if source.model == model), part.sources[0])
    return _Input(model, own.span.start, None)


def _refuse_twins(targets: Iterable[Target], recipe: Recipe) -> None:
    """Two output tensors of one name: a stack grew into tensors that its model numbers beyond its layers."""
    seen: set[str] = set()
    for target in targets:
        if target.name in seen:
            raise PlanError(
                f"{recipe.origin}: two output tensors are called {target.name!r}: the stacked layers reach "
                "the numbers of extra layers (multi-token prediction) that the model keeps behind its own. "
                "Stack fewer layers."
            )
        seen.add(target.name)
