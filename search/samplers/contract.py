"""What every sampler is. A proposal is a pure function of what was told, the seed and the candidate's number.

So a restart that tells the same results in the same order proposes the same points, whatever was asked in between, and
with however many workers. No sampler has a generation barrier: asking never waits for results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from search.evaluators.entries import FIRST_WINDOW
from search.space import Params, Space, Value

Floats = NDArray[np.float64]
SEED_STEP = 1_000_003
FIRST_ELITES = 8


@dataclass(frozen=True)
class Told:
    """One result: the candidate's point, and its score (None: lost, for good).

    values      one per objective, turned so that larger is better; empty where the campaign names no objectives
    violation   how far it is out of the constraints' bounds; 0: feasible
    stopped     scored on a part of its window only, because that part showed enough
    window      how many items its window has: of two results of one point the one on more items counts
    items       item → score, where the sampler asks for them (`Sampler.wants_items`)
    """

    number: int
    params: Params
    score: float | None
    values: tuple[float, ...] = ()
    violation: float = 0.0
    stopped: bool = False
    window: int = 0
    items: Mapping[str, float] = field(default_factory=dict)

    @property
    def goals(self) -> tuple[float, ...]:
        """The values, or the score where there are none."""
        return self.values or (self.score or 0.0,)

    @property
    def key(self) -> tuple[bool, float, bool, float, int]:
        """Sorts the best first: lost ones last, feasible ones first, stopped ones behind their like, then by score."""
        return (self.score is None, self.violation, self.stopped, -(self.score or 0.0), self.number)


@dataclass(frozen=True)
class Setup:
    """What a sampler is made from. `elites` are points of earlier campaigns, per stage, the best first; `baselines`
    counts the candidates before the first point of the space; `candidates` is the most that the budget allows."""

    space: Space
    seed: int = 0
    objectives: int = 1
    constrained: bool = False
    baselines: int = 0
    candidates: int | None = None
    elites: Mapping[int, Sequence[tuple[Params, float]]] = field(default_factory=dict)

    def first(self, stage: int, number: int) -> dict[str, Value] | None:
        """The elite that candidate `number` repeats, where it is one of the first draws: a start for samplers that have
        no distribution to start from."""
        elites, drawn = self.elites.get(stage, ())[:FIRST_ELITES], self.drawn(number)
        return dict(elites[drawn][0]) if 0 <= drawn < len(elites) else None

    def drawn(self, number: int) -> int:
        """How many draws of the sampler came before candidate `number`."""
        return number - self.baselines - self.space.stages[0].entry.sobol

    def random(self, number: int, *, salt: int = 0) -> np.random.Generator:
        """The random numbers of candidate `number`."""
        return np.random.default_rng([self.seed, number, salt])


class Sampler(ABC):
    """`by_cohort`: told complete cohorts, ranked within; otherwise one result at a time, as they come in.

    `rescores`: when the window has grown, its `survivors` are scored on the larger one before anything new is drawn.
    `stops_losers`: a candidate that is worse than the best one is worth no further items.
    `window`: search items spent so far -> items per candidate, where the campaign does not say it. Ranks need more
    items as differences get smaller.
    """

    by_cohort = False
    wants_items = False
    rescores = False
    stops_losers = True
    window: Mapping[int, int] = {0: FIRST_WINDOW, 5000: 30, 12000: 75, 30000: 150}

    @abstractmethod
    def ask(self, stage: int, number: int) -> dict[str, Value]:
        """The point of candidate `number`, on the grid."""

    @abstractmethod
    def tell(self, stage: int, results: Sequence[Told]) -> None:
        """Take in results: a complete cohort in completion order of cohorts, or a single one."""

    def tell_start(self, points: Sequence[Told]) -> None:
        """Baselines that are points of the first stage, and its Sobol points, all scored on one window.

        Only for samplers that are told cohorts; the others were told each of them already.
        """
        return None

    def enter(self, stage: int, number: int, params: Params) -> None:
        """Candidate `number` (the next one) runs now: proposed by this sampler, or by a replay, a list, a sequence."""
        return None

    def population(self, stage: int) -> int | None:
        """How many candidates the next cohort of a stage takes, where the sampler has a say in it."""
        return None

    def survivors(self, stage: int) -> Sequence[Told]:
        """The results that proposals are made from, where a sampler `rescores`."""
        return ()

    def means(self) -> Sequence[Sequence[Params]]:
        """Per stage the centre of the distribution after everything told, oldest first; empty where there is none."""
        return ()


def ranked(results: Sequence[Told]) -> list[Told]:
    """The best first; empty where nothing was scored."""
    if all(result.score is None for result in results):
        return []
    return sorted(results, key=lambda result: result.key)
