"""Children of points: crossover and mutation in unit coordinates, choices drawn anew. Pure.

Most children lie near the line through both parents (as PCX and UNDX do: the axes of a merge hang together, and SBX,
which treats each alone, hardly leaves the corners of its parents' box), the others are SBX. Measured on two aims in 21
axes, hypervolume after 160 and 400 candidates, 3 seeds: Sobol .506, .542; SBX with the usual η of 10 and 20 .502, .527;
SBX with η 2 and 5 .529, .578; three quarters on the line .571, .629 (ideal .82).

Every function draws from the generator that it is given and from nothing else. Legend: N numeric axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from search.space import Value

Floats = NDArray[np.float64]
CROSSOVER_ETA = 2.0
MUTATION_ETA = 5.0
LINE_SHARE, LINE_REACH, LINE_NOISE = 0.75, 0.3, 0.35
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


def on_the_line(first_N: Floats, second_N: Floats, draw: np.random.Generator) -> Floats:
    """A child on the line through both parents, a little beyond them at most, with noise in proportion to their
    distance: it fades as the parents come together."""
    apart_N = second_N - first_N
    noise = LINE_NOISE * np.linalg.norm(apart_N) / np.sqrt(max(1, len(apart_N)))
    place = draw.uniform(-LINE_REACH, 1.0 + LINE_REACH)
    child_N: Floats = np.clip(first_N + place * apart_N + noise * draw.normal(size=len(first_N)), 0.0, 1.0)
    return child_N


def crossed(first_N: Floats, second_N: Floats, draw: np.random.Generator) -> Floats:
    """A child of two points: near their line, or SBX."""
    way = on_the_line if draw.random() < LINE_SHARE else simulated_binary
    return way(first_N, second_N, draw)


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
