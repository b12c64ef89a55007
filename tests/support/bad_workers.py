"""Merge workers with a fault, importable by Ray's worker processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cluster.actors import Made, MergeTask, MergeWorker, Present
from engine.errors import ClusterError
from engine.methods.contract import Facts


class DyingWorker(MergeWorker):
    """Says its last words and dies when it is asked to make tile 3."""

    def make(self, tiles: Sequence[int], facts: Mapping[int, Facts]) -> Made:
        if 3 in tiles:
            sys.stderr.write("these are my last words\n")
            sys.stderr.flush()
            os._exit(7)
        return super().make(tiles, facts)


class OnceStoppedWorker(MergeWorker):
    """The first one that is asked for anything stops (as on a node that hangs), and is never heard of again."""

    def __init__(self, task: MergeTask) -> None:
        super().__init__(task)
        self._note = task.staging.parent / "stopped.pid"

    def make(self, tiles: Sequence[int], facts: Mapping[int, Facts]) -> Made:
        try:
            with self._note.open("x") as note:
                note.write(str(os.getpid()))
        except FileExistsError:
            return super().make(tiles, facts)
        os.kill(os.getpid(), signal.SIGSTOP)
        return super().make(tiles, facts)


class NeverOwnsWorker(MergeWorker):
    """Refuses to measure the giant of the torture family by itself."""

    def make(self, tiles: Sequence[int], facts: Mapping[int, Facts]) -> Made:
        for index in {self._plan.tiles[number].tensor for number in tiles}:
            large = self._plan.tensors[index].elements > 30_000_000
            assert not large or index in facts, "one worker was to measure the giant alone"
        return super().make(tiles, facts)


class BlindWorker(MergeWorker):
    """As on a node that does not mount the output's file system."""

    def prepare(self) -> Present:
        path = Path("/mnt/elsewhere/out.partial/probe")
        raise ClusterError(f"node blind: {path} is not the driver's.", node="blind", path=str(path))


class UnmountedWorker(MergeWorker):
    """Fails in a way that nobody foresaw."""

    def make(self, tiles: Sequence[int], facts: Mapping[int, Facts]) -> Made:
        raise OSError(5, "Input/output error")


class UntilJoinedWorker(MergeWorker):
    """Once OUT.happened is there, every worker stops after a batch until workers on four nodes have made something."""

    def make(self, tiles: Sequence[int], facts: Mapping[int, Facts]) -> Made:
        import ray

        made = super().make(tiles, facts)
        out = self._task.staging.with_suffix("")
        nodes = out.with_name(f"{out.name}.nodes")
        with nodes.open("a") as note:
            note.write(f"{ray.get_runtime_context().get_node_id()}\n")
        if out.with_name(f"{out.name}.happened").exists():
            _wait(lambda: len(set(nodes.read_text().split())) >= 4)
        return made


class UntilSentHomeWorker(MergeWorker):
    """On the node that OUT.drained names it stops after a batch until it is asked to leave."""

    def make(self, tiles: Sequence[int], facts: Mapping[int, Facts]) -> Made:
        import ray

        made = super().make(tiles, facts)
        out = self._task.staging.with_suffix("")
        drained = out.with_name(f"{out.name}.drained")
        if drained.exists() and drained.read_text() == ray.get_runtime_context().get_node_id():
            _wait(self._leaving.is_set)
        return made


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.02)
