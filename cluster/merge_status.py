"""How far a merge on Ray is, by node: what progress bars and Prometheus show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from engine.planning.plan import Plan
from engine.tensorfile.header import ITEMSIZE


@dataclass
class NodeCount:
    """What a node has done since this run began; of tiles, `retried` were in hand when something there failed."""

    bytes_read: int = 0
    bytes_written: int = 0
    tiles_done: int = 0
    tiles_retried: int = 0
    workers_lost: int = 0


@dataclass(frozen=True)
class Status:
    """Bytes of the output: done (by earlier runs, too) of total; how many workers there are; counts by node."""

    done: int
    total: int
    workers: int
    nodes: Mapping[str, NodeCount] = field(default_factory=dict)


Watch = Callable[[Status], None]


class Tally:
    """Counts one job, by node into `nodes` (which may hold counts of the stages before), and tells `watch`."""

    def __init__(
        self, plan: Plan, done: Collection[int], nodes: defaultdict[str, NodeCount], watch: Watch | None
    ) -> None:
        self._plan = plan
        self._watch = watch
        self._nodes = nodes
        self._total = plan.total_size
        self._done = sum(self._nbytes(number) for number in done)

    def made(self, node: str, number: int) -> None:
        """A tile is written and journalled."""
        nbytes = self._nbytes(number)
        self._done += nbytes
        self._nodes[node].bytes_written += nbytes
        self._nodes[node].tiles_done += 1

    def read(self, node: str, nbytes: int) -> None:
        self._nodes[node].bytes_read += nbytes

    def retried(self, node: str, tiles: int) -> None:
        self._nodes[node].tiles_retried += tiles

    def lost(self, node: str) -> None:
        self._nodes[node].workers_lost += 1

    def tell(self, workers: int) -> None:
        if self._watch is not None:
            self._watch(Status(self._done, self._total, workers, self._nodes))

    def _nbytes(self, number: int) -> int:
        tile = self._plan.tiles[number]
        tensor = self._plan.tensors[tile.tensor]
        elements = min(tile.count * tensor.block, tensor.elements - tile.first * tensor.block)
        return max(0, elements) * ITEMSIZE[tensor.dtype]
