"""How many workers on which node, with how many threads. Pure: nodes in, posts out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import ClusterError


@dataclass(frozen=True)
class Node:
    """A living node of the cluster and the processors it lends, as Ray counts them (a logical number)."""

    id: str
    host: str
    cpus: float


@dataclass(frozen=True)
class Post:
    """A place for one worker: Ray reserves `cpus`, it runs `threads`, and `on_node` workers share the node."""

    node: Node
    cpus: float
    threads: int
    on_node: int


def posts(
    nodes: Sequence[Node], *, workers: int | None = None, cpus_per_worker: float | None = None, threads: int = 0
) -> list[Post]:
    """Spread workers over nodes; by default one on each node, with all its processors.

    Args:
        nodes: what there is.
        workers: how many in all; with `cpus_per_worker` at most as many.
        cpus_per_worker: as many workers per node as fit; a fraction lets several share a processor.
        threads: of each worker; default: its processors, at least one.

    Raises ClusterError where nothing fits.
    """
    if not nodes:
        raise ClusterError("the cluster has no node with processors to lend: add one, or start Ray with --num-cpus.")
    if cpus_per_worker is None:
        counts = [1] * len(nodes) if workers is None else _spread(nodes, workers, [math.inf] * len(nodes))
    else:
        rooms = [math.floor(node.cpus / cpus_per_worker + 1e-6) for node in nodes]
        if not any(rooms):
            largest = max(node.cpus for node in nodes)
            raise ClusterError(f"a worker asks for {cpus_per_worker:g} processors, the largest node has {largest:g}.")
        counts = _spread(nodes, min(sum(rooms), workers or sum(rooms)), rooms)
    found = []
    for node, count in zip(nodes, counts, strict=True):
        # Ray counts in ten-thousandths; rounded down, so that all of them fit
        cpus = cpus_per_worker or (math.floor(node.cpus / count * 10_000) / 10_000 if count else 0.0)
        found += [Post(node, cpus, threads or max(1, int(cpus)), count)] * count
    return found


def _spread(nodes: Sequence[Node], workers: int, rooms: Sequence[float]) -> list[int]:
    """Workers per node, each where most processors are left for it."""
    counts = [0] * len(nodes)
    for _ in range(workers):
        free = [place for place in range(len(nodes)) if counts[place] < rooms[place]]
        counts[max(free, key=lambda place: nodes[place].cpus / (counts[place] + 1))] += 1
    return counts
