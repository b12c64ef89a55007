"""Children of two points: crossover and mutation in unit coordinates, choices inherited or drawn anew. Pure.

Every function draws from the generator that it is given and from nothing else. Legend: N numeric axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def split_point(first_N: Floats, second_N: Floats, positions_N: Floats, draw: np.random.Generator) -> Floats:
    """M2N2's crossover: left of a random depth mostly one parent, right of it mostly the other.

    `positions_N` is the depth of every coordinate from 0 to 1; those that span all layers (NaN) are mixed half and
    half. The paper interpolates weights on the sphere; here it is their coefficients, so the mix is linear.
    """
    split, share = draw.random(), draw.random()
    share_N = np.where(positions_N < split, share, 1.0 - share)
    share_N = np.where(np.isnan(positions_N), 0.5, share_N)
    return share_N * first_N + (1.0 - share_N) * second_N


def inherited(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    choices: Mapping[str, Sequence[Any]],
    draw: np.random.Generator,
    *,
    rate: float,
) -> dict[str, Any]:
    """Every category from one of the parents; with probability `rate` drawn anew."""
    found = {}
    for name, known in choices.items():
        found[name] = first[name] if draw.random() < 0.5 else second[name]
        if draw.random() < rate:
            found[name] = known[int(draw.integers(len(known)))]
    return found
