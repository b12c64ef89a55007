"""`catcma`: CatCMA with margin (Hamano 2025, `cmaes.CatCMAwM`) for spaces of floats, integers and categories at once.

Told like CMA-ES: complete cohorts, by rank. Axes that make no difference at a point (those of a method or a place that
it does not use) are masked: they are told as the distribution's own mean, or odds, and so move nothing. Each stage
starts at the lifted mean of the one before it, and keeps what that one has learned about categories both know.

Legend: N numeric axes, J categorical ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search.part import Part
from search.samplers.contract import SEED_STEP, Floats, Sampler, Setup, Told, ranked
from search.samplers.points import Places, allowed
from search.space import Params, Value

if TYPE_CHECKING:
    import cmaes

    from search.space import Axis


class CatCmaOptions(Part):
    """None: the step size and the population belong to the stage."""


class StagedCatCma(Sampler):
    """One CatCMAwM per stage."""

    by_cohort = True

    def __init__(self, setup: Setup, options: CatCmaOptions | None = None) -> None:
        self.space, self.seed = setup.space, setup.seed
        self._places = [Places(stage) for stage in setup.space.stages]
        self._optimisers: list[cmaes.CatCMAwM | None] = [None for _ in setup.space.stages]
        self._warm = {stage: max(elites, key=lambda pair: pair[1])[0] for stage, elites in setup.elites.items()}
        self._first: Params = setup.space.stages[0].start()
        self.history: list[list[Params]] = [[] for _ in setup.space.stages]

    def ask(self, stage: int, number: int) -> dict[str, Value]:
        """A draw from the stage's present distribution, on the grid."""
        optimiser = self._optimisers[stage] or self._make(stage)
        optimiser.reseed_rng((self.seed * SEED_STEP + number) % 2**32)
        drawn = optimiser.ask()
        return allowed(self.space, stage, self._read(stage, drawn.x, drawn.z, drawn.c))

    def tell(self, stage: int, results: Sequence[Told]) -> None:
        """Take in a complete cohort; one that was lost altogether teaches nothing."""
        best_first = ranked(results)
        if not best_first:
            return
        optimiser = self._optimisers[stage] or self._make(stage)
        if len(best_first) != optimiser.population_size:
            return  # a fork's cohort, from a sampler that had restarted with a larger population
        self._optimisers[stage] = optimiser
        told = [self._masked(stage, r.params, optimiser) for r in best_first]
        optimiser.tell([(solution, float(rank)) for rank, solution in enumerate(told)])
        self.history[stage].append(self.mean(stage))

    def tell_start(self, points: Sequence[Told]) -> None:
        """Start the first stage at the best of these points: categories have no mean."""
        best_first = ranked(points)
        if best_first and best_first[0].score is not None:
            self._first = best_first[0].params

    def means(self) -> Sequence[Sequence[Params]]:
        """The numeric mean with the likeliest choices, after every cohort."""
        return self.history

    def mean(self, stage: int) -> Params:
        """The centre of the stage's distribution, on the grid."""
        optimiser = self._optimisers[stage]
        if optimiser is None:
            return self._start(stage)
        numbers = optimiser._mean if self._places[stage].names else np.zeros(0)
        return self._read(stage, *self._split(stage, numbers), optimiser._q if optimiser.n_categorical else None)

    def _start(self, stage: int) -> Params:
        if stage in self._warm:
            return self._warm[stage]
        if stage == 0:
            return self._first
        return self.space.stages[stage].rounded(self.space.lift(stage - 1, self.mean(stage - 1)))

    def _make(self, stage: int) -> cmaes.CatCMAwM:
        import cmaes

        rule, categories = self.space.stages[stage], self._places[stage].categories
        floats, integers = self._kinds(stage)
        start = self._written(stage, self._start(stage))
        widths = np.array([1.0] * len(floats) + [axis.high - axis.low for axis in integers])
        return cmaes.CatCMAwM(
            x_space=[[0.0, 1.0]] * len(floats) or None,
            z_space=[list(range(int(axis.low), int(axis.high) + 1)) for axis in integers] or None,
            c_space=[len(choices) for choices in categories.values()] or None,
            population_size=rule.population,
            mean=start._v_raw,
            sigma=rule.entry.sigma if len(widths) else None,
            cov=np.diag(widths**2) if len(widths) else None,
            cat_param=self._odds(stage),
            seed=self.seed % 2**32,
        )

    def _odds(self, stage: int) -> Floats | None:
        """[J, choices] first odds: those of the stage before where it knew the category, else even ones."""
        categories = self._places[stage].categories
        if not categories:
            return None
        odds = np.zeros((len(categories), max(len(choices) for choices in categories.values())))
        before = self._optimisers[stage - 1] if stage else None
        known = list(self._places[stage - 1].categories) if before is not None else []
        for row, (name, choices) in enumerate(categories.items()):
            odds[row, : len(choices)] = 1.0 / len(choices)
            if before is not None and name in known:
                odds[row, : len(choices)] = before._q[known.index(name), : len(choices)]
        return odds

    def _kinds(self, stage: int) -> tuple[list[Axis], list[Axis]]:
        """Float axes and integer axes, in the order in which the optimiser has them."""
        names = set(self._places[stage].names)
        axes = [axis for axis in self.space.stages[stage].axes if axis.name in names]
        integers = [axis for axis in axes if axis.kind == "int"]
        return [axis for axis in axes if axis not in integers], integers

    def _written(self, stage: int, params: Params) -> cmaes.CatCMAwM.Solution:
        """A point as the optimiser knows its draws: floats in the unit cube, integers as they are, choices one-hot."""
        import cmaes

        floats, integers = self._kinds(stage)
        unit = dict(zip(self._places[stage].names, self._places[stage].unit(params), strict=True))
        x = np.array([unit[axis.name] for axis in floats])
        z = np.array([float(params[axis.name]) for axis in integers])
        categories = self._places[stage].categories
        width = max((len(choices) for choices in categories.values()), default=0)
        c = np.zeros((len(categories), width))
        for row, (name, choices) in enumerate(categories.items()):
            c[row, choices.index(params[name])] = 1.0
        return cmaes.CatCMAwM.Solution(x, z, c, np.concatenate([x, z]) if len(x) + len(z) else None)

    def _masked(self, stage: int, params: Params, optimiser: cmaes.CatCMAwM) -> cmaes.CatCMAwM.Solution:
        """The point with what makes no difference replaced by the distribution's own mean and odds."""
        import cmaes

        solution, idle = self._written(stage, params), self._places[stage].idle(params)
        raw, c = solution._v_raw, solution.c
        for column, axis in enumerate(axis for kind in self._kinds(stage) for axis in kind):
            if axis.name in idle:
                raw[column] = optimiser._mean[column]
        for row, name in enumerate(self._places[stage].categories):
            if name in idle:
                c[row] = optimiser._q[row]
        return cmaes.CatCMAwM.Solution(solution.x, solution.z, c, raw)

    def _split(self, stage: int, raw_N: Floats) -> tuple[Floats, Floats]:
        floats, _ = self._kinds(stage)
        return raw_N[: len(floats)], raw_N[len(floats) :]

    def _read(self, stage: int, x: Any, z: Any, c: Any) -> dict[str, Any]:
        """The point of a draw, on the grid; of odds instead of a draw, the likeliest choices."""
        floats, integers = self._kinds(stage)
        unit = {axis.name: float(np.clip(u, 0, 1)) for axis, u in zip(floats, x if len(floats) else (), strict=True)}
        for axis, value in zip(integers, z if len(integers) else (), strict=True):
            unit[axis.name] = float(np.clip(axis.unit(value), 0, 1))
        chosen = {
            name: choices[int(np.argmax(c[row, : len(choices)]))]
            for row, (name, choices) in enumerate(self._places[stage].categories.items())
        }
        return self._places[stage].point(np.array([unit[name] for name in self._places[stage].names]), chosen)
