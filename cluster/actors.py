"""What runs in a merge's worker processes: a plain class, made an actor where it is started.

It imports the engine only. A worker's task travels as plain data; bytes of tensors never do.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.locality import near_files
from engine.audit import recorder
from engine.device import choose_device
from engine.errors import ClusterError, MergefleetError, PlanError, SourceError
from engine.execution.execute import Executed, Hooks, Work, execute, memory_advice
from engine.execution.shares import measure_share
from engine.execution.sinks import FileSink
from engine.execution.worker import RowPool
from engine.methods.contract import Array, Facts
from engine.models.checkpoint import Checkpoint, open_checkpoints
from engine.planning.options import Options, default_memory
from engine.planning.plan import Plan, stream_bytes
from engine.planning.planner import make_plan
from engine.recipes.model_ref import ModelRef
from engine.recipes.reader import parse_recipe

if TYPE_CHECKING:
    from engine.remote.output import BucketOutput

PROBE_WAIT_S = 5.0
BATCH_BYTES = 32 << 20
"""Output between two looks whether to go on; small tensors are made many at a time, because a look is not free."""


@dataclass(frozen=True)
class MergeTask:
    """All that a merge worker is told: from this it makes the driver's very plan, or refuses.

    Attributes:
        recipe: as `recipe_to_dict` gives it; its relative paths start at `directory`, the driver's.
        staging: OUT.partial, which must be the same directory on every node: `probe` is the text of its file `probe`.
        url: where the output goes in an object store, as whole files; None: into `staging`, tile by tile.
        plan_digest, describe: of the driver's plan.
        options: of the merge; `memory_bytes` is for one worker.
        threads: how many calls of `run` and `measure` there may be at a time, each with its share of the memory.
        on_node: how many workers share the node's memory, where `options` does not say how much there is.
        far: this worker is on another node than the driver, which cannot flush what is written here to the disk.
        hub_cache: the driver's HF_HUB_CACHE, if it has one (`--transformers-cache`).
        own_process: the worker is alone in its process, and may say what a SIGTERM means there.
    """

    recipe: Mapping[str, Any]
    origin: str
    directory: str
    staging: Path
    probe: str
    plan_digest: str
    describe: Mapping[str, str]
    options: Options
    threads: int
    on_node: int
    far: bool
    hub_cache: str | None = None
    url: str | None = None
    own_process: bool = False


@dataclass(frozen=True)
class Present:
    """A worker that is ready: where it runs, and which files of the sources lie on a disk of its node."""

    host: str
    pid: int
    near: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Failed:
    """What a worker failed at and lived: the tiles (none: what it measured), its last words, our own error if it is."""

    tiles: tuple[int, ...]
    said: str
    error: MergefleetError | None = None


@dataclass(frozen=True)
class Made:
    """What a call has made, all of it or less.

    Attributes:
        blocks: digests of the blocks of tiles that were written, by tile number.
        facts: by tensor index.
        nonfinite: NaN and Inf counted, by (source, tensor).
        partial: what `measure` was asked for.
        bytes_read: of the sources.
        leaving: this worker was asked to go, and will make nothing more.
        failed: why there is less.
    """

    blocks: Mapping[int, list[bytes]] = field(default_factory=dict)
    facts: Mapping[int, Facts] = field(default_factory=dict)
    nonfinite: Mapping[tuple[str, str], int] = field(default_factory=dict)
    partial: Array | None = None
    bytes_read: int = 0
    leaving: bool = False
    failed: Failed | None = None


class MergeWorker:
    """Makes tiles of one output. After `prepare` everything else may be called from several threads at a time."""

    def __init__(self, task: MergeTask) -> None:
        self._task = task
        self._host = socket.gethostname()
        self._plan: Plan
        self._checkpoints: dict[ModelRef, Checkpoint]
        self._sink: FileSink
        self._bucket: BucketOutput | None = None
        self._pool = RowPool()
        self._leaving = threading.Event()
        self._dropped: set[int] = set()
        if task.own_process and threading.current_thread() is threading.main_thread():
            # whoever takes this node away (Kubernetes, spot machines) says so first, and the tile at hand gets ready
            signal.signal(signal.SIGTERM, lambda number, frame: self._leaving.set())

    def prepare(self) -> Present:
        """Open sources and output, make the plan.

        Raises:
            ClusterError: this node does not see the driver's files, or would make other bits; names node and path.
            PlanError: the memory is too small for the threads.
        """
        task = self._task
        if Path(task.directory).is_dir():
            os.chdir(task.directory)
        if task.hub_cache is not None:
            os.environ["HF_HUB_CACHE"] = task.hub_cache
        if task.url is None:
            check_shared(task.staging, task.probe, what="OUT")
        recipe = parse_recipe(task.recipe, origin=task.origin)
        try:
            self._checkpoints = open_checkpoints(recipe.opened, stream=task.options.stream)
        except SourceError as error:
            raise ClusterError(
                f"node {self._host}: {error.message} The driver sees it: every node needs the same files.",
                node=self._host,
            ) from error
        self._plan = make_plan(recipe, self._checkpoints, task.options)
        self._check_plan()
        self._check_memory()
        self._open_output()
        self._on_start = recorder(task.options.audit, self._plan)
        return Present(self._host, os.getpid(), near_files(self._checkpoints.values()))

    def here(self) -> None:
        """A word from this worker that it is alive."""

    def leave(self) -> None:
        """Make nothing more: calls return with what is finished as soon as the tile at hand is."""
        self._leaving.set()

    def drop(self, errand: int) -> None:
        """Somebody else was faster: the call with this number returns as soon as the tile at hand is finished."""
        self._dropped.add(errand)

    def run(self, errand: int, units: Sequence[tuple[int, ...]], facts: Mapping[int, Facts]) -> Made:
        """Make these tiles in this thread, unit by unit.

        All tiles of a tensor whose facts are not in `facts` must be one unit. Foreseen errors are raised; those of
        reading, which other nodes may not have, and those that nobody foresaw are in what is returned.
        """
        blocks: dict[int, list[bytes]] = {}
        measured: dict[int, Facts] = {}
        nonfinite: Counter[tuple[str, str]] = Counter()
        bytes_read, failed = 0, None
        for batch in _batches(self._plan, units):
            if self._leaving.is_set() or errand in self._dropped:
                break
            tiles = [number for unit in batch for number in unit]
            try:
                made = self.make(tiles, facts)
            except Exception as error:  # noqa: BLE001  the outermost frame: what is finished must not be lost with it
                failed = _failure(tuple(tiles), error)
                break
            blocks.update(made.blocks)
            measured.update(made.facts)
            nonfinite.update(made.nonfinite)
            bytes_read += sum(self._bytes_read(unit, facts) for unit in batch)
        return Made(blocks, measured, nonfinite, bytes_read=bytes_read, leaving=self._leaving.is_set(), failed=failed)

    def measure(self, errand: int, share: tuple[int, int, range], facts: Facts) -> Made:
        """The partial of (tensor, stage, blocks), in this thread; errors as in `run`."""
        if self._leaving.is_set() or errand in self._dropped:
            return Made(leaving=self._leaving.is_set())
        index, _, blocks = share
        tensor = self._plan.tensors[index]
        try:
            partial = measure_share(self._plan, self._checkpoints, share, facts=facts, work=self._work())
        except Exception as error:  # noqa: BLE001  the outermost frame
            return Made(failed=_failure((), error))
        bytes_read = tensor.bytes_read * len(blocks) // max(1, tensor.blocks)
        return Made(partial=partial, bytes_read=bytes_read, leaving=self._leaving.is_set())

    def make(self, tiles: Sequence[int], facts: Mapping[int, Facts]) -> Made:
        """Make these tiles, and flush them where the driver cannot."""
        measured = dict[int, Facts]()
        hooks = Hooks(on_facts=measured.__setitem__, on_start=self._on_start)
        if self._bucket is not None:
            executed = self._make_files(tiles, facts, hooks)
            return Made(executed.blocks, measured, executed.nonfinite)
        executed = execute(
            self._plan, self._checkpoints, self._sink, work=self._work(tiles=tiles, facts=facts), hooks=hooks
        )
        if self._task.far:
            self._flush({self._plan.tensors[self._plan.tiles[number].tensor].file for number in tiles})
        return Made(executed.blocks, measured, executed.nonfinite)

    def _make_files(self, tiles: Sequence[int], facts: Mapping[int, Facts], hooks: Hooks) -> Executed:
        """Make the files of these tiles, and stream them to the bucket: who is cut off leaves nothing half there."""
        from engine.remote.streams import FileMaker

        assert self._bucket is not None
        return FileMaker(self._bucket, self._plan, self._checkpoints, self._work(facts=facts), hooks).make_all(tiles)

    def _open_output(self) -> None:
        if self._task.url is None:
            self._check_files()
            self._sink = FileSink(self._plan, self._task.staging / "out")
            return
        from engine.remote.output import BucketOutput
        from engine.remote.url import parse_url

        self._bucket = BucketOutput.join(parse_url(self._task.url), self._plan)

    def _work(self, **more: Any) -> Work:
        options = self._task.options
        return Work(
            threads=1,
            memory_bytes=self._memory_bytes // self._task.threads,
            arithmetic=options.arithmetic,
            device=choose_device(options.device),
            allow_nonfinite=options.allow_nonfinite,
            pool=self._pool,
            **more,
        )

    @property
    def _memory_bytes(self) -> int:
        return self._task.options.memory_bytes or default_memory() // self._task.on_node

    def _bytes_read(self, unit: Sequence[int], facts: Mapping[int, Facts]) -> int:
        """What making a unit has read: one pass, and those that measure, unless all rows were held."""
        counts = Counter[int]()  # a unit that is a file has several tensors
        for number in unit:
            counts[self._plan.tiles[number].tensor] += self._plan.tiles[number].count
        total = 0
        for index, blocks in counts.items():
            tensor = self._plan.tensors[index]
            total += tensor.bytes_read * blocks // max(1, tensor.blocks)
            held = tensor.blocks * tensor.rows_nbytes + stream_bytes(tensor, self._plan.method)
            if index not in facts and held > self._memory_bytes // self._task.threads:
                total += self._plan.passes[index].as_a_rule * tensor.bytes_read
        return total

    def _check_plan(self) -> None:
        plan, task = self._plan, self._task
        if plan.digest == task.plan_digest:
            return
        keys = sorted({*plan.describe, *task.describe})
        changed = [key for key in keys if plan.describe.get(key) != task.describe.get(key)]
        said = [f"{key} is {plan.describe.get(key)} here, {task.describe.get(key)} there" for key in changed]
        raise ClusterError(
            f"node {self._host}: does not see what the driver sees: {'; '.join(said) or 'another mergefleet'}. Every "
            "node needs the same files (with the same times of change), the same version, and for methods that are "
            "not exact the same arithmetic (docs/bits.md).",
            node=self._host,
            changed=changed,
        )

    def _check_memory(self) -> None:
        if self._task.url is not None:
            from engine.remote.streams import check_memory_of_streams

            work = replace(self._work(), threads=self._task.threads, memory_bytes=self._memory_bytes)
            check_memory_of_streams(self._plan, work)
            return
        needed = self._plan.peak_bytes(1) * self._task.threads
        if needed > self._memory_bytes:
            raise PlanError(
                f"node {self._host}: memory budget of {self._memory_bytes:_} bytes is too small: "
                f"{self._task.threads} threads of a worker need {needed:_} bytes for this recipe. "
                f"{memory_advice(needed, self._task.threads)}"
            )

    def _check_files(self) -> None:
        """The driver made the files; a worker that made one would write where nobody looks, or over others' work."""
        for file in self._plan.files:
            path = self._task.staging / "out" / file.name
            size = path.stat().st_size if path.is_file() else None
            if size != file.nbytes:
                raise ClusterError(
                    f"node {self._host}: {path} has {size} bytes here, {file.nbytes} were reserved by the driver.",
                    node=self._host,
                    path=str(path),
                )

    def _flush(self, files: set[int]) -> None:
        """To the disk, or to the file server, before anybody is told that it is written: this node may be gone soon."""
        for index in files:
            fd = os.open(self._task.staging / "out" / self._plan.files[index].name, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _batches(plan: Plan, units: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Neighbouring units, as many as make BATCH_BYTES."""
    batch: list[tuple[int, ...]] = []
    nbytes = 0
    for unit in units:
        tensor = plan.tensors[plan.tiles[unit[0]].tensor]
        batch.append(unit)
        nbytes += tensor.nbytes * sum(plan.tiles[number].count for number in unit) // max(1, tensor.blocks)
        if nbytes >= BATCH_BYTES:
            yield batch
            batch, nbytes = [], 0
    if batch:
        yield batch


def _failure(tiles: tuple[int, ...], error: Exception) -> Failed:
    """What to report of an error that another node may not have; any other foreseen one is raised."""
    if isinstance(error, SourceError):
        return Failed(tiles, error.message, error)
    if isinstance(error, MergefleetError):
        raise error
    traceback.print_exception(error)  # the end of the worker's log
    return Failed(tiles, f"{type(error).__name__}: {error}")


def check_shared(directory: Path, probe: str, *, what: str) -> None:
    """ClusterError unless `directory` is the driver's here, which wrote `probe` into its file `probe`."""
    path = directory / "probe"
    deadline = time.monotonic() + PROBE_WAIT_S
    while not path.is_file() or path.read_text() != probe:  # a network file system may show a new file late
        if time.monotonic() > deadline:
            host = socket.gethostname()
            raise ClusterError(
                f"node {host}: {path} is not the driver's: {what} must lie on a file system that all nodes share, "
                "under the same path on each.",
                node=host,
                path=str(path),
            )
        time.sleep(0.2)
