"""Recipe + opened checkpoints → Plan: what every output tensor is made of, and where it will lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.device import choose_device
from engine.errors import PlanError
from engine.inexact import fingerprint
from engine.methods import methods_for
from engine.methods.contract import Call, Method
from engine.models import modules
from engine.models.chat_templates import choose_template
from engine.models.checkpoint import Checkpoint
from engine.models.model_code import code_warning
from engine.models.same_architecture import refuse_mixed
from engine.models.sorted_model import SortedModel, sort_tensors
from engine.models.views import FLOATS, STORED, View, common_dtype, rounded_dtype
from engine.planning.calls import Settings
from engine.planning.donor import config_to_write, left_out_of_config, odd_vocabulary
from engine.planning.importance import find_importance
from engine.planning.options import Options
from engine.planning.output_files import ShardSize, lay_out
from engine.planning.plan import OutputTensor, Plan
from engine.planning.raw_targets import is_raw, raw_targets
from engine.planning.rules import refuse_incomplete, unmatched_rules
from engine.planning.targets import Target, Targets, output_targets
from engine.planning.vocabulary_check import check_tokenizer, check_vocabularies
from engine.planning.vocabulary_rows import Input, VocabularyRows
from engine.recipes.check import check_parameters
from engine.recipes.recipe import ModelRef, Recipe
from engine.recipes.writer import flat, recipe_to_dict
from engine.tensorfile.store import SourceTensor


def make_plan(
    recipe: Recipe,
    checkpoints: Mapping[ModelRef, Checkpoint],
    options: Options | None = None,
) -> Plan:
    """Decide a whole merge from headers alone.

    Args:
        recipe: what to merge.
        checkpoints: all that the recipe names (`recipe.opened`), opened.
        options: those of its tiles, files and allowances are used.

    Raises:
        RecipeError: unknown method or parameter, missing or impossible setting.
        PlanError: recipe and models do not fit together; names the tensor, the models, and both shapes.
    """
    options = options or Options()
    method, warnings = _method(recipe, checkpoints, options)
    models = {ref: sort_tensors(checkpoints[ref], [module.name for module in recipe.modules]) for ref in recipe.models}
    made = _Tensors(recipe, method, models, checkpoints)
    targets = _targets(made)
    tensors, files = lay_out([made.tensor(target) for target in targets.tensors], options.shard_size or ShardSize())
    warnings += _warnings(made, targets, tensors, options)
    chat_template, said = choose_template(recipe, checkpoints)
    config, told = _config(made, targets, tensors)
    return Plan(
        method=method,
        sources=recipe.opened,
        tensors=tensors,
        files=files,
        config=config,
        describe=_describe(recipe, method, checkpoints, options),
        donor=recipe.donor,
        tokenizer=recipe.tokenizer_model,
        chat_template=chat_template,
        tile_bytes=options.tile_bytes,
        left_out=_left_out(models, tensors, recipe.models),
        warnings=(*warnings, *said, *told),
    )


def _method(recipe: Recipe, checkpoints: Mapping[ModelRef, Checkpoint], options: Options) -> tuple[Method, list[str]]:
    """The recipe's method, and warnings, where its parameters and its models' architectures may be."""
    methods = methods_for(recipe.method, recipe.origin)
    warnings = check_parameters(recipe, methods, allow_unknown=options.allow_unknown)
    if not options.allow_mixed:
        refuse_mixed(recipe, checkpoints)
    return methods[recipe.method], warnings


def _targets(made: _Tensors) -> Targets:
    """The tensors of the output, of which none may be missing where it is a model."""
    if is_raw(made.recipe, made.checkpoints):
        return raw_targets(made.recipe, made.method, made.checkpoints)
    targets = output_targets(made.recipe, made.method, made.models)
    refuse_incomplete(made.recipe, targets, made.models)
    return targets


def _config(made: _Tensors, targets: Targets, tensors: Sequence[OutputTensor]) -> tuple[Mapping[str, Any], list[str]]:
    """config.json of the output (nothing where that is a file of tensors), and what the user should know of it."""
    recipe = made.recipe
    if is_raw(recipe, made.checkpoints):
        return {}, odd_vocabulary(recipe, {}, tensors)
    config = config_to_write(recipe, made.models, targets, tensors)
    left_out = left_out_of_config(recipe, made.checkpoints[recipe.donor].config, config)
    return config, [*odd_vocabulary(recipe, config, tensors), *left_out]


def _warnings(made: _Tensors, targets: Targets, tensors: Sequence[OutputTensor], options: Options) -> Iterator[str]:
    """What the user should know about the tensors, the vocabulary and the code of the output."""
    recipe, checkpoints = made.recipe, made.checkpoints
    if not options.carry_code:
        yield from filter(None, [code_warning(checkpoints[recipe.donor])])
    yield from made.settings.unmatched()
    yield from unmatched_rules(recipe, targets)
    yield from _outside_modules(recipe, made.models[recipe.donor])
    yield from made.rows.warnings
    yield from check_vocabularies(recipe, checkpoints, tensors, padded=bool(made.rows.warnings))
    if options.copy_tokenizer:
        yield from check_tokenizer(recipe, checkpoints)


RECIPE = "recipe: "
"""What the keys of a plan's `describe` begin with that are the recipe's."""


def describe_recipe(recipe: Recipe) -> dict[str, str]:
    """What a plan's `describe` says of the recipe itself."""
    return {f"{RECIPE}{key}": value for key, value in flat(recipe_to_dict(recipe)).items()}


