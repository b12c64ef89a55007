"""Recipe + opened checkpoints → Plan: what every output tensor is made of, and where it will lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine import architecture, digest
from engine.architecture import Layout
from engine.checkpoint import Checkpoint
from engine.donor import SortedModel, config_to_write, layers_of
from engine.errors import PlanError, SourceError
from engine.methods import METHODS
from engine.methods.contract import Call, Method
from engine.model_code import code_warning
from engine.options import Options
from engine.output_files import lay_out
from engine.plan import OutputTensor, Plan
from engine.recipe import ModelRef, Recipe, Slice, SliceSource
from engine.recipe_check import check_parameters
from engine.recipe_writer import recipe_to_dict
from engine.same_architecture import refuse_mixed
from engine.settings import lookup
from engine.views import FLOATS, STORED, View, common_dtype, rounded_dtype


@dataclass(frozen=True)
class _Target:
    """One output tensor before its numbers: name, place in the output, and the same tensor's name in every source."""

    name: str
    layer: int | None
    depth: float
    part: Slice
    sources: tuple[tuple[SliceSource, str], ...]
    base: str | None


def make_plan(
    recipe: Recipe,
    checkpoints: Mapping[ModelRef, Checkpoint],
    options: Options | None = None,
) -> Plan:
    """Decide a whole merge from headers alone.

    Args:
        recipe: what to merge.
        checkpoints: every model that the recipe names, opened.
        options: those of its tiles, files and allowances are used.

    Raises:
        RecipeError: unknown method or parameter, missing or impossible setting.
        PlanError: recipe and models do not fit together; names the tensor, the models, and both shapes.
    """
    options = options or Options()
    warnings = check_parameters(recipe, METHODS, allow_unknown=options.allow_unknown)
    if not options.allow_mixed:
        refuse_mixed(recipe, checkpoints)
    if not options.carry_code:
        warnings += filter(None, [code_warning(checkpoints[recipe.donor])])
    method = METHODS[recipe.method]
    models = {ref: _sorted(checkpoints[ref]) for ref in recipe.models}
    planner = _Planner(recipe, method, models)
    targets = list(planner.targets())
    _refuse_twins(targets, recipe)
    pieces = [planner.tensor(target) for target in targets]
    tensors, files = lay_out(pieces, options.shard_size)
    sources = recipe.models
    describe = {
        "recipe": str(recipe_to_dict(recipe)),
        "output shard size": str(options.shard_size),
    }
    for ref in sources:
        describe |= _described(ref, checkpoints[ref].identity)
    plan = Plan(
        method=method,
        sources=sources,
        tensors=tensors,
        files=files,
        config=config_to_write(recipe, models, tensors),
        describe=describe,
        digest="",
        tokenizer=recipe.tokenizer_model,
        tile_bytes=options.tile_bytes,
        left_out=_left_out(models, tensors, sources),
        warnings=tuple(warnings),
    )
    facts = [digest.call_facts(tensor, plan) for tensor in tensors]
    identity = digest.of_json([describe, facts, [[t.file, t.offset] for t in tensors], plan.config])
    return Plan(**{**plan.__dict__, "digest": identity})


def _described(ref: ModelRef, identity: Mapping[str, Any]) -> dict[str, str]:
    """A source's identity, file by file, so that a refused resume can say which one changed."""
    rest = {name: value for name, value in identity.items() if name != "files"}
    files = {
        f"{ref}/{name}": f"{file['size']:_} bytes, mtime {file['mtime_ns']}, header {file['header']}"
        for name, file in identity.get("files", {}).items()
    }
    return {f"source {ref}": ", ".join(f"{name} {value}" for name, value in rest.items())} | files


def _sorted(checkpoint: Checkpoint) -> SortedModel:
    layout = Layout.read(checkpoint.tensors, checkpoint.config, origin=str(checkpoint.ref))
    templates: dict[int | None, list[str]] = {}
    for name in checkpoint.tensors:
        if "{}" in name:
            raise SourceError(f"{checkpoint.ref}: tensor {name!r}: braces have no place in a name.", tensor=name)
        template, layer = layout.locate(name)
        templates.setdefault(layer, []).append(template)
    return SortedModel(checkpoint, layout, {layer: tuple(names) for layer, names in templates.items()})


