"""mergefleet's engine: merge math and bytes, in one process.

    from engine import load_recipe, merge
    merge(load_recipe("recipe.yml"), "out")

Names are loaded when they are first used, so that `import engine` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.digest import recipe_hash
    from engine.errors import MergefleetError
    from engine.execution.execute import Executed, Hooks, Work
    from engine.merging import merge
    from engine.methods.own import merge_method
    from engine.models.checkpoint import Checkpoint, open_checkpoint, open_checkpoints
    from engine.outputs.job import MergeResult, StageResult
    from engine.planning.options import Options
    from engine.planning.output_files import ShardSize
    from engine.planning.plan import Plan
    from engine.planning.planner import make_plan
    from engine.recipes.reader import load_recipe, parse_recipe
    from engine.recipes.recipe import ModelRef, Recipe
    from engine.recipes.stages import Stages, load_stages
    from engine.recipes.writer import recipe_to_dict

_HOME = {
    "Checkpoint": "models.checkpoint",
    "Executed": "execution.execute",
    "Hooks": "execution.execute",
    "MergeResult": "outputs.job",
    "MergefleetError": "errors",
    "ModelRef": "recipes.recipe",
    "Options": "planning.options",
    "Plan": "planning.plan",
    "Recipe": "recipes.recipe",
    "ShardSize": "planning.output_files",
    "StageResult": "outputs.job",
    "Stages": "recipes.stages",
    "Work": "execution.execute",
    "load_recipe": "recipes.reader",
    "load_stages": "recipes.stages",
    "make_plan": "planning.planner",
    "merge": "merging",
    "merge_method": "methods.own",
    "open_checkpoint": "models.checkpoint",
    "open_checkpoints": "models.checkpoint",
    "parse_recipe": "recipes.reader",
    "recipe_hash": "digest",
    "recipe_to_dict": "recipes.writer",
}

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
    "ShardSize",
    "StageResult",
    "Stages",
    "Work",
    "load_recipe",
    "load_stages",
    "make_plan",
    "merge",
    "merge_method",
    "open_checkpoint",
    "open_checkpoints",
    "parse_recipe",
    "recipe_hash",
    "recipe_to_dict",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(f"engine.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
