"""Whole output files, each made by one thread in the order of its bytes and streamed to the bucket meanwhile.

execute(one thread, the tiles of one file) → FileStream.write → pieces → parts of a multipart upload
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from engine import failpoints
from engine.errors import MergefleetError, PlanError
from engine.execution.execute import Executed, Hooks, Work, execute, memory_advice
from engine.methods.contract import Array
from engine.models.checkpoint import Checkpoint
from engine.models.views import as_bytes
from engine.planning.plan import OutputFile, OutputTensor, Plan, Tile
from engine.recipes.recipe import ModelRef
from engine.remote.bucket import PARALLEL_PARTS
from engine.remote.output import BucketOutput
from engine.tensorfile.header import ITEMSIZE

if TYPE_CHECKING:
    from engine.outputs.job import Job, Progress

PART_BYTES = 8 << 20
_MAX_PARTS = 9000  # S3 takes 10,000
_PIECE_BYTES = 1 << 20
_QUEUED = 4
_ATTEMPTS = 3  # at one file, beside those that obstore makes at each of its parts
_ALIVE_S = 1.0


def part_bytes(nbytes: int) -> int:
    """Bytes of a part of a file of this size: a function of the plan alone, so that every attempt gets one ETag."""
    return max(PART_BYTES, -(-nbytes // _MAX_PARTS >> 20) << 20)


def stream_overhead_bytes(file: OutputFile) -> int:
    """What one stream holds beside the merge's own: pieces that wait, the part that fills, parts on their way."""
    return _QUEUED * _PIECE_BYTES + (1 + PARALLEL_PARTS) * part_bytes(file.nbytes)


def check_memory_of_streams(plan: Plan, work: Work) -> None:
    """PlanError with the figure it needs, where the budget cannot hold as many streams as there are threads."""
    streams = min(work.thread_count, len(plan.files))
    needed = streams * (plan.peak_bytes(1) + max(map(stream_overhead_bytes, plan.files)))
    if needed > work.memory_bytes:
        raise PlanError(
            f"memory budget of {work.memory_bytes:_} bytes is too small: "
            f"{'an upload needs' if streams == 1 else f'{streams} uploads at a time need'} {needed:_} bytes for this "
            f"recipe. {memory_advice(needed, streams)}"
        )


