"""mergefleet's engine: merge math and bytes, in one process.

    from engine import load_recipe, merge
    merge(load_recipe("recipe.yml"), "out")

Names are loaded when they are first used, so that `import engine` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.checkpoint import Checkpoint, open_checkpoint, open_checkpoints
    from engine.digest import recipe_hash
    from engine.errors import MergefleetError
    from engine.execute import Executed, Hooks, Work
    from engine.job import MergeResult, StageResult
    from engine.merging import merge
    from engine.methods.own import merge_method
    from engine.options import Options
    from engine.output_files import ShardSize
    from engine.plan import Plan
    from engine.planner import make_plan
    from engine.recipe import ModelRef, Recipe
    from engine.recipe_reader import load_recipe, parse_recipe
    from engine.recipe_writer import recipe_to_dict
    from engine.stages import Stages, load_stages

_HOME = {
    "Checkpoint": "checkpoint",
    "Executed": "execute",
    "Hooks": "execute",
    "MergeResult": "job",
    "MergefleetError": "errors",
    "ModelRef": "recipe",
    "Options": "options",
    "Plan": "plan",
    "Recipe": "recipe",
    "ShardSize": "output_files",
    "StageResult": "job",
    "Stages": "stages",
    "Work": "execute",
    "load_recipe": "recipe_reader",
    "load_stages": "stages",
    "make_plan": "planner",
    "merge": "merging",
    "merge_method": "methods.own",
    "open_checkpoint": "checkpoint",
    "open_checkpoints": "checkpoint",
    "parse_recipe": "recipe_reader",
    "recipe_hash": "digest",
    "recipe_to_dict": "recipe_writer",
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
