"""Candidates' recipes → plans and canonical hashes: sources are opened once, and a plan is made once, not per user.

Recipes that differ in numbers alone, as nearly all of a campaign do, share an outline: planning the whole of each would
cost more than to merge a small model.

The engine's hash says which weights a recipe makes, and not what lies beside them, by which answers differ as well. So
a campaign's hash is another one where a candidate has something else there than the base: a source with the base's
weights and another chat template is a candidate of its own. In most campaigns all have the same, and the hashes are the
engine's.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np

from engine.digest import of_json, of_tensor_recipes, tensor_recipes
from engine.errors import EvaluationError
from engine.models.architecture import layer_count
from engine.models.checkpoint import Checkpoint, open_checkpoint
from engine.models.views import STORED
from engine.planning.outline import Outline, take_apart
from engine.planning.plan import Plan
from engine.planning.planner import make_plan
from engine.recipes.keypath import KeyPath
from engine.recipes.model_ref import ModelRef, parse_model
from engine.recipes.reader import parse_recipe
from engine.tensorfile.store import SourceTensor
from search.campaign_file import Campaign
from search.evaluators.beside import contents

KEPT = 64
_ORIGIN = "<candidate>"
_K = TypeVar("_K")
_T = TypeVar("_T")
_json = json.JSONEncoder(sort_keys=True).encode  # `dumps` makes an encoder for every call


@dataclass(frozen=True)
class Planned:
    """A recipe's plan, what the campaign calls it, and the engine's hashes, over the contents of its sources, of all
    its weights and of every output tensor.

    Plans of one `outline` differ in numbers alone: what their structure decides needs to be found out once.
    """

    plan: Plan
    recipe_hash: str
    weights_hash: str
    tensors: tuple[str, ...]
    outline: Outline | None


class Plans:
    """Opened checkpoints and the last `KEPT` plans; coordinator and evaluator share one where they share a process.

    `nonfinite` counts NaN and Inf, by source and tensor, in all that was read for hashes: that reads everything once.
    Without a `base` hashes are of weights alone.
    """

    def __init__(self, base: ModelRef | None = None) -> None:
        self.checkpoints: dict[ModelRef, Checkpoint] = {}
        self.nonfinite: Counter[tuple[ModelRef, str]] = Counter()
        self._planned: OrderedDict[str, Planned] = OrderedDict()
        self._seen: OrderedDict[int, tuple[Mapping[str, Any], Planned]] = OrderedDict()  # by where the recipe lies
        self._outlines: OrderedDict[str, Outline | None] = OrderedDict()
        self._base = base
        self._beside: dict[tuple[ModelRef, ModelRef], str] = {}  # donor of the config, and of the tokenizer

    @classmethod
    def of(cls, campaign: Campaign) -> Self:
        """The campaign's: candidates differ by what they have beside their weights, too."""
        return cls(parse_model(campaign.base_model, KeyPath(campaign.origin).key("base_model")))

    def __call__(self, recipe: Mapping[str, Any]) -> Planned:
        """The plan of a recipe (mergekit's schema). Raises InputError where recipe and sources do not fit."""
        known = self._seen.get(id(recipe))
        if known is not None and known[0] is recipe:  # a candidate's, who was hashed in this process
            return known[1]
        key = _json(recipe)
        if key not in self._planned:
            _keep(self._planned, key, self._plan(recipe))
        _keep(self._seen, id(recipe), (recipe, self._planned[key]))
        return self._planned[key]

    def plan_of(self, recipe: Mapping[str, Any], *, origin: str) -> Plan:
        """The plan of a recipe from headers alone: no content is read for its hash, and nothing is kept."""
        parsed = parse_recipe(dict(recipe), origin=origin)
        for ref in parsed.opened:
            self.open(ref)
        return make_plan(parsed, self.checkpoints)

    def _plan(self, recipe: Mapping[str, Any]) -> Planned:
        """By the outline of its structure where there is one that serves, else from the headers."""
        like, numbers = take_apart(recipe)
        outline = self._outlines.get(like)
        found = None if outline is None else outline.plan(recipe, numbers)
        if found is None:
            plan = self.plan_of(recipe, origin=_ORIGIN)
            found = plan, tensor_recipes(plan, self.checkpoints)
            known, outline = outline is not None, None
            if not known:
                outline = Outline.of(recipe, plan, self.checkpoints, origin=_ORIGIN)
                _keep(self._outlines, like, outline)
        plan, tensors = found
        weights = of_tensor_recipes(plan, tensors)
        return Planned(plan, self._named(plan, weights), weights, tuple(tensors), outline)

    def _named(self, plan: Plan, weights: str) -> str:
        """The hash of these weights, with what this plan has beside them where the base has something else there."""
        base = self._base
        if base is None or plan.donor == base == plan.tokenizer:
            return weights
        beside = self.beside(plan.donor, plan.tokenizer)
        return weights if beside == self.beside(base, base) else of_json({"weights": weights, "beside": beside})

    def beside(self, donor: ModelRef, tokenizer: ModelRef) -> str:
        """See `beside.contents`; read once."""
        if (donor, tokenizer) not in self._beside:
            self._beside[donor, tokenizer] = contents(self.open(donor), self.open(tokenizer))
        return self._beside[donor, tokenizer]

    def made_of(self, plan: Plan) -> str:
        """Digest of all that a live model of this plan is made of, but for its weights."""
        config = {**plan.config, "dtype": None, "torch_dtype": None}  # the entry says in which format it computes
        return of_json([config, self.beside(plan.donor, plan.tokenizer), plan.chat_template])

    def expected(self, recipe: Mapping[str, Any], wanted: str | None) -> Planned:
        """The plan of a recipe that a campaign calls `wanted` (None: whatever it is called), under that name.

        A run that an earlier version began calls its candidates by their weights alone. EvaluationError where it is
        neither.
        """
        planned = self(recipe)
        if wanted in (None, planned.recipe_hash):
            return planned
        if wanted == planned.weights_hash:
            return replace(planned, recipe_hash=planned.weights_hash)
        raise EvaluationError(
            f"the recipe's hash is {planned.recipe_hash[:12]} here, {wanted[:12]} was asked for: the sources on this "
            "machine are not those of the campaign",
            got=planned.recipe_hash,
            expected=wanted,
        )

    def open(self, ref: ModelRef) -> Checkpoint:
        """A source, opened once."""
        if ref not in self.checkpoints:
            opened = self.checkpoints[ref] = open_checkpoint(ref)
            opened.watch = partial(self._count, ref)
        return self.checkpoints[ref]

    def _count(self, ref: ModelRef, tensor: SourceTensor, piece: memoryview) -> None:
        from engine.kernels.finite import count_nonfinite

        if tensor.dtype in STORED:
            bad = int(count_nonfinite(np.frombuffer(piece, STORED[tensor.dtype])))
            if bad:
                self.nonfinite[ref, tensor.name] += bad

    def hash_of(self, recipe: Mapping[str, Any]) -> str:
        return self(recipe).recipe_hash

    def weights_hash_of(self, recipe: Mapping[str, Any]) -> str:
        """What earlier versions called it."""
        return self(recipe).weights_hash

    def parameters_of(self, recipe: Mapping[str, Any]) -> int:
        """How many numbers the merged model consists of."""
        return sum(tensor.elements for tensor in self(recipe).plan.tensors)

    def layers_of(self, recipe: Mapping[str, Any]) -> int:
        """How many layers the merged model has; 1 where its config.json does not count them."""
        return layer_count(self(recipe).plan.config)[1] or 1

    def close(self) -> None:
        """Let go of plans and files."""
        for checkpoint in self.checkpoints.values():
            checkpoint.close()
        self.checkpoints.clear()
        self._planned.clear()
        self._seen.clear()
        self._outlines.clear()
        self._beside.clear()


def _keep(kept: OrderedDict[_K, _T], key: _K, value: _T) -> None:
    """The latest `KEPT` of them."""
    kept[key] = value
    while len(kept) > KEPT:
        kept.popitem(last=False)
