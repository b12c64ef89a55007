"""What a merge on Ray says while it runs: rates by node, and counters for Prometheus."""

from __future__ import annotations

import socket
import urllib.request

import pytest

from cluster.merge_progress import WINDOW_S, NodeRates, line_of_nodes, watched
from cluster.merge_status import NodeCount, Status
from engine.errors import InputError

MIB = 1 << 20


def status(done: int, **nodes: int) -> Status:
    return Status(done, 100, len(nodes), {node: NodeCount(bytes_read=moved) for node, moved in nodes.items()})


def test_rates_are_those_of_the_last_seconds() -> None:
    rates = NodeRates()
    rates.rates(status(0, a=0), now=0.0)
    for second in range(1, 101):
        found = rates.rates(status(0, a=second * MIB if second < 80 else 80 * MIB, b=2 * second * MIB), now=second)
    assert found["a"] < 0.1 * MIB
    assert found["b"] == pytest.approx(2 * MIB)
    assert WINDOW_S < 20


def test_the_line_of_nodes_is_short_however_many_there_are() -> None:
    assert line_of_nodes({"a": MIB, "b": 2 * MIB}, 3) == "3 workers: b 2.0 MiB/s, a 1.0 MiB/s"
    assert line_of_nodes({}, 0) == ""
    many = line_of_nodes({f"n{number}": float(number) for number in range(300)}, 300)
    assert many.endswith(", 292 more nodes")
    assert len(many) < 200


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_prometheus_reads_the_counters_by_node_while_the_merge_runs() -> None:
    port = free_port()
    with watched("merging", quiet=True, metrics_port=port) as watch:
        watch(Status(50, 100, 2, {"alpha": NodeCount(300, 50, 2, 1, 1), "beta": NodeCount()}))
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    lines = text.splitlines()
    assert 'mergefleet_bytes_read_total{node="alpha"} 300.0' in lines
    assert 'mergefleet_bytes_written_total{node="alpha"} 50.0' in lines
    assert 'mergefleet_tiles_done_total{node="alpha"} 2.0' in lines
    assert 'mergefleet_tiles_retried_total{node="alpha"} 1.0' in lines
    assert 'mergefleet_workers_lost_total{node="beta"} 0.0' in lines
    assert "mergefleet_workers 2.0" in lines
    assert "mergefleet_output_done_bytes 50.0" in lines
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0  # nothing serves after the end


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = pytest.raises(InputError, match=rf"--metrics-port: {port}: Address already in use")
        with taken, watched("merging", quiet=True, metrics_port=port):
            pass
