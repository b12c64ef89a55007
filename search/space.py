"""The searched space: coordinates ↔ recipes ↔ Optuna distributions, and the lift from a coarse stage to a finer one.

Pure, both ways. A stage has one *axis* per parameter × source × place; the place depends on the granularity `by`:

    global           one value for every tensor
    module           one per module group (attention, mlp, ...) and one for the rest
    layer_block      one per block of layers; tensors before (after) the layers go with the first (last) block
    module_layer     one per module group × block, and one for the rest
    gradient         k knots spread evenly over the layers, linear in between
    module_gradient  k knots per module group, and one value for the rest

Values lie on a grid finer than the noise (1/256 for weights, 1/128 for densities): coordinates are rounded first, so
that two points with the same recipe are the same point. Legend: K axes of a stage, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import CampaignError, did_you_mean
from search.campaign_file import Campaign, Range, StageEntry

if TYPE_CHECKING:
    from optuna.distributions import FloatDistribution

GRID = {"weight": 256, "density": 128}
DENSITY_METHODS = ("ties", "dare_linear", "dare_ties")
REST = "rest"
ALL = "all"
Params = Mapping[str, float]


@dataclass(frozen=True)
class Shape:
    """Over what a parameter varies: groups of tensors (`modules`), and depth by `blocks` or by `knots`."""

    modules: tuple[str, ...] = ()
    blocks: int = 0
    knots: int = 0

    @property
    def depth(self) -> int:
        """Values along the layers; 0 where a parameter does not vary with depth."""
        return self.blocks or self.knots

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of tensors that have values of their own."""
        return (*self.modules, REST) if self.modules else (ALL,)

    def places(self) -> tuple[tuple[str, int | None], ...]:
        """(group, position along the layers or None) of every value."""
        pairs: list[tuple[str, int | None]] = []
        for group in self.groups:
            varies = self.depth and group != REST
            pairs += [(group, index) for index in range(self.depth)] if varies else [(group, None)]
        return tuple(pairs)


@dataclass(frozen=True)
class Axis:
    """One coordinate; `name` is the Optuna parameter, for example `weight/letters/attention/1`."""

    name: str
    parameter: str
    source: int
    group: str
    index: int | None
    low: float
    high: float
    start: float

    @property
    def grid(self) -> int:
        """Steps per unit: values are multiples of 1/grid."""
        return GRID[self.parameter]


@dataclass(frozen=True)
class Stage:
    """One stage's axes. `shapes` holds every parameter of the space; one that is not searched has no axes here."""

    entry: StageEntry
    shapes: Mapping[str, Shape]
    axes: tuple[Axis, ...]

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

    def to_unit(self, params: Params) -> NDArray[np.float64]:
        """[K] coordinates in the unit cube, in the order of the axes."""
        return np.array([(params[axis.name] - axis.low) / (axis.high - axis.low) for axis in self.axes])

    def from_unit(self, unit_K: NDArray[np.float64]) -> dict[str, float]:
        """The nearest point of the grid inside the bounds."""
        values = {
            axis.name: axis.low + float(u) * (axis.high - axis.low) for axis, u in zip(self.axes, unit_K, strict=True)
        }
        return self.rounded(values)

    def rounded(self, params: Params) -> dict[str, float]:
        """`params` on the grid and within bounds; idempotent."""
        return {axis.name: round_to_grid(params[axis.name], axis) for axis in self.axes}

    def start(self) -> dict[str, float]:
        """The first guess."""
        return self.rounded({axis.name: axis.start for axis in self.axes})

    def distributions(self) -> dict[str, FloatDistribution]:
        """What Optuna calls the space: the points of the grid within the bounds."""
        from optuna.distributions import FloatDistribution

        ends = {axis.name: (grid_ends(axis), axis.grid) for axis in self.axes}
        return {
            name: FloatDistribution(low / grid, high / grid, step=1 / grid)
            for name, ((low, high), grid) in ends.items()
        }


def grid_ends(axis: Axis) -> tuple[int, int]:
    """The first and last multiple of 1/grid within the bounds."""
    return int(np.ceil(axis.low * axis.grid - 1e-9)), int(np.floor(axis.high * axis.grid + 1e-9))


def round_to_grid(value: float, axis: Axis) -> float:
    """The nearest multiple of 1/grid in [low, high]; a bound off the grid is never stepped over."""
    low, high = grid_ends(axis)
    return min(max(round(value * axis.grid), low), high) / axis.grid


