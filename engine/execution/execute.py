"""Run a Plan in this process with threads: the oracle that every backend must equal.

Every thread works block by block: read the rows, count NaN and Inf, merge and round in one kernel, digest, write.
A tensor whose facts must be measured first belongs to one thread, which reads it once where it fits the memory
budget and streams it otherwise; one too large for that is measured by all threads together.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from engine import digest, failpoints
from engine.device import Device
from engine.errors import PlanError
from engine.execution.known_facts import KnownFacts
from engine.execution.open_files import allow_open_files
from engine.execution.sinks import Sink
from engine.execution.worker import Arithmetic, RowPool, Shared, Worker
from engine.methods.contract import Array, Facts, Look, Stage, finish_stages
from engine.models.checkpoint import Checkpoint
from engine.planning.plan import OutputTensor, Plan, Tile
from engine.recipes.recipe import ModelRef


@dataclass(frozen=True)
class Work:
    """What to do of a plan, and with what.

    Attributes:
        threads: of this process; default: the processors it may use.
        memory_bytes: what the threads may hold together; default: no bound but streaming.
        arithmetic: "definition" runs the torch definitions even where kernels exist (slow; the oracle).
        device: where the arithmetic runs.
        tensors: indices of the output tensors to make; default: all.
        tiles: numbers of the tiles to make (and of `tensors`, where both are given); default: all.
        done: digests of the blocks of tiles that earlier runs finished, by tile number: not made again.
        facts: facts that earlier runs measured, by tensor index.
        known: facts that other plans over the same sources measured, and where those of this one are kept.
        allow_nonfinite: NaN and Inf are counted but do not end the run.
        pool: where held rows lie; whoever executes often gives the same one, and its memory stays warm.
    """

    threads: int = 0
    memory_bytes: int = 1 << 62
    arithmetic: Arithmetic = "kernel"
    device: Device = "cpu"
    tensors: Collection[int] | None = None
    tiles: Collection[int] | None = None
    done: Mapping[int, list[bytes]] = field(default_factory=dict)
    facts: Mapping[int, Facts] = field(default_factory=dict)
    known: KnownFacts | None = None
    allow_nonfinite: bool = False
    pool: RowPool = field(default_factory=RowPool, compare=False)

    @property
    def thread_count(self) -> int:
        return self.threads or len(os.sched_getaffinity(0))

    def missing(self, plan: Plan) -> dict[int, list[Tile]]:
        """The tiles to make, by tensor; in a time that depends on `tiles` alone, where they are given."""
        chosen = plan.tiles if self.tiles is None else [plan.tiles[number] for number in sorted(self.tiles)]
        missing: dict[int, list[Tile]] = {}
        for tile in chosen:
            if tile.number not in self.done and (self.tensors is None or tile.tensor in self.tensors):
                missing.setdefault(tile.tensor, []).append(tile)
        return missing


@dataclass(frozen=True)
class Hooks:
    """Called from worker threads, one at a time: a tile is written; a tensor's facts are known; a tile is begun."""

    on_tile: Callable[[Tile, list[bytes]], None] = lambda tile, blocks: None
    on_facts: Callable[[int, Facts], None] = lambda index, facts: None
    on_start: Callable[[Tile], None] = lambda tile: None


@dataclass(frozen=True)
class Executed:
    """Digests of all blocks of the tiles made or already done, by tile number; NaN and Inf by (source, tensor)."""

    blocks: Mapping[int, list[bytes]]
    nonfinite: Mapping[tuple[str, str], int]

    def tensor_blocks(self, plan: Plan, tensors: Collection[int] | None = None) -> dict[int, list[bytes]]:
        """Digests of the blocks of every output tensor (or of `tensors`), by index; all their tiles must be there."""
        by_tensor: dict[int, list[bytes]] = {}
        for tile in plan.tiles:
            if tensors is None or tile.tensor in tensors:
                by_tensor.setdefault(tile.tensor, []).extend(self.blocks[tile.number])
        return by_tensor

    def tensor_digests(self, plan: Plan, tensors: Collection[int] | None = None) -> dict[str, str]:
        """Digest of every output tensor (or of `tensors`), by name; all their tiles must be there."""
        made = self.tensor_blocks(plan, tensors)
        return {plan.tensors[index].name: digest.of_tensor(plan.tensors[index], made[index]) for index in made}


