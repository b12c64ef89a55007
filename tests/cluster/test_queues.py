"""Queues: every unit is handed out exactly once, whoever joins, leaves and steals; and at home where it can be."""

from __future__ import annotations

import itertools
import random

from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.queues import Queues, assign_near
from cluster.sharding import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES, Unit, assign

MIB = 1 << 20
WEIGHTS = st.lists(st.integers(1, 10**9), max_size=60)
LANES = st.lists(st.integers(1, 4), min_size=1, max_size=6)


def units_of(weights: list[int]) -> list[Unit]:
    return [Unit(number, (number,), weight) for number, weight in enumerate(weights)]


@given(weights=WEIGHTS, lanes=LANES, seed=st.integers(0, 2**32))
def test_whoever_asks_and_whoever_dies_every_unit_is_made_once(weights: list[int], lanes: list[int], seed: int) -> None:
    chance = random.Random(seed)
    queues = Queues(units_of(weights), lanes)
    made: list[int] = []
    while True:
        worker = chance.randrange(len(queues.lanes))
        if chance.random() < 0.1:
            queues.leave(worker)
        elif chance.random() < 0.1:
            queues.join(chance.randrange(1, 4))
        elif chance.random() < 0.1:
            queues.deal(lambda unit: {unit.tensor % 2})
        if not queues.lanes[worker]:
            if not any(queues.lanes):
                queues.join(1)
            continue
        chunk = queues.take(worker)
        if chunk is None:
            break
        if chance.random() < 0.2:
            queues.give_back(worker, chunk.units)
        else:
            made += chunk.tiles
    assert sorted(made) == list(range(len(weights)))
    assert queues.remaining == 0


@given(weights=WEIGHTS, lanes=LANES, measuring=st.lists(st.integers(1, 10**9), max_size=20))
def test_what_is_added_is_handed_out_once_first_and_measuring_alone(
    weights: list[int], lanes: list[int], measuring: list[int]
) -> None:
    queues = Queues(units_of(weights), lanes)
    late = [Unit(-1, (), weight, 0, range(n, n + 1)) for n, weight in enumerate(measuring)]
    queues.add(late)
    chunks = []
    for worker in itertools.cycle(range(len(lanes))):
        chunk = queues.take(worker)
        if chunk is None:
            break
        chunks.append(chunk)
    assert sorted(unit.blocks.start for chunk in chunks for unit in chunk.units if unit.tensor < 0) == list(
        range(len(measuring))
    )
    assert sorted(number for chunk in chunks for number in chunk.tiles) == list(range(len(weights)))
    assert all(len(chunk.units) == 1 for chunk in chunks if chunk.units[0].stage is not None)
    assert queues.remaining == 0


@given(weights=st.lists(st.integers(1, MAX_CHUNK_BYTES), min_size=1, max_size=60), lanes=LANES)
def test_a_chunk_is_one_unit_or_keeps_below_the_limit(weights: list[int], lanes: list[int]) -> None:
    queues = Queues(units_of(weights), lanes)
    while (chunk := queues.take(0)) is not None:
        assert len(chunk.units) == 1 or chunk.weight <= MAX_CHUNK_BYTES


def test_chunks_shrink_towards_the_end_so_that_all_end_together() -> None:
    queues = Queues(units_of([MIB] * 20_000), [2, 2])
    weights = []
    while (chunk := queues.take(len(weights) % 2)) is not None:
        weights.append(chunk.weight)
    assert weights[0] == MAX_CHUNK_BYTES
    assert max(weights[-8:]) <= MIN_CHUNK_BYTES


def test_an_idle_worker_takes_from_the_far_end_of_the_heaviest_queue() -> None:
    queues = Queues(units_of([MIB] * 1000), [1, 1, 1])
    while (chunk := queues.take(2)) is not None and chunk.tiles[0] >= 667:
        pass
    assert chunk is not None
    assert max(chunk.tiles) in (333, 666)
    assert chunk.tiles == sorted(chunk.tiles, reverse=True)


@given(weights=st.lists(st.integers(1, 10**6), min_size=4, max_size=60), workers=st.integers(2, 4))
def test_taking_in_turns_balances_what_is_made(weights: list[int], workers: int) -> None:
    # what one lane made and another did not is at most a chunk: here chunks are small beside the whole
    assume(sum(weights) > 0)
    queues = Queues(units_of([weight * 1000 for weight in weights]), [1] * workers)
    clock = [0] * workers
    while True:
        worker = clock.index(min(clock))
        chunk = queues.take(worker)
        if chunk is None:
            break
        clock[worker] += chunk.weight
    largest = max(max(weights) * 1000, MIN_CHUNK_BYTES)
    assert max(clock) - min(clock) <= largest


def test_a_worker_that_joins_inherits_what_the_heaviest_lost_worker_had() -> None:
    queues = Queues(units_of([MIB] * 300), [1, 1, 1])
    for _ in range(40):
        queues.take(1)
    queues.leave(0)
    queues.leave(1)
    assert queues.join(2) == 0
    assert queues.join(1) == 1
    assert queues.join(1) == 3
    assert queues.lanes == [2, 1, 1, 1]


@given(weights=WEIGHTS, lanes=LANES, seed=st.integers(0, 2**32))
def test_near_or_far_all_units_are_assigned_once_and_no_list_exceeds_its_share_by_more_than_a_unit(
    weights: list[int], lanes: list[int], seed: int
) -> None:
    chance = random.Random(seed)
    work = units_of(weights)
    homes = [chance.sample(range(len(lanes)), chance.randrange(len(lanes) + 1)) for _ in work]
    lists = assign_near(work, lanes, homes=lambda unit: homes[unit.tensor])
    assert sorted(unit.tensor for run in lists for unit in run) == list(range(len(weights)))
    for run, threads in zip(lists, lanes, strict=True):
        share = sum(weights) * threads / sum(lanes)
        assert sum(unit.weight for unit in run) <= share * (1 + 1e-9) + max(weights, default=0)


def test_units_go_to_their_homes_where_that_balances() -> None:
    work = units_of([MIB] * 120)
    near = assign_near(work, [1, 1, 1], homes=lambda unit: [unit.tensor % 3])
    assert [{unit.tensor % 3 for unit in run} for run in near] == [{0}, {1}, {2}]
    # all of it lies with one worker: the others help, and it keeps a third
    crowded = assign_near(work, [1, 1, 1], homes=lambda unit: [0])
    assert [len(run) for run in crowded] == [40, 40, 40]


def test_what_is_at_home_everywhere_or_nowhere_is_shared_out_as_ever() -> None:
    work = units_of([MIB, 5 * MIB, 70 * MIB, MIB] * 5)
    for homes in ([], [0, 1]):
        assert assign_near(work, [1, 1], homes=lambda unit, homes=homes: homes) == assign(work, [1, 1])


def test_what_has_to_be_measured_stays_first_when_all_is_dealt_anew() -> None:
    queues = Queues(units_of([MIB] * 100), [1, 1])
    queues.add([Unit(7, (), MIB, 0, range(n, n + 1)) for n in range(4)])
    queues.deal(lambda unit: [unit.tensor % 2])
    chunk = queues.take(1)  # tensor 7 is at home there
    assert chunk is not None
    assert chunk.units[0].stage == 0
