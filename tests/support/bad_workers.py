"""Merge workers with a fault, importable by Ray's worker processes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.actors import Made, MergeTask, MergeWorker, Present
from engine.errors import ClusterError
from engine.methods.contract import Facts


class DyingWorker(MergeWorker):
    """Says its last words and dies, whatever it is asked to make."""

    def run(self, tiles: Sequence[int], facts: Mapping[int, Facts]) -> Made:
        sys.stderr.write("these are my last words\n")
        sys.stderr.flush()
        os._exit(7)


class OnceStoppedWorker(MergeWorker):
    """The first one that is asked for anything stops (as on a node that hangs), and is never heard of again."""

    def __init__(self, task: MergeTask) -> None:
        super().__init__(task)
        self._note = task.staging.parent / "stopped.pid"

    def run(self, tiles: Sequence[int], facts: Mapping[int, Facts]) -> Made:
        try:
            with self._note.open("x") as note:
                note.write(str(os.getpid()))
        except FileExistsError:
            return super().run(tiles, facts)
        os.kill(os.getpid(), signal.SIGSTOP)
        return super().run(tiles, facts)


class BlindWorker(MergeWorker):
    """As on a node that does not mount the output's file system."""

    def prepare(self) -> Present:
        path = Path("/mnt/elsewhere/out.partial/probe")
        raise ClusterError(f"node blind: {path} is not the driver's.", node="blind", path=str(path))


class UnmountedWorker(MergeWorker):
    """Fails in a way that nobody foresaw."""

    def run(self, tiles: Sequence[int], facts: Mapping[int, Facts]) -> Made:
        raise OSError(5, "Input/output error")
