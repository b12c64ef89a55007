"""A forecast counts every byte once, names what bounds it, and gets better with better nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import plan_of

from cluster.forecast import RESOURCES, Fleet, forecast, seconds, simulate
from engine.numerics import BLOCK
from engine.planning.plan import Plan

GIB = 1 << 30
SIZES = st.lists(st.integers(0, 40 * BLOCK), min_size=1, max_size=20)
FLEET = Fleet(nodes=3, cpus=2, memory_bytes=GIB, disk_gbps=8.0, net_gbps=8.0)


def full_passes(plan: Plan) -> int:
    return plan.passes[0].as_a_rule


@pytest.mark.parametrize("method", ["linear", "ties", "slerp", "dare_ties", "passthrough"])
@given(sizes=SIZES, nodes=st.integers(1, 6), cpus=st.integers(1, 4))
def test_every_byte_of_the_output_is_written_once_and_none_read_too_seldom(
    method: str, sizes: list[int], nodes: int, cpus: int
) -> None:
    plan = plan_of(method, sizes)
    _, loads = simulate(plan, replace(FLEET, nodes=nodes, cpus=cpus))
    assert len(loads) == nodes
    assert sum(load.written_bytes for load in loads) == plan.total_size
    read = sum(load.read_bytes for load in loads)
    assert plan.bytes_read <= read <= plan.bytes_read * (1 + full_passes(plan))


def test_what_fits_a_threads_share_of_the_memory_is_read_once_and_else_once_for_every_pass() -> None:
    plan = plan_of("ties", [20 * BLOCK] * 12)
    held = plan.held_bytes(0)
    roomy, tight = (replace(FLEET, memory_bytes=2 * memory) for memory in (held, held - 1))
    assert forecast(plan, roomy)["bytes_read"] == plan.bytes_read
    assert forecast(plan, tight)["bytes_read"] == plan.bytes_read * 3
    for fleet in (roomy, tight):
        assert forecast(plan, fleet)["in_flight_bytes_per_node"] <= fleet.memory_bytes
    assert forecast(plan, roomy)["in_flight_bytes_per_node"] == 2 * held


@given(disk=st.floats(0.1, 1000), net=st.floats(0.1, 1000), cpus=st.integers(1, 64))
def test_the_bottleneck_is_what_takes_longest(disk: float, net: float, cpus: int) -> None:
    plan = plan_of("linear", [40 * BLOCK] * 12)
    found = forecast(plan, Fleet(2, cpus, GIB, disk_gbps=disk, net_gbps=net))
    spent = found["seconds_by_resource"]
    assert set(spent) == set(RESOURCES)
    assert spent[found["bottleneck"]] == max(spent.values())
    assert found["estimated_seconds"] >= max(spent.values())


def test_disks_read_and_write_in_turn_and_links_at_the_same_time() -> None:
    plan = plan_of("linear", [8 * BLOCK] * 4)  # three inputs
    (load,) = simulate(plan, replace(FLEET, nodes=1))[1]
    spent = seconds(load, Fleet(1, 2, GIB, disk_gbps=8.0, net_gbps=4.0))
    assert spent["disk"] == pytest.approx(4 * plan.total_size / 1e9)
    assert spent["network"] == pytest.approx(3 * plan.total_size / 0.5e9)


def test_without_rates_processors_are_the_bound_and_twice_the_rate_takes_half_the_time() -> None:
    plan = plan_of("linear", [40 * BLOCK] * 12)
    assert forecast(plan, Fleet(2, 1, GIB))["bottleneck"] == "cpu"
    slow, fast = (forecast(plan, Fleet(2, 8, GIB, disk_gbps=rate)) for rate in (0.5, 1.0))
    assert slow["bottleneck"] == "disk"
    assert slow["seconds_by_resource"]["disk"] == pytest.approx(2 * fast["seconds_by_resource"]["disk"], rel=0.01)


def test_twice_the_nodes_take_half_the_time_beyond_start_and_end() -> None:
    plan = plan_of("ties", [40 * BLOCK] * 200)
    times = []
    for nodes in (2, 4):
        found = forecast(plan, replace(FLEET, nodes=nodes))
        times.append(found["estimated_seconds"] - found["seconds_before"] - found["seconds_after"])
    assert times[0] / times[1] == pytest.approx(2, rel=0.05)


def test_a_tensor_that_would_keep_one_thread_busy_for_longer_than_all_others_is_cut() -> None:
    found = forecast(plan_of("slerp", [BLOCK] * 20 + [4000 * BLOCK]), FLEET)
    assert found["tensors_cut"] == ["t20"]
    assert found["imbalance"] < 1.02
