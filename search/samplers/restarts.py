"""When a CMA-ES has nothing left to find, and where it starts anew: IPOP (Auger and Hansen 2005). Pure.

A stage restarts with twice the population, from the mean of the best points that were told so far. Reasons:

    stopped      `cmaes` says so (degenerate covariance, divergence)
    converged    the distribution is narrower than one step of the grid in every coordinate: its draws are a few recipes
    stagnation   the step size has fallen to a quarter, and of the last 10 + 30 K/λ cohorts the last third scored no
                 better than the first (pycma's criterion, medians; scores lie on different windows, so it needs many)

Legend: K axes, λ population.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ELITE = 0.1
NEIGHBOURS = 2  # cohorts on each side that steady a cohort's level
SHRUNK = 0.25


@dataclass
class Trail:
    """What one stage was told: each cohort's points and scores; `since` counts the cohorts of earlier runs."""

    points: list[Floats] = field(default_factory=list)
    scores: list[Floats] = field(default_factory=list)
    since: int = 0

    def add(self, points_CK: Floats, scores_C: Floats) -> None:
        """A complete cohort; its points by row."""
        self.points.append(points_CK)
        self.scores.append(scores_C)

    @property
    def levels(self) -> Floats:
        """The mean score of every cohort of this run."""
        return np.array([scores.mean() for scores in self.scores[self.since :]])

    def elite_mean(self) -> Floats:
        """The mean of the best tenth (at least 2) by distance from their own cohort's mean plus its smoothed level."""
        levels = [float(scores.mean()) for scores in self.scores]
        estimates = []
        for index, scores in enumerate(self.scores):
            near = levels[max(0, index - NEIGHBOURS) : index + NEIGHBOURS + 1]
            estimates.append(float(np.mean(near)) + scores - levels[index])
        every, points = np.concatenate(estimates), np.concatenate(self.points)
        count = max(2, int(ELITE * len(every)))
        best: Floats = points[np.argsort(-every, kind="stable")[:count]].mean(axis=0)
        return best


def stagnant(levels: Floats, *, axes: int, population: int) -> bool:
    """Whether the last third of the last 10 + 30 K/λ cohorts is no better than their first third (medians)."""
    length = 10 + -(-30 * axes // population)
    if len(levels) < length:
        return False
    recent, third = levels[-length:], length // 3
    return bool(np.median(recent[-third:]) <= np.median(recent[:third]))


def converged(deviations_K: Floats, steps_K: Sequence[float]) -> bool:
    """Whether the distribution is narrower than one grid step in every coordinate."""
    return bool((deviations_K < np.array(steps_K)).all())
