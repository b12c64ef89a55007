"""Fixed recipes that are points of a space: base, parents, averages. Exact ones only. Pure.

A baseline's score on the first window tells the sampler something only where the baseline is a point. Weights w stand
for the model base + Σ w · (source − base): all 0 for the base, one 1 for a parent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.space.axes import Params, Value
from search.space.methods import MergeMethod
from search.space.sequence import DEPTH, name_of

if TYPE_CHECKING:
    from search.space.codec import Space

NEARLY_ONE = 1e-9


def point_of_weights(space: Space, weights: Sequence[float]) -> dict[str, Value] | None:
    """See Space.equivalent."""
    if space.sequence is not None:
        return _sequence(space, weights)
    searched = "method" in space.stages[0].by_name
    for method in space.methods if searched else space.methods[:1]:
        settings = _settings(space, method, weights)
        found = None if settings is None else _placed(space, settings, {"method": method.name}, weights)
        if found is not None:
            return found
    return None


def _settings(space: Space, method: MergeMethod, weights: Sequence[float]) -> dict[str, float] | None:
    """What the whole-merge parameters must be for the method to make this model; None where it cannot be."""
    fixed = {name: value for name, value in space.fixed.items() if name in method.parameters}
    parent = _parent(weights)
    if method.name == "slerp" and parent is not None and len(weights) == 2 and "t" in space.ranges:
        return {"t": float(parent)}  # sin(0) and sin θ / sin θ: the first source at 0, the second at 1
    if "weight" not in space.ranges:
        return None
    if method.name == "task_arithmetic" and not {*fixed} - {"normalize"} and not fixed.get("normalize"):
        return {"lambda": 1.0, "normalize": 0.0}
    if method.name == "linear" and abs(sum(weights) - 1) < NEARLY_ONE:
        return {}  # then the base cancels out, and dividing by the sum changes nothing
    return None


def _placed(
    space: Space, settings: dict[str, float], chosen: Params, weights: Sequence[float]
) -> dict[str, Value] | None:
    """The point with these weights and settings everywhere; None where one lies outside the bounds."""
    stage = space.stages[0]
    point: dict[str, Value] = {}
    for axis in stage.axes:
        value = chosen.get(axis.name, axis.start)
        if axis.parameter == "weight" and axis.source is not None:
            value = weights[axis.source]
        elif axis.parameter in settings:
            value = bool(settings[axis.parameter]) if axis.kind == "category" else settings[axis.parameter]
        inside = value in axis.choices if axis.kind == "category" else axis.low <= float(value) <= axis.high
        if not inside:
            return None
        point[axis.name] = value
    missing = {"weight", *settings} & {*space.ranges} - {axis.parameter for axis in stage.axes}
    if "weight" in missing or any(float(space.ranges[name].start) != settings[name] for name in missing):
        return None  # held at another value in this stage
    return stage.rounded(point)


def _sequence(space: Space, weights: Sequence[float]) -> dict[str, Value] | None:
    """A parent's own layers in their order."""
    sequence, parent = space.sequence, _parent(weights)
    if sequence is None or parent is None:
        return None
    stage = space.stages[0]
    wanted: dict[str, Value] = {DEPTH: sequence.layers // sequence.run}
    wanted |= {name_of(place, "source"): space.sources[parent] for place in range(sequence.places)}
    point = stage.start() | {name: value for name, value in wanted.items() if name in stage.by_name}
    whole = [(place.source, place.first, place.scale) for place in sequence.read(point)]
    own = [(parent, first, None) for first in range(0, sequence.layers, sequence.run)]
    return point if whole == own else None


def _parent(weights: Sequence[float]) -> int | None:
    """The source whose weight is 1 where all others' are 0."""
    return list(weights).index(1) if sorted(weights) == [0] * (len(weights) - 1) + [1] else None
