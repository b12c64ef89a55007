"""Whether the models of a recipe are of one architecture, by what their config.json say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.errors import PlanError

if TYPE_CHECKING:
    from engine.models.checkpoint import Checkpoint
    from engine.recipes.recipe import ModelRef, Recipe

_KEYS = ("architectures", "model_type")


def refuse_mixed(recipe: Recipe, checkpoints: Mapping[ModelRef, Checkpoint]) -> None:
    """PlanError naming the first two models whose config.json name different architectures; silence agrees with all.

    Equal tensor names and shapes do not make models mergeable: Mistral's layers fit into a Llama, and mean something
    else there. mergekit asks the same question of its own table of architectures.
    """
    donor = checkpoints[recipe.donor].config
    for ref in recipe.models:
        config = checkpoints[ref].config
        if any(donor.get(key) and config.get(key) and donor[key] != config[key] for key in _KEYS):
            told = f"{recipe.origin}: {recipe.donor} is {_described(donor)}, {ref} is {_described(config)}: models of "
            raise PlanError(
                f"{told}different architectures are merged only with --allow-crimes, and only where their tensors fit.",
                models=(str(recipe.donor), str(ref)),
                flagless=f"{told}different architectures are not merged.",
            )


def _described(config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    name = ", ".join(map(str, named)) if isinstance(named, list) else ""
    kind = config.get("model_type")
    return f"{name} (model_type {kind})" if name and kind else name or f"model_type {kind}"
