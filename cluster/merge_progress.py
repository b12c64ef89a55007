"""What a merge on Ray shows while it runs: a bar with rate, time left and a line of nodes; and Prometheus metrics."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from cluster.merge_status import Status, Watch
from cluster.output import human_bytes

WINDOW_S = 15.0
SHOWN_S = 0.25
_SHOWN = 8


class NodeRates:
    """Bytes per second that each node has read and written lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Mapping[str, int]]] = deque()

    def rates(self, status: Status, *, now: float) -> dict[str, float]:
        """The rates over the last WINDOW_S; 0 for nodes that have done nothing meanwhile."""
        bytes_now = {node: count.bytes_read + count.bytes_written for node, count in status.nodes.items()}
        self._seen.append((now, bytes_now))
        while len(self._seen) > 2 and now - self._seen[1][0] > WINDOW_S:
            self._seen.popleft()
        since, before = self._seen[0]
        return {node: (moved - before.get(node, 0)) / max(1e-3, now - since) for node, moved in bytes_now.items()}


def line_of_nodes(rates: Mapping[str, float], workers: int) -> str:
    """`3 workers: a 1.2 GiB/s, b 0.9 GiB/s`, the fastest nodes first."""
    ordered = sorted(rates.items(), key=lambda rate: (-rate[1], rate[0]))
    shown = [f"{node} {human_bytes(rate)}/s" for node, rate in ordered[:_SHOWN]]
    more = [f"{len(ordered) - _SHOWN} more nodes"] if len(ordered) > _SHOWN else []
    return f"{workers} worker{'s' * (workers != 1)}: {', '.join(shown + more)}" if shown else ""


@contextmanager
def watched(title: str, *, quiet: bool, metrics_port: int | None) -> Iterator[Watch]:
    """What to call with every status: it moves the bar, unless `quiet` or stderr is no terminal, and the metrics."""
    with ExitStack() as stack:
        watchers: list[Watch] = []
        if metrics_port is not None:
            from cluster.metrics import served

            watchers.append(stack.enter_context(served(metrics_port)))
        if not quiet and sys.stderr.isatty():
            watchers.append(stack.enter_context(_bar(title)))

        def tell(status: Status) -> None:
            for watch in watchers:
                watch(status)

        yield tell


@contextmanager
def _bar(title: str) -> Iterator[Watch]:
    """A bar with rate and time left, and below it the nodes."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from cluster.output import byte_bar

    bar, rates = byte_bar(), NodeRates()
    task = bar.add_task(title, total=None)
    shown = 0.0
    with Live(bar, console=Console(stderr=True), refresh_per_second=4) as live:

        def watch(status: Status) -> None:
            nonlocal shown
            now = time.monotonic()
            bar.update(task, completed=status.done, total=status.total)
            if now - shown >= SHOWN_S or status.done == status.total:
                shown = now
                line = line_of_nodes(rates.rates(status, now=now), status.workers)
                live.update(Group(bar, Text(line, style="dim", overflow="ellipsis", no_wrap=True)))

        yield watch