class FileStream:
    """A sink for the blocks of one file, which must come in the order of their bytes."""

    def __init__(self, output: BucketOutput, file: OutputFile, stopped: Callable[[], bool]) -> None:
        self._file = file
        self._stopped = stopped
        self._position = 0
        self._pieces: queue.Queue[bytes | BaseException | None] = queue.Queue(_QUEUED)
        self._error: MergefleetError | None = None
        self._uploaded = False
        self._output = output
        self._thread = threading.Thread(target=self._upload, name=f"upload {file.name}", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """What every file begins with."""
        self._send(self._file.header)

    def write(self, index: int, tensor: OutputTensor, block: int, data: Array) -> None:
        offset = tensor.offset + block * tensor.block * ITEMSIZE[tensor.dtype]
        if offset != self._position:
            raise MergefleetError(
                f"{self._file.name}: byte {offset:_} of tensor {tensor.name!r} came where byte {self._position:_} was "
                "expected: this is an error of mergefleet's."
            )
        self._send(as_bytes(data))

    def finish(self) -> None:
        """Complete the upload; raises what it failed of."""
        if self._position != self._file.nbytes:
            raise MergefleetError(f"{self._file.name}: {self._position} bytes were made of {self._file.nbytes}.")
        self._output.refuse_fenced()  # the last moment: what comes now is to become visible
        self._put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        if not self._uploaded:
            raise MergefleetError(f"{self._output.out}/{self._file.name}: the upload ended early.", transient=True)

    def abort(self) -> None:
        """End the upload so that nothing becomes visible."""
        self._put(MergefleetError("the upload was given up."))
        self._thread.join()

    def _send(self, data: bytes | memoryview) -> None:
        """Copies of the data, because the memory that it lies in is used again."""
        self._position += len(data)
        for start in range(0, len(data), _PIECE_BYTES):
            failpoints.reach("upload.piece")
            self._put(bytes(data[start : start + _PIECE_BYTES]))
            if self._error is not None:
                raise self._error
            if self._stopped():
                raise MergefleetError("stopped, because another thread failed.")

    def _put(self, piece: bytes | BaseException | None) -> None:
        while self._thread.is_alive():
            try:
                self._pieces.put(piece, timeout=_ALIVE_S)
                return
            except queue.Full:  # a slow network, or an upload that has just failed
                continue

    def _taken(self) -> Iterator[bytes]:
        while (piece := self._pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def _upload(self) -> None:
        try:
            size = part_bytes(self._file.nbytes)
            self._output.bucket.stream(self._file.name, self._taken(), part_bytes=size)
            self._uploaded = True
        except MergefleetError as error:
            self._error = error


@dataclass(frozen=True)
class FileMaker:
    """Makes whole files of one output, each in the thread that asks for it.

    `work` says with what memory for each, and which facts are known; `stopped` ends a file in the middle.
    """

    output: BucketOutput
    plan: Plan
    checkpoints: Mapping[ModelRef, Checkpoint]
    work: Work
    hooks: Hooks = field(default_factory=Hooks)
    stopped: Callable[[], bool] = lambda: False

    def make(self, file: int) -> Executed:
        """Make, upload and record file number `file`, unless it is recorded by now.

        An upload that breaks is begun anew, a few times.

        Raises what `execute` does, and MergefleetError where the store does not take it.
        """
        known = self.output.finished_file(file)
        if known:
            return Executed(known, {})
        hooks, attempts = _once(self.hooks), 0
        while True:
            try:
                return self._stream(file, hooks)
            except MergefleetError as error:
                attempts += 1
                if attempts == _ATTEMPTS or not error.facts.get("transient"):
                    raise

    def make_all(self, tiles: Iterable[int]) -> Executed:
        """The files that these tiles belong to, all of them whole, one after another."""
        wanted = sorted({self.plan.tensors[self.plan.tiles[number].tensor].file for number in tiles})
        return _together({}, [self.make(file) for file in wanted])

    def _stream(self, file: int, hooks: Hooks) -> Executed:
        plan = self.plan
        tiles = [tile.number for tile in plan.tiles if plan.tensors[tile.tensor].file == file]
        memory = self.work.memory_bytes - stream_overhead_bytes(plan.files[file])
        alone = replace(self.work, threads=1, memory_bytes=memory, tiles=tiles, done={})
        stream = FileStream(self.output, plan.files[file], self.stopped)
        try:
            stream.begin()
            executed = execute(plan, self.checkpoints, stream, work=alone, hooks=hooks)
            stream.finish()
        except BaseException:
            stream.abort()
            raise
        failpoints.reach("upload.done")
        self.output.record_file(file, executed)
        return executed


def stream_here(job: Job, progress: Progress | None = None) -> Executed:
    """The backend of this process for an output in an object store: a thread per file."""
    plan, work, stop = job.plan, job.work(), threading.Event()
    assert isinstance(job.output, BucketOutput)
    done = {plan.tiles[number].tensor for number in job.done}
    missing = sorted({tensor.file for index, tensor in enumerate(plan.tensors) if index not in done})
    streams = max(1, min(work.thread_count, len(missing)))
    share = replace(work, memory_bytes=work.memory_bytes // streams)
    hooks = _one_at_a_time(job.hooks(progress))
    maker = FileMaker(job.output, plan, job.checkpoints, share, hooks, stop.is_set)
    with ThreadPoolExecutor(streams, thread_name_prefix="stream") as pool:
        futures = [pool.submit(maker.make, file) for file in missing]
        try:
            ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
            made = [future.result() for future in ended]
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise
    return _together(job.done, made)


def _together(done: Mapping[int, list[bytes]], made: Sequence[Executed]) -> Executed:
    blocks, nonfinite = dict(done), dict[tuple[str, str], int]()
    for executed in made:
        blocks |= executed.blocks
        nonfinite |= executed.nonfinite
    return Executed(blocks, nonfinite)


def _one_at_a_time(hooks: Hooks) -> Hooks:
    """Hooks for several executions at once."""
    lock = threading.Lock()

    def locked(call: Callable[..., None]) -> Callable[..., None]:
        def called(*arguments: Any) -> None:
            with lock:
                call(*arguments)

        return called

    return replace(hooks, on_tile=locked(hooks.on_tile), on_facts=locked(hooks.on_facts))


def _once(hooks: Hooks) -> Hooks:
    """Hooks that are told of no tile twice, where a file is made twice."""
    told: set[int] = set()

    def on_tile(tile: Tile, blocks: list[bytes]) -> None:
        if tile.number not in told:
            told.add(tile.number)
            hooks.on_tile(tile, blocks)

    return replace(hooks, on_tile=on_tile)