def _describe(
    recipe: Recipe, method: Method, checkpoints: Mapping[ModelRef, Checkpoint], options: Options
) -> dict[str, str]:
    """What a plan's digest is taken over beside its tensors, in words: a refused resume says which of it changed."""
    describe = describe_recipe(recipe)
    describe["output shard size"] = str(options.shard_size or ShardSize())
    if method.package:
        describe["method"] = method.package
    if not method.exact:
        describe["arithmetic"] = fingerprint(choose_device(options.device))
    for ref in recipe.opened:
        describe |= _described(ref, checkpoints[ref].identity)
    return describe


def _described(ref: ModelRef, identity: Mapping[str, Any]) -> dict[str, str]:
    """A source's identity, file by file, so that a refused resume can say which one changed."""
    if ref.lora is not None:
        return _described(ref.bare, identity["model"]) | _described(ref.lora, identity["adapter"])
    rest = {name: value for name, value in identity.items() if name != "files"}
    files = {
        f"{ref}/{name}": f"{file['size']:_} bytes, {_version(file)}, header {file['header']}"
        for name, file in identity.get("files", {}).items()
    }
    kind = "importance" if ref.statistics else "source"
    return {f"{kind} {ref}": ", ".join(f"{name} {value}" for name, value in rest.items())} | files


def _version(file: Mapping[str, Any]) -> str:
    return f"mtime {file['mtime_ns']}" if "mtime_ns" in file else f"ETag {file['etag']}"


