"""Axes and stages: the coordinates of a point, their grid, their unit cube, and what Optuna calls them.

A *point* (`Params`) has a value for every axis of its stage, also for those that make no difference there
(`Stage.active`): which those are depends on the point. Numbers lie on a grid finer than the noise, so that two points
with the same recipe are the same point. Legend: K numeric axes of a stage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from search.space.depth import Depth
from search.space.entry import StageEntry

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from search.space.sequence import LayerSequence

Value = float | int | str  # a switch is True or False, which are ints
Params = Mapping[str, Value]

GRID = {"density": 128, "select_topk": 128, "gamma": 1024, "epsilon": 1024}
STEPS_PER_UNIT = 256  # of every other parameter
FEWEST_STEPS = 16  # a narrow range (1e-8 to 1e-6) gets a finer grid, so that there is something to choose
NO_DEPTH = Depth()
REST = "rest"
ALL = "all"
Need = tuple[str, tuple[Value, ...]]


@dataclass(frozen=True)
class Shape:
    """Over what a parameter varies: groups of tensors by name (`filters`, the first match wins), and the layers."""

    filters: tuple[tuple[str, str], ...] = ()
    depth: Depth = NO_DEPTH

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of tensors that have values of their own."""
        return (*(name for name, _ in self.filters), REST) if self.filters else (ALL,)

    def depth_of(self, group: str) -> Depth:
        """Embeddings, norms and whatever no filter matches have one value, whatever the layer."""
        return Depth() if group == REST else self.depth

    def places(self) -> tuple[tuple[str, int | None], ...]:
        """(group, position along the layers or None) of every value."""
        pairs: list[tuple[str, int | None]] = []
        for group in self.groups:
            depth = self.depth_of(group)
            pairs += [(group, None)] if depth.kind == "none" else [(group, index) for index in range(depth.count)]
        return tuple(pairs)


@dataclass(frozen=True)
class Axis:
    """One coordinate; `name` is the Optuna parameter, for example `weight/letters/attention/1`.

    `source` is None where the parameter belongs to the whole merge. `needs` says at which values of other axes it makes
    a difference: (axis, values), all of which have to hold.
    """

    name: str
    parameter: str
    source: int | None = None
    group: str = ALL
    index: int | None = None
    low: float = 0.0
    high: float = 1.0
    start: Value = 0.0
    grid: int = STEPS_PER_UNIT
    kind: Literal["float", "int", "category"] = "float"
    choices: tuple[Value, ...] = ()
    needs: tuple[Need, ...] = ()

    @cached_property
    def ends(self) -> tuple[int, int]:
        """The first and last multiple of 1/grid within the bounds."""
        return int(np.ceil(self.low * self.grid - 1e-9)), int(np.floor(self.high * self.grid + 1e-9))

    def unit(self, value: Value) -> float:
        """A number's place in the unit interval. Whole numbers are the middles of equal parts of it, so that the first
        and the last are drawn as often as the others."""
        if self.kind == "int":
            return (float(value) - self.low + 0.5) / (self.high - self.low + 1)
        return (float(value) - self.low) / (self.high - self.low)

    def at(self, unit: float) -> float:
        """The number at a place of the unit interval, not rounded: the inverse of `unit`."""
        if self.kind == "int":
            return self.low - 0.5 + unit * (self.high - self.low + 1)
        return self.low + unit * (self.high - self.low)

    def rounded(self, value: Value) -> Value:
        """The nearest point of the grid within the bounds; of a category one of its choices, or KeyError."""
        if self.kind == "category":
            if value not in self.choices:
                raise KeyError(f"{self.name}: {value!r} is none of {self.choices}")
            return self.choices[self.choices.index(value)]
        low, high = self.ends
        step = min(max(round(float(value) * self.grid), low), high)
        return step if self.kind == "int" else step / self.grid


