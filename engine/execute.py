"""Run a Plan in this process with threads: the oracle that every backend must equal.

Every thread works block by block: read the rows, count NaN and Inf, merge and round in one kernel, digest, write.
A tensor whose facts must be measured first belongs to one thread, which reads it once where it fits the memory
budget and streams it otherwise; one too large for that is measured by all threads together.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from engine import digest
from engine.arithmetic import DefinitionArithmetic, KernelArithmetic, row_buffer
from engine.checkpoint import Checkpoint
from engine.errors import MergefleetError, NotFinite, PlanError
from engine.methods.contract import Array, Call, Facts, Stage
from engine.numerics import BLOCK
from engine.plan import OutputTensor, Plan, Tile, stream_bytes
from engine.recipe import ModelRef
from engine.sinks import Sink
from engine.tensorfile.header import ITEMSIZE
from engine.views import STORED, RowReader

Arithmetic = Literal["kernel", "definition"]


@dataclass(frozen=True)
class Work:
    """What to do of a plan, and with what.

    Attributes:
        threads: of this process; default: the processors it may use.
        memory_bytes: what the threads may hold together; default: no bound but streaming.
        arithmetic: "definition" runs the torch definitions even where kernels exist (slow; the oracle).
        tensors: indices of the output tensors to make; default: all.
        done: digests of the blocks of tiles that earlier runs finished, by tile number: not made again.
        facts: facts that earlier runs measured, by tensor index.
        allow_nonfinite: NaN and Inf are counted but do not end the run.
    """

    threads: int = 0
    memory_bytes: int = 1 << 62
    arithmetic: Arithmetic = "kernel"
    tensors: Collection[int] | None = None
    done: Mapping[int, list[bytes]] = field(default_factory=dict)
    facts: Mapping[int, Facts] = field(default_factory=dict)
    allow_nonfinite: bool = False

    @property
    def thread_count(self) -> int:
        return self.threads or len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Hooks:
    """Called from worker threads, one at a time: a tile is written; a tensor's facts are known."""

    on_tile: Callable[[Tile, list[bytes]], None] = lambda tile, blocks: None
    on_facts: Callable[[int, Facts], None] = lambda index, facts: None


@dataclass(frozen=True)
class Executed:
    """Digests of all blocks of the tiles made or already done, by tile number; NaN and Inf by (source, tensor)."""

    blocks: Mapping[int, list[bytes]]
    nonfinite: Mapping[tuple[str, str], int]

    def tensor_digests(self, plan: Plan) -> dict[str, str]:
        """Digest of every output tensor, by name; all tiles must be there."""
        by_tensor: dict[int, list[bytes]] = {}
        for tile in plan.tiles:
            by_tensor.setdefault(tile.tensor, []).extend(self.blocks[tile.number])
        return {plan.tensors[i].name: digest.of_tensor(plan.tensors[i], blocks) for i, blocks in by_tensor.items()}


def execute(
    plan: Plan, checkpoints: Mapping[ModelRef, Checkpoint], sink: Sink, *, work: Work | None = None, hooks: Hooks | None = None
) -> Executed:
    """Make the plan's tensors (or those of `work`) and hand them to `sink`.

    Raises:
        NotFinite: a source holds NaN or Inf, or rounding made one; names tensor, source and count.
        PlanError: the memory budget is too small; says what is needed.
        MergefleetError: a tensor that is copied differs between sources.
    """
    run = _Run(plan, checkpoints, sink, work or Work(), hooks or Hooks())
    run.check_memory()
    run.go()
    return Executed({**run.work.done, **run.blocks}, dict(run.nonfinite))