class _Tensors:
    def __init__(
        self,
        recipe: Recipe,
        method: Method,
        models: Mapping[ModelRef, SortedModel],
        checkpoints: Mapping[ModelRef, Checkpoint],
    ) -> None:
        self.recipe = recipe
        self.method = method
        self.models = models
        self.checkpoints = checkpoints
        self.settings = Settings(recipe, method)
        self.rows = VocabularyRows(recipe, models)
        self.index = {ref: number for number, ref in enumerate(recipe.opened)}

    def tensor(self, target: Target) -> OutputTensor:
        """Inputs, formats and settings of one output tensor; its file and offset come later."""
        inputs = [(ref, self.checkpoints[ref].tensors[name]) for ref, name in target.inputs]
        first = inputs[0][1]
        full = self.rows.full(target.name, inputs)
        shape = full[1].shape if full else self._one_shape(target.name, inputs)
        wanted = FLOATS[self.recipe.dtype] if self.recipe.dtype else None
        out = FLOATS[self.recipe.out_dtype] if self.recipe.out_dtype else wanted or first.dtype
        call: Call | None = None
        if not any(tensor.dtype in STORED or tensor.dtype.startswith("F8") for _, tensor in inputs):
            self._check_same_dtype(target.name, inputs)
            out = first.dtype
            views = [self._view(ref, tensor, tensor.dtype) for ref, tensor in inputs]
        elif target.copied is not None:
            views = [self._view(ref, tensor, wanted, full) for ref, tensor in inputs]
            if first.dtype not in STORED and first.dtype != out:
                self._refuse_dtype(target.name, inputs)
        else:
            kept, call = self.settings.call(target, shape)
            importances = self._importances(target, kept, shape) if self.method.importance else []
            inputs = [inputs[i] for i in kept]
            views = [self._view(ref, tensor, wanted, full) for ref, tensor in inputs]
            views += [self._view(ref, tensor, "F32" if tensor.dtype == "F64" else None) for ref, tensor in importances]
            inputs += importances
            rounded = {part.rounded for view in views for part in view.chain}
            if not call.elements or (
                _copies(call) and rounded == {inputs[0][1].dtype} == {out} and not views[0].beyond
            ):
                call = None
            elif any(tensor.dtype not in STORED for _, tensor in inputs):
                self._refuse_dtype(target.name, inputs)
        formats = [part.rounded for view in views for part in view.chain]
        row = "F64" if wanted == "F64" and call else common_dtype(formats)
        return OutputTensor(target.name, out, shape, 0, 0, tuple(views), call, row, target.layer, math.prod(shape))

    def _view(self, ref: ModelRef, tensor: SourceTensor, wanted: str | None, full: Input | None = None) -> View:
        """A tensor, rounded to `wanted`; one with fewer rows than `full` goes on with those."""
        checkpoint, is_short = self.checkpoints[ref], full is not None and tensor.elements < full[1].elements
        return View(
            source=self.index[ref],
            tensor=tensor.name,
            stored=tensor.dtype,
            rounded=rounded_dtype(tensor.dtype, wanted),
            scratch=checkpoint.scratch_bytes(tensor.name),
            elements=tensor.elements,
            beyond=self._view(*full, wanted) if full and is_short else None,
        )

    def _importances(self, target: Target, kept: list[int], shape: tuple[int, ...]) -> list[Input]:
        """The importance tensors of the sources that are used, in their order."""
        first = 0 if target.base is None else 1
        members = (target.members[i - first] for i in kept if i >= first)
        return [find_importance(self.recipe.origin, self.checkpoints, *member, shape) for member in members]

    def _one_shape(self, tensor: str, inputs: list[Input]) -> tuple[int, ...]:
        """The shape that all inputs have."""
        (first, expected), *others = inputs
        for ref, found in others:
            if found.shape != expected.shape:
                raise PlanError(
                    f"{self.recipe.origin}: tensor {tensor!r} is {list(expected.shape)} in {first} and "
                    f"{list(found.shape)} in {ref}: models of different shape cannot be merged.",
                    tensor=tensor,
                    shapes=(expected.shape, found.shape),
                )
        return expected.shape

    def _check_same_dtype(self, tensor: str, inputs: list[Input]) -> None:
        dtypes = {str(ref): found.dtype for ref, found in inputs}
        if len(set(dtypes.values())) > 1:
            said = ", ".join(f"{dtype} in {ref}" for ref, dtype in dtypes.items())
            raise PlanError(f"{self.recipe.origin}: tensor {tensor!r} is {said}: it can neither be merged nor copied.")

    def _refuse_dtype(self, tensor: str, inputs: list[Input]) -> None:
        said = ", ".join(f"{found.dtype} in {ref}" for ref, found in inputs)
        raise PlanError(
            f"{self.recipe.origin}: tensor {tensor!r} is {said}; {self.method.name} works on {', '.join(STORED)}. "
            "Dequantise the model first."
        )


def _copies(call: Call) -> bool:
    return call.method == "passthrough" and call.sources["scale"] == (1.0,)


def _outside_modules(recipe: Recipe, donor: SortedModel) -> list[str]:
    """A warning where the donor has tensors that belong to none of the recipe's modules."""
    left = donor.outside
    if not left:
        return []
    roles = modules.roles(list(donor.checkpoint.tensors))
    parts = ", ".join(dict.fromkeys(roles[name] for name in left))
    return [
        f"{recipe.origin}: modules: {len(left)} tensors of {recipe.donor} belong to none of them and are not written: "
        f"{left[0]!r}{', ...' if len(left) > 1 else ''} ({parts})."
    ]


def _left_out(
    models: Mapping[ModelRef, SortedModel], tensors: tuple[OutputTensor, ...], sources: tuple[ModelRef, ...]
) -> dict[str, tuple[str, ...]]:
    """Input tensors that nothing reads, by model: layers outside of the slices, for example."""
    read = {(view.source, view.tensor) for tensor in tensors for view in tensor.views}
    left = {
        str(ref): tuple(name for name in models[ref].checkpoint.tensors if (number, name) not in read)
        for number, ref in enumerate(sources)
    }
    return {ref: names for ref, names in left.items() if names}
