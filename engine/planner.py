"""Recipe + opened checkpoints → Plan: what every output tensor is made of, and where it will lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine import digest
from engine.calls import Settings
from engine.checkpoint import Checkpoint
from engine.donor import config_to_write
from engine.errors import PlanError
from engine.methods import METHODS
from engine.methods.contract import Call, Method
from engine.model_code import code_warning
from engine.options import Options
from engine.output_files import lay_out
from engine.plan import OutputTensor, Plan
from engine.recipe import ModelRef, Recipe
from engine.recipe_check import check_parameters
from engine.recipe_writer import recipe_to_dict
from engine.same_architecture import refuse_mixed
from engine.sorted_model import SortedModel, sort_tensors
from engine.targets import Target, output_targets
from engine.views import FLOATS, STORED, View, common_dtype, rounded_dtype


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
    models = {ref: sort_tensors(checkpoints[ref]) for ref in recipe.models}
    made = _Tensors(recipe, method, models)
    pieces = [made.tensor(target) for target in output_targets(recipe, method, models)]
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
    if ref.lora is not None:
        return _described(ref.bare, identity["model"]) | _described(ref.lora, identity["adapter"])
    rest = {name: value for name, value in identity.items() if name != "files"}
    files = {
        f"{ref}/{name}": f"{file['size']:_} bytes, mtime {file['mtime_ns']}, header {file['header']}"
        for name, file in identity.get("files", {}).items()
    }
    return {f"source {ref}": ", ".join(f"{name} {value}" for name, value in rest.items())} | files


class _Tensors:
    def __init__(self, recipe: Recipe, method: Method, models: Mapping[ModelRef, SortedModel]) -> None:
        self.recipe = recipe
        self.method = method
        self.models = models
        self.settings = Settings(recipe, method)

    def tensor(self, target: Target) -> OutputTensor:
        """Inputs, formats and settings of one output tensor; its file and offset come later."""
        names = target.inputs
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
            kept, call = self.settings.call(target, stored[0].shape)
            names, stored = [names[i] for i in kept], [stored[i] for i in kept]
            rounded = [rounded_dtype(tensor.dtype, wanted) for tensor in stored]
            if not call.elements or (_copies(call) and rounded == [stored[0].dtype] == [out]):
                call = None
            elif any(tensor.dtype not in STORED for tensor in stored):
                self._refuse_dtype(target.name, names)
        index = {ref: number for number, ref in enumerate(self.recipe.models)}
        views = tuple(
            View(index[ref], name, tensor.dtype, to, self.models[ref].checkpoint.scratch_bytes(name))
            for (ref, name), tensor, to in zip(names, stored, rounded, strict=True)
        )
        row = "F64" if wanted == "F64" and call else common_dtype(rounded)
        shape, elements = stored[0].shape, stored[0].elements
        return OutputTensor(target.name, out, shape, 0, 0, views, call, row, target.layer, elements)

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