class _Run:
    """The state that the threads of one `execute` share."""

    def __init__(
        self, plan: Plan, checkpoints: Mapping[ModelRef, Checkpoint], sink: Sink, work: Work, hooks: Hooks
    ) -> None:
        self.plan = plan
        self.sources = [checkpoints[ref] for ref in plan.sources]
        self.sink = sink
        self.work = work
        self.hooks = hooks
        self.blocks: dict[int, list[bytes]] = {}
        self.nonfinite: dict[tuple[str, str], int] = {}
        self.facts: dict[int, Facts] = dict(work.facts)
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self._local = threading.local()

    @property
    def budget(self) -> int:
        return self.work.memory_bytes // self.work.thread_count

    def check_memory(self) -> None:
        needed = self.plan.peak_bytes(self.work.thread_count)
        if needed > self.work.memory_bytes:
            raise PlanError(
                f"memory budget {self.work.memory_bytes:_} bytes is too small: {self.work.thread_count} threads need "
                f"{needed:_} bytes for this recipe. Give --memory {-(-needed >> 20)}MiB or fewer --threads."
            )

    def go(self) -> None:
        jobs, giants = self._jobs()
        with ThreadPoolExecutor(self.work.thread_count, thread_name_prefix="merge") as pool:
            for index, tiles in giants:
                self._measure_together(pool, index)
                self._wait([pool.submit(self._tile, tile) for tile in tiles])
            self._wait([pool.submit(job) for job in jobs])

    def _jobs(self) -> tuple[list[Callable[[], None]], list[tuple[int, list[Tile]]]]:
        """Independent jobs in the order of tensors, and the tensors that all threads measure together."""
        jobs: list[Callable[[], None]] = []
        giants: list[tuple[int, list[Tile]]] = []
        for index, tiles in self._missing().items():
            tensor = self.plan.tensors[index]
            if not self._measures(tensor):
                jobs.extend((lambda tile=tile: self._tile(tile)) for tile in tiles)
            elif self._held_bytes(tensor) > self.budget and len(tiles) > 1 and self.work.thread_count > 1:
                giants.append((index, tiles))
            else:
                jobs.append(lambda index=index, tiles=tiles: self._own(index, tiles))  # type: ignore[misc]
        return jobs, giants

    def _missing(self) -> dict[int, list[Tile]]:
        missing: dict[int, list[Tile]] = {}
        for tile in self.plan.tiles:
            if tile.number in self.work.done or (self.work.tensors is not None and tile.tensor not in self.work.tensors):
                continue
            missing.setdefault(tile.tensor, []).append(tile)
        return missing

    def _measures(self, tensor: OutputTensor) -> bool:
        stages = () if tensor.call is None else self.plan.method.stages(tensor.call)
        return any(stage.measure is not None for stage in stages)

    def _held_bytes(self, tensor: OutputTensor) -> int:
        """What one thread needs to hold all rows of a tensor at once, besides what streaming takes."""
        rows = tensor.blocks * BLOCK * ITEMSIZE[tensor.row_dtype] * len(tensor.inputs)
        return rows + stream_bytes(tensor, self.plan.method)

    def _wait(self, futures: list[Future[Any]]) -> None:
        """Wait for all; after the first failure the others stop at their next block, and it is raised."""
        try:
            for future in futures:
                future.result()
        except BaseException:
            self.stop.set()
            for future in futures:
                future.cancel()
            raise

    def thread(self) -> _Thread:
        if not hasattr(self._local, "thread"):
            self._local.thread = _Thread(self)
        state: _Thread = self._local.thread
        return state

    def _own(self, index: int, tiles: list[Tile]) -> None:
        """Measure and merge one tensor in this thread; its rows are read once where they fit the budget."""
        thread, tensor = self.thread(), self.plan.tensors[index]
        held = self._held_bytes(tensor) <= self.budget
        thread.hold(tensor if held else None)
        if index not in self.facts:
            partials = lambda stage, facts: thread.measure(tensor, stage, range(tensor.blocks), facts)  # noqa: E731
            self._finish_stages(index, partials)
        for tile in tiles:
            self._tile(tile)
        thread.hold(None)

    def _measure_together(self, pool: ThreadPoolExecutor, index: int) -> None:
        if index in self.facts:
            return
        tensor = self.plan.tensors[index]
        ranges = [range(t.first, t.first + t.count) for t in self.plan.tiles if t.tensor == index]

        def partials(stage: Stage, facts: Facts) -> Array:
            # one future a thread, not one a tile: each holds a partial
            shares = [ranges[k :: self.work.thread_count] for k in range(self.work.thread_count)]
            futures = [
                pool.submit(lambda share=share: self.thread().measure(tensor, stage, _chain(share), facts))
                for share in shares
            ]
            self._wait(futures)
            total: Array = futures[0].result()
            for future in futures[1:]:
                total += future.result()
            return total

        self._finish_stages(index, partials)

    def _finish_stages(self, index: int, partials: Callable[[Stage, Facts], Array]) -> None:
        call = self.plan.tensors[index].call
        assert call is not None
        facts: dict[str, Array] = {}
        for stage in self.plan.method.stages(call):
            facts[stage.name] = stage.finish(call, partials(stage, facts) if stage.measure else None, facts)
        self.facts[index] = facts
        with self.lock:
            self.hooks.on_facts(index, facts)

    def _tile(self, tile: Tile) -> None:
        thread, tensor = self.thread(), self.plan.tensors[tile.tensor]
        if tensor.call is not None and tile.tensor not in self.facts:
            self._finish_stages(tile.tensor, lambda stage, facts: np.empty(0))
        blocks = [thread.block(tile.tensor, tensor, number) for number in range(tile.first, tile.first + tile.count)]
        with self.lock:
            self.blocks[tile.number] = blocks
            self.hooks.on_tile(tile, blocks)


