"""Several objectives at once: dominance under constraints, sorting, spread, the thinned front. Pure.

Everything here looks at *oriented* values: larger is better in every objective. A violation of 0 is feasible; feasible
points come before infeasible ones, and of two infeasible ones the smaller violation comes first (Deb 2000).

Legend: C candidates, K objectives, R reference directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def dominance(values_CK: Floats, violations_C: Floats) -> NDArray[np.bool_]:
    """[C, C] whether row i dominates row j: not worse anywhere and better somewhere, constraints first."""
    better = (values_CK[:, None, :] > values_CK[None, :, :]).any(axis=2)
    worse = (values_CK[:, None, :] < values_CK[None, :, :]).any(axis=2)
    same_ground = violations_C[:, None] == violations_C[None, :]
    return np.where(same_ground, better & ~worse, violations_C[:, None] < violations_C[None, :])


def sorted_ranks(values_CK: Floats, violations_C: Floats) -> Integers:
    """[C] the front that each point belongs to, 0 the best (non-dominated sorting, NSGA-II section III)."""
    dominates_CC = dominance(values_CK, violations_C)
    dominators_C = dominates_CC.sum(axis=0)
    ranks_C = np.full(len(values_CK), -1, dtype=np.int64)
    rank = 0
    while (ranks_C < 0).any():
        front = np.flatnonzero((dominators_C == 0) & (ranks_C < 0))
        ranks_C[front] = rank
        dominators_C = dominators_C - dominates_CC[front].sum(axis=0)
        rank += 1
    return ranks_C


def front_of(values_CK: Floats, violations_C: Floats) -> list[int]:
    """Indices of the feasible points that nothing dominates; equal points all stay."""
    if not len(values_CK):
        return []
    ranks_C = sorted_ranks(values_CK, violations_C)
    return [int(index) for index in np.flatnonzero((ranks_C == 0) & (violations_C <= 0))]


def crowding(values_CK: Floats) -> Floats:
    """[C] how alone each point is: the sum over objectives of its neighbours' distance (NSGA-II); the ends are ∞."""
    count, objectives = values_CK.shape
    alone_C = np.zeros(count)
    for k in range(objectives):
        order = np.argsort(values_CK[:, k], kind="stable")
        column = values_CK[order, k]
        width = column[-1] - column[0]
        alone_C[order[[0, -1]]] = np.inf
        if width > 0:
            alone_C[order[1:-1]] += (column[2:] - column[:-2]) / width
    return alone_C


def directions(objectives: int, *, divisions: int) -> Floats:
    """[R, K] the even points of the simplex: multiples of 1/divisions that sum to 1 (Das and Dennis 1998)."""
    rows = []
    for bars in combinations(range(divisions + objectives - 1), objectives - 1):
        edges = (-1, *bars, divisions + objectives - 1)
        rows.append([(high - low - 1) / divisions for low, high in pairwise(edges)])
    return np.array(rows)


def scaled(values_CK: Floats) -> Floats:
    """Values in units of their spread over the rows: 0 the worst, 1 the best; an objective without spread is 0."""
    low_K, width_K = values_CK.min(axis=0), np.ptp(values_CK, axis=0)
    shares: Floats = (values_CK - low_K) / np.where(width_K > 0, width_K, 1.0)
    return shares


def niche_of(values_CK: Floats, directions_RK: Floats) -> tuple[Integers, Floats]:
    """[C] the nearest reference direction of each point, and the distance to it (NSGA-III, algorithm 3).

    Directions start at the ideal point, so that what counts is how far every objective lies below its best.
    """
    short_CK = 1.0 - scaled(values_CK)
    unit_RK = directions_RK / np.linalg.norm(directions_RK, axis=1, keepdims=True)
    along_CR = short_CK @ unit_RK.T
    distance_CR = np.sqrt(np.maximum((short_CK**2).sum(axis=1)[:, None] - along_CR**2, 0.0))
    nearest_C = distance_CR.argmin(axis=1)
    return nearest_C, distance_CR[np.arange(len(short_CK)), nearest_C]


def worst_by_crowding(values_CK: Floats, violations_C: Floats) -> int:
    """Whom a steady state (μ+1) lets go: of the last front, the most crowded; of equal ones, the oldest."""
    last = _last_front(values_CK, violations_C)
    return int(last[crowding(values_CK[last]).argmin()])


def worst_by_niche(values_CK: Floats, violations_C: Floats, *, directions_RK: Floats) -> int:
    """The same with NSGA-III's niches: of the last front's fullest niche (all points counted), the farthest out."""
    last = _last_front(values_CK, violations_C)
    niche_C, distance_C = niche_of(values_CK, directions_RK)
    full_C = np.bincount(niche_C, minlength=len(directions_RK))[niche_C]
    return int(max(last, key=lambda index: (full_C[index], distance_C[index], -index)))


def _last_front(values_CK: Floats, violations_C: Floats) -> Integers:
    ranks_C = sorted_ranks(values_CK, violations_C)
    last = np.flatnonzero(ranks_C == ranks_C.max())
    return last.astype(np.int64)


def knee(values_CK: Floats) -> int:
    """The point that gives up least: the largest sum of values scaled over the points (ties: the first)."""
    return int(scaled(values_CK).sum(axis=1).argmax())


def thinned(values_CK: Floats, errors_K: Floats, *, order: Sequence[int]) -> list[int]:
    """The points of `order` that no earlier kept one ε-dominates, with ε one standard error per objective.

    A point that is nowhere better than a kept one by more than its noise tells nothing new (Laumanns 2002); without
    this, noise alone fills a front.
    """
    kept: list[int] = []
    for index in order:
        if not any((values_CK[other] + errors_K >= values_CK[index]).all() for other in kept):
            kept.append(index)
    return kept
