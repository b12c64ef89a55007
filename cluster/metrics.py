"""What a running merge serves to Prometheus: counters by node, from the driver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING

from cluster.merge_status import NodeCount, Status, Watch
from engine.errors import InputError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

COUNTERS = {
    "bytes_read": "Bytes of the sources that were read, each pass counted",
    "bytes_written": "Bytes of the output that were written",
    "tiles_done": "Tiles that were written and journalled",
    "tiles_retried": "Tiles that were in hand when a worker failed, and were given out again",
    "workers_lost": "Workers that died or were given up",
}
assert list(COUNTERS) == [field.name for field in fields(NodeCount)]


class Collector:
    """The latest status, in Prometheus' words."""

    def __init__(self) -> None:
        self._status = Status(0, 0, 0)

    def watch(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        status = self._status
        for name, meaning in COUNTERS.items():
            family = CounterMetricFamily(f"mergefleet_{name}", f"{meaning}.", labels=["node"])
            for node, count in list(status.nodes.items()):
                family.add_metric([node], getattr(count, name))
            yield family
        yield GaugeMetricFamily("mergefleet_workers", "Workers there are now.", status.workers)
        yield GaugeMetricFamily("mergefleet_output_bytes", "Bytes of the output that is being made.", status.total)
        yield GaugeMetricFamily("mergefleet_output_done_bytes", "Bytes of it that are done.", status.done)


@contextmanager
def served(port: int) -> Iterator[Watch]:
    """Serve metrics on `port`, on all addresses of this machine, for the time of a `with` block.

    Numbers and names of nodes only. InputError where the port is taken.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry, collector = CollectorRegistry(), Collector()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, registry=registry)
    except OSError as error:
        raise InputError(f"--metrics-port: {port}: {error.strerror}. Name another port.") from error
    try:
        yield collector.watch
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