def execute(
    plan: Plan,
    checkpoints: Mapping[ModelRef, Checkpoint],
    sink: Sink,
    *,
    work: Work | None = None,
    hooks: Hooks | None = None,
) -> Executed:
    """Make the plan's tensors (or those of `work`) and hand them to `sink`.

    Raises:
        NotFinite: a source holds NaN or Inf, or rounding made one; names tensor, source and count.
        PlanError: the memory budget is too small; says what is needed.
        MergefleetError: a tensor that is copied differs between sources.
    """
    run = _Run(plan, checkpoints, sink, work or Work(), hooks or Hooks())
    check_memory(plan, run.work, run.missing)
    allow_open_files(plan, checkpoints.values())
    run.go()
    return Executed({**run.work.done, **run.blocks}, run.shared.nonfinite())


def check_memory(plan: Plan, work: Work, tensors: Iterable[int] | None = None) -> None:
    """PlanError with the figure it needs, where the budget cannot even hold what streaming `tensors` (all) takes."""
    needed = plan.peak_bytes(work.thread_count, tensors)
    if needed > work.memory_bytes:
        raise PlanError(
            f"memory budget of {work.memory_bytes:_} bytes is too small: {work.thread_count} "
            f"{'thread needs' if work.thread_count == 1 else 'threads need'} {needed:_} bytes for this recipe. "
            f"{memory_advice(needed, work.thread_count)}"
        )


def memory_advice(needed: int, threads: int) -> str:
    """What helps where so many threads need more than they may use."""
    fewer = ", or fewer --threads" if threads > 1 else ""
    return f"Give --memory {-(-needed >> 20)}MiB{fewer}."


