"""Which tensors the output has, and which tensor of which source each is made of: names only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine import architecture
from engine.donor import layers_of
from engine.errors import PlanError
from engine.methods.contract import Method
from engine.recipe import ModelRef, Recipe, Slice, SliceSource
from engine.sorted_model import SortedModel


@dataclass(frozen=True)
class Target:
    """One output tensor before its numbers: name, place in the output, and the same tensor's name in every input.

    Attributes:
        layer: of the output, None for tensors outside the layers; `depth`: its place in its slice, 0 to 1.
        part: the slice it belongs to, with all layers spelled out.
        members: the sources with settings.
        base: the method's base, where it has one.
    """

    name: str
    layer: int | None
    depth: float
    part: Slice
    members: tuple[tuple[SliceSource, str], ...]
    base: tuple[ModelRef, str] | None

    @property
    def inputs(self) -> list[tuple[ModelRef, str]]:
        """(model, tensor) in the order of the method's inputs."""
        return [*([self.base] if self.base else []), *((source.model, name) for source, name in self.members)]


def output_targets(recipe: Recipe, method: Method, models: Mapping[ModelRef, SortedModel]) -> list[Target]:
    """Every tensor of the output, in order: before the layers, the layers, after them.

    PlanError where sources do not have the same tensors, or the layers asked for.
    """
    targets = list(_Targets(recipe, method, models).all())
    _refuse_twins(targets, recipe)
    return targets


class _Targets:
    def __init__(self, recipe: Recipe, method: Method, models: Mapping[ModelRef, SortedModel]) -> None:
        self.recipe = recipe
        self.method = method
        self.models = models

    def all(self) -> Iterator[Target]:
        """Output tensors in order: what comes before the layers, the layers, what comes after them."""
        slices = [self._resolved(part, number) for number, part in enumerate(self.recipe.slices)]
        yield from self._outside(slices[0], "pre")
        number = 0
        for part in slices:
            start, end = layers_of(part.sources[0])
            for step in range(end - start):
                depth = step / (end - start - 1) if end - start > 1 else 1.0
                yield from self._layer(part, step, number, depth)
                number += 1
        yield from self._outside(slices[-1], "post")

    def _resolved(self, part: Slice, number: int) -> Slice:
        """The slice with every source's layers spelled out, and checked against the models."""
        sources = []
        for source in part.sources:
            layers = self.models[source.model].layout.layers
            start, end = source.layers or (0, layers)
            if end > layers:
                raise PlanError(
                    f"{self.recipe.origin}: slices[{number}]: layer_range [{start}, {end}] of {source.model} reaches "
                    f"beyond the model, which has {layers} layers (0 to {layers - 1})."
                )
            sources.append(SliceSource(source.model, (start, end), source.parameters))
        counts = {str(source.model): layers_of(source)[1] - layers_of(source)[0] for source in sources}
        if len(set(counts.values())) > 1:
            raise PlanError(
                f"{self.recipe.origin}: models of different depth cannot be merged layer by layer: "
                + ", ".join(f"{name} has {count} layers" for name, count in counts.items())
                + ". Choose layers with slices and layer_range."
            )
        return Slice(tuple(sources), part.parameters, part.base_model)

    def _base(self, part: Slice) -> ModelRef | None:
        return None if self.method.base == "ignored" else part.base_model or self.recipe.base_model

    def _base_start(self, part: Slice) -> int:
        """First layer of the base that belongs to this slice: its own range, or that of the first source."""
        base = self._base(part)
        own = [source for source in part.sources if source.model == base]
        return layers_of((own or list(part.sources))[0])[0]

    def _members(self, part: Slice) -> list[SliceSource]:
        """The sources with settings: all but the base, where the method has one."""
        base = self._base(part)
        return [source for source in part.sources if source.model != base]

    def _layer(self, part: Slice, step: int, number: int, depth: float) -> Iterator[Target]:
        base, members = self._base(part), self._members(part)
        starts = [(source.model, layers_of(source)[0]) for source in members]
        if base is not None:
            starts.insert(0, (base, self._base_start(part)))
        for ref, start in starts:
            if start + step >= self.models[ref].layout.layers:
                raise PlanError(f"{self.recipe.origin}: base {ref} has no layer {start + step}, which a slice needs.")
        found = {(ref, start): self.models[ref].templates.get(start + step, ()) for ref, start in starts}
        for template in dict.fromkeys(name for names in found.values() for name in names):
            for (ref, start), names in found.items():
                if template not in names:
                    self._refuse_missing(_fill(template, start + step), ref, [other for other, _ in starts])
            yield Target(
                name=_fill(template, number),
                layer=number,
                depth=depth,
                part=part,
                members=tuple((source, _fill(template, layers_of(source)[0] + step)) for source in members),
                base=None if base is None else (base, _fill(template, starts[0][1] + step)),
            )

    def _outside(self, part: Slice, place: str) -> Iterator[Target]:
        """Tensors outside of the layers; a model whose head is tied lends its embedding."""
        base, members = self._base(part), self._members(part)
        refs = ([base] if base is not None else []) + [source.model for source in members]
        names = dict.fromkeys(
            name
            for ref in refs
            for name in self.models[ref].templates.get(None, ())
            if self.models[ref].layout.place(name) == place
        )
        for name in names:
            inputs = [self._own_or_tied(name, ref, refs) for ref in refs]
            named = inputs if base is None else inputs[1:]
            yield Target(
                name=name,
                layer=None,
                depth=0.0,
                part=part,
                members=tuple(zip(members, named, strict=True)),
                base=None if base is None else (base, inputs[0]),
            )

    def _own_or_tied(self, name: str, ref: ModelRef, refs: list[ModelRef]) -> str:
        tensors = self.models[ref].checkpoint.tensors
        if name in tensors:
            return name
        partner = architecture.tied_source(name, tensors)
        if partner is None:
            self._refuse_missing(name, ref, refs)
        assert partner is not None
        return partner

    def _refuse_missing(self, name: str, ref: ModelRef, refs: list[ModelRef]) -> None:
        others = ", ".join(str(other) for other in refs if other != ref)
        raise PlanError(
            f"{self.recipe.origin}: tensor {name!r} is missing in {ref}, though {others} has it: the models are not of "
            "one architecture, or a download is incomplete.",
            tensor=name,
            model=str(ref),
        )


def _refuse_twins(targets: list[Target], recipe: Recipe) -> None:
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


def _fill(template: str, layer: int) -> str:
    return template.replace("{}", str(layer), 1)
