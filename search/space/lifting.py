"""The lift from a coarse stage to a finer one: of points, and of a distribution's mean and covariance. Pure.

Where the coarse stage has a value, the fine one has the values that say the same (`depth.lift`): x' = J x, and so for a
Gaussian mean' = J m and C' = J C Jᵀ. What is new in the fine stage, all directions at right angles to those, gets a
small spread of its own, s² (1 − J J⁺), or the search could never go there. J is the same for points and in the unit
cube, because its rows sum to 1 and a parameter has the same bounds in all stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search.space import depth
from search.space.axes import ALL, REST, Axis, Params, Shape, Stage, Value

Matrix = NDArray[np.float64]
Terms = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Gaussian:
    """mean[K] and covariance[K, K] in the unit cube of a stage's numeric axes."""

    mean: Matrix
    covariance: Matrix


@dataclass(frozen=True)
class Lift:
    """`terms`: fine axis → (coarse axis, weight), or nothing where the coarse stage has no such value."""

    coarse: Stage
    fine: Stage
    terms: Mapping[str, Terms]

    def point(self, params: Params) -> dict[str, Value]:
        """The fine point that says what the coarse one says; not rounded."""
        found: dict[str, Value] = {}
        for axis in self.fine.axes:
            terms = self.terms[axis.name]
            if len(terms) == 1:
                found[axis.name] = params[terms[0][0]]
            elif terms:
                found[axis.name] = sum(weight * float(params[name]) for name, weight in terms)
            else:
                found[axis.name] = axis.start
        return found

    @cached_property
    def matrix(self) -> Matrix:
        """J[K', K] over the numeric axes."""
        columns = {axis.name: number for number, axis in enumerate(self.coarse.numeric)}
        found = np.zeros((len(self.fine.numeric), len(columns)))
        for row, axis in zip(found, self.fine.numeric, strict=True):
            for name, weight in self.terms[axis.name]:
                row[columns[name]] = weight
        return found

    def gaussian(self, given: Gaussian, *, spread: float) -> Gaussian:
        """The distribution in the fine unit cube."""
        matrix = self.matrix
        starts = [0.0 if self.terms[axis.name] else axis.unit(axis.start) for axis in self.fine.numeric]
        new = np.eye(len(matrix)) - matrix @ np.linalg.pinv(matrix)
        covariance = matrix @ given.covariance @ matrix.T + spread**2 * new
        return Gaussian(matrix @ given.mean + np.array(starts), (covariance + covariance.T) / 2)


def make_lift(coarse: Stage, fine: Stage, layers: int) -> Lift:
    """The lift between two stages of which the fine one contains the coarse one (`contained`)."""
    terms: dict[str, Terms] = {}
    for axis in fine.axes:
        found = _terms(axis, coarse, fine, layers)
        terms[axis.name] = found or ()
    return Lift(coarse, fine, terms)


def contained(coarse: Stage, fine: Stage, layers: int) -> str | None:
    """None where the fine stage can say everything that the coarse one can; else the parameter that it cannot."""
    for axis in coarse.axes:
        mine = [other for other in fine.axes if (other.parameter, other.source) == (axis.parameter, axis.source)]
        if not mine or any(_terms(other, coarse, fine, layers) is None for other in mine):
            return axis.parameter
    return None


def _terms(axis: Axis, coarse: Stage, fine: Stage, layers: int) -> Terms | None:
    """What a fine axis is made of; () where the coarse stage does not search it, None where it cannot be said."""
    if axis.parameter not in coarse.shapes:  # method, sources and layer sequence: the same axes in every stage
        return ((axis.name, 1.0),) if axis.name in coarse.by_name else ()
    before = [other for other in coarse.axes if (other.parameter, other.source) == (axis.parameter, axis.source)]
    if not before:
        return ()
    shape, finer = coarse.shapes[axis.parameter], fine.shapes[axis.parameter]
    group = parent(axis.group, shape, finer)
    if group is None:
        return None
    matrix = depth.lift(shape.depth_of(group), finer.depth_of(axis.group), layers)
    if matrix is None:
        return None
    names = [other.name for other in before if other.group == group]
    row = matrix[axis.index or 0]
    return tuple((name, float(weight)) for name, weight in zip(names, row, strict=True) if weight)


def parent(group: str, coarse: Shape, fine: Shape) -> str | None:
    """The coarse group that a fine one is a part of: itself, or, as `attention.qk`, the group named before the dot.

    That the tensors of a part are the group's, too, takes their names to see (`checks.check_tensors`).
    """
    if not coarse.filters:
        return ALL
    if group == REST:
        return REST
    filters = dict(coarse.filters)
    if group in filters:
        return group if filters[group] == dict(fine.filters)[group] else None
    stem = group.split(".", 1)[0]
    return stem if stem in filters else None
