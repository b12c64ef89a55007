"""The lift from a coarse stage to a finer one: of points, and of a distribution's mean and covariance. Pure.

Where the coarse stage has a value, the fine one has the values that say the same (`depth.lift`): x' = J x, and so for a
Gaussian mean' = J m and C' = J C Jᵀ. What is new in the fine stage, all directions at right angles to those, gets a
small spread of its own, s² (1 − J J⁺), or the search could never go there. J is the same for points and in the unit
cube, because its rows sum to 1 and a parameter has the same bounds in all stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search.space import depth
from search.space.axes import ALL, REST, Axis, Params, Shape, Stage, Value
from search.space.depth import Depth

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
    return Lift(coarse, fine, {name: terms or () for name, terms in _all_terms(coarse, fine, layers).items()})


def contained(coarse: Stage, fine: Stage, layers: int) -> str | None:
    """None where the fine stage can say everything that the coarse one can; else the parameter that it cannot."""
    terms = _all_terms(coarse, fine, layers)
    kept = {(axis.parameter, axis.source): True for axis in fine.axes}
    for axis in fine.axes:
        kept[axis.parameter, axis.source] &= terms[axis.name] is not None
    lost = [axis.parameter for axis in coarse.axes if not kept.get((axis.parameter, axis.source), False)]
    return lost[0] if lost else None


def _all_terms(coarse: Stage, fine: Stage, layers: int) -> dict[str, Terms | None]:
    """What every fine axis is made of; () where the coarse stage does not search it, None where it cannot be said."""
    names: dict[tuple[str, int | None, str], list[str]] = {}
    for axis in coarse.axes:
        names.setdefault((axis.parameter, axis.source, axis.group), []).append(axis.name)
    searched = {(parameter, source) for parameter, source, _ in names}
    found: dict[str, Terms | None] = {}
    for axis in fine.axes:
        shape = coarse.shapes.get(axis.parameter)
        if shape is None:  # method, sources and layer sequence: the same axes in every stage
            found[axis.name] = ((axis.name, 1.0),) if axis.name in coarse.by_name else ()
        elif (axis.parameter, axis.source) not in searched:
            found[axis.name] = ()
        else:
            finer = fine.shapes[axis.parameter]
            group = parent(axis.group, shape, finer)
            there = names.get((axis.parameter, axis.source, group or ""), [])
            found[axis.name] = None if group is None else _terms(axis, shape.depth_of(group), finer, layers, there)
    return found


def _terms(axis: Axis, coarse: Depth, finer: Shape, layers: int, names: Sequence[str]) -> Terms | None:
    matrix = depth.lift(coarse, finer.depth_of(axis.group), layers)
    if matrix is None:
        return None
    return tuple((name, float(weight)) for name, weight in zip(names, matrix[axis.index or 0], strict=True) if weight)


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
