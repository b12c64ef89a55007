"""Plan + what is done + workers → who makes which tiles. Pure: integers in, integers out.

The smallest thing that is handed out is a *unit*: one tile, or all missing tiles of a tensor whose facts have yet to
be measured (one worker owns it, measures it and makes it). A *giant*, a tensor that no worker can own in balance, is
measured by all: its units are first the blocks of one stage after the other, then its tiles. Every worker gets a list
of neighbouring units, all lists of equal weight: the bytes that move, input bytes × passes over them and output bytes.
What becomes of these lists while workers come and go is `cluster.queues`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from heapq import heapreplace

from engine.methods.contract import Facts
from engine.planning.plan import OutputTensor, Plan, Tile
from engine.tensorfile.header import ITEMSIZE

MIN_CHUNK_BYTES = 64 << 20
MAX_CHUNK_BYTES = 512 << 20
UNIT_BYTES = 64 << 10
"""What handling a unit costs beside its bytes: a thousand norms of 4 kB are no small thing."""
BALANCED = 1.02
"""The heaviest queue over the mean, per thread, that is good enough: neighbours are torn apart, and giants cut, only
where it is not reached."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What one worker does in one go, and the bytes that move for it: it makes `tiles` of one tensor.

    With `stage`, the number of a stage of the tensor's call, it makes no tiles but that stage's partial over `blocks`.
    """

    tensor: int
    tiles: tuple[int, ...]
    weight: int
    stage: int | None = None
    blocks: range = range(0)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Units that a lane (one thread of a worker) takes at once: units of tiles, or a single one of a stage."""

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


def units(
    plan: Plan, *, done: Collection[int] = (), measured: Collection[int] = (), cut: Collection[int] = ()
) -> list[Unit]:
    """Every tile that is not `done`, once, in the order of the plan; tensors in `measured` have their facts already.

    Of the tensors in `cut`, the giants, there are no tiles yet but the blocks of the first stage that measures.
    """
    missing: dict[int, list[Tile]] = {}
    for tile in plan.tiles:
        if tile.number not in done:
            missing.setdefault(tile.tensor, []).append(tile)
    found: list[Unit] = []
    for index, tiles in missing.items():
        tensor = plan.tensors[index]
        if index in measured or not plan.passes[index].at_most:
            found.extend(Unit(index, (tile.number,), _weight(tensor, tile)) for tile in tiles)
        elif index in cut:
            found.extend(after(plan, index, {}))
        else:
            weight = sum(_weight(tensor, tile) for tile in tiles) + plan.passes[index].as_a_rule * tensor.bytes_read
            found.append(Unit(index, tuple(tile.number for tile in tiles), weight))
    return found


def file_units(plan: Plan, *, done: Collection[int] = ()) -> list[Unit]:
    """The tiles of every output file that is not whole, as one unit each: in a bucket one worker streams one file."""
    left: dict[int, list[Tile]] = {}
    for tile in plan.tiles:
        left.setdefault(plan.tensors[tile.tensor].file, []).append(tile)
    found = []
    for tiles in left.values():
        if any(tile.number not in done for tile in tiles):
            tensors = sorted({tile.tensor for tile in tiles})
            weight = sum(_weight(plan.tensors[tile.tensor], tile) for tile in tiles)
            weight += sum(plan.passes[index].as_a_rule * plan.tensors[index].bytes_read for index in tensors)
            found.append(Unit(tensors[0], tuple(tile.number for tile in tiles), weight))
    return found


def giants(
    plan: Plan, lanes: Sequence[int], *, done: Collection[int] = (), measured: Collection[int] = ()
) -> frozenset[int]:
    """Tensors to be cut across workers: too heavy for one thread to keep up with the others, or for any balance.

    Only tensors whose facts have yet to be measured: the others are cut into tiles anyway. Give the result to `units`
    as `cut`, add to the `Queues` what `after` says whenever a stage of a giant is finished, and all of it is made.
    """
    whole = units(plan, done=done, measured=measured)
    heaviest = sorted((unit for unit in whole if _can_be_cut(plan, unit)), key=lambda unit: -unit.weight)
    share = sum(unit.weight for unit in whole) / sum(lanes)

    def unbalanced(count: int) -> float:
        cut = {unit.tensor for unit in heaviest[:count]}
        work = foreseen(plan, cut, done=done, measured=measured) if cut else whole
        return imbalance(assign(work, lanes), lanes)

    least = sum(unit.weight > share for unit in heaviest)
    most = sum(unit.weight > share * min(lanes) * (BALANCED - 1) / 2 for unit in heaviest)
    if least < most and unbalanced(least) > BALANCED:
        goal = max(BALANCED, unbalanced(most))  # where even that is uneven, tiles are too coarse for so many threads
        least = bisect_left(range(most), True, lo=least, key=lambda count: unbalanced(count) <= goal)
    return frozenset(unit.tensor for unit in heaviest[:least])


def next_stage(plan: Plan, index: int, facts: Facts) -> int | None:
    """The number of the stage of a tensor that has to be measured next; None: its tiles can be made."""
    call = plan.tensors[index].call
    stages = plan.method.stages(call) if call else ()
    return next((number for number, stage in enumerate(stages) if stage.name not in facts and stage.measure), None)