class _Planner:
    def __init__(self, recipe: Recipe, method: Method, models: Mapping[ModelRef, SortedModel]) -> None:
        self.recipe = recipe
        self.method = method
        self.models = models

    # which tensors there are, and from where

    def targets(self) -> Iterator[_Target]:
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

    def _layer(self, part: Slice, step: int, number: int, depth: float) -> Iterator[_Target]:
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
            yield _Target(
                name=_fill(template, number),
                layer=number,
                depth=depth,
                part=part,
                sources=tuple((source, _fill(template, layers_of(source)[0] + step)) for source in members),
                base=None if base is None else _fill(template, starts[0][1] + step),
            )

    def _outside(self, part: Slice, place: str) -> Iterator[_Target]:
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
            yield _Target(
                name=name,
                layer=None,
                depth=0.0,
                part=part,
                sources=tuple(zip(members, named, strict=True)),
                base=None if base is None else inputs[0],
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

    # the numbers of one tensor

    def tensor(self, target: _Target) -> OutputTensor:
        """Inputs, formats and settings of one output tensor; its file and offset come later."""
        names = [(source.model, name) for source, name in target.sources]
        base = self._base(target.part)
        if base is not None:
            assert target.base is not None
            names.insert(0, (base, target.base))
        self._check_shapes(target.name, names)
        stored = [self.models[ref].checkpoint.tensors[name] for ref, name in names]
        wanted = FLOATS[self.recipe.dtype] if self.recipe.dtype else None
        floats = [tensor.dtype in STORED for tensor in stored]
        out = FLOATS[self.recipe.out_dtype] if self.recipe.out_dtype else wanted or stored[0].dtype
        call: Call | None = None
        if not any(floats) and not any(tensor.dtype.startswith("F8") for tensor in stored):
            self._check_same_dtype(target.name, names)
            out, rounded = stored[0].dtype, [tensor.dtype for tensor in stored]
        else:
            kept, call = self._call(target, stored[0].shape, len(names))
            names, stored = [names[i] for i in kept], [stored[i] for i in kept]
            rounded = [rounded_dtype(tensor.dtype, wanted) for tensor in stored]
            if not call.elements or (_copies(call) and rounded == [stored[0].dtype] == [out]):
                call = None
            elif any(tensor.dtype not in STORED for tensor in stored):
                self._refuse_dtype(target.name, names)
        index = {ref: number for number, ref in enumerate(self.recipe.models)}
        views = tuple(
            View(index[ref], name, tensor.dtype, to)
            for (ref, name), tensor, to in zip(names, stored, rounded, strict=True)
        )
        row = "F64" if wanted == "F64" and call else common_dtype(rounded)
        shape, elements = stored[0].shape, stored[0].elements
        return OutputTensor(target.name, out, shape, 0, 0, views, call, row, target.layer, elements)

    def _call(self, target: _Target, shape: tuple[int, ...], inputs: int) -> tuple[list[int], Call]:
        """Which inputs are used (a source of weight 0 may change nothing), and the call with their settings."""
        scoped = {"model": [], "global": []}  # type: dict[str, list[str]]
        for parameter in self.method.parameters.values():
            scoped[parameter.scope].append(parameter.name)
        settings = [
            {name: self._per_model(name, target, source, tensor) for name in scoped["model"]}
            for source, tensor in target.sources
        ]
        used = list(range(len(settings)))
        if self.method.drops_zero_weights and "weight" in self.method.parameters:
            # where all are 0, one is kept: the result is then the base (or 0) by the ordinary arithmetic
            used = [i for i in used if settings[i]["weight"] != 0] or used[:1]
        offset = inputs - len(settings)
        options = {name: self._global(name, target) for name in scoped["global"]}
        call = Call(
            method=self.method.name,
            tensor=target.name,
            shape=shape,
            base=bool(offset),
            source_ids=tuple(self.recipe.source_ids[target.sources[i][0].model] for i in used),
            sources={name: tuple(settings[i][name] for i in used) for name in scoped["model"]},
            options=options,
            seed=self.recipe.seed,
            scope=self.method.scope_with(options),
        )
        wrong = self.method.check(call)
        if wrong:
            raise PlanError(f"{self.recipe.origin}: tensor {target.name!r}: {wrong}", tensor=target.name)
        return [*range(offset), *(i + offset for i in used)], call

    def _per_model(self, name: str, target: _Target, source: SliceSource, tensor: str) -> float:
        levels = (source.parameters, target.part.parameters, self.recipe.parameters)
        value = lookup(levels, name, (tensor,) * 3, target.depth)
        return self._or_default(name, value, f"{tensor!r} of {source.model}")

    def _global(self, name: str, target: _Target) -> float:
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

    def _check_shapes(self, tensor: str, names: list[tuple[ModelRef, str]]) -> None:
        first, name = names[0]
        shape = self.models[first].checkpoint.tensors[name].shape
        for ref, other in names[1:]:
            found = self.models[ref].checkpoint.tensors[other].shape
            if found != shape:
                raise PlanError(
                    f"{self.recipe.origin}: tensor {tensor!r} is {list(shape)} in {first} and {list(found)} in {ref}: "
                    "models of different shape cannot be merged.",
                    tensor=tensor,
                    shapes=(shape, found),
                )

    def _check_same_dtype(self, tensor: str, names: list[tuple[ModelRef, str]]) -> None:
        dtypes = {str(ref): self.models[ref].checkpoint.tensors[name].dtype for ref, name in names}
        if len(set(dtypes.values())) > 1:
            said = ", ".join(f"{dtype} in {ref}" for ref, dtype in dtypes.items())
            raise PlanError(f"{self.recipe.origin}: tensor {tensor!r} is {said}: it can neither be merged nor copied.")

    def _refuse_dtype(self, tensor: str, names: list[tuple[ModelRef, str]]) -> None:
        said = ", ".join(f"{self.models[ref].checkpoint.tensors[name].dtype} in {ref}" for ref, name in names)
        raise PlanError(
            f"{self.recipe.origin}: tensor {tensor!r} is {said}; {self.method.name} works on {', '.join(STORED)}. "
            "Dequantise the model first."
        )


def _copies(call: Call) -> bool:
    return call.method == "passthrough" and call.sources["scale"] == (1.0,)


def _refuse_twins(targets: list[_Target], recipe: Recipe) -> None:
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


def _left_out(
    models: Mapping[ModelRef, SortedModel], tensors: tuple[OutputTensor, ...], sources: tuple[ModelRef, ...]
) -> dict[str, tuple[str, ...]]:
    """Input tensors that nothing reads, by model: layers outside of the slices, for example."""
    read = {(view.source, view.tensor) for tensor in tensors for view in tensor.inputs}
    left = {
        str(ref): tuple(name for name in models[ref].checkpoint.tensors if (number, name) not in read)
        for number, ref in enumerate(sources)
    }
    return {ref: names for ref, names in left.items() if names}
