"""What one thread of a merge does: read rows, measure, merge, check, digest, hand on; one block at a time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from engine import digest
from engine.device import Device
from engine.errors import MergefleetError, NotFinite
from engine.execution.arithmetic import DefinitionArithmetic, KernelArithmetic
from engine.execution.sinks import LiveSink, Sink
from engine.methods.contract import Array, Call, Facts, Stage
from engine.models.checkpoint import Checkpoint
from engine.models.views import STORED, RowReader, View, as_bytes
from engine.numerics import BLOCK
from engine.planning.plan import OutputTensor, Plan
from engine.tensorfile.header import ITEMSIZE

Arithmetic = Literal["kernel", "definition"]
_RUN_BLOCKS = 16  # measured in one call of a kernel: a fiftieth of a second, after which a thread looks whether to stop


def ordinary(nbytes: int) -> Array:
    """uint8[nbytes] of memory."""
    return np.empty(nbytes, np.uint8)


class RowPool:
    """Memory for blocks of rows, used again and again: fresh pages cost half as much as reading bytes into them.

    It keeps arrays of one size at a time, so it never holds more than was in use at once. Thread safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nbytes = 0
        self._free: list[Array] = []

    def take(self, nbytes: int, allocate: Callable[[int], Array] = ordinary) -> Array:
        """uint8[nbytes], whatever is in it."""
        with self._lock:
            if nbytes != self._nbytes:
                self._nbytes, self._free = nbytes, []
            return self._free.pop() if self._free else allocate(nbytes)

    def give(self, arrays: Iterable[Array]) -> None:
        """Take back arrays that nobody looks at any more."""
        with self._lock:
            self._free.extend(array for array in arrays if array.nbytes == self._nbytes)


@dataclass(frozen=True)
class Shared:
    """What the workers of one run share.

    `stop` ends them at their next block. `bad` counts NaN and Inf by (origin, tensor, block): a block may be read in
    several passes, and counts once.
    """

    plan: Plan
    sources: list[Checkpoint]
    sink: Sink
    arithmetic: Arithmetic
    allow_nonfinite: bool
    pool: RowPool
    device: Device = "cpu"
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    bad: dict[tuple[str, str, int], int] = field(default_factory=dict)

    def target(self, index: int, tensor: OutputTensor, block: int) -> Array | None:
        """Where a block can be made, so that the sink need not copy it; None where it cannot."""
        if self.device != "cpu" or not isinstance(self.sink, LiveSink):
            return None
        return self.sink.target(index, tensor, block)

    def nonfinite(self) -> dict[tuple[str, str], int]:
        """NaN and Inf by (origin, tensor)."""
        counts: Counter[tuple[str, str]] = Counter()
        for (origin, tensor, _), count in self.bad.items():
            counts[origin, tensor] += count
        return dict(counts)


