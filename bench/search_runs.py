"""One run of either side, as a trace: after how many item evaluations would which recipe be chosen.

ours   the product itself: coordinator, store, sampler, windows; the evaluator is the fast one. What counts are all
       search items, those of baselines and Sobol points too. Chosen: the mean of the latest stage's distribution.
       No selection items are used
peer   mergekit-evolve 0.1.5: pycma's fmin2 with its defaults (population 4 + 3 ln d), start 1/sources, sigma 1/6,
       |weight|, every candidate on all search items. Chosen: the best score so far
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.search_evaluator import FastEvaluator, recipe_key
from bench.search_families import LAYERS
from search.campaign_file import Campaign
from search.coordinator import Coordinator
from search.inline import run_inline
from search.opening import Start, open_coordinator
from search.run import RunDirectory, Services
from search.space import make_space
from search.space.entry import Range


@dataclass(frozen=True)
class Choice:
    """After `spent` item evaluations this recipe would be the result; `stage` says where it comes from."""

    spent: int
    recipe: Mapping[str, Any]
    stage: str


def run_ours(campaign: Campaign, evaluator: FastEvaluator) -> list[Choice]:
    """The search phase of a campaign, in a directory that is thrown away; the mean after every told cohort."""
    with tempfile.TemporaryDirectory() as folder:
        start = Start(directory=RunDirectory(Path(folder)), layers=LAYERS)
        services = Services(hash_recipe=recipe_key, now=time.time)
        coordinator = open_coordinator(campaign, evaluator.inventory(), start=start, services=services)
        watch = _Watch(coordinator)
        run_inline(coordinator, evaluator, stop=watch.look)
        coordinator.run.store.close()
        return watch.choices


class _Watch:
    """Looks at a campaign after every work unit: what it would answer, once another cohort is told."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._live, self._space = coordinator.live, coordinator.run.space
        self._told, self._spent = 0, 0
        self.choices: list[Choice] = []

    def look(self) -> bool:
        """`stop` of run_inline: true once the search is over. A unit's scores are taken in after the look at it."""
        state = self._live.state
        told = sum(cohort.told for cohort in state.cohorts)
        if told > self._told:
            self._note()
        # the candidate now being scored is asked for only after what is told next
        self._told, self._spent = told, state.spent
        return state.phase != "search"

    def _note(self) -> None:
        reached = [(stage, means[-1]) for stage, means in enumerate(self._live.sampler.means()) if means]
        for stage, params in reached[-1:]:
            recipe = self._space.recipe(stage, params)
            self.choices.append(Choice(self._spent, recipe, self._space.stages[stage].name))


def run_peer(campaign: Campaign, evaluator: FastEvaluator, *, per_skill: int) -> Iterator[Choice]:
    """mergekit-evolve's algorithm in the last stage's space, until the campaign's budget is spent.

    Args:
        per_skill: search items of each skill that every candidate is scored on (mergekit-evolve's `limit`).
    """
    import cma

    space = make_space(_unbounded(campaign), layers=LAYERS)
    stage, axes = len(space.stages) - 1, space.stages[-1].axes
    budget = campaign.budget.items
    assert budget is not None
    items = evaluator.items("search", per_skill)
    options = {"seed": campaign.seed + 1, "verbose": -9}  # pycma takes seed 0 for "from the clock"
    strategy = cma.CMAEvolutionStrategy([1 / len(space.sources)] * len(axes), 1 / 6, options)
    best, spent = -1.0, 0
    while spent < budget and not strategy.stop():
        genomes, costs = strategy.ask(), []
        for genome in genomes:
            point = {axis.name: abs(float(value)) for axis, value in zip(axes, genome, strict=True)}
            recipe = space.recipe(stage, point)
            score = evaluator.mean(recipe, items)
            costs.append(-score)
            spent += len(items)
            if score > best:
                best = score
                yield Choice(spent, recipe, "peer")
        strategy.tell(genomes, costs)


def _unbounded(campaign: Campaign) -> Campaign:
    """The campaign with room for any weight, as mergekit-evolve has it; only its rounding (1/256) stays."""
    entry = campaign.space.model_copy(update={"parameters": {"weight": Range(low=0.0, high=1000.0, start=0.5)}})
    return campaign.model_copy(update={"space": entry})