class _Run:
    """The state that the threads of one `execute` share."""

    def __init__(
        self, plan: Plan, checkpoints: Mapping[ModelRef, Checkpoint], sink: Sink, work: Work, hooks: Hooks
    ) -> None:
        self.plan = plan
        self.work = work
        self.hooks = hooks
        self.shared = Shared(
            plan=plan,
            sources=[checkpoints[ref] for ref in plan.sources],
            sink=sink,
            arithmetic=work.arithmetic,
            allow_nonfinite=work.allow_nonfinite,
            pool=work.pool,
            device=work.device,
        )
        self.blocks: dict[int, list[bytes]] = {}
        self.facts: dict[int, Facts] = dict(work.facts)
        self.missing = work.missing(plan)
        self._checkpoints = checkpoints
        self._local = threading.local()
        self._started: set[int] = set()

    @property
    def budget(self) -> int:
        return self.work.memory_bytes // self.work.thread_count

    def go(self) -> None:
        jobs, giants = self._jobs()
        if self.work.thread_count == 1 and self.hooks == Hooks():
            # Starting a thread and waiting for it takes as long as merging a tiny model. A run that keeps a journal has
            # one all the same: an interrupt meets whoever waits, and not the middle of a record.
            _one_by_one(jobs)
            return
        with ThreadPoolExecutor(self.work.thread_count, thread_name_prefix="merge") as pool:
            for index, tiles in giants:
                self._begin(tiles)
                self._measure_together(pool, index)
                self._wait([pool.submit(self._tile, tile) for tile in tiles])
                del self.facts[index]
            if self.work.thread_count == 1:  # handing them over one by one takes longer than making a small tensor
                jobs = [partial(_one_by_one, jobs)]
            self._wait([pool.submit(job) for job in jobs])

    def _jobs(self) -> tuple[list[Callable[[], None]], list[tuple[int, list[Tile]]]]:
        """Independent jobs in the order of tensors, and the tensors that all threads measure together."""
        jobs: list[Callable[[], None]] = []
        giants: list[tuple[int, list[Tile]]] = []
        for index, tiles in self.missing.items():
            if not self.plan.passes[index].at_most:
                jobs.extend(partial(self._tile, tile) for tile in tiles)
            elif self.plan.held_bytes(index) > self.budget and len(tiles) > 1 and self.work.thread_count > 1:
                giants.append((index, tiles))
            else:
                jobs.append(partial(self._own, index, tiles))
        return jobs, giants

    def _wait(self, futures: list[Future[Any]]) -> None:
        """Wait for all; at the first failure the others stop at their next block, and it is raised."""
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:  # in their order: what failed first may have made others fail
                if future in done:
                    future.result()
        except BaseException:
            self.shared.stop.set()
            for future in futures:
                future.cancel()
            raise

    def thread(self) -> Worker:
        if not hasattr(self._local, "thread"):
            self._local.thread = Worker(self.shared)
        state: Worker = self._local.thread
        return state

    def _own(self, index: int, tiles: list[Tile]) -> None:
        """Measure and merge one tensor in this thread; its rows are read once where they fit the budget.

        Those of one measuring pass are read again instead, where the kernel reads them itself: they are in the page
        cache then, and merging while reading costs less than merging what was held outside the processor's cache.
        """
        thread, tensor = self.thread(), self.plan.tensors[index]
        again = self.plan.passes[index].at_most == 1 and thread.streams(tensor)
        self._begin(tiles)
        known = index in self.facts or self._recall(index, thread)
        held = not (again or known) and self.plan.held_bytes(index) <= self.budget
        thread.hold(tensor if held else None)
        if not known:
            self._finish_stages(index, partial(thread.measure, tensor, blocks=range(tensor.blocks)))
        for tile in tiles:
            self._tile(tile)
        thread.hold(None)
        del self.facts[index]  # with coefficients for every row those of a large model are hundreds of megabytes

    def _recall(self, index: int, thread: Worker) -> bool:
        """Take the facts of a tensor from what is known, measuring what is not; whether they are all there now."""
        if self.work.known is None:
            return False

        def look(tensor: OutputTensor, stage: Stage, facts: Facts) -> Array:
            return thread.measure(tensor, stage, facts, blocks=range(tensor.blocks))

        facts = self.work.known.facts(self.plan, index, self._checkpoints, look)
        if facts is not None:
            self.facts[index] = facts
        return facts is not None

    def _measure_together(self, pool: ThreadPoolExecutor, index: int) -> None:
        if index in self.facts:
            return
        tensor = self.plan.tensors[index]
        ranges = [range(t.first, t.first + t.count) for t in self.plan.tiles if t.tensor == index]

        def partials(stage: Stage, facts: Facts) -> Array:
            # one future a thread, not one a tile: each holds a partial; sums in block order have one thread
            step = 1 if stage.partial == "in_order" else self.work.thread_count
            shares = [ranges[k::step] for k in range(step)]
            futures = [pool.submit(self._measure, tensor, stage, facts, share) for share in shares]
            self._wait(futures)
            total: Array = futures[0].result()
            for future in futures[1:]:
                total += future.result()
            return total

        self._finish_stages(index, partials)

    def _measure(self, tensor: OutputTensor, stage: Stage, facts: Facts, share: list[range]) -> Array:
        return self.thread().measure(tensor, stage, facts, blocks=(number for part in share for number in part))

    def _finish_stages(self, index: int, look: Look | None) -> Facts:
        """Facts of one tensor; `look` measures the data (None: no stage does)."""
        call = self.plan.tensors[index].call
        facts = finish_stages(self.plan.method.stages(call), call, look) if call else {}
        self.facts[index] = facts
        if look:
            with self.shared.lock:
                self.hooks.on_facts(index, facts)
        return facts

    def _begin(self, tiles: Iterable[Tile]) -> None:
        """Their work begins: where a tensor is measured first, that of all its tiles."""
        with self.shared.lock:
            for tile in tiles:
                if tile.number not in self._started:
                    self._started.add(tile.number)
                    self.hooks.on_start(tile)

    def _tile(self, tile: Tile) -> None:
        self._begin([tile])
        facts = self.facts[tile.tensor] if tile.tensor in self.facts else self._finish_stages(tile.tensor, None)
        worker = self.thread()
        numbers = range(tile.first, tile.first + tile.count)
        with np.errstate(all="ignore"):  # facts too large for the kernel's format: what they make is counted
            blocks = [worker.block(tile.tensor, number, facts) for number in numbers]
        failpoints.reach("tile.written")
        with self.shared.lock:
            self.blocks[tile.number] = blocks
            self.hooks.on_tile(tile, blocks)


def _one_by_one(jobs: Iterable[Callable[[], None]]) -> None:
    for job in jobs:
        job()
