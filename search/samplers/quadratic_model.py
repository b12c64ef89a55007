"""A quadratic model of the score around a point, from many scores of few items each, and the step it advises. Pure.

Bayesian linear regression on the terms 1, z_k, z_k² and z_j·z_k, where z are coordinates around the centre in units of
the search's step size: a Gaussian prior on every coefficient, one offset for every cohort (its items may be easy or
hard), and noise. How large the noise is the scores themselves tell (maximum marginal likelihood): candidates of one
cohort answer the same items and lie close together, so most of an item's variance is common to them and drops out. Two
scales of the prior, of slopes and of curvatures, are those of highest evidence on a small grid. So a coefficient that
the scores do not support stays near zero, and no step is longer than `reach`: unlike a Gaussian process' optimum, this
one does not trust what it has not seen.

Scores far from the centre count less, since a quadratic is right nearby only. Legend: R scores, K axes, F terms,
C cohorts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Floats = NDArray[np.float64]
SLOPES = (5e-4, 2e-3, 1e-2)
"""Prior variance of a slope per step size; like all variances below in units of the noise of one item's score."""
CURVATURES = (0.05, 0.2)
"""Prior variance of a curvature, in units of a slope's."""
CROSSED = 0.3  # of z_j·z_k, in units of a curvature's
COMMON = 3e-3  # of a curvature that all axes share: with equal sources all weights tend to saturate alike
COHORT = 1.5  # of a cohort's offset, in units of the noise of a score on its items
LEVEL = 100.0  # of the level: as good as free
FAR = 3.0  # the squared distance per axis, beyond that of a usual draw, at which a score counts exp(-1/2)
LEAST = 1e-6  # of the scores' variance, that noise is never below: a quadratic may explain all of it
MOST_AXES = 64  # beyond these, products of two axes are left out: F would grow with their square


@dataclass(frozen=True)
class Scores:
    """What is known: coordinates [R, K] around the centre in step sizes, scores, how many items each is a mean of, and
    their cohorts."""

    points_RK: Floats
    scores_R: Floats
    items_R: Floats
    cohorts_R: NDArray[np.int64]


def advised_step(known: Scores, *, reach: float) -> Floats:
    """[K] the step to the model's maximum, at most `reach` long.

    Directions that the model does not find concave by more than a prior's deviation are taken to be so: the step stays
    short where the maximum is not pinned down.
    """
    if not np.ptp(known.scores_R):  # all equal: nothing is known, not even the noise
        return np.zeros(known.points_RK.shape[1])
    with _libraries().limit(limits=1, user_api="blas"):  # on a busy machine threads that wait cost 100 times
        slope_K, curvature_KK, floor = _fitted(known)
        values, axes = np.linalg.eigh(curvature_KK)
    step: Floats = -(axes / np.minimum(values, -floor)) @ (axes.T @ slope_K)
    length = float(np.linalg.norm(step))
    return step * (reach / length) if length > reach else step


@cache
def _libraries() -> ThreadpoolController:
    """Looked for once: that means opening every library which the process has loaded."""
    import scipy.linalg  # noqa: F401  (it has a library of its own, beside numpy's)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _fitted(known: Scores) -> tuple[Floats, Floats, float]:
    """Slope, matrix of second derivatives, and a curvature's prior deviation, at the highest evidence."""
    from scipy.linalg import solve_triangular

    terms_RF, kinds_F = _terms(known.points_RK, known.cohorts_R)
    distance_R = (known.points_RK**2).mean(axis=1)
    precision_R = np.exp(-0.5 * np.maximum(0.0, distance_R - 1) / FAR) * known.items_R
    centred_R = known.scores_R - np.average(known.scores_R, weights=precision_R)
    gram_FF = (terms_RF * precision_R[:, None]).T @ terms_RF
    moment_F = terms_RF.T @ (precision_R * centred_R)
    total, count = float(precision_R @ centred_R**2), len(centred_R)
    cohort = COHORT / float(np.median(known.items_R))
    best: tuple[float, Floats, float] | None = None
    for slope in SLOPES:
        for curvature in CURVATURES:
            prior_F = _prior(kinds_F, slope, curvature, cohort=cohort)
            precise_FF = gram_FF.copy()
            precise_FF.flat[:: len(prior_F) + 1] += 1 / prior_F
            lower_FF = np.linalg.cholesky(precise_FF)
            half_F = solve_triangular(lower_FF, moment_F, lower=True, check_finite=False)
            noise = max(total - float(half_F @ half_F), LEAST * total) / count  # of one item, at its likeliest
            evidence = -0.5 * (count * np.log(noise) + float(np.log(prior_F).sum()))
            evidence -= float(np.log(np.diag(lower_FF)).sum())
            if best is None or evidence > best[0]:
                best = (
                    evidence,
                    solve_triangular(lower_FF, half_F, lower=True, trans=1),
                    float(np.sqrt(noise * slope * curvature)),
                )
    assert best is not None
    return *_read(best[1], known.points_RK.shape[1]), best[2]


_SLOPE, _SQUARE, _CROSSED, _COMMON, _LEVEL, _COHORT = range(6)


def _terms(points_RK: Floats, cohorts_R: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """[R, F] the terms of every score, and which prior each column has. Squares are centred and of unit variance."""
    count, axes = points_RK.shape
    squares_RK = (points_RK**2 - 1) / np.sqrt(2)
    rows, columns = np.triu_indices(axes, 1) if axes <= MOST_AXES else (np.zeros(0, int), np.zeros(0, int))
    offsets_RC = (cohorts_R[:, None] == np.unique(cohorts_R)).astype(float)
    parts = [
        (points_RK, _SLOPE),
        (squares_RK, _SQUARE),
        (points_RK[:, rows] * points_RK[:, columns], _CROSSED),
        (-squares_RK.sum(axis=1, keepdims=True), _COMMON),
        (np.ones((count, 1)), _LEVEL),
        (offsets_RC, _COHORT),
    ]
    kinds_F = np.concatenate([np.full(part.shape[1], kind) for part, kind in parts])
    return np.hstack([part for part, _ in parts]), kinds_F


def _prior(kinds_F: NDArray[np.int64], slope: float, curvature: float, *, cohort: float) -> Floats:
    """[F] prior variances in units of the noise of one item's score."""
    of_kind = np.array([slope, slope * curvature, slope * curvature * CROSSED, COMMON, LEVEL, cohort])
    found: Floats = of_kind[kinds_F]
    return found


def _read(weights_F: Floats, axes: int) -> tuple[Floats, Floats]:
    """Slope and second derivatives at the centre."""
    crossed = axes * (axes - 1) // 2 if axes <= MOST_AXES else 0
    slope_K, square_K = weights_F[:axes], weights_F[axes : 2 * axes]
    common = weights_F[2 * axes + crossed]
    curvature_KK = np.diag((square_K - common) * np.sqrt(2))
    if crossed:
        rows, columns = np.triu_indices(axes, 1)
        curvature_KK[rows, columns] = curvature_KK[columns, rows] = weights_F[2 * axes : 2 * axes + crossed]
    return slope_K, curvature_KK