@dataclass(frozen=True)
class Space:
    """All stages of a campaign's space, bound to its sources and to the depth of its models."""

    method: str
    base_model: str
    models: tuple[str, ...]
    sources: tuple[str, ...]
    ranges: Mapping[str, Range]
    fixed: Mapping[str, float | bool]
    filters: Mapping[str, str]
    dtypes: Mapping[str, str]
    layers: int
    seed: int
    stages: tuple[Stage, ...]

    def recipe(self, stage: int, params: Params) -> dict[str, Any]:
        """The mergekit-compatible recipe of a point (rounded first)."""
        point = self.stages[stage].rounded(params)
        models = [
            {"model": model, "parameters": {name: self._setting(stage, name, source, point) for name in self.ranges}}
            for source, model in enumerate(self.models)
        ]
        recipe: dict[str, Any] = {"merge_method": self.method, "base_model": self.base_model, "models": models}
        if self.fixed:
            recipe["parameters"] = dict(self.fixed)
        return recipe | dict(self.dtypes) | ({"seed": self.seed} if self.seed else {})

    def params(self, stage: int, recipe: Mapping[str, Any]) -> dict[str, float]:
        """The point whose recipe this is: the inverse of `recipe`. CampaignError for a recipe of another space."""
        found: dict[str, float] = {}
        for axis in self.stages[stage].axes:
            shape = self.stages[stage].shapes[axis.parameter]
            try:
                setting = recipe["models"][axis.source]["parameters"][axis.parameter]
                found[axis.name] = _read(setting, axis, shape, self)
            except (KeyError, IndexError, TypeError, StopIteration):
                raise CampaignError(f"the recipe has no value for {axis.name!r}", axis=axis.name) from None
        if self.recipe(stage, found) != dict(recipe):
            raise CampaignError(f"the recipe is not a point of stage {self.stages[stage].name!r}")
        return found

    def equivalent(self, weights: Sequence[float] | None) -> dict[str, float] | None:
        """The point of the first stage that is task arithmetic with these weights; None where there is none."""
        axes = self.stages[0].axes
        unnormalized = (
            self.method == "task_arithmetic" and not {*self.fixed} - {"normalize"} and not self.fixed.get("normalize")
        )
        if weights is None or not unnormalized:
            return None
        point = {axis.name: weights[axis.source] for axis in axes}
        inside = all(axis.low <= point[axis.name] <= axis.high for axis in axes)
        return self.stages[0].rounded(point) if inside else None

    def lift(self, stage: int, params: Params) -> dict[str, float]:
        """The point of stage + 1 that gives every tensor the same values; not rounded (interpolated knots may lie
        between grid points)."""
        coarse, fine = self.stages[stage], self.stages[stage + 1]
        known = {(axis.parameter, axis.source, axis.group, axis.index): params[axis.name] for axis in coarse.axes}
        return {axis.name: _lifted(axis, coarse, fine, known, self.layers) for axis in fine.axes}

    def lift_to(self, stage: int, target: int, params: Params) -> dict[str, float]:
        """`lift` applied until `target` is reached."""
        for step in range(stage, target):
            params = self.lift(step, params)
        return dict(params)

    def _setting(self, stage: int, name: str, source: int, point: Params) -> Any:
        """A recipe's value of one parameter of one source: a number, a list over layers, or a list of filters."""
        axes = [axis for axis in self.stages[stage].axes if axis.parameter == name and axis.source == source]
        if not axes:
            return self.ranges[name].start
        shape = self.stages[stage].shapes[name]
        by_group = {group: [point[axis.name] for axis in axes if axis.group == group] for group in shape.groups}
        values = {group: self._along_layers(v, shape, group) for group, v in by_group.items()}
        if not shape.modules:
            return values[ALL]
        filtered = [{"filter": self.filters[group], "value": values[group]} for group in shape.modules]
        return [*filtered, {"value": values[REST]}]

    def _along_layers(self, values: Sequence[float], shape: Shape, group: str) -> float | list[float]:
        if group == REST or not shape.depth:
            return values[0]
        if shape.knots:
            return list(values)
        return [values[block_of(layer, shape.blocks, self.layers)] for layer in range(self.layers)]


def block_of(layer: int, blocks: int, layers: int) -> int:
    """Which of `blocks` nearly equal runs of layers a layer belongs to."""
    return layer * blocks // layers


def make_space(campaign: Campaign, *, layers: int) -> Space:
    """Bind a campaign's space to models of `layers` layers.

    Raises CampaignError where a parameter does not belong to the method, a stage has more blocks than there are layers,
    or a stage cannot hold every point of the one before it.
    """
    entry = campaign.space
    _check_parameters(campaign)
    stages = tuple(_make_stage(campaign, index, layers) for index in range(len(entry.stages)))
    for coarse, fine in pairwise(stages):
        _check_contained(coarse, fine, layers, campaign.origin)
    dtypes = {name: value for name in ("dtype", "out_dtype") if (value := getattr(campaign, name)) is not None}
    return Space(
        method=entry.method,
        base_model=campaign.base_model,
        models=tuple(source.model for source in campaign.sources),
        sources=campaign.source_names,
        ranges=entry.parameters,
        fixed=entry.fixed,
        filters=entry.modules,
        dtypes=dtypes,
        layers=layers,
        seed=campaign.seed,
        stages=stages,
    )


