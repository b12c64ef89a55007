"""Files of tensors without a model around them (as in mergekit-pytorch): matched by name, and there are no layers.

Gradients have depth 0, so the first knot counts. Nothing is known to be a vocabulary or tied, and no config.json or
tokenizer is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from engine.errors import PlanError
from engine.methods.contract import Method
from engine.models.checkpoint import Checkpoint
from engine.models.modules import ordered
from engine.planning.targets import Target, Targets
from engine.recipes.filters import matches
from engine.recipes.keypath import KeyPath
from engine.recipes.levels import base_of
from engine.recipes.recipe import ModelRef, Module, Recipe, Rule, SliceSource

Input = tuple[ModelRef, SliceSource | None]
"""A file and its settings; none for the base."""


def is_raw(recipe: Recipe, checkpoints: Mapping[ModelRef, Checkpoint]) -> bool:
    """Whether the sources are files of tensors, not models; PlanError for a mixture, or for what only models have."""
    where = KeyPath(recipe.origin, error_class=PlanError)
    files = [ref for ref in recipe.models if checkpoints[ref].raw]
    if not files:
        if recipe.tensor_set != "same":
            raise where.key("tensor_set").error("is for files of tensors; models of one architecture have the same.")
        return False
    model = next((ref for ref in recipe.models if not checkpoints[ref].raw), None)
    if model is not None:
        raise where.error(
            f"{files[0]} is a file of tensors, {model} a model: they cannot be merged. For a model name its directory."
        )
    given = {
        "modules": bool(recipe.modules),
        "slices": bool(recipe.slices) and not recipe.parts[0].whole_models,
        "tokenizer_source": recipe.tokenizer_source is not None,
        "chat_template": recipe.chat_template is not None,
    }
    for key, is_given in given.items():
        if is_given:
            raise where.key(key).error(f"is for models; {files[0]} is a file of tensors.")
    return True


def raw_targets(recipe: Recipe, method: Method, files: Mapping[ModelRef, Checkpoint]) -> Targets:
    """Every output tensor: those that all files have, or, as the recipe's `tensor_set` says, that some have.

    PlanError where the files do not have the same tensors and nothing is said about it.
    """
    part = recipe.slices[0]
    base = base_of(recipe, part, method)
    inputs: list[Input] = [(base, None)] if base is not None else []
    inputs += [(source.model, source) for source in part.sources if source.model != base]
    module = Module("", (part,))
    excluded: dict[str, Rule] = {}
    targets = []
    for name in ordered(files[ref].tensors for ref, _ in inputs):
        target = Target(name, None, 0.0, module, part)
        rule = next((rule for rule in recipe.rules if matches(rule.filter, name)), None)
        if rule is not None and rule.action in ("exclude", "exclude_anyway"):
            excluded[name] = rule
        elif rule is not None:
            targets.append(replace(target, copied=(_copied_from(rule, name, recipe, files), name)))
        else:
            targets += _merged(target, inputs, recipe, method, files)
    if not targets:
        raise PlanError(f"{recipe.origin}: the files have no tensor in common: nothing would be written.")
    return Targets(tuple(targets), excluded, (module,))


def _copied_from(rule: Rule, name: str, recipe: Recipe, files: Mapping[ModelRef, Checkpoint]) -> ModelRef:
    model = rule.model or recipe.base_model
    assert model is not None  # the reader refuses `keep: base` without a base_model
    if name not in files[model].tensors:
        raise PlanError(f"{recipe.origin}: tensor {name!r} is to be copied from {model}, which does not have it.")
    return model


def _merged(
    target: Target, inputs: list[Input], recipe: Recipe, method: Method, files: Mapping[ModelRef, Checkpoint]
) -> list[Target]:
    """The target with its inputs: one tensor, or none where it belongs to no output."""
    name = target.name
    present = [item for item in inputs if name in files[item[0]].tensors]
    if len(present) < len(inputs):
        if recipe.tensor_set == "intersection":
            return []
        has_base = inputs[0][1] is not None or present[0] == inputs[0]
        least = max(method.models[0], 2 if method.base == "required" else 1)
        enough = has_base and len(present) >= least
        if recipe.tensor_set == "union" and len(present) == 1 and not enough:
            return [replace(target, copied=(present[0][0], name))]
        if recipe.tensor_set == "same" or not enough:
            absent = next(ref for ref, _ in inputs if name not in files[ref].tensors)
            raise _missing(target, absent, recipe, method)
    return [
        replace(
            target,
            members=tuple((source, name) for _, source in present if source is not None),
            base=next(((ref, name) for ref, source in present if source is None), None),
        )
    ]


def _missing(target: Target, absent: ModelRef, recipe: Recipe, method: Method) -> PlanError:
    if recipe.tensor_set == "same":
        advice = "tensor_set: intersection leaves such tensors out, tensor_set: union merges them from the files that "
        advice += "have them."
    else:
        advice = f"{method.name} needs it there: tensor_set: intersection leaves it out, or a rule (tensors)."
    return PlanError(
        f"{recipe.origin}: tensor {target.name!r} is not in {absent}: {advice}", tensor=target.name, model=str(absent)
    )
