"""Every tile is handed out exactly once, to nobody too much, whoever comes, goes and steals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import plan_of

from cluster.sharding import (
    BALANCED,
    Unit,
    after,
    assign,
    foreseen,
    giants,
    imbalance,
    next_stage,
    units,
)
from engine.methods.guess import UNKNOWN
from engine.numerics import BLOCK

MIB = 1 << 20


def units_of(weights: list[int]) -> list[Unit]:
    return [Unit(number, (number,), weight) for number, weight in enumerate(weights)]


SIZES = st.lists(st.integers(0, 5 * BLOCK), min_size=1, max_size=12)
WEIGHTS = st.lists(st.integers(1, 10**9), max_size=60)
LANES = st.lists(st.integers(1, 4), min_size=1, max_size=6)


@pytest.mark.parametrize("method", ["linear", "ties", "dare_linear", "slerp", "passthrough"])
@given(sizes=SIZES, data=st.data())
def test_every_missing_tile_is_in_exactly_one_unit(method: str, sizes: list[int], data: Any) -> None:
    plan = plan_of(method, sizes)
    numbers = [tile.number for tile in plan.tiles]
    done = data.draw(st.sets(st.sampled_from(numbers)))
    found = units(plan, done=done)
    assert sorted(number for unit in found for number in unit.tiles) == sorted(set(numbers) - done)
    for unit in found:
        assert {plan.tiles[number].tensor for number in unit.tiles} == {unit.tensor}


@given(sizes=SIZES, data=st.data())
def test_a_tensor_that_must_be_measured_is_not_cut_and_one_whose_facts_are_known_is(
    sizes: list[int], data: Any
) -> None:
    plan = plan_of("ties", sizes)
    known = data.draw(st.sets(st.sampled_from(range(len(sizes)))))
    per_tensor: dict[int, list[Unit]] = {}
    for unit in units(plan, measured=known):
        per_tensor.setdefault(unit.tensor, []).append(unit)
    for index, tensor in enumerate(plan.tensors):
        assert len(per_tensor[index]) == (max(1, tensor.blocks) if index in known else 1)


def test_a_unit_weighs_the_bytes_that_move() -> None:
    elements = 3 * BLOCK
    (whole,) = units(plan_of("ties", [elements]))
    passes = plan_of("ties", [elements]).passes[0].as_a_rule
    assert passes == 2  # a sample for the guess, and the count that proves it
    cut = units(plan_of("linear", [elements]))
    moved = elements * 2 * 4  # three inputs and the output, two bytes each
    assert 0 < sum(unit.weight for unit in cut) - moved < moved / 10
    assert 0 < whole.weight - (moved + passes * elements * 2 * 3) < moved / 10


@pytest.mark.parametrize("method", ["ties", "slerp", "sce", "multislerp", "arcee_fusion"])
@given(sizes=SIZES, data=st.data())
def test_of_a_giant_every_block_of_the_first_stage_is_in_exactly_one_unit(
    method: str, sizes: list[int], data: Any
) -> None:
    plan = plan_of(method, sizes)
    cut = data.draw(st.sets(st.sampled_from(range(len(sizes)))))
    for index, tensor in enumerate(plan.tensors):
        found = [unit for unit in units(plan, cut=cut) if unit.tensor == index]
        if index in cut:
            assert [block for unit in found for block in unit.blocks] == list(range(tensor.blocks))
            assert {unit.stage for unit in found} <= {next_stage(plan, index, {})}
            assert not any(unit.tiles for unit in found)
        else:
            assert len(found) == 1
            assert found[0].stage is None


def test_a_giant_goes_from_stage_to_stage_to_its_tiles() -> None:
    plan = plan_of("ties", [5 * BLOCK])
    call = plan.tensors[0].call
    assert call is not None
    guess, counted, *later = (stage.name for stage in plan.method.stages(call))
    facts: dict[str, Any] = {}
    assert next_stage(plan, 0, facts) == 0
    facts[guess] = np.zeros((1, 2), np.int64)
    assert next_stage(plan, 0, facts) == 1
    facts[counted] = np.full((8, 1, 2), UNKNOWN, np.int64)
    assert next_stage(plan, 0, facts) == 2
    assert [block for unit in after(plan, 0, facts) for block in unit.blocks] == list(range(5))
    facts[counted] = np.zeros((8, 1, 2), np.int64)  # settled: nobody has to look once more
    assert after(plan, 0, facts) == []
    facts |= dict.fromkeys(later, facts[counted])
    assert next_stage(plan, 0, facts) is None
    assert [unit.tiles for unit in after(plan, 0, facts, done={1, 3})] == [(0,), (2,), (4,)]


def test_sums_in_block_order_have_one_worker() -> None:
    plan = plan_of("nuslerp", [12 * BLOCK], nuslerp_row_wise=1.0, nuslerp_flatten=0.0)
    (tensor,) = plan.tensors
    assert tensor.call is not None
    call = replace(tensor.call, shape=(3 * BLOCK, 4))
    assert [stage.partial for stage in plan.method.stages(call)] == ["in_order"]
    plan = replace(plan, tensors=(replace(tensor, call=call, elements=12 * BLOCK),))
    (unit,) = after(plan, 0, {})
    assert unit.blocks == range(12)


@given(sizes=st.lists(st.integers(1, 40 * BLOCK), min_size=1, max_size=40), lanes=LANES)
def test_giants_are_the_heaviest_and_bring_the_balance_that_tiles_allow(sizes: list[int], lanes: list[int]) -> None:
    plan = plan_of("ties", sizes)
    cut = giants(plan, lanes)
    work = foreseen(plan, cut)
    everything = [n for n, tensor in enumerate(plan.tensors) if tensor.blocks > 1]
    share = sum(unit.weight for unit in units(plan)) / sum(lanes)
    heavy = max((unit.weight for unit in units(plan, cut=cut) if unit.tiles), default=0)
    assert heavy <= max(share, max(unit.weight for unit in units(plan_of("ties", [BLOCK]))))
    if imbalance(assign(foreseen(plan, everything), lanes), lanes) <= BALANCED:
        assert imbalance(assign(work, lanes), lanes) <= BALANCED
    if cut:
        assert min(sizes[n] for n in cut) >= max((sizes[n] for n in everything if n not in cut), default=0)


@given(sizes=SIZES, tile_blocks=st.integers(1, 6))
def test_the_tiles_of_a_tensor_are_found_by_number(sizes: list[int], tile_blocks: int) -> None:
    plan = plan_of("linear", sizes, tile_bytes=tile_blocks * BLOCK * 2)
    for index in range(len(sizes)):
        assert list(plan.tiles_of[index]) == [tile.number for tile in plan.tiles if tile.tensor == index]


def test_without_need_nothing_is_cut() -> None:
    assert giants(plan_of("ties", [4 * BLOCK] * 600), [1] * 4) == frozenset()
    assert giants(plan_of("linear", [400 * BLOCK]), [1] * 4) == frozenset()  # tiles are cut anyway
    assert giants(plan_of("ties", [4 * BLOCK] * 600 + [3000 * BLOCK]), [1] * 4) == {600}


@given(weights=WEIGHTS, lanes=LANES)
def test_queues_hold_all_units_and_none_is_heavier_than_its_share_and_one_unit(
    weights: list[int], lanes: list[int]
) -> None:
    queues = assign(units_of(weights), lanes)
    assert len(queues) == len(lanes)
    assert sorted(unit.tensor for queue in queues for unit in queue) == list(range(len(weights)))
    for queue, threads in zip(queues, lanes, strict=True):
        share = sum(weights) * threads / sum(lanes)
        assert sum(unit.weight for unit in queue) <= share + max(weights, default=0)


@given(count=st.integers(50, 400), workers=st.integers(1, 5))
def test_light_units_stay_with_their_neighbours(count: int, workers: int) -> None:
    queues = assign(units_of([MIB] * count), [1] * workers)
    for queue in queues:
        numbers = [unit.tensor for unit in queue]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