@dataclass(frozen=True)
class Stage:
    """One stage's axes. `shapes` holds every parameter of the space; one that is not searched has no axes here.

    `sequence` knows which places of a layer sequence repeat a layer, and so have a scale.
    """

    entry: StageEntry
    shapes: Mapping[str, Shape]
    axes: tuple[Axis, ...]
    sequence: LayerSequence | None = None

    @property
    def name(self) -> str:
        """As the campaign calls it."""
        return self.entry.name

    @property
    def population(self) -> int:
        """Candidates per cohort: as given, else 1.5 K, between 6 and 60.

        CMA-ES' own default, 4 + 3 ln K, is meant for exact values. Here a value is a mean of a few items, and a larger
        population averages noise better than more items per candidate do (tiny family, 3 seeds, K = 21, 15 items, after
        5k and 10k items: 13 → .780, .793; 20 → .800, .813; 30 → .819, .820; 60 → .790, .820).
        """
        return self.entry.population or min(60, max(6, -(-3 * len(self.axes) // 2)))

    @cached_property
    def by_name(self) -> dict[str, Axis]:
        return {axis.name: axis for axis in self.axes}

    @cached_property
    def numeric(self) -> tuple[Axis, ...]:
        """Axes of numbers, whole ones among them: those of the unit cube."""
        return tuple(axis for axis in self.axes if axis.kind != "category")

    @cached_property
    def categorical(self) -> tuple[Axis, ...]:
        return tuple(axis for axis in self.axes if axis.kind == "category")

    def to_unit(self, params: Params) -> NDArray[np.float64]:
        """[K] coordinates in the unit cube, in the order of `numeric`."""
        return np.array([axis.unit(params[axis.name]) for axis in self.numeric])

    def from_unit(self, unit_K: NDArray[np.float64], categories: Params | None = None) -> dict[str, Value]:
        """The nearest point of the grid inside the bounds; categories that are not given have their start."""
        chosen = {axis.name: axis.start for axis in self.categorical} | dict(categories or {})
        values = {axis.name: axis.at(float(u)) for axis, u in zip(self.numeric, unit_K, strict=True)}
        return self.rounded(values | chosen)

    def rounded(self, params: Params) -> dict[str, Value]:
        """`params` on the grid and within bounds; idempotent."""
        return {axis.name: axis.rounded(params[axis.name]) for axis in self.axes}

    def active(self, params: Params) -> tuple[Axis, ...]:
        """The axes that make a difference at this point."""
        needless = {axis.name for axis in self.axes if not self._needed(axis, params)}
        return tuple(axis for axis in self.axes if axis.name not in needless)

    def canonical(self, params: Params) -> dict[str, Value]:
        """`params` rounded, and at their start where they make no difference: one point for one recipe."""
        rounded = self.rounded(params)
        active = {axis.name for axis in self.active(rounded)}
        return {n: rounded[n] if n in active else axis.rounded(axis.start) for n, axis in self.by_name.items()}

    def start(self) -> dict[str, Value]:
        """The first guess."""
        return self.rounded({axis.name: axis.start for axis in self.axes})

    def average(self, points: Sequence[Params]) -> dict[str, Value]:
        """The average of points, best first: means of fractions; whole numbers and categories by vote, where a tie
        goes to the better point (layer 2 and layer 8 have no mean)."""
        found: dict[str, Value] = {}
        for axis in self.axes:
            values = [point[axis.name] for point in points]
            if axis.kind == "float":
                found[axis.name] = sum(float(value) for value in values) / len(values)
            else:
                found[axis.name] = Counter(values).most_common(1)[0][0]
        return self.rounded(found)

    def distributions(self) -> dict[str, BaseDistribution]:
        """What Optuna calls the space: the points of the grid within the bounds, and the choices."""
        return {axis.name: _distribution(axis) for axis in self.axes}

    def _needed(self, axis: Axis, params: Params) -> bool:
        if axis.parameter == "scale" and self.sequence is not None and axis.index is not None:
            repeats = self.sequence.repeats(params, axis.index)
        else:
            repeats = True
        return repeats and all(params[name] in values for name, values in axis.needs if name in self.by_name)


def _distribution(axis: Axis) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if axis.kind == "category":
        return CategoricalDistribution(axis.choices)
    low, high = axis.ends
    if axis.kind == "int":
        return IntDistribution(low, high)
    return FloatDistribution(low / axis.grid, high / axis.grid, step=1 / axis.grid)


def grid_of(parameter: str, low: float, high: float) -> int:
    """Steps per unit for a parameter between two bounds."""
    grid = GRID.get(parameter, STEPS_PER_UNIT)
    while (high - low) * grid < FEWEST_STEPS:
        grid *= 2
    return grid
