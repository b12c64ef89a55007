"""PED-ANOVA: which parameters told the best candidates from the others (Watanabe, Bansal, Hutter, IJCAI 2023,
arXiv 2304.10255). Optuna's evaluator as it is by default, for candidates that all have the same parameters: a test
compares the two. Importing Optuna for it takes ten times as long. Pure.

A parameter's importance is the Pearson divergence between its density among the best tenth and among all. Densities are
Parzen estimates on a grid. Legend: N candidates, G places of the grid, K kernels (places that candidates have, and a
wide prior).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from search.space import Value

TOP = 0.1
STEPS = 50
PRIOR = 1.0  # the prior's weight, where a candidate has 1
TINY = 1e-12
NARROWEST = 0.5 / 1.64  # 90 % of a kernel then lie within one step

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """The values of a parameter, and where they may lie: between two bounds, or among choices."""

    values: Sequence[Value]
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Value, ...] = ()

    def taken(self, places: Sequence[int]) -> Axis:
        """Of these candidates alone."""
        return replace(self, values=[self.values[place] for place in places])


def importances(axes: Mapping[str, Axis], scores: Sequence[float]) -> dict[str, float]:
    """Parameter → share of all importance, the largest first; {} where scores do not differ, or are no numbers."""
    if len(set(scores)) < 2 or not all(map(math.isfinite, scores)):
        return {}
    bar = sorted(scores, reverse=True)[math.ceil(TOP * len(scores)) - 1]
    top_N = np.array(scores) >= bar
    found = {name: _divergence(axis, top_N) for name, axis in axes.items()}
    total = sum(found.values())
    shares = {name: value / total if total else 1 / len(found) for name, value in found.items()}
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def _divergence(axis: Axis, top_N: NDArray[np.bool_]) -> float:
    if len(axis.choices) == 1 or (not axis.choices and axis.low == axis.high):
        return 0.0
    steps = len(axis.choices) or STEPS
    density = _of_choices if axis.choices else _of_numbers
    places_N = _places(axis)
    top_G, all_G = (density(np.bincount(places, minlength=steps)) + TINY for places in (places_N[top_N], places_N))
    return float(all_G @ (top_G / all_G - 1) ** 2)


def _places(axis: Axis) -> NDArray[np.int64]:
    """Every value's place on the grid; one in the middle goes to the lower one."""
    if axis.choices:
        return np.array([axis.choices.index(value) for value in axis.values], np.int64)
    steps_N = (np.array(axis.values, np.float64) - axis.low) / ((axis.high - axis.low) / (STEPS - 1))
    return np.clip(np.ceil(steps_N - 0.5), 0, STEPS - 1).astype(np.int64)


def _of_numbers(counts_G: NDArray[np.int64]) -> Floats:
    """Normal kernels with a width by Scott's rule, cut off at the grid's ends; a step has what lies within it."""
    from scipy.special import ndtr

    places = np.flatnonzero(counts_G)
    weights = counts_G[places]
    last, total = len(counts_G) - 1, int(weights.sum())
    centres_K = np.append(places, last / 2).astype(np.float64)
    widths_K = np.append(np.full(len(places), _width(places, weights)), last + 1.0)
    edges = (np.arange(len(counts_G) + 1) - 0.5 - centres_K[:, None]) / widths_K[:, None]
    below_KE = ndtr(edges)
    mass_KG = np.diff(below_KE, axis=1) / (below_KE[:, -1:] - below_KE[:, :1])
    return np.asarray(np.append(weights, PRIOR) / (total + PRIOR) @ mass_KG)


def _width(places: NDArray[np.int64], weights: NDArray[np.int64]) -> float:
    """1.059 σ n^-0.2, where σ is the smaller of the deviation and what the quartiles say of it."""
    upto, total = np.cumsum(weights), int(weights.sum())
    mean = places @ weights / total
    deviation = math.sqrt((places - mean) ** 2 @ weights / max(1, total - 1))
    first = int(np.searchsorted(upto, total // 4, side="left"))
    third = min(len(places) - 1, int(np.searchsorted(upto, total * 3 // 4, side="right")))
    spread = float(places[third] - places[first])
    return float(max(1.059 * min(spread / 1.34, deviation) * total**-0.2, NARROWEST))


def _of_choices(counts_G: NDArray[np.int64]) -> Floats:
    """Every choice that was made counts for itself, with a little for the others."""
    made = np.flatnonzero(counts_G)
    kernels = np.full((len(made) + 1, len(counts_G)), PRIOR / (len(made) + 1))
    kernels[np.arange(len(made)), made] += 1
    kernels /= kernels.sum(axis=1, keepdims=True)
    return np.asarray(np.append(counts_G[made], PRIOR) / (counts_G.sum() + PRIOR) @ kernels)
