"""Points of a stage as samplers see them: numeric coordinates in the unit cube, and a choice for every category."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from search.space import Params, Space, Stage, Value, coordinate_blocks

Floats = NDArray[np.float64]
SOBOL_LOG2 = 10  # a scrambled Sobol sequence is balanced over powers of two


@dataclass(frozen=True)
class Places:
    """A stage's axes by kind. Legend: N numeric axes (floats and integers)."""

    stage: Stage

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the numeric axes, in the order of unit coordinates."""
        return tuple(axis.name for axis in self.stage.numeric)

    @cached_property
    def categories(self) -> dict[str, tuple[Value, ...]]:
        """Categorical axis → its choices."""
        return {axis.name: axis.choices for axis in self.stage.categorical}

    @cached_property
    def conditional(self) -> bool:
        """Whether some axes make a difference only where others have certain values."""
        return any(axis.needs for axis in self.stage.axes)

    @property
    def size(self) -> int:
        """All axes."""
        return len(self.names) + len(self.categories)

    def unit(self, params: Params) -> Floats:
        """[N] numeric coordinates of a point."""
        return self.stage.to_unit(params)

    def point(self, unit_N: Floats, choices: Mapping[str, Value] | None = None) -> dict[str, Value]:
        """The nearest point of the grid."""
        return self.stage.from_unit(unit_N, choices)

    def spread(self, unit_N: Floats) -> dict[str, Value]:
        """The point at unit coordinates of all axes: numeric ones, then one per category."""
        count = len(self.names)
        chosen = {
            name: choices[min(int(u * len(choices)), len(choices) - 1)]
            for (name, choices), u in zip(self.categories.items(), unit_N[count:], strict=True)
        }
        return self.point(unit_N[:count], chosen)

    def idle(self, params: Params) -> set[str]:
        """The axes that make no difference at this point."""
        if not self.conditional:
            return set()
        return {axis.name for axis in self.stage.axes} - {axis.name for axis in self.stage.active(params)}


def allowed(space: Space, stage: int, params: Params) -> dict[str, Value]:
    """The point that is scored for `params`: one that breaks no constraint, and one for every recipe."""
    point = space.repair(stage, params) if space.constrained else dict(params)
    rule = space.stages[stage]
    return rule.canonical(point) if any(axis.needs for axis in rule.axes) else point


def sobol_point(space: Space, stage: int, index: int, *, seed: int) -> dict[str, Value]:
    """Point `index` of a scrambled Sobol sequence over a stage."""
    places = Places(space.stages[stage])
    sequence = _sequence(places.size, seed, max(SOBOL_LOG2, index.bit_length()))
    return allowed(space, stage, places.spread(sequence[index]))


@lru_cache(maxsize=8)
def _sequence(size: int, seed: int, log2: int) -> Floats:
    """The first 2^log2 points; a longer one begins with the same."""
    from scipy.stats import qmc

    drawn: Floats = qmc.Sobol(size, scramble=True, rng=np.random.default_rng(seed)).random_base2(log2)
    return drawn


def few_blocks(stage: Stage, unit_N: Floats, *, around: Floats, draw: np.random.Generator) -> Floats:
    """Where the stage has `blocks_at_a_time`: the point in so many blocks of coordinates, `around` in all others.

    So most layers stay as they are loaded. The step is lengthened: a sampler sees the length that it expects of a draw.
    """
    if not stage.entry.blocks_at_a_time:
        return unit_N
    blocks = coordinate_blocks(stage)
    count = min(stage.entry.blocks_at_a_time, len(blocks))
    chosen = {name for index in draw.choice(len(blocks), count, replace=False) for name in blocks[index]}
    moves_N = np.array([axis.name in chosen for axis in stage.numeric])
    longer = np.sqrt(len(moves_N) / max(1, moves_N.sum()))
    return np.clip(np.where(moves_N, around + longer * (unit_N - around), around), 0.0, 1.0)
