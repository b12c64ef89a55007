"""Candidates' recipes → plans and canonical hashes: sources are opened once, and a plan is made once, not per user."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.digest import of_tensor_recipes, tensor_recipes
from engine.models.checkpoint import Checkpoint, open_checkpoint
from engine.planning.plan import Plan
from engine.planning.planner import make_plan
from engine.recipes.reader import parse_recipe
from engine.recipes.recipe import ModelRef

KEPT = 64


@dataclass(frozen=True)
class Planned:
    """A recipe's plan, its canonical hash over the contents of its sources, and that of every output tensor."""

    plan: Plan
    recipe_hash: str
    tensors: tuple[str, ...]


class Plans:
    """Opened checkpoints and the last `KEPT` plans; coordinator and evaluator share one where they share a process."""

    def __init__(self) -> None:
        self.checkpoints: dict[ModelRef, Checkpoint] = {}
        self._planned: OrderedDict[str, Planned] = OrderedDict()

    def __call__(self, recipe: Mapping[str, Any]) -> Planned:
        """The plan of a recipe (mergekit's schema). Raises InputError where recipe and sources do not fit."""
        key = json.dumps(recipe, sort_keys=True)
        if key not in self._planned:
            parsed = parse_recipe(dict(recipe), origin="<candidate>")
            for ref in parsed.opened:
                self.open(ref)
            plan = make_plan(parsed, self.checkpoints)
            tensors = tensor_recipes(plan, self.checkpoints)
            self._planned[key] = Planned(plan, of_tensor_recipes(plan, tensors), tuple(tensors))
            while len(self._planned) > KEPT:
                self._planned.popitem(last=False)
        return self._planned[key]

    def open(self, ref: ModelRef) -> Checkpoint:
        """A source, opened once."""
        if ref not in self.checkpoints:
            self.checkpoints[ref] = open_checkpoint(ref)
        return self.checkpoints[ref]

    def hash_of(self, recipe: Mapping[str, Any]) -> str:
        return self(recipe).recipe_hash

    def parameters_of(self, recipe: Mapping[str, Any]) -> int:
        """How many numbers the merged model consists of."""
        return sum(tensor.elements for tensor in self(recipe).plan.tensors)

    def close(self) -> None:
        """Let go of plans and files."""
        for checkpoint in self.checkpoints.values():
            checkpoint.close()
        self.checkpoints.clear()
        self._planned.clear()
