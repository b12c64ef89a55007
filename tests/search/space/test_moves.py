"""Blocks of axes follow layers and groups; a crossover takes layers before the split from one parent only."""

from __future__ import annotations

import pytest
from spaces import KINDS, LAYERS, WEIGHT, bound, space_of

from search.space import coordinate_blocks, crossover


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_cover_every_axis_and_follow_layers_and_groups(kind: str) -> None:
    stage = space_of(kind).stages[0]
    blocks = coordinate_blocks(stage)
    assert {name for block in blocks for name in block} == {*stage.by_name}
    for block in blocks if len(blocks) > 1 else ():
        axes = [stage.by_name[name] for name in block]
        assert len({axis.index for axis in axes}) == 1 or len({axis.group for axis in axes}) == 1


@pytest.mark.parametrize("split", range(LAYERS + 1))
@pytest.mark.parametrize("fine", ["blocks4", "module_blocks8", "knots8", "cubic5"])
def test_a_child_has_the_layers_before_the_split_of_one_parent_and_the_rest_of_the_other(fine: str, split: int) -> None:
    space = space_of("global", fine)
    first = space.stages[0].start() | {"weight/a": 1.25}
    second = {axis.name: -0.25 if axis.parameter == "weight" else 0.25 for axis in space.stages[1].axes}
    child = crossover(space, (0, first), (1, second), split=split)
    parents = space.stages[1].rounded(space.lift(0, first)), space.stages[1].rounded(second)
    for axis in space.stages[1].axes:
        if axis.index is None:
            more = 0 if split >= LAYERS / 2 else 1
            assert child[axis.name] == parents[more][axis.name]
            continue
        depth = space.stages[1].shapes[axis.parameter].depth_of(axis.group)
        layer = round(depth.places(LAYERS)[axis.index] * (LAYERS - 1), 9)
        assert child[axis.name] == parents[0 if layer < split else 1][axis.name]


def test_layer_sequences_are_crossed_at_a_place() -> None:
    space = bound({"method": "passthrough", "layers": {"places": 9, "fewest": 7}, "stages": [{"name": "s"}]})
    first = space.stages[0].start()
    second = first | {f"layers/{place}/source": "b" for place in range(9)} | {"layers/depth": 9}
    child = crossover(space, (0, first), (0, second), split=3)
    assert [child[f"layers/{place}/source"] for place in range(9)] == ["a"] * 3 + ["b"] * 6
    assert child["layers/depth"] == 9


def test_an_average_is_a_mean_of_numbers_and_a_vote_of_categories() -> None:
    space = bound({"method": ["ties", "linear"], "parameters": {"weight": WEIGHT}, "stages": [{"name": "s"}]})
    stage = space.stages[0]
    made = [stage.start() | {"method": m, "weight/a": w} for m, w in (("linear", 0.5), ("ties", 1.0), ("linear", 0.75))]
    average = stage.average(made)
    assert (average["method"], average["weight/a"]) == ("linear", 0.75)
    assert stage.average(made[:2])["method"] == "linear"  # a tie goes to the better one, which comes first
