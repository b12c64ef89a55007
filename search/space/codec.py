"""Space: points ↔ recipes, what values they give to which layers, and whether they satisfy the constraints. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import CampaignError
from search.space import feasible, known, lifting
from search.space.axes import REST, Axis, Params, Shape, Stage, Value
from search.space.constraints import Constraint
from search.space.depth import block_of
from search.space.entry import Choice, Range
from search.space.lifting import Gaussian, Lift
from search.space.methods import MergeMethod
from search.space.sequence import LayerSequence

METHOD = "method"
USE = "use"


@dataclass(frozen=True)
class Space:
    """All stages of a campaign's space, bound to its sources and to the depth of its models.

    Attributes:
        methods: to choose from; the first is taken where a stage does not search `method`.
        models, sources: by source what recipes and what axes call it.
        ranges: of the searched parameters; `fixed` are the constant ones.
        filters: module group → filter of tensor names.
        extras: what every recipe has besides: dtype, out_dtype, tokenizer_source.
    """

    methods: tuple[MergeMethod, ...]
    base_model: str
    models: tuple[str, ...]
    sources: tuple[str, ...]
    importance: tuple[str | None, ...]
    ranges: Mapping[str, Range | Choice]
    fixed: Mapping[str, float | bool]
    extras: Mapping[str, str]
    layers: int
    seed: int
    stages: tuple[Stage, ...]
    sequence: LayerSequence | None = None
    constraints: tuple[Constraint, ...] = ()
    origin: str = "<campaign>"

    # ---------------------------------------------------------------------------------------------- recipes and back

    def recipe(self, stage: int, params: Params) -> dict[str, Any]:
        """The mergekit-compatible recipe of a point (rounded first)."""
        point = self.stages[stage].rounded(params)
        method = self.method_at(point)
        recipe: dict[str, Any] = {"merge_method": method.name}
        if self.sequence is not None:
            recipe["base_model"] = self.base_model
            recipe["slices"] = self.sequence.slices(self.sequence.read(point), self.models)
            return recipe | dict(self.extras)
        taking_part = self.taking_part(point)
        base = self._base(method, taking_part)
        if base is not None:
            recipe["base_model"] = base
        recipe["models"] = [self._model(stage, source, point) for source in taking_part]
        options = {name: value for name, value in self.fixed.items() if name in method.parameters}
        for name, row in method.parameters.items():
            if row.scope == "global" and name in self.ranges:
                options[name] = self._setting(stage, name, None, point)
        if options:
            recipe["parameters"] = options
        return recipe | dict(self.extras) | ({"seed": self.seed} if self.seed else {})

    def params(self, stage: int, recipe: Mapping[str, Any]) -> dict[str, Value]:
        """A point whose recipe this is: the inverse of `recipe`. CampaignError for a recipe of another space.

        Axes that make no difference have their start. Of a cubic gradient whose knots lie between layers the recipe
        holds values rounded to the grid, so that not every one gives its knots back.
        """
        rule = self.stages[stage]
        found = rule.start()
        try:
            if self.sequence is not None:
                found |= {n: v for n, v in self.sequence.point(recipe, self.models).items() if n in rule.by_name}
            else:
                found |= self._chosen(rule, recipe)
                active = rule.active(found)
                found |= {axis.name: self._read(stage, axis, recipe) for axis in active if axis.parameter not in _OTHER}
            point = rule.rounded(found)
        except (KeyError, IndexError, TypeError, ValueError, StopIteration):
            raise CampaignError(f"the recipe is not a point of stage {rule.name!r}: it lacks an axis's value") from None
        if self.recipe(stage, point) != dict(recipe):
            raise CampaignError(f"the recipe is not a point of stage {rule.name!r}")
        return point

    def method_at(self, point: Params) -> MergeMethod:
        """The method that a point chooses."""
        name = point.get(METHOD, self.methods[0].name)
        return next(method for method in self.methods if method.name == name)

    def taking_part(self, point: Params) -> tuple[int, ...]:
        """The sources that a point does not switch off."""
        return tuple(n for n, source in enumerate(self.sources) if point.get(f"{USE}/{source}", True))

    def _base(self, method: MergeMethod, taking_part: Sequence[int]) -> str | None:
        if method.base == "none":
            return None
        interpolates = method.base == "first" and len(taking_part) == 2
        return self.models[taking_part[0]] if interpolates else self.base_model

    def _model(self, stage: int, source: int, point: Params) -> dict[str, Any]:
        """A source's entry. Where some are left out it says its number, which the random methods draw by."""
        method, taking_part = self.method_at(point), self.taking_part(point)
        model: dict[str, Any] = {"model": self.models[source]}
        if len(taking_part) < len(self.models):
            model["source_id"] = source
        if method.engine.importance:
            model["importance"] = self.importance[source]
        is_base = method.base == "first" and len(taking_part) == 2 and source == taking_part[0]
        rows = method.parameters
        names = [name for name in self.ranges if name in rows and rows[name].scope == "model" and not is_base]
        settings = {name: self._setting(stage, name, source, point) for name in names}
        return model | ({"parameters": settings} if settings else {})

    def _setting(self, stage: int, name: str, source: int | None, point: Params) -> Any:
        """A recipe's value of one parameter: a value, a list over layers, or a list of filters."""
        axes = [axis for axis in self.stages[stage].axes if axis.parameter == name and axis.source == source]
        if not axes:
            return self.ranges[name].start
        shape = self.stages[stage].shapes[name]
        by_group = {group: [axis for axis in axes if axis.group == group] for group in shape.groups}
        values = {group: self._along_layers(found, point, shape, group) for group, found in by_group.items()}
        if not shape.filters:
            return values[shape.groups[0]]
        filtered = [{"filter": text, "value": values[group]} for group, text in shape.filters]
        return [*filtered, {"value": values[REST]}]

    def _along_layers(self, axes: Sequence[Axis], point: Params, shape: Shape, group: str) -> Any:
        values, depth = [point[axis.name] for axis in axes], shape.depth_of(group)
        if depth.kind == "none":
            return values[0]
        if depth.kind == "linear":  # mergekit's own gradient
            return values
        if depth.kind == "blocks":
            return [values[block_of(layer, depth.count, self.layers)] for layer in range(self.layers)]
        # a spline may leave the bounds between its knots; rounded, so that layer blocks can say the very same
        return [axes[0].rounded(float(value)) for value in depth.basis(self.layers) @ np.array(values)]

    def _chosen(self, rule: Stage, recipe: Mapping[str, Any]) -> dict[str, Value]:
        """Method and sources of a recipe."""
        listed = {model["model"] for model in recipe["models"]}
        values: dict[str, Value] = {METHOD: recipe["merge_method"]}
        values |= {f"{USE}/{source}": self.models[n] in listed for n, source in enumerate(self.sources)}
        return {name: value for name, value in values.items() if name in rule.by_name}

    def _read(self, stage: int, axis: Axis, recipe: Mapping[str, Any]) -> Value:
        """The inverse of `_setting` for one axis."""
        shape = self.stages[stage].shapes[axis.parameter]
        place = recipe
        if axis.source is not None:
            place = next(model for model in recipe["models"] if model["model"] == self.models[axis.source])
        setting = place["parameters"][axis.parameter]
        if shape.filters:
            wanted = None if axis.group == REST else dict(shape.filters)[axis.group]
            setting = next(choice["value"] for choice in setting if choice.get("filter") == wanted)
        if axis.index is None:
            value: Value = setting
            return value
        depth = shape.depth_of(axis.group)
        if depth.kind == "blocks":
            layers = range(self.layers)
            return float(setting[next(n for n in layers if block_of(n, depth.count, self.layers) == axis.index)])
        if depth.kind == "linear":
            return float(setting[axis.index])
        return float(np.linalg.lstsq(depth.basis(self.layers), np.array(setting), rcond=None)[0][axis.index])

    # ------------------------------------------------------------------------------- what other files say about it

    def equivalent(self, weights: Sequence[float] | None) -> dict[str, Value] | None:
        """The point of the first stage that is base + Σ w · (source − base), exactly; None where there is none."""
        return None if weights is None else known.point_of_weights(self, weights)

    def point_of(self, recipe: Mapping[str, Any], weights: Sequence[float] | None) -> dict[str, Value] | None:
        """The point of the first stage that makes the same model as a fixed recipe; None where none is known to."""
        try:
            return self.params(0, recipe)
        except CampaignError:
            return self.equivalent(weights)

    def values(self, stage: int, params: Params) -> dict[str, NDArray[np.float64]]:
        """`weight/letters` or `lambda` → [G, L] the value for each group of tensors and each layer."""
        return feasible.values(self, stage, params)

    @property
    def constrained(self) -> bool:
        """Whether there are points that `violation` refuses."""
        return feasible.constrained(self)

    def violation(self, stage: int, params: Params) -> float:
        """By how much a point (rounded first) breaks constraints and the methods' own rules; 0 where it may be."""
        return feasible.violation(self, stage, params)

    def repair(self, stage: int, params: Params) -> dict[str, Value]:
        """`params` where it breaks nothing, else the nearest point on the way to the start that does not."""
        return feasible.repair(self, stage, params)

    def lift(self, stage: int, params: Params) -> dict[str, Value]:
        """The point of stage + 1 that gives every tensor the same values; not rounded (interpolated knots may lie
        between grid points)."""
        return self.lifts[stage].point(params)

    def lift_to(self, stage: int, target: int, params: Params) -> dict[str, Value]:
        """`lift` applied until `target` is reached."""
        for step in range(stage, target):
            params = self.lift(step, params)
        return dict(params)

    @cached_property
    def lifts(self) -> tuple[Lift, ...]:
        """From every stage but the last to the next one."""
        pairs = zip(self.stages, self.stages[1:], strict=False)
        return tuple(lifting.make_lift(coarse, fine, self.layers) for coarse, fine in pairs)

    def lift_matrix(self, stage: int) -> NDArray[np.float64]:
        """J[K', K]: what a step in the unit cube of `stage` is in that of stage + 1."""
        return self.lifts[stage].matrix

    def lift_gaussian(self, stage: int, gaussian: Gaussian, *, spread: float) -> Gaussian:
        """A distribution over the unit cube of `stage`, in that of stage + 1; `spread` is the standard deviation in the
        directions that are new there."""
        return self.lifts[stage].gaussian(gaussian, spread=spread)


_OTHER = (METHOD, USE)
