"""What runs in a merge's worker processes: a plain class, made an actor where it is started.

It imports the engine only. A worker's task travels as plain data; bytes of tensors never do.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.audit import recorder
from engine.checkpoint import Checkpoint, open_checkpoints
from engine.errors import ClusterError, PlanError
from engine.execute import Hooks, Work, execute
from engine.methods.contract import Facts
from engine.model_ref import ModelRef
from engine.options import Options, default_memory
from engine.plan import Plan
from engine.planner import make_plan
from engine.recipe_reader import parse_recipe
from engine.sinks import FileSink
from engine.worker import RowPool

PROBE_WAIT_S = 5.0


@dataclass(frozen=True)
class MergeTask:
    """All that a merge worker is told: from this it makes the driver's very plan, or refuses.

    Attributes:
        recipe: as `recipe_to_dict` gives it; its relative paths start at `directory`, the driver's.
        staging: OUT.partial, which must be the same directory on every node: `probe` is the text of its file `probe`.
        plan_digest, describe: of the driver's plan.
        options: of the merge; `memory_bytes` is for one worker.
        threads: how many calls of `run` there may be at a time, each with its share of the memory.
        on_node: how many workers share the node's memory, where `options` does not say how much there is.
        far: this worker is on another node than the driver, which cannot flush what is written here to the disk.
        hub_cache: the driver's HF_HUB_CACHE, if it has one (`--transformers-cache`).
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


@dataclass(frozen=True)
class Present:
    """A worker that is ready: where it runs."""

    host: str
    pid: int


@dataclass(frozen=True)
class Made:
    """Tiles that were written: digests of their blocks by tile number, facts by tensor index, NaN and Inf counted."""

    blocks: Mapping[int, list[bytes]]
    facts: Mapping[int, Facts] = field(default_factory=dict)
    nonfinite: Mapping[tuple[str, str], int] = field(default_factory=dict)


class MergeWorker:
    """Makes tiles of one output. `run` may be called from several threads at a time, after `prepare` has returned."""

    def __init__(self, task: MergeTask) -> None:
        self._task = task
        self._host = socket.gethostname()
        self._plan: Plan
        self._checkpoints: dict[ModelRef, Checkpoint]
        self._sink: FileSink
        self._pool = RowPool()

    def prepare(self) -> Present:
        """Open sources and output, make the plan.

        Raises:
            ClusterError: this node does not see the driver's files; names node and path.
            PlanError: the memory is too small for the threads.
        """
        task = self._task
        if Path(task.directory).is_dir():
            os.chdir(task.directory)
        if task.hub_cache is not None:
            os.environ["HF_HUB_CACHE"] = task.hub_cache
        check_shared(task.staging, task.probe, what="OUT")
        recipe = parse_recipe(task.recipe, origin=task.origin)
        self._checkpoints = open_checkpoints(recipe.opened)
        self._plan = make_plan(recipe, self._checkpoints, task.options)
        self._check_plan()
        self._check_memory()
        self._check_files()
        self._sink = FileSink(self._plan, task.staging / "out")
        return Present(self._host, os.getpid())

    def run(self, tiles: Sequence[int], facts: Mapping[int, Facts]) -> Made:
        """Make these tiles in this thread; where `facts` has no entry for a tensor, all its tiles must be here."""
        options, measured = self._task.options, dict[int, Facts]()
        executed = execute(
            self._plan,
            self._checkpoints,
            self._sink,
            work=Work(
                threads=1,
                memory_bytes=self._memory_bytes // self._task.threads,
                arithmetic=options.arithmetic,
                tiles=tiles,
                facts=facts,
                allow_nonfinite=options.allow_nonfinite,
                pool=self._pool,
            ),
            hooks=Hooks(on_facts=measured.__setitem__, on_start=recorder(options.audit, self._plan)),
        )
        if self._task.far:
            self._flush({self._plan.tensors[self._plan.tiles[number].tensor].file for number in tiles})
        return Made(executed.blocks, measured, executed.nonfinite)

    @property
    def _memory_bytes(self) -> int:
        return self._task.options.memory_bytes or default_memory() // self._task.on_node

    def _check_plan(self) -> None:
        plan, task = self._plan, self._task
        if plan.digest == task.plan_digest:
            return
        keys = sorted({*plan.describe, *task.describe})
        changed = [key for key in keys if plan.describe.get(key) != task.describe.get(key)]
        raise ClusterError(
            f"node {self._host}: does not see what the driver sees: {', '.join(changed) or 'another mergefleet'} "
            "differs. Every node needs the same files (with the same times of change) and the same version.",
            node=self._host,
            changed=changed,
        )

    def _check_memory(self) -> None:
        needed = self._plan.peak_bytes(1) * self._task.threads
        if needed > self._memory_bytes:
            raise PlanError(
                f"node {self._host}: memory budget of {self._memory_bytes:_} bytes is too small: "
                f"{self._task.threads} threads of a worker need {needed:_} bytes for this recipe. "
                f"Give --memory {-(-needed >> 20)}MiB, or fewer --threads."
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
