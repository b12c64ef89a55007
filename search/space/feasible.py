"""Whether a point may be: the campaign's constraints, the number of sources, and the methods' own rules. Pure.

`violation` is 0 or says by how much; `repair` pulls a point that may not be towards the start, which may (a campaign
whose start breaks a constraint is refused), and lets go as late as it can.
"""

from __future__ import annotations

import random
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.methods.contract import Call, Method
from engine.methods.delta_family import Trim
from search.space.axes import Axis, Params, Stage, Value

if TYPE_CHECKING:
    from search.space.codec import Space

Array = NDArray[np.float64]
HALVINGS = 12  # of the way to the start: finer than the grid
_NO_RULE = (Method.check, Trim.check)  # what methods without a rule of their own have in its place


def names(space: Space) -> dict[str, tuple[str, ...]]:
    """Parameter → what constraints call its values: itself, or one name per source."""
    found: dict[str, tuple[str, ...]] = {}
    for name in {**space.ranges, **space.fixed}:
        scopes = {method.parameters[name].scope for method in space.methods if name in method.parameters}
        found[name] = tuple(f"{name}/{source}" for source in space.sources) if scopes == {"model"} else (name,)
    return found


def values(space: Space, stage: int, params: Params, *, on_grid: bool = False) -> dict[str, Array]:
    """See Space.values. A source that is switched off has weight 0. `on_grid`: splines are rounded, as in recipes."""
    rule = space.stages[stage]
    on = {space.sources[number] for number in space.taking_part(params)}
    found: dict[str, Array] = {}
    for parameter, full in names(space).items():
        for number, name in enumerate(full):
            source = number if "/" in name else None
            axes = [axis for axis in rule.axes if (axis.parameter, axis.source) == (parameter, source)]
            if parameter == "weight" and source is not None and space.sources[source] not in on:
                found[name] = np.zeros((1, space.layers))
            elif axes:
                found[name] = _layer_values(space, rule, axes, params, on_grid=on_grid)
            else:
                constant = space.fixed[parameter] if parameter in space.fixed else space.ranges[parameter].start
                found[name] = np.full((1, space.layers), float(constant))
    return found


def _layer_values(space: Space, rule: Stage, axes: list[Axis], params: Params, *, on_grid: bool) -> Array:
    shape = rule.shapes[axes[0].parameter]
    rows = []
    for group in shape.groups:
        mine = [axis for axis in axes if axis.group == group]
        depth = shape.depth_of(group)
        row = depth.basis(space.layers) @ np.array([float(params[axis.name]) for axis in mine])
        if depth.kind == "cubic":
            row = np.clip(row, mine[0].low, mine[0].high)
            row = np.array([float(mine[0].rounded(value)) for value in row.tolist()]) if on_grid else row
        rows.append(row)
    return np.array(rows)


def constrained(space: Space) -> bool:
    """See Space.constrained."""
    subset = any(axis.parameter == "use" for stage in space.stages for axis in stage.axes)
    return bool(space.constraints) or subset or any(method.engine.check not in _NO_RULE for method in space.methods)


def violation(space: Space, stage: int, params: Params) -> float:
    """See Space.violation."""
    point = space.stages[stage].rounded(params)
    if space.sequence is not None:
        return 0.0
    method, taking_part = space.method_at(point), space.taking_part(point)
    if not method.accepts(len(taking_part)):
        most = len(space.sources) if method.most is None else method.most
        return float(max(method.least - len(taking_part), len(taking_part) - most))
    found = values(space, stage, point, on_grid=True)
    meant = {name for parameter, full in names(space).items() if parameter in method.parameters for name in full}
    broken = [entry.violation(found) for entry in space.constraints if {*entry.names} <= meant]
    return sum(broken) + _refused(space, point, found)


def why_refused(space: Space, stage: int, params: Params) -> str | None:
    """Why the method refuses the settings of this point, of one place where it does; None where it takes them."""
    point = space.stages[stage].rounded(params)
    found = values(space, stage, point, on_grid=True)
    check = space.method_at(point).engine.check
    return next((why for call in _calls(space, point, found) if (why := check(call)) is not None), None)


def _refused(space: Space, point: Params, found: dict[str, Array]) -> float:
    """The share of (group, layer) places whose settings the method itself refuses: weights that cancel, say."""
    check = space.method_at(point).engine.check
    calls = [] if check in _NO_RULE else _calls(space, point, found)
    return sum(check(call) is not None for call in calls) / len(calls) if calls else 0.0


def _calls(space: Space, point: Params, found: dict[str, Array]) -> list[Call]:
    """The different settings that the method meets over all (group, layer) places."""
    method, taking_part = space.method_at(point), space.taking_part(point)
    groups = max(len(array) for array in found.values()) if found else 1
    calls: dict[tuple[Any, ...], Call] = {}
    for group, layer in product(range(groups), range(space.layers)):
        at = {name: float(array[min(group, len(array) - 1), layer]) for name, array in found.items()}
        sources: dict[str, tuple[float, ...]] = {}
        options: dict[str, float] = {}
        for name, row in method.parameters.items():
            default = float(row.default or 0.0)
            if row.scope == "model":
                sources[name] = tuple(at.get(f"{name}/{space.sources[n]}", default) for n in taking_part)
            else:
                options[name] = at.get(name, default)
        key = (tuple(sources.items()), tuple(options.items()))
        if key not in calls:
            calls[key] = Call(method.name, "", (), method.base != "none", tuple(taking_part), sources, options)
    return [*calls.values()]


def repair(space: Space, stage: int, params: Params) -> dict[str, Value]:
    """See Space.repair."""
    rule = space.stages[stage]
    point = rule.rounded(params)
    if violation(space, stage, point) == 0:
        return point
    point = _counted(space, stage, point)
    if violation(space, stage, point) == 0:
        return point
    start = rule.start()
    kept = {**start, **{axis.name: point[axis.name] for axis in rule.categorical}}
    for anchor in (kept, start):  # with its own method and sources, if these can be had at all
        if violation(space, stage, anchor) == 0:
            return _between(space, stage, anchor, {**point, **{a.name: anchor[a.name] for a in rule.categorical}})
    return start


def _counted(space: Space, stage: int, point: dict[str, Value]) -> dict[str, Value]:
    """The point with as many sources as its method takes. Which are switched is drawn, so that none is preferred, and
    drawn from the point itself, so that a restart draws the same."""
    method, order = space.method_at(point), [f"use/{source}" for source in space.sources]
    if not all(name in space.stages[stage].by_name for name in order):
        return point
    random.Random(repr(sorted(point.items()))).shuffle(order)
    found = dict(point)
    for name in order:
        count = len(space.taking_part(found))
        if method.accepts(count):
            return found
        found[name] = count < method.least
    return found


def _between(space: Space, stage: int, anchor: Params, point: Params) -> dict[str, Value]:
    """The last feasible point on the line from a feasible one; both have the same categories."""
    rule = space.stages[stage]
    near, far = 0.0, 1.0
    found = rule.rounded(anchor)
    for _ in range(HALVINGS):
        part = (near + far) / 2
        moved = {**anchor, **{a.name: _mixed(anchor[a.name], point[a.name], part) for a in rule.numeric}}
        if violation(space, stage, moved) == 0:
            near, found = part, rule.rounded(moved)
        else:
            far = part
    return found


def _mixed(anchor: Value, point: Value, part: float) -> float:
    return float(anchor) + part * (float(point) - float(anchor))
