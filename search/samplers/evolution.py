"""`nsga2`, `nsga3` and `niches`: steady-state evolution (μ+1). Results are taken in as they come, no generation ends.

A child is drawn from the archive as it is now; the archive holds μ members and lets the worst one go. Candidates are
scored on nested windows, so that members can be compared whenever they were born: when the window grows, the members
are scored on what is new in it before any child is (`survivors`), so that luck on few items does not last. The archive
of a finer stage begins with that of the coarser one, lifted exactly: such a point is the same model, and its result
still holds.

    nsga2    out goes the most crowded of the last front (Deb 2002); parents win a tournament by (front, crowding)
    nsga3    out goes the farthest of the fullest niche of the last front (Deb and Jain 2014), for many objectives
    niches   quality diversity over items (M2N2, Abrantes 2025): fitness is shared, fitness_i = Σ_j s_ij / Σ_k s_kj, so
             being right where few are is worth more (scores below 0 count from the lowest of their item); a mate is
             chosen for what it can do and the first parent cannot; the child takes one parent left of a split point
             along the layers and the other one right of it
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from pydantic import Field

from search.evaluators.entries import FIRST_WINDOW
from search.judging.fronts import crowding, directions, sorted_ranks, worst_by_crowding, worst_by_niche
from search.part import Part
from search.samplers.contract import FIRST_ELITES, Floats, Sampler, Setup, Told
from search.samplers.points import Places, allowed, sobol_point
from search.samplers.variation import CROSSOVER_RATE, crossed, drawn_anew, polynomial_mutation
from search.space import Params, Value, crossover

FIRST = 12
"""Members (at most half of the archive) below which children would all be alike: points of the Sobol sequence first."""
TRIES = 10  # a child that is a member already is drawn again this often


class EvolutionOptions(Part):
    """`population`: members of the archive (μ); `mutation`: the share of axes that change, 0 for one axis in K."""

    population: int = Field(default=24, ge=4)
    mutation: float = Field(default=0.0, ge=0, le=1)


class SteadyState(Sampler):
    """What the three have in common: archives by stage, the first points, children without copies."""

    rescores = True
    window: Mapping[int, int] = {0: FIRST_WINDOW, 1000: 30, 3000: 60, 6000: 150}
    """Sooner than where no survivor is scored again. Hypervolume of three skills after 5000 items, standard errors .01
    (docs/samplers.md): 9 axes .22, 21 axes .20; with the others' schedule .14 and .18."""

    def __init__(self, setup: Setup, options: EvolutionOptions | None = None) -> None:
        self.setup = setup
        self.options = options or EvolutionOptions()
        self._places = [Places(stage) for stage in setup.space.stages]
        self._archives: list[list[Told]] = [[] for _ in setup.space.stages]
        self._lifted: dict[tuple[int, int], Params] = {}
        self._entered: list[set[frozenset[tuple[str, Value]]]] = [set() for _ in setup.space.stages]

    def ask(self, stage: int, number: int) -> dict[str, Value]:
        """A child of two members, on the grid; first the elites of earlier campaigns, then Sobol points."""
        members, elite = self.members(stage), self._elite(stage, number)
        if elite is not None:
            return elite
        if len(members) < min(FIRST, self.options.population // 2):
            index = number - self.setup.baselines
            return sobol_point(self.setup.space, stage, index, seed=self.setup.seed)
        known = {tuple(member.params.items()) for member in members}
        child: dict[str, Value] = {}
        for attempt in range(TRIES):
            child = self._child(stage, members, self.setup.random(number, salt=attempt))
            if tuple(child.items()) not in known:
                break
        return child

    def enter(self, stage: int, number: int, params: Params) -> None:
        self._entered[stage].add(frozenset(params.items()))

    def _elite(self, stage: int, number: int) -> dict[str, Value] | None:
        """Elites are the first draws of their stage; which number a later one begins with, only its draws tell."""
        if stage == 0:
            return self.setup.first(stage, number)
        elites = (point for point, _ in self.setup.elites.get(stage, ())[:FIRST_ELITES])
        return next((dict(point) for point in elites if frozenset(point.items()) not in self._entered[stage]), None)

    def tell(self, stage: int, results: Sequence[Told]) -> None:
        """Take results in; a lost one teaches nothing, and one that was stopped is no member, even if it was one."""
        for result in results:
            if result.stopped:
                self._archives[stage] = [m for m in self._archives[stage] if m.params != result.params]
            elif result.params and result.score is not None:
                self._archives[stage] = self._kept(_latest([*self._archives[stage], result]))

    def members(self, stage: int) -> list[Told]:
        """The archive of a stage: its own results and the lifted ones of the stage before, the best μ."""
        own = self._archives[stage]
        if stage == 0:
            return own
        lifted = [self._lift(stage, member) for member in self.members(stage - 1)]
        return self._kept(_latest([*lifted, *own]))

    def survivors(self, stage: int) -> Sequence[Told]:
        return self.members(stage)

    def _lift(self, stage: int, member: Told) -> Told:
        key = (stage, member.number)
        if key not in self._lifted:
            space = self.setup.space
            self._lifted[key] = space.stages[stage].rounded(space.lift(stage - 1, member.params))
        return replace(member, params=self._lifted[key])

    def _child(self, stage: int, members: Sequence[Told], draw: np.random.Generator) -> dict[str, Value]:
        places = self._places[stage]
        first, second = self._parents(members, draw)
        child = self._crossed(stage, first.params, second.params, draw)
        rate = self.options.mutation or 1.0 / max(1, places.size)
        unit = polynomial_mutation(places.unit(child), draw, rate=rate)
        chosen = drawn_anew({name: child[name] for name in places.categories}, places.categories, draw, rate=rate)
        return allowed(self.setup.space, stage, places.point(unit, chosen))

    def _crossed(self, stage: int, first: Params, second: Params, draw: np.random.Generator) -> Params:
        """A point between two: numbers near their line or by SBX, each category from one of them."""
        if draw.random() >= CROSSOVER_RATE:
            return first
        places = self._places[stage]
        chosen = {name: (first if draw.random() < 0.5 else second)[name] for name in places.categories}
        return places.point(crossed(places.unit(first), places.unit(second), draw), chosen)

    def _kept(self, members: list[Told]) -> list[Told]:
        """At most μ of these, oldest first."""
        while len(members) > self.options.population:
            gone = self._worst(members)
            members = members[:gone] + members[gone + 1 :]
        return members

    @abstractmethod
    def _worst(self, members: Sequence[Told]) -> int: ...

    @abstractmethod
    def _parents(self, members: Sequence[Told], draw: np.random.Generator) -> tuple[Told, Told]: ...


class SteadyNsga2(SteadyState):
    """Fronts and crowding."""

    def _worst(self, members: Sequence[Told]) -> int:
        return worst_by_crowding(*_matrix(members))

    def _parents(self, members: Sequence[Told], draw: np.random.Generator) -> tuple[Told, Told]:
        values_CK, violations_C = _matrix(members)
        ranks_C, alone_C = sorted_ranks(values_CK, violations_C), crowding(values_CK)
        pairs = draw.integers(len(members), size=(2, 2))
        first, second = (
            min((int(i) for i in pair), key=lambda index: (ranks_C[index], -alone_C[index], index)) for pair in pairs
        )
        if first == second:
            second = int((first + 1 + draw.integers(len(members) - 1)) % len(members))
        return members[first], members[second]


class SteadyNsga3(SteadyState):
    """Fronts and reference directions; parents are drawn evenly, as in the paper."""

    def __init__(self, setup: Setup, options: EvolutionOptions | None = None) -> None:
        super().__init__(setup, options)
        divisions = 1
        while len(directions(setup.objectives, divisions=divisions + 1)) <= self.options.population:
            divisions += 1
        self._directions = directions(setup.objectives, divisions=divisions)

    def _worst(self, members: Sequence[Told]) -> int:
        values_CK, violations_C = _matrix(members)
        return worst_by_niche(values_CK, violations_C, directions_RK=self._directions)

    def _parents(self, members: Sequence[Told], draw: np.random.Generator) -> tuple[Told, Told]:
        first, second = draw.choice(len(members), size=2, replace=False)
        return members[int(first)], members[int(second)]


class Niches(SteadyState):
    """Fitness shared over items, mates that complement each other."""

    wants_items = True
    stops_losers = False  # who is worse on the whole may be the only one that is right where nobody else is

    def _worst(self, members: Sequence[Told]) -> int:
        fitness_C, _ = _shared(members)
        return int(min(range(len(members)), key=lambda index: (-members[index].violation, fitness_C[index], index)))

    def _parents(self, members: Sequence[Told], draw: np.random.Generator) -> tuple[Told, Told]:
        fitness_C, worth_CI = _shared(members)
        first = int(draw.choice(len(members), p=_odds(fitness_C)))
        lacking_C = np.maximum(worth_CI - worth_CI[first], 0.0).sum(axis=1)
        lacking_C[first] = 0.0
        others_C = np.where(np.arange(len(members)) == first, 0.0, 1.0)
        second = int(draw.choice(len(members), p=_odds(lacking_C if lacking_C.any() else others_C)))
        return members[first], members[second]

    def _crossed(self, stage: int, first: Params, second: Params, draw: np.random.Generator) -> Params:
        """One parent before a layer, the other from there on (M2N2 also mixes the two; here mutation does)."""
        split = int(draw.integers(self.setup.space.layers + 1))
        return crossover(self.setup.space, (stage, first), (stage, second), split=split, stage=stage)


def _latest(members: list[Told]) -> list[Told]:
    """Of the results of one point only the one on the most items, where the point first stood."""
    best: dict[tuple[Value, ...], Told] = {}
    for member in members:
        point = tuple(member.params.values())
        if point not in best or member.window > best[point].window:
            best[point] = member
    return list(best.values())


def _matrix(members: Sequence[Told]) -> tuple[Floats, Floats]:
    return np.array([member.goals for member in members]), np.array([member.violation for member in members])


def _shared(members: Sequence[Told]) -> tuple[Floats, Floats]:
    """[C] shared fitness, and [C, I] what each item is worth to each member."""
    items = sorted(set.intersection(*(set(member.items) for member in members)))
    scores_CI = np.array([[member.items[item] for item in items] for member in members])
    scores_CI = scores_CI.reshape(len(members), len(items))
    # minus nats or minus errors have no share of their sum: there what is worth something is what the worst lacks
    scores_CI = scores_CI - np.minimum(0.0, scores_CI.min(axis=0))
    total_I = scores_CI.sum(axis=0)
    worth_CI = scores_CI / np.where(total_I > 0, total_I, 1.0)
    return worth_CI.sum(axis=1), worth_CI


def _odds(weights_C: Floats) -> Floats:
    """Probabilities in proportion; even ones where all weights are 0."""
    total = weights_C.sum()
    odds: Floats = weights_C / total if total > 0 else np.full(len(weights_C), 1.0 / len(weights_C))
    return odds
