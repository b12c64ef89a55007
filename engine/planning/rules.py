"""What a recipe's rules for single tensors (`tensors:`) leave behind: rules for nothing, outputs that cannot load."""

from __future__ import annotations

from collections.abc import Mapping

from engine.models import architecture
from engine.models.sorted_model import SortedModel
from engine.planning.targets import Targets
from engine.recipes.filters import nearest, unmatched
from engine.recipes.keypath import KeyPath
from engine.recipes.recipe import ModelRef, Recipe

BUFFERS = ("rotary_emb.inv_freq", "attn.masked_bias", "attn.bias", "position_ids", "num_batches_tracked")
"""Names' ends of what old checkpoints carry and transformers computes."""


def unmatched_rules(recipe: Recipe, targets: Targets) -> list[str]:
    """A warning for every rule that is for no tensor of the output."""
    names = [*(target.name for target in targets.tensors), *targets.excluded]
    where = KeyPath(recipe.origin).key("tensors")
    return [
        f"{where.item(index)}: filter {rule.filter!r} matches no tensor; {nearest(rule.filter, names)}"
        for index, rule in enumerate(recipe.rules)
        if unmatched([rule.filter], names)
    ]


def refuse_incomplete(recipe: Recipe, targets: Targets, models: Mapping[ModelRef, SortedModel]) -> None:
    """RecipeError where a rule excludes what a model of the written config has: transformers would make it up."""
    for index, rule in enumerate(recipe.rules):
        if rule.action != "exclude":
            continue
        names = [name for name, by in targets.excluded.items() if by is rule]
        needed = _needed(names, targets, models[recipe.donor])
        if not needed:
            continue
        more = f" and {len(needed) - 1} more" if len(needed) > 1 else ""
        where = KeyPath(recipe.origin).key("tensors").item(index)
        raise where.error(
            f"excludes {needed[0]!r}{more}, which a model of this config.json has: transformers would put random "
            "numbers there. Write exclude: anyway if that is meant."
        )


def _needed(names: list[str], targets: Targets, donor: SortedModel) -> list[str]:
    """Those of `names` without which the output does not load: what the donor has and does not compute."""
    tensors = donor.checkpoint.tensors
    templates = {architecture.template_of(name) for name in tensors}
    return [
        name
        for name in names
        if architecture.template_of(name) in templates
        and not (name.endswith(BUFFERS) or donor.layout.beyond(name) or _can_be_tied(name, targets, donor))
    ]


def _can_be_tied(name: str, targets: Targets, donor: SortedModel) -> bool:
    """Whether a tensor is the output head, and the embedding that is written can take its place."""
    if not architecture.has_head([name]):
        return False
    tensors = donor.checkpoint.tensors
    partner = architecture.tied_source(name, [target.name for target in targets.tensors])
    return partner is not None and {name, partner} <= tensors.keys() and tensors[name].shape == tensors[partner].shape
