"""What proposals are made of: coordinates that belong together, and a crossover of two points at a layer. Pure.

Moving a few coordinates at a time (`coordinate_blocks`) pays where most layers are right already: a step in all of them
is mostly a step away. The crossover is M2N2's (natural niches, GECCO 2025): of two good points one gives the values up
to a layer and the other those from there on. Whether a child may be, `Space.violation` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.space.axes import ALL, Axis, Params, Stage, Value
from search.space.sequence import PREFIX

if TYPE_CHECKING:
    from search.space.codec import Space


def coordinate_blocks(stage: Stage) -> tuple[tuple[str, ...], ...]:
    """Names of axes that belong together: all of one place along the layers, and all of one group of tensors.

    A stage that varies over neither is one block.
    """
    found: dict[tuple[str, object], list[str]] = {}
    for axis in stage.axes:
        if axis.index is not None:
            found.setdefault(("place", axis.index), []).append(axis.name)
        if axis.group != ALL:
            found.setdefault(("group", axis.group), []).append(axis.name)
    if not found:
        return (tuple(stage.by_name),)
    return tuple(tuple(names) for names in found.values())


def crossover(
    space: Space, first: tuple[int, Params], second: tuple[int, Params], *, split: int, stage: int | None = None
) -> dict[str, Value]:
    """The point with the values of `first` before layer `split` and those of `second` from it on.

    Each parent is (stage, point) and is lifted to `stage`, the finest one where nothing is said. Values that belong to
    no layer (embeddings, norms, whole-merge settings, the method) come from the parent with more layers. A knot counts
    for where it stands, a block of layers for its first one; a layer sequence is split at the place, and keeps the
    depth of the parent with more layers.
    """
    target = len(space.stages) - 1 if stage is None else stage
    rule = space.stages[target]
    before, after = (space.lift_to(number, target, params) for number, params in (first, second))
    most = before if 2 * split >= space.layers else after
    return rule.rounded({axis.name: _parent(space, rule, axis, split, (before, after, most)) for axis in rule.axes})


def _parent(space: Space, stage: Stage, axis: Axis, split: int, parents: tuple[Params, Params, Params]) -> Value:
    before, after, most = parents
    if axis.index is None:
        return most[axis.name]
    if axis.parameter in (PREFIX, "scale") and space.sequence is not None:
        return (before if axis.index * space.sequence.run < split else after)[axis.name]
    depth = stage.shapes[axis.parameter].depth_of(axis.group)
    layer = depth.places(space.layers)[axis.index] * max(1, space.layers - 1)
    return (before if layer < split - 1e-9 else after)[axis.name]