class Worker:
    """What one thread owns: buffers, arithmetic, and the rows it holds of the tensor it owns."""

    def __init__(self, job: Shared) -> None:
        self.job = job
        self.reader = RowReader()
        self._rows: Array = np.empty(0, np.uint8)
        self._out: dict[str, Array] = {}
        self._allocate = ordinary
        self._kernel = KernelArithmetic(job.plan.method)
        self._definition = DefinitionArithmetic(job.plan.method)
        if job.device != "cpu":
            from engine.execution import gpu

            self._allocate = gpu.pinned
            self._definition = gpu.DeviceArithmetic(job.plan.method, job.device)
        self._placed: tuple[OutputTensor | None, Array | None, Array | None] = None, None, None
        self._held: dict[int, Array] | None = None
        self._taken: list[Array] = []

    def hold(self, tensor: OutputTensor | None) -> None:
        """Keep every block of rows that is read from now on (until hold(None))."""
        self._held = None if tensor is None else {}
        self.job.pool.give(self._taken)
        self._taken = []

    def arithmetic(self, tensor: OutputTensor) -> KernelArithmetic | DefinitionArithmetic:
        if self.job.device != "cpu":
            return self._definition
        served = self.job.arithmetic == "kernel" and self.job.plan.has_kernel(tensor)
        return self._kernel if served else self._definition

    def measure(self, tensor: OutputTensor, stage: Stage, facts: Facts, *, blocks: Iterable[int]) -> Array:
        """The stage's partial over these blocks, in this order: added up, or one slot per block of the tensor."""
        call = tensor.call
        assert call is not None
        shape = stage.shape(call)
        slots = stage.partial == "per_block"
        partial: Array = np.zeros((tensor.blocks, *shape) if slots else shape, stage.dtype)
        wanted = None if stage.only is None else stage.only(facts)
        arithmetic = self.arithmetic(tensor)
        if isinstance(blocks, range) and stage.stream is not None:
            blocks = self._measure_runs(tensor, stage, blocks, partial)
        for number in blocks:
            self._go_on()
            if wanted is None or number in wanted:
                rows, elements = self.rows(tensor, number)
                out = partial[number] if slots else partial
                arithmetic.measure(stage, call, rows, (number, elements), facts=facts, out=out)
        return partial

    def _measure_runs(self, tensor: OutputTensor, stage: Stage, blocks: range, partial: Array) -> Iterable[int]:
        """Measure runs of blocks in one go with reading them, where that can be; returns the blocks that are left."""
        from engine.kernels import files

        places, _ = self._placed_of(tensor)
        if places is None or self._held is not None or self.arithmetic(tensor) is not self._kernel:
            return blocks
        rows, left = self._reused(tensor), list[int]()
        for first in blocks[::_RUN_BLOCKS]:
            self._go_on()
            run = range(first, min(first + _RUN_BLOCKS, blocks.stop))
            elements = min(len(run) * tensor.block, tensor.elements - first * tensor.block)
            stream = files.Stream(places, first * tensor.block * rows.itemsize, rows)
            assert tensor.call is not None
            assert stage.stream is not None
            if not stage.stream(tensor.call, stream, elements, partial[first : run.stop]):
                partial[first : run.stop] = 0
                left += run
        return left

    def block(self, index: int, number: int, facts: Facts) -> bytes:
        """Make one block of output tensor `index`, hand it to the sink, return its digest."""
        self._go_on()
        tensor = self.job.plan.tensors[index]
        call = tensor.call
        if call is not None:
            target = self.job.target(index, tensor, number)
            data = self._merged(tensor, call, number, facts, target)
        else:
            data = self._cast(tensor, number) if tensor.cast else self._copied(tensor, number)
        self.job.sink.write(index, tensor, number, data)
        return digest.of_block(as_bytes(data))

    def streams(self, tensor: OutputTensor) -> bool:
        """Whether the tensor's rows need not be in memory while they are merged."""
        return self._placed_of(tensor)[1] is not None

    def _go_on(self) -> None:
        if self.job.stop.is_set():
            raise MergefleetError("stopped, because another thread failed.")

    def _merged(self, tensor: OutputTensor, call: Call, number: int, facts: Facts, target: Array | None) -> Array:
        """One block, made where `target` says, or else in memory of this thread's own."""
        at = number, min(tensor.block, tensor.elements - number * tensor.block)
        out = self._output(tensor)[: at[1]] if target is None else target
        if not self._streamed(tensor, call, at, facts, out):
            rows, _ = self.rows(tensor, number)
            self.arithmetic(tensor).merge(call, rows, at, facts=facts, out=out)
            self._check_made(out, tensor, number)
        return out

    def _streamed(self, tensor: OutputTensor, call: Call, at: tuple[int, int], facts: Facts, out: Array) -> bool:
        """Merge a block in one go with reading it, where the kernel can; False where not, or if anything is amiss."""
        from engine.kernels import files, finite

        places, buffer = self._placed_of(tensor)
        if buffer is None or self._held is not None:
            return False
        stream = files.Stream(places, at[0] * tensor.block * buffer.itemsize, buffer)
        self._kernel.merge(call, stream, at, facts=facts, out=out)
        return not finite.count_nonfinite(out)

    def rows(self, tensor: OutputTensor, number: int) -> tuple[Array, int]:
        """Rows of one block, [inputs, tensor.block], and how many elements of them count."""
        elements = min(tensor.block, tensor.elements - number * tensor.block)
        if self._held is not None and number in self._held:
            return self._held[number], elements
        if self._held is not None:
            self._taken.append(self.job.pool.take(tensor.rows_nbytes, self._allocate))
            rows = self._held[number] = _as_rows(self._taken[-1], tensor)
        else:
            rows = self._reused(tensor)
        self._read(tensor, number, rows, elements)
        return rows, elements

    def _read(self, tensor: OutputTensor, number: int, rows: Array, elements: int) -> None:
        """Fill rows[inputs, ≥ elements] with a block, and look for NaN and Inf in it: in all inputs at once."""
        from engine.kernels import files, finite

        start = number * tensor.block
        places, _ = self._placed_of(tensor)
        if places is not None and files.read_rows(places, start * rows.itemsize, rows, elements):
            return
        inputs = zip(rows, tensor.inputs, strict=True)
        pieces = [piece for row, view in inputs for piece in view.parts(start, row[:elements])]
        for view, at, values in pieces:
            self.reader.fill(self.job.sources[view.source], view, at, values)
        if finite.count_nonfinite_rows(rows, elements):
            for view, _, values in pieces:
                self._check_read(values, tensor, number, view)

    def _placed_of(self, tensor: OutputTensor) -> tuple[Array | None, Array | None]:
        """Where all inputs lie in files, int64[inputs, 2], and the buffer of a Stream of them; None where they do not.

        See `kernels.files`. An input that is converted on the way, or has no file, is read by its source.
        """
        if self._placed[0] is not tensor:
            places = self._find_places(tensor)
            self._placed = tensor, places, None if places is None else self._buffer(tensor)
        return self._placed[1:]

    def _find_places(self, tensor: OutputTensor) -> Array | None:
        places = []
        for view in tensor.inputs:
            place = None
            if view.beyond is None and view.stored == view.rounded == tensor.row_dtype:
                place = self.job.sources[view.source].store.place(view.tensor)
            if place is None:
                return None
            places.append(place)
        return np.array(places, np.int64)

    def _buffer(self, tensor: OutputTensor) -> Array | None:
        """Of a Stream, where the method's kernel takes one for this tensor."""
        from engine.kernels import files, fused

        method, call = self.job.plan.method, tensor.call
        if call is None or not method.streams(call) or self.arithmetic(tensor) is not self._kernel:
            return None
        if tensor.dtype != tensor.row_dtype or len(tensor.inputs) > fused.ROWS:
            return None
        return np.empty((len(tensor.inputs), files.PIECE), STORED[tensor.row_dtype])

    def _reused(self, tensor: OutputTensor) -> Array:
        """Rows [inputs, tensor.block] in memory that every block uses, and that only grows."""
        nbytes = tensor.rows_nbytes
        if self._rows.nbytes < nbytes:
            self._rows = self._allocate(nbytes)
        return _as_rows(self._rows[:nbytes], tensor)

    def _output(self, tensor: OutputTensor) -> Array:
        known = self._out.get(tensor.dtype)
        if known is None or known.size < tensor.block:
            memory = self._allocate(tensor.block * ITEMSIZE[tensor.dtype])
            known = self._out[tensor.dtype] = memory.view(STORED[tensor.dtype])
        return known

    def _cast(self, tensor: OutputTensor, number: int) -> Array:
        """The first input's values in another format."""
        from engine.kernels import combine

        rows, elements = self.rows(tensor, number)
        out = self._output(tensor)[:elements]
        combine.convert(rows[0][:elements], out)
        self._check_made(out, tensor, number)
        return out

    def _copied(self, tensor: OutputTensor, number: int) -> Array:
        """The first input's stored bytes, after a check that every other input has the same."""
        size = ITEMSIZE[tensor.dtype]
        elements = min(BLOCK, tensor.elements - number * BLOCK)
        data, other = np.empty((2, elements * size), np.uint8)
        for place, view in enumerate(tensor.inputs):
            buffer = other if place else data
            self.job.sources[view.source].read_into(view.tensor, number * BLOCK * size, as_bytes(buffer))
            if place and not np.array_equal(data, other):
                first, second = (self.job.sources[v.source].ref for v in (tensor.inputs[0], view))
                raise MergefleetError(
                    f"tensor {tensor.name!r} ({tensor.dtype}) differs between {first} and {second}: tensors that are "
                    "not floating point can only be copied where all models agree. Take it from one of them: add "
                    f"`tensors: [{{filter: {tensor.name}, copy: {first}}}]` to the recipe."
                )
        if tensor.dtype in STORED:
            self._check_read(data.view(STORED[tensor.dtype]), tensor, number, tensor.inputs[0])
        return data

    def _check_read(self, values: Array, tensor: OutputTensor, block: int, view: View) -> None:
        """Count NaN and Inf in what was read through `view`; NotFinite unless they are allowed."""
        from engine.kernels import finite

        if count := int(finite.count_nonfinite(values)):
            self._count(str(self.job.sources[view.source].ref), tensor, block, count)
            if not self.job.allow_nonfinite:
                raise _read_nonfinite(self.job, view, count)

    def _check_made(self, out: Array, tensor: OutputTensor, block: int) -> None:
        """The same for what was merged; what is not finite in a source is not finite in the result: counted already."""
        from engine.kernels import finite

        count = int(finite.count_nonfinite(out))
        if not count or any(
            (str(self.job.sources[view.source].ref), tensor.name, block) in self.job.bad for view in tensor.views
        ):
            return
        self._count("merging", tensor, block, count)
        if not self.job.allow_nonfinite:
            raise _made_nonfinite(tensor, count)

    def _count(self, origin: str, tensor: OutputTensor, block: int, count: int) -> None:
        with self.job.lock:
            key = origin, tensor.name, block
            self.job.bad[key] = max(count, self.job.bad.get(key, 0))