def _check_parameters(campaign: Campaign) -> None:
    entry, origin = campaign.space, campaign.origin
    if "density" in entry.parameters and entry.method not in DENSITY_METHODS:
        raise CampaignError(
            f"{origin}: space.parameters.density: {entry.method} has no density; only {', '.join(DENSITY_METHODS)}"
        )
    both = sorted(set(entry.parameters) & set(entry.fixed))
    if both:
        raise CampaignError(f"{origin}: space.fixed.{both[0]}: is searched already (space.parameters.{both[0]})")
    for index, stage in enumerate(entry.stages):
        for name in stage.search:
            if name not in entry.parameters:
                hint = did_you_mean(name, entry.parameters)
                raise CampaignError(
                    f"{origin}: space.stages[{index}].search: {name!r} is not a parameter of the space, {hint}"
                )


def _make_stage(campaign: Campaign, index: int, layers: int) -> Stage:
    entry = campaign.space.stages[index]
    if entry.blocks > layers:
        raise CampaignError(
            f"{campaign.origin}: space.stages[{index}].blocks: got {entry.blocks}, the models have {layers} layers"
        )
    modules = tuple(campaign.space.modules) if entry.by.startswith("module") else ()
    deep_blocks = entry.blocks if entry.by in ("layer_block", "module_layer") else 0
    deep_knots = entry.knots if entry.by in ("gradient", "module_gradient") else 0
    shape = Shape(modules, deep_blocks, deep_knots)
    searched = entry.search or tuple(campaign.space.parameters)
    axes = tuple(
        _axis(name, campaign, source, place)
        for name in campaign.space.parameters
        if name in searched
        for source in range(len(campaign.sources))
        for place in shape.places()
    )
    shapes = {name: shape if name in searched else Shape() for name in campaign.space.parameters}
    return Stage(entry, shapes, axes)


def _axis(name: str, campaign: Campaign, source: int, place: tuple[str, int | None]) -> Axis:
    group, index = place
    parts = [name, campaign.source_names[source], *([group] if group != ALL else [])]
    parts += [str(index)] if index is not None else []
    bounds = campaign.space.parameters[name]
    return Axis("/".join(parts), name, source, group, index, bounds.low, bounds.high, bounds.start)


def _check_contained(coarse: Stage, fine: Stage, layers: int, origin: str) -> None:
    """A finer stage must be able to say everything that a coarser one can, or the lift would not be exact."""
    for name, shape in coarse.shapes.items():
        searched = any(axis.parameter == name for axis in coarse.axes)
        kept = any(axis.parameter == name for axis in fine.axes)
        if searched and not (kept and _contains(fine.shapes[name], shape, layers)):
            raise CampaignError(
                f"{origin}: space.stages: stage {fine.name!r} cannot hold every point of {coarse.name!r} before it "
                f"(parameter {name!r}). Order the stages from coarse to fine."
            )


def _contains(fine: Shape, coarse: Shape, layers: int) -> bool:
    if coarse.modules and fine.modules != coarse.modules:
        return False
    if not coarse.depth:
        return True
    if fine.modules != coarse.modules:
        return False  # the rest, one number, cannot follow a depth that all tensors had
    if coarse.knots:
        return fine.blocks == layers or (fine.knots > 1 and (fine.knots - 1) % (coarse.knots - 1) == 0)
    if not fine.blocks:
        return False
    spans = {(block_of(layer, fine.blocks, layers), block_of(layer, coarse.blocks, layers)) for layer in range(layers)}
    return len(spans) == fine.blocks


def _lifted(
    axis: Axis, coarse: Stage, fine: Stage, known: Mapping[tuple[str, int, str, int | None], float], layers: int
) -> float:
    """The value of a fine axis at the point `known` of the coarse stage."""
    shape = coarse.shapes[axis.parameter]
    group = axis.group if shape.modules else ALL
    if (axis.parameter, axis.source, group, 0 if shape.depth and group != REST else None) not in known:
        return axis.start  # not searched in the coarse stage, where it had this very value
    if not shape.depth or group == REST:
        return known[axis.parameter, axis.source, group, None]
    assert axis.index is not None, "checked by _contains"
    if shape.blocks:
        first = next(
            layer
            for layer in range(layers)
            if block_of(layer, fine.shapes[axis.parameter].blocks, layers) == axis.index
        )
        return known[axis.parameter, axis.source, group, block_of(first, shape.blocks, layers)]
    position = axis.index / max(1, fine.shapes[axis.parameter].depth - 1) * (shape.knots - 1)
    low = min(int(position + 1e-9), shape.knots - 2)
    part = position - low
    ends = known[axis.parameter, axis.source, group, low], known[axis.parameter, axis.source, group, low + 1]
    return (1 - part) * ends[0] + part * ends[1]


def _read(setting: Any, axis: Axis, shape: Shape, space: Space) -> float:
    """The inverse of Space._setting for one axis."""
    if shape.modules:
        wanted = None if axis.group == REST else space.filters[axis.group]
        setting = next(choice["value"] for choice in setting if choice.get("filter") == wanted)
    if axis.index is None:
        return float(setting)
    if shape.knots:
        return float(setting[axis.index])
    layers = range(space.layers)
    return float(setting[next(layer for layer in layers if block_of(layer, shape.blocks, space.layers) == axis.index)])
