"""Importance tensors: what a user gives about a model, with the names and shapes of its tensors (`importance:`)."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import PlanError, did_you_mean
from engine.models.checkpoint import Checkpoint
from engine.recipes.model_ref import ModelRef
from engine.recipes.recipe import SliceSource
from engine.tensorfile.store import SourceTensor


def find_importance(
    origin: str, checkpoints: Mapping[ModelRef, Checkpoint], source: SliceSource, name: str, shape: tuple[int, ...]
) -> tuple[ModelRef, SourceTensor]:
    """The importance of a source's tensor `name`; PlanError, naming the recipe `origin`, where there is none."""
    ref = source.importance
    assert ref is not None  # recipes.check refuses a source without one
    tensors = checkpoints[ref].tensors
    if name not in tensors:
        raise PlanError(
            f"{origin}: {ref} has no importance for tensor {name!r} of {source.model}; {did_you_mean(name, tensors)}",
            tensor=name,
        )
    found = tensors[name]
    if found.shape != shape:
        raise PlanError(
            f"{origin}: {ref}: the importance of tensor {name!r} is {list(found.shape)}, {list(shape)} expected as in "
            f"{source.model}.",
            tensor=name,
        )
    return ref, found