def _chain(ranges: Iterable[range]) -> list[int]:
    return [number for part in ranges for number in part]


class _Thread:
    """What one thread owns: buffers, arithmetic, and the rows it holds of the tensor it owns."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.reader = RowReader()
        self._rows: dict[tuple[int, str], Array] = {}
        self._out: dict[str, Array] = {}
        self._kernel = KernelArithmetic(run.plan.method)
        self._definition = DefinitionArithmetic(run.plan.method)
        self._held: dict[int, Array] | None = None

    def hold(self, tensor: OutputTensor | None) -> None:
        """Keep every block of rows that is read from now on (until hold(None))."""
        self._held = None if tensor is None else {}

    def arithmetic(self, tensor: OutputTensor) -> KernelArithmetic | DefinitionArithmetic:
        served = self.run.plan.method.kernel is not None and not tensor.wide and tensor.dtype != "F64"
        return self._kernel if served and self.run.work.arithmetic == "kernel" else self._definition

    def measure(self, tensor: OutputTensor, stage: Stage, blocks: Iterable[int], facts: Facts) -> Array:
        """The stage's partial over these blocks: counts added up, or one slot per block of the tensor."""
        call = tensor.call
        assert call is not None
        shape = stage.shape(call)
        partial = np.zeros((tensor.blocks, *shape) if stage.per_block else shape, stage.dtype)
        wanted = None if stage.only is None else stage.only(facts)
        for number in blocks:
            if wanted is None or number in wanted:
                rows, elements = self.rows(tensor, number)
                out = partial[number] if stage.per_block else partial
                self.arithmetic(tensor).measure(stage, call, rows, (number, elements), facts=facts, out=out)
        return partial

    def block(self, index: int, tensor: OutputTensor, number: int) -> bytes:
        """Make one block of output, hand it to the sink, return its digest."""
        if tensor.call is None:
            data = self._copied(tensor, number)
        else:
            data = self._merged(index, tensor, tensor.call, number)
        self.run.sink.write(index, tensor, number, data)
        return digest.of_block(memoryview(data).cast("B"))

    def _merged(self, index: int, tensor: OutputTensor, call: Call, number: int) -> Array:
        rows, elements = self.rows(tensor, number)
        out = self._output(tensor.dtype)[:elements]
        at = (number, elements)
        self.arithmetic(tensor).merge(call, rows, at, facts=self.run.facts[index], out=out)
        if tensor.dtype != tensor.row_dtype:
            # the rows were finite, so what is not finite now was made by rounding to a narrower format
            self.check_finite(out, tensor, None)
        return out

    def rows(self, tensor: OutputTensor, number: int) -> tuple[Array, int]:
        """Rows of one block, [inputs, BLOCK], and how many elements of them count."""
        if self.run.stop.is_set():
            raise MergefleetError("stopped, because another thread failed.")
        elements = min(BLOCK, tensor.elements - number * BLOCK)
        if self._held is not None and number in self._held:
            return self._held[number], elements
        key = (len(tensor.inputs), tensor.row_dtype)
        if self._held is not None:
            rows = self._held[number] = row_buffer(*key)
        else:
            rows = self._rows[key] if key in self._rows else self._rows.setdefault(key, row_buffer(*key))
        for row, view in zip(rows, tensor.inputs, strict=True):
            self.reader.fill(self.run.sources[view.source], view, number * BLOCK, row[:elements])
            self.check_finite(row[:elements], tensor, view.source)
        return rows, elements

    def _output(self, dtype: str) -> Array:
        return self._out.setdefault(dtype, np.empty(BLOCK, STORED.get(dtype, np.uint8)))

    def _copied(self, tensor: OutputTensor, number: int) -> Array:
        """The first input's stored bytes, after a check that every other input has the same."""
        if self.run.stop.is_set():
            raise MergefleetError("stopped, because another thread failed.")
        size = ITEMSIZE[tensor.dtype]
        elements = min(BLOCK, tensor.elements - number * BLOCK)
        data, other = np.empty((2, elements * size), np.uint8)
        for place, view in enumerate(tensor.inputs):
            buffer = other if place else data
            self.run.sources[view.source].read_into(view.tensor, number * BLOCK * size, memoryview(buffer))
            if place and not np.array_equal(data, other):
                first, second = (self.run.sources[v.source].ref for v in (tensor.inputs[0], view))
                raise MergefleetError(
                    f"tensor {tensor.name!r} ({tensor.dtype}) differs between {first} and {second}: tensors that are "
                    "not floating point can only be copied where all models agree. Take it from one model (slices)."
                )
        if tensor.dtype in STORED:
            self.check_finite(data.view(STORED[tensor.dtype]), tensor, tensor.inputs[0].source)
        return data

    def check_finite(self, row: Array, tensor: OutputTensor, source: int | None) -> None:
        from engine.kernels import combine

        count = int(combine.count_nonfinite(row))
        if not count:
            return
        origin = f"rounding to {tensor.dtype}" if source is None else str(self.run.sources[source].ref)
        with self.run.lock:
            key = (origin, tensor.name)
            self.run.nonfinite[key] = self.run.nonfinite.get(key, 0) + count
        if not self.run.work.allow_nonfinite:
            raise nonfinite_error(self.run, tensor, source, count)