def _made_nonfinite(tensor: OutputTensor, count: int) -> NotFinite:
    """The error where finite sources gave NaN or Inf: too large a number for the format, on the way or at the end."""
    from engine.methods import METHODS

    if tensor.call is not None and tensor.call.method not in METHODS:
        told = f"tensor {tensor.name!r}: your method {tensor.call.method!r} made {count} NaN or Inf of finite values."
        told = f"{told} Correct the method"
    else:
        told = f"tensor {tensor.name!r}: merging finite values made {count} NaN or Inf: the result is too large for "
        told = f"{told}{tensor.dtype}. Give a wider out_dtype or smaller weights"
    message = f"{told}, or give --allow-nan to publish them."
    return NotFinite(message, tensor=tensor.name, count=count, flagless=f"{told}.")


def _read_nonfinite(job: Shared, view: View, count: int) -> NotFinite:
    """The error for NaN or Inf in a source, with the count over the whole tensor."""
    source = job.sources[view.source]
    total = count_nonfinite(source, view.tensor)
    made = "" if total else f" after rounding to {view.rounded}"
    told = f"{source.ref}: tensor {view.tensor!r} holds {total or count} NaN or Inf{made}"
    return NotFinite(
        f"{told}; nothing is published. Repair the source, leave it out, or give --allow-nan to publish them.",
        flagless=f"{told}. Repair the source, or leave it out.",
        tensor=view.tensor,
        source=str(source.ref),
        count=total or count,
    )


def count_nonfinite(checkpoint: Checkpoint, name: str) -> int:
    """NaN and Inf in one stored tensor; 0 for formats that have none."""
    from engine.kernels import finite

    stored = checkpoint.tensors[name]
    if stored.dtype not in STORED:
        return 0
    size, total = ITEMSIZE[stored.dtype], 0
    for start in range(0, stored.elements, BLOCK):
        row: Array = np.empty(min(BLOCK, stored.elements - start), STORED[stored.dtype])
        checkpoint.read_into(name, start * size, as_bytes(row))
        total += int(finite.count_nonfinite(row))
    return total


def _as_rows(memory: Array, tensor: OutputTensor) -> Array:
    """uint8 memory, as much of it as they take, as rows [inputs, tensor.block] of stored bits."""
    elements = len(tensor.inputs) * tensor.block
    rows: Array = memory.view(STORED[tensor.row_dtype])[:elements].reshape(len(tensor.inputs), tensor.block)
    return rows
