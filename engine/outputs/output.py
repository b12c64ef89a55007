"""An output in the making: a directory beside OUT, or objects in a bucket; what is finished, and publishing it.

`Job` writes into one of these and does not know which. A directory takes any tile from anybody; a bucket takes whole
files, each streamed by one thread (engine.remote.output).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from engine.errors import PlanError
from engine.execution.execute import Work, check_memory
from engine.execution.open_files import allow_open_files
from engine.execution.records import Recorded, facts_record, tile_record
from engine.execution.sinks import FileSink
from engine.methods.contract import Facts
from engine.models.checkpoint import Checkpoint
from engine.outputs import publish
from engine.outputs.publish import Staging
from engine.planning.output_files import ShardSize
from engine.planning.plan import Plan, Tile
from engine.remote.url import Url

Finished = tuple[dict[int, list[bytes]], dict[int, Facts]]
"""Digests of the blocks of finished tiles, by tile number; facts by tensor index."""


class Output(Protocol):
    """The one output that a job makes."""

    @property
    def out(self) -> Path | Url:
        """Where it will be."""

    @property
    def directory(self) -> Path:
        """Where the files beside the tensors are written until all is published."""

    @property
    def left_in(self) -> str:
        """Where what is finished stays when a run ends early."""

    def finished(self) -> Finished:
        """What earlier runs of the same plan have finished, verified."""

    def record(self, tile: Tile, blocks: list[bytes]) -> None:
        """A tile is written."""

    def record_facts(self, index: int, facts: Facts) -> None:
        """The facts of an output tensor are measured."""

    def publish(self, weights: str) -> Path | Url:
        """Make all of it visible, last of all; `weights` is the digest of the tensors."""

    def abandon(self) -> None:
        """Remove what this run began, because it cannot lead to anything."""

    def close(self) -> None:
        """Let go of it; what is finished stays. May be called twice."""


class DirectoryOutput:
    """A directory in the making: see engine.outputs.publish."""

    def __init__(self, plan: Plan, staging: Staging) -> None:
        self.staging = staging
        self.sink = FileSink(plan, staging.directory)
        self._plan = plan

    @property
    def out(self) -> Path:
        return self.staging.out

    @property
    def directory(self) -> Path:
        return self.staging.directory

    @property
    def left_in(self) -> str:
        return self.staging.partial.name

    def finished(self) -> Finished:
        """Tiles whose journalled digests are those of the bytes on disk, and journalled facts."""
        recorded = Recorded(self._plan, self.staging.journal.records)
        self.staging.journal.records.clear()  # of a large model they are hundreds of megabytes
        return recorded.verified(self.directory, threads=Work().thread_count), recorded.facts

    def record(self, tile: Tile, blocks: list[bytes]) -> None:
        """Journal it by place, so that another tile size can resume it."""
        self.staging.journal.append(tile_record(self._plan.tensors[tile.tensor], tile, blocks))

    def record_facts(self, index: int, facts: Facts) -> None:
        """Journal them: whoever resumes must not compute an angle on another machine's libm."""
        self.staging.journal.append(facts_record(self._plan.tensors[index], facts))

    def publish(self, weights: str) -> Path:
        return self.staging.publish()

    def abandon(self) -> None:
        publish.clean(self.out)

    def close(self) -> None:
        self.sink.close()
        self.staging.close()


def default_shard_size(out: Path | Url) -> ShardSize:
    """In an object store a file that is not whole is begun anew, so files are smaller there."""
    return ShardSize(1 << 30) if isinstance(out, Url) else ShardSize()


def refuse_existing(out: Path | Url) -> None:
    """OutputExists (exit 3) where there is anything at OUT."""
    if isinstance(out, Url):
        from engine.remote.output import refuse_existing_objects

        refuse_existing_objects(out)
    else:
        publish.refuse_existing(out)


def refuse_unfit(out: Path | Url, plan: Plan, checkpoints: Mapping[Any, Checkpoint], work: Work) -> None:
    """PlanError where OUT lies in a source, or where there is not enough room or memory for what the plan makes."""
    sources = [checkpoint for checkpoint in checkpoints.values() if not checkpoint.raw]
    if isinstance(out, Url):
        from engine.remote.streams import check_memory_of_streams

        _refuse_inside_url(out, sources)
        check_memory_of_streams(plan, work)
    else:
        publish.refuse_inside(out, [checkpoint.directory for checkpoint in sources])
        publish.require_space(out, plan.bytes_written)
        check_memory(plan, work)
    allow_open_files(plan, checkpoints.values())


def open_output(out: Path | Url, plan: Plan, *, replaces: bool = False) -> Output:
    """Begin or resume the output of this plan: see `Staging.open` and `BucketOutput.open` for what they raise."""
    if isinstance(out, Url):
        from engine.remote.output import BucketOutput

        return BucketOutput.open(out, plan)
    staging = Staging.open(out, plan.digest, plan.describe, replaces=replaces)
    try:
        return DirectoryOutput(plan, staging)
    except BaseException:  # a full disk: another try must not find our own lock
        staging.close()
        raise


def _refuse_inside_url(out: Url, sources: Iterable[Checkpoint]) -> None:
    for source in sources:
        place = source.identity.get("url", "")
        if place and f"{out}/".startswith(f"{place}/"):
            raise PlanError(f"{out}: lies inside the source {place}. Name an output outside of it.")
