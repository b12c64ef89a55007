"""Children of points: crossover and mutation in unit coordinates, choices drawn anew. Pure.

Every function draws from the generator that it is given and from nothing else. Legend: N numeric axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from search.space import Value

Floats = NDArray[np.float64]
CROSSOVER_ETA = 10.0
MUTATION_ETA = 20.0
CROSSOVER_RATE = 0.9


def simulated_binary(first_N: Floats, second_N: Floats, draw: np.random.Generator) -> Floats:
    """One child of SBX (Deb and Agrawal 1995): as near to the parents as a one-point crossover of bits would be."""
    u_N = draw.random(len(first_N))
    power = 1.0 / (CROSSOVER_ETA + 1.0)
    spread_N = np.where(u_N <= 0.5, (2 * u_N) ** power, (1 / (2 * np.maximum(1 - u_N, 1e-12))) ** power)
    side_N = np.where(draw.random(len(first_N)) < 0.5, 1.0, -1.0)
    crossed_N = draw.random(len(first_N)) < 0.5
    child_N = 0.5 * (first_N + second_N) + 0.5 * side_N * spread_N * (second_N - first_N)
    return np.clip(np.where(crossed_N, child_N, first_N), 0.0, 1.0)


def polynomial_mutation(point_N: Floats, draw: np.random.Generator, *, rate: float) -> Floats:
    """Deb's polynomial mutation, within the unit cube: each coordinate with probability `rate`."""
    u_N = draw.random(len(point_N))
    power = 1.0 / (MUTATION_ETA + 1.0)
    down_N = (2 * u_N + (1 - 2 * u_N) * (1 - point_N) ** (MUTATION_ETA + 1)) ** power - 1
    up_N = 1 - (2 * (1 - u_N) + 2 * (u_N - 0.5) * point_N ** (MUTATION_ETA + 1)) ** power
    moved_N = point_N + np.where(u_N < 0.5, down_N, up_N)
    return np.clip(np.where(draw.random(len(point_N)) < rate, moved_N, point_N), 0.0, 1.0)


def drawn_anew(
    chosen: Mapping[str, Value],
    choices: Mapping[str, Sequence[Value]],
    draw: np.random.Generator,
    *,
    rate: float,
) -> dict[str, Value]:
    """The choices, each replaced with probability `rate` by one drawn from all."""
    return {
        name: known[int(draw.integers(len(known)))] if draw.random() < rate else chosen[name]
        for name, known in choices.items()
    }
