"""Who takes what next: a queue of units for every worker, and idle workers take from the heaviest. Pure, no clock.

Workers join and leave at any time. Queues decide who reads what, never the result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain

from cluster import sharding
from cluster.sharding import Chunk, Unit, assign

Homes = Callable[[Unit], Collection[int]]
"""The workers that have most of what a unit reads on a disk of their own."""


class Queues:
    """`lanes[w]` threads work for worker `w`; 0: it has left, and others empty its queue."""

    def __init__(self, work: Iterable[Unit], lanes: Sequence[int]) -> None:
        self.lanes = list(lanes)
        self._queues = [deque(run) for run in assign(list(work), lanes)] if lanes else []
        self._weights = [_weight(queue) for queue in self._queues]

    @property
    def remaining(self) -> int:
        """Bytes nobody has taken yet."""
        return sum(self._weights)

    def join(self, lanes: int) -> int:
        """A new worker's number; it inherits the heaviest queue that nobody serves, if there is one."""
        orphans = [worker for worker, there in enumerate(self.lanes) if not there]
        if orphans:
            worker = max(orphans, key=self._weights.__getitem__)
            self.lanes[worker] = lanes
            return worker
        self.lanes.append(lanes)
        self._queues.append(deque())
        self._weights.append(0)
        return len(self.lanes) - 1

    def leave(self, worker: int) -> None:
        """Its queue stays, for whoever is idle first or inherits it."""
        self.lanes[worker] = 0

    def add(self, work: Sequence[Unit]) -> None:
        """More work, of tensors that wait for it: it comes first, the heaviest to whoever has least left."""
        there = [worker for worker, lanes in enumerate(self.lanes) if lanes] or [0]
        for unit in sorted(work, key=lambda unit: (unit.weight, unit.tiles, unit.blocks.start)):
            lightest = min(there, key=lambda worker: self._weights[worker] / max(1, self.lanes[worker]))
            self._queues[lightest].appendleft(unit)
            self._weights[lightest] += unit.weight

    def take(self, worker: int) -> Chunk | None:
        """The next chunk for one lane of `worker`, from its own queue or else from the heaviest; None: nothing is left.

        Chunks shrink as work runs out, so that all lanes end together.
        """
        source = worker if self._queues[worker] else max(range(len(self._queues)), key=self._weights.__getitem__)
        queue = self._queues[source]
        if not queue:
            return None
        share = self.remaining // (4 * max(1, sum(self.lanes)))
        size = min(max(share, sharding.MIN_CHUNK_BYTES), sharding.MAX_CHUNK_BYTES)
        # a thief takes from the far end, away from where the owner reads
        pop, end = (queue.popleft, 0) if source == worker else (queue.pop, -1)
        taken = [pop()]
        weight = taken[0].weight
        while taken[0].stage is None and queue and queue[end].stage is None and weight + queue[end].weight <= size:
            taken.append(pop())
            weight += taken[-1].weight
        self._weights[source] -= weight
        return Chunk(tuple(taken))

    def give_back(self, worker: int, units: Sequence[Unit]) -> None:
        """What a worker took and did not make: first in its queue."""
        self._queues[worker].extendleft(reversed(units))
        self._weights[worker] += _weight(units)

    def deal(self, homes: Homes) -> None:
        """Share out anew what nobody has taken, everything at home as far as that balances."""
        there = [worker for worker, lanes in enumerate(self.lanes) if lanes]
        place = {worker: number for number, worker in enumerate(there)}
        # tensors wait for what their stages measure: that stays first
        work = sorted(chain(*self._queues), key=lambda unit: (unit.stage is None, unit.tensor, unit.tiles))
        runs = assign_near(
            work,
            [self.lanes[worker] for worker in there],
            homes=lambda unit: [place[worker] for worker in homes(unit) if worker in place],
        )
        self._queues = [deque() for _ in self.lanes]
        for worker, run in zip(there, runs, strict=True):
            self._queues[worker] = deque(run)
        self._weights = [_weight(queue) for queue in self._queues]


def assign_near(work: Sequence[Unit], lanes: Sequence[int], *, homes: Homes) -> list[list[Unit]]:
    """`sharding.assign`, but a unit goes to one of its homes while that has less than its share of the whole.

    What has the fewest homes goes first. Neither units at home everywhere nor those at home nowhere count as near:
    they fill up, in runs of neighbours. No list is heavier than its share plus the heaviest unit.
    """
    rooms = [_weight(work) * threads / sum(lanes) for threads in lanes]
    lists: list[list[Unit]] = [[] for _ in lanes]
    chosen = {number: frozenset(homes(unit)) for number, unit in enumerate(work)}
    picky = [number for number, where in chosen.items() if 0 < len(where) < len(lanes)]
    if not picky:
        return assign(work, lanes)

    def put(number: int, worker: int) -> None:
        lists[worker].append(work[number])
        rooms[worker] -= work[number].weight

    left = sorted(chosen.keys() - set(picky))
    for number in sorted(picky, key=lambda number: (len(chosen[number]), number)):
        worker = next((worker for worker in sorted(chosen[number]) if rooms[worker] > 0), None)
        if worker is None:
            left.append(number)
        else:
            put(number, worker)
    worker = 0
    for number in left:
        while worker < len(lanes) - 1 and rooms[worker] <= 0:
            worker += 1
        put(number, worker)
    return lists


def _weight(units: Iterable[Unit]) -> int:
    return sum(unit.weight for unit in units)
