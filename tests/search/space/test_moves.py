"""Block steps change one block and nothing else; a crossover takes layers before the split from one parent only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import KINDS, LAYERS, WEIGHT, bound, points, space_of

from search.space import block_move, coordinate_blocks, crossover


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_cover_every_axis_and_follow_layers_and_groups(kind: str) -> None:
    stage = space_of(kind).stages[0]
    blocks = coordinate_blocks(stage)
    assert {name for block in blocks for name in block} == {*stage.by_name}
    for block in blocks if len(blocks) > 1 else ():
        axes = [stage.by_name[name] for name in block]
        assert len({axis.index for axis in axes}) == 1 or len({axis.group for axis in axes}) == 1


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_a_block_move_leaves_all_other_axes_alone(data: st.DataObject, seed: int) -> None:
    stages = [{"name": "s", **KINDS["module_blocks2"]}]
    space = bound({"method": ["ties", "linear"], "subset": True, "parameters": {"weight": WEIGHT}, "stages": stages})
    stage = space.stages[0]
    centre = stage.rounded(data.draw(points(space)))
    block = data.draw(st.sampled_from(coordinate_blocks(stage)))
    moved = block_move(stage, centre, block, sigma=0.3, rng=np.random.default_rng(seed))
    assert {name for name in moved if moved[name] != centre[name]} <= {*block}
    assert moved == stage.rounded(moved)
    assert moved == block_move(stage, centre, block, sigma=0.3, rng=np.random.default_rng(seed))


def test_steps_have_the_size_asked_for() -> None:
    stage = space_of("module_blocks2").stages[0]
    block, rng = coordinate_blocks(stage)[0], np.random.default_rng(1)
    centre = stage.from_unit(np.full(len(stage.numeric), 0.5))
    steps = [stage.to_unit(block_move(stage, centre, block, sigma=0.1, rng=rng)) - 0.5 for _ in range(400)]
    spread = np.std(steps, axis=0)[[stage.numeric.index(stage.by_name[name]) for name in block]]
    np.testing.assert_allclose(spread, 0.1, rtol=0.15)


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
