"""mergefleet's engine: merge math and bytes, in one process.

from engine import load_recipe, merge
merge(load_recipe("recipe.yml"), "out")
"""

from __future__ import annotations

from engine.checkpoint import Checkpoint, open_checkpoint, open_checkpoints
from engine.digest import recipe_hash
from engine.errors import MergefleetError
from engine.execute import Executed, Hooks, Work, execute
from engine.merge import MergeResult, Options, merge
from engine.plan import Plan
from engine.planner import make_plan
from engine.recipe import ModelRef, Recipe, load_recipe, parse_recipe, recipe_to_dict

__all__ = [
    "Checkpoint",
    "Executed",
    "Hooks",
    "MergeResult",
    "MergefleetError",
    "ModelRef",
    "Options",
    "Plan",
    "Recipe",
    "Work",
    "execute",
    "load_recipe",
    "make_plan",
    "merge",
    "open_checkpoint",
    "open_checkpoints",
    "parse_recipe",
    "recipe_hash",
    "recipe_to_dict",
]
