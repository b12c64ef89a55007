"""Where a CMA-ES stage starts: a Gaussian in the unit cube; lifted from a coarser stage, or made of elites. Pure.

Legend: K axes of the coarse stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.space import Gaussian, Params, Space, Stage

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Distribution:
    """N(mean, sigma² · covariance); None is the identity."""

    mean: Floats
    sigma: float
    covariance: Floats | None = None

    @property
    def deviations(self) -> Floats:
        """The standard deviation of every coordinate."""
        shape = np.ones(len(self.mean)) if self.covariance is None else np.sqrt(np.diag(self.covariance))
        return self.sigma * shape


def started_at(mean: Floats, *, sigma: float) -> Distribution:
    """As wide in every direction."""
    return Distribution(mean, sigma)


def lifted(space: Space, stage: int, coarse: Distribution, *, mean: Floats) -> Distribution:
    """The start of stage + 1: what the coarse stage learned, and the fine stage's own width in all new directions.

    The covariance is lifted with its step size: how far the coarse search has converged belongs to what it learned.
    """
    sigma = space.stages[stage + 1].entry.sigma
    known_KK = coarse.sigma**2 * (np.eye(len(coarse.mean)) if coarse.covariance is None else coarse.covariance)
    fine = space.lift_gaussian(stage, Gaussian(coarse.mean, known_KK), spread=sigma)
    return Distribution(mean, sigma, fine.covariance / sigma**2)


def warm_distribution(stage: Stage, elites: Sequence[tuple[Params, float]], *, sigma: float) -> Distribution:
    """The start that the best points of earlier campaigns suggest: their mean and their spread, and `sigma` on top
    (WS-CMA-ES, Nomura 2021, with its α = sigma; `elites` are the best tenth already).

    As `cmaes.get_warm_start_mgd`, without its determinant, which underflows from some 140 axes on.
    """
    points = np.array([stage.to_unit(point) for point, _ in elites])
    spread = np.atleast_2d(np.cov(points.T, bias=True)) / sigma**2
    return Distribution(points.mean(axis=0), sigma, np.eye(points.shape[1]) + spread)
