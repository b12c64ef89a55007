"""How long a merge takes on so many nodes, what bounds it, and what every node holds and moves. Pure: no clock, no IO.

The units are those that `cluster.sharding` hands out, assigned as it assigns them, one worker on each node, a lane for
each of its processors. What one unit reads, writes and computes is summed up per node; every resource of a node takes
its time, all work at once, and the slowest of them is what the node takes; all nodes have one driver. Idle workers
taking work from busy ones is left out: it only helps.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster import costs
from cluster.sharding import MAX_CHUNK_BYTES, Unit, assign, elements_of, foreseen, giants
from engine.planning.plan import Plan
from engine.tensorfile.header import ITEMSIZE

RESOURCES = ("disk", "network", "cpu", "python", "driver")


@dataclass(frozen=True)
class Fleet:
    """Nodes that are alike.

    Attributes:
        cpus: processors of a node, a lane each.
        memory_bytes: what a worker may have in flight.
        disk_gbps: Gbit/s that a node's disks, or its share of the storage, give, reading and writing together.
        net_gbps: Gbit/s of a node's link, in each direction.

    None for a rate: it bounds nothing.
    """

    nodes: int
    cpus: int
    memory_bytes: int
    disk_gbps: float | None = None
    net_gbps: float | None = None


@dataclass(frozen=True)
class Load:
    """What one node does; `weight` is what sharding balances, `lanes_s` what the busiest of its lanes computes."""

    weight: int
    chunks: int
    read_bytes: int
    written_bytes: int
    blocks: int
    in_flight_bytes: int
    cpu_s: float
    lanes_s: float


@dataclass(frozen=True)
class _Cost:
    """The same of one unit, for the lane that does it."""

    read_bytes: int
    written_bytes: int
    blocks: int
    in_flight_bytes: int
    cpu_s: float


def forecast(plan: Plan, fleet: Fleet) -> dict[str, Any]:
    """The prediction in numbers, JSON-able."""
    cut, loads = simulate(plan, fleet)
    times = [seconds(load, fleet) for load in loads]
    busiest = max(times, key=lambda time: max(time.values()))
    worst = {**busiest, "driver": _driver_seconds(plan, loads)}
    bottleneck = max(RESOURCES, key=lambda name: worst[name])
    before = costs.START_S + len(plan.tensors) * costs.US_PER_TENSOR / 1e6
    after = len(plan.tensors) * costs.US_PER_TENSOR_PUBLISHED / 1e6
    moved = [load.read_bytes + load.written_bytes for load in loads]
    return {
        "nodes": fleet.nodes,
        "cpus_per_node": fleet.cpus,
        "memory_bytes": fleet.memory_bytes,
        "disk_gbps": fleet.disk_gbps,
        "net_gbps": fleet.net_gbps,
        "estimated_seconds": round(before + worst[bottleneck] + after, 2),
        "seconds_before": round(before, 2),
        "seconds_after": round(after, 2),
        "bottleneck": bottleneck,
        "seconds_by_resource": {name: round(worst[name], 2) for name in RESOURCES},
        "imbalance": round(max(load.weight for load in loads) * len(loads) / sum(load.weight for load in loads), 4),
        "bytes_per_node": max(moved),
        "bytes_read_per_node": max(load.read_bytes for load in loads),
        "bytes_written_per_node": max(load.written_bytes for load in loads),
        "bytes_read": sum(load.read_bytes for load in loads),
        "cpu_seconds": round(sum(load.cpu_s for load in loads), 1),
        "in_flight_bytes_per_node": max(load.in_flight_bytes for load in loads),
        "process_bytes_per_node": costs.WORKER_BYTES + len(plan.tensors) * costs.PLAN_BYTES_PER_TENSOR,
        "tensors_cut": [plan.tensors[index].name for index in sorted(cut)],
        "assumptions": assumptions(fleet),
    }


def simulate(plan: Plan, fleet: Fleet) -> tuple[frozenset[int], list[Load]]:
    """The giants, and the load of every node when each does what it is assigned."""
    lanes = [fleet.cpus] * fleet.nodes
    cut = giants(plan, lanes)
    return cut, [_load(plan, queue, cut, fleet) for queue in assign(foreseen(plan, cut), lanes)]


def seconds(load: Load, fleet: Fleet) -> Mapping[str, float]:
    """What each resource of a node takes for its load."""
    disk, net = fleet.disk_gbps, fleet.net_gbps
    return {
        "disk": (load.read_bytes + load.written_bytes) * 8e-9 / disk if disk else 0.0,
        "network": max(load.read_bytes, load.written_bytes) * 8e-9 / net if net else 0.0,
        "cpu": load.lanes_s,
        "python": load.blocks * costs.US_PER_BLOCK / 1e6,
    }


def _driver_seconds(plan: Plan, loads: Sequence[Load]) -> float:
    """What the one driver takes to hand out chunks and to journal what comes back."""
    chunks = sum(load.chunks for load in loads)
    return (chunks * costs.US_PER_CHUNK + len(plan.tiles) * costs.US_PER_TILE) / 1e6


def _chunks(queue: Sequence[Unit]) -> int:
    """How often a queue is taken from, while there is much in it (`Queues.take`)."""
    count, filled = 0, MAX_CHUNK_BYTES
    for unit in queue:
        if unit.stage is not None or filled + unit.weight > MAX_CHUNK_BYTES:
            count, filled = count + 1, 0
        filled = MAX_CHUNK_BYTES if unit.stage is not None else filled + unit.weight
    return count


def assumptions(fleet: Fleet) -> list[str]:
    """What the figures rest on, in sentences."""
    disk = "no disk bounds it" if fleet.disk_gbps is None else "disks give their rate to every node at once"
    net = "no network bounds it" if fleet.net_gbps is None else "every byte read or written passes the node's link once"
    return [
        f"{disk}, and {net}; what all nodes share (a file server) gives each of them that much",
        "one worker on each node, with a thread for each processor; Ray runs, kernels are compiled",
        "reading, arithmetic and writing overlap; each node takes as long as its slowest resource",
        "a tensor is read once where a thread's share of the memory holds it, else once for every pass",
        "processor costs are those of one core of the machine they were measured on (cluster/costs.py)",
    ]


def _load(plan: Plan, queue: Sequence[Unit], cut: Collection[int], fleet: Fleet) -> Load:
    share = fleet.memory_bytes // fleet.cpus
    parts = [_cost(plan, unit, cut, share) for unit in queue]
    lanes = [0.0] * fleet.cpus
    for part in parts:
        heapq.heapreplace(lanes, lanes[0] + part.cpu_s)  # whichever lane is free first takes the next
    return Load(
        weight=sum(unit.weight for unit in queue),
        chunks=_chunks(queue),
        read_bytes=sum(part.read_bytes for part in parts),
        written_bytes=sum(part.written_bytes for part in parts),
        blocks=sum(part.blocks for part in parts),
        in_flight_bytes=sum(heapq.nlargest(fleet.cpus, (part.in_flight_bytes for part in parts))),
        cpu_s=sum(part.cpu_s for part in parts),
        lanes_s=max(lanes),
    )


def _cost(plan: Plan, unit: Unit, cut: Collection[int], share: int) -> _Cost:
    tensor = plan.tensors[unit.tensor]
    full = plan.passes[unit.tensor].as_a_rule
    passes = full if unit.stage is None and unit.tensor not in cut else 0  # before the unit makes its tiles
    runs = [range(tile.first, tile.first + tile.count) for tile in map(plan.tiles.__getitem__, unit.tiles)]
    made = sum(elements_of(tensor, run) for run in runs)
    seen = passes * tensor.elements + made + elements_of(tensor, unit.blocks)
    held = plan.held_bytes(unit.tensor) if passes and not _read_again(plan, unit.tensor) else 0
    is_held = 0 < held <= share
    read = (tensor.elements if is_held else seen) * sum(ITEMSIZE[view.stored] for view in tensor.inputs)
    written = made * ITEMSIZE[tensor.dtype]
    blocks = passes * tensor.blocks + sum(map(len, runs)) + len(unit.blocks)
    ns = read * costs.NS_PER_BYTE_READ + written * costs.NS_PER_BYTE_WRITTEN
    ns += seen * costs.ns_per_element(plan, tensor) / (1 + full)
    streamed = plan.stream_bytes[unit.tensor]
    return _Cost(read, written, blocks, held if is_held else streamed, ns / 1e9 + blocks * costs.US_PER_BLOCK / 1e6)


def _read_again(plan: Plan, index: int) -> bool:
    """Whether a tensor is read once more rather than held: see `engine.execution.execute`."""
    call = plan.tensors[index].call
    return call is not None and plan.passes[index].at_most == 1 and plan.method.streams(call)
