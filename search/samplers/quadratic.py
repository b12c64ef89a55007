"""`quadratic`: draws around a centre that moves to the optimum of a quadratic model of everything scored so far.

CMA-ES looks at the ranks of one cohort and forgets them; with a few items per candidate most of a rank is noise. Here
all scores of a stage are one regression (quadratic_model.py), so that every item ever scored goes on telling where the
optimum lies. Draws keep their full width for the same reason: a slope is measured better from far, and the centre, not
a draw, is the candidate (Rechenberg's rescaled mutations: search wide, step short).

One objective, numbers only, no constraints: elsewhere `auto` takes another sampler. A lost candidate counts as its
cohort's worst score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field

from search.evaluators.entries import FIRST_WINDOW
from search.part import Part
from search.samplers.contract import Floats, Sampler, Setup, Told
from search.samplers.distributions import warm_distribution
from search.samplers.points import allowed, few_blocks
from search.samplers.quadratic_model import Scores, advised_step
from search.space import Params, Value

KEPT = 4000
"""Scores that a fit looks at, the latest: its time grows with their number, and the oldest lie farthest away."""


class QuadraticOptions(Part):
    """`reach`: the longest step of the centre, in step sizes of the stage, root mean square over its axes."""

    reach: float = Field(default=0.45, gt=0, le=3)


@dataclass
class _Known:
    """What one stage was told, in coordinates of the unit cube."""

    points: list[Floats] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    cohorts: list[int] = field(default_factory=list)


class StagedQuadratic(Sampler):
    """One model per stage; each starts at the centre of the stage before, lifted."""

    by_cohort = True
    wants_items = True
    window: Mapping[int, int] = {0: FIRST_WINDOW, 5000: 30}  # more points teach a regression more than more items do

    def __init__(self, setup: Setup, options: QuadraticOptions | None = None) -> None:
        self._setup, self.space = setup, setup.space
        self.options = options or QuadraticOptions()
        stages = setup.space.stages
        self._centres: list[Floats | None] = [None for _ in stages]
        self._known = [_Known() for _ in stages]
        self._first = stages[0].to_unit(stages[0].start())
        for stage, elites in setup.elites.items():
            warm = warm_distribution(stages[stage], elites, sigma=stages[stage].entry.sigma)
            self._centres[stage] = np.clip(warm.mean, 0.0, 1.0)
        self.history: list[list[dict[str, Value]]] = [[] for _ in stages]

    def ask(self, stage: int, number: int) -> dict[str, Value]:
        """A draw around the stage's centre, on the grid."""
        rule = self.space.stages[stage]
        centre, draw = self._centre(stage), self._setup.random(number)
        unit = np.clip(centre + rule.entry.sigma * draw.standard_normal(len(rule.numeric)), 0.0, 1.0)
        return allowed(self.space, stage, rule.from_unit(few_blocks(rule, unit, around=centre, draw=draw)))

    def tell(self, stage: int, results: Sequence[Told]) -> None:
        """Take in a complete cohort, and move the centre; one that was lost altogether teaches nothing."""
        scored = [result.score for result in results if result.score is not None]
        if not scored:
            return
        known = self._known[stage]
        cohort = known.cohorts[-1] + 1 if known.cohorts else 0
        for result in results:
            known.points.append(self.space.stages[stage].to_unit(result.params))
            known.scores.append(min(scored) if result.score is None else result.score)
            known.items.append(max(1, len(result.items)))
            known.cohorts.append(cohort)
        self._centres[stage] = self._moved(stage)
        self.history[stage].append(self.mean(stage))

    def tell_start(self, points: Sequence[Told]) -> None:
        """Start the first stage at the weighted mean of the better half of `points`."""
        best_first = sorted((told for told in points if told.score is not None), key=lambda told: told.key)
        best = best_first[: max(1, len(best_first) // 2)]
        if best:
            weights = np.log(len(best) + 0.5) - np.log(np.arange(1, len(best) + 1))
            units = np.array([self.space.stages[0].to_unit(told.params) for told in best])
            self._first = (weights / weights.sum()) @ units

    def means(self) -> Sequence[Sequence[Params]]:
        """The centre of every stage after every cohort."""
        return self.history

    def mean(self, stage: int) -> dict[str, Value]:
        """The centre, on the grid."""
        return allowed(self.space, stage, self.space.stages[stage].from_unit(self._centre(stage)))

    def _centre(self, stage: int) -> Floats:
        centre = self._centres[stage]
        if centre is not None:
            return centre
        if stage == 0:
            return self._first
        rule, before = self.space.stages[stage], self.space.stages[stage - 1]
        coarse = {axis.name: axis.at(float(u)) for axis, u in zip(before.numeric, self._centre(stage - 1), strict=True)}
        return np.clip(rule.to_unit(self.space.lift(stage - 1, coarse)), 0.0, 1.0)

    def _moved(self, stage: int) -> Floats:
        """The stage's centre after a step of the model of all that it was told."""
        known, sigma, centre = self._known[stage], self.space.stages[stage].entry.sigma, self._centre(stage)
        points, scores, items, cohorts = (
            np.array(values[-KEPT:]) for values in (known.points, known.scores, known.items, known.cohorts)
        )
        told = Scores((points - centre) / sigma, scores, items, cohorts)
        step = advised_step(told, reach=self.options.reach * np.sqrt(len(centre)))
        moved: Floats = np.clip(centre + sigma * step, 0.0, 1.0)
        return moved
