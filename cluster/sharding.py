"""Plan + what is done + workers → who makes which tiles. Pure: integers in, integers out.

The smallest thing that is handed out is a *unit*: one tile, or all missing tiles of a tensor whose facts have yet to
be measured (one worker owns it, measures it and makes it). Every worker gets a queue of neighbouring units, all queues
of equal weight: the bytes that move, input bytes × passes over them and output bytes. A worker whose queue is empty
takes from the heaviest one, and what a lost worker had goes back; so queues decide who reads what, never the result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from engine.plan import OutputTensor, Plan, Tile
from engine.tensorfile.header import ITEMSIZE

MIN_CHUNK_BYTES = 64 << 20
MAX_CHUNK_BYTES = 512 << 20
UNIT_BYTES = 64 << 10
"""What handling a unit costs beside its bytes: a thousand norms of 4 kB are no small thing."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Tiles of one tensor that one worker makes in one go, and the bytes that move for them."""

    tensor: int
    tiles: tuple[int, ...]
    weight: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Units that a lane (one thread of a worker) takes at once."""

    units: tuple[Unit, ...]

    @property
    def tiles(self) -> list[int]:
        return [number for unit in self.units for number in unit.tiles]

    @property
    def tensors(self) -> list[int]:
        return sorted({unit.tensor for unit in self.units})

    @property
    def weight(self) -> int:
        return sum(unit.weight for unit in self.units)


def units(plan: Plan, *, done: Collection[int] = (), measured: Collection[int] = ()) -> list[Unit]:
    """Every tile that is not `done`, once, in the order of the plan; tensors in `measured` have their facts already."""
    missing: dict[int, list[Tile]] = {}
    for tile in plan.tiles:
        if tile.number not in done:
            missing.setdefault(tile.tensor, []).append(tile)
    found: list[Unit] = []
    for index, tiles in missing.items():
        passes = 0 if index in measured else measuring_passes(plan, index)
        if passes:
            weight = sum(_weight(plan.tensors[index], tile) for tile in tiles)
            weight += passes * _input_bytes(plan.tensors[index], plan.tensors[index].elements)
            found.append(Unit(index, tuple(tile.number for tile in tiles), weight))
        else:
            found.extend(Unit(index, (tile.number,), _weight(plan.tensors[index], tile)) for tile in tiles)
    return found


def measuring_passes(plan: Plan, index: int) -> int:
    """How often the inputs of an output tensor are read before the tensor can be made."""
    call = plan.tensors[index].call
    return 0 if call is None else sum(stage.measure is not None for stage in plan.method.stages(call))


class Queues:
    """Who takes what next. `lanes[w]` threads work for worker `w`; workers may be added and lost at any time."""

    def __init__(self, work: Iterable[Unit], lanes: Sequence[int]) -> None:
        self.lanes = list(lanes)
        self._queues = [deque(run) for run in assign(list(work), lanes)]
        self._weights = [sum(unit.weight for unit in queue) for queue in self._queues]

    @property
    def remaining(self) -> int:
        """Bytes nobody has taken yet."""
        return sum(self._weights)

    def take(self, worker: int) -> Chunk | None:
        """The next chunk for one lane of `worker`, from its own queue or else from the heaviest; None: nothing is left.

        Chunks shrink as work runs out, so that all lanes end together.
        """
        source = worker if self._queues[worker] else max(range(len(self._queues)), key=self._weights.__getitem__)
        queue = self._queues[source]
        if not queue:
            return None
        size = min(max(self.remaining // (4 * sum(self.lanes)), MIN_CHUNK_BYTES), MAX_CHUNK_BYTES)
        # a thief takes from the far end, away from where the owner reads
        pop = queue.popleft if source == worker else queue.pop
        taken = [pop()]
        weight = taken[0].weight
        while queue and weight + (queue[0] if source == worker else queue[-1]).weight <= size:
            taken.append(pop())
            weight += taken[-1].weight
        self._weights[source] -= weight
        return Chunk(tuple(taken))

    def give_back(self, worker: int, chunk: Chunk) -> None:
        """A lost worker's chunk: first in its queue, where its successor or a thief finds it."""
        self._queues[worker].extendleft(reversed(chunk.units))
        self._weights[worker] += chunk.weight


def assign(work: Sequence[Unit], lanes: Sequence[int]) -> list[list[Unit]]:
    """Cut `work` into one list per worker, in proportion to its lanes.

    Units too heavy to balance with go first, the heaviest to whoever has least; the others follow in runs of
    neighbours. No list is heavier than its share of the whole plus the heaviest unit.
    """
    total, threads = sum(unit.weight for unit in work), sum(lanes)
    heavy = [unit for unit in work if unit.weight * 4 * threads > total]
    light = [unit for unit in work if unit.weight * 4 * threads <= total]
    queues: list[list[Unit]] = [[] for _ in lanes]
    loads = [0] * len(lanes)
    for unit in sorted(heavy, key=lambda unit: (-unit.weight, unit.tiles)):
        lightest = min(range(len(lanes)), key=lambda worker: loads[worker] / lanes[worker])
        queues[lightest].append(unit)
        loads[lightest] += unit.weight
    worker = 0
    for unit in light:
        while worker < len(lanes) - 1 and loads[worker] * threads >= total * lanes[worker]:
            worker += 1
        queues[worker].append(unit)
        loads[worker] += unit.weight
    return queues


def _weight(tensor: OutputTensor, tile: Tile) -> int:
    elements = max(0, min(tile.count * tensor.block, tensor.elements - tile.first * tensor.block))
    return UNIT_BYTES + elements * ITEMSIZE[tensor.dtype] + _input_bytes(tensor, elements)


def _input_bytes(tensor: OutputTensor, elements: int) -> int:
    return elements * sum(ITEMSIZE[view.stored] for view in tensor.inputs)