def after(plan: Plan, index: int, facts: Facts, *, done: Collection[int] = ()) -> list[Unit]:
    """What a giant needs next, when `facts` are those of all its stages so far: blocks of a stage, or its tiles.

    The driver's part, for tensor `index` with call `call` and `facts = {}` at first:

    1. Stages before `next_stage` look at no data: `facts[stage.name] = stage.finish(call, None, facts)`.
    2. The units returned here go into the queues (`Queues.add`). Some worker measures each, by
       `Worker.measure(tensor, stage, facts, blocks=unit.blocks)`, and returns it; where the partial is `per_block`,
       only the rows of these blocks.
    3. When all are there they are put together as `Stage.partial` says (counts are added; `per_block` rows lie at their
       blocks, zeros elsewhere), the stage is finished with that, and so on from 1. A stage that looks at no block
       (`Stage.only`) has no units: it is finished with zeros.
    4. When `next_stage` is None, facts are journalled, and the units are the tiles that are not `done`.
    """
    tensor, number = plan.tensors[index], next_stage(plan, index, facts)
    if number is None:
        return _tile_units(plan, index, done)
    assert tensor.call is not None
    stage = plan.method.stages(tensor.call)[number]
    wanted = None if stage.only is None else stage.only(facts)
    blocks = range(tensor.blocks) if wanted is None else sorted(wanted)
    runs = _runs(blocks, len(blocks) if stage.partial == "in_order" else _blocks_per_unit(tensor))
    return [Unit(index, (), UNIT_BYTES + _input_bytes(tensor, elements_of(tensor, run)), number, run) for run in runs]


def foreseen(
    plan: Plan, cut: Collection[int], *, done: Collection[int] = (), measured: Collection[int] = ()
) -> list[Unit]:
    """All units that there will be, as far as is known before all reading: those that `after` will say included."""
    work = units(plan, done=done, measured=measured, cut=cut)
    late: list[Unit] = []
    for index in cut:
        first = after(plan, index, {})
        for _ in range(plan.passes[index].as_a_rule - 1):  # whatever its stages: the bytes are the same
            late += first
        late += _tile_units(plan, index, done)
    return work + late


def assign(work: Sequence[Unit], lanes: Sequence[int]) -> list[list[Unit]]:
    """Cut `work` into one list per worker, in proportion to its lanes.

    Units too heavy to balance with go first, the heaviest to whoever has least; the others follow in runs of
    neighbours. No list is heavier than its share of the whole plus the heaviest unit. What is too heavy is tried, from
    a quarter of a thread's share down, until the lists are in balance.
    """
    tries = []
    for parts in (4, 16, 64):
        queues = _assigned(work, lanes, parts)
        found = imbalance(queues, lanes)
        if found <= BALANCED:
            return queues
        tries.append((found, parts, queues))
    return min(tries, key=lambda tried: tried[:2])[2]


def imbalance(queues: Sequence[Sequence[Unit]], lanes: Sequence[int]) -> float:
    """The weight per thread of the heaviest list over the mean: 1 is a perfect balance."""
    loads = [sum(unit.weight for unit in queue) for queue in queues]
    worst = max(load / threads for load, threads in zip(loads, lanes, strict=True))
    return worst * sum(lanes) / sum(loads) if any(loads) else 1.0


def _assigned(work: Sequence[Unit], lanes: Sequence[int], parts: int) -> list[list[Unit]]:
    """`assign`, with units heavier than one of so many parts of a thread's share as the heavy ones."""
    total, threads = sum(unit.weight for unit in work), sum(lanes)
    heavy = [unit for unit in work if unit.weight * parts * threads > total]
    light = [unit for unit in work if unit.weight * parts * threads <= total]
    queues: list[list[Unit]] = [[] for _ in lanes]
    loads = [0] * len(lanes)
    lightest = [(0.0, worker) for worker in range(len(lanes))]
    for unit in sorted(heavy, key=lambda unit: (-unit.weight, unit.tiles)):
        worker = lightest[0][1]
        queues[worker].append(unit)
        loads[worker] += unit.weight
        heapreplace(lightest, (loads[worker] / lanes[worker], worker))
    worker = 0
    for unit in light:
        while worker < len(lanes) - 1 and loads[worker] * threads >= total * lanes[worker]:
            worker += 1
        queues[worker].append(unit)
        loads[worker] += unit.weight
    return queues


def _tile_units(plan: Plan, index: int, done: Collection[int]) -> list[Unit]:
    """A unit for every tile of a tensor whose facts are known."""
    numbers = [number for number in plan.tiles_of[index] if number not in done]
    return [Unit(index, (number,), _weight(plan.tensors[index], plan.tiles[number])) for number in numbers]


def _can_be_cut(plan: Plan, unit: Unit) -> bool:
    """Whether the facts of the unit's tensor have yet to be measured, on more blocks than one."""
    tensor = plan.tensors[unit.tensor]
    return bool(len(unit.tiles) > 1 and tensor.blocks > 1 and plan.passes[unit.tensor].at_most)


def _blocks_per_unit(tensor: OutputTensor) -> int:
    """Blocks of a giant that are measured in one go: a partial may be megabytes, so not too few."""
    return max(1, MAX_CHUNK_BYTES // max(1, _input_bytes(tensor, tensor.block)))


def _runs(blocks: Sequence[int], step: int) -> list[range]:
    """`blocks`, ascending, as ranges without holes of at most `step`."""
    runs: list[range] = []
    for block in blocks:
        if runs and runs[-1].stop == block and len(runs[-1]) < step:
            runs[-1] = range(runs[-1].start, block + 1)
        else:
            runs.append(range(block, block + 1))
    return runs


def _weight(tensor: OutputTensor, tile: Tile) -> int:
    elements = elements_of(tensor, range(tile.first, tile.first + tile.count))
    return UNIT_BYTES + elements * ITEMSIZE[tensor.dtype] + _input_bytes(tensor, elements)


def elements_of(tensor: OutputTensor, blocks: range) -> int:
    return max(0, min(blocks.stop * tensor.block, tensor.elements) - blocks.start * tensor.block)


def _input_bytes(tensor: OutputTensor, elements: int) -> int:
    return elements * sum(ITEMSIZE[view.stored] for view in tensor.inputs)
