"""A campaign without models: items, an evaluator that is a formula, and a coordinator over both.

The landscape is smooth and has its optimum off the global diagonal. Skill t of a merge with weights w[s, l, g] (source,
layer, module group; resolved from the recipe exactly as the engine resolves settings):

    ability_t = Σ_{l,g} a[t,l,g] · w_t (2 − w_t)  −  Σ_{s≠t} Σ_{l,g} b[t,s,l,g] · w_s²

An item is answered right where ability plus a small draw of (recipe, item) exceeds the item's difficulty.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.recipes.keypath import KeyPath
from engine.recipes.settings import evaluate, parse_setting
from search.campaign_file import Campaign, parse_campaign
from search.coordinator import Coordinator
from search.evaluators.audit import record_attempt
from search.opening import Start, open_coordinator
from search.ports import SPLITS, BlockResult, Failed, Inventory, Item, Split, Work
from search.run import RunDirectory, Services

LAYERS = 3
GROUPS = ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
SKILLS = ("letters", "numerals", "plurals")
COUNTS: dict[Split, int] = {"search": 120, "selection": 100, "holdout": 200}


def campaign_data(**changes: Any) -> dict[str, Any]:
    """A small two-stage campaign as a file would hold it; keyword arguments replace top-level keys."""
    stages = [
        {"name": "global", "by": "global", "population": 6, "sigma": 0.25, "sobol": 4, "candidates": 22},
        {"name": "layers", "by": "module_layer", "blocks": 3, "population": 13, "sigma": 0.15},
    ]
    return {
        "name": "simulated",
        "base_model": "models/base",
        "sources": [f"models/{skill}" for skill in SKILLS],
        "seed": 1,
        "space": {"parameters": {"weight": {"low": 0, "high": 1.2, "start": 0.5}}, "stages": stages},
        "tasks": [
            {"name": skill, "search": f"{skill}_s", "selection": f"{skill}_v", "holdout": f"{skill}_h"}
            for skill in SKILLS
        ],
        "items": {"window": {0: 15, 1000: 30}, "block_size": 60},
        "budget": {"items": 3000},
    } | changes


def make_campaign(**changes: Any) -> Campaign:
    return parse_campaign(campaign_data(**changes), origin="simulated.yml")


def make_inventory(counts: Mapping[Split, int] = COUNTS, *, skills: tuple[str, ...] = SKILLS) -> Inventory:
    """So many items per skill and split; two of five are easy."""
    items = {
        split: tuple(
            Item(
                key=f"{skill}_{split}/{index:04d}",
                task=skill,
                content=f"{skill} {split} {index}",
                stratum="easy" if index % 5 < 2 else "hard",
                score_key=f"{skill} {split} {index}",
            )
            for skill in skills
            for index in range(counts[split])
        )
        for split in SPLITS
    }
    return Inventory("simulated-1", items)


def hash_recipe(recipe: Mapping[str, Any]) -> str:
    """A stand-in for the engine's canonical hash."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def resolved_weights(recipe: Mapping[str, Any]) -> np.ndarray:
    """[source, layer, group] task-arithmetic weights that a recipe gives; TIES and DARE count as weak averages."""
    method = recipe["merge_method"]
    weights = np.zeros((len(SKILLS), LAYERS, len(GROUPS)))
    for model in recipe["models"]:
        name = model["model"].rsplit("/", 1)[-1]
        if name not in SKILLS:
            continue
        raw = model.get("parameters", {}).get("weight", 1.0)
        setting = parse_setting(raw, where=KeyPath("recipe"))
        for layer in range(LAYERS):
            for index, group in enumerate(GROUPS):
                tensor = f"model.layers.{layer}.{group}.weight"
                value = evaluate(setting, tensor, layer / (LAYERS - 1))
                weights[SKILLS.index(name), layer, index] = float(value or 0.0)
    if recipe.get("parameters", {}).get("normalize"):
        weights /= max(1.0, weights[:, 0, 0].sum())
    return weights * (1.0 if method != "dare_ties" else 0.9)


class Landscape:
    """The formula of the module's docstring with coefficients drawn from a seed."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        shape = (len(SKILLS), LAYERS, len(GROUPS))
        self.gain = rng.dirichlet(np.full(LAYERS * len(GROUPS), 1.0), size=len(SKILLS)).reshape(shape)
        self.harm = rng.dirichlet(np.full(LAYERS * len(GROUPS), 1.0), size=(len(SKILLS),) * 2).reshape(-1, *shape)

    def abilities(self, weights: np.ndarray) -> np.ndarray:
        own = (self.gain * weights * (2 - weights)).sum(axis=(1, 2))
        squares = weights**2
        harm = np.array(
            [
                sum((self.harm[t, s] * squares[s]).sum() for s in range(len(SKILLS)) if s != t)
                for t in range(len(SKILLS))
            ]
        )
        return own - 0.35 * harm

    def scores(self, recipe: Mapping[str, Any]) -> Callable[[str], float]:
        """item key → 0.0 or 1.0 for this recipe."""
        abilities, digest = self.abilities(resolved_weights(recipe)), hash_recipe(recipe)

        def score(item: str) -> float:
            skill = SKILLS.index(item.split("_", 1)[0])
            level = 0.1 + 0.9 * uniform(item) + 0.15 * (uniform(f"{digest} {item}") - 0.5)
            return float(abilities[skill] > level)

        return score

    def truth(self, recipe: Mapping[str, Any]) -> float:
        """The expected score: mean over skills of P(ability > level)."""
        levels = 0.1 + 0.9 * (np.arange(1000) + 0.5) / 1000
        return float(np.mean([(ability > levels).mean() for ability in self.abilities(resolved_weights(recipe))]))


def uniform(text: str) -> float:
    """A fixed number in [0, 1) for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


class SimulatedEvaluator:
    """An Evaluator over a landscape; `seen` records (candidate, item) in the order of scoring."""

    def __init__(self, landscape: Landscape | None = None, *, audit: Path | None = None) -> None:
        self.landscape = landscape or Landscape()
        self.audit = audit
        self.seen: list[tuple[int, str]] = []

    def inventory(self) -> Inventory:
        return make_inventory()

    def evaluate(self, work: Work) -> BlockResult | Failed:
        if self.audit is not None:
            record_attempt(self.audit, work)
        score = self.landscape.scores(work.recipe)
        self.seen += [(work.candidate, item) for item in work.items]
        return BlockResult(work.lease, work.recipe_hash, f"w{work.recipe_hash}", {i: score(i) for i in work.items})

    def close(self) -> None:
        pass


class Clock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def open_simulated(
    folder: Path, campaign: Campaign | None = None, *, resume: bool = False, **services: Any
) -> Coordinator:
    """A coordinator over simulated items in `folder`."""
    given = {"hash_recipe": hash_recipe, "now": Clock()} | services
    start = Start(RunDirectory(folder), LAYERS, resume=resume)
    return open_coordinator(campaign or make_campaign(), make_inventory(), start=start, services=Services(**given))