def nonfinite_error(run: _Run, tensor: OutputTensor, source: int | None, count: int) -> NotFinite:
    """The error for NaN or Inf in one block, with the count over the whole tensor where it is a source's."""
    if source is None:
        return NotFinite(
            f"tensor {tensor.name!r}: rounding the merged values to {tensor.dtype} made {count} Inf (too large for it). "
            "Give a wider out_dtype, or --allow-nan to publish them.",
            tensor=tensor.name,
            count=count,
        )
    view = next(view for view in tensor.inputs if view.source == source)
    total = count_nonfinite(run.sources[source], view.tensor)
    made = "" if total else f" after rounding to {view.rounded}"
    return NotFinite(
        f"{run.sources[source].ref}: tensor {view.tensor!r} holds {total or count} NaN or Inf{made}; nothing is "
        "published. Repair the source, leave it out, or give --allow-nan to publish them.",
        tensor=view.tensor,
        source=str(run.sources[source].ref),
        count=total or count,
    )


def count_nonfinite(checkpoint: Checkpoint, name: str) -> int:
    """NaN and Inf in one stored tensor; 0 for formats that have none."""
    from engine.kernels import combine

    stored = checkpoint.tensors[name]
    if stored.dtype not in STORED:
        return 0
    size, total = ITEMSIZE[stored.dtype], 0
    for start in range(0, stored.elements, BLOCK):
        row = np.empty(min(BLOCK, stored.elements - start), STORED[stored.dtype])
        checkpoint.read_into(name, start * size, memoryview(row).cast("B"))
        total += int(combine.count_nonfinite(row))
    return total
