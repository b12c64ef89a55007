"""Points of a stage as samplers see them: numeric coordinates in the unit cube, and a choice for every category."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from search.space import Stage

Floats = NDArray[np.float64]
Point = Mapping[str, Any]
SOBOL_LOG2 = 10  # a scrambled Sobol sequence is balanced over powers of two


@dataclass(frozen=True)
class Places:
    """A stage's axes by kind. Legend: N numeric axes (floats and integers)."""

    stage: Stage

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the numeric axes, in the order of unit coordinates."""
        return tuple(axis.name for axis in getattr(self.stage, "numeric", self.stage.axes))

    @property
    def integers(self) -> tuple[str, ...]:
        """Those of the numeric axes that are whole numbers."""
        return tuple(axis.name for axis in self.stage.axes if getattr(axis, "kind", "float") == "int")

    @property
    def categories(self) -> dict[str, tuple[Any, ...]]:
        """Categorical axis → its choices."""
        return {axis.name: tuple(axis.choices) for axis in getattr(self.stage, "categorical", ())}

    def unit(self, params: Point) -> Floats:
        """[N] numeric coordinates of a point."""
        return self.stage.to_unit(params)

    def point(self, unit_N: Floats, choices: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The nearest point of the grid; axes that make no difference there are at their start."""
        found = {**self.stage.from_unit(unit_N), **(choices or {})}
        stage: Any = self.stage
        return dict(stage.canonical(found)) if self.conditional else found

    @property
    def conditional(self) -> bool:
        """Whether some axes make a difference only where others have certain values."""
        return any(getattr(axis, "needs", ()) for axis in self.stage.axes)

    def idle(self, params: Point) -> set[str]:
        """The axes that make no difference at this point."""
        if not self.conditional:
            return set()
        stage: Any = self.stage
        return {axis.name for axis in stage.axes} - {axis.name for axis in stage.active(params)}

    def spread(self, unit_N: Floats) -> dict[str, Any]:
        """The point at unit coordinates of all axes: numeric ones, then one per category."""
        count = len(self.names)
        chosen = {
            name: choices[min(int(u * len(choices)), len(choices) - 1)]
            for (name, choices), u in zip(self.categories.items(), unit_N[count:], strict=True)
        }
        return self.point(unit_N[:count], chosen)

    @property
    def size(self) -> int:
        """All axes."""
        return len(self.names) + len(self.categories)


def sobol_point(stage: Stage, index: int, *, seed: int) -> dict[str, Any]:
    """Point `index` of a scrambled Sobol sequence over a stage."""
    places = Places(stage)
    return places.spread(_sequence(places.size, seed)[index % 2**SOBOL_LOG2])


@lru_cache(maxsize=8)
def _sequence(size: int, seed: int) -> Floats:
    from scipy.stats import qmc

    drawn: Floats = qmc.Sobol(size, scramble=True, rng=np.random.default_rng(seed)).random_base2(SOBOL_LOG2)
    return drawn
